//! The fulfilment of an order: a saga that keeps the goods, charges the account and confirms the
//! order; or else undoes what it has done, in reverse order, and cancels the order.
//!
//! It takes one step at a time, so what has been done is always the first so many of: reserve each
//! item, charge the account. When a step is refused, the deadline passes or somebody gives it up,
//! it goes back the way it came. A step that is under way is waited for first: it may have had its
//! effect. Once the order is being confirmed there is no way back, unless the order refuses. Until it
//! is confirmed, its money is in flight, so that the account can always take it back.
//!
//! ```text
//! reserving ─▶ charging ─▶ confirming ─▶ settling ─▶ completed
//!     │            │            │
//!     ▼            ▼            ▼
//! cancelling ◀─ releasing ◀─ refunding
//!     └─▶ undone, or failed when something could not be undone
//! ```

use daybook_contract::bank::v1::account::Command as ToAccount;
use daybook_contract::bank::v1::{RefundPaymentRequest, SendPaymentRequest, SettlePaymentRequest};
use daybook_contract::daybook::v1::step_answer::Outcome;
use daybook_contract::daybook::v1::{SagaStatus, StepAnswer, StepRefusal};
use daybook_contract::inventory::v1::stock::Command as ToStock;
use daybook_contract::inventory::v1::{ReleaseReservationRequest, ReserveStockRequest};
use daybook_contract::orders::v1::fulfilment::{Command, Event, Upcast};
use daybook_contract::orders::v1::order::Command as ToOrder;
use daybook_contract::orders::v1::{
    AccountCharged, CancelFulfilmentRequest, CancelOrderRequest, ChargeRefunded,
    ExpireFulfilmentRequest, FulfilmentCancelled, FulfilmentCompleted, FulfilmentExpired,
    FulfilmentRefused, FulfilmentRejection as Reason, FulfilmentStarted, FulfilmentState,
    FulfilmentStatus, FulfilmentUndone, ItemReleased, ItemReserved, OrderConfirmed, OrderItem,
    OrderState, OrderStatus, PayOrderRequest, RecordFulfilmentStepRequest, StartFulfilmentRequest,
    UndoRefused,
};
use daybook_kernel::{
    Aggregate, Awaited, Context, Foreign, Money, Rejection, RejectionKind, Saga, Step, Timestamp,
    in_words,
};

use crate::order;

/// The saga `orders.fulfilment`.
#[derive(Debug)]
pub struct Fulfilment;

/// The reasons of refusals that no step has given.
const EXPIRED: &str = "DEADLINE_PASSED";
const CANCELLED: &str = "CANCELLED";

// ---- State ------------------------------------------------------------------------------------

/// What comes next, forward or back.
fn next(state: &FulfilmentState) -> FulfilmentStatus {
    let reserved = state.reserved_items as usize;
    let costs = state
        .total
        .as_ref()
        .and_then(|total| Money::try_from(total).ok())
        .is_some_and(|total| !total.is_zero());
    match state.undoing {
        true if state.charged => FulfilmentStatus::Refunding,
        true if reserved > 0 => FulfilmentStatus::Releasing,
        true => FulfilmentStatus::Cancelling,
        false if reserved < state.items.len() => FulfilmentStatus::Reserving,
        false if costs && !state.charged => FulfilmentStatus::Charging,
        false => FulfilmentStatus::Confirming,
    }
}

/// Takes the next step.
fn proceed(state: &mut FulfilmentState) {
    proceed_to(state, next(state));
}

/// Takes a step, whose answer is awaited from now on.
fn proceed_to(state: &mut FulfilmentState, status: FulfilmentStatus) {
    state.set_status(status);
    state.awaited_version = state.version;
}

fn end(state: &mut FulfilmentState, status: FulfilmentStatus) {
    state.set_status(status);
    state.awaited_version = 0;
}

/// The status at the end of undoing.
fn undone(state: &FulfilmentState) -> FulfilmentStatus {
    match state.undo_failed {
        true => FulfilmentStatus::Failed,
        false => FulfilmentStatus::Undone,
    }
}

fn turn_back(state: &mut FulfilmentState, reason: &str, message: &str) {
    state.undoing = true;
    let (reason, message) = (reason.to_owned(), message.to_owned());
    state.refusal = Some(StepRefusal { reason, message, ..Default::default() });
}

fn keep_refusal(state: &mut FulfilmentState, answer: Option<&StepAnswer>) {
    if let Some(Outcome::Refusal(refusal)) = answer.and_then(|answer| answer.outcome.as_ref()) {
        state.refusal = Some(refusal.clone());
    }
}

fn has_passed(deadline: Option<Timestamp>, now: Timestamp) -> bool {
    let parts = |time: Timestamp| (time.seconds, time.nanos);
    deadline.is_some_and(|deadline| parts(deadline) <= parts(now))
}

/// Whether the order and its goods are the fulfilment's: it has begun, and was not undone.
pub(crate) fn keeps(state: &FulfilmentState) -> bool {
    use FulfilmentStatus::{Failed, Undone, Unspecified};
    !matches!(state.status(), Unspecified | Undone | Failed)
}

