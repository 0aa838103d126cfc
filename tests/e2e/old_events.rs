//! Events of earlier schemas in a store, as earlier programs wrote them, and of a later one.

use std::path::Path;

use daybook_contract::bank::v1::{
    AccountOpened, MoneyDepositedV1, MoneyDepositedV2, MovementMethod, TransactionKind,
};
use daybook_contract::daybook::v1::{RecordedEvent, recorded_event};
use daybook_log::record::{leaf_hash, stream_name};
use prost::Message;
use prost_types::{Any, Timestamp};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use tonic::Code;

use crate::common::{PATIENCE, Site, eur, head, minor, usd};

/// 2024-02-29 12:00:00 UTC, when the old program ran.
const THEN: i64 = 1_709_208_000;

/// An event as it lies in the store.
fn old(account: &str, version: u64, name: &str, schema: u32, event: Any) -> RecordedEvent {
    RecordedEvent {
        aggregate_type: "bank.account".into(),
        aggregate_id: account.into(),
        version,
        event_name: name.into(),
        event_version: schema,
        payload: Some(recorded_event::Payload::Event(event)),
        ..Default::default()
    }
}

fn any(name: &str, message: &impl Message) -> Any {
    let type_url = format!("type.googleapis.com/bank.v1.{name}");
    Any { type_url, value: message.encode_to_vec() }
}

fn opened(account: &str, initial: daybook_client::Money) -> RecordedEvent {
    let event = AccountOpened {
        owner_name: "Olde".into(),
        initial_balance: Some(initial),
        opened_time: Some(Timestamp { seconds: THEN, nanos: 0 }),
    };
    old(account, 1, "AccountOpened", 1, any("AccountOpened", &event))
}

/// Writes events into an empty store, in the form in which it keeps them.
async fn write(data: &Path, events: Vec<RecordedEvent>) {
    let file = data.join("log").join("log.db");
    let mut connection: SqliteConnection =
        SqliteConnectOptions::new().filename(file).connect().await.unwrap();
    let store: String =
        sqlx::query_scalar("SELECT store_id FROM store").fetch_one(&mut connection).await.unwrap();
    let store = store.parse().unwrap();
    for (mut event, position) in events.into_iter().zip(1_u64..) {
        let step = i64::try_from(position).unwrap();
        let millis = u64::try_from(THEN).unwrap() * 1000;
        event.position = position;
        event.event_id = daybook_log::event_id::make(&store, millis, position).to_string();
        event.recorded_time = Some(Timestamp { seconds: THEN + step, nanos: 0 });
        let stream = stream_name(&event);
        sqlx::query("INSERT OR IGNORE INTO streams (name) VALUES (?)")
            .bind(&stream)
            .execute(&mut connection)
            .await
            .unwrap();
        let record = event.encode_to_vec();
        sqlx::query(
            "INSERT INTO events (position, stream_id, version, leaf_hash, record)
             VALUES (?, (SELECT id FROM streams WHERE name = ?), ?, ?, ?)",
        )
        .bind(step)
        .bind(&stream)
        .bind(i64::try_from(event.version).unwrap())
        .bind(leaf_hash(&record).as_slice())
        .bind(record)
        .execute(&mut connection)
        .await
        .unwrap();
    }
    connection.close().await.unwrap();
}

