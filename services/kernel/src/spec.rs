//! Specifications of rules: *given* these events, *when* this command comes, *then* these events
//! follow, or this rejection.
//!
//! The form is that of Greg Young's executable specifications of event-sourced aggregates, as
//! Equinox (F#) and esrs (Rust) have it. A specification sees events and commands only, never the
//! state, so it keeps its meaning when the state is laid out anew. There is no I/O and no test
//! framework here: a specification that does not hold panics, which any test runner reports.
//!
//! Every run also holds the laws of [`Aggregate`]: each event survives being stored, and the same
//! arguments give the same result twice.

use std::any::Any;
use std::fmt::{self, Write};

use daybook_contract::contract::{AggregateState, CommandSet, EventSet};
use prost_types::Timestamp;

use crate::{Aggregate, Context};

/// The moment at which specifications decide, unless they say otherwise: 2026-01-02T03:04:05Z.
pub const NOW: Timestamp = Timestamp { seconds: 1_767_323_045, nanos: 0 };

/// The first part of a specification: what has happened.
///
/// ```text
/// Spec::<Account>::given([opened(100)])
///     .when(withdraw(101))
///     .then_rejected(AccountRejection::InsufficientFunds { balance, requested });
/// ```
#[must_use = "a specification says nothing before its `then`"]
pub struct Spec<A: Aggregate> {
    given: Vec<A::Event>,
    others: Vec<Other>,
    cx: Context,
}

/// Another aggregate that the command reads.
struct Other {
    aggregate: &'static str,
    id: String,
    state: Box<dyn Any>,
}

/// The second part of a specification: what came of the command.
#[must_use = "a specification says nothing before its `then`"]
pub struct When<A: Aggregate> {
    given: Vec<A::Event>,
    cx: Context,
    command: A::Command,
    outcome: Result<Vec<A::Event>, A::Rejection>,
    after: A::State,
}

impl<A: Aggregate> Spec<A> {
    /// Begins with the events of the aggregate, in order; none means that it does not exist.
    pub fn given(events: impl IntoIterator<Item = A::Event>) -> Self {
        Self { given: events.into_iter().collect(), others: Vec::new(), cx: context() }
    }

    /// Adds what has happened to another aggregate, which the command reads. One that is not given
    /// does not exist.
    ///
    /// ```text
    /// Spec::<Order>::given([created()])
    ///     .reading::<Product>("ball", [product_created("12.00")])
    ///     .when(add_item("ball"))
    ///     .then([item_added("ball", "12.00")]);
    /// ```
    #[track_caller]
    pub fn reading<B: Aggregate>(
        mut self,
        id: &str,
        events: impl IntoIterator<Item = B::Event>,
    ) -> Self {
        let events: Vec<_> = events.into_iter().collect();
        let (aggregate, state) = (B::State::AGGREGATE, Box::new(fold::<B>(&events)));
        self.others.push(Other { aggregate, id: id.to_owned(), state });
        self
    }

    /// Decides at another moment than [`NOW`].
    pub fn at(mut self, now: Timestamp) -> Self {
        self.cx.now = now;
        self
    }

    /// Decides in another context than that of [`context`].
    pub fn within(mut self, cx: Context) -> Self {
        self.cx = cx;
        self
    }

    /// Decides a command that has this request id.
    pub fn requested_as(mut self, command_id: impl ToString) -> Self {
        self.cx.command_id = command_id.to_string();
        self
    }

    /// Has the command decided.
    #[track_caller]
    pub fn when(self, command: impl Into<A::Command>) -> When<A> {
        let mut command = command.into();
        set_reads(&mut command, &self.others);
        let before = fold::<A>(&self.given);
        let outcome = A::decide(&before, &command, &self.cx);
        assert_eq!(
            A::decide(&before, &command, &self.cx),
            outcome,
            "decide is not pure: the same arguments gave another result"
        );
        let mut after = before;
        if let Ok(events) = &outcome {
            let all: Vec<_> = self.given.iter().chain(events).cloned().collect();
            after = fold::<A>(&all);
        }
        When { given: self.given, cx: self.cx, command, outcome, after }
    }
}

