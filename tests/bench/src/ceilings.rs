//! Ceilings: servers and loops that do one part of daybook's work and nothing else.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use daybook_testing::{TempDir, unique};
use rusqlite::Connection;

use crate::bank::{ACCOUNTS, CommandPipe, Deposits, Random, WINDOW, WriteAndRead};
use crate::durable::MediumKind;
use crate::kafka::{self, Arrivals};
use crate::load::{self, Window};
use crate::report::{Row, Summary, median};
use crate::scenarios::{Bench, CLIENTS, EVENLY, Kafka, any_account};
use crate::{CONSUMER, DURABLE_SERVER, noop};

/// How long a record may take through Kafka.
const PATIENCE: Duration = Duration::from_secs(30);

/// The rows that are written to see what SQLite takes.
const ROWS: i64 = 400_000;

/// The rows of a transaction, about as many as projections gather when they are far behind.
const ROWS_AT_ONCE: usize = 20_000;

/// The rows of a statement.
const ROWS_OF_A_STATEMENT: usize = 20;

/// Tables for movements of accounts: the least that keeps them, and one in which those of an account
/// can be found.
const TABLES: [(&str, &str); 2] = [
    (
        "rows at the end of a table",
        "CREATE TABLE rows (position INTEGER PRIMARY KEY, account INTEGER NOT NULL,
                            kind INTEGER NOT NULL, content BLOB NOT NULL)",
    ),
    (
        "rows by account",
        "CREATE TABLE rows (position INTEGER NOT NULL, account INTEGER NOT NULL,
                            kind INTEGER NOT NULL, content BLOB NOT NULL,
                            PRIMARY KEY (account, position)) WITHOUT ROWID",
    ),
];

impl Bench {
    /// Deposits, in turns with servers that make them durable and do nothing else.
    pub async fn ceilings(&mut self) -> Result<()> {
        let system = self.commands().await?;
        let file = self.durable(MediumKind::File)?;
        let sqlite = self.durable(MediumKind::Sqlite)?;
        for clients in CLIENTS {
            let [mut none, mut bytes, mut rows, mut own] = [(); 4].map(|()| Vec::new());
            for _ in 0..self.windows {
                none.push(self.noop_deposits(clients).await?);
                bytes.push(self.durable_deposits(&file, clients).await?);
                rows.push(self.durable_deposits(&sqlite, clients).await?);
                own.push(self.deposits(&system, clients, &EVENLY).await?);
            }
            self.compare(&format!("{clients} clients"), "Deposit", [none, bytes, rows, own]);
        }
        let [mut none, mut bytes, mut rows, mut own] = [(); 4].map(|()| Vec::new());
        for _ in 0..self.windows {
            none.push(self.piped(&self.noop.url, &[self.noop.id()]).await?);
            bytes.push(self.piped(file.url(), &file.ids()).await?);
            rows.push(self.piped(sqlite.url(), &sqlite.ids()).await?);
            own.push(self.piped(&system.ports.command_url(), &system.ids()).await?);
        }
        self.compare("1 stream", "ExecuteStream", [none, bytes, rows, own]);
        Ok(())
    }

    /// What durability costs, and what daybook adds.
    fn compare(&mut self, load: &str, what: &str, windows: [Vec<Window>; 4]) {
        let [none, bytes, rows, own] = windows.map(|windows| self.summary(windows));
        let beside = |name: &str, own, ceiling: &str, summary| {
            Row::beside(format!("{name}, {load}"), own, ceiling, summary)
        };
        self.row(beside("durable in a file alone", bytes, "no-op", none.clone()));
        self.row(beside("durable in SQLite alone", rows.clone(), "no-op", none));
        self.row(beside(what, own, "durable in SQLite alone", rows));
    }

    async fn piped(&self, url: &str, ids: &[u32]) -> Result<Window> {
        let pipes = CommandPipe::pipes(url, 1).await?;
        load::pipelined(pipes, WINDOW, self.times, ids).await
    }

    /// A server that makes commands durable.
    pub(crate) fn durable(&self, kind: MediumKind) -> Result<Durable> {
        let data = self.programs.fresh()?;
        let server = durable_server(&data, kind, &[])?;
        Ok(Durable { server, consumer: None, _data: data })
    }

    /// The same with SQLite and a producer, and a process that reads what it publishes, and writes rows
    /// of it or not.
    pub(crate) async fn durable_over(&self, broker: &Kafka, rows: bool) -> Result<Durable> {
        let data = self.programs.fresh()?;
        let topic = unique("bench-ceiling");
        kafka::make_topic(&broker.bootstrap, &topic).await?;
        let at = [broker.bootstrap.as_str(), &topic];
        let directory = data.path().to_string_lossy();
        let more = rows.then_some(directory.as_ref());
        let consumer = [CONSUMER, at[0], at[1]].into_iter().chain(more);
        let consumer = Some(noop::Process::start(consumer)?);
        let server = durable_server(&data, MediumKind::Sqlite, &at)?;
        Ok(Durable { server, consumer, _data: data })
    }

