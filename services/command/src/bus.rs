//! The command bus: validates a command, finds its aggregate, and submits the decision to the log.

use std::any::Any;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use daybook_contract::contract::{AggregateState, CommandSet, Dispatch, EventSet, Violations};
use daybook_contract::daybook::v1::{
    CommandContext, CommandReceipt, ErrorReason, EventMetadata, Failure, RecordedEvent,
    recorded_event,
};
use daybook_contract::error::Error;
use daybook_kernel::{Aggregate, Context, Rejection, RejectionKind, StreamName};
use daybook_log::{
    Claim, Decider, EventLog, Folder, NewEvent, Payload, Receipt, RequestKey, State, Submission,
};
use prost_types::Timestamp;
use sha2::{Digest, Sha256};
use tonic::{Code, Request, Response, Status};
use uuid::Uuid;

use crate::{actor, from_log};

/// What stands before the name of a message in an Any.
pub(crate) const TYPE_URL_PREFIX: &str = "type.googleapis.com/";

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
}

/// Makes the decider for a command; one for each aggregate.
struct Route<C> {
    decider: fn(C, Context) -> Box<dyn Decider>,
}

/// Takes commands by their type name.
trait Decoder: Send + Sync {
    fn decode(
        &self,
        type_name: &str,
        bytes: Bytes,
        actor: &str,
    ) -> Option<Result<Submission, Error>>;
}

/// Registers aggregates, then becomes a bus.
pub struct Builder {
    routes: Routes,
}

impl daybook_kernel::Registry for Builder {
    fn aggregate<A: Aggregate>(&mut self) {
        let route = Route::<A::Command> { decider: Decide::<A>::boxed };
        self.routes.typed.insert(A::State::AGGREGATE, Box::new(route));
        self.routes.decoders.push(Box::new(TypedDecoder::<A>(PhantomData)));
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
        let bytes = Bytes::from(command.value);
        for decoder in &self.routes.decoders {
            if let Some(submission) = decoder.decode(name, bytes.clone(), actor) {
                return submission;
            }
        }
        let message = format!(
            "{:?} is not a command of this server; a command is the request of a command RPC, \
             such as {TYPE_URL_PREFIX}bank.v1.DepositRequest",
            command.type_url
        );
        Err(Error::new(ErrorReason::UnknownCommand, message.as_str())
            .with("type_url", &command.type_url)
            .with_violation("command.type_url", message))
    }
}

impl Dispatch for CommandBus {
    async fn dispatch<C: CommandSet>(
        &self,
        request: Request<C>,
    ) -> Result<Response<CommandReceipt>, Status> {
        let actor = actor::of(request.metadata())?;
        let route = self
            .routes
            .typed
            .get(C::AGGREGATE)
            .and_then(|route| route.downcast_ref::<Route<C>>())
            .ok_or_else(|| {
                let message = format!("aggregate {} is not registered here", C::AGGREGATE);
                Error::new(ErrorReason::NotSupported, message)
            })?;
        let submission = prepare(request.into_inner(), &actor, route.decider)?;
        let receipt = self.log.submit(submission).await.map_err(from_log)?;
        Ok(Response::new(to_receipt(receipt)))
    }
}

/// The receipt as a caller sees it.
pub(crate) fn to_receipt(receipt: Receipt) -> CommandReceipt {
    CommandReceipt {
        aggregate_id: receipt.aggregate_id,
        version: receipt.version,
        position: receipt.position,
        event_ids: receipt.event_ids,
        replayed: receipt.replayed,
        recorded_time: Some(receipt.recorded_time),
    }
}

/// Checks a command and fills in what the caller left to the server.
fn prepare<C: CommandSet>(
    mut command: C,
    actor: &str,
    decider: fn(C, Context) -> Box<dyn Decider>,
) -> Result<Submission, Error> {
    let mut violations = Violations::default();
    command.validate(&mut violations);
    if !violations.is_empty() {
        return Err(Error::invalid(violations));
    }
    let context = command.context().cloned().unwrap_or_default();
    let caller = Caller::new(context, command.type_name(), || command.content())?;
    if command.key().is_empty() && command.generates_key() {
        command.set_key(Uuid::now_v7().to_string());
    }
    let stream = StreamName::new(C::AGGREGATE, command.key())
        .map_err(|error| Error::new(ErrorReason::InvalidRequest, error.to_string()))?;
    let cx = Context {
        aggregate_id: stream.id().to_owned(),
        now: Timestamp::default(),
        command_id: caller.request_id.clone(),
        actor: actor.to_owned(),
    };
    Ok(caller.submission(stream, actor, decider(command, cx)))
}

/// What a CommandContext says, checked.
pub(crate) struct Caller {
    request_id: String,
    request: Option<RequestKey>,
    context: CommandContext,
}

