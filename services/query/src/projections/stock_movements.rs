//! The movements of the stock of each product, with what was there after each.

use daybook_contract::contract::EventError;
use daybook_contract::inventory::v1::MovementKind;
use daybook_contract::inventory::v1::stock::Event;
use daybook_domain::stock::Stock;

use crate::runtime::{ApplyError, EncodedEvent, Projection, Recorded};
use crate::stock_count::Count;

/// The projection.
pub struct StockMovements;

crate::rows! {
    /// The tables of the projection.
    pub struct Tables {
        /// What there is of each product, to know it after the next movement.
        counts: CountRow in "counts",
        /// All movements.
        movements: MovementRow in "movements",
    }

    /// A product.
    pub struct CountRow {
        key {
            /// The product.
            product_id: String,
        }
        /// A short number for it: the position of its first event.
        product_no: i64,
        /// How many pieces are there, reserved ones included.
        on_hand: i64,
        /// How many of them are reserved.
        reserved: i64,
    }

    /// A movement.
    pub struct MovementRow {
        key {
            /// The number of the product.
            product_no: i64,
            /// The version of the product's stream with it.
            version: i64,
        }
        /// A number of `inventory.v1.MovementKind`.
        kind: i64,
        /// How many pieces; positive.
        quantity: i64,
        /// How many pieces were there after it.
        on_hand: i64,
        /// How many of them were reserved.
        reserved: i64,
        /// The order that it was for.
        order_id: String,
        /// The line of that order.
        line_id: String,
        /// Why, or which delivery.
        description: String,
        /// When it was recorded, in nanoseconds.
        recorded_time: i64,
        /// The position of its event.
        position: i64,
        /// The id of its event.
        event_id: String,
    }
}

impl Projection for StockMovements {
    const NAME: &'static str = "stock_movements";
    const VERSION: u32 = 2;
    const AGGREGATES: &'static [&'static str] = &["inventory.stock"];
    const SCHEMA: &'static str = "
        CREATE TABLE counts (
            product_id TEXT PRIMARY KEY,
            product_no INTEGER NOT NULL,
            on_hand    INTEGER NOT NULL,
            reserved   INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE movements (
            product_no    INTEGER NOT NULL,
            version       INTEGER NOT NULL,
            kind          INTEGER NOT NULL,
            quantity      INTEGER NOT NULL,
            on_hand       INTEGER NOT NULL,
            reserved      INTEGER NOT NULL,
            order_id      TEXT NOT NULL,
            line_id       TEXT NOT NULL,
            description   TEXT NOT NULL,
            recorded_time INTEGER NOT NULL,
            position      INTEGER NOT NULL,
            event_id      TEXT NOT NULL,
            PRIMARY KEY (product_no, version)
        ) WITHOUT ROWID;
        CREATE INDEX movements_by_kind ON movements (product_no, kind, version);";
    type Tables = Tables;
    type Event = Event;

    fn decode(event: EncodedEvent<'_>) -> Result<Event, EventError> {
        event.decode::<Stock>()
    }

    fn want(event: &Recorded<Event>, tables: &mut Tables) {
        tables.counts.want(&event.aggregate_id);
    }

    fn apply(event: &Recorded<Event>, tables: &mut Tables) -> Result<(), ApplyError> {
        let slot = tables.counts.edit(&event.aggregate_id)?;
        let row = slot.get_or_insert_with(|| CountRow {
            product_id: event.aggregate_id.clone(),
            product_no: event.position_i64(),
            on_hand: 0,
            reserved: 0,
        });
        let before = Count { on_hand: row.on_hand, reserved: row.reserved };
        let mut after = before;
        after.apply(&event.event)?;
        (row.on_hand, row.reserved) = (after.on_hand, after.reserved);
        let Some(what) = What::of(&event.event) else { return Ok(()) };
        // Every movement moves one of the two numbers, or both alike.
        let moved = (after.on_hand - before.on_hand).abs().max((after.reserved - before.reserved).abs());
        let row = MovementRow {
            product_no: row.product_no,
            version: event.version_i64(),
            kind: what.kind as i64,
            quantity: moved,
            on_hand: after.on_hand,
            reserved: after.reserved,
            order_id: what.order_id.to_owned(),
            line_id: what.line_id.to_owned(),
            description: what.description.to_owned(),
            recorded_time: event.time_ns,
            position: event.position_i64(),
            event_id: event.event_id.clone(),
        };
        tables.movements.add(row);
        Ok(())
    }
}

/// What an event says of a movement, beside the numbers.
struct What<'a> {
    kind: MovementKind,
    order_id: &'a str,
    line_id: &'a str,
    description: &'a str,
}

impl<'a> What<'a> {
    /// Nothing when the event moves nothing.
    fn of(event: &'a Event) -> Option<Self> {
        let of_line = |kind, order_id, line_id, description| Self {
            kind,
            order_id,
            line_id,
            description,
        };
        let of_none = |kind, description| of_line(kind, "", "", description);
        Some(match event {
            Event::StockReceived(event) => of_none(MovementKind::Receipt, &event.reference),
            Event::StockReserved(event) => {
                of_line(MovementKind::Reservation, &event.order_id, &event.line_id, "")
            }
            Event::ReservationReleased(event) => {
                of_line(MovementKind::Release, &event.order_id, &event.line_id, &event.reason)
            }
            Event::ReservationShipped(event) => {
                of_line(MovementKind::Shipment, &event.order_id, &event.line_id, "")
            }
            Event::StockAdjusted(event) if event.quantity_delta < 0 => {
                of_none(MovementKind::Decrease, &event.reason)
            }
            Event::StockAdjusted(event) => of_none(MovementKind::Increase, &event.reason),
            Event::LowStockThresholdSet(_)
            | Event::LowStockReached(_)
            | Event::LowStockEnded(_) => return None,
        })
    }
}