    /// From the receipt of a deposit until a query after it is answered, where nothing is done but what
    /// anybody would have to: the deposit is durable and on Kafka, a reader has it, and the query is
    /// a no-op.
    pub(crate) async fn visible_alone(&mut self, broker: &Kafka) -> Result<()> {
        let data = self.programs.fresh()?;
        let topic = unique("bench-visible");
        kafka::make_topic(&broker.bootstrap, &topic).await?;
        let at = [broker.bootstrap.as_str(), &topic];
        let server = durable_server(&data, MediumKind::Sqlite, &at)?;
        let arrivals = Arrivals::follow(at[0], at[1])?;
        let client = WriteAndRead::connect(&server.url, &self.noop.url).await?;
        let (mut windows, number) = (Vec::new(), Arc::new(AtomicI64::new(1)));
        for _ in 0..self.windows {
            let (client, arrivals) = (client.clone(), Arc::clone(&arrivals));
            let number = Arc::clone(&number);
            let request = move |due: Instant| {
                let (mut client, arrivals) = (client.clone(), Arc::clone(&arrivals));
                let units = number.fetch_add(1, Ordering::Relaxed);
                async move {
                    let arrived = arrivals.expect(units);
                    client.write_units(any_account(due), units).await?;
                    let received = Instant::now();
                    tokio::time::timeout(PATIENCE, arrived).await.context("it never came")??;
                    client.reached(0).await?;
                    Ok([received.elapsed()])
                }
            };
            let ids = [server.id(), self.noop.id()];
            let ([visible], window) =
                load::open(self.visible_rate, self.times, &ids, request).await?;
            windows.push((window, visible));
        }
        let name = "receipt → read, durable in SQLite and Kafka alone".to_owned();
        let measured = Summary::of(&windows, self.report.machine.processors);
        self.row(Row { name, measured, beside: None });
        Ok(())
    }

    pub(crate) async fn durable_deposits(
        &self,
        durable: &Durable,
        clients: usize,
    ) -> Result<Window> {
        let clients = Deposits::clients(durable.url(), clients, &EVENLY).await?;
        load::closed(clients, self.times, &durable.ids()).await
    }

    /// How many rows SQLite takes, of the shape of a movement of an account.
    pub(crate) fn rows(&mut self) -> Result<()> {
        for (how, table) in TABLES {
            let mut rates = Vec::new();
            for _ in 0..self.windows {
                rates.push(rows_a_second(self.programs.fresh()?.path(), table)?);
            }
            self.figure(&format!("SQLite alone, {how}"), median(rates), "rows/s");
        }
        Ok(())
    }
}

/// Writes [`ROWS`] into a new table, in the order of their positions.
fn rows_a_second(directory: &Path, table: &str) -> Result<f64> {
    let connection = Connection::open(directory.join("rows.db"))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA cache_size = -16384;
         PRAGMA wal_autocheckpoint = 8000;",
    )?;
    connection.execute_batch(table)?;
    let rows = ["(?, ?, 1, ?)"; ROWS_OF_A_STATEMENT].join(", ");
    let mut insert = connection.prepare(&format!("INSERT INTO rows VALUES {rows}"))?;
    let mut random = Random::new(0);
    let began = Instant::now();
    for first in (0..ROWS).step_by(ROWS_AT_ONCE) {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        for start in (first..first + ROWS_AT_ONCE as i64).step_by(ROWS_OF_A_STATEMENT) {
            for (at, position) in (0..ROWS_OF_A_STATEMENT).zip(start..) {
                insert.raw_bind_parameter(3 * at + 1, position)?;
                insert.raw_bind_parameter(3 * at + 2, random.below(ACCOUNTS) as i64)?;
                insert.raw_bind_parameter(3 * at + 3, [0x5a_u8; 64])?;
            }
            insert.raw_execute()?;
        }
        connection.execute_batch("COMMIT")?;
    }
    Ok(ROWS as f64 / began.elapsed().as_secs_f64())
}

/// A server that makes commands durable, and what reads what it publishes.
pub(crate) struct Durable {
    // Before the data: the processes end before their files go.
    server: noop::Process,
    consumer: Option<noop::Process>,
    _data: TempDir,
}

impl Durable {
    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.server.url
    }

    /// Whether all of its processes still do their work.
    pub(crate) fn is_running(&mut self) -> Result<bool> {
        let consumer = self.consumer.as_mut().map_or(Ok(true), noop::Process::is_running)?;
        Ok(consumer && self.server.is_running()?)
    }

    /// The ids of its processes.
    pub(crate) fn ids(&self) -> Vec<u32> {
        std::iter::once(&self.server).chain(&self.consumer).map(noop::Process::id).collect()
    }
}

fn durable_server(data: &TempDir, kind: MediumKind, more: &[&str]) -> Result<noop::Process> {
    let value = kind.to_possible_value();
    let name = value.as_ref().map_or("", |value| value.get_name());
    let arguments = [OsStr::new(DURABLE_SERVER), data.path().as_os_str(), OsStr::new(name)];
    noop::Process::start(arguments.into_iter().chain(more.iter().map(OsStr::new)))
}
