//! The projections against a naive fold of the same events, for any history and any way in which
//! the events come.

use std::collections::BTreeMap;

use daybook_contract::bank::v1::account::Event;
use daybook_contract::bank::v1::query_service_server::QueryService;
use daybook_contract::bank::v1::{
    AccountStatus, GetDailySummaryRequest, ListAccountsRequest, ListTransactionsRequest,
};
use daybook_contract::daybook::v1::Money;
use daybook_contract::money::to_minor;
use daybook_query::BankQueries;
use proptest::prelude::*;
use tonic::Request;

use crate::fakes::*;

/// Something that happens to one of a few accounts.
#[derive(Debug, Clone)]
enum Step {
    Open { currency: usize, minor: i64 },
    Deposit { schema: u8, minor: i64 },
    Withdraw { part: u8 },
    CloseIfEmpty,
    Wait { hours: i64 },
}

/// How the events come to the projections.
#[derive(Debug, Clone)]
struct Delivery {
    partitions: usize,
    /// For each event in turn: written to the topic so many times; 0 leaves a gap.
    copies: Vec<u8>,
    /// The reader is killed after so many events, again and again.
    kill_every: usize,
    batch_size: usize,
}

const CURRENCIES: [&str; 3] = ["USD", "EUR", "JPY"];

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let step = prop_oneof![
        2 => (0..3_usize, 0..1_000_i64).prop_map(|(currency, minor)| Step::Open { currency, minor }),
        6 => (1..=3_u8, 1..1_000_i64).prop_map(|(schema, minor)| Step::Deposit { schema, minor }),
        4 => (1..=4_u8).prop_map(|part| Step::Withdraw { part }),
        1 => Just(Step::CloseIfEmpty),
        1 => (1..50_i64).prop_map(|hours| Step::Wait { hours }),
    ];
    prop::collection::vec((0..6_usize, step), 1..120)
}

fn delivery() -> impl Strategy<Value = Delivery> {
    let copies = prop::collection::vec(prop_oneof![1 => Just(0), 6 => Just(1), 2 => Just(2)], 10);
    (1..4_usize, copies, 10..80_usize, 1..40_usize).prop_map(
        |(partitions, copies, kill_every, batch_size)| Delivery {
            partitions,
            copies,
            kill_every,
            batch_size,
        },
    )
}

#[derive(Default, Clone)]
struct Account {
    currency: String,
    minor: i64,
    closed: bool,
}

/// Turns steps into a history that the rules of the account allow.
fn record(log: &Log, steps: &[(usize, Step)]) {
    let mut accounts: BTreeMap<usize, Account> = BTreeMap::new();
    for (number, step) in steps {
        let id = format!("account-{number}");
        let account = accounts.get_mut(number);
        match (step, account) {
            (Step::Open { currency, minor }, None) => {
                let currency = CURRENCIES[*currency].to_owned();
                log.append(&id, opened("Owner", money(*minor, &currency)));
                accounts.insert(*number, Account { currency, minor: *minor, closed: false });
            }
            (Step::Deposit { schema, minor }, Some(account)) if !account.closed => {
                match (schema, account.currency.as_str()) {
                    (1, "USD") => log.append_deposit_v1(&id, *minor),
                    (2, currency) => log.append_deposit_v2(&id, *minor, currency),
                    (_, currency) => log.append(&id, deposited(money(*minor, currency))),
                };
                account.minor += minor;
            }
            (Step::Withdraw { part }, Some(account)) if !account.closed && account.minor > 0 => {
                let minor = (account.minor / i64::from(*part)).max(1);
                log.append(&id, withdrawn(money(minor, &account.currency)));
                account.minor -= minor;
            }
            (Step::CloseIfEmpty, Some(account)) if !account.closed && account.minor == 0 => {
                log.append(&id, closed());
                account.closed = true;
            }
            (Step::Wait { hours }, _) => log.pass_seconds(hours * 3_600),
            _ => {}
        }
    }
}

/// What the three projections must show, as text.
fn fold(log: &Log) -> (Vec<String>, Vec<String>, Vec<String>) {
    let mut accounts: BTreeMap<String, (Account, u64)> = BTreeMap::new();
    let mut transactions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut days: BTreeMap<(i64, String), [i64; 6]> = BTreeMap::new();
    for (record, event) in decoded(log) {
        let id = record.aggregate_id;
        let (account, version) = accounts.entry(id.clone()).or_default();
        *version += 1;
        let amount = |amount: &Option<Money>| to_minor(amount.as_ref().unwrap()).unwrap();
        if let Event::AccountOpened(event) = &event {
            account.currency = event.initial_balance.as_ref().unwrap().currency_code.clone();
        }
        let number_of_day = record.recorded_time.unwrap().seconds / 86_400;
        let day = days.entry((number_of_day, account.currency.clone())).or_default();
        let (kind, minor) = match &event {
            Event::AccountOpened(event) => {
                day[0] += 1;
                ("OPENING", amount(&event.initial_balance))
            }
            Event::MoneyDeposited(event) => ("DEPOSIT", amount(&event.amount)),
            Event::MoneyWithdrawn(event) => ("WITHDRAWAL", -amount(&event.amount)),
            Event::AccountClosed(_) => {
                day[1] += 1;
                account.closed = true;
                continue;
            }
            _ => unreachable!("there are no transfers in these logs"),
        };
        account.minor += minor;
        if minor != 0 {
            let at = if minor > 0 { 2 } else { 4 };
            day[at] += 1;
            day[at + 1] += minor.abs();
            let line = format!("{kind} {version} {} {}", minor.abs(), account.minor);
            transactions.entry(id).or_default().push(line);
        }
    }
    let account_lines = accounts.iter().map(|(id, (account, version))| {
        format!("{id} {} {} {} {version}", account.currency, account.minor, account.closed)
    });
    let transaction_lines = accounts.keys().flat_map(|id| {
        transactions.get(id).into_iter().flatten().rev().map(move |line| format!("{id} {line}"))
    });
    let day_lines = days.iter().map(|((day, currency), [opened, closed, ins, in_, outs, out])| {
        let line = format!("{currency} +{opened} -{closed} in {ins} {in_} out {outs} {out}");
        format!("{} {line}", day - START / 86_400)
    });
    (account_lines.collect(), transaction_lines.collect(), day_lines.collect())
}

