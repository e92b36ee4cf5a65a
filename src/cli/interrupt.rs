//! Signals that end a command early which has something to say about that.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::observe::standard_error;

/// A signal wants the command to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it was interrupted")]
pub struct Interrupted {
    /// What a shell makes of the signal: 128 and its number.
    pub code: u8,
}

/// Tells of the first signal that wants an end.
pub struct Interrupt(watch::Receiver<Option<Interrupted>>);

impl Interrupt {
    /// From here on SIGINT and SIGTERM are told, and the second of them ends the process, whatever it waits for.
    pub fn watch() -> anyhow::Result<Self> {
        let (told, heard) = watch::channel(None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("no runtime")?;
        let signals = {
            let _runtime = runtime.enter();
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        };
        let (mut interrupt, mut terminate) =
            (signals.0.context("signals cannot be handled")?, signals.1.context("signals cannot be handled")?);
        let listen = async move {
            loop {
                let kind = tokio::select! {
                    _ = interrupt.recv() => SignalKind::interrupt(),
                    _ = terminate.recv() => SignalKind::terminate(),
                };
                let code = u8::try_from(128 + kind.as_raw_value()).unwrap_or(1);
                if told.send_replace(Some(Interrupted { code })).is_some() {
                    standard_error::say_last("profilestore: stopped by a second signal");
                    std::process::exit(code.into());
                }
            }
        };
        // A thread of its own: the others may wait for a disk or for whoever reads what is printed.
        let thread = std::thread::Builder::new().name("signals".into());
        thread.spawn(move || runtime.block_on(listen)).context("no threads can be started")?;
        Ok(Self(heard))
    }

    /// One that never comes.
    #[cfg(test)]
    pub fn never() -> Self {
        Self(watch::channel(None).1)
    }

    /// Comes when there was a signal.
    pub async fn heard(&mut self) -> Interrupted {
        match self.0.wait_for(Option::is_some).await.map(|heard| *heard) {
            Ok(Some(interrupted)) => interrupted,
            // Its thread is gone, and no signal is told any more.
            _ => std::future::pending().await,
        }
    }
}