/// Whether the fulfilment can still be given up: it goes forward, and the order is not being
/// confirmed yet.
fn can_turn_back(state: &FulfilmentState) -> bool {
    let forward =
        matches!(state.status(), FulfilmentStatus::Reserving | FulfilmentStatus::Charging);
    forward && !state.undoing
}

// ---- Rejections, in order of precedence -------------------------------------------------------

/// The rules that a fulfilment keeps. When several do not hold, the first is given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FulfilmentRejection {
    /// The order is not being fulfilled.
    #[error("order {order_id} is not being fulfilled")]
    FulfilmentNotFound {
        /// The order.
        order_id: String,
    },
    /// The order is being fulfilled already.
    #[error("order {order_id} is being fulfilled already")]
    FulfilmentAlreadyStarted {
        /// The order.
        order_id: String,
    },
    /// The order was never submitted.
    #[error("order {order_id} is not submitted")]
    OrderNotSubmitted {
        /// The order.
        order_id: String,
    },
    /// The order is being confirmed, or the fulfilment has ended.
    #[error(
        "the fulfilment of order {order_id} is {}: it is too late to give it up",
        in_words(.status)
    )]
    TooLateToCancel {
        /// The order.
        order_id: String,
        /// Where it stands.
        status: &'static str,
    },
    /// There is time left.
    #[error("the deadline of the fulfilment of order {order_id} has not passed yet")]
    DeadlineNotPassed {
        /// The order.
        order_id: String,
    },
}

impl FulfilmentRejection {
    /// The same rule in the contract.
    fn in_contract(&self) -> Reason {
        match self {
            Self::FulfilmentNotFound { .. } => Reason::FulfilmentNotFound,
            Self::FulfilmentAlreadyStarted { .. } => Reason::FulfilmentAlreadyStarted,
            Self::OrderNotSubmitted { .. } => Reason::OrderNotSubmitted,
            Self::TooLateToCancel { .. } => Reason::TooLateToCancel,
            Self::DeadlineNotPassed { .. } => Reason::DeadlineNotPassed,
        }
    }
}

impl Rejection for FulfilmentRejection {
    fn reason(&self) -> &'static str {
        self.in_contract().as_str_name().trim_start_matches("FULFILMENT_REJECTION_")
    }

    fn kind(&self) -> RejectionKind {
        match self {
            Self::FulfilmentNotFound { .. } => RejectionKind::NotFound,
            Self::FulfilmentAlreadyStarted { .. } => RejectionKind::AlreadyExists,
            _ => RejectionKind::FailedPrecondition,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::FulfilmentNotFound { order_id }
            | Self::FulfilmentAlreadyStarted { order_id }
            | Self::OrderNotSubmitted { order_id }
            | Self::DeadlineNotPassed { order_id } => vec![("order_id", order_id.clone())],
            Self::TooLateToCancel { order_id, status } => {
                vec![("order_id", order_id.clone()), ("status", (*status).to_owned())]
            }
        }
    }
}

// ---- Decide -----------------------------------------------------------------------------------

impl Aggregate for Fulfilment {
    type Command = Command;
    type Event = Event;
    type State = FulfilmentState;
    type Rejection = FulfilmentRejection;

    fn decide(
        state: &FulfilmentState,
        command: &Command,
        cx: &Context,
    ) -> Result<Vec<Event>, FulfilmentRejection> {
        let order_id = cx.aggregate_id.clone();
        if let Command::StartFulfilment(_, reads) = command {
            return start(state, &reads.order, cx);
        }
        if state.status() == FulfilmentStatus::Unspecified {
            return Err(FulfilmentRejection::FulfilmentNotFound { order_id });
        }
        Ok(match command {
            Command::StartFulfilment(..) => vec![],
            Command::RecordFulfilmentStep(request) => {
                let mut events = record(&order_id, state, request);
                // Whoever is slower than the deadline does not go on either.
                if !events.is_empty() && can_turn_back(state) && has_passed(state.deadline, cx.now)
                {
                    events.insert(0, FulfilmentExpired { expired_time: Some(cx.now) }.into());
                }
                events
            }
            Command::ExpireFulfilment(_) if can_turn_back(state) => {
                if !has_passed(state.deadline, cx.now) {
                    return Err(FulfilmentRejection::DeadlineNotPassed { order_id });
                }
                vec![FulfilmentExpired { expired_time: Some(cx.now) }.into()]
            }
            Command::ExpireFulfilment(_) => vec![],
            Command::CancelFulfilment(request) if can_turn_back(state) => {
                vec![FulfilmentCancelled { reason: request.reason.clone() }.into()]
            }
            Command::CancelFulfilment(_) if state.undoing => vec![],
            Command::CancelFulfilment(_) => {
                let status = state.status().as_str_name();
                let status = status.trim_start_matches("FULFILMENT_STATUS_");
                return Err(FulfilmentRejection::TooLateToCancel { order_id, status });
            }
        })
    }

