//! The answers of the lanes: stored bytes, framed.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::answer_room::Charge;
use super::at_once;
use super::message_ends::MessageEnds;
use crate::model::Record;
use crate::model::limits::MAX_PAGE_BYTES;

/// The tag of `BatchGetProfilesResponse.profiles`.
const PROFILES_TAG: u8 = 1 << 3 | 2;

/// Room for a profile of the usual size.
const USUAL_PROFILE_BYTES: usize = 448;
/// The length of a profile, which is less than 2 MiB, takes no more.
const MAX_LENGTH_BYTES: usize = 3;

/// A gRPC message as it is sent: its five-byte prefix, and its bytes, which are not copied.
#[derive(Debug)]
pub struct Message {
    prefix: [u8; 5],
    /// How much of the prefix has been taken.
    taken: u8,
    bytes: Bytes,
    /// What it is charged while it is held.
    charge: Option<Charge>,
}

impl Message {
    /// A message that is already encoded. `None` when it is too large for one.
    pub fn encoded(bytes: Bytes) -> Option<Self> {
        let length = u32::try_from(bytes.len()).ok()?.to_be_bytes();
        Some(Self { prefix: [0, length[0], length[1], length[2], length[3]], taken: 0, bytes, charge: None })
    }

    /// Charges the message for as long as it is held.
    pub fn charge(&mut self, charge: Charge) {
        self.charge = Some(charge);
    }

    /// Follows the message through its body: its bytes, and how many messages end in them. One that has a prefix of its
    /// own is a whole one; bytes that have theirs already may be any part of a body.
    pub fn follow(&self, ends: &mut MessageEnds) -> (usize, usize) {
        let ended = if self.prefix().is_empty() { ends.follow(&self.bytes) } else { 1 };
        (self.remaining(), ended)
    }

    fn prefix(&self) -> &[u8] {
        &self.prefix[usize::from(self.taken)..]
    }
}

/// A `BatchGetProfilesResponse` in the making. Each profile is copied once, from where it is cached.
#[derive(Debug)]
pub struct ProfilesMessage {
    bytes: Vec<u8>,
    is_too_large: bool,
}

impl ProfilesMessage {
    /// Without any of so many profiles.
    pub fn of(profiles: usize) -> Self {
        Self { bytes: Vec::with_capacity(profiles * USUAL_PROFILE_BYTES), is_too_large: false }
    }

    /// Adds a profile.
    pub fn push(&mut self, record: &Record) {
        let profile = record.profile_bytes();
        if self.is_too_large || self.bytes.len() + profile.len() + MAX_LENGTH_BYTES + 1 > MAX_PAGE_BYTES {
            self.is_too_large = true;
            return;
        }
        let (head, bytes) = field_head(profile.len());
        self.bytes.extend_from_slice(&head[..bytes]);
        self.bytes.extend_from_slice(profile);
    }

    /// The message. `None` when it is too large for an answer.
    pub fn finish(mut self) -> Option<Message> {
        if self.is_too_large {
            return None;
        }
        // What is charged is what there is of it.
        if self.bytes.capacity() > 2 * self.bytes.len() {
            self.bytes.shrink_to_fit();
        }
        Message::encoded(self.bytes.into())
    }
}

/// What stands before a profile of a length, and how much of it counts. prost would write it byte by byte into a vector that
/// might grow with each.
fn field_head(mut length: usize) -> ([u8; 1 + MAX_LENGTH_BYTES], usize) {
    let mut head = [0; 1 + MAX_LENGTH_BYTES];
    head[0] = PROFILES_TAG;
    let mut place = 1;
    while length >= 0x80 && place < MAX_LENGTH_BYTES {
        head[place] = length as u8 | 0x80;
        length >>= 7;
        place += 1;
    }
    head[place] = length as u8;
    (head, place + 1)
}

impl From<Bytes> for Message {
    /// Bytes that have their prefix already.
    fn from(bytes: Bytes) -> Self {
        Self { prefix: [0; 5], taken: 5, bytes, charge: None }
    }
}

