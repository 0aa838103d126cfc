//! What can go wrong in the log.

use daybook_contract::daybook::v1::Failure;

/// Why something was not done. Where the effect of a submission is not known, the text says so;
/// everywhere else nothing was recorded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// Another process has the log open.
    #[error("the log in {directory} is in use by another process: stop it, or use another --data")]
    InUse {
        /// The directory of the log.
        directory: String,
    },
    /// The log cannot be opened, or is not one.
    #[error("the log in {directory} cannot be opened: {problem}")]
    Open {
        /// The directory of the log.
        directory: String,
        /// What is wrong.
        problem: String,
    },
    /// The stream does not have the expected version.
    #[error("stream {stream} is at version {actual}, not at the expected version {expected}")]
    VersionConflict {
        /// The stream.
        stream: String,
        /// What the submission expected.
        expected: u64,
        /// What is.
        actual: u64,
    },
    /// The request id was used before for something else.
    #[error("request id {request_id} was used before with other content")]
    RequestIdReused {
        /// The request id.
        request_id: String,
    },
    /// The rules refused it.
    #[error("refused: {}", failure.message)]
    Refused {
        /// The answer to the caller.
        failure: Box<Failure>,
        /// Whether this is the first answer of an earlier request with the same id.
        replayed: bool,
    },
    /// It was refused for now. Nothing is kept of it: it may come again.
    #[error("refused for now: {}", failure.message)]
    OutOfTurn {
        /// The answer to the caller.
        failure: Box<Failure>,
    },
    /// Something is larger than a limit.
    #[error("{what} of {actual} exceeds the limit of {limit}")]
    LimitExceeded {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        actual: usize,
        /// The limit.
        limit: usize,
    },
    /// A stored record is not what was written.
    #[error("the record at position {position} is damaged: {problem}")]
    Damaged {
        /// The position of the record.
        position: u64,
        /// Its stream, where known.
        stream: String,
        /// What is wrong.
        problem: String,
    },
    /// A stored event cannot be folded into the state of its aggregate.
    #[error("the event at position {position} of stream {stream} cannot be understood: {problem}")]
    NotUnderstood {
        /// The position of the event.
        position: u64,
        /// Its stream.
        stream: String,
        /// What is wrong.
        problem: String,
    },
    /// The disk is full.
    #[error("the disk of the log is full; nothing was recorded")]
    DiskFull,
    /// The storage failed; nothing was recorded.
    #[error("the log could not be written; nothing was recorded: {problem}")]
    NotWritten {
        /// What happened.
        problem: String,
    },
    /// The storage failed and cannot be trusted any more; the writer has stopped. Whether the
    /// submission was recorded is not known.
    #[error("the log failed and has stopped; whether this was recorded is not known: {problem}")]
    Stopped {
        /// What happened.
        problem: String,
    },
    /// The storage could not be read.
    #[error("the log could not be read: {problem}")]
    Read {
        /// What happened.
        problem: String,
    },
    /// More submissions wait than the queue holds.
    #[error(
        "{} submissions wait for the log, which is its limit",
        crate::limits::MAX_QUEUED_SUBMISSIONS
    )]
    Overloaded,
    /// The log is closing.
    #[error("the log is closing")]
    Closing,
}
