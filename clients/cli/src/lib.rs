//! The client commands of `daybook`. They talk gRPC to a running Daybook and nothing else: no
//! command here opens a store.
//!
//! The one binary flattens [`ClientCommand`] into its own commands and hands it to [`run`]:
//!
//! ```no_run
//! use clap::{CommandFactory, Parser};
//!
//! #[derive(Parser)]
//! #[command(name = "daybook", after_help = daybook_cli::EXIT_CODES)]
//! enum Cli {
//!     #[command(flatten)]
//!     Client(daybook_cli::ClientCommand),
//! }
//!
//! # async fn start() -> std::process::ExitCode {
//! let Cli::Client(command) = Cli::parse();
//! daybook_cli::run(command, Cli::command()).await
//! # }
//! ```
//!
//! # Exit codes
//!
//! They are part of the interface: scripts may rely on them.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed in a way that is none of the below |
//! | 2 | the command line is wrong |
//! | 3 | refused by a rule, not found, exists already, version conflict; what was watched failed |
//! | 4 | the request is invalid |
//! | 5 | a service is unreachable or unavailable, or did not answer in time |
//! | 6 | stored data is damaged |
//!
//! Answers go to standard output, errors and progress to standard error. An error has three parts:
//! what went wrong, why, and what to do next, as a command that can be copied.

mod account;
mod call;
mod demo;
mod doctor;
mod events;
mod exit;
mod flags;
mod follow;
mod goods;
mod health;
mod json;
mod money;
mod order;
mod output;
mod people;
mod problem;
mod product;
mod projection;
mod reflection;
mod saga;
mod script;
mod stock;
mod time;
mod transfer;
mod user;

use std::process::ExitCode;

use clap::Subcommand;

pub use account::AccountArgs;
pub use call::CallArgs;
pub use demo::DemoArgs;
pub use doctor::{Check, DoctorArgs, online_checks, print_checks};
pub use events::EventsArgs;
pub use exit::{EXIT_CODES, Exit};
pub use flags::{CommandFlags, Globals, Pages, QueryFlags};
pub use health::HealthArgs;
pub use order::OrderArgs;
pub use output::Format;
pub use product::ProductArgs;
pub use projection::ProjectionArgs;
pub use saga::{SagaClientArgs, SagaCommand};
pub use stock::StockArgs;
pub use transfer::TransferArgs;
pub use user::UserArgs;

use problem::Problem;

/// The client commands.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Open accounts, move money, see balances and movements
    #[command(visible_alias = "accounts")]
    Account(AccountArgs),
    /// Register users, record what they do, see what they did
    #[command(visible_alias = "users")]
    User(UserArgs),
    /// Put products into the catalogue, find them, see what they cost and sold
    #[command(visible_alias = "products")]
    Product(ProductArgs),
    /// Receive, reserve and ship goods, see what is there and what is low
    Stock(StockArgs),
    /// Make orders and bring them to their end, see what was sold
    #[command(visible_alias = "orders")]
    Order(OrderArgs),
    /// Move money from one account to another, and see how it goes
    #[command(visible_alias = "transfers")]
    Transfer(TransferArgs),
    /// `daybook saga` is a run mode as well, so the binary takes its arguments.
    #[command(skip)]
    Saga(SagaClientArgs),
    /// Follow, read and append events
    #[command(visible_alias = "event")]
    Events(EventsArgs),
    /// See and steer the projections: lag, rebuild, pause, quarantine
    #[command(visible_alias = "projections")]
    Projection(ProjectionArgs),
    /// Call any RPC with JSON, by server reflection
    Call(CallArgs),
    /// Fill the bank and the shop with believable customers, months of movements, and orders
    Demo(DemoArgs),
    /// Check that everything is reachable and well, and say how to mend what is not
    Doctor(DoctorArgs),
    /// Ask an HTTP health endpoint; for health checks of containers
    Health(HealthArgs),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  daybook completions bash > \
                            /etc/bash_completion.d/daybook\n  source <(daybook completions zsh)")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Carries out a client command and reports its problems. `root` is the command line of the whole
/// binary, for the completions.
pub async fn run(command: ClientCommand, root: clap::Command) -> ExitCode {
    let json = command.format() == Format::Json;
    match carry_out(command, root).await {
        Ok(exit) => exit.into(),
        Err(problem) => problem.report(json).into(),
    }
}

async fn carry_out(command: ClientCommand, mut root: clap::Command) -> Result<Exit, Problem> {
    match command {
        ClientCommand::Account(args) => account::run(args).await.map(|()| Exit::Done),
        ClientCommand::User(args) => user::run(args).await.map(|()| Exit::Done),
        ClientCommand::Product(args) => product::run(args).await.map(|()| Exit::Done),
        ClientCommand::Stock(args) => stock::run(args).await.map(|()| Exit::Done),
        ClientCommand::Order(args) => order::run(args).await.map(|()| Exit::Done),
        ClientCommand::Transfer(args) => transfer::run(args).await.map(|()| Exit::Done),
        ClientCommand::Saga(args) => saga::run(args).await.map(|()| Exit::Done),
        ClientCommand::Events(args) => events::run(args).await.map(|()| Exit::Done),
        ClientCommand::Projection(args) => projection::run(args).await.map(|()| Exit::Done),
        ClientCommand::Call(args) => call::run(args).await.map(|()| Exit::Done),
        ClientCommand::Demo(args) => demo::run(args).await.map(|()| Exit::Done),
        ClientCommand::Doctor(args) => doctor::run(args).await,
        ClientCommand::Health(args) => health::run(args).await.map(|()| Exit::Done),
        ClientCommand::Completions { shell } => {
            let name = root.get_name().to_owned();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut root, name, &mut script);
            output::bytes(&script)?;
            Ok(Exit::Done)
        }
    }
}

impl ClientCommand {
    /// The form in which the answer is wanted.
    fn format(&self) -> Format {
        match self {
            Self::Account(args) => args.globals.output,
            Self::User(args) => args.globals.output,
            Self::Product(args) => args.globals.output,
            Self::Stock(args) => args.globals.output,
            Self::Order(args) => args.globals.output,
            Self::Transfer(args) => args.globals.output,
            Self::Saga(args) => args.globals.output,
            Self::Events(args) => args.globals.output,
            Self::Projection(args) => args.globals.output,
            Self::Call(args) => args.globals.output,
            Self::Demo(args) => args.globals.output,
            Self::Doctor(args) => args.globals.output,
            Self::Health(_) | Self::Completions { .. } => Format::Table,
        }
    }
}
