//! Each account as it is now, and what is on its way from and to it.
//!
//! Money is pending from its leaving the one account until it is on the other or back. Each end of
//! that is an event of one account that says something about both, and the events of two accounts
//! come in any order: so the pending amounts are sums that any order gives alike. Meanwhile they
//! may be below zero, which a query does not show.

use daybook_contract::bank::v1::account::Event;
use daybook_contract::bank::v1::AccountStatus;
use daybook_contract::contract::EventError;
use daybook_contract::daybook::v1::Money;
use daybook_domain::account::Account;

use crate::amount::{add, initial, minor};
use crate::runtime::{ApplyError, EncodedEvent, Projection, Recorded};

/// The projection.
pub struct AccountBalance;

crate::rows! {
    /// The tables of the projection.
    pub struct Tables {
        /// All accounts.
        accounts: AccountRow in "accounts",
        /// What is on its way.
        pending: PendingRow in "pending",
    }

    /// An account.
    pub struct AccountRow {
        key {
            /// Its id.
            account_id: String,
        }
        /// Who owns it.
        owner_name: String,
        /// Its currency.
        currency_code: String,
        /// What is on it, in the smallest unit.
        balance_minor: i64,
        /// Whether it can be used: a number of `bank.v1.AccountStatus`.
        status: i64,
        /// The version of its stream.
        version: i64,
        /// When it was opened, in nanoseconds.
        opened_time: i64,
        /// When it was closed.
        closed_time: Option<i64>,
        /// When the last event was recorded.
        updated_time: i64,
    }

    /// What is on its way from and to an account.
    pub struct PendingRow {
        key {
            /// The account, which need not exist.
            account_id: String,
            /// The currency.
            currency_code: String,
        }
        /// What has left it and not arrived, in the smallest unit.
        out_minor: i64,
        /// What is to arrive on it.
        in_minor: i64,
    }
}

impl Projection for AccountBalance {
    const NAME: &'static str = "account_balance";
    const VERSION: u32 = 3;
    const AGGREGATES: &'static [&'static str] = &["bank.account"];
    // Names are compared without regard to the case of ASCII letters, as the prefix filter of
    // ListAccounts promises; the index serves that filter.
    const SCHEMA: &'static str = "
        CREATE TABLE accounts (
            account_id    TEXT PRIMARY KEY,
            owner_name    TEXT NOT NULL COLLATE NOCASE,
            currency_code TEXT NOT NULL,
            balance_minor INTEGER NOT NULL,
            status        INTEGER NOT NULL,
            version       INTEGER NOT NULL,
            opened_time   INTEGER NOT NULL,
            closed_time   INTEGER,
            updated_time  INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE INDEX accounts_by_owner ON accounts (owner_name COLLATE NOCASE, account_id);
        CREATE INDEX accounts_by_status ON accounts (status, account_id);
        CREATE INDEX accounts_by_status_and_owner
            ON accounts (status, owner_name COLLATE NOCASE, account_id);
        CREATE TABLE pending (
            account_id    TEXT NOT NULL,
            currency_code TEXT NOT NULL,
            out_minor     INTEGER NOT NULL,
            in_minor      INTEGER NOT NULL,
            PRIMARY KEY (account_id, currency_code)
        ) WITHOUT ROWID;";
    type Tables = Tables;
    type Event = Event;

    fn decode(event: EncodedEvent<'_>) -> Result<Event, EventError> {
        event.decode::<Account>()
    }

    fn want(event: &Recorded<Event>, tables: &mut Tables) {
        tables.accounts.want(&event.aggregate_id);
        if let Some(leg) = Leg::of(event) {
            let currency = &leg.amount.currency_code;
            for account in std::iter::once(leg.from).chain(leg.to) {
                tables.pending.want((account.to_owned(), currency.clone()));
            }
        }
    }

    fn apply(event: &Recorded<Event>, tables: &mut Tables) -> Result<(), ApplyError> {
        let slot = tables.accounts.edit(&event.aggregate_id)?;
        if let Event::AccountOpened(opened) = &event.event {
            if slot.is_some() {
                return Err(ApplyError::failed("the account is open already"));
            }
            let (currency_code, balance_minor) = initial(opened.initial_balance.as_ref())?;
            let opened_time = opened.opened_time.as_ref().and_then(crate::time::nanos);
            *slot = Some(AccountRow {
                account_id: event.aggregate_id.clone(),
                owner_name: opened.owner_name.clone(),
                currency_code,
                balance_minor,
                status: AccountStatus::Open as i64,
                version: 0,
                opened_time: opened_time.unwrap_or(event.time_ns),
                closed_time: None,
                updated_time: 0,
            });
        }
        let Some(account) = slot else {
            return Err(ApplyError::failed("the account was never opened"));
        };
        match &event.event {
            Event::AccountOpened(_) => {}
            Event::MoneyDeposited(deposited) => {
                let amount = minor(deposited.amount.as_ref(), &account.currency_code)?;
                account.balance_minor = add(account.balance_minor, amount)?;
            }
            Event::MoneyWithdrawn(withdrawn) => {
                let amount = minor(withdrawn.amount.as_ref(), &account.currency_code)?;
                account.balance_minor = add(account.balance_minor, -amount)?;
            }
            Event::TransferSent(sent) => {
                let amount = minor(sent.amount.as_ref(), &account.currency_code)?;
                account.balance_minor = add(account.balance_minor, -amount)?;
            }
            Event::TransferReceived(received) => {
                let amount = minor(received.amount.as_ref(), &account.currency_code)?;
                account.balance_minor = add(account.balance_minor, amount)?;
            }
            Event::TransferRefunded(refunded) => {
                let amount = minor(refunded.amount.as_ref(), &account.currency_code)?;
                account.balance_minor = add(account.balance_minor, amount)?;
            }
            Event::PaymentSent(sent) => {
                let amount = minor(sent.amount.as_ref(), &account.currency_code)?;
                account.balance_minor = add(account.balance_minor, -amount)?;
            }
            Event::PaymentRefunded(refunded) => {
                let amount = minor(refunded.amount.as_ref(), &account.currency_code)?;
                account.balance_minor = add(account.balance_minor, amount)?;
            }
            Event::TransferSettled(_) | Event::PaymentSettled(_) => {}
            Event::AccountClosed(closed) => {
                let closed_time = closed.closed_time.as_ref().and_then(crate::time::nanos);
                account.status = AccountStatus::Closed as i64;
                account.closed_time = Some(closed_time.unwrap_or(event.time_ns));
            }
        }
        account.version = event.version_i64();
        account.updated_time = event.time_ns;
        match Leg::of(event) {
            Some(leg) => leg.apply(tables),
            None => Ok(()),
        }
    }
}

