//! Lines to the standard error that never hold up whoever has something to say.
//!
//! A pipe whose reader is stuck, or a file on a disk that hangs, keeps every thread that writes to it, and with the
//! process's one lock on the standard error every other one too. So lines are handed to a thread that does nothing but
//! write them, and what it cannot write is left out and counted. The last words of a process are waited for, but not for long
//! ([`LAST_WORDS`]).
//!
//! Invariants: handing a line over waits for no disk and no reader, never fails and never panics; lines keep their order;
//! what waits has a bound.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

/// How long the end of a process waits for its last lines.
pub const LAST_WORDS: Duration = Duration::from_secs(1);
/// What may wait to be written, in bytes.
const WAITING_BYTES: usize = 1024 * 1024;

/// Takes lines for the process's standard error.
#[derive(Debug, Clone, Copy, Default)]
pub struct StandardError;

/// Says `line`, and waits a moment until it and what was said before is written.
pub fn say_last(line: &str) {
    the_process().hand_over(format!("{line}\n").as_bytes());
    flush();
}

/// Waits a moment until what was said is written.
pub fn flush() {
    the_process().flush(LAST_WORDS);
}

fn the_process() -> &'static Lines {
    static LINES: OnceLock<Lines> = OnceLock::new();
    LINES.get_or_init(|| Lines::to(io::stderr()))
}

impl<'a> MakeWriter<'a> for StandardError {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for StandardError {
    /// Takes all of `bytes`: one line, as the log writes them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        the_process().hand_over(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines on their way to where they are written.
struct Lines {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// There is something to write, or all is written.
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// The thread has taken something and not written all of it.
    writing: bool,
    /// How many lines found no room.
    left_out: u64,
}

impl Lines {
    /// To a sink, by a thread of its own. If there is no such thread nothing is written, as with a reader that has gone.
    fn to(sink: impl Write + Send + 'static) -> Self {
        let shared = Arc::<Shared>::default();
        let thread = shared.clone();
        let _ = std::thread::Builder::new().name("standard-error".into()).spawn(move || thread.write_all(sink));
        Self { shared }
    }

    fn hand_over(&self, line: &[u8]) {
        let mut waiting = self.shared.waiting.lock();
        if waiting.bytes.len() + line.len() > WAITING_BYTES {
            waiting.left_out += 1;
            return;
        }
        waiting.bytes.extend_from_slice(line);
        self.shared.changed.notify_all();
    }

    /// Waits until all is written, or so long. Whether all is.
    fn flush(&self, patience: Duration) -> bool {
        let mut waiting = self.shared.waiting.lock();
        let is_left = |waiting: &mut Waiting| waiting.writing || !waiting.bytes.is_empty();
        !self.shared.changed.wait_while_for(&mut waiting, is_left, patience).timed_out()
    }
}

impl Shared {
    fn write_all(&self, mut sink: impl Write) {
        let mut taken = Vec::new();
        loop {
            let left_out = {
                let mut waiting = self.waiting.lock();
                waiting.writing = false;
                self.changed.notify_all();
                self.changed.wait_while(&mut waiting, |waiting| waiting.bytes.is_empty());
                waiting.writing = true;
                taken.clear();
                std::mem::swap(&mut taken, &mut waiting.bytes);
                std::mem::take(&mut waiting.left_out)
            };
            // Whoever read the log may have gone away; the server serves all the same.
            let _ = sink.write_all(&taken);
            if left_out > 0 {
                tracing::warn!(left_out, "lines were left out because the standard error did not take them");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Writes nothing until it is told to, once for each write.
    struct Stuck {
        go_on: Receiver<()>,
        begun: Sender<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.begun.send(());
            self.go_on.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.written.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_is_stuck_holds_up_nobody_and_gets_what_there_is_room_for_in_order() {
        let ((go_on, goes_on), (begun, has_begun)) = (channel(), channel());
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let lines = Lines::to(Stuck { go_on: goes_on, begun, written: written.clone() });
        lines.hand_over(b"first\n");
        has_begun.recv().unwrap();
        lines.hand_over(b"second\n");
        let long = vec![b'x'; WAITING_BYTES];
        lines.hand_over(&long);
        lines.hand_over(b"third\n");
        assert_eq!(lines.shared.waiting.lock().left_out, 1, "only what has no room is left out");
        assert!(!lines.flush(Duration::from_millis(1)), "it says that not all is written");
        go_on.send(()).unwrap();
        go_on.send(()).unwrap();
        assert!(lines.flush(LONG));
        assert_eq!(*written.lock(), b"first\nsecond\nthird\n");
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let (go_on, goes_on) = channel();
        drop(go_on);
        let lines = Lines::to(Stuck { go_on: goes_on, begun: channel().0, written: Arc::default() });
        for _ in 0..3 {
            lines.hand_over(b"a line\n");
            assert!(lines.flush(LONG));
        }
        assert_eq!(StandardError.write(b"").unwrap(), 0);
    }
}
