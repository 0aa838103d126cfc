//! The shipment of an order: a saga that takes the pieces of an order out of their stocks when it
//! has left the house.
//!
//! What the fulfilment of the order has kept is shipped, one item after the other. There is no way
//! back, so nothing is undone: should a stock refuse, which is a fault, the rest is shipped all the
//! same, and the shipment ends as failed. What was kept by hand is shipped by hand.
//!
//! ```text
//! shipping ─▶ completed, or failed when a stock has refused
//! ```

use daybook_contract::daybook::v1::step_answer::Outcome;
use daybook_contract::daybook::v1::{SagaStatus, StepAnswer, StepRefusal};
use daybook_contract::inventory::v1::ShipReservationRequest;
use daybook_contract::inventory::v1::stock::Command as ToStock;
use daybook_contract::orders::v1::shipment::{Command, Event, Upcast};
use daybook_contract::orders::v1::{
    FulfilmentState, ItemNotShipped, ItemShipped, OrderItem, OrderState, OrderStatus,
    RecordShipmentStepRequest, ShipmentRejection as Reason, ShipmentStarted, ShipmentState,
    ShipmentStatus, StartShipmentRequest,
};
use daybook_kernel::{Aggregate, Awaited, Context, Foreign, Rejection, RejectionKind, Saga, Step};

use crate::fulfilment;

/// The saga `orders.shipment`.
#[derive(Debug)]
pub struct Shipment;

// ---- State ------------------------------------------------------------------------------------

/// Takes the next item, whose answer is awaited from now on, or ends.
fn proceed(state: &mut ShipmentState) {
    let is_left = (state.answered_items as usize) < state.items.len();
    state.awaited_version = if is_left { state.version } else { 0 };
    state.set_status(match is_left {
        true => ShipmentStatus::Shipping,
        false if state.refused => ShipmentStatus::Failed,
        false => ShipmentStatus::Completed,
    });
}

// ---- Rejections, in order of precedence -------------------------------------------------------

/// The rules that a shipment keeps. When several do not hold, the first is given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShipmentRejection {
    /// There is no shipment of the order.
    #[error("there is no shipment of order {order_id}")]
    ShipmentNotFound {
        /// The order.
        order_id: String,
    },
    /// The shipment has begun already.
    #[error("the shipment of order {order_id} has begun already")]
    ShipmentAlreadyStarted {
        /// The order.
        order_id: String,
    },
    /// The order was not shipped.
    #[error("order {order_id} is not shipped")]
    OrderNotShipped {
        /// The order.
        order_id: String,
    },
}

impl ShipmentRejection {
    /// The same rule in the contract.
    fn in_contract(&self) -> Reason {
        match self {
            Self::ShipmentNotFound { .. } => Reason::ShipmentNotFound,
            Self::ShipmentAlreadyStarted { .. } => Reason::ShipmentAlreadyStarted,
            Self::OrderNotShipped { .. } => Reason::OrderNotShipped,
        }
    }
}

impl Rejection for ShipmentRejection {
    fn reason(&self) -> &'static str {
        self.in_contract().as_str_name().trim_start_matches("SHIPMENT_REJECTION_")
    }

    fn kind(&self) -> RejectionKind {
        match self {
            Self::ShipmentNotFound { .. } => RejectionKind::NotFound,
            Self::ShipmentAlreadyStarted { .. } => RejectionKind::AlreadyExists,
            Self::OrderNotShipped { .. } => RejectionKind::FailedPrecondition,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::ShipmentNotFound { order_id }
            | Self::ShipmentAlreadyStarted { order_id }
            | Self::OrderNotShipped { order_id } => vec![("order_id", order_id.clone())],
        }
    }
}

// ---- Decide -----------------------------------------------------------------------------------

impl Aggregate for Shipment {
    type Command = Command;
    type Event = Event;
    type State = ShipmentState;
    type Rejection = ShipmentRejection;

