//! How an aggregate decides and folds, as the log calls it.

use std::marker::PhantomData;

use bytes::Bytes;
use daybook_contract::contract::{AggregateState, CommandSet, EventError, EventSet};
use daybook_contract::daybook::v1::{
    ErrorReason, Failure, RecordedEvent, StepAnswer, recorded_event,
};
use daybook_contract::error::Error;
use daybook_kernel::{Aggregate, Context, Rejection, RejectionKind, Saga, Step};
use daybook_log::{Answer, Claim, Decider, Facts, Folder, NewEvent, Payload, State};
use prost::Message;
use tonic::Code;

use crate::answers::step_outcome;
use crate::caller::fingerprint;

/// One decision of an aggregate.
struct Decide<A: Aggregate> {
    command: A::Command,
    given: Given<A::Command>,
    is_out_of_turn: bool,
    cx: Context,
    decided: Vec<A::Event>,
}

/// What a command is given.
pub(crate) struct Given<C> {
    /// The reads of the command that have a key; the others keep the default state.
    pub reads: Vec<usize>,
    /// Set when the request id is kept for steps: the sagas among them. The command is decided only
    /// as the step that one of them waits for.
    pub step_of: Option<Vec<SagaRead>>,
    /// How the command records an answer; `None` when it is not one of a saga.
    pub recording: Option<Recording<C>>,
}

/// How a saga records an answer.
#[derive(Debug)]
pub(crate) struct Recording<C> {
    /// The answer in a command by which a saga records one. Without one of the log, the command is not
    /// decided.
    pub recorded: fn(&mut C) -> Option<&mut StepAnswer>,
    /// What a saga with this state and id wants answered, as the fingerprint of the request; `None`
    /// when it does not wait for this answer.
    pub awaited: fn(&State, &str, &StepAnswer) -> Option<[u8; 16]>,
}

impl<C> Clone for Recording<C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Recording<C> {}

/// How this kind of saga records an answer.
pub(crate) fn recording<S: Saga>() -> Recording<S::Command> {
    Recording {
        recorded: S::recorded,
        awaited: |state, id, answer| {
            let awaited = S::awaited(id, state.downcast_ref::<S::State>()?)?;
            let Step { type_name, request, .. } = &awaited.step;
            awaited.is_answered_by(answer).then(|| fingerprint(type_name, request, None))
        },
    }
}

/// Whether a saga with this state and id waits for a step, sent under this request id.
pub(crate) type Awaits = fn(&State, &str, &Step, &str) -> bool;

/// [`Awaits`] of a kind of saga.
pub(crate) fn awaits<S: Saga>(state: &State, id: &str, step: &Step, request_id: &str) -> bool {
    let state = state.downcast_ref::<S::State>();
    state.is_some_and(|state| daybook_kernel::awaits::<S>(id, state, step, request_id))
}

/// A saga that a command reads.
pub(crate) struct SagaRead {
    /// Its place among the states that the command is given.
    pub place: usize,
    /// Its id.
    pub id: String,
    /// Asks its state.
    pub awaits: Awaits,
}

/// Makes the decider for a command.
pub(crate) fn decider<A: Aggregate>(
    command: A::Command,
    given: Given<A::Command>,
    cx: Context,
) -> Box<dyn Decider> {
    let (is_out_of_turn, decided) = (false, Vec::new());
    Box::new(Decide::<A> { command, given, is_out_of_turn, cx, decided })
}

/// The answer to a command that has the request id of a step and is not the one that is awaited.
pub(crate) fn not_awaited(request_id: &str) -> Error {
    let message = format!(
        "request id {request_id} is kept for a step of a saga, and this is not the step that a \
         saga waits for; use another, such as a UUID of version 7"
    );
    Error::new(ErrorReason::StepNotAwaited, message).with("request_id", request_id)
}

/// The answer to whoever records an answer that nobody gave.
fn not_answered(saga: &str, answer: &StepAnswer) -> Error {
    let version = answer.version;
    let message = format!("the log has no answer to the step after version {version} of {saga}");
    Error::new(ErrorReason::StepNotAnswered, message).with("stream", saga).with("version", version)
}

/// How the state of an aggregate is made.
pub(crate) fn folder<A: Aggregate>() -> &'static dyn Folder {
    &Fold::<A>(PhantomData)
}

/// The event in a record, brought up to the current version.
pub(crate) fn event<A: Aggregate>(record: &RecordedEvent) -> Result<A::Event, EventError> {
    let Some(recorded_event::Payload::Event(any)) = &record.payload else {
        return Err(EventError::NotAnEvent);
    };
    let value = Bytes::copy_from_slice(&any.value);
    A::Event::decode(&record.event_name, record.event_version, value)
}

