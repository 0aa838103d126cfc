//! The transfer: a saga that moves money from one account to another.
//!
//! The money leaves the sender's account, then it arrives on the recipient's, then the sender's is
//! told. When the recipient's account refuses it, it goes back. From the moment it has left until
//! it has arrived or is back, it is in flight: the sender's account remembers it, and nobody has
//! it twice.
//!
//! ```text
//! started ─┬─▶ in flight ─┬─▶ delivered ─▶ completed
//!          │              └─▶ returning ─▶ returned
//!          └─▶ failed
//! ```

use daybook_contract::bank::v1::transfer::{Command, Event, Upcast};
use daybook_contract::bank::v1::{
    AccountState, CancelTransferRequest, ReceiveTransferRequest, RecordTransferStepRequest,
    RefundTransferRequest, SendTransferRequest, SettleTransferRequest, TransferBounced,
    TransferCancelled, TransferCompleted, TransferDelivered, TransferFailed, TransferFunded,
    TransferRejection as Reason, TransferRequest, TransferReturned, TransferStarted, TransferState,
    TransferStatus, account::Command as ToAccount,
};
use daybook_contract::daybook::v1::step_answer::Outcome;
use daybook_contract::daybook::v1::{Money as WireMoney, SagaStatus, StepAnswer, StepRefusal};
use daybook_kernel::{
    Aggregate, Awaited, Context, Money, Rejection, RejectionKind, Saga, Step, in_words,
};

use crate::account::{self, AccountRejection, LIMIT_MINOR};

/// The saga `bank.transfer`.
#[derive(Debug)]
pub struct Transfer;

/// The reason of the refusal that a cancelled transfer shows.
const CANCELLED: &str = "CANCELLED";

// ---- Rejections, in order of precedence -------------------------------------------------------

/// The rules that a transfer keeps. When several do not hold, the first is given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferRejection {
    /// There is no such transfer.
    #[error("there is no transfer {transfer_id}")]
    TransferNotFound {
        /// The id that was asked for.
        transfer_id: String,
    },
    /// There is a transfer with this id already.
    #[error("there is a transfer {transfer_id} already")]
    TransferAlreadyStarted {
        /// The id that is taken.
        transfer_id: String,
    },
    /// The money would go to the account that it comes from.
    #[error("the money would go from account {account_id} to itself")]
    SameAccount {
        /// The account.
        account_id: String,
    },
    /// The amount is zero or negative.
    #[error("the amount {amount} is not positive")]
    AmountNotPositive {
        /// The amount.
        amount: String,
    },
    /// The amount is above the limit.
    #[error("the amount is above the limit of {LIMIT_MINOR} smallest units")]
    AmountTooLarge,
    /// The sender's account would not pay it.
    #[error("{0}")]
    Sender(AccountRejection),
    /// The money was sent on, or the transfer has ended.
    #[error("transfer {transfer_id} is {}: it cannot be cancelled any more", in_words(.status))]
    TooLateToCancel {
        /// The transfer.
        transfer_id: String,
        /// Where it stands.
        status: &'static str,
    },
}

impl TransferRejection {
    /// The same rule in the contract.
    fn in_contract(&self) -> Reason {
        match self {
            Self::Sender(_) => Reason::Unspecified,
            Self::TransferNotFound { .. } => Reason::TransferNotFound,
            Self::TransferAlreadyStarted { .. } => Reason::TransferAlreadyStarted,
            Self::SameAccount { .. } => Reason::SameAccount,
            Self::AmountNotPositive { .. } => Reason::AmountNotPositive,
            Self::AmountTooLarge => Reason::AmountTooLarge,
            Self::TooLateToCancel { .. } => Reason::TooLateToCancel,
        }
    }
}

impl Rejection for TransferRejection {
    fn reason(&self) -> &'static str {
        match self {
            Self::Sender(rejection) => rejection.reason(),
            _ => self.in_contract().as_str_name().trim_start_matches("TRANSFER_REJECTION_"),
        }
    }

    fn kind(&self) -> RejectionKind {
        match self {
            Self::TransferNotFound { .. } => RejectionKind::NotFound,
            Self::TransferAlreadyStarted { .. } => RejectionKind::AlreadyExists,
            Self::Sender(rejection) => rejection.kind(),
            _ => RejectionKind::FailedPrecondition,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::TransferNotFound { transfer_id }
            | Self::TransferAlreadyStarted { transfer_id } => {
                vec![("transfer_id", transfer_id.clone())]
            }
            Self::SameAccount { account_id } => vec![("account_id", account_id.clone())],
            Self::AmountNotPositive { amount } => vec![("amount", amount.clone())],
            Self::Sender(rejection) => rejection.metadata(),
            Self::AmountTooLarge => vec![("limit_minor", LIMIT_MINOR.to_string())],
            Self::TooLateToCancel { transfer_id, status } => {
                vec![("transfer_id", transfer_id.clone()), ("status", (*status).to_owned())]
            }
        }
    }
}

