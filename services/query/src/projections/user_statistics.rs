//! The numbers of each user, from the events of users and of orders.
//!
//! The two come by different topics, in any order: an order may be seen before its user. So a user
//! has a row as soon as anything is known, and counts as one when the registration is.

use daybook_contract::contract::EventError;
use daybook_contract::orders::v1::OrderPaid;
use daybook_contract::orders::v1::order::Event as OrderEvent;
use daybook_contract::users::v1::user::Event as UserEvent;
use daybook_domain::order::Order;
use daybook_domain::user::User;

use crate::amount::{add, parts};
use crate::runtime::{ApplyError, EncodedEvent, Projection, Recorded};

/// The projection.
pub struct UserStatistics;

/// An event of a user or of an order.
pub enum Event {
    /// Of a user.
    User(UserEvent),
    /// Of an order.
    Order(OrderEvent),
}

crate::rows! {
    /// The tables of the projection.
    pub struct Tables {
        /// The numbers of all users.
        users: NumbersRow in "users",
        /// What users spent.
        spent: SpentRow in "spent",
        /// Whose orders there are.
        orders: OwnerRow in "orders",
    }

    /// The numbers of a user.
    pub struct NumbersRow {
        key {
            /// The user.
            user_id: String,
        }
        /// When the user was registered, in nanoseconds; none as long as that is not known.
        registered_time: Option<i64>,
        /// How many logins there were.
        logins: i64,
        /// How many actions there were.
        actions: i64,
        /// How many orders were created.
        orders: i64,
        /// How many of them were paid.
        paid_orders: i64,
        /// How many of them were cancelled.
        cancelled_orders: i64,
        /// When the user was last seen.
        last_seen_time: i64,
    }

    /// What a user spent in one currency.
    pub struct SpentRow {
        key {
            /// The user.
            user_id: String,
            /// The currency.
            currency_code: String,
        }
        /// How much, in the smallest unit.
        minor: i64,
    }

    /// Whose an order is.
    pub struct OwnerRow {
        key {
            /// The order.
            order_id: String,
        }
        /// The user.
        user_id: String,
    }
}

impl Projection for UserStatistics {
    const NAME: &'static str = "user_statistics";
    const VERSION: u32 = 1;
    const AGGREGATES: &'static [&'static str] = &["orders.order", "users.user"];
    const SCHEMA: &'static str = "
        CREATE TABLE users (
            user_id          TEXT PRIMARY KEY,
            registered_time  INTEGER,
            logins           INTEGER NOT NULL,
            actions          INTEGER NOT NULL,
            orders           INTEGER NOT NULL,
            paid_orders      INTEGER NOT NULL,
            cancelled_orders INTEGER NOT NULL,
            last_seen_time   INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE spent (
            user_id       TEXT NOT NULL,
            currency_code TEXT NOT NULL,
            minor         INTEGER NOT NULL,
            PRIMARY KEY (user_id, currency_code)
        ) WITHOUT ROWID;
        CREATE TABLE orders (
            order_id TEXT PRIMARY KEY,
            user_id  TEXT NOT NULL
        ) WITHOUT ROWID;";
    type Tables = Tables;
    type Event = Event;

    fn decode(event: EncodedEvent<'_>) -> Result<Event, EventError> {
        match event.aggregate_type {
            "users.user" => event.decode::<User>().map(Event::User),
            _ => event.decode::<Order>().map(Event::Order),
        }
    }

    fn want(event: &Recorded<Event>, tables: &mut Tables) {
        match &event.event {
            Event::User(_) => tables.users.want(&event.aggregate_id),
            Event::Order(_) => tables.orders.want(&event.aggregate_id),
        }
    }

    fn apply(event: &Recorded<Event>, tables: &mut Tables) -> Result<(), ApplyError> {
        match &event.event {
            Event::User(of_user) => {
                let user = numbers(tables, &event.aggregate_id, event.time_ns)?;
                match of_user {
                    UserEvent::UserRegistered(_) => user.registered_time = Some(event.time_ns),
                    UserEvent::UserLoggedIn(_) => user.logins += 1,
                    UserEvent::UserActed(_) => user.actions += 1,
                    UserEvent::EmailChanged(_) | UserEvent::UserDeactivated(_) => {}
                }
                Ok(())
            }
            Event::Order(of_order) => order(event, of_order, tables),
        }
    }
}

fn order(
    event: &Recorded<Event>,
    of_order: &OrderEvent,
    tables: &mut Tables,
) -> Result<(), ApplyError> {
    let owner = tables.orders.edit(&event.aggregate_id)?;
    if let OrderEvent::OrderCreated(created) = of_order {
        let (order_id, user_id) = (event.aggregate_id.clone(), created.user_id.clone());
        *owner = Some(OwnerRow { order_id, user_id });
    }
    let Some(owner) = owner else {
        return Err(ApplyError::failed("the order was never created"));
    };
    let user_id = owner.user_id.clone();
    let user = numbers(tables, &user_id, event.time_ns)?;
    match of_order {
        OrderEvent::OrderCreated(_) => user.orders += 1,
        OrderEvent::OrderCancelled(_) => user.cancelled_orders += 1,
        OrderEvent::OrderPaid(paid) => {
            user.paid_orders += 1;
            spend(tables, user_id, paid)?;
        }
        OrderEvent::ItemAdded(_)
        | OrderEvent::ItemRemoved(_)
        | OrderEvent::OrderSubmitted(_)
        | OrderEvent::OrderShipped(_) => {}
    }
    Ok(())
}

fn spend(tables: &mut Tables, user_id: String, paid: &OrderPaid) -> Result<(), ApplyError> {
    let (currency_code, minor) = parts(paid.amount.as_ref())?;
    let key = (user_id, currency_code);
    let slot = tables.spent.edit(&key)?;
    let (user_id, currency_code) = key;
    let spent = slot.get_or_insert_with(|| SpentRow { user_id, currency_code, minor: 0 });
    spent.minor = add(spent.minor, minor)?;
    Ok(())
}

/// The numbers of a user who was seen at a time.
fn numbers<'t>(
    tables: &'t mut Tables,
    user_id: &str,
    time_ns: i64,
) -> Result<&'t mut NumbersRow, ApplyError> {
    let slot = tables.users.edit(&user_id.to_owned())?;
    let user = slot.get_or_insert_with(|| NumbersRow {
        user_id: user_id.to_owned(),
        registered_time: None,
        logins: 0,
        actions: 0,
        orders: 0,
        paid_orders: 0,
        cancelled_orders: 0,
        last_seen_time: time_ns,
    });
    user.last_seen_time = user.last_seen_time.max(time_ns);
    Ok(user)
}
