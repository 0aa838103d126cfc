//! Sagas: work over several aggregates, step by step. *Not* here: who sends the steps, how often,
//! and what is remembered meanwhile.

use daybook_contract::contract::{AggregateState, CommandSet};
use daybook_contract::daybook::v1::{SagaStatus, StepAnswer, StepRefusal};
use prost_types::Timestamp;
use sha2::{Digest, Sha256};

use crate::{Aggregate, Context};

/// A process manager: an aggregate with its own stream that sends commands to other aggregates and
/// records their answers.
///
/// Law: all functions are pure. A step that `awaited` names is sent until it is answered, under a
/// request id made from the saga's stream and the version of the event that it follows from
/// ([`step_id`]): so it has one effect and one answer, however often it is sent. The answer comes
/// back through `record`, and the saga then records an event for which `answered` gives that
/// answer. It may come more than once; one that is not awaited (any more) is accepted and changes
/// nothing.
pub trait Saga: Aggregate {
    /// The aggregates whose events may start such a saga.
    const STARTED_BY: &'static [&'static str] = &[];

    /// The id of the saga that an event of another aggregate starts, and the command to its own
    /// stream that does so. A saga that exists already is not started again.
    fn start(event: &Foreign<'_>) -> Result<Option<(String, Self::Command)>, String> {
        let _ = event;
        Ok(None)
    }

    /// The step whose answer the saga waits for; the same from the event that it follows from until
    /// the event with its answer.
    fn awaited(id: &str, state: &Self::State) -> Option<Awaited>;

    /// The command to the saga's own stream that records the answer to a step.
    fn record(id: &str, answer: StepAnswer) -> Self::Command;

    /// The answer in such a command; `None` in any other. Its outcome is put there by the command
    /// service, which has it from the log: nobody else is believed.
    fn recorded(command: &mut Self::Command) -> Option<&mut StepAnswer>;

    /// The answer that an event has recorded; `None` for an event that records none.
    fn answered(event: &Self::Event) -> Option<&StepAnswer>;

    /// Where the saga stands.
    fn status(state: &Self::State) -> SagaStatus;

    /// Why what was done is (being) undone; `None` as long as it is not.
    fn refusal(state: &Self::State) -> Option<&StepRefusal>;

    /// When the saga has to be woken, and the command to its own stream that wakes it; `None` when
    /// there is no deadline (any more).
    fn timer(id: &str, state: &Self::State) -> Option<(Timestamp, Self::Command)> {
        let _ = (id, state);
        None
    }

    /// The command to the saga's own stream that gives it up, for this reason; `None` when there is
    /// no way back from the beginning.
    fn compensate(id: &str, reason: &str) -> Option<Self::Command>;
}

/// Lists of names as one of this length, which is [`total`]; for constants.
#[must_use]
pub const fn joined<const LEN: usize>(lists: &[&[&'static str]]) -> [&'static str; LEN] {
    let (mut names, mut len, mut list) = ([""; LEN], 0, 0);
    while list < lists.len() {
        let mut at = 0;
        while at < lists[list].len() {
            names[len] = lists[list][at];
            len += 1;
            at += 1;
        }
        list += 1;
    }
    names
}

/// How many names there are in lists.
#[must_use]
pub const fn total(lists: &[&[&'static str]]) -> usize {
    let (mut len, mut list) = (0, 0);
    while list < lists.len() {
        len += lists[list].len();
        list += 1;
    }
    len
}

/// An event of another aggregate, not decoded yet.
#[derive(Debug, Clone, Copy)]
pub struct Foreign<'a> {
    /// The aggregate.
    pub aggregate_type: &'a str,
    /// Its id.
    pub aggregate_id: &'a str,
    /// The name of the event.
    pub name: &'a str,
    /// The version of its schema.
    pub version: u32,
    /// The encoded message.
    pub bytes: &'a [u8],
}

/// A step without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// The version of the saga's stream with the event that it follows from.
    pub version: u64,
    /// The step.
    pub step: Step,
}

impl Awaited {
    /// Whether this is the answer to it. A saga takes one step after an event, which has the
    /// index 0.
    pub fn is_answered_by(&self, answer: &StepAnswer) -> bool {
        (answer.version, answer.index) == (self.version, 0)
    }
}

/// Whether a command is the step that a saga waits for, under the request id of that step. An
/// aggregate that takes a command only then cannot be made to take it by anybody else, nor twice:
/// the log gives a request id one effect.
pub fn is_awaited<S: Saga>(
    id: &str,
    saga: &S::State,
    command: &impl CommandSet,
    cx: &Context,
) -> bool {
    awaits::<S>(id, saga, &Step::from(command), &cx.command_id)
}

/// Whether a saga waits for this step, sent under this request id.
pub fn awaits<S: Saga>(id: &str, saga: &S::State, step: &Step, request_id: &str) -> bool {
    S::awaited(id, saga).is_some_and(|awaited| {
        let stream = format!("{}-{id}", S::State::AGGREGATE);
        request_id == step_id(&stream, awaited.version, 0) && *step == awaited.step
    })
}

/// A command that a saga wants sent to an aggregate, without its context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The aggregate that decides it.
    pub aggregate: &'static str,
    /// The id of the aggregate.
    pub aggregate_id: String,
    /// The full name of the request, such as `bank.v1.SendTransferRequest`.
    pub type_name: &'static str,
    /// The encoded request, without its context.
    pub request: Vec<u8>,
}

/// The request id of a step: of the saga with this stream, after its event of this version, at this
/// place among the steps that the event asks for. Everybody makes the same, so a step has one effect,
/// whoever sends it. It is a UUID of version 8, which the command service keeps for steps: another
/// command with such an id, or one that comes too early, is refused and leaves no trace. So what the
/// log has answered under the id of a step was answered to that step.
pub fn step_id(stream: &str, version: u64, index: u64) -> String {
    derived_id("step", &[stream, &version.to_string(), &index.to_string()])
}

/// A request id that is made from what the request is: the text of a UUID of version 8 over SHA-256,
/// in the manner of RFC 9562.
pub fn derived_id(what: &str, parts: &[&str]) -> String {
    let mut hash = Sha256::new_with_prefix("daybook.dev/saga/");
    hash.update(what);
    for part in parts {
        // No part contains it, so no two lists of parts read the same.
        hash.update([0]);
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut bytes: [u8; 16] = std::array::from_fn(|at| digest[at]);
    // The version and the variant.
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

impl<C: CommandSet> From<&C> for Step {
    fn from(command: &C) -> Self {
        Self {
            aggregate: C::AGGREGATE,
            aggregate_id: command.key().to_owned(),
            type_name: command.type_name(),
            request: command.content(),
        }
    }
}

impl Step {
    /// The step that sends this command.
    pub fn send(command: impl CommandSet) -> Self {
        Self::from(&command)
    }
}
