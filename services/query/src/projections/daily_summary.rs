//! What happened on each day, over all accounts, for each currency.

use daybook_contract::bank::v1::account::Event;
use daybook_contract::contract::EventError;
use daybook_domain::account::Account;

use crate::amount::{add, initial, minor};
use crate::runtime::{ApplyError, EncodedEvent, Projection, Recorded};

/// The projection.
pub struct DailySummary;

crate::rows! {
    /// The tables of the projection.
    pub struct Tables {
        /// The currency of each account: an event that closes one does not tell.
        currencies: CurrencyRow in "currencies",
        /// The days.
        days: DayRow in "days",
    }

    /// An account.
    pub struct CurrencyRow {
        key {
            /// Its id.
            account_id: String,
        }
        /// Its currency.
        currency_code: String,
    }

    /// A day and currency.
    pub struct DayRow {
        key {
            /// The day in UTC, as `2026-11-21`.
            day: String,
            /// The currency.
            currency_code: String,
        }
        /// How many accounts were opened.
        accounts_opened: i64,
        /// How many accounts were closed.
        accounts_closed: i64,
        /// How many deposits there were, initial balances above zero included.
        deposit_count: i64,
        /// What they come to, in the smallest unit.
        deposit_minor: i64,
        /// How many withdrawals there were.
        withdrawal_count: i64,
        /// What they come to.
        withdrawal_minor: i64,
        /// How many transfers arrived.
        transfer_count: i64,
        /// What they come to.
        transfer_minor: i64,
    }
}

impl Projection for DailySummary {
    const NAME: &'static str = "daily_summary";
    const VERSION: u32 = 2;
    const AGGREGATES: &'static [&'static str] = &["bank.account"];
    const SCHEMA: &'static str = "
        CREATE TABLE currencies (
            account_id    TEXT PRIMARY KEY,
            currency_code TEXT NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE days (
            day              TEXT NOT NULL,
            currency_code    TEXT NOT NULL,
            accounts_opened  INTEGER NOT NULL,
            accounts_closed  INTEGER NOT NULL,
            deposit_count    INTEGER NOT NULL,
            deposit_minor    INTEGER NOT NULL,
            withdrawal_count INTEGER NOT NULL,
            withdrawal_minor INTEGER NOT NULL,
            transfer_count   INTEGER NOT NULL,
            transfer_minor   INTEGER NOT NULL,
            PRIMARY KEY (day, currency_code)
        ) WITHOUT ROWID;";
    type Tables = Tables;
    type Event = Event;

    fn decode(event: EncodedEvent<'_>) -> Result<Event, EventError> {
        event.decode::<Account>()
    }

    fn want(event: &Recorded<Event>, tables: &mut Tables) {
        let amount = match &event.event {
            Event::AccountOpened(opened) => &opened.initial_balance,
            Event::MoneyDeposited(deposited) => &deposited.amount,
            Event::MoneyWithdrawn(withdrawn) => &withdrawn.amount,
            // The day's row is in the currency of the account, which is not known yet.
            Event::AccountClosed(_) => &None,
            Event::TransferReceived(received) => &received.amount,
            Event::PaymentSettled(settled) => &settled.amount,
            Event::TransferSent(_)
            | Event::TransferSettled(_)
            | Event::TransferRefunded(_)
            | Event::PaymentSent(_)
            | Event::PaymentRefunded(_) => return,
        };
        tables.currencies.want(&event.aggregate_id);
        if let Some(amount) = amount {
            tables.days.want((crate::time::day(event.time_ns), amount.currency_code.clone()));
        }
    }

    fn apply(event: &Recorded<Event>, tables: &mut Tables) -> Result<(), ApplyError> {
        if matches!(
            event.event,
            Event::TransferSent(_)
                | Event::TransferSettled(_)
                | Event::TransferRefunded(_)
                | Event::PaymentSent(_)
                | Event::PaymentRefunded(_)
        ) {
            // What is sent counts when it arrives.
            return Ok(());
        }
        if let Event::AccountOpened(opened) = &event.event {
            let slot = tables.currencies.edit(&event.aggregate_id)?;
            if slot.is_some() {
                return Err(ApplyError::failed("the account is open already"));
            }
            let (currency_code, _) = initial(opened.initial_balance.as_ref())?;
            *slot = Some(CurrencyRow { account_id: event.aggregate_id.clone(), currency_code });
        }
        let account = tables.currencies.get(&event.aggregate_id)?;
        let currency = account
            .ok_or_else(|| ApplyError::failed("the account was never opened"))?
            .currency_code
            .clone();
        let key = (crate::time::day(event.time_ns), currency.clone());
        let day = tables.days.edit(&key)?.get_or_insert_with(|| empty(key));
        match &event.event {
            Event::AccountOpened(opened) => {
                day.accounts_opened += 1;
                let amount = minor(opened.initial_balance.as_ref(), &currency)?;
                if amount > 0 {
                    day.deposit_count += 1;
                    day.deposit_minor = add(day.deposit_minor, amount)?;
                }
            }
            Event::MoneyDeposited(deposited) => {
                let amount = minor(deposited.amount.as_ref(), &currency)?;
                day.deposit_count += 1;
                day.deposit_minor = add(day.deposit_minor, amount)?;
            }
            Event::MoneyWithdrawn(withdrawn) => {
                let amount = minor(withdrawn.amount.as_ref(), &currency)?;
                day.withdrawal_count += 1;
                day.withdrawal_minor = add(day.withdrawal_minor, amount)?;
            }
            Event::AccountClosed(_) => day.accounts_closed += 1,
            Event::TransferReceived(received) => {
                let amount = minor(received.amount.as_ref(), &currency)?;
                day.transfer_count += 1;
                day.transfer_minor = add(day.transfer_minor, amount)?;
            }
            // What an order was paid with has left the bank.
            Event::PaymentSettled(settled) => {
                let amount = minor(settled.amount.as_ref(), &currency)?;
                day.withdrawal_count += 1;
                day.withdrawal_minor = add(day.withdrawal_minor, amount)?;
            }
            Event::TransferSent(_)
            | Event::TransferSettled(_)
            | Event::TransferRefunded(_)
            | Event::PaymentSent(_)
            | Event::PaymentRefunded(_) => {}
        }
        Ok(())
    }
}

fn empty((day, currency_code): (String, String)) -> DayRow {
    DayRow {
        day,
        currency_code,
        accounts_opened: 0,
        accounts_closed: 0,
        deposit_count: 0,
        deposit_minor: 0,
        withdrawal_count: 0,
        withdrawal_minor: 0,
        transfer_count: 0,
        transfer_minor: 0,
    }
}
