//! Each order as it is now, with its items.

use daybook_contract::contract::EventError;
use daybook_contract::orders::v1::order::Event;
use daybook_contract::orders::v1::{OrderItem, OrderStatus};
use daybook_domain::order::Order;

use crate::amount::{add, parts};
use crate::runtime::store::to_i64;
use crate::runtime::{ApplyError, EncodedEvent, Projection, Recorded};

/// The projection.
pub struct Orders;

crate::rows! {
    /// The tables of the projection.
    pub struct Tables {
        /// All orders.
        orders: OrderRow in "orders",
        /// Their items.
        items: ItemRow in "items",
    }

    /// An order.
    pub struct OrderRow {
        key {
            /// Its id.
            order_id: String,
        }
        /// A short number for it: the position of the event that created it.
        order_no: i64,
        /// The user whose order it is.
        user_id: String,
        /// How far it has come: a number of `orders.v1.OrderStatus`.
        status: i64,
        /// The currency of its items; empty when there is none.
        currency_code: String,
        /// What it comes to, in the smallest unit.
        total_minor: i64,
        /// How many items it has.
        item_count: i64,
        /// The account to charge.
        account_id: String,
        /// What the payment is known by.
        payment_id: String,
        /// What the carrier knows the parcel by.
        tracking_id: String,
        /// Why it was cancelled.
        cancel_reason: String,
        /// The version of its stream.
        version: i64,
        /// When it was created, in nanoseconds: the time of the record, which grows with `order_no`.
        created_time: i64,
        /// When it was submitted.
        submitted_time: Option<i64>,
        /// When it was paid.
        paid_time: Option<i64>,
        /// When it was shipped.
        shipped_time: Option<i64>,
        /// When it was cancelled.
        cancelled_time: Option<i64>,
        /// When the last event was recorded.
        updated_time: i64,
    }

    /// An item of an order.
    pub struct ItemRow {
        key {
            /// The order.
            order_id: String,
            /// The line.
            line_id: String,
        }
        /// The number of the order.
        order_no: i64,
        /// The version of the order's stream with it: items in the order of adding.
        item_no: i64,
        /// The product.
        product_id: String,
        /// How many pieces.
        quantity: i64,
        /// The currency of the price.
        currency_code: String,
        /// The price of one piece, in the smallest unit.
        unit_price_minor: i64,
    }
}

