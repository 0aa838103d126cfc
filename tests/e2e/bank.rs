//! The whole bank, once in one process and once over Kafka with a process for each side. The
//! same scenario passes over both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use daybook_client::{CommandReceipt, Daybook as Client, StoredEvent};
use daybook_contract::bank::v1::{AccountStatus, MovementMethod, Transaction, TransactionKind};
use daybook_contract::daybook::v1::{
    NewEvent, ProjectionState, RawPayload, RebuildStage, new_event,
};
use daybook_testing::{Broker, TopicReader, eventually, unique};
use futures::TryStreamExt;
use prost_types::Timestamp;
use tonic::Code;

use crate::common::{PATIENCE, Site, eur, everything, head, minor, usd};

const PROJECTIONS: [&str; 3] = ["account_balance", "account_transactions", "daily_summary"];

/// Everything a user of the bank does, and what must then be so.
async fn bank(client: &Client, source: &str) {
    let opened = open_and_move(client).await;
    accounts(client).await;
    transactions(client, &opened).await;
    summaries(client, &opened).await;
    a_session_reads_its_writes(client).await;
    queries_that_cannot_be_answered(client).await;
    projections(client, source).await;
    pause_and_resume(client).await;
    rebuild(client).await;
}

/// Ada's account with 1000 USD, then 30 deposits and 10 withdrawals; Bob's in EUR, closed; and
/// five more of which nothing happens. Returns what opened Ada's.
async fn open_and_move(client: &Client) -> CommandReceipt {
    let open = client.open_account("Ada Lovelace").account_id("ada");
    let opened = open.initial_balance(usd(100_000)).await.unwrap();
    assert_eq!((opened.aggregate_id.as_str(), opened.version), ("ada", 1));
    for n in 1..=30 {
        let deposit = client.deposit("ada", usd(n)).description(format!("deposit {n}"));
        deposit.method(MovementMethod::Card).await.unwrap();
        if n % 3 == 0 {
            client.withdraw("ada", usd(2)).method(MovementMethod::Cash).await.unwrap();
        }
    }
    let bob = client.open_account("bob the builder").account_id("bob");
    bob.initial_balance(eur(0)).await.unwrap();
    client.deposit("bob", eur(700)).await.unwrap();
    client.withdraw("bob", eur(700)).await.unwrap();
    client.close_account("bob").reason("moved away").await.unwrap();
    for n in 0..5 {
        client.open_account(format!("Cyd {n}")).account_id(format!("cyd-{n}")).await.unwrap();
    }
    opened
}

/// The position of the end of the log, for queries that must see all.
async fn all(client: &Client) -> CommandReceipt {
    CommandReceipt { position: head(client).await, ..Default::default() }
}

async fn accounts(client: &Client) {
    let all = all(client).await;
    let ada = client.get_account("ada").after(&all).await.unwrap();
    assert!(ada.position >= all.position);
    let ada = ada.account.unwrap();
    assert_eq!((ada.owner_name.as_str(), ada.status()), ("Ada Lovelace", AccountStatus::Open));
    assert_eq!((minor(ada.balance.as_ref().unwrap()), ada.version), (100_000 + 465 - 20, 41));
    assert!(ada.opened_time.is_some() && ada.closed_time.is_none());
    let bob = client.get_account("bob").await.unwrap().account.unwrap();
    assert_eq!((bob.status(), bob.version), (AccountStatus::Closed, 4));
    assert_eq!(bob.balance.unwrap(), eur(0));
    assert!(bob.closed_time.is_some());

    let ids = |accounts: Vec<daybook_contract::bank::v1::Account>| -> Vec<String> {
        accounts.into_iter().map(|account| account.account_id).collect()
    };
    let list = client.list_accounts().page_size(3).all();
    let everybody = ids(list.try_collect().await.unwrap());
    assert_eq!(everybody, ["ada", "bob", "cyd-0", "cyd-1", "cyd-2", "cyd-3", "cyd-4"]);
    let closed = client.list_accounts().status(AccountStatus::Closed).await.unwrap();
    assert_eq!(ids(closed.accounts), ["bob"]);
    let prefix = client.list_accounts().owner_prefix("CYD").await.unwrap();
    assert_eq!(prefix.accounts.len(), 5);
    assert_eq!(ids(client.list_accounts().owner_prefix("B").await.unwrap().accounts), ["bob"]);
    assert!(client.list_accounts().owner_prefix("%").await.unwrap().accounts.is_empty());
}

