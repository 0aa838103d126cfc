//! What is measured. Each scenario runs in turns with what it is compared with, so that whatever
//! else happens on the machine happens to both.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use daybook_testing::{Broker, Ports};

use crate::bank::{
    ACCOUNTS, CommandPipe, Deposits, Random, Reads, WINDOW, Waiting, WriteAndRead, account,
    open_accounts,
};
use crate::durable::MediumKind;
use crate::kafka;
use crate::load::{self, Times, Window};
use crate::machine;
use crate::noop;
use crate::report::{Figure, Floor, Report, Row, Summary, median, milliseconds};
use crate::servers::{Programs, System};
use crate::spread::Spread;

/// The clients of the unary load.
pub(crate) const CLIENTS: [usize; 4] = [1, 8, 64, 256];

/// The clients of the comparisons that need only one number.
pub(crate) const MANY_CLIENTS: usize = 64;

/// The streams of the load on ExecuteStream.
const STREAMS: [u64; 2] = [1, 4];

/// The accounts of most loads.
pub(crate) const EVENLY: Spread = Spread::Evenly(ACCOUNTS);

/// How long an idle process is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(10);

/// A thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// How long the disk takes for 4 KiB.
    Disk,
    /// Deposits to 10,000 accounts by 1, 8, 64 and 256 clients.
    Unary,
    /// The same beside servers that are durable and do nothing else.
    Ceilings,
    /// The same, beside UmaDB (when it is built) and the plain design.
    Peers,
    /// Deposits to one account, beside 10,000.
    Hot,
    /// Deposits over ExecuteStream.
    Stream,
    /// Deposits to accounts in a Zipf distribution, beside 10,000 evenly.
    Zipf,
    /// Appends of 100 events in a request, beside deposits.
    Batches,
    /// One deposit to four reads, on commands and projections in one process.
    Mixed,
    /// Deposits while events are published to Kafka and projected, beside the log alone.
    Publish,
    /// Deposits to accounts that are not in memory, beside ones that are.
    Cold,
    /// The latency of deposits at half of the highest rate.
    Latency,
    /// The time from a receipt until GetAccount shows it.
    Visible,
    /// Accounts read by 64 clients.
    Read,
    /// Transfers until they are completed, beside a withdrawal and a deposit.
    Transfers,
    /// Pages of lists over a million rows.
    Lists,
    /// Orders read by 64 clients.
    GetOrder,
    /// Searches over 100,000 products.
    Search,
    /// Projections that catch up from the log, and from Kafka.
    CatchUp,
    /// Projections that are built anew.
    Rebuild,
    /// The memory of an idle system.
    Memory,
    /// The time to start.
    Start,
    /// A store that grows to --big-events: rates, size, memory, start.
    Big,
}

/// A broker, which ends with this when it was started for it.
pub(crate) struct Kafka {
    /// Where it is.
    pub bootstrap: String,
    _started: Option<Broker>,
}

/// What the scenarios of a run share.
pub struct Bench {
    /// Where the programs are.
    pub programs: Programs,
    /// The ceiling.
    pub noop: noop::Process,
    /// How long a window is.
    pub times: Times,
    /// How many windows there are.
    pub windows: usize,
    /// A broker to measure with, `HOST:PORT`.
    pub brokers: Option<String>,
    /// Whether to start a broker, when none is given.
    pub start_broker: bool,
    /// The commands a second while it is measured when they become visible.
    pub visible_rate: u64,
    /// How many events a big store has.
    pub big_events: u64,
    /// What came out so far.
    pub report: Report,
}

impl Bench {
    /// Runs one scenario.
    pub async fn run(&mut self, scenario: Scenario) -> Result<()> {
        match scenario {
            Scenario::Disk => self.disk(),
            Scenario::Unary => self.unary().await,
            Scenario::Ceilings => self.ceilings().await,
            Scenario::Peers => self.peers().await,
            Scenario::Hot => self.hot().await,
            Scenario::Stream => self.stream().await,
            Scenario::Zipf => self.zipf().await,
            Scenario::Batches => self.batches().await,
            Scenario::Mixed => self.mixed().await,
            Scenario::Publish => self.publish().await,
            Scenario::Cold => self.cold().await,
            Scenario::Latency => self.latency().await,
            Scenario::Visible => self.visible().await,
            Scenario::Read => self.read().await,
            Scenario::Transfers => self.transfers().await,
            Scenario::Lists => self.lists().await,
            Scenario::GetOrder => self.get_order().await,
            Scenario::Search => self.search().await,
            Scenario::CatchUp => self.catch_up().await,
            Scenario::Rebuild => self.rebuild().await,
            Scenario::Memory => self.memory().await,
            Scenario::Start => self.start().await,
            Scenario::Big => self.big().await,
        }
    }

