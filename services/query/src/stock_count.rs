//! The pieces of a product, as the projections of the stock count them: integers, checked.

use daybook_contract::inventory::v1::stock::Event;

use crate::runtime::ApplyError;

/// How many pieces of a product there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Reserved ones included.
    pub on_hand: i64,
    /// For lines of orders.
    pub reserved: i64,
}

impl Count {
    /// Counts what an event says. Numbers that a stock never has are an error.
    pub fn apply(&mut self, event: &Event) -> Result<(), ApplyError> {
        let (on_hand, reserved) = match event {
            Event::StockReceived(event) => (pieces(event.quantity)?, 0),
            Event::StockReserved(event) => (0, pieces(event.quantity)?),
            Event::ReservationReleased(event) => (0, -pieces(event.quantity)?),
            Event::ReservationShipped(event) => {
                let shipped = pieces(event.quantity)?;
                (-shipped, -shipped)
            }
            Event::StockAdjusted(event) => (event.quantity_delta, 0),
            Event::LowStockThresholdSet(_)
            | Event::LowStockReached(_)
            | Event::LowStockEnded(_) => (0, 0),
        };
        let after = Self {
            on_hand: crate::amount::add(self.on_hand, on_hand)?,
            reserved: crate::amount::add(self.reserved, reserved)?,
        };
        if after.reserved < 0 || after.on_hand < after.reserved {
            return Err(ApplyError::failed(format!(
                "there would be {} pieces and {} of them reserved",
                after.on_hand, after.reserved
            )));
        }
        *self = after;
        Ok(())
    }
}

fn pieces(quantity: u64) -> Result<i64, ApplyError> {
    let too_many = || ApplyError::failed(format!("{quantity} pieces are more than 64 bits hold"));
    i64::try_from(quantity).map_err(|_| too_many())
}

#[cfg(test)]
mod tests {
    use daybook_contract::inventory::v1::{ReservationShipped, StockAdjusted, StockReserved};

    use super::*;

    #[test]
    fn what_a_stock_never_has_is_not_counted() {
        let five = Count { on_hand: 5, reserved: 3 };
        let reserved = |quantity| StockReserved { quantity, ..Default::default() }.into();
        let shipped = |quantity| ReservationShipped { quantity, ..Default::default() }.into();
        let adjusted =
            |quantity_delta| StockAdjusted { quantity_delta, ..Default::default() }.into();
        for wrong in [reserved(3), reserved(u64::MAX), shipped(4), adjusted(-3), adjusted(i64::MAX)]
        {
            let mut count = five;
            assert!(count.apply(&wrong).is_err(), "{wrong:?}");
            assert_eq!(count, five, "{wrong:?}");
        }
        let mut count = five;
        count.apply(&reserved(2)).unwrap();
        count.apply(&shipped(5)).unwrap();
        assert_eq!(count, Count::default());
    }
}
