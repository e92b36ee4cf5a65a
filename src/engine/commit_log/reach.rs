//! What a log must reach, by those who were written from it.

/// A demand on a log that is opened; the default demands nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogReach {
    /// The log was begun before, so there is at least one segment.
    pub must_exist: bool,
    /// Somebody was asked who knows how far the log had come when it was used last, and not only some time before.
    pub end_is_known: bool,
    /// The mark of the last clean close is there, and damaged. Such a log is opened, and the mark left alone; but it was closed,
    /// so its end is that of a whole group, or something is lost.
    pub mark_is_damaged: bool,
    /// The last sequence number that the log is known to have had, and who knows it, with a verb.
    known: Option<(u64, &'static str)>,
}

impl LogReach {
    /// Demands that the log reaches a sequence number, which `witness` knows of, unless it must reach further already.
    pub fn raise(&mut self, sequence: u64, witness: &'static str) {
        if self.known.is_none_or(|(known, _)| known < sequence) {
            self.known = Some((sequence, witness));
        }
    }

    /// What is wrong with a log that has segments or not and whose next sequence number is this.
    pub(super) fn misses(&self, has_segments: bool, next_sequence: u64) -> Option<String> {
        if self.must_exist && !has_segments {
            return Some("the commit log has no segments, but a store was made here before".to_owned());
        }
        let (sequence, witness) = self.known.filter(|(sequence, _)| next_sequence <= *sequence)?;
        let ends = next_sequence.saturating_sub(1);
        Some(format!(
            "the commit log ends at {ends} but {witness} at {sequence}, so acknowledged writes are missing from it"
        ))
    }
}
