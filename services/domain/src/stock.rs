//! The stock of a product: pieces come in, are kept for lines of orders, and leave the house.
//!
//! There are never fewer than no pieces, and never more reserved than there are. A reservation is
//! known by its order and line, so that a process that repeats or undoes its steps, such as the
//! fulfilment of an order, does no harm: reserving, releasing and shipping a line twice is the same
//! as once. When few pieces are available an alert is recorded, once, and once when it is over.
//!
//! Once the fulfilment of an order has begun, and unless it is undone, the pieces of the order are
//! reserved, released and shipped by the steps of sagas alone; nobody else can sell them twice.
//!
//! *Not* here: whether there is such a product or such an order, which those who reserve know.

use std::cmp::Ordering;

use daybook_contract::inventory::v1::stock::{Command, Event, Upcast};
use daybook_contract::inventory::v1::{
    AdjustStockRequest, LowStockEnded, LowStockReached, LowStockThresholdSet, ReceiveStockRequest,
    ReleaseReservationRequest, Reservation, ReservationReleased, ReservationShipped,
    ReserveStockRequest, SetLowStockThresholdRequest, ShipReservationRequest, StockAdjusted,
    StockReceived, StockRejection as Reason, StockReserved, StockState,
};
use daybook_kernel::{Aggregate, Context, Rejection, RejectionKind, is_awaited};

use crate::fulfilment::{self, Fulfilment};
use crate::shipment::Shipment;

/// The most pieces of a product: more than a house holds, and far from the limits of 64 bits.
pub const LIMIT_PIECES: u64 = 1_000_000_000;

/// The most open reservations of a product, so that its state stays below a megabyte.
pub const LIMIT_RESERVATIONS: usize = 10_000;

/// How many shipped reservations are remembered, so that whoever ships by hand and is not sure can
/// ask again. A step of a fulfilment, and every request that is sent again, is known by its request id,
/// and no other reserves for an order that was fulfilled.
pub const REMEMBERED_SHIPMENTS: usize = 100;

/// The aggregate `inventory.stock`.
#[derive(Debug)]
pub struct Stock;

// ---- State ------------------------------------------------------------------------------------

fn available(state: &StockState) -> u64 {
    state.on_hand.saturating_sub(state.reserved)
}

/// Where the reservation of a line is among those in order, or would be.
fn place(reservations: &[Reservation], order_id: &str, line_id: &str) -> Result<usize, usize> {
    reservations.binary_search_by(|reservation| compare(reservation, order_id, line_id))
}

fn compare(reservation: &Reservation, order_id: &str, line_id: &str) -> Ordering {
    (reservation.order_id.as_str(), reservation.line_id.as_str()).cmp(&(order_id, line_id))
}

fn open_reservation<'a>(
    state: &'a StockState,
    order_id: &str,
    line_id: &str,
) -> Option<&'a Reservation> {
    let place = place(&state.reservations, order_id, line_id).ok()?;
    state.reservations.get(place)
}

fn is_shipped(state: &StockState, order_id: &str, line_id: &str) -> bool {
    state.shipped.iter().any(|shipped| compare(shipped, order_id, line_id).is_eq())
}

// ---- Rejections, in order of precedence -------------------------------------------------------