/// Money that leaves an account, or whose way ends.
struct Leg<'a> {
    from: &'a str,
    /// The account that it is for; `None` when it pays for an order.
    to: Option<&'a str>,
    amount: &'a Money,
    leaves: bool,
}

impl<'a> Leg<'a> {
    fn of(event: &'a Recorded<Event>) -> Option<Self> {
        let own = &event.aggregate_id;
        let (from, to, amount, leaves) = match &event.event {
            Event::TransferSent(sent) => (own, Some(&sent.to_account_id), &sent.amount, true),
            Event::TransferReceived(received) => {
                (&received.from_account_id, Some(own), &received.amount, false)
            }
            Event::TransferRefunded(refunded) => {
                (own, Some(&refunded.to_account_id), &refunded.amount, false)
            }
            Event::PaymentSent(sent) => (own, None, &sent.amount, true),
            Event::PaymentSettled(settled) => (own, None, &settled.amount, false),
            Event::PaymentRefunded(refunded) => (own, None, &refunded.amount, false),
            _ => return None,
        };
        Some(Self { from, to: to.map(String::as_str), amount: amount.as_ref()?, leaves })
    }

    fn apply(&self, tables: &mut Tables) -> Result<(), ApplyError> {
        let currency = &self.amount.currency_code;
        let amount = minor(Some(self.amount), currency)?;
        let amount = if self.leaves { amount } else { -amount };
        let to = self.to.map(|to| (to, 0, amount));
        for (account, out_minor, in_minor) in std::iter::once((self.from, amount, 0)).chain(to) {
            let key = (account.to_owned(), currency.clone());
            let slot = tables.pending.edit(&key)?;
            let (account_id, currency_code) = key;
            let before = slot.take().map_or((0, 0), |row| (row.out_minor, row.in_minor));
            let after = (add(before.0, out_minor)?, add(before.1, in_minor)?);
            *slot = (after != (0, 0)).then_some(PendingRow {
                account_id,
                currency_code,
                out_minor: after.0,
                in_minor: after.1,
            });
        }
        Ok(())
    }
}
