//! Laws of the stock that hold for any sequence of commands.

use std::collections::BTreeMap;

use daybook_contract::inventory::v1::stock::{Command, Event};
use daybook_contract::inventory::v1::{
    AdjustStockRequest, ReceiveStockRequest, ReleaseReservationRequest, ReserveStockRequest,
    SetLowStockThresholdRequest, ShipReservationRequest, StockState,
};
use daybook_domain::stock::{LIMIT_PIECES, Stock};
use daybook_kernel::Aggregate;
use daybook_kernel::spec::{context, fold};
use proptest::prelude::*;

/// Small numbers, so that limits are hit exactly; the edges of the limit; anything at all.
fn quantity() -> impl Strategy<Value = u64> {
    prop_oneof![
        20 => 1..12_u64,
        2 => LIMIT_PIECES - 2..LIMIT_PIECES + 2,
        1 => any::<u64>(),
    ]
}

fn line() -> impl Strategy<Value = (String, String)> {
    (0..2_u8, 0..3_u8).prop_map(|(order, line)| (format!("order-{order}"), line.to_string()))
}

fn command() -> impl Strategy<Value = Command> {
    let receive = quantity()
        .prop_map(|quantity| ReceiveStockRequest { quantity, ..Default::default() }.into());
    let reserve = (line(), quantity()).prop_map(|((order_id, line_id), quantity)| {
        ReserveStockRequest { order_id, line_id, quantity, ..Default::default() }.into()
    });
    let release = line().prop_map(|(order_id, line_id)| {
        ReleaseReservationRequest { order_id, line_id, ..Default::default() }.into()
    });
    let ship = line().prop_map(|(order_id, line_id)| {
        ShipReservationRequest { order_id, line_id, ..Default::default() }.into()
    });
    let delta = prop_oneof![20 => -12..12_i64, 1 => any::<i64>()];
    let adjust = delta.prop_map(|quantity_delta| {
        AdjustStockRequest { quantity_delta, ..Default::default() }.into()
    });
    let threshold = (0..8_u64).prop_map(|threshold| {
        SetLowStockThresholdRequest { threshold, ..Default::default() }.into()
    });
    prop_oneof![3 => receive, 8 => reserve, 3 => release, 3 => ship, 2 => adjust, 1 => threshold]
}

/// A second, naive stock: every line by itself, and no sums kept.
#[derive(Debug, Default, Clone, PartialEq)]
struct Naive {
    in_house: i128,
    open: BTreeMap<(String, String), u64>,
    shipped: Vec<(String, String)>,
    threshold: u64,
    low: bool,
}

impl Naive {
    fn available(&self) -> i128 {
        self.in_house - self.open.values().map(|quantity| i128::from(*quantity)).sum::<i128>()
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::StockReceived(event) => self.in_house += i128::from(event.quantity),
            Event::StockReserved(event) => {
                let line = (event.order_id.clone(), event.line_id.clone());
                assert!(self.open.insert(line, event.quantity).is_none(), "reserved twice");
            }
            Event::ReservationReleased(event) => {
                let line = (event.order_id.clone(), event.line_id.clone());
                assert_eq!(self.open.remove(&line), Some(event.quantity));
            }
            Event::ReservationShipped(event) => {
                let line = (event.order_id.clone(), event.line_id.clone());
                assert_eq!(self.open.remove(&line), Some(event.quantity));
                self.in_house -= i128::from(event.quantity);
                self.shipped.push(line);
            }
            Event::StockAdjusted(event) => self.in_house += i128::from(event.quantity_delta),
            Event::LowStockThresholdSet(event) => self.threshold = event.threshold,
            Event::LowStockReached(_) => self.low = true,
            Event::LowStockEnded(_) => self.low = false,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_sequence_of_commands_keeps_the_laws(
        commands in proptest::collection::vec(command(), 1..60),
    ) {
        let cx = context();
        let mut live = StockState::default();
        let mut naive = Naive::default();
        let mut history = Vec::new();
        for command in &commands {
            let before = live.clone();
            let outcome = Stock::decide(&live, command, &cx);

            // It is pure: nothing moved, and the same again gives the same.
            prop_assert_eq!(&live, &before);
            prop_assert_eq!(&Stock::decide(&live, command, &cx), &outcome);

            for event in outcome.clone().unwrap_or_default() {
                Stock::evolve(&mut live, &event);
                naive.apply(&event);
                history.push(event);
            }

            // Never negative, never more reserved than there is, and the sums are right.
            prop_assert!(live.reserved <= live.on_hand && live.on_hand <= LIMIT_PIECES, "{:?}", live);
            prop_assert_eq!(i128::from(live.on_hand), naive.in_house);
            prop_assert_eq!(i128::from(live.on_hand - live.reserved), naive.available());

            // The alert is always that of the numbers.
            let low = naive.threshold > 0 && naive.available() <= i128::from(naive.threshold);
            prop_assert_eq!((live.low, naive.low), (low, low), "{:?} on {:?}", command, before);

            // What was accepted about a line is accepted again and records nothing.
            let of_a_line = matches!(
                command,
                Command::ReserveStock(..) | Command::ReleaseReservation(..) | Command::ShipReservation(..)
            );
            if of_a_line && outcome.is_ok() {
                prop_assert_eq!(Stock::decide(&live, command, &cx), Ok(vec![]), "{:?}", command);
            }
        }

        // A line is shipped once, whatever was tried.
        let mut shipped = naive.shipped.clone();
        shipped.sort();
        shipped.dedup();
        prop_assert_eq!(shipped.len(), naive.shipped.len());
        prop_assert_eq!(fold::<Stock>(&history), live);
    }
}