/// The rules that a stock keeps. When several do not hold, the first is given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StockRejection {
    /// Nothing is known of a stock of this product.
    #[error("there is no stock of product {product_id}")]
    StockNotFound {
        /// The product that was asked for.
        product_id: String,
    },
    /// The reservation of this line was shipped.
    #[error("line {line_id} of order {order_id} was shipped")]
    ReservationShipped {
        /// The order.
        order_id: String,
        /// The line.
        line_id: String,
    },
    /// Nothing is reserved for this line.
    #[error("nothing is reserved for line {line_id} of order {order_id}")]
    NotReserved {
        /// The order.
        order_id: String,
        /// The line.
        line_id: String,
    },
    /// Another quantity is reserved for this line already.
    #[error(
        "{reserved} pieces are reserved for line {line_id} of order {order_id} already, not the \
         {requested} asked for"
    )]
    ReservationDiffers {
        /// The order.
        order_id: String,
        /// The line.
        line_id: String,
        /// How many pieces are reserved.
        reserved: u64,
        /// How many were asked for.
        requested: u64,
    },
    /// Fewer pieces are available than are to be reserved.
    #[error("{available} pieces are available, fewer than the {requested} asked for")]
    InsufficientStock {
        /// How many are available.
        available: u64,
        /// How many were asked for.
        requested: u64,
    },
    /// After the adjustment there would be fewer pieces than are reserved.
    #[error(
        "{on_hand} pieces are there and {reserved} of them reserved: the number cannot change by \
         {quantity_delta}"
    )]
    StockIsReserved {
        /// How many are there.
        on_hand: u64,
        /// How many of them are reserved.
        reserved: u64,
        /// By how many the number was to change.
        quantity_delta: i64,
    },
    /// There would be more pieces than the limit.
    #[error("there would be more than {limit} pieces")]
    StockTooLarge {
        /// The limit.
        limit: u64,
    },
    /// There are as many open reservations as there may be.
    #[error("there are {limit} open reservations already")]
    TooManyReservations {
        /// The limit.
        limit: usize,
    },
    /// The fulfilment of the order keeps its pieces.
    #[error("the pieces of order {order_id} are kept by its fulfilment")]
    OrderInFulfilment {
        /// The order.
        order_id: String,
    },
    /// After the adjustment there would be fewer pieces than none.
    #[error("{on_hand} pieces are there: the number cannot change by {quantity_delta}")]
    StockWouldBeNegative {
        /// How many are there.
        on_hand: u64,
        /// By how many the number was to change.
        quantity_delta: i64,
    },
}

impl StockRejection {
    /// The same rule in the contract.
    fn in_contract(&self) -> Reason {
        match self {
            Self::StockNotFound { .. } => Reason::StockNotFound,
            Self::ReservationShipped { .. } => Reason::ReservationShipped,
            Self::NotReserved { .. } => Reason::NotReserved,
            Self::ReservationDiffers { .. } => Reason::ReservationDiffers,
            Self::InsufficientStock { .. } => Reason::InsufficientStock,
            Self::StockIsReserved { .. } => Reason::StockIsReserved,
            Self::StockTooLarge { .. } => Reason::StockTooLarge,
            Self::TooManyReservations { .. } => Reason::TooManyReservations,
            Self::OrderInFulfilment { .. } => Reason::OrderInFulfilment,
            Self::StockWouldBeNegative { .. } => Reason::StockWouldBeNegative,
        }
    }
}

impl Rejection for StockRejection {
    fn reason(&self) -> &'static str {
        self.in_contract().as_str_name().trim_start_matches("STOCK_REJECTION_")
    }

    fn kind(&self) -> RejectionKind {
        match self {
            Self::StockNotFound { .. } => RejectionKind::NotFound,
            _ => RejectionKind::FailedPrecondition,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        let of_line = |order_id: &String, line_id: &String| {
            vec![("order_id", order_id.clone()), ("line_id", line_id.clone())]
        };
        match self {
            Self::StockNotFound { product_id } => vec![("product_id", product_id.clone())],
            Self::ReservationShipped { order_id, line_id }
            | Self::NotReserved { order_id, line_id } => of_line(order_id, line_id),
            Self::ReservationDiffers { order_id, line_id, reserved, requested } => {
                let mut values = of_line(order_id, line_id);
                values.push(("reserved", reserved.to_string()));
                values.push(("requested", requested.to_string()));
                values
            }
            Self::InsufficientStock { available, requested } => {
                vec![("available", available.to_string()), ("requested", requested.to_string())]
            }
            Self::StockIsReserved { on_hand, reserved, quantity_delta } => vec![
                ("on_hand", on_hand.to_string()),
                ("reserved", reserved.to_string()),
                ("quantity_delta", quantity_delta.to_string()),
            ],
            Self::StockTooLarge { limit } => vec![("limit", limit.to_string())],
            Self::TooManyReservations { limit } => vec![("limit", limit.to_string())],
            Self::OrderInFulfilment { order_id } => vec![("order_id", order_id.clone())],
            Self::StockWouldBeNegative { on_hand, quantity_delta } => vec![
                ("on_hand", on_hand.to_string()),
                ("quantity_delta", quantity_delta.to_string()),
            ],
        }
    }
}

// ---- Decide -----------------------------------------------------------------------------------

impl Aggregate for Stock {
    type Command = Command;
    type Event = Event;
    type State = StockState;
    type Rejection = StockRejection;

