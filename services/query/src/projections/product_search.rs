//! The products that are sold, to be found by words.
//!
//! The rows are a plain table. Triggers keep an FTS5 index over its texts, which holds no texts of
//! its own, so there is nothing about the index in Rust.

use daybook_contract::catalog::v1::product::Event;
use daybook_contract::contract::EventError;
use daybook_domain::product::Product;

use crate::amount::{minor, parts};
use crate::runtime::{ApplyError, EncodedEvent, Projection, Recorded};

/// The projection.
pub struct ProductSearch;

crate::rows! {
    /// The tables of the projection.
    pub struct Tables {
        /// The products that are sold.
        products: FoundRow in "products",
    }

    /// A product that is sold.
    pub struct FoundRow {
        key {
            /// Its id.
            product_id: String,
        }
        /// Its number in the index of words: the position of the event that created it.
        product_no: i64,
        /// Its name.
        name: String,
        /// What there is to say about it.
        description: String,
        /// Its currency.
        currency_code: String,
        /// What one piece costs, in the smallest unit.
        price_minor: i64,
    }
}

impl Projection for ProductSearch {
    const NAME: &'static str = "product_search";
    const VERSION: u32 = 4;
    const AGGREGATES: &'static [&'static str] = &["catalog.product"];
    const SCHEMA: &'static str = "
        CREATE TABLE products (
            product_id    TEXT NOT NULL UNIQUE,
            product_no    INTEGER PRIMARY KEY,
            name          TEXT NOT NULL COLLATE NOCASE,
            description   TEXT NOT NULL,
            currency_code TEXT NOT NULL,
            price_minor   INTEGER NOT NULL
        );
        CREATE INDEX products_by_name ON products (name COLLATE NOCASE, product_id);
        CREATE INDEX products_by_number ON products (product_no, currency_code, price_minor);
        CREATE INDEX products_by_price ON products (currency_code, price_minor, product_id);
        CREATE VIRTUAL TABLE words USING fts5 (
            name, description,
            content = 'products', content_rowid = 'product_no',
            tokenize = 'unicode61 remove_diacritics 2', prefix = '1 2 3 4 5 6'
        );
        CREATE TRIGGER product_comes AFTER INSERT ON products BEGIN
            INSERT INTO words (rowid, name, description)
            VALUES (new.product_no, new.name, new.description);
        END;
        CREATE TRIGGER product_goes AFTER DELETE ON products BEGIN
            INSERT INTO words (words, rowid, name, description)
            VALUES ('delete', old.product_no, old.name, old.description);
        END;
        CREATE TRIGGER product_is_described AFTER UPDATE ON products
        WHEN old.name IS NOT new.name COLLATE BINARY OR old.description IS NOT new.description
        BEGIN
            INSERT INTO words (words, rowid, name, description)
            VALUES ('delete', old.product_no, old.name, old.description);
            INSERT INTO words (rowid, name, description)
            VALUES (new.product_no, new.name, new.description);
        END;";
    type Tables = Tables;
    type Event = Event;

    fn decode(event: EncodedEvent<'_>) -> Result<Event, EventError> {
        event.decode::<Product>()
    }

    fn want(event: &Recorded<Event>, tables: &mut Tables) {
        tables.products.want(&event.aggregate_id);
    }

    fn apply(event: &Recorded<Event>, tables: &mut Tables) -> Result<(), ApplyError> {
        let slot = tables.products.edit(&event.aggregate_id)?;
        if let Event::ProductCreated(created) = &event.event {
            let (currency_code, price_minor) = parts(created.price.as_ref())?;
            *slot = Some(FoundRow {
                product_id: event.aggregate_id.clone(),
                product_no: event.position_i64(),
                name: created.name.clone(),
                description: created.description.clone(),
                currency_code,
                price_minor,
            });
            return Ok(());
        }
        let Some(product) = slot else {
            return Err(ApplyError::failed("the product is not sold"));
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
            Event::ProductDiscontinued(_) => *slot = None,
        }
        Ok(())
    }
}
