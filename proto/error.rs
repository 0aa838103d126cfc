//! The one mapping between what goes wrong in Daybook and what a gRPC caller sees.
//!
//! Every error has a google.rpc.ErrorInfo with a reason in the domain [`DOMAIN`]; docs/errors.md
//! lists them. [`Error`] turns into a [`tonic::Status`] and into a [`Failure`], and back.

use std::collections::HashMap;
use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::contract::Violations;
use crate::daybook::v1::{ErrorReason, Failure};

/// The domain of every reason.
pub const DOMAIN: &str = "daybook.dev";

/// An error on its way to a caller.
#[derive(Debug, Clone)]
pub struct Error {
    code: Code,
    reason: String,
    message: String,
    metadata: HashMap<String, String>,
    /// Boxed, so that an error is small enough to be returned by value.
    details: Box<ErrorDetails>,
}

/// Which gRPC code a reason has.
pub fn code_of(reason: ErrorReason) -> Code {
    use ErrorReason::*;
    match reason {
        Unspecified | Internal => Code::Internal,
        InvalidRequest | UnknownCommand | InvalidPageToken => Code::InvalidArgument,
        VersionConflict => Code::Aborted,
        RequestIdReused => Code::AlreadyExists,
        StreamOwnedByAggregate | ProjectionState | StepNotAnswered | StepNotAwaited => {
            Code::FailedPrecondition
        }
        EventNotFound
        | StreamNotFound
        | ProjectionNotFound
        | SagaNotFound
        | QuarantinedEventNotFound
        | NotFound => Code::NotFound,
        ProjectionLagging | ProjectionRebuilding | NotServing | StoreUnavailable => {
            Code::Unavailable
        }
        Overloaded | DiskFull | LimitExceeded => Code::ResourceExhausted,
        DeadlineExceeded => Code::DeadlineExceeded,
        DamagedRecord => Code::DataLoss,
        NotSupported => Code::Unimplemented,
        PermissionDenied => Code::PermissionDenied,
    }
}

/// The reason as it stands in an ErrorInfo: without the prefix of the enum.
pub fn reason_name(reason: ErrorReason) -> &'static str {
    reason.as_str_name().trim_start_matches("ERROR_REASON_")
}

impl Error {
    /// An error with a reason of Daybook itself; the code follows from the reason.
    pub fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self::custom(code_of(reason), reason_name(reason), message)
    }

    /// An error with a reason of a domain, such as a rejection.
    pub fn custom(code: Code, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            metadata: HashMap::new(),
            details: Box::new(ErrorDetails::new()),
        }
    }

    /// A request with malformed fields: all of them.
    pub fn invalid(violations: Violations) -> Self {
        let found = violations.into_vec();
        let list: Vec<_> =
            found.iter().map(|v| format!("{}: {}", v.field, v.description)).collect();
        let mut error = Self::new(ErrorReason::InvalidRequest, list.join("; "));
        for violation in found {
            error.details.add_bad_request_violation(violation.field, violation.description);
        }
        error
    }

    /// Adds a value to the ErrorInfo.
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Adds one malformed field.
    pub fn with_violation(mut self, field: &str, description: impl Into<String>) -> Self {
        self.details.add_bad_request_violation(field, description);
        self
    }

    /// Names the thing that is unknown or exists already.
    pub fn with_resource(mut self, kind: &str, name: &str) -> Self {
        self.details.set_resource_info(kind, name, "", self.message.as_str());
        self
    }

    /// Names the rule that did not hold.
    pub fn with_precondition(mut self, subject: &str) -> Self {
        self.details.add_precondition_failure_violation(
            self.reason.as_str(),
            subject,
            self.message.as_str(),
        );
        self
    }

    /// Says when to try again.
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.details.set_retry_info(Some(delay));
        self
    }

    /// The gRPC code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The reason, such as `INSUFFICIENT_FUNDS`; empty when the other side gave none.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What was wrong, in English.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The values of the ErrorInfo.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// The other details: violations, resource, retry delay.
    pub fn details(&self) -> &ErrorDetails {
        &self.details
    }

    /// Whether the same request, with the same request id, may succeed when sent again.
    pub fn is_retryable(&self) -> bool {
        match self.code {
            Code::Unavailable | Code::DeadlineExceeded => true,
            Code::ResourceExhausted => self.reason == reason_name(ErrorReason::Overloaded),
            _ => false,
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut details = error.details;
        details.set_error_info(error.reason, DOMAIN, error.metadata);
        Status::with_error_details(error.code, error.message, *details)
    }
}

impl From<&Status> for Error {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().cloned();
        Self {
            code: status.code(),
            reason: info.as_ref().map(|i| i.reason.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            metadata: info.map(|i| i.metadata).unwrap_or_default(),
            details: Box::new(details),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        // The details of a Status are an encoded google.rpc.Status, which Failure mirrors.
        let status = Status::from(error);
        Failure::decode(status.details()).unwrap_or_else(|_| Failure {
            code: status.code().into(),
            message: status.message().to_owned(),
            details: Vec::new(),
        })
    }
}

impl From<&Failure> for Status {
    fn from(failure: &Failure) -> Self {
        Status::with_details(
            Code::from(failure.code),
            failure.message.clone(),
            failure.encode_to_vec().into(),
        )
    }
}