    fn decide(
        state: &StockState,
        command: &Command,
        cx: &Context,
    ) -> Result<Vec<Event>, StockRejection> {
        let event = match command {
            Command::ReceiveStock(request) => Some(receive(state, request, cx)?),
            Command::ReserveStock(request, _) => reserve(state, request, cx)?,
            Command::ReleaseReservation(request, _) => release(state, request, cx)?,
            Command::ShipReservation(request, _) => ship(state, request, cx)?,
            Command::AdjustStock(request) => Some(adjust(state, request, cx)?),
            Command::SetLowStockThreshold(request) => set_threshold(state, request, cx),
        };
        if event.is_some() {
            must_be_free(command, cx)?;
        }
        let alert = event.as_ref().and_then(|event| alert(state, event));
        Ok(event.into_iter().chain(alert).collect())
    }

    fn evolve(state: &mut StockState, event: &Event) {
        match event {
            Event::StockReceived(event) => {
                state.created_time = state.created_time.or(event.received_time);
                state.on_hand = state.on_hand.saturating_add(event.quantity);
            }
            Event::StockReserved(event) => add_reservation(state, event),
            Event::ReservationReleased(event) => {
                take_reservation(state, &event.order_id, &event.line_id);
            }
            Event::ReservationShipped(event) => {
                let taken = take_reservation(state, &event.order_id, &event.line_id);
                state.on_hand = state.on_hand.saturating_sub(event.quantity);
                state.shipped.extend(taken);
                let forgotten = state.shipped.len().saturating_sub(REMEMBERED_SHIPMENTS);
                state.shipped.drain(..forgotten);
            }
            Event::StockAdjusted(event) => {
                state.on_hand = state.on_hand.saturating_add_signed(event.quantity_delta);
            }
            Event::LowStockThresholdSet(event) => {
                state.created_time = state.created_time.or(event.set_time);
                state.low_stock_threshold = event.threshold;
            }
            Event::LowStockReached(_) => state.low = true,
            Event::LowStockEnded(_) => state.low = false,
        }
    }
}

fn receive(
    state: &StockState,
    request: &ReceiveStockRequest,
    cx: &Context,
) -> Result<Event, StockRejection> {
    within_limit(state.on_hand.checked_add(request.quantity))?;
    Ok(Event::StockReceived(StockReceived {
        quantity: request.quantity,
        reference: request.reference.clone(),
        received_time: Some(cx.now),
    }))
}

/// Nothing is to be recorded when the line has just this reservation already.
fn reserve(
    state: &StockState,
    request: &ReserveStockRequest,
    cx: &Context,
) -> Result<Option<Event>, StockRejection> {
    must_exist(state, cx)?;
    let ReserveStockRequest { order_id, line_id, quantity, .. } = request;
    must_not_be_shipped(state, order_id, line_id)?;
    if let Some(reservation) = open_reservation(state, order_id, line_id) {
        if reservation.quantity == *quantity {
            return Ok(None);
        }
        return Err(StockRejection::ReservationDiffers {
            order_id: order_id.clone(),
            line_id: line_id.clone(),
            reserved: reservation.quantity,
            requested: *quantity,
        });
    }
    let available = available(state);
    if *quantity > available {
        return Err(StockRejection::InsufficientStock { available, requested: *quantity });
    }
    if state.reservations.len() >= LIMIT_RESERVATIONS {
        return Err(StockRejection::TooManyReservations { limit: LIMIT_RESERVATIONS });
    }
    Ok(Some(Event::StockReserved(StockReserved {
        order_id: order_id.clone(),
        line_id: line_id.clone(),
        quantity: *quantity,
    })))
}

/// Nothing is to be recorded when nothing is reserved for the line: it is as it should be.
fn release(
    state: &StockState,
    request: &ReleaseReservationRequest,
    cx: &Context,
) -> Result<Option<Event>, StockRejection> {
    must_exist(state, cx)?;
    let ReleaseReservationRequest { order_id, line_id, reason, .. } = request;
    must_not_be_shipped(state, order_id, line_id)?;
    Ok(open_reservation(state, order_id, line_id).map(|reservation| {
        Event::ReservationReleased(ReservationReleased {
            order_id: order_id.clone(),
            line_id: line_id.clone(),
            quantity: reservation.quantity,
            reason: reason.clone(),
        })
    }))
}