    fn evolve(state: &mut FulfilmentState, event: &Event) {
        state.version += 1;
        match event {
            Event::FulfilmentStarted(event) => {
                state.account_id.clone_from(&event.account_id);
                state.items.clone_from(&event.items);
                state.total.clone_from(&event.total);
                state.deadline = event.deadline;
                if event.obsolete {
                    turn_back(state, CANCELLED, "the order was not waiting for its fulfilment");
                    return end(state, FulfilmentStatus::Undone);
                }
                proceed(state);
            }
            Event::ItemReserved(_) => {
                state.reserved_items += 1;
                proceed(state);
            }
            Event::AccountCharged(event) => {
                state.charged = true;
                state.payment_id = payment_id(event.answer.as_ref());
                proceed(state);
            }
            Event::OrderConfirmed(_) => proceed_to(state, FulfilmentStatus::Settling),
            Event::FulfilmentRefused(event) => {
                state.undoing = true;
                keep_refusal(state, event.answer.as_ref());
                proceed(state);
            }
            Event::ChargeRefunded(_) => {
                state.charged = false;
                proceed(state);
            }
            Event::ItemReleased(_) => {
                state.reserved_items = state.reserved_items.saturating_sub(1);
                proceed(state);
            }
            Event::UndoRefused(event) => {
                state.undo_failed = true;
                keep_refusal(state, event.answer.as_ref());
                // The rest is undone all the same.
                match state.status() {
                    FulfilmentStatus::Refunding => state.charged = false,
                    FulfilmentStatus::Releasing => {
                        state.reserved_items = state.reserved_items.saturating_sub(1);
                    }
                    _ => return end(state, FulfilmentStatus::Failed),
                }
                proceed(state);
            }
            // A step is under way: its answer is awaited as before.
            Event::FulfilmentExpired(_) => turn_back(state, EXPIRED, "the deadline has passed"),
            Event::FulfilmentCancelled(event) => turn_back(state, CANCELLED, &event.reason),
            Event::FulfilmentCompleted(_) => end(state, FulfilmentStatus::Completed),
            Event::FulfilmentUndone(_) => end(state, undone(state)),
        }
    }
}

/// Starts with what the order says at this moment. For an order that is not waiting any more it is
/// started as well, and has ended with that: there is nothing to undo.
fn start(
    state: &FulfilmentState,
    order: &OrderState,
    cx: &Context,
) -> Result<Vec<Event>, FulfilmentRejection> {
    let order_id = cx.aggregate_id.clone();
    if state.status() != FulfilmentStatus::Unspecified {
        return Err(FulfilmentRejection::FulfilmentAlreadyStarted { order_id });
    }
    if order.account_id.is_empty() {
        return Err(FulfilmentRejection::OrderNotSubmitted { order_id });
    }
    Ok(vec![
        FulfilmentStarted {
            account_id: order.account_id.clone(),
            items: order.items.clone(),
            total: order::total(order).map(Into::into),
            deadline: order.fulfil_by_time,
            obsolete: order.status() != OrderStatus::Submitted,
        }
        .into(),
    ])
}

/// Records the answer that the fulfilment waits for; another one changes nothing.
fn record(
    order_id: &str,
    state: &FulfilmentState,
    request: &RecordFulfilmentStepRequest,
) -> Vec<Event> {
    use FulfilmentStatus::*;
    let answer = request.answer.clone();
    let awaited = Fulfilment::awaited(order_id, state);
    let is_awaited = |answer: &&StepAnswer| awaited.is_some_and(|it| it.is_answered_by(answer));
    let accepted = match answer.as_ref().filter(is_awaited).and_then(|it| it.outcome.as_ref()) {
        Some(Outcome::Receipt(_)) => true,
        Some(Outcome::Refusal(_)) => false,
        None => return Vec::new(),
    };
    vec![match (state.status(), accepted) {
        (Reserving, true) => ItemReserved { answer }.into(),
        (Charging, true) => AccountCharged { answer }.into(),
        (Confirming, true) if state.charged => OrderConfirmed { answer }.into(),
        // Whatever the account says now, the order is paid.
        (Confirming, true) | (Settling, _) => FulfilmentCompleted { answer }.into(),
        (Reserving | Charging | Confirming, false) => FulfilmentRefused { answer }.into(),
        (Refunding, true) => ChargeRefunded { answer }.into(),
        (Releasing, true) => ItemReleased { answer }.into(),
        (Cancelling, true) => FulfilmentUndone { answer }.into(),
        (Refunding | Releasing | Cancelling, false) => UndoRefused { answer }.into(),
        // Nothing is awaited.
        (Unspecified | Completed | Undone | Failed, _) => return Vec::new(),
    }]
}