async fn transactions(client: &Client, opened: &CommandReceipt) {
    let all = all(client).await;
    let query = || client.list_transactions("ada").after(&all);
    let rows: Vec<Transaction> = query().page_size(7).all().try_collect().await.unwrap();
    let versions: Vec<u64> = rows.iter().map(|row| row.version).collect();
    assert_eq!(versions, (1..=41).rev().collect::<Vec<_>>());
    // The oldest first, every balance follows from the one before.
    let mut balance = 0;
    for row in rows.iter().rev() {
        let amount = minor(row.amount.as_ref().unwrap());
        balance += if row.kind() == TransactionKind::Withdrawal { -amount } else { amount };
        assert_eq!(minor(row.balance_after.as_ref().unwrap()), balance, "{row:?}");
    }
    assert_eq!(rows[40].kind(), TransactionKind::Opening);
    assert_eq!(rows[40].event_id, opened.event_ids[0]);
    assert_eq!(
        (rows[39].description.as_str(), rows[39].method()),
        ("deposit 1", MovementMethod::Card)
    );

    for (kind, count) in [
        (TransactionKind::Opening, 1),
        (TransactionKind::Deposit, 30),
        (TransactionKind::Withdrawal, 10),
    ] {
        let some: Vec<Transaction> =
            query().kind(kind).page_size(4).all().try_collect().await.unwrap();
        assert_eq!(some.len(), count, "{kind:?}");
        assert!(some.iter().all(|row| row.kind() == kind));
    }
    // Half of them, by the time of one in the middle; both halves together are all of them.
    let middle = rows[20].recorded_time.unwrap();
    let since: Vec<Transaction> = query().since(middle).all().try_collect().await.unwrap();
    let until: Vec<Transaction> =
        query().until(middle).page_size(3).all().try_collect().await.unwrap();
    let at = |row: &Transaction| row.recorded_time.map(|time| (time.seconds, time.nanos)).unwrap();
    let middle = (middle.seconds, middle.nanos);
    assert!(!since.is_empty() && !until.is_empty());
    assert!(since.iter().all(|row| at(row) >= middle) && until.iter().all(|row| at(row) < middle));
    let both: Vec<Transaction> = since.into_iter().chain(until).collect();
    assert_eq!(both, rows);
    let nothing = query().until(Timestamp { seconds: 0, nanos: 0 }).await.unwrap();
    assert_eq!((nothing.transactions, nothing.next_page_token), (vec![], String::new()));
}

async fn summaries(client: &Client, opened: &CommandReceipt) {
    let all = all(client).await;
    let time = opened.recorded_time.unwrap();
    let day = time.to_string()[..10].to_owned();
    let last = everything(client).await.last().unwrap().recorded_time.unwrap().to_string();
    let days = client.daily_summary(&day, &last[..10]).after(&all).await.unwrap();
    // A run over midnight has two days.
    let mut sums: BTreeMap<String, [i64; 6]> = BTreeMap::new();
    for day in days.days {
        let sum = day.movements.unwrap();
        let counted = [sum.accounts_opened, sum.accounts_closed, sum.deposit_count];
        let [opened, closed, deposits] = counted.map(|count| i64::try_from(count).unwrap());
        let new = [
            opened,
            closed,
            deposits,
            minor(&sum.deposit_total.unwrap()),
            i64::try_from(sum.withdrawal_count).unwrap(),
            minor(&sum.withdrawal_total.unwrap()),
        ];
        let entry = sums.entry(sum.currency_code).or_default();
        entry.iter_mut().zip(new).for_each(|(entry, new)| *entry += new);
    }
    assert_eq!(sums["USD"], [6, 0, 31, 100_000 + 465, 10, 20]);
    assert_eq!(sums["EUR"], [1, 1, 1, 700, 1, 700]);
    assert_eq!(sums.len(), 2);
    let only = client.daily_summary(&day, &last[..10]).currency("EUR").await.unwrap();
    assert!(only.days.iter().all(|day| day.movements.as_ref().unwrap().currency_code == "EUR"));

    let year: i32 = day[..4].parse().unwrap();
    let totals = client.yearly_totals(year).after(&all).await.unwrap().totals;
    let codes: Vec<&str> = totals.iter().map(|total| total.currency_code.as_str()).collect();
    assert_eq!(codes, ["EUR", "USD"]);
    assert_eq!(client.yearly_totals(1999).await.unwrap().totals, []);
}

