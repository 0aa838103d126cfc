//! A question that nobody thought of before: a new projection answers it over all that ever
//! happened, and the command side goes on as it is.

use std::path::Path;
use std::sync::Arc;

use daybook_bus::log::{GrpcLogReader, LogSourceFactory, connect};
use daybook_contract::bank::v1::account::Event;
use daybook_contract::contract::EventError;
use daybook_contract::daybook::v1::{ProjectionState, ProjectionStatus};
use daybook_domain::account::Account;
use daybook_query::projections::start_all;
use daybook_query::runtime::{
    ApplyError, EncodedEvent, Host, Projection, Recorded, Settings, start,
};
use daybook_testing::eventually;
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use crate::common::{PATIENCE, Site, head, minor, usd};

/// The largest deposit of each account, the first one included.
struct LargestDeposit;

daybook_query::rows! {
    /// The tables.
    pub struct Tables {
        largest: Largest in "largest",
    }

    /// An account.
    pub struct Largest {
        key { account: String }
        cents: i64,
    }
}

impl Projection for LargestDeposit {
    const NAME: &'static str = "largest_deposit";
    const VERSION: u32 = 1;
    const AGGREGATES: &'static [&'static str] = &["bank.account"];
    const SCHEMA: &'static str =
        "CREATE TABLE largest (account TEXT PRIMARY KEY, cents INTEGER NOT NULL)";
    type Tables = Tables;
    type Event = Event;

    fn decode(event: EncodedEvent<'_>) -> Result<Event, EventError> {
        event.decode::<Account>()
    }

    fn want(event: &Recorded<Event>, tables: &mut Tables) {
        tables.largest.want(event.aggregate_id.clone());
    }

    fn apply(event: &Recorded<Event>, tables: &mut Tables) -> Result<(), ApplyError> {
        let amount = match &event.event {
            Event::AccountOpened(opened) => opened.initial_balance.as_ref(),
            Event::MoneyDeposited(deposited) => deposited.amount.as_ref(),
            _ => None,
        };
        let Some(cents) = amount.map(minor) else { return Ok(()) };
        let account = event.aggregate_id.clone();
        let largest = tables.largest.edit(&account)?;
        if largest.as_ref().is_none_or(|largest| largest.cents < cents) {
            *largest = Some(Largest { account, cents });
        }
        Ok(())
    }
}

/// What the projection answers.
async fn largest(data: &Path) -> Vec<(String, i64)> {
    let generation = std::fs::read_to_string(data.join("largest_deposit.live")).unwrap();
    let file = data.join(format!("largest_deposit.g{}.db", generation.trim()));
    let options = SqliteConnectOptions::new().filename(file).read_only(true);
    let mut connection = options.connect().await.unwrap();
    let sql = "SELECT account, cents FROM largest ORDER BY account";
    sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap()
}

/// Waits until every projection is live and has all of the log.
async fn settled(host: &Host, head: u64) -> Vec<ProjectionStatus> {
    let check = || async {
        let statuses = host.statuses();
        let all = |status: &ProjectionStatus| {
            status.state() == ProjectionState::Live && status.position == head
        };
        statuses.iter().all(all).then_some(statuses)
    };
    eventually(PATIENCE, check).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_projection_answers_over_all_history_and_the_command_side_is_not_touched() {
    let site = Site::new();
    let mut command = site.start("command", &[]);
    let reader = Site { ports: site.ports.beside(), ..Site::new() };
    let query = reader.start("query", &[]);
    let client = site.client();
    client.open_account("Ada").account_id("ada").initial_balance(usd(70)).await.unwrap();
    client.open_account("Bob").account_id("bob").await.unwrap();
    for cents in [10, 90, 30] {
        client.deposit("ada", usd(cents)).await.unwrap();
        client.deposit("bob", usd(cents * 2)).await.unwrap();
    }
    let last = client.withdraw("ada", usd(150)).await.unwrap();
    client.get_account("ada").after(&last).await.unwrap();

    // The query side of a later program: the same files, and one projection more.
    assert!(query.terminate().success());
    let data = reader.data.path().join("query");
    let channel = connect(&site.ports.command_url()).unwrap();
    let source = Arc::new(LogSourceFactory::new(channel.clone()));
    let log = Arc::new(GrpcLogReader::new(channel));
    let start_all_and_one = |environment: &_| {
        let mut started = start_all(environment);
        started.push(start::<LargestDeposit>(environment));
        started
    };
    let host = Host::open(Settings::new(&data), source, log, start_all_and_one).unwrap();
    let statuses = settled(&host, head(&client).await).await;
    assert_eq!(largest(&data).await, [("ada".to_owned(), 90), ("bob".to_owned(), 180)]);
    // The old ones have gone on where they were; only the new one has read it all.
    let built: Vec<&str> =
        statuses.iter().filter(|s| s.rebuild.is_some()).map(|s| s.name.as_str()).collect();
    assert_eq!(built, ["largest_deposit"]);
    assert_eq!(statuses.len(), daybook_query::projections::NAMES.len() + 1);

    // It follows what the same command process goes on to record.
    client.deposit("ada", usd(100)).await.unwrap();
    client.deposit("bob", usd(100)).await.unwrap();
    settled(&host, head(&client).await).await;
    assert_eq!(largest(&data).await, [("ada".to_owned(), 100), ("bob".to_owned(), 180)]);
    assert_eq!(command.ended(), None);
    host.shutdown().await;
}
