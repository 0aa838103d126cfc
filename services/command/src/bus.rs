//! The command bus: validates a command, finds its aggregate, and submits the decision to the log.

use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;

use daybook_contract::actor;
use daybook_contract::contract::{AggregateState, CommandSet, Dispatch, Violations};
use daybook_contract::daybook::v1::{CommandReceipt, ErrorReason, StepAnswer};
use daybook_contract::error::Error;
use daybook_kernel::{Aggregate, Context, Saga, StreamName, step_id};
use daybook_log::{Decider, EventLog, Folder, Submission};
use foldhash::HashMap;
use prost_types::Timestamp;
use tonic::{Request, Status};
use uuid::Uuid;

use crate::answers::to_receipt;
use crate::caller::Caller;
use crate::decide::{self, Awaits, Given, Recording, SagaRead};
use crate::from_log;

/// Routes commands to aggregates. Clones are the same bus.
#[derive(Clone)]
pub struct CommandBus {
    log: EventLog,
    routes: Arc<Routes>,
}

#[derive(Default)]
struct Routes {
    /// By name of the aggregate: a `Route<A::Command>`.
    typed: HashMap<&'static str, Box<dyn Any + Send + Sync>>,
    decoders: Vec<Box<dyn Decoder>>,
    /// By name of the aggregate: how its state is made.
    folders: HashMap<&'static str, &'static dyn Folder>,
    /// By name of the aggregate: which step a saga waits for.
    sagas: HashMap<&'static str, Awaits>,
}

/// How the commands of an aggregate are decided.
struct Route<C> {
    /// Makes the decider for a command that is given some states.
    decider: fn(C, Given<C>, Context) -> Box<dyn Decider>,
    /// Of a saga; `None` for another aggregate.
    recording: Option<Recording<C>>,
}

/// Takes commands by their type name.
trait Decoder: Send + Sync {
    fn decode(
        &self,
        type_name: &str,
        bytes: &[u8],
        actor: &str,
        bus: &CommandBus,
    ) -> Option<Result<Submission, Error>>;
}

/// Registers aggregates, then becomes a bus.
pub struct Builder {
    routes: Routes,
}

impl daybook_kernel::Registry for Builder {
    fn aggregate<A: Aggregate>(&mut self) {
        let route = Route::<A::Command> { decider: decide::decider::<A>, recording: None };
        self.routes.typed.insert(A::State::AGGREGATE, Box::new(route));
        self.routes.folders.insert(A::State::AGGREGATE, decide::folder::<A>());
        self.routes.decoders.push(Box::new(TypedDecoder::<A>(PhantomData)));
    }
}

impl daybook_kernel::SagaRegistry for Builder {
    fn saga<S: Saga>(&mut self) {
        let recording = Some(decide::recording::<S>());
        let route = Route::<S::Command> { decider: decide::decider::<S>, recording };
        self.routes.typed.insert(S::State::AGGREGATE, Box::new(route));
        self.routes.sagas.insert(S::State::AGGREGATE, decide::awaits::<S>);
    }
}

impl Builder {
    /// A bus over a log, with what has been registered.
    pub fn build(self, log: EventLog) -> CommandBus {
        CommandBus { log, routes: Arc::new(self.routes) }
    }
}

impl CommandBus {
    /// Begins a bus.
    pub fn builder() -> Builder {
        Builder { routes: Routes::default() }
    }

    /// The log behind the bus.
    pub fn log(&self) -> &EventLog {
        &self.log
    }

    /// Whether streams of this category belong to an aggregate.
    pub fn owns(&self, category: &str) -> bool {
        self.routes.typed.contains_key(category)
    }

    /// Turns a command in an Any into a submission, checked by the rules of the contract.
    pub(crate) fn submission(
        &self,
        command: Option<prost_types::Any>,
        actor: &str,
    ) -> Result<Submission, Error> {
        let Some(command) = command else {
            let mut violations = Violations::default();
            violations.add("command", "must be set: the request of a command RPC");
            return Err(Error::invalid(violations));
        };
        let name = command.type_url.rsplit('/').next().unwrap_or_default();
        for decoder in &self.routes.decoders {
            if let Some(submission) = decoder.decode(name, &command.value, actor, self) {
                return submission;
            }
        }
        let message = format!(
            "{:?} is not a command of this server; a command is the request of a command RPC, \
             such as type.googleapis.com/bank.v1.DepositRequest",
            command.type_url
        );
        Err(Error::new(ErrorReason::UnknownCommand, message.as_str())
            .with("type_url", &command.type_url)
            .with_violation("command.type_url", message))
    }

    fn route<C: CommandSet>(&self) -> Result<&Route<C>, Error> {
        let route = self.routes.typed.get(C::AGGREGATE);
        let route = route.and_then(|route| route.downcast_ref::<Route<C>>());
        route.ok_or_else(|| not_registered(C::AGGREGATE))
    }