/// Nothing is to be recorded when the line was shipped already.
fn ship(
    state: &StockState,
    request: &ShipReservationRequest,
    cx: &Context,
) -> Result<Option<Event>, StockRejection> {
    must_exist(state, cx)?;
    let ShipReservationRequest { order_id, line_id, .. } = request;
    if is_shipped(state, order_id, line_id) {
        return Ok(None);
    }
    let Some(reservation) = open_reservation(state, order_id, line_id) else {
        let (order_id, line_id) = (order_id.clone(), line_id.clone());
        return Err(StockRejection::NotReserved { order_id, line_id });
    };
    Ok(Some(Event::ReservationShipped(ReservationShipped {
        order_id: order_id.clone(),
        line_id: line_id.clone(),
        quantity: reservation.quantity,
    })))
}

fn adjust(
    state: &StockState,
    request: &AdjustStockRequest,
    cx: &Context,
) -> Result<Event, StockRejection> {
    must_exist(state, cx)?;
    let (on_hand, reserved) = (state.on_hand, state.reserved);
    let quantity_delta = request.quantity_delta;
    let after = on_hand.checked_add_signed(quantity_delta);
    if quantity_delta < 0 && after.unwrap_or_default() < reserved {
        return Err(StockRejection::StockIsReserved { on_hand, reserved, quantity_delta });
    }
    if quantity_delta < 0 && after.is_none() {
        return Err(StockRejection::StockWouldBeNegative { on_hand, quantity_delta });
    }
    within_limit(after)?;
    Ok(Event::StockAdjusted(StockAdjusted { quantity_delta, reason: request.reason.clone() }))
}

/// Nothing is to be recorded when the threshold is that already.
fn set_threshold(
    state: &StockState,
    request: &SetLowStockThresholdRequest,
    cx: &Context,
) -> Option<Event> {
    let is_news = state.created_time.is_none() || request.threshold != state.low_stock_threshold;
    let set = LowStockThresholdSet { threshold: request.threshold, set_time: Some(cx.now) };
    is_news.then_some(Event::LowStockThresholdSet(set))
}

/// What the fulfilment of an order keeps, nobody else may touch; it leaves with the order.
fn must_be_free(command: &Command, cx: &Context) -> Result<(), StockRejection> {
    let (order_id, fulfilment, ships) = match command {
        Command::ReserveStock(request, reads) => (&request.order_id, &reads.fulfilment, false),
        Command::ReleaseReservation(request, reads) => {
            (&request.order_id, &reads.fulfilment, false)
        }
        Command::ShipReservation(request, reads) => {
            let id = &request.order_id;
            let ships = is_awaited::<Shipment>(id, &reads.shipment, command, cx);
            (id, &reads.fulfilment, ships)
        }
        Command::ReceiveStock(_) | Command::AdjustStock(_) | Command::SetLowStockThreshold(_) => {
            return Ok(());
        }
    };
    let is_its_step = ships || is_awaited::<Fulfilment>(order_id, fulfilment, command, cx);
    match is_its_step || !fulfilment::keeps(fulfilment) {
        true => Ok(()),
        false => Err(StockRejection::OrderInFulfilment { order_id: order_id.clone() }),
    }
}

/// The alert that an event brings about, or ends.
fn alert(state: &StockState, event: &Event) -> Option<Event> {
    let (before, threshold) = (available(state), state.low_stock_threshold);
    let (available, threshold) = match event {
        Event::StockReceived(event) => (before.saturating_add(event.quantity), threshold),
        Event::StockReserved(event) => (before.saturating_sub(event.quantity), threshold),
        Event::ReservationReleased(event) => (before.saturating_add(event.quantity), threshold),
        Event::StockAdjusted(event) => {
            (before.saturating_add_signed(event.quantity_delta), threshold)
        }
        Event::LowStockThresholdSet(event) => (before, event.threshold),
        // What is shipped was not available before, and an alert follows from something else.
        Event::ReservationShipped(_) | Event::LowStockReached(_) | Event::LowStockEnded(_) => {
            return None;
        }
    };
    let low = threshold > 0 && available <= threshold;
    match (state.low, low) {
        (false, true) => Some(LowStockReached { available, threshold }.into()),
        (true, false) => Some(LowStockEnded { available, threshold }.into()),
        _ => None,
    }
}

fn must_exist(state: &StockState, cx: &Context) -> Result<(), StockRejection> {
    if state.created_time.is_none() {
        return Err(StockRejection::StockNotFound { product_id: cx.aggregate_id.clone() });
    }
    Ok(())
}

fn must_not_be_shipped(
    state: &StockState,
    order_id: &str,
    line_id: &str,
) -> Result<(), StockRejection> {
    if is_shipped(state, order_id, line_id) {
        let (order_id, line_id) = (order_id.to_owned(), line_id.to_owned());
        return Err(StockRejection::ReservationShipped { order_id, line_id });
    }
    Ok(())
}

