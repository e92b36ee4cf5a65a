//! Where the messages in a request's body end, seen while the body passes.

/// How many bytes stand before each message: a flag and the message's length.
const PREFIX_BYTES: usize = 5;

/// Follows the bytes of a body.
#[derive(Debug, Default)]
pub struct MessageEnds {
    /// What has come of the prefix of the message that is under way.
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    /// What is missing of the message behind a whole prefix.
    missing: usize,
}

impl MessageEnds {
    /// Whether no message is under way.
    pub fn is_between(&self) -> bool {
        self.prefix_bytes == 0
    }

    /// Takes the next bytes of the body. Returns how many messages end in them.
    pub fn follow(&mut self, mut bytes: &[u8]) -> usize {
        let mut ended = 0;
        while !bytes.is_empty() {
            if self.prefix_bytes < PREFIX_BYTES {
                let (taken, rest) = bytes.split_at(bytes.len().min(PREFIX_BYTES - self.prefix_bytes));
                self.prefix[self.prefix_bytes..][..taken.len()].copy_from_slice(taken);
                self.prefix_bytes += taken.len();
                bytes = rest;
                if self.prefix_bytes < PREFIX_BYTES {
                    break;
                }
                let [_, length @ ..] = self.prefix;
                self.missing = u32::from_be_bytes(length) as usize;
            }
            let taken = bytes.len().min(self.missing);
            self.missing -= taken;
            bytes = &bytes[taken..];
            if self.missing == 0 {
                self.prefix_bytes = 0;
                ended += 1;
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_end_where_they_end_however_the_body_is_cut(
            lengths in proptest::collection::vec(0..40usize, 0..8),
            step in 1..50usize,
        ) {
            let mut body = Vec::new();
            let mut ends = vec![0];
            for length in &lengths {
                body.extend([&[0][..], &(*length as u32).to_be_bytes()[..], &vec![1; *length]].concat());
                ends.push(body.len());
            }
            let (mut follower, mut seen, mut place) = (MessageEnds::default(), 0, 0);
            for piece in body.chunks(step) {
                seen += follower.follow(piece);
                place += piece.len();
                prop_assert_eq!(follower.is_between(), ends.contains(&place));
                prop_assert_eq!(seen, ends.iter().filter(|end| **end != 0 && **end <= place).count());
            }
        }
    }
}
