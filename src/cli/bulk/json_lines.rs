//! JSON lines: one profile a line. Blank lines are left out.

use std::io::{self, Read};

use super::profile_json;
use super::window::{Found, MAX_LINE_BYTES, TORN, Window, too_long};
use crate::client::Profile;

/// Reads the next line; `None` at the end.
pub fn next<R: Read>(window: &mut Window<R>) -> io::Result<Option<Found<Profile>>> {
    let mut searched = 0;
    loop {
        let line = window.place().lines + 1;
        let unread = window.unread();
        let end = unread[searched..].iter().position(|byte| *byte == b'\n').map(|at| searched + at);
        if end.unwrap_or(unread.len()) > MAX_LINE_BYTES {
            window.skip_line(b"\n")?;
            return Ok(Some(Found { content: Err(too_long()), text: Vec::new(), line, end: window.place() }));
        }
        if end.is_none() {
            searched = unread.len();
            if window.more()? {
                continue;
            }
        }
        let text = window.unread();
        if text.is_empty() {
            return Ok(None);
        }
        let text = text[..end.unwrap_or(text.len())].to_vec();
        window.consume(text.len() + usize::from(end.is_some()));
        if text.trim_ascii().is_empty() {
            searched = 0;
            continue;
        }
        let torn = if end.is_none() { TORN } else { "" };
        let content = parse(&text).map_err(|reason| reason + torn);
        return Ok(Some(Found { content, text, line, end: window.place() }));
    }
}

fn parse(text: &[u8]) -> Result<Profile, String> {
    if let Err(error) = std::str::from_utf8(text) {
        return Err(format!("is not UTF-8 at byte {}", error.valid_up_to() + 1));
    }
    profile_json::parse(text)
}

#[cfg(test)]
mod tests {
    use super::super::window::Place;
    use super::*;

    /// Gives a few bytes at a time.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn read(text: &[u8], at_once: usize) -> Vec<(u64, Result<String, String>, Place)> {
        let mut window = Window::new(Trickle(text, at_once), Place::default());
        std::iter::from_fn(|| next(&mut window).unwrap())
            .map(|found| (found.line, found.content.map(|profile| profile.id), found.end))
            .collect()
    }

    #[test]
    fn lines_are_found_however_they_are_read() {
        let long = format!("{{\"id\":\"{}\"}}", "x".repeat(MAX_LINE_BYTES));
        let text = format!("{{\"id\":\"a\"}}\n\n  \r\n{{\"id\":\"b\"}}\r\nnonsense\n{long}\n{{\"id\":\"c\"}}");
        let found = read(text.as_bytes(), usize::MAX);
        let lines: Vec<_> = found.iter().map(|(line, content, _)| (*line, content.clone().ok())).collect();
        let id = |id: &str| Some(id.to_owned());
        assert_eq!(lines, [(1, id("a")), (4, id("b")), (5, None), (6, None), (7, id("c"))]);
        for at_once in [1, 7, 4096] {
            assert_eq!(read(text.as_bytes(), at_once), found);
        }
        // From each place on the rest is found again.
        for (index, (_, _, place)) in found.iter().enumerate() {
            let rest = &text.as_bytes()[place.offset as usize..];
            let mut window = Window::new(rest, *place);
            let again: Vec<_> = std::iter::from_fn(|| next(&mut window).unwrap()).map(|found| found.end).collect();
            assert_eq!(again, found[index + 1..].iter().map(|(_, _, end)| *end).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (text, says) in [
            (&b"{\"id\":\"a\xff\"}\n"[..], "is not UTF-8 at byte 9"),
            (b"{\"id\":\"a", "ends too early, at column 8; the input ends in the middle of this line"),
            (b"{\"id\":\"a\"\n", "ends too early, at column 9"),
        ] {
            assert_eq!(read(text, usize::MAX)[0].1, Err(says.to_owned()));
        }
        let exact = format!("{{\"id\":\"{}\"}}", "x".repeat(MAX_LINE_BYTES - 9));
        assert!(read(exact.as_bytes(), 4096)[0].1.is_ok());
        let over = format!("{{\"id\":\"{}\"}}", "x".repeat(MAX_LINE_BYTES - 8));
        assert_eq!(read(over.as_bytes(), 4096)[0].1, Err(too_long()));
    }
}