fn within_limit(on_hand: Option<u64>) -> Result<(), StockRejection> {
    if on_hand.is_none_or(|on_hand| on_hand > LIMIT_PIECES) {
        return Err(StockRejection::StockTooLarge { limit: LIMIT_PIECES });
    }
    Ok(())
}

// ---- Evolve -----------------------------------------------------------------------------------

fn add_reservation(state: &mut StockState, event: &StockReserved) {
    let StockReserved { order_id, line_id, quantity } = event.clone();
    state.reserved = state.reserved.saturating_add(quantity);
    let (Ok(place) | Err(place)) = place(&state.reservations, &order_id, &line_id);
    state.reservations.insert(place, Reservation { order_id, line_id, quantity });
}

fn take_reservation(state: &mut StockState, order_id: &str, line_id: &str) -> Option<Reservation> {
    let place = place(&state.reservations, order_id, line_id).ok()?;
    let reservation = state.reservations.remove(place);
    state.reserved = state.reserved.saturating_sub(reservation.quantity);
    Some(reservation)
}

/// No event has an older version yet.
impl Upcast for Stock {}

// ---- Specifications ---------------------------------------------------------------------------

#[cfg(test)]
mod specs {
    use daybook_kernel::spec::{NOW, Spec, context, fold};

    use super::*;

    fn received(quantity: u64) -> Event {
        StockReceived { quantity, reference: "note 7".to_owned(), received_time: Some(NOW) }.into()
    }

    fn reserved(line: &str, quantity: u64) -> Event {
        let (order_id, line_id) = ("order".to_owned(), line.to_owned());
        StockReserved { order_id, line_id, quantity }.into()
    }

    fn released(line: &str, quantity: u64) -> Event {
        ReservationReleased {
            order_id: "order".to_owned(),
            line_id: line.to_owned(),
            quantity,
            reason: "cancelled".to_owned(),
        }
        .into()
    }

    fn shipped(line: &str, quantity: u64) -> Event {
        let (order_id, line_id) = ("order".to_owned(), line.to_owned());
        ReservationShipped { order_id, line_id, quantity }.into()
    }

    fn adjusted(quantity_delta: i64) -> Event {
        StockAdjusted { quantity_delta, reason: "count".to_owned() }.into()
    }

    fn threshold_set(threshold: u64) -> Event {
        LowStockThresholdSet { threshold, set_time: Some(NOW) }.into()
    }

    fn low(available: u64, threshold: u64) -> Event {
        LowStockReached { available, threshold }.into()
    }

    fn low_ended(available: u64, threshold: u64) -> Event {
        LowStockEnded { available, threshold }.into()
    }

    fn receive(quantity: u64) -> ReceiveStockRequest {
        let reference = "note 7".to_owned();
        ReceiveStockRequest { quantity, reference, ..Default::default() }
    }

    fn reserve(line: &str, quantity: u64) -> ReserveStockRequest {
        let (order_id, line_id) = ("order".to_owned(), line.to_owned());
        ReserveStockRequest { order_id, line_id, quantity, ..Default::default() }
    }

    fn release(line: &str) -> ReleaseReservationRequest {
        ReleaseReservationRequest {
            order_id: "order".to_owned(),
            line_id: line.to_owned(),
            reason: "cancelled".to_owned(),
            ..Default::default()
        }
    }

    fn ship(line: &str) -> ShipReservationRequest {
        let (order_id, line_id) = ("order".to_owned(), line.to_owned());
        ShipReservationRequest { order_id, line_id, ..Default::default() }
    }

    fn adjust(quantity_delta: i64) -> AdjustStockRequest {
        AdjustStockRequest { quantity_delta, reason: "count".to_owned(), ..Default::default() }
    }

    fn set_threshold(threshold: u64) -> SetLowStockThresholdRequest {
        SetLowStockThresholdRequest { threshold, ..Default::default() }
    }

    fn given(events: impl IntoIterator<Item = Event>) -> Spec<Stock> {
        Spec::given(events)
    }

    fn not_found() -> StockRejection {
        StockRejection::StockNotFound { product_id: context().aggregate_id }
    }

    fn was_shipped(line: &str) -> StockRejection {
        let (order_id, line_id) = ("order".to_owned(), line.to_owned());
        StockRejection::ReservationShipped { order_id, line_id }
    }