// ---- Decide -----------------------------------------------------------------------------------

impl Aggregate for Transfer {
    type Command = Command;
    type Event = Event;
    type State = TransferState;
    type Rejection = TransferRejection;

    fn decide(
        state: &TransferState,
        command: &Command,
        cx: &Context,
    ) -> Result<Vec<Event>, TransferRejection> {
        match command {
            Command::Transfer(request, reads) => start(state, request, &reads.from_account, cx),
            Command::CancelTransfer(request) => cancel(state, request, cx),
            Command::RecordTransferStep(request) => record(state, request, cx),
        }
    }

    fn evolve(state: &mut TransferState, event: &Event) {
        state.version += 1;
        if !matches!(event, Event::TransferCancelled(_)) {
            let waits = matches!(
                event,
                Event::TransferStarted(_)
                    | Event::TransferFunded(_)
                    | Event::TransferDelivered(_)
                    | Event::TransferBounced(_)
            );
            state.awaited_version = if waits { state.version } else { 0 };
        }
        let mut refused = |answer: &Option<StepAnswer>| {
            if let Some(Outcome::Refusal(refusal)) =
                answer.as_ref().and_then(|a| a.outcome.as_ref())
            {
                state.refusal = Some(refusal.clone());
            }
        };
        match event {
            Event::TransferStarted(event) => {
                state.set_status(TransferStatus::Started);
                state.from_account_id.clone_from(&event.from_account_id);
                state.to_account_id.clone_from(&event.to_account_id);
                state.amount.clone_from(&event.amount);
                state.description.clone_from(&event.description);
                state.started_time = event.started_time;
            }
            Event::TransferFunded(_) => {
                let cancelled = state.cancelled;
                state.set_status(match cancelled {
                    true => TransferStatus::Returning,
                    false => TransferStatus::InFlight,
                });
            }
            Event::TransferFailed(event) => {
                refused(&event.answer);
                state.set_status(TransferStatus::Failed);
            }
            Event::TransferDelivered(_) => state.set_status(TransferStatus::Delivered),
            Event::TransferBounced(event) => {
                refused(&event.answer);
                state.set_status(TransferStatus::Returning);
            }
            Event::TransferCompleted(_) => state.set_status(TransferStatus::Completed),
            Event::TransferReturned(_) => state.set_status(TransferStatus::Returned),
            Event::TransferCancelled(event) => {
                state.cancelled = true;
                state.refusal = Some(StepRefusal {
                    reason: CANCELLED.to_owned(),
                    message: event.reason.clone(),
                    ..Default::default()
                });
            }
        }
    }
}

fn start(
    state: &TransferState,
    request: &TransferRequest,
    sender: &AccountState,
    cx: &Context,
) -> Result<Vec<Event>, TransferRejection> {
    if state.status() != TransferStatus::Unspecified {
        let transfer_id = cx.aggregate_id.clone();
        return Err(TransferRejection::TransferAlreadyStarted { transfer_id });
    }
    if request.from_account_id == request.to_account_id {
        let account_id = request.from_account_id.clone();
        return Err(TransferRejection::SameAccount { account_id });
    }
    let amount = positive(request.amount.as_ref())?;
    // The balance may be another one when the money is to leave; then the transfer fails.
    account::can_pay(sender, request.amount.as_ref(), &request.from_account_id)
        .map_err(TransferRejection::Sender)?;
    Ok(vec![Event::TransferStarted(TransferStarted {
        from_account_id: request.from_account_id.clone(),
        to_account_id: request.to_account_id.clone(),
        amount: Some(amount.into()),
        description: request.description.clone(),
        started_time: Some(cx.now),
    })])
}

