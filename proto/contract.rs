//! What the generated code of every domain has in common: the traits that it implements and that
//! the rest of Daybook is written against. There is no knowledge of any domain here.

use std::fmt;
use std::future::Future;

use bytes::Bytes;
use tonic::{Request, Response, Status};

use crate::daybook::v1::{CommandContext, CommandReceipt};

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
    fn decode(type_name: &str, bytes: Bytes) -> Option<Result<Self, prost::DecodeError>>;

    /// The full name of the request message.
    fn type_name(&self) -> &'static str;

    /// The path of the RPC, such as `/bank.v1.CommandService/Deposit`.
    fn method(&self) -> &'static str;

    /// The context that came with it.
    fn context(&self) -> Option<&CommandContext>;

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
}

/// The current events of one aggregate: a generated enum. `U` is the type with the upcasters of
/// superseded versions, which the generated trait `Upcast` of the aggregate requires.
pub trait EventSet<U>: fmt::Debug + Clone + PartialEq + Send + Sync + Sized + 'static {
    /// The name of the aggregate that records them.
    const AGGREGATE: &'static str;

    /// Decodes an event by its name and schema version, and brings an older version up to the
    /// current one.
    fn decode(name: &str, version: u32, bytes: Bytes) -> Result<Self, EventError>;

    /// The name of the event, such as `MoneyDeposited`.
    fn name(&self) -> &'static str;

    /// The current version of its schema.
    fn version(&self) -> u32;

    /// The full name of the message, such as `bank.v1.MoneyDeposited`.
    fn type_name(&self) -> &'static str;

    /// The encoded message.
    fn encode(&self) -> Vec<u8>;
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

/// Carries out commands; the generated routers of the command services call it.
pub trait Dispatch: Clone + Send + Sync + 'static {
    /// Carries out one command. A receipt says that its events are durable.
    fn dispatch<C: CommandSet>(
        &self,
        request: Request<C>,
    ) -> impl Future<Output = Result<Response<CommandReceipt>, Status>> + Send;
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
