//! How the commands that talk to a server reach it, and what they say when that fails.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use crate::client::{Client, ClientBuilder, ClientError, check_address, check_deadline};

/// So many that the time runs out first.
const BULK_RETRIES: u32 = 20;

/// Which server, and how patiently.
#[derive(Debug, Clone, Args)]
pub struct ConnectionArgs {
    /// The server.
    #[arg(long, env = "PROFILESTORE_ADDR", value_name = "HOST:PORT", default_value = "127.0.0.1:50051", value_parser = address)]
    addr: String,
    /// How long a call may take, repetitions included.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = timeout)]
    timeout: Duration,
}

fn address(given: &str) -> Result<String, String> {
    check_address(given).map(|()| given.to_owned())
}

fn timeout(given: &str) -> Result<Duration, String> {
    let time = humantime_serde::re::humantime::parse_duration(given).map_err(|error| error.to_string())?;
    check_deadline(time).map(|()| time)
}

impl ConnectionArgs {
    /// Says what a failed call means and what to do about it.
    pub fn explain(&self, error: ClientError) -> anyhow::Error {
        explain(error, &self.addr)
    }

    /// Begins to make a client of the server.
    pub fn builder(&self) -> ClientBuilder {
        Client::builder(&self.addr).deadline(self.timeout)
    }

    /// How long a call may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Where the server is said to be.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Runs a command's calls to the server to their end.
    pub fn run<T>(&self, calls: impl AsyncFnOnce(Client) -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.run_with(|builder| builder, calls)
    }

    /// The same for many profiles: a server that is started again is waited for as long as a call may take.
    pub fn run_bulk<T>(&self, calls: impl AsyncFnOnce(Client) -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.run_with(|builder| builder.retries(BULK_RETRIES), calls)
    }

    /// Tells whoever sits before a terminal once what the command waits for. A script wants only how it ended.
    fn say_that_it_waits(&self) -> impl Fn() + Send + Sync + 'static {
        let (addr, said) = (self.addr.clone(), AtomicBool::new(!std::io::stderr().is_terminal()));
        move || {
            if !said.swap(true, Ordering::Relaxed) {
                // In the place of a line of progress, if there is one. Nobody may read it.
                let _ = writeln!(std::io::stderr(), "\r\x1b[Kprofilestore: waiting for the server at {addr}");
            }
        }
    }

    fn run_with<T>(
        &self,
        settings: impl FnOnce(ClientBuilder) -> ClientBuilder,
        calls: impl AsyncFnOnce(Client) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("no threads can be started")?;
        runtime.block_on(async {
            // It connects when it is first used.
            let client = settings(self.builder()).on_wait(self.say_that_it_waits()).build();
            calls(client.map_err(|error| self.explain(error))?).await
        })
    }
}

fn explain(error: ClientError, addr: &str) -> anyhow::Error {
    let advice = match &error {
        ClientError::Unavailable(cause) if error.reason().is_empty() => {
            return anyhow::anyhow!(
                "no server answers at {addr} ({cause}); start one with `profilestore serve`, or name another with --addr or PROFILESTORE_ADDR"
            );
        }
        ClientError::Invalid { violations, .. } if !violations.is_empty() => {
            let all: Vec<_> = violations.iter().map(|each| format!("{} {}", each.field, each.description)).collect();
            return anyhow::anyhow!("the request was refused: {}", all.join("; "));
        }
        ClientError::Unavailable(_) => "; try again when the server is up again",
        // It says what is the matter, and that it may go away.
        ClientError::Overloaded(cause) if error.reason() == "DISK_LOW" => return anyhow::anyhow!("{cause}"),
        ClientError::Overloaded(_) => "; the server has too much to do, try again a little later",
        ClientError::DeadlineExceeded(_) => "; allow more time with --timeout",
        ClientError::Aborted(_) => "; get the profile again and repeat the change with its new etag",
        ClientError::Unimplemented(_) => "; the server may be older than this program",
        ClientError::DataLoss(_) => "; tell whoever runs the server",
        _ => "",
    };
    anyhow::anyhow!("{error}{advice}")
}