impl Caller {
    /// Checks a context. `content` is the encoded request without its context.
    pub(crate) fn new(
        context: CommandContext,
        type_name: &str,
        content: impl FnOnce() -> Vec<u8>,
    ) -> Result<Self, Error> {
        if !context.branch_id.is_empty() {
            return Err(not_supported("context.branch_id", "branches are"));
        }
        if context.request_id.is_empty() {
            // Nobody can repeat a request whose id only the server knows: nothing to remember.
            return Ok(Self { request_id: Uuid::now_v7().to_string(), request: None, context });
        }
        let id: Uuid = context.request_id.parse().map_err(|_| {
            let message = format!("{:?} is not a UUID", context.request_id);
            Error::new(ErrorReason::InvalidRequest, message.as_str())
                .with_violation("context.request_id", message)
        })?;
        let fingerprint = fingerprint(type_name, &content(), context.expected_version);
        let request = Some(RequestKey { id, fingerprint });
        Ok(Self { request_id: id.to_string(), request, context })
    }

    /// The submission of a decision about a stream.
    pub(crate) fn submission(
        self,
        stream: StreamName,
        actor: &str,
        decider: Box<dyn Decider>,
    ) -> Submission {
        Submission {
            stream,
            reads: Vec::new(),
            expected_version: self.context.expected_version,
            request: self.request,
            metadata: EventMetadata {
                actor: actor.to_owned(),
                correlation_id: self.context.correlation_id,
                causation_id: self.context.causation_id,
                request_id: self.request_id,
            },
            decider,
        }
    }
}

/// The answer to a field that is in the contract but not built yet.
fn not_supported(field: &str, what: &str) -> Error {
    let message = format!("{field}: {what} not supported yet; leave the field out");
    Error::new(ErrorReason::NotSupported, message).with("field", field)
}

/// What makes two requests the same: type, content and expected version. Tracing ids do not count.
fn fingerprint(type_name: &str, content: &[u8], expected_version: Option<u64>) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(type_name);
    hash.update([0, u8::from(expected_version.is_some())]);
    hash.update(expected_version.unwrap_or_default().to_be_bytes());
    hash.update(content);
    let mut short = [0; 16];
    short.copy_from_slice(&hash.finalize()[..16]);
    short
}

struct TypedDecoder<A>(PhantomData<fn() -> A>);

impl<A: Aggregate> Decoder for TypedDecoder<A> {
    fn decode(
        &self,
        type_name: &str,
        bytes: Bytes,
        actor: &str,
    ) -> Option<Result<Submission, Error>> {
        let command = A::Command::decode(type_name, bytes)?;
        Some(match command {
            Ok(command) => prepare(command, actor, Decide::<A>::boxed),
            Err(error) => {
                let message = format!("command.value is not a {type_name}: {error}");
                Err(Error::new(ErrorReason::InvalidRequest, message.as_str())
                    .with_violation("command.value", message))
            }
        })
    }
}

/// One decision of an aggregate.
struct Decide<A: Aggregate> {
    command: A::Command,
    cx: Context,
    decided: Vec<A::Event>,
}

impl<A: Aggregate> Decide<A> {
    fn boxed(command: A::Command, cx: Context) -> Box<dyn Decider> {
        Box::new(Self { command, cx, decided: Vec::new() })
    }
}

impl<A: Aggregate> Decider for Decide<A> {
    fn folder(&self) -> Option<Arc<dyn Folder>> {
        Some(Arc::new(Fold::<A>(PhantomData)))
    }

    fn decide(
        &mut self,
        state: Option<&State>,
        _reads: &[&State],
        now: Timestamp,
    ) -> Result<Vec<NewEvent>, Failure> {
        self.cx.now = now;
        let Some(state) = state.and_then(|state| state.downcast_ref::<A::State>()) else {
            let message = format!("the state of a {} is of another type", A::State::AGGREGATE);
            return Err(Error::new(ErrorReason::Internal, message).into());
        };
        self.decided = A::decide(state, &self.command, &self.cx)
            .map_err(|rejection| refusal::<A>(&rejection, &self.cx))?;
        Ok(self.decided.iter().map(new_event::<A>).collect())
    }

    fn taken(&self, claim: &Claim) -> Failure {
        let message = format!("{:?} of {} is taken", claim.key, claim.scope);
        Error::new(ErrorReason::Internal, message).into()
    }

    fn evolve(&mut self, state: &mut State) {
        if let Some(state) = state.downcast_mut::<A::State>() {
            for event in &self.decided {
                A::evolve(state, event);
            }
        }
    }
}

fn new_event<A: Aggregate>(event: &A::Event) -> NewEvent {
    NewEvent {
        name: event.name().to_owned(),
        version: event.version(),
        payload: Payload::Message {
            type_url: format!("{TYPE_URL_PREFIX}{}", event.type_name()),
            value: event.encode(),
        },
        claims: Vec::new(),
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
        let Some(recorded_event::Payload::Event(any)) = &event.payload else {
            return Err("it carries no event of the contract".to_owned());
        };
        let value = Bytes::copy_from_slice(&any.value);
        let event = A::Event::decode(&event.event_name, event.event_version, value)
            .map_err(|error| error.to_string())?;
        let state = state
            .downcast_mut::<A::State>()
            .ok_or_else(|| "the state is of another type".to_owned())?;
        A::evolve(state, &event);
        Ok(())
    }
}
