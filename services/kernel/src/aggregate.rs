//! Aggregates: the unit of consistency. *Not* here: how they are stored, cached or sent.

use std::fmt;

use daybook_contract::contract::{AggregateState, CommandSet, EventSet};
use prost_types::Timestamp;

/// The rules of one kind of aggregate: pure functions over generated types.
///
/// Law: both functions give the same result for the same arguments, always and everywhere. What a
/// rule needs beyond the state comes in the command or in [`Context`].
pub trait Aggregate: Send + Sync + Sized + 'static {
    /// The generated enum of its commands.
    type Command: CommandSet;
    /// The generated enum of its current events.
    type Event: EventSet<Self>;
    /// Its state: the message with the option `daybook.v1.aggregate`. The default is the state of
    /// an aggregate that does not exist.
    type State: AggregateState;
    /// The rules that can fail to hold.
    type Rejection: Rejection;

    /// What follows from a command: events, or the rule that forbids it. `Ok(vec![])` says that
    /// it is accepted and nothing has to be recorded.
    fn decide(
        state: &Self::State,
        command: &Self::Command,
        cx: &Context,
    ) -> Result<Vec<Self::Event>, Self::Rejection>;

    /// Folds one event into the state. Facts are not validated again.
    fn evolve(state: &mut Self::State, event: &Self::Event);
}

/// What a decision may depend on beside state and command.
#[derive(Debug, Clone, PartialEq)]
pub struct Context {
    /// The id of the aggregate.
    pub aggregate_id: String,
    /// When the command is decided, by the server's clock; the recorded time of its events.
    pub now: Timestamp,
    /// The request id of the command.
    pub command_id: String,
    /// Who sent it; empty when not known.
    pub actor: String,
}

/// A rule that did not hold. The text of `Display` tells the caller what was wrong, with the
/// values; lower case, no full stop.
pub trait Rejection: fmt::Debug + fmt::Display + PartialEq + Send + Sync + 'static {
    /// The reason, in UPPER_SNAKE, as in the contract: `INSUFFICIENT_FUNDS`.
    fn reason(&self) -> &'static str;

    /// Which kind of refusal it is; decides the gRPC code.
    fn kind(&self) -> RejectionKind;

    /// The values of the rule, for machines: `("balance", "12.34 USD")`.
    fn metadata(&self) -> Vec<(&'static str, String)>;
}

/// The name of a value of an enum of the contract, as people say it: `IN_FLIGHT` is `in flight`.
pub fn in_words(name: &str) -> String {
    name.to_lowercase().replace('_', " ")
}

/// The kinds of refusal, after AIP-193.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectionKind {
    /// The aggregate does not exist.
    NotFound,
    /// The aggregate exists already.
    AlreadyExists,
    /// The state of the aggregate forbids it.
    FailedPrecondition,
}
