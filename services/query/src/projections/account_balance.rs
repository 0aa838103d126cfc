//! Each account as it is now.

use daybook_contract::bank::v1::account::Event;
use daybook_contract::bank::v1::AccountStatus;
use daybook_contract::contract::EventError;
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
}

impl Projection for AccountBalance {
    const NAME: &'static str = "account_balance";
    const VERSION: u32 = 1;
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
        CREATE INDEX accounts_by_owner ON accounts (owner_name COLLATE NOCASE, account_id);";
    type Tables = Tables;
    type Event = Event;

    fn decode(event: EncodedEvent<'_>) -> Result<Event, EventError> {
        event.decode::<Account>()
    }

    fn want(event: &Recorded<Event>, tables: &mut Tables) {
        tables.accounts.want(event.aggregate_id.clone());
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
            Event::AccountClosed(closed) => {
                let closed_time = closed.closed_time.as_ref().and_then(crate::time::nanos);
                account.status = AccountStatus::Closed as i64;
                account.closed_time = Some(closed_time.unwrap_or(event.time_ns));
            }
        }
        account.version = event.version_i64();
        account.updated_time = event.time_ns;
        Ok(())
    }
}
