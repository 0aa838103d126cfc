//! The kinds of sagas, without the types of their commands, events and states.

use std::any::Any;
use std::marker::PhantomData;
use std::sync::LazyLock;

use daybook_contract::contract::{AggregateState, EventError, EventSet};
use daybook_contract::daybook::v1::{SagaStatus, StepAnswer, StepRefusal};
use daybook_kernel::{Awaited, Context, Foreign, Saga, SagaRegistry, Step};
use daybook_query::runtime::EncodedEvent;
use daybook_query::time;
use prost::Message;
use prost_types::Timestamp;

/// A saga's event of any type.
pub(crate) type AnyEvent = Box<dyn Any + Send + Sync>;

/// What an event makes of a saga.
pub(crate) struct Folded {
    /// The encoded state.
    pub state: Vec<u8>,
    pub status: SagaStatus,
    pub refusal: Option<StepRefusal>,
    /// The step without an answer.
    pub awaited: Option<Awaited>,
    /// When the saga has to be woken, in nanoseconds since 1970.
    pub due_time: Option<i64>,
}

/// What an answer makes of a saga.
pub(crate) struct Advanced {
    /// The encoded state.
    pub state: Vec<u8>,
    /// How many events the answer is recorded with.
    pub events: usize,
    /// The step without an answer.
    pub awaited: Option<Awaited>,
}

/// One kind of saga.
pub(crate) trait Kind: Send + Sync {
    /// The name of its aggregate.
    fn name(&self) -> &'static str;
    /// The aggregates whose events may start it.
    fn started_by(&self) -> &'static [&'static str];
    /// The id and the first command of the saga that an event of another aggregate starts.
    fn start(&self, event: &Foreign<'_>) -> Result<Option<(String, Step)>, String>;
    /// Decodes an event of its own.
    fn decode(&self, event: EncodedEvent<'_>) -> Result<AnyEvent, EventError>;
    /// The answer that an event has recorded.
    fn answered<'a>(&self, event: &'a AnyEvent) -> Option<&'a StepAnswer>;
    /// Folds an event into an encoded state; the empty one is that of a saga that does not exist.
    fn fold(&self, id: &str, state: &[u8], event: &AnyEvent) -> Result<Folded, String>;
    /// The step that a saga with this state waits for.
    fn awaited(&self, id: &str, state: &[u8]) -> Option<Awaited>;
    /// The command that records an answer.
    fn record(&self, id: &str, answer: StepAnswer) -> Step;
    /// What the saga makes of the answer that it waits for, by its own rules; `None` when they
    /// refuse it. It is the log that decides: this is what to expect of it.
    fn advance(
        &self,
        id: &str,
        state: &[u8],
        answer: StepAnswer,
        now: Timestamp,
    ) -> Option<Advanced>;
    /// The command that wakes the saga.
    fn wake(&self, id: &str, state: &[u8]) -> Option<Step>;
    /// The command that gives the saga up; `None` when it has no way back.
    fn compensate(&self, id: &str, reason: &str) -> Option<Step>;
}

struct Of<S>(PhantomData<fn() -> S>);

impl<S: Saga> Of<S> {
    fn event(event: &AnyEvent) -> &S::Event {
        event.downcast_ref().expect("an event that this kind has decoded")
    }
}

impl<S: Saga> Kind for Of<S> {
    fn name(&self) -> &'static str {
        S::State::AGGREGATE
    }

    fn started_by(&self) -> &'static [&'static str] {
        S::STARTED_BY
    }

    fn start(&self, event: &Foreign<'_>) -> Result<Option<(String, Step)>, String> {
        let started = S::start(event)?;
        Ok(started.map(|(id, command)| (id, Step::send(command))))
    }

    fn decode(&self, event: EncodedEvent<'_>) -> Result<AnyEvent, EventError> {
        Ok(Box::new(<S::Event as EventSet<S>>::decode(event.name, event.version, event.bytes)?))
    }

    fn answered<'a>(&self, event: &'a AnyEvent) -> Option<&'a StepAnswer> {
        S::answered(Self::event(event))
    }

    fn fold(&self, id: &str, state: &[u8], event: &AnyEvent) -> Result<Folded, String> {
        let event = Self::event(event);
        let mut state = S::State::decode(state)
            .map_err(|error| format!("the state of the saga cannot be read: {error}"))?;
        S::evolve(&mut state, event);
        let timer = S::timer(id, &state);
        Ok(Folded {
            awaited: S::awaited(id, &state),
            status: S::status(&state),
            refusal: S::refusal(&state).cloned(),
            due_time: timer.map(|(due, _)| time::saturating_nanos(&due)),
            state: state.encode_to_vec(),
        })
    }

    fn awaited(&self, id: &str, state: &[u8]) -> Option<Awaited> {
        S::awaited(id, &S::State::decode(state).ok()?)
    }

    fn record(&self, id: &str, answer: StepAnswer) -> Step {
        Step::send(S::record(id, answer))
    }

    fn advance(
        &self,
        id: &str,
        state: &[u8],
        answer: StepAnswer,
        now: Timestamp,
    ) -> Option<Advanced> {
        let mut state = S::State::decode(state).ok()?;
        let aggregate_id = id.to_owned();
        let cx = Context { aggregate_id, now, command_id: String::new(), actor: String::new() };
        let events = S::decide(&state, &S::record(id, answer), &cx).ok()?;
        events.iter().for_each(|event| S::evolve(&mut state, event));
        let awaited = S::awaited(id, &state);
        Some(Advanced { state: state.encode_to_vec(), events: events.len(), awaited })
    }

    fn wake(&self, id: &str, state: &[u8]) -> Option<Step> {
        let (_, command) = S::timer(id, &S::State::decode(state).ok()?)?;
        Some(Step::send(command))
    }

    fn compensate(&self, id: &str, reason: &str) -> Option<Step> {
        S::compensate(id, reason).map(Step::send)
    }
}

#[derive(Default)]
struct Kinds(Vec<Box<dyn Kind>>);

impl SagaRegistry for Kinds {
    fn saga<S: Saga>(&mut self) {
        self.0.push(Box::new(Of::<S>(PhantomData)));
    }
}

static KINDS: LazyLock<Vec<Box<dyn Kind>>> = LazyLock::new(|| {
    let mut kinds = Kinds::default();
    daybook_domain::register_sagas(&mut kinds);
    kinds.0
});

/// All kinds.
pub(crate) fn all() -> impl Iterator<Item = &'static dyn Kind> {
    KINDS.iter().map(|kind| &**kind)
}

/// The kind whose aggregate has this name.
pub(crate) fn find(name: &str) -> Option<&'static dyn Kind> {
    all().find(|kind| kind.name() == name)
}
