//! What the system tests share: places where processes of `daybook` run, clients, money.

use std::time::Duration;

use daybook_client::{Daybook as Client, Error, LONGEST_WAIT, Money, StoredEvent};
use daybook_contract::bank::v1::command_service_client::CommandServiceClient as BankCommands;
use daybook_contract::daybook::v1::ReadAllRequest;
use daybook_contract::daybook::v1::event_log_service_client::EventLogServiceClient as EventLog;
use daybook_testing::{Broker, Daybook as Process, Ports, TempDir, giving_way, tempdir};
use futures::TryStreamExt;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// A guard against hanging; nothing is measured with it.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The program: that of `DAYBOOK_BIN`, or the one that was built for the tests.
fn binary() -> String {
    std::env::var("DAYBOOK_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_daybook").to_owned())
}

/// A data directory and ports, where processes come and go. Waiting for a process blocks the
/// thread: a test that ends one in good order needs another thread for its client, which has to
/// answer the farewell (`flavor = "multi_thread"`).
pub struct Site {
    /// The directory.
    pub data: TempDir,
    /// The ports.
    pub ports: Ports,
}

impl Site {
    /// A fresh one.
    pub fn new() -> Self {
        Self { data: tempdir().unwrap(), ports: Ports::free() }
    }

    /// Starts `daybook MODE` here and waits until it is ready.
    pub fn start(&self, mode: &str, more: &[&str]) -> Process {
        Process::start(&binary(), mode, self.data.path(), self.ports, more)
    }

    /// Starts it as a process that gives way to others, and waits until it is ready.
    pub fn start_giving_way(&self, mode: &str, more: &[&str]) -> Process {
        let command = giving_way(binary());
        Process::spawn_as(command, mode, self.data.path(), self.ports, more).until_ready()
    }

    /// Starts it without waiting.
    pub fn spawn(&self, mode: &str, more: &[&str]) -> Process {
        Process::spawn(&binary(), mode, self.data.path(), self.ports, more)
    }

    /// A client that retries.
    pub fn client(&self) -> Client {
        self.client_with_attempts(5)
    }

    /// A client that sends everything once, so that a test sees each answer.
    pub fn strict_client(&self) -> Client {
        self.client_with_attempts(1)
    }

    /// A client that sends everything at most so often.
    pub fn client_with_attempts(&self, attempts: u32) -> Client {
        Client::builder()
            .command_url(self.ports.command_url())
            .query_url(self.ports.query_url())
            .saga_url(self.ports.saga_url())
            .deadline(PATIENCE)
            .max_wait(LONGEST_WAIT)
            .max_attempts(attempts)
            .build()
            .unwrap()
    }

    /// The generated client of the bank's commands.
    pub fn bank_commands(&self) -> BankCommands<Channel> {
        BankCommands::new(channel(self.ports.command_url()))
    }

    /// The generated client of the event log.
    pub fn event_log(&self) -> EventLog<Channel> {
        EventLog::new(channel(self.ports.command_url()))
    }
}

/// The flags of a process over Kafka. The topics are divided, so that events of different streams
/// come in another order than that of the log.
pub fn over_kafka<'a>(broker: &'a Broker, prefix: &'a str) -> [&'a str; 6] {
    let brokers = &broker.bootstrap;
    ["--brokers", brokers, "--topic-prefix", prefix, "--topic-partitions", DIVIDED]
}

/// The partitions of such a topic.
pub const DIVIDED: &str = "3";

/// A connection that is made when it is first needed.
pub fn channel(url: String) -> Channel {
    Endpoint::from_shared(url).unwrap().connect_lazy()
}

/// An amount in cents.
pub fn usd(minor: i64) -> Money {
    let (units, cents) = (minor / 100, minor % 100);
    let nanos = i32::try_from(cents * 10_000_000).unwrap();
    Money { currency_code: "USD".into(), units, nanos }
}

/// An amount of two-digit minor units back in minor units.
pub fn minor(money: &Money) -> i64 {
    money.units * 100 + i64::from(money.nanos) / 10_000_000
}

/// What went wrong, as the contract says it.
pub fn error(status: Status) -> Error {
    Error::from(&status)
}

/// The position of the end of the log.
pub async fn head(client: &Client) -> u64 {
    client.events().info().await.unwrap().head_position
}

/// Every event of the log, in order.
pub async fn everything(client: &Client) -> Vec<StoredEvent> {
    client.events().read_all(ReadAllRequest::default()).try_collect().await.unwrap()
}

/// An amount in euro cents.
pub fn eur(minor: i64) -> Money {
    Money { currency_code: "EUR".into(), ..usd(minor) }
}
