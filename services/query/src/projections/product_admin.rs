//! Each product with its stock and its sales, from the events of products, stocks and orders.
//!
//! The three come by different topics, in any order. Each has its own table, and the tables are
//! put together when they are read, so that none waits for another.

use daybook_contract::catalog::v1::product::Event as ProductEvent;
use daybook_contract::contract::EventError;
use daybook_contract::inventory::v1::stock::Event as StockEvent;
use daybook_contract::orders::v1::order::Event as OrderEvent;
use daybook_contract::orders::v1::{OrderItem, OrderSubmitted};
use daybook_domain::order::Order;
use daybook_domain::product::Product;
use daybook_domain::stock::Stock;
use prost::Message;

use super::product_details::{ProductRow, fold, products_table};
use crate::amount::{add, parts};
use crate::runtime::{ApplyError, EncodedEvent, Projection, Recorded};
use crate::stock_count::Count;

/// The projection.
pub struct ProductAdmin;

/// An event of a product, a stock or an order.
pub enum Event {
    /// Of a product.
    Product(ProductEvent),
    /// Of a stock.
    Stock(StockEvent),
    /// Of an order.
    Order(OrderEvent),
}

crate::rows! {
    /// The tables of the projection.
    pub struct Tables {
        /// All stocks.
        stocks: StockRow in "stocks",
        /// What was sold.
        sales: SalesRow in "sales",
        /// What waits for its payment.
        submitted: SubmittedRow in "submitted";
        also {
            /// All products.
            products: ProductRow,
        }
    }

    /// The stock of a product.
    pub struct StockRow {
        key {
            /// The product.
            product_id: String,
        }
        /// How many pieces are there.
        on_hand: i64,
        /// How many of them are reserved.
        reserved: i64,
    }

    /// What was sold of a product in one currency.
    pub struct SalesRow {
        key {
            /// The product.
            product_id: String,
            /// The currency.
            currency_code: String,
        }
        /// How many pieces.
        quantity: i64,
        /// For how much, in the smallest unit.
        revenue_minor: i64,
    }

    /// An order that is submitted and not paid.
    pub struct SubmittedRow {
        key {
            /// The order.
            order_id: String,
        }
        /// The encoded `orders.v1.OrderSubmitted` with its items.
        submitted: Vec<u8>,
    }
}

impl Projection for ProductAdmin {
    const NAME: &'static str = "product_admin";
    const VERSION: u32 = 2;
    const AGGREGATES: &'static [&'static str] =
        &["catalog.product", "inventory.stock", "orders.order"];
    const SCHEMA: &'static str = concat!(
        products_table!(),
        "CREATE INDEX products_by_status ON products (status, product_id);
        CREATE TABLE stocks (
            product_id TEXT PRIMARY KEY,
            on_hand    INTEGER NOT NULL,
            reserved   INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE sales (
            product_id    TEXT NOT NULL,
            currency_code TEXT NOT NULL,
            quantity      INTEGER NOT NULL,
            revenue_minor INTEGER NOT NULL,
            PRIMARY KEY (product_id, currency_code)
        ) WITHOUT ROWID;
        CREATE TABLE submitted (
            order_id  TEXT PRIMARY KEY,
            submitted BLOB NOT NULL
        ) WITHOUT ROWID;"
    );
    type Tables = Tables;
    type Event = Event;

    fn decode(event: EncodedEvent<'_>) -> Result<Event, EventError> {
        match event.aggregate_type {
            "catalog.product" => event.decode::<Product>().map(Event::Product),
            "inventory.stock" => event.decode::<Stock>().map(Event::Stock),
            _ => event.decode::<Order>().map(Event::Order),
        }
    }

    fn want(event: &Recorded<Event>, tables: &mut Tables) {
        let id = event.aggregate_id.clone();
        match &event.event {
            Event::Product(_) => tables.products.want(id),
            Event::Stock(_) => tables.stocks.want(id),
            Event::Order(OrderEvent::OrderPaid(_) | OrderEvent::OrderCancelled(_)) => {
                tables.submitted.want(id);
            }
            Event::Order(_) => {}
        }
    }

    fn apply(event: &Recorded<Event>, tables: &mut Tables) -> Result<(), ApplyError> {
        let id = &event.aggregate_id;
        match &event.event {
            Event::Product(of_product) => {
                let of_product = event.with(of_product.clone());
                fold(&of_product, tables.products.edit(id)?).map(drop)
            }
            Event::Stock(of_stock) => {
                let stock = tables.stocks.edit(id)?.get_or_insert_with(|| StockRow {
                    product_id: id.clone(),
                    on_hand: 0,
                    reserved: 0,
                });
                let mut count = Count { on_hand: stock.on_hand, reserved: stock.reserved };
                count.apply(of_stock)?;
                (stock.on_hand, stock.reserved) = (count.on_hand, count.reserved);
                Ok(())
            }
            Event::Order(of_order) => order(id, of_order, tables),
        }
    }
}

fn order(id: &String, event: &OrderEvent, tables: &mut Tables) -> Result<(), ApplyError> {
    match event {
        OrderEvent::OrderSubmitted(submitted) => {
            let submitted = submitted.encode_to_vec();
            tables.submitted.put(SubmittedRow { order_id: id.clone(), submitted });
        }
        OrderEvent::OrderPaid(_) => {
            let Some(row) = tables.submitted.edit(id)?.take() else {
                return Err(ApplyError::failed("the order was never submitted"));
            };
            let submitted = OrderSubmitted::decode(row.submitted.as_slice())
                .map_err(|error| ApplyError::failed(error.to_string()))?;
            for item in &submitted.items {
                sell(item, tables)?;
            }
        }
        OrderEvent::OrderCancelled(_) => *tables.submitted.edit(id)? = None,
        OrderEvent::OrderCreated(_)
        | OrderEvent::ItemAdded(_)
        | OrderEvent::ItemRemoved(_)
        | OrderEvent::OrderShipped(_) => {}
    }
    Ok(())
}

fn sell(item: &OrderItem, tables: &mut Tables) -> Result<(), ApplyError> {
    let (currency_code, price_minor) = parts(item.unit_price.as_ref())?;
    let too_large = || ApplyError::failed("the item comes to more than 64 bits hold");
    let quantity = i64::try_from(item.quantity).map_err(|_| too_large())?;
    let revenue_minor = quantity.checked_mul(price_minor).ok_or_else(too_large)?;
    let key = (item.product_id.clone(), currency_code);
    let slot = tables.sales.edit(&key)?;
    let (product_id, currency_code) = key;
    let sales = slot.get_or_insert_with(|| SalesRow {
        product_id,
        currency_code,
        quantity: 0,
        revenue_minor: 0,
    });
    sales.quantity = add(sales.quantity, quantity)?;
    sales.revenue_minor = add(sales.revenue_minor, revenue_minor)?;
    Ok(())
}
