//! Much in the store: what it costs to write, to keep, to hold and to start, as it grows.

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use daybook_testing::Ports;

use crate::bank::{Deposits, deposit_in, open_from};
use crate::durable::MediumKind;
use crate::load::{self, Window};
use crate::machine::{self, Processor};
use crate::projections::head;
use crate::report::{Row, Series};
use crate::scenarios::{Bench, EVENLY, MANY_CLIENTS};
use crate::spread::Spread;

/// The events at the first point; each point after it has twice as many.
const FIRST: u64 = 10_000;

/// Of how many events one opens an account.
const EVENTS_PER_ACCOUNT: u64 = 10;

/// The most commands that the ceiling answers beside a point.
const CEILING: u64 = 200_000;

/// What the series of a growing store count: rates, and processor time of the server, which moves less
/// when others use the machine.
pub const RATE: &str = "commands/s";
pub const COST: &str = "µs of the server for a command";

/// The server that makes each command durable in SQLite and counts the commands of each account in
/// memory: what anybody needs who looks at an account with each.
const AT_LEAST: &str = "SQLite and a map of accounts alone, 1 stream";

/// What commands cost as a store grows, by its number of events.
#[derive(Default)]
struct Growth {
    rates: Vec<(f64, f64)>,
    costs: Vec<(f64, f64)>,
}

impl Growth {
    /// Adds so many events to a store, one by one, of servers with these ids, and says what it took.
    async fn step(&mut self, url: &str, ids: &[u32], events: Range<u64>) -> Result<String> {
        let [before, accounts] = [events.start, events.end].map(|at| at / EVENTS_PER_ACCOUNT);
        let [opened, all] = [accounts - before, events.end - events.start];
        let (began, used) = (Instant::now(), Processor::read(ids)?);
        open_from(url, before, opened).await?;
        deposit_in(url, &Spread::Evenly(accounts), all - opened).await?;
        let rate = all as f64 / began.elapsed().as_secs_f64();
        let cost = Processor::read(ids)?.since(&used).servers * 1e6 / all as f64;
        self.rates.push((events.end as f64, rate));
        self.costs.push((events.end as f64, cost));
        Ok(format!("{rate:.0}/s, {cost:.1} {COST}"))
    }
}

impl Bench {
    /// Fills a store, and looks at it on the way and at the end.
    pub async fn big(&mut self) -> Result<()> {
        let (data, ports) = (self.programs.fresh()?, Ports::free());
        let url = ports.command_url();
        let process = self.programs.start("command", data.path(), ports, &[]).daybook;
        let least = self.durable(MediumKind::Accounts)?;
        let (mut own, mut at_least) = (Growth::default(), Growth::default());
        let mut ceilings = Vec::new();
        let (mut events, mut next) = (0, FIRST);
        while events < self.big_events {
            let end = next.min(self.big_events);
            let name = format!("{end} events");
            let figures = own.step(&url, &[process.id()], events..end).await?;
            eprintln!("{name}: {figures}");
            let figures = at_least.step(least.url(), &least.ids(), events..end).await?;
            eprintln!("{name}, {AT_LEAST}: {figures}");
            let began = Instant::now();
            let commands = CEILING.min(end);
            deposit_in(&self.noop.url, &EVENLY, commands).await?;
            ceilings.push((end as f64, commands as f64 / began.elapsed().as_secs_f64()));
            (events, next) = (end, next * 2);
        }
        drop(least);
        self.series("no-op stream", RATE, ceilings);
        for (name, growth) in [(AT_LEAST, at_least), ("ExecuteStream, 1 stream", own)] {
            self.series(name, RATE, growth.rates);
            self.series(name, COST, growth.costs);
        }
        let all = Spread::Evenly(events / EVENTS_PER_ACCOUNT);
        let size = format!("{events} events, {} accounts", events / EVENTS_PER_ACCOUNT);

        self.big_rates(&size, ports, process.id(), &all).await?;
        let resident = machine::memory(process.id())?.resident_mb;
        self.figure(&format!("{size}: resident after the load"), resident, "MB");
        self.floor(&size, "≤ 400 MB resident", resident, resident <= 400.0);
        let log = head(&url).await?;
        ensure!(process.terminate().success(), "the command process did not end well");
        let each = bytes_in(data.path())? as f64 / log as f64;
        self.figure(&format!("{size}: on disk"), each, "bytes/event");
        self.floor(&size, "≤ 400 bytes an event", each, each <= 400.0);

        let started = self.programs.start("command", data.path(), ports, &[]);
        let seconds = started.took.as_secs_f64();
        self.figure(&format!("{size}: start to ready"), seconds * 1000.0, "ms");
        // What is not indexed yet is read again after a kill.
        deposit_in(&url, &all, FIRST).await?;
        drop(started);
        let started = self.programs.start("command", data.path(), ports, &[]);
        let after_kill = started.took.as_secs_f64();
        self.figure(&format!("{size}: start to ready after a kill"), after_kill * 1000.0, "ms");
        let slower = seconds.max(after_kill);
        self.floor(&size, "start ≤ 2 s", slower, slower <= 2.0);
        let resident = machine::memory(started.daybook.id())?.resident_mb;
        self.figure(&format!("{size}: resident after the start"), resident, "MB");
        Ok(())
    }

    /// Deposits beside the same in an empty store: to as many accounts, and to all.
    async fn big_rates(&mut self, size: &str, at: Ports, id: u32, all: &Spread) -> Result<()> {
        let empty = self.commands().await?;
        let url = at.command_url();
        let (mut few, mut many, mut beside) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.windows {
            beside.push(self.deposits(&empty, MANY_CLIENTS, &EVENLY).await?);
            few.push(self.deposits_at(&url, id, &EVENLY).await?);
            many.push(self.deposits_at(&url, id, all).await?);
        }
        let beside = self.summary(beside);
        for (windows, what) in [(few, "to 10,000 of them"), (many, "to all")] {
            let own = self.summary(windows);
            let name = format!("Deposit, {MANY_CLIENTS} clients, {size}, {what}");
            let row = Row::beside(name, own, "10,000 in an empty store", beside.clone());
            self.share(&format!("{size}, {what}, of an empty store"), &row, 85.0);
            self.row(row);
        }
        Ok(())
    }

    async fn deposits_at(&self, url: &str, id: u32, accounts: &Spread) -> Result<Window> {
        let clients = Deposits::clients(url, MANY_CLIENTS, accounts).await?;
        load::closed(clients, self.times, &[id]).await
    }

    fn series(&mut self, name: &str, unit: &str, points: Vec<(f64, f64)>) {
        let [name, x, y] = [name, "events in the store", unit].map(str::to_owned);
        self.report.series.push(Series { name, x, y, points });
    }
}

/// What the files below a directory take.
fn bytes_in(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in directory.read_dir().context("the data are gone")? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_in(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