    fn not_reserved(line: &str) -> StockRejection {
        let (order_id, line_id) = ("order".to_owned(), line.to_owned());
        StockRejection::NotReserved { order_id, line_id }
    }

    fn differs(line: &str, reserved: u64, requested: u64) -> StockRejection {
        let (order_id, line_id) = ("order".to_owned(), line.to_owned());
        StockRejection::ReservationDiffers { order_id, line_id, reserved, requested }
    }

    fn insufficient(available: u64, requested: u64) -> StockRejection {
        StockRejection::InsufficientStock { available, requested }
    }

    fn is_reserved(on_hand: u64, reserved: u64, quantity_delta: i64) -> StockRejection {
        StockRejection::StockIsReserved { on_hand, reserved, quantity_delta }
    }

    fn would_be_negative(on_hand: u64, quantity_delta: i64) -> StockRejection {
        StockRejection::StockWouldBeNegative { on_hand, quantity_delta }
    }

    fn too_large() -> StockRejection {
        StockRejection::StockTooLarge { limit: LIMIT_PIECES }
    }

    // What is accepted.

    #[test]
    fn the_first_goods_make_the_stock() {
        given([]).when(receive(5)).then([received(5)]);
        given([received(5)]).when(receive(LIMIT_PIECES - 5)).then([received(LIMIT_PIECES - 5)]);
    }

    #[test]
    fn pieces_are_reserved_to_the_last_one() {
        given([received(5), reserved("1", 3)]).when(reserve("2", 2)).then([reserved("2", 2)]);
    }

    #[test]
    fn a_line_is_reserved_once() {
        given([received(5), reserved("1", 5)]).when(reserve("1", 5)).then_nothing();
    }

    #[test]
    fn a_released_line_can_be_reserved_again_with_another_quantity() {
        given([received(5), reserved("1", 5), released("1", 5)])
            .when(reserve("1", 4))
            .then([reserved("1", 4)]);
    }

    #[test]
    fn a_release_gives_back_what_was_reserved() {
        given([received(5), reserved("1", 3)]).when(release("1")).then([released("1", 3)]);
        given([received(5), reserved("1", 3), released("1", 3)])
            .when(reserve("2", 5))
            .then([reserved("2", 5)]);
    }

    #[test]
    fn what_is_not_reserved_need_not_be_released() {
        given([received(5)]).when(release("1")).then_nothing();
        given([received(5), reserved("1", 3), released("1", 3)]).when(release("1")).then_nothing();
        given([received(5), reserved("2", 3)]).when(release("1")).then_nothing();
    }

    #[test]
    fn what_is_reserved_is_shipped_once() {
        given([received(5), reserved("1", 3)]).when(ship("1")).then([shipped("1", 3)]);
        given([received(5), reserved("1", 3), shipped("1", 3)]).when(ship("1")).then_nothing();
    }

    #[test]
    fn a_count_corrects_the_number_up_and_down_to_what_is_reserved() {
        given([received(5), reserved("1", 3)]).when(adjust(-2)).then([adjusted(-2)]);
        given([received(5)]).when(adjust(-5)).then([adjusted(-5)]);
        let most = i64::try_from(LIMIT_PIECES).unwrap();
        given([received(5)]).when(adjust(most - 5)).then([adjusted(most - 5)]);
    }

    #[test]
    fn a_threshold_is_recorded_when_it_is_news() {
        given([]).when(set_threshold(0)).then([threshold_set(0)]);
        given([received(5)]).when(set_threshold(4)).then([threshold_set(4)]);
        given([received(5), threshold_set(4)]).when(set_threshold(4)).then_nothing();
    }

    #[test]
    fn the_state_shows_what_is_there_and_for_whom() {
        let history =
            [received(9), threshold_set(2), reserved("2", 3), reserved("1", 1), adjusted(-1)];
        let shipment = given(history).when(ship("2"));
        let line = |line: &str, quantity| {
            let (order_id, line_id) = ("order".to_owned(), line.to_owned());
            Reservation { order_id, line_id, quantity }
        };
        let expected = StockState {
            created_time: Some(NOW),
            on_hand: 5,
            reserved: 1,
            low_stock_threshold: 2,
            low: false,
            reservations: vec![line("1", 1)],
            shipped: vec![line("2", 3)],
        };
        assert_eq!(shipment.state(), &expected);
    }

    // Alerts.

