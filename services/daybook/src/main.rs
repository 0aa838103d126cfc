//! The one binary of Daybook: the servers, and the client commands of `daybook-cli`.

mod command_side;
mod config;
mod http;
mod middleware;
mod publishing;
mod run;
mod serve;
mod telemetry;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Flags;

/// An event-sourcing backend whose framework is the protobuf contract.
#[derive(Debug, Parser)]
#[command(name = "daybook", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything in one process, without a broker unless --brokers is given
    Dev(Flags),
    /// Run the command service
    Command(Flags),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Dev(flags) => run::dev(&flags).await,
            Command::Command(flags) => run::command(&flags).await,
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