fn cancel(
    state: &TransferState,
    request: &CancelTransferRequest,
    cx: &Context,
) -> Result<Vec<Event>, TransferRejection> {
    match state.status() {
        TransferStatus::Unspecified => Err(not_found(cx)),
        _ if state.cancelled => Ok(vec![]),
        TransferStatus::Started => {
            let reason = request.reason.clone();
            Ok(vec![Event::TransferCancelled(TransferCancelled { reason })])
        }
        status => Err(TransferRejection::TooLateToCancel {
            transfer_id: cx.aggregate_id.clone(),
            status: status.as_str_name().trim_start_matches("TRANSFER_STATUS_"),
        }),
    }
}

/// Records the answer that the transfer waits for; an answer that it does not wait for (any more)
/// changes nothing.
fn record(
    state: &TransferState,
    request: &RecordTransferStepRequest,
    cx: &Context,
) -> Result<Vec<Event>, TransferRejection> {
    let answer = request.answer.clone();
    if state.status() == TransferStatus::Unspecified {
        return Err(not_found(cx));
    }
    let awaited = Transfer::awaited(&cx.aggregate_id, state);
    let is_awaited = |answer: &&StepAnswer| awaited.is_some_and(|it| it.is_answered_by(answer));
    let accepted = match answer.as_ref().filter(is_awaited).and_then(|it| it.outcome.as_ref()) {
        Some(Outcome::Receipt(_)) => true,
        Some(Outcome::Refusal(_)) => false,
        None => return Ok(vec![]),
    };
    Ok(vec![match (state.status(), accepted) {
        (TransferStatus::Started, true) => Event::TransferFunded(TransferFunded { answer }),
        (TransferStatus::Started, false) => Event::TransferFailed(TransferFailed { answer }),
        (TransferStatus::InFlight, true) => Event::TransferDelivered(TransferDelivered { answer }),
        (TransferStatus::InFlight, false) => Event::TransferBounced(TransferBounced { answer }),
        // Whatever the sender's account says now, the recipient's has the money.
        (TransferStatus::Delivered, _) => Event::TransferCompleted(TransferCompleted { answer }),
        (TransferStatus::Returning, true) => Event::TransferReturned(TransferReturned { answer }),
        // An account keeps the room for what may come back and cannot close meanwhile, so this is
        // a fault. The money stays in flight on the sender's account, where it can be seen.
        (TransferStatus::Returning, false) => Event::TransferFailed(TransferFailed { answer }),
        // Nothing is awaited.
        (
            TransferStatus::Unspecified
            | TransferStatus::Completed
            | TransferStatus::Returned
            | TransferStatus::Failed,
            _,
        ) => return Ok(vec![]),
    }])
}

fn not_found(cx: &Context) -> TransferRejection {
    TransferRejection::TransferNotFound { transfer_id: cx.aggregate_id.clone() }
}

/// An amount to move: more than zero, within the limit. Its currency is for the accounts to judge.
fn positive(amount: Option<&WireMoney>) -> Result<Money, TransferRejection> {
    // A missing amount is refused before it comes here.
    let wire = amount.cloned().unwrap_or_default();
    let money = Money::try_from(&wire);
    if wire.units < 0 || wire.nanos < 0 || money.as_ref().is_ok_and(|money| money.is_zero()) {
        let whole = || format!("{} {}", wire.units, wire.currency_code);
        let amount = money.map_or_else(|_| whole(), |money| money.to_string());
        return Err(TransferRejection::AmountNotPositive { amount });
    }
    money.ok().filter(|money| money.minor() <= LIMIT_MINOR).ok_or(TransferRejection::AmountTooLarge)
}

// ---- The saga ---------------------------------------------------------------------------------

impl Saga for Transfer {
    fn awaited(id: &str, state: &TransferState) -> Option<Awaited> {
        let command = match state.status() {
            TransferStatus::Started => send(id, state),
            TransferStatus::InFlight => deliver(id, state),
            TransferStatus::Delivered => settle(id, state),
            TransferStatus::Returning => refund(id, state),
            TransferStatus::Unspecified
            | TransferStatus::Completed
            | TransferStatus::Returned
            | TransferStatus::Failed => return None,
        };
        Some(Awaited { version: state.awaited_version, step: Step::send(command) })
    }

    fn record(id: &str, answer: StepAnswer) -> Command {
        Command::RecordTransferStep(RecordTransferStepRequest {
            context: None,
            transfer_id: id.to_owned(),
            answer: Some(answer),
        })
    }

