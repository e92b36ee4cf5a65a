//! CSV as in RFC 4180, with a header: one profile a record, which may have line breaks inside quotes.
//!
//! A record with a broken quote could be anything up to the end of the file. Its first line alone is refused, and the next
//! record is looked for behind it; so what is found from a place on depends on nothing before it.

use std::io::{self, Read};

use csv_core::ReadRecordResult;

use super::csv_row::Column;
use super::window::{Found, MAX_LINE_BYTES, TORN, Window, too_long};
use crate::client::Profile;

/// A line ends at any of them: some programs write the first one alone.
const LINE_ENDS: &[u8] = b"\r\n";
/// The most columns that a record is read with.
const MAX_COLUMNS: usize = 64;

/// Finds records.
pub struct CsvRecords {
    core: csv_core::Reader,
    columns: Vec<Column>,
    /// The fields of the record, without quotes, one behind the other.
    fields: Box<[u8]>,
    /// Where each of them ends.
    ends: [usize; MAX_COLUMNS],
}

/// Where a record ends.
enum Extent {
    /// After so many bytes; it has so many columns.
    Record { bytes: usize, columns: usize, torn: bool },
    /// Not where it could end.
    Broken(String),
}

/// How the quotes of a text stand.
#[derive(PartialEq)]
enum Quotes {
    Good,
    /// Something other than a comma or a line's end follows a closing quote.
    Misplaced,
    Open,
}

impl CsvRecords {
    /// Reads the header.
    pub fn open<R: Read>(window: &mut Window<R>) -> io::Result<Result<Self, String>> {
        let fields = vec![0; MAX_LINE_BYTES].into_boxed_slice();
        let mut records = Self { core: csv_core::Reader::new(), columns: Vec::new(), fields, ends: [0; MAX_COLUMNS] };
        records.skip_line_ends(window)?;
        if window.unread().is_empty() {
            return Ok(Err("there is no header".to_owned()));
        }
        let (bytes, columns) = match records.extent(window)? {
            Extent::Record { bytes, columns, .. } => (bytes, columns),
            Extent::Broken(reason) => return Ok(Err(format!("the header {reason}"))),
        };
        window.consume(bytes);
        for index in 0..columns {
            match records.header_column(index) {
                Ok(column) => records.columns.push(column),
                Err(reason) => return Ok(Err(reason)),
            }
        }
        if !records.columns.contains(&Column::Id) {
            return Ok(Err(format!("the header has no column id; the columns are {}", names())));
        }
        Ok(Ok(records))
    }

    /// A column of the header that was just read. What stands there may be data where the header is forgotten, so the
    /// error does not repeat it.
    fn header_column(&self, index: usize) -> Result<Column, String> {
        let name = self.field(index).trim_ascii();
        let column = Column::ALL.into_iter().find(|column| column.name().as_bytes() == name);
        let number = index + 1;
        let column =
            column.ok_or_else(|| format!("column {number} of the header is unknown; the columns are {}", names()))?;
        if self.columns.contains(&column) {
            return Err(format!("the header has the column {} twice", column.name()));
        }
        Ok(column)
    }

    /// Reads the next record; `None` at the end.
    pub fn next<R: Read>(&mut self, window: &mut Window<R>) -> io::Result<Option<Found<Profile>>> {
        self.skip_line_ends(window)?;
        if window.unread().is_empty() {
            return Ok(None);
        }
        let line = window.place().lines + 1;
        let (content, text) = match self.extent(window)? {
            Extent::Record { bytes, columns, torn } => {
                let text = window.unread()[..bytes].trim_ascii_end().to_vec();
                window.consume(bytes);
                (self.profile(columns).map_err(|reason| reason + if torn { TORN } else { "" }), text)
            }
            Extent::Broken(reason) => {
                self.core.reset();
                (Err(reason), self.take_line(window)?)
            }
        };
        Ok(Some(Found { content, text, line, end: window.place() }))
    }

    /// Leaves out the ends of lines that are blank, or of which the last record has left a part.
    fn skip_line_ends<R: Read>(&self, window: &mut Window<R>) -> io::Result<()> {
        loop {
            let blank = window.unread().iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            window.consume(blank);
            if !window.unread().is_empty() || !window.more()? {
                return Ok(());
            }
        }
    }

