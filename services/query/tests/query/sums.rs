//! A small projection for tests of the runtime, with bugs to choose from.

use daybook_contract::bank::v1::account::Event;
use daybook_contract::contract::EventError;
use daybook_domain::account::Account;
use daybook_query::runtime::{
    ApplyError, EncodedEvent, Environment, Projection, Recorded, Started, start,
};

use crate::fakes::{Log, decoded};

/// The bugs.
pub const NONE: u8 = 0;
/// Counts deposits twice.
pub const DOUBLES: u8 = 1;
/// Cannot apply an amount of 6.66.
pub const REFUSES: u8 = 2;
/// Panics at an amount of 6.66, after it has changed the row.
pub const PANICS: u8 = 3;
/// Does not say which rows it needs.
pub const FORGETS: u8 = 4;
/// Panics when it decodes a withdrawal.
pub const PANICS_DECODING: u8 = 5;
/// Panics when it says which rows it needs for a withdrawal.
pub const PANICS_WANTING: u8 = 6;

/// The sum of the movements of each account.
pub struct Sums<const BUG: u8, const VERSION: u32 = 1>;

/// Starts it.
pub fn start_sums<const BUG: u8, const VERSION: u32>(environment: &Environment) -> Vec<Started> {
    vec![start::<Sums<BUG, VERSION>>(environment)]
}

daybook_query::rows! {
    /// The tables.
    pub struct Tables {
        sums: Sum in "sums",
        /// Accounts that are empty; a row comes and goes.
        empty: Empty in "empty",
    }

    /// An account.
    pub struct Sum {
        key { account: String }
        cents: i64,
        events: i64,
    }

    /// An empty account.
    pub struct Empty {
        key { account: String, currency: String }
    }
}

impl<const BUG: u8, const V: u32> Projection for Sums<BUG, V> {
    const NAME: &'static str = "sums";
    const VERSION: u32 = V;
    const AGGREGATES: &'static [&'static str] = &["bank.account"];
    const SCHEMA: &'static str = "
        CREATE TABLE sums (
            account TEXT PRIMARY KEY, cents INTEGER NOT NULL, events INTEGER NOT NULL
        );
        CREATE TABLE empty (
            account TEXT NOT NULL, currency TEXT NOT NULL, PRIMARY KEY (account, currency)
        )";
    type Tables = Tables;
    type Event = Event;

    fn decode(event: EncodedEvent<'_>) -> Result<Event, EventError> {
        assert!(BUG != PANICS_DECODING || event.name != "MoneyWithdrawn", "an upcaster's bug");
        event.decode::<Account>()
    }

    fn want(event: &Recorded<Event>, tables: &mut Tables) {
        let withdrawn = matches!(event.event, Event::MoneyWithdrawn(_));
        assert!(BUG != PANICS_WANTING || !withdrawn, "a wish's bug");
        if BUG != FORGETS {
            tables.sums.want(event.aggregate_id.clone());
            tables.empty.want((event.aggregate_id.clone(), "USD".to_owned()));
        }
    }

    fn apply(event: &Recorded<Event>, tables: &mut Tables) -> Result<(), ApplyError> {
        let account = event.aggregate_id.clone();
        let cents = match &event.event {
            Event::AccountOpened(event) => cents(event.initial_balance.as_ref()),
            Event::MoneyDeposited(event) if BUG == DOUBLES => 2 * cents(event.amount.as_ref()),
            Event::MoneyDeposited(event) => cents(event.amount.as_ref()),
            Event::MoneyWithdrawn(event) => -cents(event.amount.as_ref()),
            _ => 0,
        };
        let new = Sum { account: account.clone(), cents: 0, events: 0 };
        let sum = tables.sums.edit(&account)?.get_or_insert(new);
        sum.cents += cents;
        sum.events += 1;
        let is_empty = sum.cents == 0;
        if BUG == REFUSES && cents == 666 {
            return Err(ApplyError::failed("6.66 is refused"));
        }
        assert!(BUG != PANICS || cents != 666, "6.66 is a bug");
        let key = (account.clone(), "USD".to_owned());
        *tables.empty.edit(&key)? = is_empty.then(|| Empty { account, currency: "USD".to_owned() });
        Ok(())
    }
}

fn cents(amount: Option<&daybook_contract::daybook::v1::Money>) -> i64 {
    daybook_contract::money::to_minor(amount.unwrap()).unwrap()
}

/// What the projection must hold of a log.
pub fn expected(log: &Log) -> Vec<String> {
    let mut sums = std::collections::BTreeMap::<String, (i64, u64)>::new();
    for (record, event) in decoded(log) {
        let sum = sums.entry(record.aggregate_id).or_default();
        sum.1 += 1;
        sum.0 += match &event {
            Event::AccountOpened(event) => cents(event.initial_balance.as_ref()),
            Event::MoneyDeposited(event) => cents(event.amount.as_ref()),
            Event::MoneyWithdrawn(event) => -cents(event.amount.as_ref()),
            _ => 0,
        };
    }
    sums.iter().map(|(id, (cents, events))| format!("'{id}' {cents} {events}")).collect()
}
