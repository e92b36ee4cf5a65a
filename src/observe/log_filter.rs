//! What is logged, changeable while the server runs.

use parking_lot::Mutex;
use tracing_subscriber::reload::{Handle, Layer};
use tracing_subscriber::{EnvFilter, Registry};

/// A longer filter is not taken.
pub const MAX_FILTER_BYTES: usize = 4096;

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

/// Changes what is logged from now on. Returns whether it is another filter than before.
pub fn set(text: &str) -> Result<bool, FilterError> {
    let filter = parse(text)?;
    let mut current = FILTER.lock();
    let current = current.as_mut().ok_or(FilterError::NoLog)?;
    current.handle.reload(filter).map_err(|_| FilterError::NoLog)?;
    Ok(std::mem::replace(&mut current.text, text.to_owned()) != text)
}

/// What is logged now.
pub fn current() -> Option<String> {
    FILTER.lock().as_ref().map(|filter| filter.text.clone())
}

fn parse(text: &str) -> Result<EnvFilter, FilterError> {
    if text.len() > MAX_FILTER_BYTES {
        return Err(FilterError::TooLong);
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
