//! Each product as it is now, with every price that it had.

use daybook_contract::catalog::v1::ProductStatus;
use daybook_contract::catalog::v1::product::Event;
use daybook_contract::contract::EventError;
use daybook_domain::product::Product;

use crate::amount::{minor, parts};
use crate::runtime::{ApplyError, EncodedEvent, Projection, Recorded};
use crate::time::nanos;

/// The projection.
pub struct ProductDetails;

crate::rows! {
    /// The tables of the projection.
    pub struct Tables {
        /// All products.
        products: ProductRow in "products",
        /// All prices.
        prices: PriceRow in "prices",
    }

    /// A product.
    pub struct ProductRow {
        key {
            /// Its id.
            product_id: String,
        }
        /// Its name.
        name: String,
        /// What there is to say about it.
        description: String,
        /// Its currency.
        currency_code: String,
        /// What one piece costs, in the smallest unit.
        price_minor: i64,
        /// Whether it is sold: a number of `catalog.v1.ProductStatus`.
        status: i64,
        /// The version of its stream.
        version: i64,
        /// When it was created, in nanoseconds.
        created_time: i64,
        /// When it was discontinued.
        discontinued_time: Option<i64>,
        /// When the last event was recorded.
        updated_time: i64,
    }

    /// A price.
    pub struct PriceRow {
        key {
            /// The product.
            product_id: String,
            /// The version of the product's stream with it.
            version: i64,
        }
        /// What one piece costs, in the smallest unit.
        price_minor: i64,
        /// Since when, in nanoseconds.
        start_time: i64,
    }
}

/// The table of [`ProductRow`]s.
macro_rules! products_table {
    () => {
        "CREATE TABLE products (
            product_id        TEXT PRIMARY KEY,
            name              TEXT NOT NULL,
            description       TEXT NOT NULL,
            currency_code     TEXT NOT NULL,
            price_minor       INTEGER NOT NULL,
            status            INTEGER NOT NULL,
            version           INTEGER NOT NULL,
            created_time      INTEGER NOT NULL,
            discontinued_time INTEGER,
            updated_time      INTEGER NOT NULL
        ) WITHOUT ROWID;
        "
    };
}
pub(crate) use products_table;

impl Projection for ProductDetails {
    const NAME: &'static str = "product_details";
    const VERSION: u32 = 1;
    const AGGREGATES: &'static [&'static str] = &["catalog.product"];
    const SCHEMA: &'static str = concat!(
        products_table!(),
        "CREATE TABLE prices (
            product_id  TEXT NOT NULL,
            version     INTEGER NOT NULL,
            price_minor INTEGER NOT NULL,
            start_time  INTEGER NOT NULL,
            PRIMARY KEY (product_id, version)
        ) WITHOUT ROWID;"
    );
    type Tables = Tables;
    type Event = Event;

    fn decode(event: EncodedEvent<'_>) -> Result<Event, EventError> {
        event.decode::<Product>()
    }

    fn want(event: &Recorded<Event>, tables: &mut Tables) {
        tables.products.want(&event.aggregate_id);
    }

    fn apply(event: &Recorded<Event>, tables: &mut Tables) -> Result<(), ApplyError> {
        let product = fold(event, tables.products.edit(&event.aggregate_id)?)?;
        let start_time = match &event.event {
            Event::ProductCreated(_) => product.created_time,
            Event::PriceChanged(changed) => {
                changed.changed_time.as_ref().and_then(nanos).unwrap_or(event.time_ns)
            }
            Event::ProductDescribed(_) | Event::ProductDiscontinued(_) => return Ok(()),
        };
        let price_minor = product.price_minor;
        tables.prices.put(PriceRow {
            product_id: event.aggregate_id.clone(),
            version: event.version_i64(),
            price_minor,
            start_time,
        });
        Ok(())
    }
}

/// Folds an event into the row of a product.
pub(crate) fn fold<'r>(
    event: &Recorded<Event>,
    slot: &'r mut Option<ProductRow>,
) -> Result<&'r mut ProductRow, ApplyError> {
    if let Event::ProductCreated(created) = &event.event {
        if slot.is_some() {
            return Err(ApplyError::failed("the product exists already"));
        }
        let (currency_code, price_minor) = parts(created.price.as_ref())?;
        let created_time = created.created_time.as_ref().and_then(nanos);
        *slot = Some(ProductRow {
            product_id: event.aggregate_id.clone(),
            name: created.name.clone(),
            description: created.description.clone(),
            currency_code,
            price_minor,
            status: ProductStatus::Active as i64,
            version: 0,
            created_time: created_time.unwrap_or(event.time_ns),
            discontinued_time: None,
            updated_time: 0,
        });
    }
    let Some(product) = slot else {
        return Err(ApplyError::failed("the product was never created"));
    };
    match &event.event {
        Event::ProductCreated(_) => {}
        Event::ProductDescribed(described) => {
            product.name.clone_from(&described.name);
            product.description.clone_from(&described.description);
        }
        Event::PriceChanged(changed) => {
            product.price_minor = minor(changed.price.as_ref(), &product.currency_code)?;
        }
        Event::ProductDiscontinued(discontinued) => {
            let time = discontinued.discontinued_time.as_ref().and_then(nanos);
            product.status = ProductStatus::Discontinued as i64;
            product.discontinued_time = Some(time.unwrap_or(event.time_ns));
        }
    }
    product.version = event.version_i64();
    product.updated_time = event.time_ns;
    Ok(product)
}
