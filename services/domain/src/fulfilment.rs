//! The fulfilment of an order: a saga that keeps the goods, charges the account and confirms the
//! order; or else undoes what it has done, in reverse order, and cancels the order.
//!
//! It takes one step at a time, so what has been done is always the first so many of: reserve each
//! item, charge the account. When a step is refused, the deadline passes or somebody gives it up,
//! it goes back the way it came. A step that is under way is waited for first: it may have had its
//! effect. Once the order is being confirmed there is no way back, unless the order refuses.
//!
//! ```text
//! reserving ─▶ charging ─▶ confirming ─▶ completed
//!     │            │            │
//!     ▼            ▼            ▼
//! cancelling ◀─ releasing ◀─ refunding
//!     └─▶ undone, or failed when something could not be undone
//! ```

use daybook_contract::bank::v1::account::Command as ToAccount;
use daybook_contract::bank::v1::{DepositRequest, MovementMethod, WithdrawRequest};
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
    FulfilmentStatus, FulfilmentUndone, ItemReleased, ItemReserved, OrderItem, OrderState,
    OrderStatus, PayOrderRequest, RecordFulfilmentStepRequest, StartFulfilmentRequest, UndoRefused,
};
use daybook_kernel::{
    Aggregate, Awaited, Context, Foreign, Money, Rejection, RejectionKind, Saga, Step, Timestamp,
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

/// Takes the next step, whose answer is awaited from now on.
fn proceed(state: &mut FulfilmentState) {
    let next = next(state);
    state.set_status(next);
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
    #[error("the fulfilment of order {order_id} is {status}: it is too late to give it up")]
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
            Command::RecordFulfilmentStep(request) => record(&order_id, state, request),
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

/// Starts with what the order says at this moment. An order that is not waiting any more is
/// started as well, and undone at once: that is how it ends.
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
        (Confirming, true) => FulfilmentCompleted { answer }.into(),
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

    fn compensate(id: &str, reason: &str) -> Command {
        let (order_id, reason) = (id.to_owned(), reason.to_owned());
        CancelFulfilmentRequest { context: None, order_id, reason }.into()
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

fn charge(order_id: &str, state: &FulfilmentState) -> WithdrawRequest {
    WithdrawRequest {
        context: None,
        account_id: state.account_id.clone(),
        amount: state.total.clone(),
        description: format!("order {order_id}"),
        method: MovementMethod::Card.into(),
    }
}

fn refund(order_id: &str, state: &FulfilmentState) -> DepositRequest {
    DepositRequest {
        context: None,
        account_id: state.account_id.clone(),
        amount: state.total.clone(),
        description: format!("refund of order {order_id}"),
        method: MovementMethod::Card.into(),
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
            deadline: Some(NOW),
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
        FulfilmentExpired { expired_time: Some(NOW) }.into()
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
        let completed = FulfilmentCompleted { answer: accepted(3) };
        given(&way).when(answer(accepted(3))).then([completed.into()]);
        assert_eq!(wanted(&way[..1]), Some("ReserveStockRequest"));
        assert_eq!(wanted(&way[..2]), Some("WithdrawRequest"));
        assert_eq!(wanted(&way), Some("PayOrderRequest"));
    }

    #[test]
    fn what_costs_nothing_is_not_charged() {
        assert_eq!(wanted(&[started(0), reserved(1)]), Some("PayOrderRequest"));
    }

    #[test]
    fn what_was_done_is_undone_in_reverse_order() {
        let mut way = vec![started(1_000), reserved(1), charged(2)];
        way.push(FulfilmentRefused { answer: refused(3) }.into());
        assert_eq!(wanted(&way), Some("DepositRequest"));
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
        given(&[started(1_000)]).when(expire()).then([expired()]);
        assert_eq!(wanted(&[started(1_000), expired()]), None);
        // The pieces were reserved after all, so they are released.
        given(&[started(1_000), expired()]).when(answer(accepted(1))).then([reserved(1)]);
        let after = wanted(&[started(1_000), expired(), reserved(1)]);
        assert_eq!(after, Some("ReleaseReservationRequest"));
        given(&[started(1_000), expired()]).when(expire()).then_nothing();
    }

    #[test]
    fn nobody_lets_a_deadline_pass_before_its_time() {
        let order_id = context().aggregate_id;
        given(&[started(1_000)])
            .at(Timestamp { seconds: NOW.seconds - 1, nanos: 999_999_999 })
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
        assert_eq!(timer(&confirming[..2]).map(|(due, _)| due), Some(NOW));
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
}
