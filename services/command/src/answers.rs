//! What the log has answered, in the words of the contract.

use daybook_contract::daybook::v1::step_answer::Outcome;
use daybook_contract::daybook::v1::{CommandReceipt, StepRefusal};
use daybook_contract::error::Error;
use daybook_log::{Answer, Receipt};
use tonic::Status;
use uuid::Uuid;

/// The receipt as a caller sees it.
pub(crate) fn to_receipt(receipt: Receipt) -> CommandReceipt {
    CommandReceipt {
        aggregate_id: receipt.aggregate_id,
        version: receipt.version,
        position: receipt.position,
        event_ids: receipt.event_ids.iter().map(Uuid::to_string).collect(),
        replayed: receipt.replayed,
        recorded_time: Some(receipt.recorded_time),
    }
}

/// An answer of the log as a saga records it, the same however often it was given.
pub(crate) fn step_outcome(answer: Answer) -> Outcome {
    match answer.outcome {
        Ok(receipt) => Outcome::Receipt(CommandReceipt { replayed: false, ..to_receipt(receipt) }),
        Err(failure) => {
            let error = Error::from(&Status::from(&*failure));
            Outcome::Refusal(StepRefusal {
                code: failure.code,
                reason: error.reason().to_owned(),
                message: error.message().to_owned(),
            })
        }
    }
}
