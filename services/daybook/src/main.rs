//! The one binary of Daybook: the servers, and the client commands of `daybook-cli`.

mod command_side;
mod config;
mod connection;
mod doctor;
mod gather;
mod http;
mod middleware;
mod publishing;
mod query_side;
mod run;
mod saga_side;
mod serve;
mod telemetry;
mod welcome;

use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use daybook_cli::{ClientCommand, EXIT_CODES, Exit, Format, Globals, SagaClientArgs, SagaCommand};

use crate::config::Flags;

/// A request makes and drops many small things; this allocator spends half as much on them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An event-sourcing backend whose framework is the protobuf contract.
#[derive(Debug, Parser)]
#[command(name = "daybook", version, propagate_version = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::enum_variant_names, reason = "that is what the mode is called")]
enum Command {
    /// Run everything in one process; without a broker, unless --brokers is given
    #[command(after_help = "Example:\n  daybook dev\n  daybook dev --brokers 127.0.0.1:9092")]
    Dev(Flags),
    /// Run the command service and, with --brokers, the publisher
    #[command(after_help = "Example:\n  daybook command --data /var/lib/daybook --brokers \
                            127.0.0.1:9092")]
    Command(Flags),
    /// Run the query service, fed by Kafka (--brokers) or by the log (--log)
    #[command(after_help = "Example:\n  daybook query --data /var/lib/daybook --brokers \
                            127.0.0.1:9092 --http 127.0.0.1:8089")]
    Query(Flags),
    /// Run the sagas, fed by Kafka (--brokers) or by the log (--log); with a command, show and
    /// steer them
    #[command(
        visible_alias = "sagas",
        args_conflicts_with_subcommands = true,
        after_help = "Example:\n  daybook saga --data /var/lib/daybook --http 127.0.0.1:8090\n  \
                      daybook saga list --open"
    )]
    Saga(Box<SagaArgs>),
    /// Print every setting with its value and where the value comes from
    #[command(after_help = "Example:\n  daybook config\n  DAYBOOK_BATCH_SIZE=500 daybook config \
                            -o json")]
    Config {
        /// The settings of the servers.
        #[command(flatten)]
        flags: Flags,
        /// How the answer is shown
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    #[command(flatten)]
    Client(ClientCommand),
}

/// `daybook saga`
#[derive(Debug, Args)]
struct SagaArgs {
    #[command(subcommand)]
    command: Option<SagaCommand>,
    /// The settings of the servers.
    #[command(flatten)]
    flags: Flags,
    /// Flags of all client commands.
    #[command(flatten)]
    globals: Globals,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let code = runtime.block_on(carry_out(cli.command));
    // A task that blocks, such as a read of a terminal, must not keep the process alive.
    runtime.shutdown_background();
    code
}

async fn carry_out(command: Command) -> ExitCode {
    let done = match command {
        Command::Dev(flags) => run::dev(&flags).await,
        Command::Command(flags) => run::command(&flags).await,
        Command::Query(flags) => run::query(&flags).await,
        Command::Saga(args) => match args.command {
            Some(command) => {
                let command =
                    ClientCommand::Saga(SagaClientArgs { command, globals: args.globals });
                return daybook_cli::run(command, Cli::command()).await;
            }
            None => run::saga(&args.flags).await,
        },
        Command::Config { flags, output } => config::print(&flags, output),
        Command::Client(ClientCommand::Doctor(args)) if args.data.is_some() => {
            return doctor::run(args).await.map_or_else(|error| failed(&error), Exit::into);
        }
        Command::Client(command) => return daybook_cli::run(command, Cli::command()).await,
    };
    done.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    Exit::Unexpected.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
