//! What the errors of the log are for a caller.

use std::time::Duration;

use daybook_contract::daybook::v1::ErrorReason;
use daybook_contract::error::Error;
use daybook_log::Error as LogError;
use tonic::Status;

/// When to try again after an overload: long enough for a few groups to be committed.
const RETRY_OVERLOAD: Duration = Duration::from_millis(50);

/// When to try again while the server stops: long enough for another to start.
const RETRY_STOPPING: Duration = Duration::from_secs(1);

/// Turns an error of the log into what a caller sees. The only place that does.
pub fn from_log(error: LogError) -> Status {
    let message = error.to_string();
    let new = |reason| Error::new(reason, message.clone());
    match error {
        LogError::Refused { failure, replayed } => {
            let status = Status::from(failure.as_ref());
            return match replayed {
                true => Error::from(&status).with("replayed", true).into(),
                false => status,
            };
        }
        LogError::OutOfTurn { failure } => return Status::from(failure.as_ref()),
        LogError::VersionConflict { stream, expected, actual } => new(ErrorReason::VersionConflict)
            .with("stream", stream)
            .with("expected_version", expected)
            .with("actual_version", actual),
        LogError::RequestIdReused { request_id } => new(ErrorReason::RequestIdReused)
            .with("request_id", &request_id)
            .with_resource("request", &request_id),
        LogError::LimitExceeded { what, actual, limit } => new(ErrorReason::LimitExceeded)
            .with("what", what)
            .with("actual", actual)
            .with("limit", limit),
        LogError::Damaged { position, stream, .. } => {
            new(ErrorReason::DamagedRecord).with("position", position).with("stream", stream)
        }
        LogError::NotUnderstood { position, stream, .. } => {
            new(ErrorReason::Internal).with("position", position).with("stream", stream)
        }
        LogError::DiskFull => new(ErrorReason::DiskFull),
        LogError::NotWritten { .. } | LogError::Stopped { .. } | LogError::Read { .. } => {
            new(ErrorReason::StoreUnavailable).with_retry_after(RETRY_STOPPING)
        }
        LogError::Overloaded => new(ErrorReason::Overloaded).with_retry_after(RETRY_OVERLOAD),
        LogError::Closing => new(ErrorReason::NotServing).with_retry_after(RETRY_STOPPING),
        LogError::InUse { .. } | LogError::Open { .. } => new(ErrorReason::Internal),
    }
    .into()
}

/// How an open stream ends when the server stops.
pub(crate) fn stopping() -> Status {
    Error::new(ErrorReason::NotServing, "the server is stopping")
        .with_retry_after(RETRY_STOPPING)
        .into()
}
