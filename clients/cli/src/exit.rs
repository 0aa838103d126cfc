//! The exit codes.

use std::process::ExitCode;

use daybook_client::Error;
use tonic::Code;

/// The exit codes as help shows them; for the `after_help` of the binary.
pub const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed in a way that is none of the below
  2  the command line is wrong
  3  refused by a rule, not found, exists already, version conflict; what was watched failed
  4  the request is invalid
  5  a service is unreachable or unavailable, or did not answer in time
  6  stored data is damaged";

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed in a way that is none of the others.
    Unexpected = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Refused by a rule, or not successful.
    Refused = 3,
    /// The request is invalid.
    Invalid = 4,
    /// A service is unreachable or unavailable, or did not answer in time.
    Unavailable = 5,
    /// Stored data is damaged.
    Damaged = 6,
}

impl Exit {
    /// The exit code for an error.
    pub fn of(error: &Error) -> Self {
        match error.code() {
            Code::Ok => Self::Done,
            Code::FailedPrecondition
            | Code::NotFound
            | Code::AlreadyExists
            | Code::Aborted
            | Code::PermissionDenied
            | Code::Unauthenticated => Self::Refused,
            Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Self::Invalid,
            // Too large is the caller's to mend; too busy or too full passes.
            Code::ResourceExhausted if error.reason() == "LIMIT_EXCEEDED" => Self::Invalid,
            Code::ResourceExhausted | Code::Unavailable | Code::DeadlineExceeded => {
                Self::Unavailable
            }
            Code::DataLoss => Self::Damaged,
            Code::Internal | Code::Unknown | Code::Cancelled => Self::Unexpected,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use daybook_contract::daybook::v1::ErrorReason;

    #[test]
    fn every_kind_of_error_has_its_exit_code() {
        use ErrorReason::*;
        let cases = [
            (NotFound, 3),
            (EventNotFound, 3),
            (VersionConflict, 3),
            (RequestIdReused, 3),
            (StreamOwnedByAggregate, 3),
            (PermissionDenied, 3),
            (InvalidRequest, 4),
            (UnknownCommand, 4),
            (InvalidPageToken, 4),
            (LimitExceeded, 4),
            (NotSupported, 4),
            (Overloaded, 5),
            (DiskFull, 5),
            (NotServing, 5),
            (ProjectionLagging, 5),
            (DeadlineExceeded, 5),
            (StoreUnavailable, 5),
            (DamagedRecord, 6),
            (Internal, 1),
        ];
        for (reason, code) in cases {
            let exit = Exit::of(&Error::new(reason, "no"));
            assert_eq!(exit as u8, code, "{reason:?}");
        }
        let rejection = Error::custom(Code::FailedPrecondition, "INSUFFICIENT_FUNDS", "too little");
        assert_eq!(Exit::of(&rejection), Exit::Refused);
    }

    #[test]
    fn the_help_lists_every_code() {
        for code in 0..=6 {
            assert!(EXIT_CODES.contains(&format!("\n  {code}  ")));
        }
    }
}