    #[test]
    fn an_alert_comes_when_as_few_as_the_threshold_are_available() {
        let history = || given([received(9), threshold_set(4), reserved("1", 3)]);
        history().when(reserve("2", 1)).then([reserved("2", 1)]);
        history().when(reserve("2", 2)).then([reserved("2", 2), low(4, 4)]);
        history().when(adjust(-3)).then([adjusted(-3), low(3, 4)]);
        history().when(set_threshold(6)).then([threshold_set(6), low(6, 6)]);
        given([]).when(set_threshold(1)).then([threshold_set(1), low(0, 1)]);
    }

    #[test]
    fn an_alert_comes_once() {
        given([received(9), threshold_set(4), reserved("1", 5), low(4, 4)])
            .when(reserve("2", 1))
            .then([reserved("2", 1)]);
    }

    #[test]
    fn shipping_what_was_reserved_is_no_news() {
        given([received(9), threshold_set(4), reserved("1", 4)])
            .when(ship("1"))
            .then([shipped("1", 4)]);
        given([received(9), threshold_set(4), reserved("1", 5), low(4, 4)])
            .when(ship("1"))
            .then([shipped("1", 5)]);
    }

    #[test]
    fn an_alert_ends_when_more_than_the_threshold_are_available() {
        let low = || given([received(9), threshold_set(4), reserved("1", 5), low(4, 4)]);
        low().when(receive(1)).then([received(1), low_ended(5, 4)]);
        low().when(release("1")).then([released("1", 5), low_ended(9, 4)]);
        low().when(adjust(1)).then([adjusted(1), low_ended(5, 4)]);
        low().when(set_threshold(3)).then([threshold_set(3), low_ended(4, 3)]);
        low().when(set_threshold(0)).then([threshold_set(0), low_ended(4, 0)]);
    }

    // What is refused, in order of precedence.

    #[test]
    fn a_stock_that_does_not_exist_is_not_found() {
        given([]).when(reserve("1", 1)).then_rejected(not_found());
        given([]).when(release("1")).then_rejected(not_found());
        given([]).when(ship("1")).then_rejected(not_found());
        given([]).when(adjust(1)).then_rejected(not_found());
    }

    #[test]
    fn a_shipped_line_is_neither_reserved_again_nor_released() {
        let gone = || given([received(9), reserved("1", 3), shipped("1", 3)]);
        gone().when(reserve("1", 3)).then_rejected(was_shipped("1"));
        gone().when(release("1")).then_rejected(was_shipped("1"));
    }

    #[test]
    fn what_is_not_reserved_is_not_shipped() {
        given([received(5)]).when(ship("1")).then_rejected(not_reserved("1"));
        given([received(5), reserved("1", 3), released("1", 3)])
            .when(ship("1"))
            .then_rejected(not_reserved("1"));
    }

    #[test]
    fn a_line_is_not_reserved_with_another_quantity() {
        given([received(5), reserved("1", 3)])
            .when(reserve("1", 2))
            .then_rejected(differs("1", 3, 2));
    }

    #[test]
    fn more_than_is_available_is_not_reserved() {
        given([received(5), reserved("1", 3)])
            .when(reserve("2", 3))
            .then_rejected(insufficient(2, 3));
        given([threshold_set(0)]).when(reserve("1", 1)).then_rejected(insufficient(0, 1));
    }

    #[test]
    fn what_is_reserved_is_not_taken_away() {
        given([received(5), reserved("1", 3)])
            .when(adjust(-3))
            .then_rejected(is_reserved(5, 3, -3));
    }

    #[test]
    fn there_are_never_fewer_pieces_than_none() {
        given([received(5)]).when(adjust(-6)).then_rejected(would_be_negative(5, -6));
        let all = i64::MIN;
        given([received(5)]).when(adjust(all)).then_rejected(would_be_negative(5, all));
    }

    #[test]
    fn more_than_the_limit_is_refused() {
        given([]).when(receive(LIMIT_PIECES + 1)).then_rejected(too_large());
        given([received(LIMIT_PIECES)]).when(receive(1)).then_rejected(too_large());
        given([received(1)]).when(receive(u64::MAX)).then_rejected(too_large());
        given([received(LIMIT_PIECES)]).when(adjust(1)).then_rejected(too_large());
        given([received(1)]).when(adjust(i64::MAX)).then_rejected(too_large());
    }

