//! Loads that differ from the plain one in one thing: which accounts, how much in a request, what
//! else is asked, what else runs, and what is in memory.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use daybook_contract::daybook::v1::event_log_service_client::EventLogServiceClient;
use daybook_contract::daybook::v1::{
    AppendRequest, GetLogInfoRequest, NewEvent, RawPayload, new_event,
};
use daybook_testing::Ports;
use tonic::transport::Channel;

use crate::bank::{
    ACCOUNTS, Deposits, Random, Reads, WriteAndRead, account, connect, connections, context,
    open_accounts, open_from,
};
use crate::load::{self, Client};
use crate::projections::{published, reached};
use crate::report::Row;
use crate::scenarios::{Bench, EVENLY, Kafka, MANY_CLIENTS};
use crate::servers::System;
use crate::spread::Spread;

/// The most events that a request to append may have.
const BATCH: usize = 100;

/// The clients that append batches.
const BATCH_CLIENTS: usize = 8;

/// The accounts that are not in memory: more than any window gets to.
const COLD_ACCOUNTS: u64 = 400_000;

/// Of how many operations one is a deposit, where reads are mixed with them.
const MIX: u64 = 5;

impl Bench {
    /// Deposits to accounts of which few get most.
    pub async fn zipf(&mut self) -> Result<()> {
        let system = self.commands().await?;
        let zipf = Spread::zipf(ACCOUNTS);
        let (mut own, mut spread) = (Vec::new(), Vec::new());
        for _ in 0..self.windows {
            spread.push(self.deposits(&system, MANY_CLIENTS, &EVENLY).await?);
            own.push(self.deposits(&system, MANY_CLIENTS, &zipf).await?);
        }
        let (own, spread) = (self.summary(own), self.summary(spread));
        let name = format!("Deposit, {MANY_CLIENTS} clients, Zipf");
        self.row(Row::beside(name, own, "10,000 accounts", spread));
        Ok(())
    }

    /// Many events in a request.
    pub async fn batches(&mut self) -> Result<()> {
        let system = self.commands().await?;
        let url = system.ports.command_url();
        let (mut own, mut single) = (Vec::new(), Vec::new());
        for _ in 0..self.windows {
            let clients = Appends::clients(&url, BATCH_CLIENTS, 1).await?;
            single.push(load::closed(clients, self.times, &system.ids()).await?);
            let clients = Appends::clients(&url, BATCH_CLIENTS, BATCH).await?;
            own.push(load::closed(clients, self.times, &system.ids()).await?);
        }
        let (own, single) = (self.summary(own), self.summary(single));
        let events = own.rate * BATCH as f64;
        self.figure(
            &format!("Append of {BATCH} events, {BATCH_CLIENTS} clients"),
            events,
            "events/s",
        );
        let name = format!("Append of {BATCH} events, {BATCH_CLIENTS} clients");
        self.row(Row::beside(name, own, "Append of 1", single));
        Ok(())
    }

    /// Commands and reads.
    pub async fn mixed(&mut self) -> Result<()> {
        let system = self.programs.single("dev")?;
        let (command, query) = (system.ports.command_url(), system.ports.query_url());
        let position = open_accounts(&command).await?;
        WriteAndRead::connect(&command, &query).await?.reached(position).await?;
        let noop = &self.noop;
        let (mut own, mut ceiling) = (Vec::new(), Vec::new());
        for _ in 0..self.windows {
            let clients = Mixed::clients(&noop.url, &noop.url).await?;
            ceiling.push(load::closed(clients, self.times, &[noop.id()]).await?);
            let clients = Mixed::clients(&command, &query).await?;
            own.push(load::closed(clients, self.times, &system.ids()).await?);
        }
        let (own, ceiling) = (self.summary(own), self.summary(ceiling));
        let name = format!("1 Deposit to {} GetAccount, {MANY_CLIENTS} clients", MIX - 1);
        self.row(Row::beside(name, own, "no-op unary", ceiling));
        Ok(())
    }

    /// The whole way of the events beside the log alone.
    pub async fn publish(&mut self) -> Result<()> {
        let embedded = self.programs.single("dev")?;
        self.publish_in(&embedded, "projections", false).await?;
        drop(embedded);
        let Some(kafka) = self.kafka().await? else { return Ok(()) };
        self.publish_alone(&kafka, false).await?;
        self.publish_alone(&kafka, true).await?;
        for (gives_way, what) in
            [(false, "Kafka and projections"), (true, "Kafka and projections, which give way")]
        {
            let whole = self.programs.over_kafka(&kafka.bootstrap, gives_way)?;
            self.publish_in(&whole, what, true).await?;
        }
        Ok(())
    }

