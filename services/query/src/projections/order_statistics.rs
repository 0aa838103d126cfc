//! How many orders were submitted, paid and cancelled on each day, for each currency.

use daybook_contract::contract::EventError;
use daybook_contract::orders::v1::order::Event;
use daybook_domain::order::Order;

use crate::amount::{add, parts};
use crate::runtime::{ApplyError, EncodedEvent, Projection, Recorded};

/// The projection.
pub struct OrderStatistics;

crate::rows! {
    /// The tables of the projection.
    pub struct Tables {
        /// The currency of each order that is submitted and not paid: an event that cancels one
        /// does not tell.
        submitted: SubmittedRow in "submitted",
        /// The days.
        days: DayRow in "days",
    }

    /// A submitted order.
    pub struct SubmittedRow {
        key {
            /// Its id.
            order_id: String,
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
        /// How many orders were submitted.
        orders_submitted: i64,
        /// How many orders were paid.
        orders_paid: i64,
        /// How many submitted orders were cancelled.
        orders_cancelled: i64,
        /// What the paid orders come to, in the smallest unit.
        revenue_minor: i64,
    }
}

impl Projection for OrderStatistics {
    const NAME: &'static str = "order_statistics";
    const VERSION: u32 = 1;
    const AGGREGATES: &'static [&'static str] = &["orders.order"];
    const SCHEMA: &'static str = "
        CREATE TABLE submitted (
            order_id      TEXT PRIMARY KEY,
            currency_code TEXT NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE days (
            day              TEXT NOT NULL,
            currency_code    TEXT NOT NULL,
            orders_submitted INTEGER NOT NULL,
            orders_paid      INTEGER NOT NULL,
            orders_cancelled INTEGER NOT NULL,
            revenue_minor    INTEGER NOT NULL,
            PRIMARY KEY (day, currency_code)
        ) WITHOUT ROWID;";
    type Tables = Tables;
    type Event = Event;

    fn decode(event: EncodedEvent<'_>) -> Result<Event, EventError> {
        event.decode::<Order>()
    }

    fn want(event: &Recorded<Event>, tables: &mut Tables) {
        let amount = match &event.event {
            Event::OrderSubmitted(submitted) => &submitted.total,
            Event::OrderPaid(paid) => &paid.amount,
            // The day's row is in the currency of the order, which is not known yet.
            Event::OrderCancelled(_) => &None,
            _ => return,
        };
        tables.submitted.want(&event.aggregate_id);
        if let Some(amount) = amount {
            tables.days.want((crate::time::day(event.time_ns), amount.currency_code.clone()));
        }
    }

    fn apply(event: &Recorded<Event>, tables: &mut Tables) -> Result<(), ApplyError> {
        let order_id = &event.aggregate_id;
        match &event.event {
            Event::OrderSubmitted(submitted) => {
                let (currency_code, _) = parts(submitted.total.as_ref())?;
                day(event, currency_code.clone(), tables)?.orders_submitted += 1;
                tables.submitted.put(SubmittedRow { order_id: order_id.clone(), currency_code });
            }
            Event::OrderPaid(paid) => {
                let (currency_code, amount) = parts(paid.amount.as_ref())?;
                let day = day(event, currency_code, tables)?;
                day.orders_paid += 1;
                day.revenue_minor = add(day.revenue_minor, amount)?;
                *tables.submitted.edit(order_id)? = None;
            }
            Event::OrderCancelled(_) => {
                // One that was never submitted is nobody's loss.
                let Some(row) = tables.submitted.edit(order_id)?.take() else { return Ok(()) };
                day(event, row.currency_code, tables)?.orders_cancelled += 1;
            }
            Event::OrderCreated(_)
            | Event::ItemAdded(_)
            | Event::ItemRemoved(_)
            | Event::OrderShipped(_) => {}
        }
        Ok(())
    }
}

/// The row of the day of an event.
fn day<'t>(
    event: &Recorded<Event>,
    currency_code: String,
    tables: &'t mut Tables,
) -> Result<&'t mut DayRow, ApplyError> {
    let key = (crate::time::day(event.time_ns), currency_code);
    let slot = tables.days.edit(&key)?;
    let (day, currency_code) = key;
    Ok(slot.get_or_insert(DayRow {
        day,
        currency_code,
        orders_submitted: 0,
        orders_paid: 0,
        orders_cancelled: 0,
        revenue_minor: 0,
    }))
}