async fn site_with(events: Vec<RecordedEvent>) -> Site {
    let site = Site::new();
    assert!(site.start("command", &[]).terminate().success());
    write(site.data.path(), events).await;
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn deposits_of_every_schema_fold_to_the_right_balance_and_are_projected_rightly() {
    let v1 = MoneyDepositedV1 { amount_minor: 1_234, description: "before currencies".into() };
    let v2 = MoneyDepositedV2 {
        amount_minor: 500,
        currency_code: "EUR".into(),
        description: "before methods".into(),
    };
    let site = site_with(vec![
        opened("old-usd", usd(100)),
        opened("old-eur", eur(0)),
        old("old-usd", 2, "MoneyDeposited", 1, any("MoneyDepositedV1", &v1)),
        old("old-eur", 2, "MoneyDeposited", 2, any("MoneyDepositedV2", &v2)),
        old("old-usd", 3, "MoneyDeposited", 1, any("MoneyDepositedV1", &v1)),
    ])
    .await;
    let _process = site.start("dev", &[]);
    let client = site.strict_client();

    let all = 100 + 2 * 1_234;
    let refused = client.withdraw("old-usd", usd(all + 1)).await.unwrap_err();
    assert_eq!(refused.metadata()["balance"], "25.68 USD");
    let deposit = client.deposit("old-usd", usd(1)).method(MovementMethod::Cash);
    let receipt = deposit.expected_version(3).await.unwrap();
    assert_eq!(receipt.position, 6);
    let receipt = client.withdraw("old-eur", eur(500)).expected_version(2).await.unwrap();

    let wait = PATIENCE / 3;
    let account = client.get_account("old-usd").after(&receipt).max_wait(wait).await.unwrap();
    let account = account.account.unwrap();
    assert_eq!(minor(&account.balance.unwrap()), all + 1);
    assert_eq!(account.opened_time.unwrap().seconds, THEN);
    let list = client.list_transactions("old-usd").after(&receipt).max_wait(wait).await.unwrap();
    let rows: Vec<_> = list
        .transactions
        .iter()
        .map(|row| {
            let amount = row.amount.as_ref().unwrap();
            assert_eq!(amount.currency_code, "USD");
            let after = minor(row.balance_after.as_ref().unwrap());
            (row.kind(), minor(amount), after, row.method(), row.description.as_str())
        })
        .collect();
    let (deposit, unspecified) = (TransactionKind::Deposit, MovementMethod::Unspecified);
    assert_eq!(
        rows,
        [
            (deposit, 1, 2_569, MovementMethod::Cash, ""),
            (deposit, 1_234, 2_568, unspecified, "before currencies"),
            (deposit, 1_234, 1_334, unspecified, "before currencies"),
            (TransactionKind::Opening, 100, 100, unspecified, ""),
        ]
    );
    let totals = client.yearly_totals(2024).after(&receipt).max_wait(wait).await.unwrap().totals;
    let sums: Vec<_> = totals
        .iter()
        .map(|sum| {
            (&*sum.currency_code, sum.deposit_count, minor(sum.deposit_total.as_ref().unwrap()))
        })
        .collect();
    assert_eq!(sums, [("EUR", 1, 500), ("USD", 3, 2_568)]);
    let days = client.daily_summary("2024-02-29", "2024-02-29").max_wait(wait).await.unwrap().days;
    assert_eq!(days.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_later_program_stops_its_account_and_no_other() {
    let later =
        Any { type_url: "type.googleapis.com/bank.v1.MoneyDeposited".into(), value: vec![] };
    let site = site_with(vec![
        opened("new", usd(100)),
        opened("plain", usd(200)),
        old("new", 2, "MoneyDeposited", 9, later.clone()),
        old("new", 3, "MoneyDeposited", 9, later),
    ])
    .await;
    let _process = site.start("dev", &[]);
    let client = site.strict_client();
    let error = client.deposit("new", usd(1)).await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::Internal, "INTERNAL"));
    assert_eq!(error.metadata()["position"], "3");
    assert!(error.message().contains("version 9 of MoneyDeposited"), "{error}");
    assert_eq!(head(&client).await, 4);
    let receipt = client.deposit("plain", usd(1)).await.unwrap();
    let answer = client.get_account("plain").after(&receipt).max_wait(PATIENCE / 3).await.unwrap();
    assert_eq!(minor(&answer.account.unwrap().balance.unwrap()), 201);
    let status = client.projections().get("account_balance").await.unwrap();
    assert_eq!(status.quarantined_events, 2);
}