impl<A: Aggregate> Decider for Decide<A> {
    fn folder(&self) -> Option<&'static dyn Folder> {
        Some(folder::<A>())
    }

    fn decide(&mut self, facts: Facts<'_>) -> Result<Vec<NewEvent>, Failure> {
        let Facts { state, reads, now, answer } = facts;
        self.cx.now = now;
        self.is_out_of_turn = false;
        let any = state;
        let Some(state) = any.and_then(|state| state.downcast_ref::<A::State>()) else {
            return Err(another_type(A::State::AGGREGATE));
        };
        for (index, state) in self.given.reads.iter().zip(reads) {
            if !self.command.set_read(*index, state.as_ref()) {
                return Err(another_type(self.command.reads()[*index].aggregate));
            }
        }
        if let Some(sagas) = &self.given.step_of {
            let (step, request_id) = (Step::from(&self.command), &self.cx.command_id);
            let waits = |saga: &SagaRead| {
                reads
                    .get(saga.place)
                    .is_some_and(|state| (saga.awaits)(state, &saga.id, &step, request_id))
            };
            self.is_out_of_turn = !sagas.iter().any(waits);
            if self.is_out_of_turn {
                return Err(not_awaited(request_id).into());
            }
        }
        if let Some(recording) = self.given.recording
            && let Some(recorded) = (recording.recorded)(&mut self.command)
        {
            let id = &self.cx.aggregate_id;
            let awaited = any.and_then(|state| (recording.awaited)(state, id, recorded));
            // What was answered to another command under the id of the step is no answer to it.
            let is_to_it = |answer: &Answer| awaited.is_none_or(|it| it == answer.fingerprint);
            recorded.outcome = answer.filter(is_to_it).map(step_outcome);
            self.is_out_of_turn = recorded.outcome.is_none();
            if self.is_out_of_turn {
                return Err(not_answered(&format!("{}-{id}", A::State::AGGREGATE), recorded).into());
            }
        }
        self.decided = A::decide(state, &self.command, &self.cx)
            .map_err(|rejection| refusal::<A>(&rejection, &self.cx))?;
        Ok(self.decided.iter().map(new_event::<A>).collect())
    }

    fn keeps_refusal(&self) -> bool {
        !self.is_out_of_turn
    }

    fn taken(&self, claim: &Claim) -> Failure {
        let Claim { scope, key, .. } = claim;
        let unique = A::Event::UNIQUE.iter().find(|unique| unique.scope == *scope);
        let reason = unique.map_or("", |unique| unique.reason);
        let what = scope.rsplit('.').next().unwrap_or(scope);
        let message = format!("another {} has the {what} {key:?}", A::State::AGGREGATE);
        Error::custom(Code::AlreadyExists, reason, message)
            .with("aggregate", A::State::AGGREGATE)
            .with("aggregate_id", &self.cx.aggregate_id)
            .with(what, key)
            .with_resource(scope, key)
            .into()
    }

    fn evolve(&mut self, state: &mut State) {
        if let Some(state) = state.downcast_mut::<A::State>() {
            for event in &self.decided {
                A::evolve(state, event);
            }
        }
    }
}

fn another_type(aggregate: &str) -> Failure {
    let message = format!("the state of a {aggregate} is of another type");
    Error::new(ErrorReason::Internal, message).into()
}

fn new_event<A: Aggregate>(event: &A::Event) -> NewEvent {
    NewEvent {
        name: event.name().into(),
        version: event.version(),
        payload: Payload::Message { type_url: event.type_url().into(), value: event.encode() },
        claims: event.claims(),
    }
}

fn refusal<A: Aggregate>(rejection: &A::Rejection, cx: &Context) -> Failure {
    let aggregate = A::State::AGGREGATE;
    let code = match rejection.kind() {
        RejectionKind::NotFound => Code::NotFound,
        RejectionKind::AlreadyExists => Code::AlreadyExists,
        RejectionKind::FailedPrecondition => Code::FailedPrecondition,
    };
    let mut error = Error::custom(code, rejection.reason(), rejection.to_string())
        .with("aggregate", aggregate)
        .with("aggregate_id", &cx.aggregate_id);
    for (key, value) in rejection.metadata() {
        error = error.with(key, value);
    }
    match rejection.kind() {
        RejectionKind::FailedPrecondition => {
            error.with_precondition(&format!("{aggregate}-{}", cx.aggregate_id))
        }
        _ => error.with_resource(aggregate, &cx.aggregate_id),
    }
    .into()
}

/// Folds the stored events of an aggregate, old versions included.
struct Fold<A>(PhantomData<fn() -> A>);

impl<A: Aggregate> Folder for Fold<A> {
    fn empty(&self) -> State {
        Box::new(A::State::default())
    }

    fn fold(&self, state: &mut State, event: &RecordedEvent) -> Result<(), String> {
        let event = self::event::<A>(event).map_err(|error| error.to_string())?;
        let state = state
            .downcast_mut::<A::State>()
            .ok_or_else(|| "the state is of another type".to_owned())?;
        A::evolve(state, &event);
        Ok(())
    }

    fn pack(&self, state: &State, into: &mut Vec<u8>) {
        if let Some(state) = state.downcast_ref::<A::State>() {
            state.encode_raw(into);
        }
    }

    fn unpack(&self, bytes: &[u8]) -> Option<State> {
        Some(Box::new(A::State::decode(bytes).ok()?))
    }
}
