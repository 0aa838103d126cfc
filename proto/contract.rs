//! What the generated code of every domain has in common: the traits that it implements and that
//! the rest of Daybook is written against. There is no knowledge of any domain here.

use std::any::Any;
use std::fmt;
use std::future::Future;

use bytes::Bytes;
use tonic::{Request, Status};
use unicode_normalization::UnicodeNormalization;

use crate::METHODS;
use crate::daybook::v1::{CommandContext, CommandReceipt, ErrorReason};
use crate::error::Error;

/// The state of an aggregate: a message with the option `daybook.v1.aggregate`.
pub trait AggregateState: prost::Message + Default + Clone + PartialEq + 'static {
    /// The name of the aggregate and category of its streams, such as `bank.account`.
    const AGGREGATE: &'static str;
    /// The Kafka topic of its events, such as `bank-events`.
    const TOPIC: &'static str;
    /// The full name of the state message, such as `bank.v1.AccountState`.
    const TYPE_NAME: &'static str;
}

/// The commands of one aggregate: a generated enum with a variant for each command RPC.
pub trait CommandSet: fmt::Debug + Clone + Send + Sync + Sized + 'static {
    /// The name of the aggregate that decides them.
    const AGGREGATE: &'static str;

    /// Decodes a request by its full type name, such as `bank.v1.DepositRequest`. `None` when it
    /// is not a command of this aggregate.
    fn decode(type_name: &str, bytes: &[u8]) -> Option<Result<Self, prost::DecodeError>>;

    /// The full name of the request message.
    fn type_name(&self) -> &'static str;

    /// The path of the RPC, such as `/bank.v1.CommandService/Deposit`.
    fn method(&self) -> &'static str;

    /// Takes out the context that came with it.
    fn take_context(&mut self) -> Option<CommandContext>;

    /// The id of the aggregate; empty when the server is to make one.
    fn key(&self) -> &str;

    /// Sets the id of the aggregate.
    fn set_key(&mut self, key: String);

    /// Whether the server makes an id when the key is empty.
    fn generates_key(&self) -> bool;

    /// The encoded request without its context: what makes two requests the same command.
    fn content(&self) -> Vec<u8>;

    /// Adds every violation of the rules of the contract.
    fn validate(&self, violations: &mut Violations);

    /// The other aggregates whose states the decision depends on, in the order of the contract.
    fn reads(&self) -> Vec<Read<'_>>;

    /// Sets the state of one of [`Self::reads`], by its index; it is the default one before. False
    /// when there is no such read, or its state is of another type.
    fn set_read(&mut self, index: usize, state: &dyn Any) -> bool;
}

/// Another aggregate that a command reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read<'a> {
    /// The name of the aggregate.
    pub aggregate: &'static str,
    /// Its id; empty when the request has none, and then there is nothing to read.
    pub key: &'a str,
    /// The request field with the id.
    pub field: &'static str,
}

/// Sets a state that a command reads; for the generated [`CommandSet::set_read`].
pub fn set_read<S: AggregateState>(read: &mut S, state: &dyn Any) -> bool {
    let Some(state) = state.downcast_ref::<S>() else { return false };
    read.clone_from(state);
    true
}

/// The current events of one aggregate: a generated enum. `U` is the type with the upcasters of
/// superseded versions, which the generated trait `Upcast` of the aggregate requires.
pub trait EventSet<U>: fmt::Debug + Clone + PartialEq + Send + Sync + Sized + 'static {
    /// The name of the aggregate that records them.
    const AGGREGATE: &'static str;
    /// What is unique among the aggregates of this kind.
    const UNIQUE: &'static [Unique];

    /// Decodes an event by its name and schema version, and brings an older version up to the
    /// current one.
    fn decode(name: &str, version: u32, bytes: Bytes) -> Result<Self, EventError>;

    /// The name of the event, such as `MoneyDeposited`.
    fn name(&self) -> &'static str;

    /// The current version of its schema.
    fn version(&self) -> u32;

    /// The full name of the message, such as `bank.v1.MoneyDeposited`.
    fn type_name(&self) -> &'static str;

    /// The type of the message in an Any: `type.googleapis.com/` and its full name.
    fn type_url(&self) -> &'static str;

    /// The encoded message.
    fn encode(&self) -> Vec<u8>;

    /// What the event does to values that must be unique: first what it gives up, then what it
    /// takes.
    fn claims(&self) -> Vec<Claim>;
}

/// Something that is unique among the aggregates of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unique {
    /// Its name, such as `users.email`.
    pub scope: &'static str,
    /// Why a value that another has is refused, such as `EMAIL_TAKEN`.
    pub reason: &'static str,
}

/// What an event does to a value of which a scope has only one. Claims are not recorded: they
/// follow from the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Among what it is unique: the scope of a [`Unique`].
    pub scope: &'static str,
    /// The value, in the form in which it is compared.
    pub key: String,
    /// What becomes of it.
    pub change: ClaimChange,
}

/// What an event does to a value that must be unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimChange {
    /// Its stream holds it from now on; refused while another stream does.
    Take,
    /// Its stream gives it up. Nothing happens when the stream does not hold it.
    Free,
}