    fn decide(
        state: &ShipmentState,
        command: &Command,
        cx: &Context,
    ) -> Result<Vec<Event>, ShipmentRejection> {
        match command {
            Command::StartShipment(_, reads) => start(state, &reads.order, &reads.fulfilment, cx),
            Command::RecordShipmentStep(request) => record(state, request, cx),
        }
    }

    fn evolve(state: &mut ShipmentState, event: &Event) {
        state.version += 1;
        match event {
            Event::ShipmentStarted(event) => state.items.clone_from(&event.items),
            Event::ItemShipped(_) => state.answered_items += 1,
            Event::ItemNotShipped(event) => {
                state.answered_items += 1;
                state.refused = true;
                let outcome = event.answer.as_ref().and_then(|answer| answer.outcome.as_ref());
                if let Some(Outcome::Refusal(refusal)) = outcome {
                    state.refusal = Some(refusal.clone());
                }
            }
        }
        proceed(state);
    }
}

fn start(
    state: &ShipmentState,
    order: &OrderState,
    fulfilment: &FulfilmentState,
    cx: &Context,
) -> Result<Vec<Event>, ShipmentRejection> {
    let order_id = cx.aggregate_id.clone();
    if state.status() != ShipmentStatus::Unspecified {
        return Err(ShipmentRejection::ShipmentAlreadyStarted { order_id });
    }
    if order.status() != OrderStatus::Shipped {
        return Err(ShipmentRejection::OrderNotShipped { order_id });
    }
    let items = match fulfilment::keeps(fulfilment) {
        true => order.items.clone(),
        false => Vec::new(),
    };
    Ok(vec![ShipmentStarted { items }.into()])
}

/// Records the answer that the shipment waits for; another one changes nothing.
fn record(
    state: &ShipmentState,
    request: &RecordShipmentStepRequest,
    cx: &Context,
) -> Result<Vec<Event>, ShipmentRejection> {
    let order_id = cx.aggregate_id.clone();
    if state.status() == ShipmentStatus::Unspecified {
        return Err(ShipmentRejection::ShipmentNotFound { order_id });
    }
    let answer = request.answer.clone();
    let awaited = Shipment::awaited(&order_id, state);
    let is_awaited = |answer: &&StepAnswer| awaited.is_some_and(|it| it.is_answered_by(answer));
    Ok(match answer.as_ref().filter(is_awaited).and_then(|it| it.outcome.as_ref()) {
        Some(Outcome::Receipt(_)) => vec![ItemShipped { answer }.into()],
        Some(Outcome::Refusal(_)) => vec![ItemNotShipped { answer }.into()],
        None => Vec::new(),
    })
}

// ---- The saga ---------------------------------------------------------------------------------

impl Saga for Shipment {
    const STARTED_BY: &'static [&'static str] = &["orders.order"];

    fn start(event: &Foreign<'_>) -> Result<Option<(String, Command)>, String> {
        if event.name != "OrderShipped" {
            return Ok(None);
        }
        let order_id = event.aggregate_id.to_owned();
        let request = StartShipmentRequest { context: None, order_id: order_id.clone() };
        Ok(Some((order_id, request.into())))
    }

    fn awaited(id: &str, state: &ShipmentState) -> Option<Awaited> {
        if state.status() != ShipmentStatus::Shipping {
            return None;
        }
        let item = state.items.get(state.answered_items as usize).cloned().unwrap_or_default();
        let step = Step::send(ToStock::from(ship(id, item)));
        Some(Awaited { version: state.awaited_version, step })
    }

    fn record(id: &str, answer: StepAnswer) -> Command {
        let (order_id, answer) = (id.to_owned(), Some(answer));
        RecordShipmentStepRequest { context: None, order_id, answer }.into()
    }

    fn recorded(command: &mut Command) -> Option<&mut StepAnswer> {
        match command {
            Command::RecordShipmentStep(request) => request.answer.as_mut(),
            Command::StartShipment(..) => None,
        }
    }

    fn answered(event: &Event) -> Option<&StepAnswer> {
        match event {
            Event::ShipmentStarted(_) => None,
            Event::ItemShipped(event) => event.answer.as_ref(),
            Event::ItemNotShipped(event) => event.answer.as_ref(),
        }
    }

    fn status(state: &ShipmentState) -> SagaStatus {
        match state.status() {
            ShipmentStatus::Unspecified => SagaStatus::Unspecified,
            ShipmentStatus::Shipping => SagaStatus::Running,
            ShipmentStatus::Completed => SagaStatus::Completed,
            ShipmentStatus::Failed => SagaStatus::Failed,
        }
    }

    fn refusal(state: &ShipmentState) -> Option<&StepRefusal> {
        state.refusal.as_ref()
    }

    /// The goods have left the house.
    fn compensate(_id: &str, _reason: &str) -> Option<Command> {
        None
    }
}