impl Buf for Message {
    fn remaining(&self) -> usize {
        self.prefix().len() + self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.prefix().is_empty() { &self.bytes } else { self.prefix() }
    }

    fn advance(&mut self, count: usize) {
        let from_prefix = count.min(self.prefix().len());
        self.taken += from_prefix as u8;
        self.bytes.advance(count - from_prefix);
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [std::io::IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for part in [self.prefix(), &self.bytes] {
            if !part.is_empty() && filled < slices.len() {
                slices[filled] = std::io::IoSlice::new(part);
                filled += 1;
            }
        }
        filled
    }
}

pin_project! {
    /// The body of an answer: of the lane's own, or of the service behind.
    #[project = LaneBodyProjection]
    pub enum LaneBody<R> {
        // One message, then the trailers that say OK. Answered are the bytes of the request.
        Answer { message: Option<Message>, ended: bool, answered: usize },
        // What the service behind answered.
        Inner {
            #[pin]
            body: R,
        },
    }
}

impl<R> LaneBody<R> {
    /// A body with one message, the answer to a request of so many bytes.
    pub fn answer(message: Message, answered: usize) -> Self {
        Self::Answer { message: Some(message), ended: false, answered }
    }

    /// The bytes of the request and of the answer, if the fast lane answered and none of it was taken yet.
    pub fn lane_bytes(&self) -> Option<(usize, usize)> {
        match self {
            Self::Answer { message, answered, .. } => Some((*answered, message.as_ref().map_or(0, Buf::remaining))),
            Self::Inner { .. } => None,
        }
    }

    /// What the service behind answered, if the fast lane did not.
    pub fn inner(&self) -> Option<&R> {
        match self {
            Self::Answer { .. } => None,
            Self::Inner { body } => Some(body),
        }
    }

    /// Whether the lane answered, and not the service behind it.
    pub fn is_from_the_lane(&self) -> bool {
        matches!(self, Self::Answer { .. })
    }
}

impl<R: Default> Default for LaneBody<R> {
    fn default() -> Self {
        Self::Inner { body: R::default() }
    }
}

impl<R: Body<Data: Into<Message>>> Body for LaneBody<R> {
    type Data = Message;
    type Error = R::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Message>, R::Error>>> {
        match self.project() {
            LaneBodyProjection::Answer { message, ended, .. } => Poll::Ready(match message.take() {
                Some(message) => Some(Ok(Frame::data(message))),
                None if *ended => None,
                None => {
                    *ended = true;
                    Some(Ok(Frame::trailers(at_once::trailers())))
                }
            }),
            LaneBodyProjection::Inner { body } => body.poll_frame(cx).map_ok(|frame| frame.map_data(Into::into)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Answer { ended, .. } => *ended,
            Self::Inner { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Answer { .. } => SizeHint::default(),
            Self::Inner { body } => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_field_is_as_prost_writes_it() {
        for length in [0, 1, 127, 128, 400, 16_383, 16_384, 17_000, 2_097_151] {
            let mut expected = vec![PROFILES_TAG];
            prost::encode_length_delimiter(length, &mut expected).unwrap();
            let (head, bytes) = field_head(length);
            assert_eq!(head[..bytes], expected, "{length}");
        }
    }

    #[test]
    fn a_message_is_its_prefix_and_its_bytes_however_it_is_taken() {
        let whole = b"\0\0\0\0\x04abcd";
        for step in 1..=whole.len() {
            let mut message = Message::encoded(Bytes::from_static(b"abcd")).unwrap();
            let mut taken = Vec::new();
            while message.has_remaining() {
                let mut slices = [std::io::IoSlice::new(&[]); 2];
                let filled = message.chunks_vectored(&mut slices);
                let seen: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                assert_eq!(seen.len(), message.remaining());
                assert!(seen.starts_with(message.chunk()));
                let step = step.min(message.remaining());
                taken.extend_from_slice(&seen[..step]);
                message.advance(step);
            }
            assert_eq!(taken, whole, "{step} bytes at a time");
        }
    }
}
