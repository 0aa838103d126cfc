//! What a log comes to, folded by the simplest code there is, which shares nothing with the
//! projections that are compared with it.

use std::collections::BTreeMap;

use daybook_client::{Daybook as Client, StoredEvent};
use daybook_contract::bank::v1::{
    AccountOpened, AccountStatus, MoneyDeposited, MoneyWithdrawn, PaymentRefunded, PaymentSent,
    PaymentSettled, Transaction, TransactionKind, TransferReceived, TransferRefunded, TransferSent,
};
use daybook_contract::daybook::v1::{Money, ProjectionStatus, recorded_event};
use daybook_testing::eventually;
use futures::TryStreamExt;
use prost::Message;

use crate::common::{PATIENCE, minor};

/// The accounts and days of a log, in currencies of two-digit minor units.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: BTreeMap<String, Account>,
    /// By date and currency.
    days: BTreeMap<(String, String), Day>,
    head: u64,
}

#[derive(Debug, Default)]
struct Account {
    currency: String,
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
    /// Transfers that arrived.
    transfers: u64,
    transferred: i64,
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
        account.version = event.version;
        let (kind, money) = match event.event_name.as_str() {
            "AccountOpened" => {
                let money = AccountOpened::decode(bytes).unwrap().initial_balance;
                account.currency = money.as_ref().unwrap().currency_code.clone();
                (TransactionKind::Opening, money)
            }
            "MoneyDeposited" => {
                (TransactionKind::Deposit, MoneyDeposited::decode(bytes).unwrap().amount)
            }
            "MoneyWithdrawn" => {
                (TransactionKind::Withdrawal, MoneyWithdrawn::decode(bytes).unwrap().amount)
            }
            "TransferSent" => {
                (TransactionKind::TransferOut, TransferSent::decode(bytes).unwrap().amount)
            }
            "TransferReceived" => {
                (TransactionKind::TransferIn, TransferReceived::decode(bytes).unwrap().amount)
            }
            "TransferRefunded" => {
                (TransactionKind::TransferRefund, TransferRefunded::decode(bytes).unwrap().amount)
            }
            "PaymentSent" => (TransactionKind::Payment, PaymentSent::decode(bytes).unwrap().amount),
            "PaymentRefunded" => {
                let refunded = PaymentRefunded::decode(bytes).unwrap();
                (TransactionKind::PaymentRefund, refunded.amount)
            }
            // What an order was paid with leaves the bank when the order is confirmed.
            "PaymentSettled" => {
                let settled = PaymentSettled::decode(bytes).unwrap().amount.unwrap();
                self.day(event).count(TransactionKind::Withdrawal, minor(&settled));
                return;
            }
            "TransferSettled" => return,
            "AccountClosed" => (TransactionKind::Unspecified, None),
            name => panic!("{name} is unknown here"),
        };
        account.closed |= kind == TransactionKind::Unspecified;
        let amount = account.book(event.version, kind, money.as_ref());
        // What is sent counts when it arrives.
        if !matches!(
            kind,
            TransactionKind::TransferOut
                | TransactionKind::TransferRefund
                | TransactionKind::Payment
                | TransactionKind::PaymentRefund
        ) {
            self.day(event).count(kind, amount);
        }
    }

    /// The day of an event, in the currency of its account.
    fn day(&mut self, event: &StoredEvent) -> &mut Day {
        let date = event.recorded_time.unwrap().to_string()[..10].to_owned();
        let currency = self.accounts[&event.aggregate_id].currency.clone();
        self.days.entry((date, currency)).or_default()
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
        let Some(((first, _), _)) = self.days.first_key_value() else { return };
        let Some(((last, _), _)) = self.days.last_key_value() else { return };
        let days = client.daily_summary(first, last).await.unwrap().days;
        let mut found: BTreeMap<(String, String), Day> = BTreeMap::new();
        for day in days {
            let sum = day.movements.unwrap();
            let twice = found.insert(
                (day.date, sum.currency_code),
                Day {
                    opened: sum.accounts_opened,
                    closed: sum.accounts_closed,
                    deposits: sum.deposit_count,
                    deposited: minor(&sum.deposit_total.unwrap()),
                    withdrawals: sum.withdrawal_count,
                    withdrawn: minor(&sum.withdrawal_total.unwrap()),
                    transfers: sum.transfer_count,
                    transferred: minor(&sum.transfer_total.unwrap()),
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

impl Account {
    /// Notes a movement, if money moved, and answers with how much.
    fn book(&mut self, version: u64, kind: TransactionKind, money: Option<&Money>) -> i64 {
        let amount = money.map_or(0, minor);
        if amount == 0 {
            return 0;
        }
        self.balance += match kind {
            TransactionKind::Withdrawal
            | TransactionKind::TransferOut
            | TransactionKind::Payment => -amount,
            _ => amount,
        };
        self.rows.push((version, kind, amount, self.balance));
        amount
    }
}

impl Day {
    fn count(&mut self, kind: TransactionKind, amount: i64) {
        let (count, sum) = match kind {
            TransactionKind::Withdrawal => (&mut self.withdrawals, &mut self.withdrawn),
            TransactionKind::TransferIn => (&mut self.transfers, &mut self.transferred),
            _ => (&mut self.deposits, &mut self.deposited),
        };
        *count += u64::from(amount > 0);
        *sum += amount;
        self.opened += u64::from(kind == TransactionKind::Opening);
        self.closed += u64::from(kind == TransactionKind::Unspecified);
    }
}

fn row(row: &Transaction) -> (u64, TransactionKind, i64, i64) {
    let amount = minor(row.amount.as_ref().unwrap());
    (row.version, row.kind(), amount, minor(row.balance_after.as_ref().unwrap()))
}