fn ship(order_id: &str, item: OrderItem) -> ShipReservationRequest {
    ShipReservationRequest {
        context: None,
        product_id: item.product_id,
        order_id: order_id.to_owned(),
        line_id: item.line_id,
    }
}

/// No event has an older version yet.
impl Upcast for Shipment {}

// ---- Specifications ---------------------------------------------------------------------------

#[cfg(test)]
mod specs {
    use daybook_contract::daybook::v1::CommandReceipt;
    use daybook_contract::inventory::v1::stock::Event as StockEvent;
    use daybook_contract::inventory::v1::{ReservationShipped, StockReceived, StockReserved};
    use daybook_contract::orders::v1::fulfilment::Event as FulfilmentEvent;
    use daybook_contract::orders::v1::order::Event as OrderEvent;
    use daybook_contract::orders::v1::{
        FulfilmentCompleted, FulfilmentStarted, ItemAdded, OrderShipped,
    };
    use daybook_kernel::spec::{NOW, Spec, context, fold};

    use super::*;
    use crate::fulfilment::Fulfilment;
    use crate::order::Order;
    use crate::stock::{Stock, StockRejection};

    fn item(line: &str, product: &str) -> OrderItem {
        OrderItem {
            line_id: line.to_owned(),
            product_id: product.to_owned(),
            quantity: 2,
            unit_price: None,
        }
    }

    fn items() -> Vec<OrderItem> {
        vec![item("1", "ball"), item("2", "cup")]
    }

    fn shipped_order() -> Vec<OrderEvent> {
        let added = items().into_iter().map(|item| ItemAdded { item: Some(item) }.into());
        added.chain([OrderShipped::default().into()]).collect()
    }

    fn fulfilled() -> Vec<FulfilmentEvent> {
        let started = FulfilmentStarted { items: items(), ..Default::default() };
        vec![started.into(), FulfilmentCompleted::default().into()]
    }

    fn started() -> Event {
        ShipmentStarted { items: items() }.into()
    }

    fn accepted(version: u64) -> Option<StepAnswer> {
        let outcome = Some(Outcome::Receipt(CommandReceipt::default()));
        Some(StepAnswer { version, index: 0, outcome })
    }

    fn refused(version: u64) -> Option<StepAnswer> {
        let refusal = StepRefusal { reason: "NO".to_owned(), ..Default::default() };
        Some(StepAnswer { version, index: 0, outcome: Some(Outcome::Refusal(refusal)) })
    }

    fn answer(answer: Option<StepAnswer>) -> RecordShipmentStepRequest {
        RecordShipmentStepRequest { answer, ..Default::default() }
    }

    fn start() -> StartShipmentRequest {
        StartShipmentRequest { order_id: "o".to_owned(), context: None }
    }

    fn order_id() -> String {
        context().aggregate_id
    }

    /// The product whose pieces are wanted after this history.
    fn wanted(history: &[Event]) -> Option<String> {
        let awaited = Shipment::awaited("o", &fold::<Shipment>(history));
        awaited.map(|awaited| awaited.step.aggregate_id)
    }

    fn status(history: &[Event]) -> SagaStatus {
        Shipment::status(&fold::<Shipment>(history))
    }

