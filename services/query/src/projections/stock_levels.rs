//! The stock of each product as it is now.

use daybook_contract::contract::EventError;
use daybook_contract::inventory::v1::stock::Event;
use daybook_domain::stock::Stock;

use crate::runtime::{ApplyError, EncodedEvent, Projection, Recorded};
use crate::stock_count::Count;

/// The projection.
pub struct StockLevels;

crate::rows! {
    /// The tables of the projection.
    pub struct Tables {
        /// All products.
        levels: LevelRow in "levels",
    }

    /// The stock of a product.
    pub struct LevelRow {
        key {
            /// The product.
            product_id: String,
        }
        /// How many pieces are there, reserved ones included.
        on_hand: i64,
        /// How many of them are reserved.
        reserved: i64,
        /// At how many available pieces the stock is low; 0 for never.
        low_stock_threshold: i64,
        /// Since when it is low, in nanoseconds; none when it is not.
        low_since_time: Option<i64>,
        /// The position with which what a watcher of low stock sees changed last; 0 for never.
        low_position: i64,
        /// The version of its stream.
        version: i64,
        /// When the last event was recorded.
        updated_time: i64,
    }
}

impl Projection for StockLevels {
    const NAME: &'static str = "stock_levels";
    const VERSION: u32 = 1;
    const AGGREGATES: &'static [&'static str] = &["inventory.stock"];
    const SCHEMA: &'static str = "
        CREATE TABLE levels (
            product_id          TEXT PRIMARY KEY,
            on_hand             INTEGER NOT NULL,
            reserved            INTEGER NOT NULL,
            low_stock_threshold INTEGER NOT NULL,
            low_since_time      INTEGER,
            low_position        INTEGER NOT NULL,
            version             INTEGER NOT NULL,
            updated_time        INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE INDEX low_levels ON levels (product_id) WHERE low_since_time IS NOT NULL;
        CREATE INDEX levels_by_alert ON levels (low_position);";
    type Tables = Tables;
    type Event = Event;

    fn decode(event: EncodedEvent<'_>) -> Result<Event, EventError> {
        event.decode::<Stock>()
    }

    fn want(event: &Recorded<Event>, tables: &mut Tables) {
        tables.levels.want(&event.aggregate_id);
    }

    fn apply(event: &Recorded<Event>, tables: &mut Tables) -> Result<(), ApplyError> {
        let slot = tables.levels.edit(&event.aggregate_id)?;
        let level = slot.get_or_insert_with(|| empty(event.aggregate_id.clone()));
        let mut count = Count { on_hand: level.on_hand, reserved: level.reserved };
        count.apply(&event.event)?;
        (level.on_hand, level.reserved) = (count.on_hand, count.reserved);
        match &event.event {
            Event::LowStockThresholdSet(set) => {
                level.low_stock_threshold = crate::runtime::store::to_i64(set.threshold);
            }
            Event::LowStockReached(_) => level.low_since_time = Some(event.time_ns),
            Event::LowStockEnded(_) => level.low_since_time = None,
            _ => {}
        }
        let is_end = matches!(event.event, Event::LowStockEnded(_));
        if level.low_since_time.is_some() || is_end {
            level.low_position = event.position_i64();
        }
        level.version = event.version_i64();
        level.updated_time = event.time_ns;
        Ok(())
    }
}

fn empty(product_id: String) -> LevelRow {
    LevelRow {
        product_id,
        on_hand: 0,
        reserved: 0,
        low_stock_threshold: 0,
        low_since_time: None,
        low_position: 0,
        version: 0,
        updated_time: 0,
    }
}