    fn recorded(command: &mut Command) -> Option<&mut StepAnswer> {
        match command {
            Command::RecordTransferStep(request) => request.answer.as_mut(),
            Command::Transfer(..) | Command::CancelTransfer(_) => None,
        }
    }

    fn answered(event: &Event) -> Option<&StepAnswer> {
        match event {
            Event::TransferStarted(_) | Event::TransferCancelled(_) => None,
            Event::TransferFunded(event) => event.answer.as_ref(),
            Event::TransferFailed(event) => event.answer.as_ref(),
            Event::TransferDelivered(event) => event.answer.as_ref(),
            Event::TransferBounced(event) => event.answer.as_ref(),
            Event::TransferCompleted(event) => event.answer.as_ref(),
            Event::TransferReturned(event) => event.answer.as_ref(),
        }
    }

    fn status(state: &TransferState) -> SagaStatus {
        match state.status() {
            TransferStatus::Unspecified => SagaStatus::Unspecified,
            TransferStatus::Started if state.cancelled => SagaStatus::Compensating,
            TransferStatus::Started | TransferStatus::InFlight | TransferStatus::Delivered => {
                SagaStatus::Running
            }
            TransferStatus::Completed => SagaStatus::Completed,
            TransferStatus::Returning => SagaStatus::Compensating,
            TransferStatus::Returned => SagaStatus::Compensated,
            TransferStatus::Failed => SagaStatus::Failed,
        }
    }

    fn refusal(state: &TransferState) -> Option<&StepRefusal> {
        state.refusal.as_ref()
    }

    fn compensate(id: &str, reason: &str) -> Option<Command> {
        Some(Command::CancelTransfer(CancelTransferRequest {
            context: None,
            transfer_id: id.to_owned(),
            reason: reason.to_owned(),
        }))
    }
}

fn send(id: &str, state: &TransferState) -> ToAccount {
    SendTransferRequest {
        context: None,
        account_id: state.from_account_id.clone(),
        transfer_id: id.to_owned(),
        to_account_id: state.to_account_id.clone(),
        amount: state.amount.clone(),
        description: state.description.clone(),
    }
    .into()
}

fn deliver(id: &str, state: &TransferState) -> ToAccount {
    ReceiveTransferRequest {
        context: None,
        account_id: state.to_account_id.clone(),
        transfer_id: id.to_owned(),
        from_account_id: state.from_account_id.clone(),
        amount: state.amount.clone(),
        description: state.description.clone(),
    }
    .into()
}

fn settle(id: &str, state: &TransferState) -> ToAccount {
    SettleTransferRequest {
        context: None,
        account_id: state.from_account_id.clone(),
        transfer_id: id.to_owned(),
    }
    .into()
}

fn refund(id: &str, state: &TransferState) -> ToAccount {
    RefundTransferRequest {
        context: None,
        account_id: state.from_account_id.clone(),
        transfer_id: id.to_owned(),
        reason: state.refusal.as_ref().map(|refusal| refusal.reason.clone()).unwrap_or_default(),
    }
    .into()
}

/// No event has an older version yet.
impl Upcast for Transfer {}

// ---- Specifications ---------------------------------------------------------------------------

#[cfg(test)]
mod specs {
    use daybook_contract::bank::v1::account::Event as AccountEvent;
    use daybook_contract::bank::v1::{
        AccountClosed, AccountOpened, CloseAccountRequest, DepositRequest, TransferReceived,
        TransferRefunded, TransferSent, TransferSettled,
    };
    use daybook_contract::daybook::v1::CommandReceipt;
    use daybook_kernel::Currency;
    use daybook_kernel::spec::{NOW, Spec, context, fold};

    use super::*;
    use crate::account::Account;

    fn usd(minor: i64) -> WireMoney {
        Money::new(minor, Currency::USD).into()
    }

    fn transfer(minor: i64) -> TransferRequest {
        TransferRequest {
            transfer_id: "spec".to_owned(),
            from_account_id: "ada".to_owned(),
            to_account_id: "bob".to_owned(),
            amount: Some(usd(minor)),
            ..Default::default()
        }
    }

    fn opened(minor: i64) -> AccountEvent {
        AccountOpened { initial_balance: Some(usd(minor)), ..Default::default() }.into()
    }