    fn disk(&mut self) -> Result<()> {
        let directory = self.programs.fresh()?;
        let mut medians = Vec::new();
        for _ in 0..self.windows {
            let latency = machine::fdatasync(directory.path(), self.times.window)?;
            medians.push(milliseconds(&latency, 0.5));
        }
        self.figure("fdatasync of 4 KiB, median", median(medians), "ms");
        Ok(())
    }

    async fn unary(&mut self) -> Result<()> {
        let system = self.commands().await?;
        for clients in CLIENTS {
            let (mut own, mut ceiling) = (Vec::new(), Vec::new());
            for _ in 0..self.windows {
                ceiling.push(self.noop_deposits(clients).await?);
                own.push(self.deposits(&system, clients, &EVENLY).await?);
            }
            let (own, ceiling) = (self.summary(own), self.summary(ceiling));
            let name = format!("Deposit, {clients} clients");
            let row = Row::beside(name, own, "no-op unary", ceiling);
            if clients >= MANY_CLIENTS {
                self.share(&format!("Deposit by {clients} clients, of no-op"), &row, 65.0);
            }
            self.row(row);
        }
        Ok(())
    }

    async fn hot(&mut self) -> Result<()> {
        let system = self.commands().await?;
        let (mut hot, mut spread) = (Vec::new(), Vec::new());
        for _ in 0..self.windows {
            spread.push(self.deposits(&system, MANY_CLIENTS, &EVENLY).await?);
            hot.push(self.deposits(&system, MANY_CLIENTS, &Spread::Evenly(1)).await?);
        }
        let (hot, spread) = (self.summary(hot), self.summary(spread));
        let name = "Deposit, 64 clients, one account".to_owned();
        let row = Row::beside(name, hot, "10,000 accounts", spread);
        self.share("one hot account, of 10,000", &row, 95.0);
        self.row(row);
        Ok(())
    }

    async fn stream(&mut self) -> Result<()> {
        let system = self.commands().await?;
        for streams in STREAMS {
            let (mut own, mut ceiling) = (Vec::new(), Vec::new());
            for _ in 0..self.windows {
                let pipes = CommandPipe::pipes(&self.noop.url, streams).await?;
                let noop = [self.noop.id()];
                ceiling.push(load::pipelined(pipes, WINDOW, self.times, &noop).await?);
                let pipes = CommandPipe::pipes(&system.ports.command_url(), streams).await?;
                own.push(load::pipelined(pipes, WINDOW, self.times, &system.ids()).await?);
            }
            let (own, ceiling) = (self.summary(own), self.summary(ceiling));
            if streams == STREAMS[0] {
                let rate = own.rate;
                self.floor("ExecuteStream", "≥ 150,000/s", rate, rate >= 150_000.0);
            }
            let name = match streams {
                1 => "ExecuteStream, 1 stream".to_owned(),
                many => format!("ExecuteStream, {many} streams"),
            };
            self.row(Row::beside(name, own, "no-op stream", ceiling));
        }
        Ok(())
    }

    async fn latency(&mut self) -> Result<()> {
        let system = self.commands().await?;
        let durable = self.durable(MediumKind::Sqlite)?;
        let mut highest: f64 = 0.0;
        for clients in CLIENTS.into_iter().filter(|clients| *clients >= MANY_CLIENTS) {
            highest = highest.max(self.deposits(&system, clients, &EVENLY).await?.rate());
        }
        let rate = (highest / 2.0) as u64;
        let url = system.ports.command_url();
        let (mut own, mut alone, mut noop) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.windows {
            noop.push(self.open_deposits(&self.noop.url, &[self.noop.id()], rate).await?);
            alone.push(self.open_deposits(durable.url(), &durable.ids(), rate).await?);
            own.push(self.open_deposits(&url, &system.ids(), rate).await?);
        }
        let measured = self.summary(own);
        let p99 = measured.p99_ms;
        self.floor("a deposit at half of the rate", "p99 ≤ 5 ms", p99, p99 <= 5.0);
        let name = format!("Deposit, open loop, {rate}/s");
        self.row(Row { name, measured, beside: None });
        for (what, windows) in [("durable in SQLite alone", alone), ("no-op", noop)] {
            let name = format!("{what}, open loop, {rate}/s");
            let measured = self.summary(windows);
            self.row(Row { name, measured, beside: None });
        }
        Ok(())
    }