/// Gives a command the states that it reads. Panics when one is given that it does not read: the
/// specification would say nothing about it.
#[track_caller]
fn set_reads<C: CommandSet>(command: &mut C, others: &[Other]) {
    for Other { aggregate, id, state } in others {
        let reads = command.reads().into_iter().enumerate();
        let found = reads.filter(|(_, read)| read.aggregate == *aggregate && read.key == id);
        let found: Vec<_> = found.map(|(index, _)| index).collect();
        assert!(!found.is_empty(), "the command does not read {aggregate}-{id}: {command:?}");
        for index in found {
            assert!(command.set_read(index, state.as_ref()), "{aggregate} has another state");
        }
    }
}

impl<A: Aggregate> When<A> {
    /// The command is accepted and exactly these events are recorded, in this order.
    #[track_caller]
    pub fn then(self, events: impl IntoIterator<Item = A::Event>) {
        let expected: Vec<_> = events.into_iter().collect();
        if self.outcome.as_ref() != Ok(&expected) {
            self.fail(&Recorded(&expected));
        }
    }

    /// The command is accepted and nothing has to be recorded.
    #[track_caller]
    pub fn then_nothing(self) {
        self.then([]);
    }

    /// The command is refused for this reason.
    #[track_caller]
    pub fn then_rejected(self, rejection: A::Rejection) {
        if self.outcome.as_ref() != Err(&rejection) {
            self.fail(&Rejected(&rejection));
        }
    }

    /// The state afterwards. For what events do not show, such as what an upcast event did to it.
    pub fn state(&self) -> &A::State {
        &self.after
    }

    #[track_caller]
    fn fail(&self, expected: &dyn fmt::Display) -> ! {
        let outcome: &dyn fmt::Display = match &self.outcome {
            Ok(events) => &Recorded(events),
            Err(rejection) => &Rejected(rejection),
        };
        let given = Recorded(&self.given);
        let mut text = format!("a specification of {} does not hold\n", A::Event::AGGREGATE);
        for (label, part) in [
            ("given", &given as &dyn fmt::Display),
            ("when", &format_args!("{:?}", self.command)),
            ("then", expected),
            ("but was", outcome),
            ("context", &format_args!("{:?}", self.cx)),
        ] {
            let _ = writeln!(text, "{label:>8}: {part}");
        }
        panic!("{text}");
    }
}

/// The context in which specifications decide, unless they say otherwise.
pub fn context() -> Context {
    Context {
        aggregate_id: "spec".to_owned(),
        now: NOW,
        command_id: "00000000-0000-7000-8000-000000000001".to_owned(),
        actor: "spec".to_owned(),
    }
}

/// The state after some events: a left fold of [`Aggregate::evolve`] from the default.
///
/// Panics when an event does not survive being stored, or when folding twice gives two states.
#[track_caller]
pub fn fold<A: Aggregate>(events: &[A::Event]) -> A::State {
    let mut state = A::State::default();
    let mut again = A::State::default();
    for event in events {
        let stored = A::Event::decode(event.name(), event.version(), event.encode().into());
        assert_eq!(stored.as_ref(), Ok(event), "the event changes when it is stored");
        A::evolve(&mut state, event);
        A::evolve(&mut again, event);
    }
    assert!(again == state, "evolve is not deterministic: the same events gave two states");
    state
}

struct Recorded<'a, E>(&'a [E]);

impl<E: fmt::Debug> fmt::Display for Recorded<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no events");
        }
        for (number, event) in self.0.iter().enumerate() {
            let gap = if number == 0 { "" } else { "\n          " };
            write!(f, "{gap}{}. {event:?}", number + 1)?;
        }
        Ok(())
    }
}

struct Rejected<'a, R>(&'a R);

impl<R: crate::Rejection> fmt::Display for Rejected<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rejected: {:?} ({})", self.0, self.0)
    }
}
