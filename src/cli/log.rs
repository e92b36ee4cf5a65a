//! Where log lines go: to standard error, pretty on a terminal and JSON otherwise, and without anybody waiting for it.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::layer::SubscriberExt;

use crate::observe::{Repetitions, StandardError, log_filter};
use crate::server::{LogFormat, LogSettings};

/// Sets up the process's log, which tells of panics too.
pub fn init(settings: &LogSettings) -> anyhow::Result<()> {
    // sled writes keys and whole batches, which are personal data, to its debug and trace levels. It logs
    // through the `log` crate, so capping that crate's level holds whatever the filter says.
    tracing_log::LogTracer::builder()
        .with_max_level(tracing_log::log::LevelFilter::Info)
        .init()
        .context("the log cannot be set up")?;
    let filter = log_filter::layer(&settings.filter).context("log.filter cannot be used")?;
    let registry = tracing_subscriber::registry().with(filter).with(Repetitions::default());
    let pretty = match settings.format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(StandardError);
    if pretty {
        tracing::subscriber::set_global_default(registry.with(lines))
    } else {
        tracing::subscriber::set_global_default(registry.with(lines.json()))
    }
    .context("the log cannot be set up")?;
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        // A text that was put together while the program ran may hold anything: sled's panics quote keys and values.
        let text = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(not shown)");
        tracing::error!(location, text, "a thread panicked");
    }));
    Ok(())
}
