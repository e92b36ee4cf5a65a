//! What is logged, changeable while the server runs.

use parking_lot::Mutex;
use tracing::Level;
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
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
    /// A word of it that stands alone is no level. It could be read as a target, and then a mistyped level would silence all.
    #[error(
        "{0:?} is no level: off, error, warn, info or debug, alone or as TARGET=LEVEL, for example info,profilestore=debug"
    )]
    NoLevel(String),
    /// What it asks for is not in this program.
    #[error("lines of the level trace are not built into this program; debug shows all that there are")]
    NotBuiltIn,
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
    check_levels(text, STATIC_MAX_LEVEL)?;
    let filter: EnvFilter = text
        .parse()
        .map_err(|error: tracing_subscriber::filter::ParseError| FilterError::Malformed(error.to_string()))?;
    // NATS's client says in lines of its own, for every attempt, what the publisher says once.
    Ok(match "async_nats=off".parse() {
        Ok(silence) => filter.add_directive(silence),
        Err(_) => filter,
    })
}

/// Whether every word that stands alone is a level, and every level one that the program was built with.
fn check_levels(text: &str, most: LevelFilter) -> Result<(), FilterError> {
    for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        let (alone, level) = match directive.rsplit_once('=') {
            Some((_, level)) => (false, level),
            None => (true, directive),
        };
        // What is left is read, and refused, as a whole filter is.
        match level.trim().parse::<LevelFilter>() {
            Ok(level) if level > most => return Err(FilterError::NotBuiltIn),
            Err(_) if alone => return Err(FilterError::NoLevel(directive.to_owned())),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused_with_the_levels() {
        for filter in ["off", "error", "WARN", "info,", "debug", "info,profilestore::calls=off", "warn,h2=info"] {
            assert_eq!(check(filter), Ok(()), "{filter}");
        }
        for (filter, word) in [("loud", "loud"), ("info,profilestore", "profilestore"), ("verbose,h2=off", "verbose")]
        {
            let error = check(filter).unwrap_err();
            assert_eq!(error, FilterError::NoLevel(word.into()), "{filter}");
            let said = error.to_string();
            assert!(["off", "error", "warn", "info", "debug"].iter().all(|level| said.contains(level)), "{said}");
        }
        assert!(matches!(check("profilestore=loud"), Err(FilterError::Malformed(_))));
    }

    #[test]
    fn a_level_that_is_not_built_in_is_refused_with_the_reason() {
        for filter in ["trace", "info,profilestore=trace", "TRACE,h2=off"] {
            assert_eq!(check_levels(filter, LevelFilter::DEBUG), Err(FilterError::NotBuiltIn), "{filter}");
            assert_eq!(check_levels(filter, LevelFilter::TRACE), Ok(()), "{filter}");
        }
    }
}