    /// Looks for the end of the record at which the window stands.
    fn extent<R: Read>(&mut self, window: &mut Window<R>) -> io::Result<Extent> {
        let (mut bytes, mut written, mut columns, mut ended) = (0, 0, 0, false);
        loop {
            let unread = &window.unread()[bytes..];
            // To the parser, no input is the end of the input.
            let result = if unread.is_empty() && !ended {
                ReadRecordResult::InputEmpty
            } else {
                let (result, read, out, ends) =
                    self.core.read_record(unread, &mut self.fields[written..], &mut self.ends[columns..]);
                (bytes, written, columns) = (bytes + read, written + out, columns + ends);
                result
            };
            let found = &window.unread()[..bytes];
            let torn = ended && !found.ends_with(b"\n");
            match result {
                _ if bytes > MAX_LINE_BYTES + 1 => return Ok(Extent::Broken(reason_of_length(found))),
                ReadRecordResult::OutputFull => return Ok(Extent::Broken(reason_of_length(found))),
                ReadRecordResult::OutputEndsFull => {
                    return Ok(Extent::Broken(format!("has more than {MAX_COLUMNS} columns")));
                }
                ReadRecordResult::InputEmpty if ended => {}
                ReadRecordResult::InputEmpty => ended = !window.more()?,
                ReadRecordResult::Record | ReadRecordResult::End => {
                    return Ok(match quotes(found) {
                        Quotes::Good => Extent::Record { bytes, columns, torn },
                        Quotes::Misplaced => Extent::Broken("has something behind a closing quote".to_owned()),
                        Quotes::Open => Extent::Broken("has a quote that is not closed".to_owned()),
                    });
                }
            }
        }
    }

    /// Takes the first line of what is broken, of which the window may have only a part.
    fn take_line<R: Read>(&self, window: &mut Window<R>) -> io::Result<Vec<u8>> {
        let mut end = 0;
        loop {
            let rest = &window.unread()[end..];
            let found = rest.iter().position(|byte| LINE_ENDS.contains(byte));
            end += found.unwrap_or(rest.len());
            if found.is_some() || end > MAX_LINE_BYTES || !window.more()? {
                break;
            }
        }
        let text = if end > MAX_LINE_BYTES { Vec::new() } else { window.unread()[..end].trim_ascii_end().to_vec() };
        window.skip_line(LINE_ENDS)?;
        Ok(text)
    }

    fn field(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.fields[start..self.ends[index]]
    }

    fn profile(&self, columns: usize) -> Result<Profile, String> {
        if columns != self.columns.len() {
            let s = if columns == 1 { "" } else { "s" };
            return Err(format!("has {columns} column{s}; the header has {}", self.columns.len()));
        }
        let mut profile = Profile::default();
        for (index, column) in self.columns.iter().enumerate() {
            column.read(self.field(index), &mut profile)?;
        }
        Ok(profile)
    }
}

fn names() -> String {
    Column::ALL.map(Column::name).join(", ")
}

fn reason_of_length(text: &[u8]) -> String {
    let line = text.split_inclusive(|byte| LINE_ENDS.contains(byte)).next().unwrap_or_default();
    // A line that is short enough by itself is long only by a quote that goes on over the next ones.
    if line.last().is_some_and(|last| LINE_ENDS.contains(last)) && quotes(line) == Quotes::Open {
        return format!("has a quote that is not closed within {MAX_LINE_BYTES} bytes");
    }
    too_long()
}

/// The parser takes any quotes; these would make it misread others.
fn quotes(text: &[u8]) -> Quotes {
    #[derive(Clone, Copy)]
    enum State {
        Begin,
        Plain,
        Quoted,
        QuoteInQuoted,
    }
    let mut state = State::Begin;
    for byte in text {
        state = match (state, byte) {
            (State::Begin, b'"') => State::Quoted,
            (State::Quoted, b'"') => State::QuoteInQuoted,
            (State::Quoted, _) | (State::QuoteInQuoted, b'"') => State::Quoted,
            (State::Begin | State::Plain | State::QuoteInQuoted, b',' | b'\r' | b'\n') => State::Begin,
            (State::QuoteInQuoted, _) => return Quotes::Misplaced,
            (State::Begin | State::Plain, _) => State::Plain,
        };
    }
    if matches!(state, State::Quoted) { Quotes::Open } else { Quotes::Good }
}

#[cfg(test)]
mod tests {
    use super::super::window::Place;
    use super::*;

    const HEADER: &str = "id,email,display_name,attributes\n";

    fn read(text: &[u8]) -> Vec<(u64, Result<Profile, String>, Place)> {
        let mut window = Window::new(text, Place::default());
        let mut records = CsvRecords::open(&mut window).unwrap().unwrap();
        std::iter::from_fn(|| records.next(&mut window).unwrap())
            .map(|found| (found.line, found.content, found.end))
            .collect()
    }

    fn ids(text: &str) -> Vec<(u64, Option<String>)> {
        read(text.as_bytes()).into_iter().map(|(line, content, _)| (line, content.ok().map(|each| each.id))).collect()
    }

    fn id(id: &str) -> Option<String> {
        Some(id.to_owned())
    }

    #[test]
    fn records_are_read_with_quotes_line_breaks_and_any_order_of_columns() {
        let text = "attributes,id,etag\r\n\"{\"\"k\"\":\n\"\"v, w\"\"}\",a,x\r\n\r\n,\"b\",\n{},\"c,\"\"\",";
        let found = read(text.as_bytes());
        let contents: Vec<_> = found.iter().map(|(line, content, _)| (*line, content.clone().unwrap())).collect();
        assert_eq!(
            contents.iter().map(|(line, each)| (*line, each.id.as_str())).collect::<Vec<_>>(),
            [(2, "a"), (5, "b"), (6, "c,\"")]
        );
        assert_eq!(contents[0].1.attributes["k"], "v, w");
        assert!(contents[0].1.etag.is_empty());
    }

