//! `profilestore serve`.

use std::convert::Infallible;
use std::io::Write;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{ServeArgs, log};
use crate::observe::{log_filter, standard_error};
use crate::server::{ServeError, Server, Settings};

pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let settings = load(args)?;
    log::init(&settings.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no threads")?;
    let result: anyhow::Result<()> = runtime.block_on(async {
        // Before anything is opened, so that a signal during a long recovery is not lost.
        let mut signals = Signals::new().context("signals cannot be handled")?;
        let hang_ups = signal(SignalKind::hangup()).context("signals cannot be handled")?;
        let server = tokio::select! {
            server = Server::start(&settings, args.sample) => server?,
            () = signals.next() => {
                // What is on disk is as good as after a kill, which is good; waiting for a long recovery or a
                // large sample would only make the operator send the next signal.
                standard_error::say_last("profilestore: stopped by a signal before it was ready");
                std::process::exit(1);
            }
        };
        // Whoever reads the line may have gone away; the server serves all the same.
        let _ = writeln!(
            std::io::stdout(),
            "profilestore is ready: grpc={} admin={} data_dir={} profiles={}",
            server.grpc_address(),
            server.admin_address(),
            settings.store.data_dir.display(),
            server.profile_count(),
        );
        let serving = server.run(async move {
            signals.next().await;
            tokio::spawn(async move {
                signals.next().await;
                standard_error::say_last("profilestore: stopped by a second signal, without draining");
                std::process::exit(1);
            });
        });
        tokio::select! {
            served = serving => Ok(served?),
            never = reload(args, hang_ups) => match never {},
        }
    });
    if let Err(error) = &result
        && matches!(error.downcast_ref(), Some(ServeError::StoreFailed { .. } | ServeError::Close(_)))
    {
        // sled panics when it is dropped after a failed write, and what waits for the disk does not end, so nothing is
        // dropped any more.
        standard_error::say_last(&format!("profilestore: {error:#}"));
        std::process::exit(1);
    }
    result
}

/// The settings in force for these arguments.
fn load(args: &ServeArgs) -> anyhow::Result<Settings> {
    let mut overrides = Vec::new();
    overrides.extend(args.listen.clone().map(|address| ("server.listen", address)));
    overrides.extend(args.admin_listen.clone().map(|address| ("server.admin_listen", address)));
    overrides.extend(args.insecure.then(|| ("server.insecure", "true".to_owned())));
    overrides.extend(args.publish.clone().map(|url| ("publish.url", url)));
    overrides.extend(args.publish_subject.clone().map(|subject| ("publish.subject", subject)));
    overrides.extend(args.publish_stream.clone().map(|stream| ("publish.stream", stream)));
    overrides.extend(args.forget_publisher.then(|| ("publish.forget", "true".to_owned())));
    Ok(args.settings.load(overrides)?)
}

/// At each SIGHUP the settings are read again, and of these the log filter is taken; all others need a restart. Bad
/// settings change nothing.
async fn reload(args: &ServeArgs, mut hang_ups: Signal) -> Infallible {
    while hang_ups.recv().await.is_some() {
        let taken = load(args)
            .and_then(|settings| Ok((log_filter::set(&settings.log.filter, "SIGHUP")?, settings.log.filter)));
        match taken {
            // Told where it was made.
            Ok((true, _)) => {}
            Ok((false, filter)) => tracing::info!(filter, "the log filter stays as it is"),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "the settings were read again and cannot be used; nothing was changed");
            }
        }
    }
    std::future::pending().await
}

/// The signals that ask for a shutdown.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
