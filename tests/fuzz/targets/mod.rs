//! What is fuzzed: each target takes any bytes and panics when a promise is broken.
//!
//! libFuzzer calls the targets from `tests/fuzz/fuzz_targets`; `tests/fuzz_corpus.rs` calls them with every file of
//! the corpus, on every `cargo test`. Where a checksum guards what is behind it, a part of the inputs gets the right
//! one here, since no mutation finds it.

mod calls;
mod files;
mod stored;
mod tokens;
mod typed;

/// A target's function.
pub type Target = fn(&[u8]);

/// All targets by the names of their corpora.
pub const TARGETS: [(&str, Target); 10] = [
    ("stored_record", stored::record),
    ("commit_log", stored::commit_log),
    ("snapshot", stored::snapshot),
    ("page_token", tokens::page_token),
    ("resume_token", tokens::resume_token),
    ("lane_request", typed::lane_request),
    ("email", typed::email),
    ("json_lines", files::json_lines),
    ("csv", files::csv),
    ("calls", calls::calls),
];

/// The target of a name.
pub fn target(name: &str) -> Target {
    TARGETS.iter().find(|(known, _)| *known == name).map_or_else(|| panic!("no target {name}"), |(_, target)| *target)
}

/// An input that is taken apart from its front.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// The next byte; 0 at the end.
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// The next eight bytes as a number.
    fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, _| word << 8 | u64::from(self.byte()))
    }

    /// As many bytes as the next two say, or what is left.
    fn chunk(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()) | usize::from(self.byte()) << 8;
        let (chunk, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        chunk
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A directory for one input, in memory where there is such a place.
fn scratch() -> tempfile::TempDir {
    let in_memory = std::path::Path::new("/dev/shm");
    let made = if in_memory.is_dir() { tempfile::tempdir_in(in_memory) } else { tempfile::tempdir() };
    made.expect("a directory can be made")
}