/// Adds a claim, unless the value is empty; for the generated [`EventSet::claims`].
pub fn claim(
    claims: &mut Vec<Claim>,
    change: ClaimChange,
    scope: &'static str,
    value: &str,
    ignore_case: bool,
) {
    if value.is_empty() {
        return;
    }
    claims.push(Claim { scope, key: claim_key(value, ignore_case), change });
}

/// What is compared of a value that only one may have. An é is the same letter whether it is one
/// character or an e with an accent (UAX #15).
#[must_use]
pub fn claim_key(value: &str, ignore_case: bool) -> String {
    match ignore_case {
        true => value.to_lowercase().nfc().collect(),
        false => value.nfc().collect(),
    }
}

/// Why a recorded event cannot be understood.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EventError {
    /// The aggregate has no event of this name.
    #[error("{aggregate} has no event {name}")]
    UnknownName {
        /// The aggregate.
        aggregate: &'static str,
        /// The name of the event.
        name: String,
    },
    /// The event has no such schema version; it may be from a newer program.
    #[error("{aggregate} has no version {version} of {name}")]
    UnknownVersion {
        /// The aggregate.
        aggregate: &'static str,
        /// The name of the event.
        name: String,
        /// The version.
        version: u32,
    },
    /// The bytes are not such a message.
    #[error("{name} version {version} is malformed: {source}")]
    Malformed {
        /// The name of the event.
        name: String,
        /// The version.
        version: u32,
        /// What the decoder said.
        source: prost::DecodeError,
    },
    /// The record carries no event of the contract, but raw bytes or nothing.
    #[error("the record carries no event of the contract")]
    NotAnEvent,
}

/// Decodes one version of an event; for the generated [`EventSet::decode`].
pub fn decode_event<M: prost::Message + Default>(
    name: &str,
    version: u32,
    bytes: Bytes,
) -> Result<M, EventError> {
    M::decode(bytes).map_err(|source| EventError::Malformed {
        name: name.to_owned(),
        version,
        source,
    })
}

/// A request whose fields have rules in the contract.
pub trait Validate {
    /// Adds every violation of the rules.
    fn validate(&self, violations: &mut Violations);
}

/// What is wrong with the fields of a request; collected, so that the caller sees all at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations {
    path: Vec<String>,
    found: Vec<Violation>,
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field, such as `context.request_id` or `events[2].event_name`.
    pub field: String,
    /// What is wrong and what would be right.
    pub description: String,
}

impl Violations {
    /// Adds a violation of a field of the message at hand.
    pub fn add(&mut self, field: &str, description: impl Into<String>) {
        let mut path = self.path.join(".");
        if !path.is_empty() && !field.is_empty() {
            path.push('.');
        }
        path.push_str(field);
        self.found.push(Violation { field: path, description: description.into() });
    }

    /// Runs `check` with `field` put before the names of the fields.
    pub fn within(&mut self, field: impl Into<String>, check: impl FnOnce(&mut Self)) {
        self.path.push(field.into());
        check(self);
        self.path.pop();
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// What was found.
    pub fn into_vec(self) -> Vec<Violation> {
        self.found
    }
}

/// Carries out commands; the generated [`crate::dispatch`] calls it.
pub trait Dispatch: Clone + Send + Sync + 'static {
    /// Carries out one command. A receipt says that its events are durable.
    fn dispatch<C: CommandSet>(
        &self,
        request: Request<C>,
    ) -> impl Future<Output = Result<CommandReceipt, Status>> + Send;
}

/// Decodes a command of one aggregate and has it carried out.
pub(crate) async fn decode_and_dispatch<C: CommandSet>(
    dispatch: &impl Dispatch,
    method: &Method,
    request: Request<Bytes>,
) -> Result<CommandReceipt, Status> {
    let (metadata, extensions, bytes) = request.into_parts();
    let command = C::decode(method.input, &bytes).ok_or_else(|| not_a_command(method))?;
    // A slice of what a connection has read, which it can use again from here on.
    drop(bytes);
    let command =
        command.map_err(|error| Error::new(ErrorReason::InvalidRequest, error.to_string()))?;
    dispatch.dispatch(Request::from_parts(metadata, extensions, command)).await
}

/// What there is to know about a method of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// The path, such as `/bank.v1.CommandService/Deposit`.
    pub path: &'static str,
    /// The aggregate of a command; `None` for anything else.
    pub aggregate: Option<&'static str>,
    /// The full name of the request message.
    pub input: &'static str,
    /// The full name of the response message.
    pub output: &'static str,
    /// Whether the client sends a stream.
    pub client_streaming: bool,
    /// Whether the server sends a stream.
    pub server_streaming: bool,
}

impl Method {
    /// The method with a path; `None` when the contract has none.
    pub fn at(path: &str) -> Option<&'static Self> {
        Self::index_of(path).map(|at| &METHODS[at])
    }

    /// Where in [`METHODS`] the method with a path is.
    pub fn index_of(path: &str) -> Option<usize> {
        METHODS.binary_search_by(|method| method.path.cmp(path)).ok()
    }
}

/// The answer to a method that is no command of the contract.
pub(crate) fn not_a_command(method: &Method) -> Status {
    Error::new(ErrorReason::NotSupported, format!("{} is not a command", method.path)).into()
}

/// What there is to know about an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AggregateInfo {
    /// The name, such as `bank.account`.
    pub name: &'static str,
    /// The Kafka topic of its events.
    pub topic: &'static str,
    /// The full name of the state message.
    pub state: &'static str,
}
