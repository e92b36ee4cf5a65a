//! What is logged, changeable while the server runs.

use parking_lot::Mutex;
use tracing::Level;
use tracing_subscriber::reload::{Handle, Layer};
use tracing_subscriber::{EnvFilter, Registry};

/// A longer filter is not taken.
pub const MAX_FILTER_BYTES: usize = 4096;

/// Where lines about the log itself come from.
pub const TARGET: &str = "profilestore::log";

/// The process's filter: a process has one log.
static FILTER: Mutex<Option<LogFilter>> = Mutex::new(None);

struct LogFilter {
    text: String,
    handle: Handle<EnvFilter, Registry>,
}

/// Why a filter is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It is not a filter.
    #[error("the filter cannot be read: {0}")]
    Malformed(String),
    /// It is empty, which would be read as one that lets errors pass only.
    #[error("the filter is empty; `error` lets errors pass only, `off` nothing")]
    Empty,
    /// It is too long.
    #[error("the filter has more than {MAX_FILTER_BYTES} bytes")]
    TooLong,
    /// This process has no log.
    #[error("there is no log")]
    NoLog,
}

/// The layer of the process's log that decides what is logged; [`set`] changes it.
pub fn layer(text: &str) -> Result<Layer<EnvFilter, Registry>, FilterError> {
    let (layer, handle) = Layer::new(parse(text)?);
    *FILTER.lock() = Some(LogFilter { text: text.to_owned(), handle });
    Ok(layer)
}

/// Changes what is logged from now on; `asked_by` says who wants it. Returns whether it is another filter than before.
///
/// The change is told before it is made, so that no filter hides that it was set; after it, if the old one hides it.
pub fn set(text: &str, asked_by: &str) -> Result<bool, FilterError> {
    let filter = parse(text)?;
    let mut current = FILTER.lock();
    let current = current.as_mut().ok_or(FilterError::NoLog)?;
    let changes = current.text != text;
    let tell = || tracing::warn!(target: TARGET, filter = text, asked_by, "the log filter was changed");
    let told = changes && tracing::enabled!(target: TARGET, Level::WARN);
    if told {
        tell();
    }
    current.handle.reload(filter).map_err(|_| FilterError::NoLog)?;
    if changes && !told {
        tell();
    }
    text.clone_into(&mut current.text);
    Ok(changes)
}

/// Whether a text is a filter.
pub fn check(text: &str) -> Result<(), FilterError> {
    parse(text).map(drop)
}

/// What is logged now.
pub fn current() -> Option<String> {
    FILTER.lock().as_ref().map(|filter| filter.text.clone())
}

fn parse(text: &str) -> Result<EnvFilter, FilterError> {
    if text.len() > MAX_FILTER_BYTES {
        return Err(FilterError::TooLong);
    }
    if text.trim().is_empty() {
        return Err(FilterError::Empty);
    }
    let filter: EnvFilter = text
        .parse()
        .map_err(|error: tracing_subscriber::filter::ParseError| FilterError::Malformed(error.to_string()))?;
    // NATS's client says in lines of its own, for every attempt, what the publisher says once.
    Ok(match "async_nats=off".parse() {
        Ok(silence) => filter.add_directive(silence),
        Err(_) => filter,
    })
}
