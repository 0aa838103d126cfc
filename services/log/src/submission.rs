//! What is submitted to the writer: a stream, and a decision to be taken about it.

use std::any::Any;

use daybook_contract::daybook::v1::{EventMetadata, Failure, RecordedEvent};
use daybook_kernel::StreamName;
use prost_types::Timestamp;
use uuid::Uuid;

use crate::{Claim, NewEvent};

/// The state of a stream in memory; only its [`Folder`] and [`Decider`] know what is in it.
pub type State = Box<dyn Any + Send>;

/// Something to decide and, if accepted, to append to one stream.
pub struct Submission {
    /// The stream.
    pub stream: StreamName,
    /// Further streams whose states the decision reads, each with how its state is made. They are
    /// of the same moment as the state of the stream itself: the latest accepted.
    pub reads: Vec<(StreamName, &'static dyn Folder)>,
    /// The version that the stream must have; `None` for any, 0 for a new stream.
    pub expected_version: Option<u64>,
    /// Makes it idempotent; `None` when the caller gave no request id.
    pub request: Option<RequestKey>,
    /// A request whose answer the decision is told. It may have been submitted before and not be
    /// durable yet: what is decided on its answer is durable no sooner, and fails with it. It is
    /// decided first if the two have a stream in common.
    pub answer_of: Option<Uuid>,
    /// Goes into every event.
    pub metadata: EventMetadata,
    /// Takes the decision.
    pub decider: Box<dyn Decider>,
}

/// The name of a request, and what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// The id that the caller chose.
    pub id: Uuid,
    /// A hash of the content: equal for equal requests.
    pub fingerprint: [u8; 16],
}

/// Takes one decision. The writer asks for it in the order of submissions, with the latest
/// accepted states. It may ask again, before anything came of the first answer, when it had to look
/// up who holds a claim: so `decide` depends on its argument alone.
pub trait Decider: Send {
    /// How the state of the stream is made; `None` when the decision needs none.
    fn folder(&self) -> Option<&'static dyn Folder>;

    /// The events to append, or the answer that refuses them. Must not block.
    fn decide(&mut self, facts: Facts<'_>) -> Result<Vec<NewEvent>, Failure>;

    /// Whether the answer that `decide` has refused with is kept under the request id, as answers
    /// are. If not, the same request is decided anew when it comes again.
    fn keeps_refusal(&self) -> bool {
        true
    }

    /// The answer that refuses what was decided, because another stream holds what it claims.
    fn taken(&self, claim: &Claim) -> Failure;

    /// Folds what was decided into the state. Called after `decide` accepted, before the commit;
    /// if the commit fails, the state is thrown away.
    fn evolve(&mut self, state: &mut State);
}

/// What a decision is taken on.
pub struct Facts<'a> {
    /// The state of the stream; `None` when the decider needs none.
    pub state: Option<&'a State>,
    /// The states of [`Submission::reads`], in their order.
    pub reads: &'a [&'a State],
    /// When what is decided is recorded.
    pub now: Timestamp,
    /// What was answered to [`Submission::answer_of`]; `None` when nothing is kept of it.
    pub answer: Option<Answer>,
}

/// What was answered to a request, for the first time or again.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What it asked for, as in its [`RequestKey`].
    pub fingerprint: [u8; 16],
    /// What it has done, or why it was refused.
    pub outcome: Result<Receipt, Box<Failure>>,
}

/// Makes the state of a stream from its events.
pub trait Folder: Send + Sync {
    /// The state of a stream without events.
    fn empty(&self) -> State;

    /// Folds one stored event; an error says what is not understood.
    fn fold(&self, state: &mut State, event: &RecordedEvent) -> Result<(), String>;

    /// Adds a state in few bytes, to keep it in memory.
    fn pack(&self, state: &State, into: &mut Vec<u8>);

    /// The state that these bytes are of: the very same. `None` when they are of another kind.
    fn unpack(&self, bytes: &[u8]) -> Option<State>;
}

/// What a submission has done. Its events are durable.
#[derive(Debug, Clone, PartialEq)]
pub struct Receipt {
    /// The version of the stream after it.
    pub version: u64,
    /// The position of its last event, or of the end of the log when it recorded none.
    pub position: u64,
    /// The id part of the stream.
    pub aggregate_id: String,
    /// The ids of its events.
    pub event_ids: Vec<Uuid>,
    /// When they were recorded.
    pub recorded_time: Timestamp,
    /// Whether this is the answer of an earlier request with the same id.
    pub replayed: bool,
}
