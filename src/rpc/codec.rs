//! How messages become bytes and back.
//!
//! Three things differ from tonic's own codec. A message that cannot be decoded is the caller's mistake and is
//! answered so. A message of more fields than any call allows is refused before it is decoded: two bytes can ask for
//! a profile of some hundred. And a profile that leaves is already encoded: [`EncodedProfile`] stands for it.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};
use prost::{DecodeError, Message};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::error::RpcError;
use crate::model::limits::MAX_MESSAGE_FIELDS;

/// The codec of the generated services: sends `T`, receives `U`.
#[derive(Debug, Clone)]
pub struct WireCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for WireCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for WireCodec<T, U>
where
    T: Message + 'static,
    U: Message + Default + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = WireEncoder<T>;
    type Decoder = WireDecoder<U>;

    fn encoder(&mut self) -> WireEncoder<T> {
        WireEncoder(PhantomData)
    }

    fn decoder(&mut self) -> WireDecoder<U> {
        WireDecoder(PhantomData)
    }
}

/// Writes messages.
#[derive(Debug)]
pub struct WireEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for WireEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.reserve(item.encoded_len());
        item.encode_raw(buf);
        Ok(())
    }
}

/// Reads messages.
#[derive(Debug)]
pub struct WireDecoder<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for WireDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let message = buf.copy_to_bytes(buf.remaining());
        if has_too_many_fields(message.clone()) {
            return Err(RpcError::TooManyFields.into());
        }
        U::decode(message).map(Some).map_err(|error| RpcError::Malformed(error).into())
    }
}

/// Whether a message has more fields at its top level than any call allows. What cannot be read is left to the
/// decoder.
pub(super) fn has_too_many_fields(mut message: Bytes) -> bool {
    // A field takes two bytes at least.
    if message.len() <= MAX_MESSAGE_FIELDS {
        return false;
    }
    for _ in 0..MAX_MESSAGE_FIELDS {
        let Ok((tag, wire_type)) = decode_key(&mut message) else { return false };
        if skip_field(wire_type, tag, &mut message, DecodeContext::default()).is_err() {
            return false;
        }
    }
    message.has_remaining()
}

/// A `profilestore.v1.Profile` that is already encoded and is sent as it is.
///
/// It is only ever sent. Reading one skips all fields, since the services never receive it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EncodedProfile(pub Bytes);

impl Message for EncodedProfile {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, buf, ctx)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

impl std::fmt::Debug for EncodedProfile {
    /// Never shows the content, which is personal data.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EncodedProfile").field("bytes", &self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::Profile;

    #[test]
    fn an_encoded_profile_is_sent_as_it_is() {
        let profile = Profile { id: "a".into(), display_name: "Ada".into(), ..Profile::default() };
        let encoded = EncodedProfile(profile.encode_to_vec().into());
        assert_eq!(encoded.encode_to_vec(), profile.encode_to_vec());
        assert_eq!(encoded.encoded_len(), profile.encoded_len());
        assert!(!format!("{encoded:?}").contains("Ada"));
    }

    #[test]
    fn the_fields_of_a_message_are_counted_before_it_is_decoded() {
        let empty_profile = b"\x0a\x00";
        assert!(!has_too_many_fields(empty_profile.repeat(MAX_MESSAGE_FIELDS).into()));
        assert!(has_too_many_fields(empty_profile.repeat(MAX_MESSAGE_FIELDS + 1).into()));
        assert!(!has_too_many_fields(Bytes::from_static(b"\xff")), "the decoder says what is wrong with it");
    }

    #[test]
    fn an_encoded_profile_that_is_read_is_skipped() {
        let bytes = Profile { id: "a".into(), ..Profile::default() }.encode_to_vec();
        assert_eq!(EncodedProfile::decode(&bytes[..]).unwrap(), EncodedProfile::default());
    }
}
