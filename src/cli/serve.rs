//! `profilestore serve`.

use std::io::Write;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{ServeArgs, log};
use crate::server::{ServeError, Server};

pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let mut overrides = Vec::new();
    overrides.extend(args.listen.clone().map(|address| ("server.listen", address)));
    overrides.extend(args.admin_listen.clone().map(|address| ("server.admin_listen", address)));
    overrides.extend(args.insecure.then(|| ("server.insecure", "true".to_owned())));
    overrides.extend(args.publish.clone().map(|url| ("publish.url", url)));
    overrides.extend(args.publish_subject.clone().map(|subject| ("publish.subject", subject)));
    overrides.extend(args.publish_stream.clone().map(|stream| ("publish.stream", stream)));
    overrides.extend(args.forget_publisher.then(|| ("publish.forget", "true".to_owned())));
    let settings = args.settings.load(overrides)?;
    log::init(&settings.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no threads")?;
    let result: anyhow::Result<()> = runtime.block_on(async {
        // Before anything is opened, so that a signal during a long recovery is not lost.
        let mut signals = Signals::new().context("signals cannot be handled")?;
        let server = tokio::select! {
            server = Server::start(&settings, args.sample) => server?,
            () = signals.next() => {
                // What is on disk is as good as after a kill, which is good; waiting for a long recovery or a
                // large sample would only make the operator send the next signal.
                eprintln!("profilestore: stopped by a signal before it was ready");
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
                eprintln!("profilestore: stopped by a second signal, without draining");
                std::process::exit(1);
            });
        });
        Ok(serving.await?)
    });
    if let Err(error) = &result
        && matches!(error.downcast_ref(), Some(ServeError::StoreFailed { .. }))
    {
        // sled panics when it is dropped after a failed write, so nothing is dropped any more.
        eprintln!("profilestore: {error:#}");
        std::process::exit(1);
    }
    result
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