    /// The ceiling of what publishes: commands made durable, published and consumed, written as rows or
    /// not, and nothing else.
    async fn publish_alone(&mut self, kafka: &Kafka, rows: bool) -> Result<()> {
        let mut durable = self.durable_over(kafka, rows).await?;
        let what = if rows { "SQLite, Kafka and rows" } else { "SQLite and Kafka" };
        for clients in [MANY_CLIENTS, 256] {
            let (mut own, mut ceiling) = (Vec::new(), Vec::new());
            for _ in 0..self.windows {
                ceiling.push(self.noop_deposits(clients).await?);
                own.push(self.durable_deposits(&durable, clients).await?);
                // What is under way is published meanwhile.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            ensure!(durable.is_running()?, "the ceiling has ended, or its reader");
            let (own, ceiling) = (self.summary(own), self.summary(ceiling));
            let name = format!("durable in {what} alone, {clients} clients");
            self.row(Row::beside(name, own, "no-op unary", ceiling));
        }
        Ok(())
    }

    async fn publish_in(&mut self, whole: &System, what: &str, publishes: bool) -> Result<()> {
        let alone = self.commands().await?;
        let position = open_accounts(&whole.ports.command_url()).await?;
        reached(&whole.ports.query_url(), position).await.with_context(|| whole.log_lines())?;
        for clients in [MANY_CLIENTS, 256] {
            let (mut own, mut log_only, mut ceiling) = (Vec::new(), Vec::new(), Vec::new());
            let (mut unpublished, mut unprojected) = (0, 0);
            for _ in 0..self.windows {
                ceiling.push(self.noop_deposits(clients).await?);
                log_only.push(self.deposits(&alone, clients, &EVENLY).await?);
                own.push(self.deposits(whole, clients, &EVENLY).await?);
                let behind = self.settle(whole, publishes).await?;
                unpublished = unpublished.max(behind.unpublished);
                unprojected = unprojected.max(behind.unprojected);
            }
            let (own, log_only) = (self.summary(own), self.summary(log_only));
            let ceiling = self.summary(ceiling);
            let name = format!("Deposit, {clients} clients, {what}");
            if publishes {
                let figure = format!("{name}: most events not published");
                self.figure(&figure, unpublished as f64, "events");
            }
            let figure = format!("{name}: most events not projected");
            self.figure(&figure, unprojected as f64, "events");
            let row = Row::beside(name.clone(), own.clone(), "no-op unary", ceiling);
            self.share(&format!("{name}, of no-op"), &row, 40.0);
            self.row(row);
            self.row(Row::beside(name, own, "log only", log_only));
        }
        Ok(())
    }

    /// Waits until what was recorded is published and projected. Says how many events were not when
    /// the load ended.
    async fn settle(&self, system: &System, publishes: bool) -> Result<Behind> {
        let url = system.ports.command_url();
        let mut log = EventLogServiceClient::new(connect(&url).await?);
        let info = log.get_log_info(GetLogInfoRequest {}).await?.into_inner();
        let head = info.head_position;
        let lowest = crate::projections::lowest(&system.ports.query_url()).await?;
        let behind = Behind {
            unpublished: head.saturating_sub(info.published_position),
            unprojected: head.saturating_sub(lowest),
        };
        if publishes {
            published(&url, head).await?;
        }
        reached(&system.ports.query_url(), head).await?;
        Ok(behind)
    }

    /// Aggregates that are not in memory.
    pub async fn cold(&mut self) -> Result<()> {
        let data = self.programs.fresh()?;
        let ports = Ports::free();
        let filling = self.programs.start("command", data.path(), ports, &[]).daybook;
        open_from(&ports.command_url(), 0, COLD_ACCOUNTS).await?;
        ensure!(filling.terminate().success(), "the command process did not end well");
        let warm = self.commands().await?;
        let (mut own, mut known) = (Vec::new(), Vec::new());
        for _ in 0..self.windows {
            known.push(self.deposits(&warm, MANY_CLIENTS, &EVENLY).await?);
            // A new process has nothing in memory.
            let started = self.programs.start("command", data.path(), ports, &[]).daybook;
            let cold = Spread::in_turn(COLD_ACCOUNTS);
            let clients = Deposits::clients(&ports.command_url(), MANY_CLIENTS, &cold).await?;
            own.push(load::closed(clients, self.times, &[started.id()]).await?);
            ensure!(cold.taken() <= COLD_ACCOUNTS, "the window is too long for the cold accounts");
        }
        let (own, known) = (self.summary(own), self.summary(known));
        let name = format!("Deposit, {MANY_CLIENTS} clients, accounts not in memory");
        self.row(Row::beside(name, own, "10,000 in memory", known));
        Ok(())
    }
}

/// How many events were not everywhere when a load ended.
struct Behind {
    unpublished: u64,
    unprojected: u64,
}

/// Appends events to streams of no aggregate.
struct Appends {
    client: EventLogServiceClient<Channel>,
    random: Random,
    events: usize,
}

impl Appends {
    async fn clients(url: &str, count: usize, events: usize) -> Result<Vec<Self>> {
        let channels = connections(url, count).await?;
        let clients = (0..count).zip(channels.iter().cycle()).map(|(number, channel)| Self {
            client: EventLogServiceClient::new(channel.clone()),
            random: Random::new(number as u64),
            events,
        });
        Ok(clients.collect())
    }
}

impl Client for Appends {
    async fn call(&mut self) -> Result<()> {
        let raw = RawPayload {
            content_type: "application/json".to_owned(),
            data: br#"{"amount":{"currency":"USD","units":1},"for":"x"}"#.as_slice().into(),
        };
        let event = NewEvent {
            event_name: "Measured".to_owned(),
            event_version: 1,
            payload: Some(new_event::Payload::Raw(raw)),
        };
        let request = AppendRequest {
            context: context(),
            stream: format!("measured-{}", account(self.random.below(ACCOUNTS))),
            events: vec![event; self.events],
        };
        self.client.append(request).await.context("an append failed")?;
        Ok(())
    }
}

/// Deposits and reads by turns of chance.
struct Mixed {
    deposits: Deposits,
    reads: Reads,
    random: Random,
}

impl Mixed {
    async fn clients(command_url: &str, query_url: &str) -> Result<Vec<Self>> {
        let deposits = Deposits::clients(command_url, MANY_CLIENTS, &EVENLY).await?;
        let reads = Reads::clients(query_url, MANY_CLIENTS).await?;
        let each = deposits.into_iter().zip(reads).zip(0..);
        Ok(each
            .map(|((deposits, reads), seed)| Self { deposits, reads, random: Random::new(seed) })
            .collect())
    }
}

impl Client for Mixed {
    async fn call(&mut self) -> Result<()> {
        match self.random.below(MIX) {
            0 => self.deposits.call().await,
            _ => self.reads.call().await,
        }
    }
}