    #[test]
    fn what_a_fulfilment_has_kept_is_shipped_with_the_order() {
        let given = || Spec::<Shipment>::given([]).reading::<Order>("o", shipped_order());
        given().reading::<Fulfilment>("o", fulfilled()).when(start()).then([started()]);
        // What was kept by hand is shipped by hand.
        let nothing: Event = ShipmentStarted { items: Vec::new() }.into();
        given().when(start()).then([nothing.clone()]);
        let ended = [nothing];
        assert_eq!((status(&ended), wanted(&ended)), (SagaStatus::Completed, None));
    }

    #[test]
    fn only_an_order_that_was_shipped_is_and_only_once() {
        Spec::<Shipment>::given([])
            .when(start())
            .then_rejected(ShipmentRejection::OrderNotShipped { order_id: order_id() });
        Spec::<Shipment>::given([started()])
            .when(start())
            .then_rejected(ShipmentRejection::ShipmentAlreadyStarted { order_id: order_id() });
        Spec::<Shipment>::given([])
            .when(answer(accepted(1)))
            .then_rejected(ShipmentRejection::ShipmentNotFound { order_id: order_id() });
    }

    #[test]
    fn one_item_is_shipped_after_the_other_and_a_refusal_stops_none() {
        let first: Event = ItemShipped { answer: accepted(1) }.into();
        let last: Event = ItemShipped { answer: accepted(2) }.into();
        let given = |events: &[Event]| Spec::<Shipment>::given(events.to_vec());
        given(&[started()]).when(answer(accepted(1))).then([first.clone()]);
        assert_eq!(wanted(&[started()]).as_deref(), Some("ball"));
        assert_eq!(wanted(&[started(), first.clone()]).as_deref(), Some("cup"));
        assert_eq!(status(&[started(), first.clone()]), SagaStatus::Running);
        assert_eq!(status(&[started(), first.clone(), last.clone()]), SagaStatus::Completed);
        let not_shipped: Event = ItemNotShipped { answer: refused(1) }.into();
        given(&[started()]).when(answer(refused(1))).then([not_shipped.clone()]);
        assert_eq!(wanted(&[started(), not_shipped.clone()]).as_deref(), Some("cup"));
        assert_eq!(status(&[started(), not_shipped, last]), SagaStatus::Failed);
        let another = accepted(2).map(|answer| StepAnswer { index: 1, ..answer });
        for wrong in [accepted(1), accepted(3), another, None] {
            given(&[started(), first.clone()]).when(answer(wrong)).then_nothing();
        }
    }

    #[test]
    fn the_pieces_of_a_fulfilled_order_leave_with_it_alone() {
        let in_stock: [StockEvent; 2] = [
            StockReceived { quantity: 2, reference: String::new(), received_time: Some(NOW) }
                .into(),
            StockReserved { order_id: "o".to_owned(), line_id: "1".to_owned(), quantity: 2 }.into(),
        ];
        let out: StockEvent =
            ReservationShipped { order_id: "o".to_owned(), line_id: "1".to_owned(), quantity: 2 }
                .into();
        let cx = Context {
            aggregate_id: "ball".to_owned(),
            command_id: daybook_kernel::step_id("orders.shipment-o", 1, 0),
            ..context()
        };
        let given =
            || Spec::<Stock>::given(in_stock.clone()).reading::<Fulfilment>("o", fulfilled());
        let kept = || StockRejection::OrderInFulfilment { order_id: "o".to_owned() };
        let ship = || super::ship("o", item("1", "ball"));
        given().within(cx.clone()).reading::<Shipment>("o", [started()]).when(ship()).then([out]);
        given().within(cx).when(ship()).then_rejected(kept());
        given().reading::<Shipment>("o", [started()]).when(ship()).then_rejected(kept());
    }

    #[test]
    fn the_rejections_are_those_of_the_contract_in_its_order() {
        let here = [
            ShipmentRejection::ShipmentNotFound { order_id: order_id() },
            ShipmentRejection::ShipmentAlreadyStarted { order_id: order_id() },
            ShipmentRejection::OrderNotShipped { order_id: order_id() },
        ];
        let contract: Vec<_> = (1..).map_while(|number| Reason::try_from(number).ok()).collect();
        assert_eq!(here.each_ref().map(ShipmentRejection::in_contract).as_slice(), contract);
    }
}
