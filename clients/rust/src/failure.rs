//! What went wrong, as an [`Error`] of the contract. Errors of the server pass unchanged; what
//! happened on the way to it is named here.

use std::error::Error as _;
use std::time::Duration;

use daybook_contract::daybook::v1::ErrorReason;
use daybook_contract::error::Error;
use tonic::{Code, Status};

use crate::client::Service;

/// The reason of an error that the client made: the service could not be reached, or the
/// connection broke before the answer came. The metadata has `service`, `url` and `problem`.
pub const UNREACHABLE: &str = "UNREACHABLE";

/// The error behind a status that a call to a service ended with.
pub fn from_status(status: &Status, service: &Service) -> Error {
    let error = Error::from(status);
    if !error.reason().is_empty() {
        return error;
    }
    // Only a status that was made on this side has a source: a server's has come as text.
    let made_here = status.source().is_some();
    if !made_here && status.code() != Code::Unavailable {
        return error;
    }
    unreachable(service, &root_cause(status))
}

/// The service cannot be reached.
pub(crate) fn unreachable(service: &Service, problem: &str) -> Error {
    let message = format!(
        "the {} service at {} cannot be reached: {problem}; is it running, and is this its address?",
        service.name, service.url
    );
    Error::custom(Code::Unavailable, UNREACHABLE, message)
        .with("service", service.name)
        .with("url", &service.url)
        .with("problem", problem)
}

/// The service did not answer in time.
pub(crate) fn too_late(service: &Service, deadline: Duration) -> Error {
    let message = format!(
        "the {} service at {} gave no answer within {deadline:?}; a command may or may not have \
         had its effect: send it again with the same request id",
        service.name, service.url
    );
    Error::new(ErrorReason::DeadlineExceeded, message)
        .with("service", service.name)
        .with("url", &service.url)
        .with("deadline_ms", deadline.as_millis())
}

/// What the service sent cannot be understood.
pub(crate) fn malformed(service: &Service, problem: impl std::fmt::Display) -> Error {
    let message = format!(
        "the {} service at {} sent something that is not of the contract: {problem}; are client \
         and server of the same version?",
        service.name, service.url
    );
    Error::new(ErrorReason::Internal, message).with("url", &service.url)
}

/// The innermost cause says most: `Connection refused` rather than `transport error`.
fn root_cause(status: &Status) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = status.source();
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}