async fn a_session_reads_its_writes(client: &Client) {
    let session = client.read_your_writes();
    for n in 1..=20 {
        session.deposit("cyd-0", usd(1)).await.unwrap();
        let query = session.get_account("cyd-0");
        let account = query.await.unwrap().account.unwrap();
        assert_eq!(minor(&account.balance.unwrap()), n);
        let rows = session.list_transactions("cyd-0").await.unwrap();
        assert_eq!(i64::try_from(rows.transactions.len()).unwrap(), n);
    }
}

async fn queries_that_cannot_be_answered(client: &Client) {
    let unknown = client.get_account("nobody").await.unwrap_err();
    assert_eq!((unknown.code(), unknown.reason()), (Code::NotFound, "ACCOUNT_NOT_FOUND"));
    let beyond = head(client).await + 1000;
    let early = client.get_account("ada").min_position(beyond).max_wait(Duration::from_millis(20));
    let early = early.await.unwrap_err();
    assert_eq!((early.code(), early.reason()), (Code::Unavailable, "PROJECTION_LAGGING"));
    assert!(early.details().retry_info().is_some());
}

async fn projections(client: &Client, source: &str) {
    let head = head(client).await;
    let settled = || async {
        let list = client.projections().list().await.unwrap();
        list.iter()
            .all(|p| p.state() == ProjectionState::Live && p.position == head && p.lag_events == 0)
            .then_some(list)
    };
    let list = eventually(PATIENCE, settled).await;
    let names: Vec<&str> = list.iter().map(|projection| projection.name.as_str()).collect();
    assert!(PROJECTIONS.iter().all(|name| names.contains(name)), "{names:?}");
    for projection in list {
        assert_eq!((projection.source.as_str(), projection.problem.as_str()), (source, ""));
        assert_eq!((projection.head_position, projection.quarantined_events), (head, 0));
        let of_the_bank = PROJECTIONS.contains(&projection.name.as_str());
        assert!(projection.last_event_time.is_some() || !of_the_bank, "{projection:?}");
        let same = client.projections().get(&projection.name).await.unwrap();
        assert_eq!((same.name, same.version), (projection.name, projection.version));
    }
    let unknown = client.projections().get("nothing").await.unwrap_err();
    assert_eq!((unknown.code(), unknown.reason()), (Code::NotFound, "PROJECTION_NOT_FOUND"));
}

async fn pause_and_resume(client: &Client) {
    let before = all(client).await;
    let balance = |account: daybook_contract::bank::v1::GetAccountResponse| {
        minor(&account.account.unwrap().balance.unwrap())
    };
    let query = client.get_account("cyd-1").after(&before);
    assert_eq!(balance(query.await.unwrap()), 0);
    for _ in 0..2 {
        let paused = client.projections().pause("account_balance").await.unwrap();
        assert_eq!(paused.state(), ProjectionState::Paused);
    }
    let receipt = client.deposit("cyd-1", usd(5)).await.unwrap();
    // The others go on, this one serves what it has.
    let rows = client.list_transactions("cyd-1").after(&receipt).await.unwrap();
    assert_eq!(rows.transactions.len(), 1);
    assert_eq!(balance(client.get_account("cyd-1").await.unwrap()), 0);
    let status = client.projections().get("account_balance").await.unwrap();
    assert_eq!((status.state(), status.position), (ProjectionState::Paused, before.position));
    for _ in 0..2 {
        let resumed = client.projections().resume("account_balance").await.unwrap();
        assert_ne!(resumed.state(), ProjectionState::Paused);
    }
    let query = client.get_account("cyd-1").after(&receipt);
    assert_eq!(balance(query.await.unwrap()), 5);
}