    /// Deposits at a rate, whether or not the server keeps up.
    async fn open_deposits(&self, url: &str, ids: &[u32], rate: u64) -> Result<Window> {
        let client = WriteAndRead::connect(url, url).await?;
        let request = move |due: Instant| {
            let mut client = client.clone();
            async move {
                client.write(any_account(due)).await?;
                Ok([due.elapsed()])
            }
        };
        let ([_], window) = load::open(rate, self.times, ids, request).await?;
        Ok(window)
    }

    async fn visible(&mut self) -> Result<()> {
        let embedded = self.programs.single("dev")?;
        self.visible_in(embedded, "embedded", [3.0, 15.0]).await?;
        let Some(kafka) = self.kafka().await? else { return Ok(()) };
        for (gives_way, how) in
            [(false, "over Kafka"), (true, "over Kafka, by projections which give way")]
        {
            let separate = self.programs.over_kafka(&kafka.bootstrap, gives_way)?;
            self.visible_in(separate, how, [8.0, 30.0]).await?;
        }
        self.visible_alone(&kafka).await
    }

    async fn visible_in(&mut self, system: System, how: &str, most: [f64; 2]) -> Result<()> {
        let position = open_accounts(&system.ports.command_url()).await?;
        let (command, query) = (system.ports.command_url(), system.ports.query_url());
        let mut client = WriteAndRead::connect(&command, &query).await?;
        client.reached(position).await.with_context(|| system.log_lines())?;
        for (waiting, with) in
            [(Waiting::MinPosition, "min_position"), (Waiting::Polling, "polling")]
        {
            let (mut whole, mut after_receipt) = (Vec::new(), Vec::new());
            for _ in 0..self.windows {
                let client = client.clone();
                let request = move |due: Instant| {
                    let mut client = client.clone();
                    async move {
                        let receipt = client.write(any_account(due)).await?;
                        let received = Instant::now();
                        client.read(&receipt, waiting).await?;
                        Ok([received.elapsed(), due.elapsed()])
                    }
                };
                let opened =
                    load::open(self.visible_rate, self.times, &system.ids(), request).await?;
                let ([visible, all], window) = opened;
                let same = Window { latency: all.clone(), ..window };
                whole.push(all);
                after_receipt.push((same, visible));
            }
            let measured = Summary::of(&after_receipt, self.report.machine.processors);
            if waiting == Waiting::MinPosition {
                for (quantile, milliseconds, most) in
                    [("median", measured.p50_ms, most[0]), ("p99", measured.p99_ms, most[1])]
                {
                    let what = format!("receipt → visible, {how}, {quantile}");
                    let floor = format!("≤ {most} ms");
                    self.floor(&what, &floor, milliseconds, milliseconds <= most);
                }
            }
            let name = format!("receipt → visible, {how}, {with}");
            self.row(Row { name, measured, beside: None });
            let all = median(whole.iter().map(|latency| milliseconds(latency, 0.5)).collect());
            self.figure(&format!("due → visible, {how}, {with}, median"), all, "ms");
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<()> {
        let system = self.programs.single("dev")?;
        let position = open_accounts(&system.ports.command_url()).await?;
        let (command, query) = (system.ports.command_url(), system.ports.query_url());
        WriteAndRead::connect(&command, &query).await?.reached(position).await?;
        let (mut own, mut ceiling) = (Vec::new(), Vec::new());
        for _ in 0..self.windows {
            let clients = Reads::clients(&self.noop.url, MANY_CLIENTS).await?;
            ceiling.push(load::closed(clients, self.times, &[self.noop.id()]).await?);
            let clients = Reads::clients(&query, MANY_CLIENTS).await?;
            own.push(load::closed(clients, self.times, &system.ids()).await?);
        }
        let (own, ceiling) = (self.summary(own), self.summary(ceiling));
        let name = format!("GetAccount, {MANY_CLIENTS} clients");
        let row = Row::beside(name, own, "no-op unary", ceiling);
        self.share("GetAccount, of no-op", &row, 80.0);
        self.row(row);
        Ok(())
    }

    async fn memory(&mut self) -> Result<()> {
        let system = self.programs.single("dev")?;
        tokio::time::sleep(IDLE).await;
        let idle = machine::memory(system.ids()[0])?;
        self.figure("dev, idle and empty: resident", idle.resident_mb, "MB");
        self.figure("dev, idle and empty: proportional", idle.proportional_mb, "MB");
        self.figure("dev, idle and empty: not from files", idle.anonymous_mb, "MB");
        let resident = idle.resident_mb;
        self.floor("memory of an idle `dev`", "< 60 MB", resident, resident < 60.0);
        let url = system.ports.command_url();
        open_accounts(&url).await?;
        self.deposits(&system, MANY_CLIENTS, &EVENLY).await?;
        let busy = machine::memory(system.ids()[0])?;
        self.figure("dev, after the load of one window: resident", busy.resident_mb, "MB");
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        let mut empty = Vec::new();
        let mut filled = Vec::new();
        for _ in 0..self.windows {
            let data = self.programs.fresh()?;
            empty.push(self.start_once(data.path(), true).await?);
            filled.push(self.start_once(data.path(), false).await?);
        }
        self.figure("dev, start to ready, no store yet", median(empty), "ms");
        let name = format!("dev, start to ready after a kill, {ACCOUNTS} events");
        self.figure(&name, median(filled), "ms");
        Ok(())
    }

    /// Starts `dev`, fills it if asked to, and kills it.
    async fn start_once(&self, data: &Path, fill: bool) -> Result<f64> {
        let ports = Ports::free();
        let started = self.programs.start("dev", data, ports, &[]);
        if fill {
            open_accounts(&ports.command_url()).await?;
        }
        Ok(started.took.as_secs_f64() * 1000.0)
    }

    /// The broker to measure with; `None` when none is wanted.
    pub(crate) async fn kafka(&self) -> Result<Option<Kafka>> {
        let kafka = match self.brokers.clone() {
            Some(bootstrap) => Kafka { bootstrap, _started: None },
            None if self.start_broker => {
                let started = Broker::start().await;
                Kafka { bootstrap: started.bootstrap.clone(), _started: Some(started) }
            }
            None => return Ok(None),
        };
        kafka::warm_up(&kafka.bootstrap).await?;
        Ok(Some(kafka))
    }

    /// A command process with the accounts of a load.
    pub(crate) async fn commands(&self) -> Result<System> {
        let system = self.programs.single("command")?;
        open_accounts(&system.ports.command_url()).await?;
        Ok(system)
    }

    pub(crate) async fn deposits(
        &self,
        system: &System,
        clients: usize,
        accounts: &Spread,
    ) -> Result<Window> {
        let clients = Deposits::clients(&system.ports.command_url(), clients, accounts).await?;
        load::closed(clients, self.times, &system.ids()).await
    }

    pub(crate) async fn noop_deposits(&self, clients: usize) -> Result<Window> {
        let clients = Deposits::clients(&self.noop.url, clients, &EVENLY).await?;
        load::closed(clients, self.times, &[self.noop.id()]).await
    }

    pub(crate) fn summary(&self, windows: Vec<Window>) -> Summary {
        Summary::of_windows(windows, self.report.machine.processors)
    }

    pub(crate) fn row(&mut self, row: Row) {
        eprintln!("{}: {:.0}/s", row.name, row.measured.rate);
        self.report.rows.push(row);
    }

    pub(crate) fn figure(&mut self, name: &str, value: f64, unit: &str) {
        eprintln!("{name}: {value:.2} {unit}");
        let (name, unit) = (name.to_owned(), unit.to_owned());
        self.report.figures.push(Figure { name, value, unit });
    }

    /// A floor of a ratio, in percent.
    pub(crate) fn share(&mut self, name: &str, row: &Row, floor: f64) {
        let percent = row.beside.as_ref().map_or(0.0, |beside| beside.ratio * 100.0);
        self.floor(name, &format!("≥ {floor} %"), percent, percent >= floor);
    }

    pub(crate) fn floor(&mut self, name: &str, floor: &str, measured: f64, reached: bool) {
        let (name, floor) = (name.to_owned(), floor.to_owned());
        self.report.floors.push(Floor { name, floor, measured, reached });
    }
}

/// An account by chance: the clock of a request that comes at its time is chance enough.
pub(crate) fn any_account(due: Instant) -> String {
    let seed = due.elapsed().as_nanos() as u64;
    account(Random::new(seed).below(ACCOUNTS))
}
