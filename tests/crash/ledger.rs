//! What a log comes to, folded by the simplest code there is, which shares nothing with the
//! projections that are compared with it.

use std::collections::BTreeMap;

use daybook_client::{Daybook as Client, StoredEvent};
use daybook_contract::bank::v1::{
    AccountOpened, AccountStatus, MoneyDeposited, MoneyWithdrawn, Transaction, TransactionKind,
};
use daybook_contract::daybook::v1::{ProjectionStatus, recorded_event};
use daybook_testing::eventually;
use futures::TryStreamExt;
use prost::Message;

use crate::common::{PATIENCE, minor};

/// The accounts and days of a log, all of it in USD.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: BTreeMap<String, Account>,
    days: BTreeMap<String, Day>,
    head: u64,
}

#[derive(Debug, Default)]
struct Account {
    balance: i64,
    closed: bool,
    version: u64,
    /// Version, kind, amount, balance after it.
    rows: Vec<(u64, TransactionKind, i64, i64)>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Day {
    opened: u64,
    closed: u64,
    deposits: u64,
    deposited: i64,
    withdrawals: u64,
    withdrawn: i64,
}

impl Ledger {
    /// Folds a log.
    pub fn of(log: &[StoredEvent]) -> Self {
        let mut ledger = Self::default();
        for event in log {
            ledger.head = event.position;
            if event.aggregate_type == "bank.account" {
                ledger.apply(event);
            }
        }
        ledger
    }

    /// What is on an account.
    pub fn balance(&self, account: &str) -> i64 {
        self.accounts[account].balance
    }

    fn apply(&mut self, event: &StoredEvent) {
        let Some(recorded_event::Payload::Event(any)) = &event.payload else {
            panic!("{event:?} is no event of the bank")
        };
        let bytes = any.value.as_slice();
        let account = self.accounts.entry(event.aggregate_id.clone()).or_default();
        let date = event.recorded_time.unwrap().to_string()[..10].to_owned();
        let day = self.days.entry(date).or_default();
        account.version = event.version;
        let (kind, amount) = match event.event_name.as_str() {
            "AccountOpened" => {
                day.opened += 1;
                let opened = AccountOpened::decode(bytes).unwrap();
                (TransactionKind::Opening, minor(&opened.initial_balance.unwrap()))
            }
            "MoneyDeposited" => {
                let deposited = MoneyDeposited::decode(bytes).unwrap();
                (TransactionKind::Deposit, minor(&deposited.amount.unwrap()))
            }
            "MoneyWithdrawn" => {
                let withdrawn = MoneyWithdrawn::decode(bytes).unwrap();
                (TransactionKind::Withdrawal, minor(&withdrawn.amount.unwrap()))
            }
            "AccountClosed" => {
                account.closed = true;
                day.closed += 1;
                return;
            }
            name => panic!("{name} is unknown here"),
        };
        if amount == 0 {
            return;
        }
        if kind == TransactionKind::Withdrawal {
            account.balance -= amount;
            day.withdrawals += 1;
            day.withdrawn += amount;
        } else {
            account.balance += amount;
            day.deposits += 1;
            day.deposited += amount;
        }
        account.rows.push((event.version, kind, amount, account.balance));
    }

    /// Waits until the projections have all of it, then compares every row that queries show.
    pub async fn is_projected_by(&self, client: &Client) {
        self.projections_settle(client).await;
        let listed: Vec<_> =
            client.list_accounts().page_size(500).all().try_collect().await.unwrap();
        let ids: Vec<&str> = listed.iter().map(|account| account.account_id.as_str()).collect();
        assert_eq!(ids, self.accounts.keys().map(String::as_str).collect::<Vec<_>>());
        for account in listed {
            let expected = &self.accounts[&account.account_id];
            assert_eq!(minor(&account.balance.clone().unwrap()), expected.balance, "{account:?}");
            assert_eq!(account.version, expected.version, "{account:?}");
            assert_eq!(account.status() == AccountStatus::Closed, expected.closed, "{account:?}");
            let query = client.list_transactions(&account.account_id).page_size(500);
            let rows: Vec<Transaction> = query.all().try_collect().await.unwrap();
            let rows: Vec<_> = rows.iter().rev().map(row).collect();
            assert_eq!(rows, expected.rows, "{}", account.account_id);
        }
        let Some((first, _)) = self.days.first_key_value() else { return };
        let Some((last, _)) = self.days.last_key_value() else { return };
        let days = client.daily_summary(first, last).await.unwrap().days;
        let mut found: BTreeMap<String, Day> = BTreeMap::new();
        for day in days {
            let sum = day.movements.unwrap();
            assert_eq!(sum.currency_code, "USD");
            let twice = found.insert(
                day.date,
                Day {
                    opened: sum.accounts_opened,
                    closed: sum.accounts_closed,
                    deposits: sum.deposit_count,
                    deposited: minor(&sum.deposit_total.unwrap()),
                    withdrawals: sum.withdrawal_count,
                    withdrawn: minor(&sum.withdrawal_total.unwrap()),
                },
            );
            assert!(twice.is_none(), "{twice:?} comes twice");
        }
        assert_eq!(found, self.days);
    }

    /// Waits until every projection has reached the end of the log.
    pub async fn projections_settle(&self, client: &Client) {
        let list = || async { client.projections().list().await.unwrap_or_default() };
        let settled = |p: &ProjectionStatus| p.position >= self.head && p.problem.is_empty();
        let done = || async {
            let list = list().await;
            (!list.is_empty() && list.iter().all(settled)).then_some(())
        };
        if tokio::time::timeout(PATIENCE, eventually(2 * PATIENCE, done)).await.is_err() {
            panic!("the end is {}, the projections are at {:#?}", self.head, list().await);
        }
    }
}

fn row(row: &Transaction) -> (u64, TransactionKind, i64, i64) {
    let amount = minor(row.amount.as_ref().unwrap());
    (row.version, row.kind(), amount, minor(row.balance_after.as_ref().unwrap()))
}