impl Projection for Orders {
    const NAME: &'static str = "orders";
    const VERSION: u32 = 2;
    const AGGREGATES: &'static [&'static str] = &["orders.order"];
    const SCHEMA: &'static str = "
        CREATE TABLE orders (
            order_id       TEXT PRIMARY KEY,
            order_no       INTEGER NOT NULL,
            user_id        TEXT NOT NULL,
            status         INTEGER NOT NULL,
            currency_code  TEXT NOT NULL,
            total_minor    INTEGER NOT NULL,
            item_count     INTEGER NOT NULL,
            account_id     TEXT NOT NULL,
            payment_id     TEXT NOT NULL,
            tracking_id    TEXT NOT NULL,
            cancel_reason  TEXT NOT NULL,
            version        INTEGER NOT NULL,
            created_time   INTEGER NOT NULL,
            submitted_time INTEGER,
            paid_time      INTEGER,
            shipped_time   INTEGER,
            cancelled_time INTEGER,
            updated_time   INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE INDEX orders_by_time ON orders (created_time, order_no);
        CREATE INDEX orders_by_user ON orders (user_id, created_time, order_no);
        CREATE INDEX orders_by_status ON orders (status, created_time, order_no);
        CREATE INDEX orders_by_user_and_status
            ON orders (user_id, status, created_time, order_no);
        CREATE TABLE items (
            order_id         TEXT NOT NULL,
            line_id          TEXT NOT NULL,
            order_no         INTEGER NOT NULL,
            item_no          INTEGER NOT NULL,
            product_id       TEXT NOT NULL,
            quantity         INTEGER NOT NULL,
            currency_code    TEXT NOT NULL,
            unit_price_minor INTEGER NOT NULL,
            PRIMARY KEY (order_id, line_id)
        ) WITHOUT ROWID;
        CREATE INDEX items_by_product ON items (product_id, order_no, item_no);";
    type Tables = Tables;
    type Event = Event;

    fn decode(event: EncodedEvent<'_>) -> Result<Event, EventError> {
        event.decode::<Order>()
    }

    fn want(event: &Recorded<Event>, tables: &mut Tables) {
        tables.orders.want(&event.aggregate_id);
        if let Event::ItemRemoved(removed) = &event.event {
            tables.items.want((event.aggregate_id.clone(), removed.line_id.clone()));
        }
    }

    fn apply(event: &Recorded<Event>, tables: &mut Tables) -> Result<(), ApplyError> {
        let slot = tables.orders.edit(&event.aggregate_id)?;
        if let Event::OrderCreated(created) = &event.event {
            if slot.is_some() {
                return Err(ApplyError::failed("the order exists already"));
            }
            *slot = Some(new_order(event, created.user_id.clone()));
        }
        let Some(order) = slot else {
            return Err(ApplyError::failed("the order was never created"));
        };
        order.version = event.version_i64();
        order.updated_time = event.time_ns;
        match &event.event {
            Event::OrderCreated(_) => {}
            Event::ItemAdded(added) => {
                let item = added.item.as_ref();
                let item = item.ok_or_else(|| ApplyError::failed("the event has no item"))?;
                let row = new_item(event, order.order_no, item)?;
                add_price(order, &row, 1)?;
                tables.items.put(row);
            }
            Event::ItemRemoved(removed) => {
                let key = (event.aggregate_id.clone(), removed.line_id.clone());
                let row = tables.items.edit(&key)?.take();
                let row = row.ok_or_else(|| ApplyError::failed("the order has no such line"))?;
                add_price(order, &row, -1)?;
            }
            Event::OrderSubmitted(submitted) => {
                order.status = OrderStatus::Submitted as i64;
                order.account_id.clone_from(&submitted.account_id);
                order.submitted_time = Some(event.time_ns);
            }
            Event::OrderPaid(paid) => {
                order.status = OrderStatus::Paid as i64;
                order.payment_id.clone_from(&paid.payment_id);
                order.paid_time = Some(event.time_ns);
            }
            Event::OrderShipped(shipped) => {
                order.status = OrderStatus::Shipped as i64;
                order.tracking_id.clone_from(&shipped.tracking_id);
                order.shipped_time = Some(event.time_ns);
            }
            Event::OrderCancelled(cancelled) => {
                order.status = OrderStatus::Cancelled as i64;
                order.cancel_reason.clone_from(&cancelled.reason);
                order.cancelled_time = Some(event.time_ns);
            }
        }
        Ok(())
    }
}

/// Adds an item to the sums of its order, or takes it off.
fn add_price(order: &mut OrderRow, item: &ItemRow, sign: i64) -> Result<(), ApplyError> {
    let price = item.unit_price_minor.checked_mul(item.quantity);
    let price = price.ok_or_else(|| ApplyError::failed("the price is more than 64 bits hold"))?;
    order.total_minor = add(order.total_minor, sign * price)?;
    order.item_count += sign;
    match order.item_count {
        0 => order.currency_code.clear(),
        _ => order.currency_code.clone_from(&item.currency_code),
    }
    Ok(())
}

fn new_item(
    event: &Recorded<Event>,
    order_no: i64,
    item: &OrderItem,
) -> Result<ItemRow, ApplyError> {
    let (currency_code, unit_price_minor) = parts(item.unit_price.as_ref())?;
    Ok(ItemRow {
        order_id: event.aggregate_id.clone(),
        line_id: item.line_id.clone(),
        order_no,
        item_no: event.version_i64(),
        product_id: item.product_id.clone(),
        quantity: to_i64(item.quantity),
        currency_code,
        unit_price_minor,
    })
}

fn new_order(event: &Recorded<Event>, user_id: String) -> OrderRow {
    OrderRow {
        order_id: event.aggregate_id.clone(),
        order_no: event.position_i64(),
        user_id,
        status: OrderStatus::Open as i64,
        currency_code: String::new(),
        total_minor: 0,
        item_count: 0,
        account_id: String::new(),
        payment_id: String::new(),
        tracking_id: String::new(),
        cancel_reason: String::new(),
        version: 0,
        created_time: event.time_ns,
        submitted_time: None,
        paid_time: None,
        shipped_time: None,
        cancelled_time: None,
        updated_time: 0,
    }
}
