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
    CancelTransferRequest, ReceiveTransferRequest, RecordTransferStepRequest,
    RefundTransferRequest, SendTransferRequest, SettleTransferRequest, TransferBounced,
    TransferCancelled, TransferCompleted, TransferDelivered, TransferFailed, TransferFunded,
    TransferRejection as Reason, TransferRequest, TransferReturned, TransferStarted, TransferState,
    TransferStatus, account,
};
use daybook_contract::daybook::v1::step_answer::Outcome;
use daybook_contract::daybook::v1::{Money as WireMoney, SagaStatus, StepAnswer, StepRefusal};
use daybook_kernel::{Aggregate, Context, Money, Rejection, RejectionKind, Saga, Step};

use crate::account::LIMIT_MINOR;

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
    /// The money was sent on, or the transfer has ended.
    #[error("transfer {transfer_id} is {status}: it cannot be cancelled any more")]
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
        self.in_contract().as_str_name().trim_start_matches("TRANSFER_REJECTION_")
    }

    fn kind(&self) -> RejectionKind {
        match self {
            Self::TransferNotFound { .. } => RejectionKind::NotFound,
            Self::TransferAlreadyStarted { .. } => RejectionKind::AlreadyExists,
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
            Command::Transfer(request) => start(state, request, cx),
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
    if answer.as_ref().is_none_or(|answer| answer.version != state.awaited_version) {
        return Ok(vec![]);
    }
    let accepted = match answer.as_ref().and_then(|answer| answer.outcome.as_ref()) {
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
    fn react(id: &str, state: &TransferState, _event: &Event) -> Vec<Step> {
        if state.awaited_version != state.version {
            return Vec::new();
        }
        let command = match state.status() {
            TransferStatus::Started => send(id, state),
            TransferStatus::InFlight => deliver(id, state),
            TransferStatus::Delivered => settle(id, state),
            TransferStatus::Returning => refund(id, state),
            TransferStatus::Unspecified
            | TransferStatus::Completed
            | TransferStatus::Returned
            | TransferStatus::Failed => return Vec::new(),
        };
        vec![Step::send(command)]
    }

    fn record(id: &str, answer: StepAnswer) -> Command {
        Command::RecordTransferStep(RecordTransferStepRequest {
            context: None,
            transfer_id: id.to_owned(),
            answer: Some(answer),
        })
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

    fn compensate(id: &str, reason: &str) -> Command {
        Command::CancelTransfer(CancelTransferRequest {
            context: None,
            transfer_id: id.to_owned(),
            reason: reason.to_owned(),
        })
    }
}

fn send(id: &str, state: &TransferState) -> account::Command {
    account::Command::SendTransfer(SendTransferRequest {
        context: None,
        account_id: state.from_account_id.clone(),
        transfer_id: id.to_owned(),
        to_account_id: state.to_account_id.clone(),
        amount: state.amount.clone(),
        description: state.description.clone(),
    })
}

fn deliver(id: &str, state: &TransferState) -> account::Command {
    account::Command::ReceiveTransfer(ReceiveTransferRequest {
        context: None,
        account_id: state.to_account_id.clone(),
        transfer_id: id.to_owned(),
        from_account_id: state.from_account_id.clone(),
        amount: state.amount.clone(),
        description: state.description.clone(),
    })
}

fn settle(id: &str, state: &TransferState) -> account::Command {
    account::Command::SettleTransfer(SettleTransferRequest {
        context: None,
        account_id: state.from_account_id.clone(),
        transfer_id: id.to_owned(),
    })
}

fn refund(id: &str, state: &TransferState) -> account::Command {
    account::Command::RefundTransfer(RefundTransferRequest {
        context: None,
        account_id: state.from_account_id.clone(),
        transfer_id: id.to_owned(),
        reason: state.refusal.as_ref().map(|refusal| refusal.reason.clone()).unwrap_or_default(),
    })
}

/// No event has an older version yet.
impl Upcast for Transfer {}