async fn rebuild(client: &Client) {
    for name in PROJECTIONS {
        client.projections().rebuild(name).await.unwrap();
        // It serves meanwhile.
        client.get_account("ada").await.unwrap();
        let steps = client.projections().watch_rebuild(name);
        let steps: Vec<_> = steps.try_collect().await.unwrap();
        let last = steps.last().unwrap();
        assert_eq!(last.stage(), RebuildStage::Done, "{last:?}");
        let report = last.report.clone().unwrap();
        let differences = [report.added_rows, report.removed_rows, report.changed_rows];
        assert!(report.compared && report.unchanged_rows > 0, "{report:?}");
        assert_eq!(differences, [0, 0, 0], "{name}: {report:?}");
    }
    let receipt = client.deposit("cyd-2", usd(5)).await.unwrap();
    let query = client.get_account("cyd-2").after(&receipt);
    assert_eq!(query.await.unwrap().account.unwrap().version, 2);
    let page = client.list_transactions("ada").page_size(500).await.unwrap();
    assert_eq!(page.transactions.len(), 41);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bank_works_in_one_process() {
    let site = Site::new();
    let process = site.start("dev", &[]);
    bank(&site.client(), "log").await;
    let head = head(&site.client()).await;
    assert!(process.terminate().success());

    // All of it is still there.
    let _process = site.start("dev", &[]);
    let client = site.client();
    let account = client.get_account("ada").min_position(head).await.unwrap();
    assert_eq!(account.account.unwrap().version, 41);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bank_works_over_kafka_with_a_process_for_each_side() {
    let broker = Broker::shared().await;
    let prefix = format!("{}-", unique("bank"));
    let flags = ["--brokers", &broker.bootstrap, "--topic-prefix", &prefix];
    let site = Site::new();
    let command = site.start("command", &flags);
    let reader = Site { ports: site.ports.beside(), ..Site::new() };
    let query = reader.start("query", &flags);
    let client = site.client();
    bank(&client, "kafka").await;

    // Events of streams without an aggregate go to a topic of their own.
    let raw = RawPayload { content_type: "text/plain".into(), data: "hello".into() };
    let payload = Some(new_event::Payload::Raw(raw));
    let event = NewEvent { event_name: "Noted".into(), event_version: 1, payload };
    client.events().append("notes-1", vec![event]).await.unwrap();
    published(&client, broker, &prefix, "1").await;

    assert!(query.terminate().success());
    let receipt = client.deposit("cyd-3", usd(5)).await.unwrap();
    let query = reader.start("query", &flags);
    let answer = client.get_account("cyd-3").after(&receipt).await.unwrap();
    assert_eq!(answer.account.unwrap().version, 2);

    // As a process that gives way, it does so with all of its threads, and answers as ever.
    assert!(query.terminate().success());
    let receipt = client.deposit("cyd-3", usd(5)).await.unwrap();
    let query = reader.start_giving_way("query", &flags);
    let policies = policies(query.id());
    assert!(!policies.is_empty() && policies.iter().all(|policy| policy == SCHED_IDLE));
    let answer = client.get_account("cyd-3").after(&receipt).await.unwrap();
    assert_eq!(answer.account.unwrap().version, 3);
    assert!(command.terminate().success());
    // The queries go on without the commands.
    client.get_account("ada").await.unwrap();
}

/// What `stat` says of a thread that gives way: the number of this policy, sched(7).
const SCHED_IDLE: &str = "5";

/// The scheduling policy of each thread of a process: the 41st field of its `stat`, proc_pid_stat(5).
fn policies(process: u32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let policy = |thread: PathBuf| {
        let stat = std::fs::read_to_string(thread.join("stat")).ok()?;
        // The second field is a name in brackets, which may have spaces.
        let after_name = &stat[stat.rfind(')')? + 1..];
        after_name.split_whitespace().nth(41 - 3).map(str::to_owned)
    };
    threads.filter_map(|thread| policy(thread.unwrap().path())).collect()
}

/// Where an event is published.
fn topic_of(event: &StoredEvent) -> String {
    match event.aggregate_type.as_str() {
        "bank.transfer" | "orders.fulfilment" | "orders.shipment" => "saga-events".to_owned(),
        of_a_domain => match of_a_domain.split_once('.') {
            Some((domain, _)) => format!("{domain}-events"),
            None => "raw-events".to_owned(),
        },
    }
}

/// What is on the topics is what is in the log: byte for byte, and in order for each stream.
pub async fn published(client: &Client, broker: &Broker, prefix: &str, partitions: &str) {
    let head = head(client).await;
    let done = || async {
        let info = client.events().info().await.unwrap();
        assert!(info.publishing, "{info:?}");
        (info.published_position == head).then_some(info)
    };
    let info = eventually(PATIENCE, done).await;
    assert_eq!(info.publishing_problem, "");
    let reader = TopicReader::new(&broker.bootstrap);
    let log = everything(client).await;
    let topics: BTreeSet<String> = log.iter().map(topic_of).collect();
    let mut seen = BTreeSet::new();
    for name in topics {
        let topic = format!("{prefix}{name}");
        let count = reader.partition_count(&topic).await.unwrap();
        assert_eq!(count.to_string(), partitions, "{topic}");
        let mut last: BTreeMap<String, (i32, u64)> = BTreeMap::new();
        for record in reader.read_all(&topic).await.unwrap() {
            // A watermark: a position alone, for readers of an idle partition.
            let Some(key) = record.key else { continue };
            let header = |name: &str| record.headers[name].clone();
            let position: u64 = header("daybook_position").parse().unwrap();
            let event = &log[usize::try_from(position).unwrap() - 1];
            assert_eq!(record.payload, event.bytes(), "position {position}");
            assert_eq!(key, event.stream());
            assert_eq!(topic_of(event), name);
            assert_eq!(header("ce_specversion"), "1.0");
            assert_eq!(header("ce_id"), event.event_id);
            assert_eq!(header("ce_time"), event.recorded_time.unwrap().to_string());
            assert!(!header("ce_type").is_empty() && !header("ce_source").is_empty());
            assert_eq!(header("daybook_store_id"), info.store_id);
            seen.insert(position);
            let before = last.insert(key, (record.partition, event.version));
            let (partition, version) = before.unwrap_or((record.partition, 0));
            assert_eq!(partition, record.partition, "a stream stays on its partition");
            assert!(event.version <= version + 1, "{} came after {version}", event.version);
        }
    }
    assert_eq!(seen, (1..=head).collect::<BTreeSet<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_can_publish_and_read_over_kafka_too() {
    let broker = Broker::shared().await;
    let prefix = format!("{}-", unique("dev"));
    let flags = ["--brokers", &broker.bootstrap, "--topic-prefix", &prefix];
    let site = Site::new();
    let process = site.start("dev", &flags);
    let client = site.client();
    client.open_account("Ada").account_id("ada").await.unwrap();
    a_session_reads_its_writes_of("ada", &client).await;
    let status = client.projections().get("account_balance").await.unwrap();
    assert_eq!(status.source, "kafka");
    assert!(process.terminate().success());
    // The same projections go on from the log when there are no brokers any more.
    let _process = site.start("dev", &[]);
    a_session_reads_its_writes_of("ada", &client).await;
    assert_eq!(client.projections().get("account_balance").await.unwrap().source, "log");
}

async fn a_session_reads_its_writes_of(account: &str, client: &Client) {
    let session = client.read_your_writes();
    for _ in 0..5 {
        let receipt = session.deposit(account, usd(1)).await.unwrap();
        let answer = session.get_account(account).await.unwrap();
        assert_eq!(answer.account.unwrap().version, receipt.version);
    }
}
