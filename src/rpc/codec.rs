//! Messages to bytes and back.
//!
//! As tonic's own codec, but for two things: a request that cannot be decoded is the caller's mistake and not
//! an internal error, and a stored profile is sent as it is.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::error;

/// A profile that is already encoded: the stored bytes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EncodedProfile(pub Bytes);

impl Message for EncodedProfile {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        // The server only sends this type. Whoever decodes it anyway gets an empty profile.
        prost::encoding::skip_field(wire_type, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// The codec of the services: `T` goes out, `U` comes in.
#[derive(Debug)]
pub struct WireCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for WireCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for WireCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = MessageEncoder<T>;
    type Decoder = MessageDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        MessageEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageDecoder(PhantomData)
    }
}

/// Encodes responses.
#[derive(Debug)]
pub struct MessageEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for MessageEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|_| Status::internal("the response does not fit its buffer"))
    }
}

/// Decodes requests.
#[derive(Debug)]
pub struct MessageDecoder<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for MessageDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(buffer).map(Some).map_err(|_| error::malformed_request())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    #[test]
    fn a_page_of_encoded_profiles_is_a_page_of_profiles() {
        let profile = pb::Profile { id: "a".into(), email: "a@b.example".into(), ..pb::Profile::default() };
        let sent = super::super::wire::ListProfilesResponse {
            profiles: vec![profile.encode_to_vec().into(); 2],
            next_page_token: "t".into(),
        };
        let received = pb::ListProfilesResponse::decode(&sent.encode_to_vec()[..]).unwrap();
        assert_eq!(received.profiles, [profile.clone(), profile.clone()]);
        assert_eq!(received.next_page_token, "t");
        let alone = EncodedProfile(profile.encode_to_vec().into());
        assert_eq!(pb::Profile::decode(&alone.encode_to_vec()[..]).unwrap(), profile);
    }
}
