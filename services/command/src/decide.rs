//! How an aggregate decides and folds, as the log calls it.

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use daybook_contract::contract::{AggregateState, CommandSet, EventError, EventSet};
use daybook_contract::daybook::v1::{ErrorReason, Failure, RecordedEvent, recorded_event};
use daybook_contract::error::Error;
use daybook_kernel::{Aggregate, Context, Rejection, RejectionKind};
use daybook_log::{Claim, Decider, Folder, NewEvent, Payload, State};
use prost_types::Timestamp;
use tonic::Code;

/// What stands before the name of a message in an Any.
pub(crate) const TYPE_URL_PREFIX: &str = "type.googleapis.com/";

/// One decision of an aggregate.
struct Decide<A: Aggregate> {
    command: A::Command,
    /// The reads of the command that have a key; the others keep the default state.
    reads: Vec<usize>,
    cx: Context,
    decided: Vec<A::Event>,
}

/// Makes the decider for a command. `reads` are those of the command whose states it is given.
pub(crate) fn decider<A: Aggregate>(
    command: A::Command,
    reads: Vec<usize>,
    cx: Context,
) -> Box<dyn Decider> {
    Box::new(Decide::<A> { command, reads, cx, decided: Vec::new() })
}

/// How the state of an aggregate is made.
pub(crate) fn folder<A: Aggregate>() -> Arc<dyn Folder> {
    Arc::new(Fold::<A>(PhantomData))
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
    fn folder(&self) -> Option<Arc<dyn Folder>> {
        Some(folder::<A>())
    }

    fn decide(
        &mut self,
        state: Option<&State>,
        reads: &[&State],
        now: Timestamp,
    ) -> Result<Vec<NewEvent>, Failure> {
        self.cx.now = now;
        let Some(state) = state.and_then(|state| state.downcast_ref::<A::State>()) else {
            return Err(another_type(A::State::AGGREGATE));
        };
        for (index, state) in self.reads.iter().zip(reads) {
            if !self.command.set_read(*index, state.as_ref()) {
                return Err(another_type(self.command.reads()[*index].aggregate));
            }
        }
        self.decided = A::decide(state, &self.command, &self.cx)
            .map_err(|rejection| refusal::<A>(&rejection, &self.cx))?;
        Ok(self.decided.iter().map(new_event::<A>).collect())
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
        name: event.name().to_owned(),
        version: event.version(),
        payload: Payload::Message {
            type_url: format!("{TYPE_URL_PREFIX}{}", event.type_name()),
            value: event.encode(),
        },
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
}