/// What they show.
async fn shown(bank: &BankQueries) -> (Vec<String>, Vec<String>, Vec<String>) {
    let request = ListAccountsRequest { page_size: 500, ..Default::default() };
    let found = bank.list_accounts(Request::new(request)).await.unwrap().into_inner();
    let minor = |money: &Option<Money>| to_minor(money.as_ref().unwrap()).unwrap();
    let mut accounts = Vec::new();
    let mut transactions = Vec::new();
    for account in &found.accounts {
        let closed = account.status() == AccountStatus::Closed;
        let currency = &account.balance.as_ref().unwrap().currency_code;
        let (id, version) = (&account.account_id, account.version);
        let balance = minor(&account.balance);
        accounts.push(format!("{id} {currency} {balance} {closed} {version}"));
        let request = ListTransactionsRequest {
            account_id: id.clone(),
            page_size: 500,
            ..Default::default()
        };
        let found = bank.list_transactions(Request::new(request)).await.unwrap().into_inner();
        transactions.extend(found.transactions.iter().map(|t| {
            let kind = t.kind().as_str_name().trim_start_matches("TRANSACTION_KIND_");
            let (amount, after) = (minor(&t.amount), minor(&t.balance_after));
            format!("{id} {kind} {} {amount} {after}", t.version)
        }));
    }
    let request = GetDailySummaryRequest {
        start_date: "2026-11-21".to_owned(),
        end_date: "2027-11-21".to_owned(),
        ..Default::default()
    };
    let found = bank.get_daily_summary(Request::new(request)).await.unwrap().into_inner();
    let first: jiff::civil::Date = "2026-11-21".parse().unwrap();
    let days = found.days.iter().map(|day| {
        let date: jiff::civil::Date = day.date.parse().unwrap();
        let summary = crate::bank::summary(day.movements.as_ref().unwrap());
        format!("{} {summary}", (date - first).get_days())
    });
    (accounts, transactions, days.collect())
}

async fn check(steps: Vec<(usize, Step)>, delivery: Delivery) {
    let (log, dir) = (Log::new(), tempfile::tempdir().unwrap());
    let topic = Topic::new(delivery.partitions);
    let run = || {
        let settings =
            daybook_query::runtime::Settings { batch_size: delivery.batch_size, ..settings(&dir) };
        let start = daybook_query::projections::start_all;
        let (topic, log) = (topic.clone(), log.clone());
        daybook_query::runtime::Host::open(
            settings,
            std::sync::Arc::new(topic),
            std::sync::Arc::new(log),
            start,
        )
        .unwrap()
    };
    // The first build finds an empty log, so that everything comes by the topic.
    let mut host = run();
    until_position(&host, 0).await;
    record(&log, &steps);
    if log.position() == 0 {
        return;
    }
    let mut copies = delivery.copies.iter().cycle();
    for (at, bytes) in log.events().into_iter().enumerate() {
        let (record, _) = &decoded(&log)[at];
        let partition = record.aggregate_id.len() + record.aggregate_id.as_bytes()[8] as usize;
        for _ in 0..*copies.next().unwrap() {
            topic.write(partition % delivery.partitions, bytes.clone());
        }
        if at % delivery.kill_every == delivery.kill_every - 1 {
            drop(host);
            host = run();
        }
    }
    // Gaps at the end of a stream are nobody's to find but the publisher's: it never leaves any.
    for bytes in log.events() {
        topic.write(0, bytes);
    }
    topic.watermarks(log.position());
    until_position(&host, log.position()).await;
    for status in host.statuses() {
        assert_eq!(
            status.quarantined_events,
            0,
            "{:?}",
            dump(&dir, &status.name, "quarantine").await
        );
    }
    let bank = BankQueries::new(host.handles()).unwrap();
    let (accounts, transactions, days) = shown(&bank).await;
    let (expected_accounts, expected_transactions, expected_days) = fold(&log);
    assert_eq!(accounts, expected_accounts);
    assert_eq!(transactions, expected_transactions);
    assert_eq!(days, expected_days);
    host.shutdown().await;
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn projections_show_what_a_naive_fold_shows(steps in steps(), delivery in delivery()) {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(check(steps, delivery));
    }
}
