//! What an import reads: lines of JSON, and CSV. However the bytes come, the same lines are found; from each place the
//! rest is found again; and what was understood is understood again when it is written.

use std::io::{self, Read};

use profilestore::cli::bulk::csv_records::CsvRecords;
use profilestore::cli::bulk::csv_row::{self, Column};
use profilestore::cli::bulk::window::{Found, Place, Window};
use profilestore::cli::bulk::{json_lines, profile_json};
use profilestore::model::Profile;

use super::Input;

/// A line: its number, what it says, its text, and where it ends.
type Line = (u64, Result<Profile, String>, Vec<u8>, Place);

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

/// Lines of JSON.
pub fn json_lines(data: &[u8]) {
    let mut input = Input(data);
    let (at_once, from) = (usize::from(input.byte()) + 1, usize::from(input.byte()));
    let read = |text: &[u8], at_once: usize, place: Place| {
        let mut window = Window::new(Trickle(text, at_once), place);
        all(|| json_lines::next(&mut window))
    };
    let lines = read(input.0, usize::MAX, Place::default());
    check(input.0, &lines, from, |text, at_once, place| read(text, at_once, place), at_once);
    for profile in lines.into_iter().filter_map(|(_, content, ..)| content.ok()) {
        let mut written = Vec::new();
        profile_json::write(&profile, false, &mut written);
        assert!(!written.contains(&b'\n'));
        assert_eq!(profile_json::parse(&written), Ok(Profile { etag: String::new(), ..profile }));
    }
}

/// CSV with its header.
pub fn csv(data: &[u8]) {
    let mut input = Input(data);
    let (at_once, from) = (usize::from(input.byte()) + 1, usize::from(input.byte()));
    let text = match input.byte() % 2 {
        0 => input.0.to_vec(),
        _ => [b"id,email,display_name,attributes\n", input.0].concat(),
    };
    let records = |text: &[u8], at_once: usize| {
        let mut window = Window::new(Trickle(text, at_once), Place::default());
        CsvRecords::open(&mut window).expect("memory can be read").map(|records| (records, window.place()))
    };
    let (_, begin) = match (records(&text, usize::MAX), records(&text, at_once)) {
        (Ok(begin), Ok(same)) => {
            assert_eq!(begin.1, same.1);
            begin
        }
        (Err(reason), Err(same)) => {
            assert_eq!(reason, same);
            return;
        }
        _ => panic!("the header is read in another way when it comes in parts"),
    };
    // The window may have read on; what follows the header is given to it anew.
    let read = |rest: &[u8], at_once: usize, place: Place| {
        let Ok((mut records, _)) = records(&text, usize::MAX) else { panic!("the header was good") };
        let mut window = Window::new(Trickle(rest, at_once), place);
        all(|| records.next(&mut window))
    };
    let rest = &text[begin.offset as usize..];
    let lines = read(rest, usize::MAX, begin);
    check(&text, &lines, from, |text, at_once, place| read(text, at_once, place), at_once);
    assert_eq!(read(rest, at_once, begin), lines);
    let profiles: Vec<_> = lines.into_iter().filter_map(|(_, content, ..)| content.ok()).collect();
    let columns = Column::written(false);
    let header = csv_row::write_header(columns, Vec::new()).expect("memory can be written");
    let written = csv_row::write(&profiles, columns, header).expect("memory can be written");
    let mut window = Window::new(&written[..], Place::default());
    let mut records = CsvRecords::open(&mut window).expect("memory can be read").expect("our own header is good");
    let again = all(|| records.next(&mut window)).into_iter().map(|(_, content, ..)| content);
    assert_eq!(again.collect::<Result<Vec<_>, _>>(), Ok(profiles));
}

/// All lines that a reader finds.
fn all(mut next: impl FnMut() -> io::Result<Option<Found<Profile>>>) -> Vec<Line> {
    let next = || next().expect("memory can be read");
    std::iter::from_fn(next).map(|found| (found.line, found.content, found.text, found.end)).collect()
}

/// What holds for both forms.
fn check(text: &[u8], lines: &[Line], from: usize, read: impl Fn(&[u8], usize, Place) -> Vec<Line>, at_once: usize) {
    let mut last = (0, 0);
    for (line, content, _, end) in lines {
        // A carriage return ends a record and is no line's end.
        assert!(*line >= last.0 && end.offset > last.1 && end.offset <= text.len() as u64, "lines go on");
        assert_eq!(*end, Place::default().after(&text[..end.offset as usize]));
        assert!(content.as_ref().err().is_none_or(|reason| reason.len() < 400));
        last = (*line, end.offset);
    }
    if let Some((.., place)) = lines.get(from % lines.len().max(1)) {
        let rest = read(&text[place.offset as usize..], at_once, *place);
        assert_eq!(rest, lines[from % lines.len() + 1..]);
    }
}
