//! Measures daybook: `cargo run --release -p daybook-bench`.
//!
//! Servers run as processes of their own, clients in this one, and every load runs in turns with a
//! ceiling: a server that does nothing, under the same clients, messages and connections. So each
//! figure is also a ratio, which means something on any machine. docs/performance.md explains
//! the method.
//!
//! These are not tests: nothing fails because it is slow.

mod bank;
mod big;
mod ceilings;
mod durable;
mod kafka;
mod load;
mod machine;
mod mixes;
mod noop;
mod peers;
mod plain;
mod plot;
mod projections;
mod report;
mod scenarios;
mod servers;
mod shop;
mod spread;
mod tonic_bank;
mod transfers;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

use crate::load::Times;
use crate::machine::Machine;
use crate::report::Report;
use crate::scenarios::{Bench, Scenario};
use crate::servers::Programs;

/// That of daybook, so that what it is compared with has the same.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The longest warm-up before a window.
const WARM_UP: Duration = Duration::from_secs(1);

/// The argument with which this program is the ceiling instead.
const NOOP_SERVER: &str = "noop-server";

/// The argument with which this program is the ceiling of whatever is durable; see [`durable`].
const DURABLE_SERVER: &str = "durable-server";

/// The argument with which this program reads a topic and does nothing with it: a broker and the
/// topic follow.
const CONSUMER: &str = "consumer";

/// The argument with which this program is the plain design instead; its directory follows.
const PLAIN_SERVER: &str = "plain-server";

/// Measures daybook, each load beside a ceiling of the same machine at the same time.
#[derive(Debug, Parser)]
#[command(name = "daybook-bench", version)]
struct Cli {
    /// What to measure; everything when left out
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// How long each window is
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    seconds: f64,
    /// Of how many windows a figure is the median
    #[arg(long, value_name = "N", default_value_t = 5)]
    windows: usize,
    /// The server to measure [default: `daybook` beside this program]
    #[arg(long, value_name = "FILE")]
    server: Option<PathBuf>,
    /// Where data go, on the disk to measure [default: beside this program]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A Kafka broker to measure with
    #[arg(long, value_name = "HOST:PORT")]
    brokers: Option<String>,
    /// Start a Kafka broker, as the tests do, and measure with it
    #[arg(long)]
    kafka: bool,
    /// The commands a second while it is measured when they become visible
    #[arg(long, value_name = "RATE", default_value_t = 1000)]
    visible_rate: u64,
    /// How many events the big store has, a tenth as many accounts; 10,000,000 take 4 GB and
    /// minutes
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    big_events: u64,
    /// Also draw the figures as SVG files into a directory
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Draw the figures of an earlier run, and measure nothing
    #[arg(long, value_name = "FILE", requires = "plots")]
    from_json: Option<PathBuf>,
    /// Also write the figures to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [NOOP_SERVER] => return noop::serve().await,
        [PLAIN_SERVER, directory] => return plain::serve(directory.as_ref()).await,
        [DURABLE_SERVER, directory, ..] => {
            let (medium, sink) = durable::arguments(&arguments[2..])?;
            return durable::serve(directory.as_ref(), medium, sink).await;
        }
        [CONSUMER, brokers, topic] => return kafka::consume(brokers, topic, None),
        [CONSUMER, brokers, topic, directory] => {
            return kafka::consume(brokers, topic, Some(directory.as_ref()));
        }
        _ => {}
    }
    let cli = Cli::parse();
    ensure!(
        cli.seconds > 0.0 && cli.windows > 0 && cli.visible_rate > 0,
        "--seconds, --windows and --visible-rate must be above 0"
    );
    if let (Some(file), Some(directory)) = (&cli.from_json, &cli.plots) {
        let json = std::fs::read(file).with_context(|| format!("{}", file.display()))?;
        return plot::draw(&serde_json::from_slice(&json)?, directory);
    }
    let programs = Programs::find(cli.server, cli.dir)?;
    let window = Duration::from_secs_f64(cli.seconds);
    let report = Report {
        machine: Machine::this(),
        window_seconds: cli.seconds,
        windows: cli.windows,
        rows: Vec::new(),
        figures: Vec::new(),
        floors: Vec::new(),
        series: Vec::new(),
    };
    let mut bench = Bench {
        programs,
        noop: noop::Process::start([NOOP_SERVER])?,
        times: Times { warm_up: WARM_UP.min(window / 2), window },
        windows: cli.windows,
        brokers: cli.brokers,
        start_broker: cli.kafka,
        visible_rate: cli.visible_rate,
        big_events: cli.big_events,
        report,
    };
    let scenarios = match cli.scenarios.is_empty() {
        true => Scenario::value_variants().to_vec(),
        false => cli.scenarios,
    };
    for scenario in scenarios {
        bench.run(scenario).await.with_context(|| format!("scenario {scenario:?}"))?;
    }
    println!("{}", bench.report.text());
    if let Some(file) = cli.json {
        let json = serde_json::to_string_pretty(&bench.report)?;
        std::fs::write(&file, json)
            .with_context(|| format!("{} is not written", file.display()))?;
    }
    if let Some(directory) = cli.plots {
        plot::draw(&bench.report, &directory)?;
    }
    Ok(())
}