    fn started() -> Event {
        TransferStarted {
            from_account_id: "ada".to_owned(),
            to_account_id: "bob".to_owned(),
            amount: Some(usd(10)),
            description: String::new(),
            started_time: Some(NOW),
        }
        .into()
    }

    fn accepted(version: u64) -> Option<StepAnswer> {
        let outcome = Some(Outcome::Receipt(CommandReceipt::default()));
        Some(StepAnswer { version, index: 0, outcome })
    }

    fn refused(version: u64) -> Option<StepAnswer> {
        let refusal = StepRefusal { reason: "ACCOUNT_CLOSED".to_owned(), ..Default::default() };
        Some(StepAnswer { version, index: 0, outcome: Some(Outcome::Refusal(refusal)) })
    }

    fn answer(answer: Option<StepAnswer>) -> RecordTransferStepRequest {
        RecordTransferStepRequest { answer, ..Default::default() }
    }

    fn funded() -> Event {
        TransferFunded { answer: accepted(1) }.into()
    }

    fn cancelled() -> Event {
        TransferCancelled { reason: String::new() }.into()
    }

    /// The command that a transfer with this history wants sent after its last event.
    fn wanted(history: &[Event]) -> Vec<&'static str> {
        let state = fold::<Transfer>(history);
        let awaited = Transfer::awaited("spec", &state).filter(|it| it.version == state.version);
        awaited.into_iter().map(|awaited| awaited.step.type_name).collect()
    }

    #[test]
    fn a_transfer_starts_when_the_sender_can_pay() {
        let rich = || Spec::<Transfer>::given([]).reading::<Account>("ada", [opened(10)]);
        rich().when(transfer(10)).then([started()]);
        let (balance, requested) = (Money::new(10, Currency::USD), Money::new(11, Currency::USD));
        let rejection = AccountRejection::InsufficientFunds { balance, requested };
        rich().when(transfer(11)).then_rejected(TransferRejection::Sender(rejection));
        let account_id = "ada".to_owned();
        let rejection = AccountRejection::AccountNotFound { account_id };
        Spec::<Transfer>::given([])
            .when(transfer(1))
            .then_rejected(TransferRejection::Sender(rejection));
    }

    #[test]
    fn the_rules_of_a_start_are_kept_in_their_order() {
        let transfer_id = context().aggregate_id;
        Spec::<Transfer>::given([started()])
            .when(transfer(0))
            .then_rejected(TransferRejection::TransferAlreadyStarted { transfer_id });
        let to_itself = TransferRequest { to_account_id: "ada".to_owned(), ..transfer(0) };
        let account_id = "ada".to_owned();
        Spec::<Transfer>::given([])
            .when(to_itself)
            .then_rejected(TransferRejection::SameAccount { account_id });
        for (minor, amount) in [(0, "0.00 USD"), (-1, "-0.01 USD")] {
            let amount = amount.to_owned();
            Spec::<Transfer>::given([])
                .when(transfer(minor))
                .then_rejected(TransferRejection::AmountNotPositive { amount });
        }
        Spec::<Transfer>::given([])
            .when(transfer(LIMIT_MINOR + 1))
            .then_rejected(TransferRejection::AmountTooLarge);
    }

    #[test]
    fn a_transfer_takes_one_step_after_the_other() {
        let given = |events: &[Event]| Spec::<Transfer>::given(events.to_vec());
        let delivered: Event = TransferDelivered { answer: accepted(2) }.into();
        given(&[started()]).when(answer(accepted(1))).then([funded()]);
        given(&[started(), funded()]).when(answer(accepted(2))).then([delivered.clone()]);
        given(&[started(), funded(), delivered.clone()])
            .when(answer(accepted(3)))
            .then([TransferCompleted { answer: accepted(3) }.into()]);
        assert_eq!(wanted(&[started()]), ["bank.v1.SendTransferRequest"]);
        assert_eq!(wanted(&[started(), funded()]), ["bank.v1.ReceiveTransferRequest"]);
        let settling = wanted(&[started(), funded(), delivered]);
        assert_eq!(settling, ["bank.v1.SettleTransferRequest"]);
    }

    #[test]
    fn what_the_recipient_refuses_goes_back() {
        let bounced: Event = TransferBounced { answer: refused(2) }.into();
        let given = |events: &[Event]| Spec::<Transfer>::given(events.to_vec());
        given(&[started(), funded()]).when(answer(refused(2))).then([bounced.clone()]);
        assert_eq!(
            wanted(&[started(), funded(), bounced.clone()]),
            ["bank.v1.RefundTransferRequest"]
        );
        given(&[started(), funded(), bounced])
            .when(answer(accepted(3)))
            .then([TransferReturned { answer: accepted(3) }.into()]);
    }

    #[test]
    fn what_the_sender_refuses_has_not_moved() {
        let failed: Event = TransferFailed { answer: refused(1) }.into();
        Spec::<Transfer>::given([started()]).when(answer(refused(1))).then([failed.clone()]);
        assert!(wanted(&[started(), failed]).is_empty());
    }

    #[test]
    fn an_answer_that_is_not_awaited_changes_nothing() {
        let another = accepted(2).map(|answer| StepAnswer { index: 1, ..answer });
        for wrong in [accepted(1), refused(3), another, None] {
            Spec::<Transfer>::given([started(), funded()]).when(answer(wrong)).then_nothing();
        }
    }

    #[test]
    fn a_transfer_is_cancelled_until_its_money_is_sent_on() {
        let cancel = CancelTransferRequest::default;
        Spec::<Transfer>::given([started()]).when(cancel()).then([cancelled()]);
        Spec::<Transfer>::given([started(), cancelled()]).when(cancel()).then_nothing();
        // The answer of the sender's account is still awaited; then the money goes back.
        let answer = answer(accepted(1));
        Spec::<Transfer>::given([started(), cancelled()]).when(answer).then([funded()]);
        let refunding = wanted(&[started(), cancelled(), funded()]);
        assert_eq!(refunding, ["bank.v1.RefundTransferRequest"]);
        assert!(wanted(&[started(), cancelled()]).is_empty());
        let transfer_id = context().aggregate_id;
        let too_late = TransferRejection::TooLateToCancel { transfer_id, status: "IN_FLIGHT" };
        let text = "transfer spec is in flight: it cannot be cancelled any more";
        assert_eq!(too_late.to_string(), text);
        Spec::<Transfer>::given([started(), funded()]).when(cancel()).then_rejected(too_late);
        let transfer_id = context().aggregate_id;
        Spec::<Transfer>::given([])
            .when(cancel())
            .then_rejected(TransferRejection::TransferNotFound { transfer_id });
    }

    // ---- The steps, as accounts take them -----------------------------------------------------

    /// A transfer of the account of the specification, which is the sender.
    fn own(event: Event) -> Event {
        match event {
            Event::TransferStarted(started) => {
                TransferStarted { from_account_id: context().aggregate_id, ..started }.into()
            }
            other => other,
        }
    }

    fn sent() -> AccountEvent {
        TransferSent {
            transfer_id: "t".to_owned(),
            to_account_id: "bob".to_owned(),
            amount: Some(usd(10)),
            description: String::new(),
        }
        .into()
    }

    fn send() -> SendTransferRequest {
        SendTransferRequest {
            account_id: context().aggregate_id,
            transfer_id: "t".to_owned(),
            to_account_id: "bob".to_owned(),
            amount: Some(usd(10)),
            ..Default::default()
        }
    }

    /// The request id of the step after an event of the transfer.
    fn step(version: u64) -> impl ToString {
        daybook_kernel::step_id("bank.transfer-t", version, 0)
    }

    fn not_at_this_step() -> AccountRejection {
        AccountRejection::TransferNotInFlight { transfer_id: "t".to_owned() }
    }

    #[test]
    fn an_account_sends_for_a_transfer_of_its_own_alone() {
        let given = || Spec::<Account>::given([opened(10)]).requested_as(step(1));
        given().reading::<Transfer>("t", [own(started())]).when(send()).then([sent()]);
        given()
            .requested_as(step(2))
            .reading::<Transfer>("t", [own(started())])
            .when(send())
            .then_rejected(not_at_this_step());
        given()
            .reading::<Transfer>("t", [started()])
            .when(send())
            .then_rejected(not_at_this_step());
        given().when(send()).then_rejected(not_at_this_step());
        given()
            .reading::<Transfer>("t", [own(started()), funded()])
            .when(send())
            .then_rejected(not_at_this_step());
    }

    #[test]
    fn an_account_receives_what_is_in_flight_to_it_alone() {
        let request = || ReceiveTransferRequest {
            account_id: context().aggregate_id,
            transfer_id: "t".to_owned(),
            from_account_id: "ada".to_owned(),
            amount: Some(usd(10)),
            ..Default::default()
        };
        let received: AccountEvent = TransferReceived {
            transfer_id: "t".to_owned(),
            from_account_id: "ada".to_owned(),
            amount: Some(usd(10)),
            description: String::new(),
        }
        .into();
        let Event::TransferStarted(to_bob) = started() else { unreachable!() };
        let to_me: Event =
            TransferStarted { to_account_id: context().aggregate_id, ..to_bob }.into();
        let given =
            |events: [AccountEvent; 1]| Spec::<Account>::given(events).requested_as(step(2));
        given([opened(0)])
            .reading::<Transfer>("t", [to_me.clone(), funded()])
            .when(request())
            .then([received]);
        // Under another id it could come again.
        Spec::<Account>::given([opened(0)])
            .reading::<Transfer>("t", [to_me.clone(), funded()])
            .when(request())
            .then_rejected(not_at_this_step());
        given([opened(0)])
            .reading::<Transfer>("t", [started(), funded()])
            .when(request())
            .then_rejected(not_at_this_step());
        given([opened(0)])
            .reading::<Transfer>("t", [to_me])
            .when(request())
            .then_rejected(not_at_this_step());
    }

    #[test]
    fn money_in_flight_is_settled_or_refunded_once() {
        let id = || "t".to_owned();
        let account_id = || context().aggregate_id;
        let settle =
            || SettleTransferRequest { account_id: account_id(), transfer_id: id(), context: None };
        let reason = || "ACCOUNT_CLOSED".to_owned();
        let refund = || RefundTransferRequest {
            account_id: account_id(),
            transfer_id: id(),
            reason: reason(),
            context: None,
        };
        let delivered: Event = TransferDelivered { answer: accepted(2) }.into();
        let bounced: Event = TransferBounced { answer: refused(2) }.into();
        let settled: AccountEvent = TransferSettled { transfer_id: id() }.into();
        let refunded: AccountEvent = TransferRefunded {
            transfer_id: id(),
            to_account_id: "bob".to_owned(),
            amount: Some(usd(10)),
            reason: reason(),
        }
        .into();
        let there = [own(started()), funded(), delivered];
        let back = [own(started()), funded(), bounced];
        let given =
            |events: &[AccountEvent]| Spec::<Account>::given(events.to_vec()).requested_as(step(3));
        let in_flight = [opened(10), sent()];
        given(&in_flight)
            .reading::<Transfer>("t", there.clone())
            .when(settle())
            .then([settled.clone()]);
        given(&in_flight)
            .reading::<Transfer>("t", back.clone())
            .when(refund())
            .then([refunded.clone()]);
        for done in [settled, refunded] {
            let after = [opened(10), sent(), done];
            given(&after)
                .reading::<Transfer>("t", there.clone())
                .when(settle())
                .then_rejected(not_at_this_step());
            given(&after)
                .reading::<Transfer>("t", back.clone())
                .when(refund())
                .then_rejected(not_at_this_step());
        }
        // Neither is for a transfer that goes the other way.
        given(&in_flight)
            .reading::<Transfer>("t", there)
            .when(refund())
            .then_rejected(not_at_this_step());
        given(&in_flight)
            .reading::<Transfer>("t", back)
            .when(settle())
            .then_rejected(not_at_this_step());
    }

    #[test]
    fn an_account_cannot_close_while_its_money_is_in_flight() {
        let transfer_id = "t".to_owned();
        Spec::<Account>::given([opened(10), sent()])
            .when(CloseAccountRequest::default())
            .then_rejected(AccountRejection::TransferInFlight { transfer_id });
        let settled: AccountEvent = TransferSettled { transfer_id: "t".to_owned() }.into();
        let closed: AccountEvent =
            AccountClosed { reason: String::new(), closed_time: Some(NOW) }.into();
        Spec::<Account>::given([opened(10), sent(), settled])
            .when(CloseAccountRequest::default())
            .then([closed]);
    }

    #[test]
    fn room_is_kept_for_what_may_come_back() {
        let deposit = |minor| DepositRequest { amount: Some(usd(minor)), ..Default::default() };
        let limit = Money::new(LIMIT_MINOR, Currency::USD);
        Spec::<Account>::given([opened(LIMIT_MINOR), sent()])
            .when(deposit(1))
            .then_rejected(AccountRejection::AmountTooLarge { limit });
    }
}
