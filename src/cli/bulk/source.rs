//! Reads profiles on a thread of their own, a batch at a time.
//!
//! The thread ends at the end of the input, at an error, or when nobody takes its batches any more; a read that waits
//! for a pipe ends with the process. A few batches are held at most.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use tokio::sync::mpsc;

use super::Format;
use super::csv_records::CsvRecords;
use super::json_lines;
use super::progress::Ids;
use super::window::{Found, Place, Window};
use crate::client::Profile;

const BATCH_LINES: usize = 250;
const BATCH_BYTES: usize = 256 * 1024;
const BATCHES: usize = 4;

/// Lines in the order of the input, none at its end, or why it cannot be read.
pub type Batch = io::Result<Vec<Found<Profile>>>;

/// Finds profiles in an input.
pub struct Source<R> {
    window: Window<R>,
    /// `None` for JSON lines.
    records: Option<CsvRecords>,
}

impl<R: Read> Source<R> {
    /// Begins to read; the inner error is about a header.
    pub fn open(input: R, format: Format) -> io::Result<Result<Self, String>> {
        let mut window = Window::new(input, Place::default());
        window.skip_byte_order_mark()?;
        let records = match format {
            Format::Jsonl => None,
            Format::Csv => match CsvRecords::open(&mut window)? {
                Ok(records) => Some(records),
                Err(reason) => return Ok(Err(reason)),
            },
        };
        Ok(Ok(Self { window, records }))
    }

    /// Where the next line begins.
    pub fn place(&self) -> Place {
        self.window.place()
    }

    fn next(&mut self) -> io::Result<Option<Found<Profile>>> {
        match &mut self.records {
            None => json_lines::next(&mut self.window),
            Some(records) => records.next(&mut self.window),
        }
    }

    /// The next lines, none of which has to be waited for but the first one.
    fn batch(&mut self, ids: Ids) -> Batch {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_LINES && bytes < BATCH_BYTES {
            if !batch.is_empty() && !self.window.unread().contains(&b'\n') {
                break;
            }
            let Some(mut found) = self.next()? else { break };
            if let Ok(profile) = &mut found.content
                && profile.id.is_empty()
            {
                profile.id = ids.id(found.end.offset);
            }
            bytes += found.text.len();
            batch.push(found);
        }
        Ok(batch)
    }
}

impl Source<File> {
    /// Goes on at a place of an earlier run; `false` if what stands before it is not what stood there then.
    pub fn go_on_at(&mut self, mut input: File, place: Place) -> io::Result<bool> {
        input.seek(SeekFrom::Start(0))?;
        let mut before = Window::new((&input).take(place.offset), Place::default());
        loop {
            before.consume(before.unread().len());
            if !before.more()? {
                break;
            }
        }
        if before.place() != place {
            return Ok(false);
        }
        input.seek(SeekFrom::Start(place.offset))?;
        self.window = Window::new(input, place);
        Ok(true)
    }
}

impl<R: Read + Send + 'static> Source<R> {
    /// Begins to read. The last batch is an error or, at the end of the input, empty; without one of them the thread has
    /// failed.
    pub fn start(mut self, ids: Ids) -> io::Result<mpsc::Receiver<Batch>> {
        let (sender, batches) = mpsc::channel(BATCHES);
        let read = move || {
            loop {
                let batch = self.batch(ids);
                let is_last = batch.as_ref().map_or(true, Vec::is_empty);
                if sender.blocking_send(batch).is_err() || is_last {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("import-reader".to_owned()).spawn(read)?;
        Ok(batches)
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::Progress;
    use super::*;

    /// Gives two lines, and then what the test says.
    struct Ending<F>(bool, F);

    impl<F: FnMut() -> io::Result<usize>> Read for Ending<F> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                return (self.1)();
            }
            let lines = b"{\"id\":\"a\"}\n{\"id\":\"b\"}\n";
            buffer[..lines.len()].copy_from_slice(lines);
            Ok(lines.len())
        }
    }

    /// How many lines came, and the batch at the end if one says that it is the last.
    fn read_through(ending: impl FnMut() -> io::Result<usize> + Send + 'static) -> (usize, Option<Batch>) {
        let source = Source::open(Ending(false, ending), Format::Jsonl).unwrap().unwrap();
        let mut batches = source.start(Progress::for_tests().ids).unwrap();
        let mut lines = 0;
        loop {
            match batches.blocking_recv() {
                Some(Ok(batch)) if !batch.is_empty() => lines += batch.len(),
                last => return (lines, last),
            }
        }
    }

    #[test]
    fn the_end_of_an_input_is_marked_and_its_failure_is_told() {
        let (lines, last) = read_through(|| Ok(0));
        assert!(lines == 2 && last.is_some_and(|last| last.is_ok_and(|batch| batch.is_empty())));
        let (lines, last) = read_through(|| Err(io::Error::other("the disk is gone")));
        assert_eq!((lines, last.unwrap().err().unwrap().to_string()), (2, "the disk is gone".to_owned()));
    }

    #[test]
    fn a_reader_that_fails_leaves_no_mark_of_an_end() {
        let (lines, last) = read_through(|| panic!("a test lets the reader fail"));
        assert!(lines == 2 && last.is_none());
    }
}