    #[test]
    fn what_is_wrong_with_a_record_is_said_and_the_next_one_is_read() {
        let long = "x".repeat(MAX_LINE_BYTES);
        let many = ",".repeat(MAX_COLUMNS + 1);
        for (bad, says) in [
            ("a,b,c", "has 3 columns; the header has 4"),
            ("a,b,c,,", "has 5 columns; the header has 4"),
            (&many, "has more than 64 columns"),
            ("a,,,{\"\"}", "column attributes "),
            ("a,,,[]", "column attributes is not a JSON object"),
            ("a,,,\"{\"\"k\"\":1}\"", "column attributes has a value of the wrong type"),
            ("a,\"b\"c,,", "has something behind a closing quote"),
            ("a,\"b,,", "has something behind a closing quote"),
            (&long, "has more than 262144 bytes"),
            (&format!("a,\"{long}"), "has more than 262144 bytes"),
        ] {
            let text = format!("{HEADER}first,,,\n{bad}\nnext,,\"N\",\n\"last\",,,");
            let found = read(text.as_bytes());
            let error = found[1].1.clone().unwrap_err();
            assert!(error.starts_with(says), "{error} and not {says}");
            assert_eq!(ids(&text), [(2, id("first")), (3, None), (4, id("next")), (5, id("last"))], "{says}");
        }
    }

    #[test]
    fn the_text_of_a_broken_record_is_whole_also_when_it_comes_in_parts() {
        let line = format!("a{}z", ",".repeat(MAX_COLUMNS + 1));
        let text = format!("{HEADER}{line}\r\nb,,,\n");
        let (head, tail) = text.split_at(HEADER.len() + line.len() - 1);
        let mut window = Window::new(head.as_bytes().chain(tail.as_bytes()), Place::default());
        let mut records = CsvRecords::open(&mut window).unwrap().unwrap();
        let broken = records.next(&mut window).unwrap().unwrap();
        assert!(broken.content.is_err() && broken.text == line.as_bytes(), "{:?}", broken.text);
        assert_eq!(records.next(&mut window).unwrap().unwrap().content.unwrap().id, "b");
    }

    #[test]
    fn a_quote_that_is_never_closed_costs_one_line() {
        let rest = "plain,,,\n".repeat(MAX_LINE_BYTES / 9 + 10);
        for (rest, says) in [("plain,,,\n", "is not closed"), (&rest, "is not closed within 262144 bytes")] {
            let text = format!("{HEADER}a,\"b,,\n{rest}");
            let found = read(text.as_bytes());
            assert!(found[0].1.clone().unwrap_err().ends_with(says));
            assert_eq!(found.len(), 1 + rest.lines().count());
            assert!(found[1..].iter().all(|(_, content, _)| content.is_ok()));
        }
    }

    #[test]
    fn what_is_not_utf_8_or_torn_is_said() {
        let text = [HEADER.as_bytes(), b"a,\xff,,\nb,,"].concat();
        let found = read(&text);
        assert_eq!(found[0].1, Err("column email is not UTF-8".to_owned()));
        assert_eq!(found[1].1, Err(format!("has 3 columns; the header has 4{TORN}")));
    }

    #[test]
    fn a_header_is_needed_and_its_columns_are_known() {
        for (header, says) in [
            ("", "there is no header"),
            ("\n\n", "there is no header"),
            ("email,attributes\n", "the header has no column id"),
            ("id,mail\n", "column 2 of the header is unknown; the columns are id, email"),
            ("id,email,id\n", "the header has the column id twice"),
            ("id,\"email\n", "the header has a quote that is not closed"),
        ] {
            let mut window = Window::new(header.as_bytes(), Place::default());
            let error = CsvRecords::open(&mut window).unwrap().err().unwrap();
            assert!(error.starts_with(says), "{error}");
        }
        assert_eq!(ids("id\na\n"), [(2, id("a"))]);
    }

    #[test]
    fn from_each_place_on_the_rest_is_found_again() {
        let text = format!("{HEADER}a,,,\r\n\n\"b\",,\"N\nM\",\nc,\"x,,\nd,,,\n\"e,,,\nf,,,");
        let found = read(text.as_bytes());
        for (index, (_, _, place)) in found.iter().enumerate() {
            let mut window = Window::new(text.as_bytes(), Place::default());
            let mut records = CsvRecords::open(&mut window).unwrap().unwrap();
            let mut window = Window::new(&text.as_bytes()[place.offset as usize..], *place);
            let again: Vec<_> = std::iter::from_fn(|| records.next(&mut window).unwrap())
                .map(|each| (each.line, each.content, each.end))
                .collect();
            assert_eq!(again, found[index + 1..]);
        }
    }

    #[test]
    fn a_broken_line_ends_at_whichever_line_end_comes_first() {
        let found = ids("id,email,display_name,attributes\ra,,,\r\"b\"x,,,\rc,,,\rd,\"");
        let found: Vec<_> = found.into_iter().map(|(_, id)| id).collect();
        assert_eq!(found, [id("a"), None, id("c"), None]);
    }
}