    #[test]
    fn no_more_lines_are_reserved_than_the_limit() {
        let mut history = vec![received(LIMIT_PIECES)];
        history.extend((0..LIMIT_RESERVATIONS).map(|line| reserved(&line.to_string(), 1)));
        let limit = StockRejection::TooManyReservations { limit: LIMIT_RESERVATIONS };
        given(history).when(reserve("one-more", 1)).then_rejected(limit);
    }

    #[test]
    fn of_two_rules_that_do_not_hold_the_earlier_is_given() {
        given([]).when(adjust(i64::MIN)).then_rejected(not_found());
        let gone = || given([received(3), reserved("1", 3), shipped("1", 3)]);
        gone().when(reserve("1", 4)).then_rejected(was_shipped("1"));
        given([received(3), reserved("1", 3)])
            .when(reserve("1", 9))
            .then_rejected(differs("1", 3, 9));
        given([received(5), reserved("1", 3)])
            .when(adjust(-6))
            .then_rejected(is_reserved(5, 3, -6));
    }

    #[test]
    fn only_the_last_shipments_are_remembered() {
        let mut history = vec![received(LIMIT_PIECES)];
        for line in 0..=REMEMBERED_SHIPMENTS {
            history.extend([reserved(&line.to_string(), 1), shipped(&line.to_string(), 1)]);
        }
        let state = fold::<Stock>(&history);
        assert_eq!(state.shipped.len(), REMEMBERED_SHIPMENTS);
        assert!(!is_shipped(&state, "order", "0") && is_shipped(&state, "order", "1"));
    }

    #[test]
    fn the_rejections_are_those_of_the_contract_in_its_order() {
        let here = [
            not_found(),
            was_shipped("1"),
            not_reserved("1"),
            differs("1", 3, 2),
            insufficient(1, 2),
            is_reserved(5, 3, -3),
            too_large(),
            StockRejection::TooManyReservations { limit: LIMIT_RESERVATIONS },
            StockRejection::OrderInFulfilment { order_id: "order".to_owned() },
            would_be_negative(5, -6),
        ];
        let contract: Vec<_> = (1..).map_while(|number| Reason::try_from(number).ok()).collect();
        assert_eq!(here.each_ref().map(StockRejection::in_contract).as_slice(), contract);
        for (rejection, in_contract) in here.iter().zip(contract) {
            let prefixed = format!("STOCK_REJECTION_{}", rejection.reason());
            assert_eq!(prefixed, in_contract.as_str_name());
        }
    }

    #[test]
    fn a_rejection_tells_people_and_machines_the_values() {
        use RejectionKind::{FailedPrecondition, NotFound};
        let values: [(_, _, &str, &str); 9] = [
            (not_found(), NotFound, "there is no stock of product spec", "product_id=spec"),
            (
                was_shipped("1"),
                FailedPrecondition,
                "line 1 of order order was shipped",
                "order_id=order line_id=1",
            ),
            (
                not_reserved("1"),
                FailedPrecondition,
                "nothing is reserved for line 1 of order order",
                "order_id=order line_id=1",
            ),
            (
                differs("1", 3, 2),
                FailedPrecondition,
                "3 pieces are reserved for line 1 of order order already, not the 2 asked for",
                "order_id=order line_id=1 reserved=3 requested=2",
            ),
            (
                insufficient(1, 2),
                FailedPrecondition,
                "1 pieces are available, fewer than the 2 asked for",
                "available=1 requested=2",
            ),
            (
                is_reserved(5, 3, -3),
                FailedPrecondition,
                "5 pieces are there and 3 of them reserved: the number cannot change by -3",
                "on_hand=5 reserved=3 quantity_delta=-3",
            ),
            (
                too_large(),
                FailedPrecondition,
                "there would be more than 1000000000 pieces",
                "limit=1000000000",
            ),
            (
                StockRejection::TooManyReservations { limit: LIMIT_RESERVATIONS },
                FailedPrecondition,
                "there are 10000 open reservations already",
                "limit=10000",
            ),
            (
                would_be_negative(5, -6),
                FailedPrecondition,
                "5 pieces are there: the number cannot change by -6",
                "on_hand=5 quantity_delta=-6",
            ),
        ];
        for (rejection, kind, text, metadata) in values {
            assert_eq!(rejection.kind(), kind, "{rejection:?}");
            assert_eq!(rejection.to_string(), text);
            let found = rejection.metadata();
            let found: Vec<_> = found.iter().map(|(key, value)| format!("{key}={value}")).collect();
            assert_eq!(found.join(" "), metadata, "{rejection:?}");
        }
    }
}
