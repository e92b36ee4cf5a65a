//! The `profilestore` program.

use std::process::ExitCode;

use clap::Parser;
use profilestore::cli::{self, Cli};

/// Half the load time and twice the read speed of glibc's allocator under sled.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(Cli::parse())
}
