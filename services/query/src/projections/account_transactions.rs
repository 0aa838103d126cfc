//! The movements of each account, with the balance after each.

use daybook_contract::bank::v1::account::Event;
use daybook_contract::bank::v1::{MovementMethod, TransactionKind};
use daybook_contract::contract::EventError;
use daybook_contract::daybook::v1::Money;
use daybook_domain::account::Account;

use crate::amount::{add, initial, minor};
use crate::runtime::{ApplyError, EncodedEvent, Projection, Recorded};

/// The projection.
pub struct AccountTransactions;

crate::rows! {
    /// The tables of the projection.
    pub struct Tables {
        /// What is on each account, to know the balance after the next movement.
        balances: BalanceRow in "balances",
        /// All movements.
        transactions: TransactionRow in "transactions",
    }

    /// An account.
    pub struct BalanceRow {
        key {
            /// Its id.
            account_id: String,
        }
        /// A short number for it: the position of the event that opened it.
        account_no: i64,
        /// Its currency.
        currency_code: String,
        /// What is on it, in the smallest unit.
        balance_minor: i64,
    }

    /// A movement.
    pub struct TransactionRow {
        key {
            /// The number of the account.
            account_no: i64,
            /// The version of the account's stream with it.
            version: i64,
        }
        /// A number of `bank.v1.TransactionKind`.
        kind: i64,
        /// How much, in the smallest unit; positive.
        amount_minor: i64,
        /// What was on the account after it.
        balance_minor: i64,
        /// What it was for.
        description: String,
        /// A number of `bank.v1.MovementMethod`.
        method: i64,
        /// When it was recorded, in nanoseconds.
        recorded_time: i64,
        /// The position of its event.
        position: i64,
        /// The id of its event.
        event_id: String,
    }
}

impl Projection for AccountTransactions {
    const NAME: &'static str = "account_transactions";
    const VERSION: u32 = 3;
    const AGGREGATES: &'static [&'static str] = &["bank.account"];
    const SCHEMA: &'static str = "
        CREATE TABLE balances (
            account_id    TEXT PRIMARY KEY,
            account_no    INTEGER NOT NULL,
            currency_code TEXT NOT NULL,
            balance_minor INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE transactions (
            account_no    INTEGER NOT NULL,
            version       INTEGER NOT NULL,
            kind          INTEGER NOT NULL,
            amount_minor  INTEGER NOT NULL,
            balance_minor INTEGER NOT NULL,
            description   TEXT NOT NULL,
            method        INTEGER NOT NULL,
            recorded_time INTEGER NOT NULL,
            position      INTEGER NOT NULL,
            event_id      TEXT NOT NULL,
            PRIMARY KEY (account_no, version)
        ) WITHOUT ROWID;
        CREATE INDEX transactions_by_kind ON transactions (account_no, kind, version);";
    type Tables = Tables;
    type Event = Event;

    fn decode(event: EncodedEvent<'_>) -> Result<Event, EventError> {
        event.decode::<Account>()
    }

    fn want(event: &Recorded<Event>, tables: &mut Tables) {
        tables.balances.want(&event.aggregate_id);
    }

    fn apply(event: &Recorded<Event>, tables: &mut Tables) -> Result<(), ApplyError> {
        match &event.event {
            Event::AccountOpened(opened) => open(event, opened.initial_balance.as_ref(), tables),
            Event::MoneyDeposited(deposited) => movement(
                event,
                tables,
                TransactionKind::Deposit,
                deposited.amount.as_ref(),
                &deposited.description,
                deposited.method,
            ),
            Event::MoneyWithdrawn(withdrawn) => movement(
                event,
                tables,
                TransactionKind::Withdrawal,
                withdrawn.amount.as_ref(),
                &withdrawn.description,
                withdrawn.method,
            ),
            Event::TransferSent(sent) => movement(
                event,
                tables,
                TransactionKind::TransferOut,
                sent.amount.as_ref(),
                &sent.description,
                MovementMethod::Transfer.into(),
            ),
            Event::TransferReceived(received) => movement(
                event,
                tables,
                TransactionKind::TransferIn,
                received.amount.as_ref(),
                &received.description,
                MovementMethod::Transfer.into(),
            ),
            Event::TransferRefunded(refunded) => movement(
                event,
                tables,
                TransactionKind::TransferRefund,
                refunded.amount.as_ref(),
                &refunded.reason,
                MovementMethod::Transfer.into(),
            ),
            Event::PaymentSent(sent) => movement(
                event,
                tables,
                TransactionKind::Payment,
                sent.amount.as_ref(),
                &sent.description,
                MovementMethod::Card.into(),
            ),
            Event::PaymentRefunded(refunded) => movement(
                event,
                tables,
                TransactionKind::PaymentRefund,
                refunded.amount.as_ref(),
                &refunded.reason,
                MovementMethod::Card.into(),
            ),
            Event::TransferSettled(_) | Event::PaymentSettled(_) | Event::AccountClosed(_) => {
                Ok(())
            }
        }
    }
}

fn open(
    event: &Recorded<Event>,
    balance: Option<&Money>,
    tables: &mut Tables,
) -> Result<(), ApplyError> {
    let slot = tables.balances.edit(&event.aggregate_id)?;
    if slot.is_some() {
        return Err(ApplyError::failed("the account is open already"));
    }
    let (currency_code, balance_minor) = initial(balance)?;
    *slot = Some(BalanceRow {
        account_id: event.aggregate_id.clone(),
        account_no: event.position_i64(),
        currency_code,
        balance_minor,
    });
    if balance_minor > 0 {
        tables.transactions.add(TransactionRow {
            account_no: event.position_i64(),
            version: event.version_i64(),
            kind: TransactionKind::Opening as i64,
            amount_minor: balance_minor,
            balance_minor,
            description: String::new(),
            method: 0,
            recorded_time: event.time_ns,
            position: event.position_i64(),
            event_id: event.event_id.clone(),
        });
    }
    Ok(())
}

fn movement(
    event: &Recorded<Event>,
    tables: &mut Tables,
    kind: TransactionKind,
    amount: Option<&Money>,
    description: &str,
    method: i32,
) -> Result<(), ApplyError> {
    let slot = tables.balances.edit(&event.aggregate_id)?;
    let account =
        slot.as_mut().ok_or_else(|| ApplyError::failed("the account was never opened"))?;
    let amount_minor = minor(amount, &account.currency_code)?;
    let goes_out = matches!(
        kind,
        TransactionKind::Withdrawal | TransactionKind::TransferOut | TransactionKind::Payment
    );
    let signed = if goes_out { -amount_minor } else { amount_minor };
    account.balance_minor = add(account.balance_minor, signed)?;
    let row = TransactionRow {
        account_no: account.account_no,
        version: event.version_i64(),
        kind: kind as i64,
        amount_minor,
        balance_minor: account.balance_minor,
        description: description.to_owned(),
        method: method.into(),
        recorded_time: event.time_ns,
        position: event.position_i64(),
        event_id: event.event_id.clone(),
    };
    tables.transactions.add(row);
    Ok(())
}