/// What the payment is known by: the event that charged the account.
fn payment_id(answer: Option<&StepAnswer>) -> String {
    match answer.and_then(|answer| answer.outcome.as_ref()) {
        Some(Outcome::Receipt(receipt)) => receipt.event_ids.first().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

// ---- The saga ---------------------------------------------------------------------------------

impl Saga for Fulfilment {
    const STARTED_BY: &'static [&'static str] = &["orders.order"];

    fn start(event: &Foreign<'_>) -> Result<Option<(String, Command)>, String> {
        if event.name != "OrderSubmitted" {
            return Ok(None);
        }
        let order_id = event.aggregate_id.to_owned();
        let request = StartFulfilmentRequest { context: None, order_id: order_id.clone() };
        Ok(Some((order_id, request.into())))
    }

    fn awaited(id: &str, state: &FulfilmentState) -> Option<Awaited> {
        let item = |number: u32| state.items.get(number as usize).cloned().unwrap_or_default();
        let step = match state.status() {
            FulfilmentStatus::Reserving => {
                Step::send(ToStock::from(reserve(id, item(state.reserved_items))))
            }
            FulfilmentStatus::Charging => Step::send(ToAccount::from(charge(id, state))),
            FulfilmentStatus::Confirming => Step::send(ToOrder::from(PayOrderRequest {
                context: None,
                order_id: id.to_owned(),
                payment_id: state.payment_id.clone(),
            })),
            FulfilmentStatus::Settling => Step::send(ToAccount::from(SettlePaymentRequest {
                context: None,
                account_id: state.account_id.clone(),
                order_id: id.to_owned(),
            })),
            FulfilmentStatus::Refunding => Step::send(ToAccount::from(refund(id, state))),
            FulfilmentStatus::Releasing => {
                let last = item(state.reserved_items.saturating_sub(1));
                Step::send(ToStock::from(release(id, last, reason(state))))
            }
            FulfilmentStatus::Cancelling => Step::send(ToOrder::from(CancelOrderRequest {
                context: None,
                order_id: id.to_owned(),
                reason: reason(state),
            })),
            FulfilmentStatus::Unspecified
            | FulfilmentStatus::Completed
            | FulfilmentStatus::Undone
            | FulfilmentStatus::Failed => return None,
        };
        Some(Awaited { version: state.awaited_version, step })
    }

    fn record(id: &str, answer: StepAnswer) -> Command {
        let (order_id, answer) = (id.to_owned(), Some(answer));
        RecordFulfilmentStepRequest { context: None, order_id, answer }.into()
    }

    fn recorded(command: &mut Command) -> Option<&mut StepAnswer> {
        match command {
            Command::RecordFulfilmentStep(request) => request.answer.as_mut(),
            Command::StartFulfilment(..)
            | Command::ExpireFulfilment(_)
            | Command::CancelFulfilment(_) => None,
        }
    }

    fn answered(event: &Event) -> Option<&StepAnswer> {
        match event {
            Event::FulfilmentStarted(_)
            | Event::FulfilmentExpired(_)
            | Event::FulfilmentCancelled(_) => None,
            Event::ItemReserved(event) => event.answer.as_ref(),
            Event::AccountCharged(event) => event.answer.as_ref(),
            Event::OrderConfirmed(event) => event.answer.as_ref(),
            Event::FulfilmentCompleted(event) => event.answer.as_ref(),
            Event::FulfilmentRefused(event) => event.answer.as_ref(),
            Event::ChargeRefunded(event) => event.answer.as_ref(),
            Event::ItemReleased(event) => event.answer.as_ref(),
            Event::UndoRefused(event) => event.answer.as_ref(),
            Event::FulfilmentUndone(event) => event.answer.as_ref(),
        }
    }

    fn status(state: &FulfilmentState) -> SagaStatus {
        match state.status() {
            FulfilmentStatus::Unspecified => SagaStatus::Unspecified,
            FulfilmentStatus::Completed => SagaStatus::Completed,
            FulfilmentStatus::Undone => SagaStatus::Compensated,
            FulfilmentStatus::Failed => SagaStatus::Failed,
            _ if state.undoing => SagaStatus::Compensating,
            _ => SagaStatus::Running,
        }
    }

    fn timer(id: &str, state: &FulfilmentState) -> Option<(Timestamp, Command)> {
        let deadline = state.deadline.filter(|_| can_turn_back(state))?;
        let request = ExpireFulfilmentRequest { context: None, order_id: id.to_owned() };
        Some((deadline, request.into()))
    }

    fn refusal(state: &FulfilmentState) -> Option<&StepRefusal> {
        state.refusal.as_ref()
    }

    fn compensate(id: &str, reason: &str) -> Option<Command> {
        let (order_id, reason) = (id.to_owned(), reason.to_owned());
        Some(CancelFulfilmentRequest { context: None, order_id, reason }.into())
    }
}

/// Why it is undone, as the order and the stock are told.
fn reason(state: &FulfilmentState) -> String {
    state.refusal.as_ref().map(|refusal| refusal.reason.clone()).unwrap_or_default()
}

fn reserve(order_id: &str, item: OrderItem) -> ReserveStockRequest {
    ReserveStockRequest {
        context: None,
        product_id: item.product_id,
        order_id: order_id.to_owned(),
        line_id: item.line_id,
        quantity: item.quantity,
    }
}

fn release(order_id: &str, item: OrderItem, reason: String) -> ReleaseReservationRequest {
    ReleaseReservationRequest {
        context: None,
        product_id: item.product_id,
        order_id: order_id.to_owned(),
        line_id: item.line_id,
        reason,
    }
}

fn charge(order_id: &str, state: &FulfilmentState) -> SendPaymentRequest {
    SendPaymentRequest {
        context: None,
        account_id: state.account_id.clone(),
        order_id: order_id.to_owned(),
        amount: state.total.clone(),
        description: format!("order {order_id}"),
    }
}

fn refund(order_id: &str, state: &FulfilmentState) -> RefundPaymentRequest {
    RefundPaymentRequest {
        context: None,
        account_id: state.account_id.clone(),
        order_id: order_id.to_owned(),
        reason: reason(state),
    }
}

/// No event has an older version yet.
impl Upcast for Fulfilment {}

// ---- Specifications ---------------------------------------------------------------------------

#[cfg(test)]
mod specs {
    use daybook_contract::daybook::v1::{CommandReceipt, Money as WireMoney};
    use daybook_kernel::Currency;
    use daybook_kernel::spec::{NOW, Spec, context, fold};

    use super::*;

    fn usd(minor: i64) -> Option<WireMoney> {
        Some(Money::new(minor, Currency::USD).into())
    }

    /// An order of one item for this much.
    const DEADLINE: Timestamp = Timestamp { seconds: NOW.seconds + 60, nanos: 0 };

    fn started(minor: i64) -> Event {
        FulfilmentStarted {
            account_id: "account".to_owned(),
            items: vec![OrderItem {
                line_id: "1".to_owned(),
                product_id: "ball".to_owned(),
                quantity: 2,
                unit_price: usd(minor / 2),
            }],
            total: usd(minor),
            deadline: Some(DEADLINE),
            obsolete: false,
        }
        .into()
    }

    fn accepted(version: u64) -> Option<StepAnswer> {
        let receipt = CommandReceipt { event_ids: vec!["charge".to_owned()], ..Default::default() };
        Some(StepAnswer { version, index: 0, outcome: Some(Outcome::Receipt(receipt)) })
    }

    fn refused(version: u64) -> Option<StepAnswer> {
        let refusal = StepRefusal { reason: "NO".to_owned(), ..Default::default() };
        Some(StepAnswer { version, index: 0, outcome: Some(Outcome::Refusal(refusal)) })
    }

    fn answer(answer: Option<StepAnswer>) -> RecordFulfilmentStepRequest {
        RecordFulfilmentStepRequest { answer, ..Default::default() }
    }

    fn reserved(version: u64) -> Event {
        ItemReserved { answer: accepted(version) }.into()
    }

    fn charged(version: u64) -> Event {
        AccountCharged { answer: accepted(version) }.into()
    }

    fn expired() -> Event {
        FulfilmentExpired { expired_time: Some(DEADLINE) }.into()
    }

    /// The last part of the name of the command that is wanted after this history.
    fn wanted(history: &[Event]) -> Option<&'static str> {
        let state = fold::<Fulfilment>(history);
        let awaited = Fulfilment::awaited("spec", &state).filter(|it| it.version == state.version);
        awaited.and_then(|awaited| awaited.step.type_name.rsplit('.').next())
    }

    fn given(events: &[Event]) -> Spec<Fulfilment> {
        Spec::given(events.to_vec())
    }

    #[test]
    fn an_order_is_reserved_then_charged_then_confirmed() {
        let way = [started(1_000), reserved(1), charged(2)];
        given(&way[..1]).when(answer(accepted(1))).then([reserved(1)]);
        given(&way[..2]).when(answer(accepted(2))).then([charged(2)]);
        let confirmed: Event = OrderConfirmed { answer: accepted(3) }.into();
        given(&way).when(answer(accepted(3))).then([confirmed.clone()]);
        assert_eq!(wanted(&way[..1]), Some("ReserveStockRequest"));
        assert_eq!(wanted(&way[..2]), Some("SendPaymentRequest"));
        assert_eq!(wanted(&way), Some("PayOrderRequest"));
        let way: Vec<_> = way.into_iter().chain([confirmed]).collect();
        assert_eq!(wanted(&way), Some("SettlePaymentRequest"));
        // The order is paid, whatever the account says now.
        for last in [accepted(4), refused(4)] {
            let completed = FulfilmentCompleted { answer: last.clone() };
            given(&way).when(answer(last)).then([completed.into()]);
        }
    }

    #[test]
    fn an_order_that_does_not_wait_any_more_is_left_alone() {
        let Event::FulfilmentStarted(waiting) = started(1_000) else { unreachable!() };
        let obsolete: Event = FulfilmentStarted { obsolete: true, ..waiting }.into();
        let state = fold::<Fulfilment>(std::slice::from_ref(&obsolete));
        assert_eq!(Fulfilment::status(&state), SagaStatus::Compensated);
        assert_eq!(wanted(&[obsolete]), None);
    }

    #[test]
    fn what_costs_nothing_is_not_charged() {
        let way = [started(0), reserved(1)];
        assert_eq!(wanted(&way), Some("PayOrderRequest"));
        let completed = FulfilmentCompleted { answer: accepted(2) };
        given(&way).when(answer(accepted(2))).then([completed.into()]);
    }

    #[test]
    fn what_was_done_is_undone_in_reverse_order() {
        let mut way = vec![started(1_000), reserved(1), charged(2)];
        way.push(FulfilmentRefused { answer: refused(3) }.into());
        assert_eq!(wanted(&way), Some("RefundPaymentRequest"));
        way.push(ChargeRefunded { answer: accepted(4) }.into());
        assert_eq!(wanted(&way), Some("ReleaseReservationRequest"));
        way.push(ItemReleased { answer: accepted(5) }.into());
        assert_eq!(wanted(&way), Some("CancelOrderRequest"));
        let undone: Event = FulfilmentUndone { answer: accepted(6) }.into();
        given(&way).when(answer(accepted(6))).then([undone.clone()]);
        way.push(undone);
        assert_eq!(Fulfilment::status(&fold::<Fulfilment>(&way)), SagaStatus::Compensated);
        assert_eq!(wanted(&way), None);
    }

    #[test]
    fn what_cannot_be_undone_is_told_and_the_rest_is_undone() {
        let mut way = vec![started(1_000), reserved(1), charged(2)];
        way.push(FulfilmentRefused { answer: refused(3) }.into());
        let failed: Event = UndoRefused { answer: refused(4) }.into();
        given(&way).when(answer(refused(4))).then([failed.clone()]);
        way.push(failed);
        assert_eq!(wanted(&way), Some("ReleaseReservationRequest"));
        way.push(ItemReleased { answer: accepted(5) }.into());
        way.push(FulfilmentUndone { answer: accepted(6) }.into());
        assert_eq!(Fulfilment::status(&fold::<Fulfilment>(&way)), SagaStatus::Failed);
    }

    #[test]
    fn a_deadline_waits_for_the_step_under_way() {
        let expire = ExpireFulfilmentRequest::default;
        given(&[started(1_000)]).at(DEADLINE).when(expire()).then([expired()]);
        assert_eq!(wanted(&[started(1_000), expired()]), None);
        // The pieces were reserved after all, so they are released.
        given(&[started(1_000), expired()]).when(answer(accepted(1))).then([reserved(1)]);
        let after = wanted(&[started(1_000), expired(), reserved(1)]);
        assert_eq!(after, Some("ReleaseReservationRequest"));
        given(&[started(1_000), expired()]).when(expire()).then_nothing();
    }

    #[test]
    fn an_answer_that_comes_after_the_deadline_is_recorded_and_undone() {
        let charging = [started(1_000), reserved(1)];
        given(&charging).at(DEADLINE).when(answer(accepted(2))).then([expired(), charged(2)]);
        let late = [started(1_000), reserved(1), expired(), charged(2)];
        assert_eq!(wanted(&late), Some("RefundPaymentRequest"));
    }

    #[test]
    fn an_order_that_was_charged_in_time_is_confirmed_however_late() {
        let hours_later = Timestamp { seconds: DEADLINE.seconds + 5 * 3_600, nanos: 0 };
        let given = |way: &[Event]| given(way).at(hours_later);
        let mut way = vec![started(1_000), reserved(1), charged(2)];
        given(&way).when(ExpireFulfilmentRequest::default()).then_nothing();
        let confirmed: Event = OrderConfirmed { answer: accepted(3) }.into();
        given(&way).when(answer(accepted(3))).then([confirmed.clone()]);
        way.push(confirmed);
        let completed = FulfilmentCompleted { answer: accepted(4) };
        given(&way).when(answer(accepted(4))).then([completed.into()]);
    }

    #[test]
    fn nobody_lets_a_deadline_pass_before_its_time() {
        let order_id = context().aggregate_id;
        given(&[started(1_000)])
            .at(Timestamp { seconds: DEADLINE.seconds - 1, nanos: 999_999_999 })
            .when(ExpireFulfilmentRequest::default())
            .then_rejected(FulfilmentRejection::DeadlineNotPassed { order_id });
    }

    #[test]
    fn a_deadline_is_too_late_once_the_order_is_being_confirmed() {
        let confirming = [started(1_000), reserved(1), charged(2)];
        given(&confirming).when(ExpireFulfilmentRequest::default()).then_nothing();
        let (order_id, status) = (context().aggregate_id, "CONFIRMING");
        given(&confirming)
            .when(CancelFulfilmentRequest::default())
            .then_rejected(FulfilmentRejection::TooLateToCancel { order_id, status });
        let timer = |events: &[Event]| Fulfilment::timer("spec", &fold::<Fulfilment>(events));
        assert_eq!(timer(&confirming[..2]).map(|(due, _)| due), Some(DEADLINE));
        assert_eq!(timer(&confirming), None);
    }

    #[test]
    fn an_answer_that_is_not_awaited_changes_nothing() {
        let another = accepted(2).map(|answer| StepAnswer { index: 1, ..answer });
        for wrong in [accepted(1), refused(3), another, None] {
            given(&[started(1_000), reserved(1)]).when(answer(wrong)).then_nothing();
        }
    }

    #[test]
    fn only_an_order_that_was_submitted_is_fulfilled_and_only_once() {
        let start = || StartFulfilmentRequest { order_id: "spec".to_owned(), ..Default::default() };
        let order_id = context().aggregate_id;
        given(&[]).when(start()).then_rejected(FulfilmentRejection::OrderNotSubmitted { order_id });
        let order_id = context().aggregate_id;
        given(&[started(1_000)])
            .when(start())
            .then_rejected(FulfilmentRejection::FulfilmentAlreadyStarted { order_id });
        let order_id = context().aggregate_id;
        given(&[])
            .when(answer(accepted(1)))
            .then_rejected(FulfilmentRejection::FulfilmentNotFound { order_id });
    }

    // ---- The steps, as others take them -------------------------------------------------------

    /// How far a fulfilment of two balls for 10.00 has come.
    #[derive(Clone, Copy, PartialEq)]
    enum At {
        NotBegun,
        Reserving,
        Charging,
        Confirming,
        Settling,
        Completed,
        Refunding,
        Releasing,
        Undone,
    }

    const EVERYWHERE: [At; 9] = [
        At::NotBegun,
        At::Reserving,
        At::Charging,
        At::Confirming,
        At::Settling,
        At::Completed,
        At::Refunding,
        At::Releasing,
        At::Undone,
    ];

    fn way(at: At) -> Vec<Event> {
        let forward = [
            started(1_000),
            reserved(1),
            charged(2),
            OrderConfirmed { answer: accepted(3) }.into(),
            FulfilmentCompleted { answer: accepted(4) }.into(),
        ];
        let back = [
            FulfilmentRefused { answer: refused(3) }.into(),
            ChargeRefunded { answer: accepted(4) }.into(),
            ItemReleased { answer: accepted(5) }.into(),
            FulfilmentUndone { answer: accepted(6) }.into(),
        ];
        let (there, again) = match at {
            At::NotBegun => (0, 0),
            At::Reserving => (1, 0),
            At::Charging => (2, 0),
            At::Confirming => (3, 0),
            At::Settling => (4, 0),
            At::Completed => (5, 0),
            At::Refunding => (3, 1),
            At::Releasing => (3, 2),
            At::Undone => (3, 4),
        };
        forward[..there].iter().chain(&back[..again]).cloned().collect()
    }

    /// The request id of the step that the fulfilment waits for.
    fn step(at: At) -> String {
        daybook_kernel::step_id("orders.fulfilment-o", way(at).len() as u64, 0)
    }

    /// A specification about another aggregate, which reads the fulfilment of order `o`.
    fn beside<A: Aggregate>(events: impl IntoIterator<Item = A::Event>, at: At) -> Spec<A> {
        let mut spec = Spec::<A>::given(events).requested_as(step(at));
        if at != At::NotBegun {
            spec = spec.reading::<Fulfilment>("o", way(at));
        }
        spec
    }

    fn order_id() -> String {
        "o".to_owned()
    }

    mod account {
        use daybook_contract::bank::v1::account::Event as AccountEvent;
        use daybook_contract::bank::v1::{
            AccountClosed, AccountOpened, CloseAccountRequest, DepositRequest, PaymentRefunded,
            PaymentSent, PaymentSettled, RefundPaymentRequest, SendPaymentRequest,
            SettlePaymentRequest,
        };

        use super::*;
        use crate::account::{Account, AccountRejection, LIMIT_MINOR};

        fn account() -> String {
            "account".to_owned()
        }

        fn opened(minor: i64) -> AccountEvent {
            AccountOpened { initial_balance: usd(minor), ..Default::default() }.into()
        }

        fn sent() -> AccountEvent {
            let description = "order o".to_owned();
            PaymentSent { order_id: order_id(), amount: usd(1_000), description }.into()
        }

        fn given(events: &[AccountEvent], at: At) -> Spec<Account> {
            let cx = Context { aggregate_id: account(), command_id: step(at), ..context() };
            beside::<Account>(events.to_vec(), at).within(cx)
        }

        fn not_at_this_step() -> AccountRejection {
            AccountRejection::PaymentNotInFlight { order_id: order_id() }
        }

        #[test]
        fn money_leaves_for_an_order_when_its_fulfilment_takes_it_and_at_no_other_time() {
            let send = || SendPaymentRequest {
                account_id: account(),
                order_id: order_id(),
                amount: usd(1_000),
                description: "order o".to_owned(),
                context: None,
            };
            for at in EVERYWHERE {
                let when = given(&[opened(1_000)], at).when(send());
                match at {
                    At::Charging => when.then([sent()]),
                    _ => when.then_rejected(not_at_this_step()),
                }
            }
            let balance = Money::new(999, Currency::USD);
            let requested = Money::new(1_000, Currency::USD);
            given(&[opened(999)], At::Charging)
                .when(send())
                .then_rejected(AccountRejection::InsufficientFunds { balance, requested });
            // Another amount, or another request id.
            given(&[opened(1_000)], At::Charging)
                .when(SendPaymentRequest { amount: usd(1), ..send() })
                .then_rejected(not_at_this_step());
            given(&[opened(1_000)], At::Charging)
                .requested_as(step(At::Confirming))
                .when(send())
                .then_rejected(not_at_this_step());
        }

        #[test]
        fn money_in_flight_for_an_order_is_settled_or_refunded_by_its_fulfilment_alone() {
            let settle = || SettlePaymentRequest {
                account_id: account(),
                order_id: order_id(),
                context: None,
            };
            let refund = || RefundPaymentRequest {
                account_id: account(),
                order_id: order_id(),
                reason: "NO".to_owned(),
                context: None,
            };
            let amount = usd(1_000);
            let settled: AccountEvent =
                PaymentSettled { order_id: order_id(), amount: amount.clone() }.into();
            let reason = "NO".to_owned();
            let refunded: AccountEvent =
                PaymentRefunded { order_id: order_id(), amount, reason }.into();
            let in_flight = [opened(1_000), sent()];
            for at in EVERYWHERE {
                let when = given(&in_flight, at).when(settle());
                match at {
                    At::Settling => when.then([settled.clone()]),
                    _ => when.then_rejected(not_at_this_step()),
                }
                let when = given(&in_flight, at).when(refund());
                match at {
                    At::Refunding => when.then([refunded.clone()]),
                    _ => when.then_rejected(not_at_this_step()),
                }
            }
            for landed in [settled, refunded] {
                let after = [opened(1_000), sent(), landed];
                given(&after, At::Settling).when(settle()).then_rejected(not_at_this_step());
                given(&after, At::Refunding).when(refund()).then_rejected(not_at_this_step());
            }
        }

        #[test]
        fn an_account_keeps_open_and_keeps_room_for_what_may_come_back() {
            let limit = Money::new(LIMIT_MINOR, Currency::USD);
            Spec::<Account>::given([opened(LIMIT_MINOR), sent()])
                .when(DepositRequest { amount: usd(1), ..Default::default() })
                .then_rejected(AccountRejection::AmountTooLarge { limit });
            Spec::<Account>::given([opened(1_000), sent()])
                .when(CloseAccountRequest::default())
                .then_rejected(AccountRejection::PaymentInFlight { order_id: order_id() });
            let settled = PaymentSettled { order_id: order_id(), amount: usd(1_000) };
            let closed = AccountClosed { reason: String::new(), closed_time: Some(NOW) };
            Spec::<Account>::given([opened(1_000), sent(), settled.into()])
                .when(CloseAccountRequest::default())
                .then([closed.into()]);
        }
    }

    mod order {
        use daybook_contract::orders::v1::order::Event as OrderEvent;
        use daybook_contract::orders::v1::{OrderPaid, OrderSubmitted};

        use super::*;
        use crate::order::{Order, OrderRejection};

        #[test]
        fn an_order_in_fulfilment_is_paid_by_it_alone() {
            let submitted: OrderEvent = OrderSubmitted::default().into();
            let pay = PayOrderRequest {
                order_id: order_id(),
                payment_id: "charge".to_owned(),
                context: None,
            };
            let paid: OrderEvent =
                OrderPaid { amount: None, payment_id: "charge".to_owned(), paid_time: Some(NOW) }
                    .into();
            for at in EVERYWHERE {
                let cx = Context { aggregate_id: order_id(), command_id: step(at), ..context() };
                let spec = beside::<Order>([submitted.clone()], at).within(cx);
                let rejection = OrderRejection::OrderInFulfilment { order_id: order_id() };
                match at {
                    At::NotBegun | At::Confirming => spec.when(pay.clone()).then([paid.clone()]),
                    _ => spec.when(pay.clone()).then_rejected(rejection.clone()),
                }
                if at != At::NotBegun {
                    let by_hand = beside::<Order>([submitted.clone()], at)
                        .within(Context { aggregate_id: order_id(), ..context() });
                    by_hand.when(pay.clone()).then_rejected(rejection);
                }
            }
        }
    }

    mod stock {
        use daybook_contract::inventory::v1::stock::Event as StockEvent;
        use daybook_contract::inventory::v1::{
            ReservationReleased, ReservationShipped, ShipReservationRequest, StockReceived,
            StockReserved,
        };

        use super::*;
        use crate::stock::{Stock, StockRejection};

        fn given(events: &[StockEvent], at: At, by_hand: bool) -> Spec<Stock> {
            let received =
                StockReceived { quantity: 2, reference: String::new(), received_time: Some(NOW) };
            let events: Vec<_> =
                std::iter::once(received.into()).chain(events.iter().cloned()).collect();
            let command_id = if by_hand { context().command_id } else { step(at) };
            let cx = Context { aggregate_id: "ball".to_owned(), command_id, ..context() };
            beside::<Stock>(events, at).within(cx)
        }

        #[test]
        fn the_pieces_of_an_order_in_fulfilment_are_moved_by_it_alone() {
            use At::*;
            let line = || "1".to_owned();
            let item = || OrderItem {
                line_id: line(),
                product_id: "ball".to_owned(),
                quantity: 2,
                unit_price: None,
            };
            let reserve = || super::super::reserve("o", item());
            let release = || super::super::release("o", item(), "NO".to_owned());
            let ship = || ShipReservationRequest {
                product_id: "ball".to_owned(),
                order_id: order_id(),
                line_id: line(),
                context: None,
            };
            let reserved: StockEvent =
                StockReserved { order_id: order_id(), line_id: line(), quantity: 2 }.into();
            let released: StockEvent = ReservationReleased {
                order_id: order_id(),
                line_id: line(),
                quantity: 2,
                reason: "NO".to_owned(),
            }
            .into();
            let shipped: StockEvent =
                ReservationShipped { order_id: order_id(), line_id: line(), quantity: 2 }.into();
            let held = [reserved.clone()];
            let kept = || StockRejection::OrderInFulfilment { order_id: order_id() };
            for at in EVERYWHERE {
                for by_hand in [false, true] {
                    let is_free = matches!(at, NotBegun | Undone);
                    let when = given(&[], at, by_hand).when(reserve());
                    match is_free || (at == Reserving && !by_hand) {
                        true => when.then([reserved.clone()]),
                        false => when.then_rejected(kept()),
                    }
                    let when = given(&held, at, by_hand).when(release());
                    match is_free || (at == Releasing && !by_hand) {
                        true => when.then([released.clone()]),
                        false => when.then_rejected(kept()),
                    }
                    let when = given(&held, at, by_hand).when(ship());
                    match is_free {
                        true => when.then([shipped.clone()]),
                        false => when.then_rejected(kept()),
                    }
                }
            }
        }
    }
}