    /// Checks a command and fills in what the caller left to the server.
    fn prepare<C: CommandSet>(&self, mut command: C, actor: String) -> Result<Submission, Error> {
        let route = self.route::<C>()?;
        let mut violations = Violations::default();
        command.validate(&mut violations);
        if !violations.is_empty() {
            return Err(Error::invalid(violations));
        }
        let context = command.take_context().unwrap_or_default();
        let caller = Caller::new(context, command.type_name(), || command.content())?;
        if command.key().is_empty() && command.generates_key() {
            command.set_key(Uuid::now_v7().to_string());
        }
        let stream = stream(C::AGGREGATE, command.key())?;
        let (indexes, reads) = reads(&command, &self.routes)?;
        let cx = Context {
            aggregate_id: stream.id().to_owned(),
            now: Timestamp::default(),
            command_id: caller.request_id().to_owned(),
            actor: actor.clone(),
        };
        let recording = route.recording;
        let recorded = recording.and_then(|recording| (recording.recorded)(&mut command));
        let answer_of = recorded.map(|answer| step_request_id(&stream, answer));
        let step_of = caller.is_step().then(|| self.sagas(&command, &indexes, &caller));
        let given = Given { reads: indexes, step_of, recording };
        let decider = (route.decider)(command, given, cx);
        Ok(Submission { reads, answer_of, ..caller.submission(stream, actor, decider) })
    }

    /// The sagas among the states that a command is given, of which it may be a step. A step expects
    /// no version.
    fn sagas<C: CommandSet>(&self, command: &C, given: &[usize], caller: &Caller) -> Vec<SagaRead> {
        if caller.expects_version() {
            return Vec::new();
        }
        let reads = command.reads();
        let given = given.iter().enumerate().filter_map(|(place, index)| {
            let read = reads.get(*index)?;
            let awaits = *self.routes.sagas.get(read.aggregate)?;
            Some(SagaRead { place, id: read.key.to_owned(), awaits })
        });
        given.collect()
    }
}

impl Dispatch for CommandBus {
    async fn dispatch<C: CommandSet>(&self, request: Request<C>) -> Result<CommandReceipt, Status> {
        let actor = actor::of(request.metadata())?;
        let submission = self.prepare(request.into_inner(), actor)?;
        let receipt = self.log.submit(submission).await.map_err(from_log)?;
        Ok(to_receipt(receipt))
    }
}

fn not_registered(aggregate: &str) -> Error {
    let message = format!("aggregate {aggregate} is not registered here");
    Error::new(ErrorReason::NotSupported, message)
}

fn stream(aggregate: &str, id: &str) -> Result<StreamName, Error> {
    StreamName::new(aggregate, id)
        .map_err(|error| Error::new(ErrorReason::InvalidRequest, error.to_string()))
}

/// The request id of the step of a saga that an answer is to.
fn step_request_id(saga: &StreamName, answer: &StepAnswer) -> Uuid {
    let id = step_id(saga.as_str(), answer.version, answer.index.into());
    Uuid::parse_str(&id).expect("the id of a step is a UUID")
}

/// A stream that a decision reads, and how its state is made.
type ReadStream = (StreamName, &'static dyn Folder);

/// The streams that a command reads, and which of its reads they are: those without a key are
/// left out.
fn reads(
    command: &impl CommandSet,
    routes: &Routes,
) -> Result<(Vec<usize>, Vec<ReadStream>), Error> {
    let reads = command.reads();
    let (mut indexes, mut streams) =
        (Vec::with_capacity(reads.len()), Vec::with_capacity(reads.len()));
    for (index, read) in reads.iter().enumerate().filter(|(_, read)| !read.key.is_empty()) {
        let folder = routes.folders.get(read.aggregate);
        let folder = folder.ok_or_else(|| not_registered(read.aggregate))?;
        let stream = stream(read.aggregate, read.key)
            .map_err(|error| error.with_violation(read.field, "must be an id"))?;
        indexes.push(index);
        streams.push((stream, *folder));
    }
    Ok((indexes, streams))
}

struct TypedDecoder<A>(PhantomData<fn() -> A>);

impl<A: Aggregate> Decoder for TypedDecoder<A> {
    fn decode(
        &self,
        type_name: &str,
        bytes: &[u8],
        actor: &str,
        bus: &CommandBus,
    ) -> Option<Result<Submission, Error>> {
        let command = A::Command::decode(type_name, bytes)?;
        Some(match command {
            Ok(command) => bus.prepare(command, actor.to_owned()),
            Err(error) => {
                let message = format!("command.value is not a {type_name}: {error}");
                let error = Error::new(ErrorReason::InvalidRequest, message.as_str());
                Err(error.with_violation("command.value", message))
            }
        })
    }
}
