//! Stands between a saga process and the command service, and decides what becomes of each
//! command: so that a process can be killed at exactly this step, or a step has to wait.

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use daybook_contract::daybook::v1::command_service_client::CommandServiceClient;
use daybook_contract::daybook::v1::command_service_server::{CommandService, CommandServiceServer};
use daybook_contract::daybook::v1::execute_stream_response::Outcome;
use daybook_contract::daybook::v1::{
    CommandContext, CommandReceipt, ExecuteRequest, ExecuteStreamRequest, ExecuteStreamResponse,
};
use daybook_contract::error::Error;
use daybook_testing::{Ports, free_port};
use futures::{Stream, StreamExt};
use prost::Message;
use prost_types::Any;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::transport::{Channel, Server};
use tonic::{Extensions, Request, Response, Status, Streaming};
use tower::{Service, ServiceExt};

use crate::common::channel;

/// A gate; it is gone when this is dropped.
pub struct Gate {
    /// The ports of a process that sends its commands through it.
    pub ports: Ports,
    state: State,
    server: JoinHandle<()>,
}

#[derive(Clone)]
struct State {
    commands: CommandServiceClient<Channel>,
    rules: Arc<Mutex<Rules>>,
}

#[derive(Default)]
struct Rules {
    /// The requests that find nobody, by the name of their type.
    closed: BTreeSet<String>,
    /// The requests that never get an answer, nor do those behind them on their stream.
    silent: BTreeSet<String>,
    /// Whether each saga is stopped at each new request.
    stops: bool,
    /// The requests at which a saga was stopped; it is not stopped there again.
    known: HashSet<Vec<u8>>,
    /// The sagas that are stopped: nothing of theirs passes.
    stopped: BTreeSet<String>,
}

/// What becomes of a request.
enum Fate {
    Passes,
    /// It does not arrive.
    IsLost,
    /// It has its effect, and nobody is told.
    IsNotAnswered,
    /// It has no effect, and whoever waits for an answer waits.
    IsHeld,
}

/// The one field that all command requests have in common.
#[derive(Clone, PartialEq, Message)]
struct ContextOnly {
    #[prost(message, optional, tag = "1")]
    context: Option<CommandContext>,
}

impl Gate {
    /// A gate before the command service of these ports.
    pub async fn before(ports: Ports) -> Self {
        let commands = channel(ports.command_url());
        let state =
            State { commands: CommandServiceClient::new(commands.clone()), rules: Arc::default() };
        let ports = Ports { command: free_port(), ..ports.beside() };
        let others = move |request: http::Request<axum::body::Body>| {
            let mut commands = commands.clone();
            async move {
                let unavailable =
                    |error: tonic::transport::Error| Status::unavailable(error.to_string());
                let answer = match commands.ready().await {
                    Ok(commands) => commands.call(request.map(Body::new)).await,
                    Err(error) => Err(error),
                };
                answer.unwrap_or_else(|error| unavailable(error).into_http())
            }
        };
        let routes = Routes::new(CommandServiceServer::new(state.clone()))
            .into_axum_router()
            .fallback(others);
        let address = SocketAddr::from(([127, 0, 0, 1], ports.command));
        let server = Server::builder().add_routes(Routes::from(routes)).serve(address);
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self { ports, state, server }
    }

    /// From now on requests of this type find nobody.
    pub fn close(&self, type_name: &str) {
        self.state.rules().closed.insert(type_name.to_owned());
    }

    /// From now on requests of this type arrive and are not answered, for as long as anybody waits.
    pub fn silence(&self, type_name: &str) {
        self.state.rules().silent.insert(type_name.to_owned());
    }

    /// Everything passes again.
    pub fn open(&self) {
        let mut rules = self.state.rules();
        rules.closed.clear();
        rules.silent.clear();
    }

    /// From now on every saga is stopped at every request that comes for the first time: at one
    /// half of them before they reach the command service, at the others after they had their
    /// effect.
    pub fn stop_at_each_step(&self) {
        self.state.rules().stops = true;
    }

    /// Whether each of these sagas is stopped.
    pub fn stops(&self, sagas: &BTreeSet<String>) -> bool {
        sagas.is_subset(&self.state.rules().stopped)
    }

    /// Lets all of them go on, to their next request.
    pub fn release(&self) {
        self.state.rules().stopped.clear();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl State {
    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self, command: &Any) -> Fate {
        let mut rules = self.rules();
        let type_name = command.type_url.rsplit('/').next().unwrap_or_default();
        let context = ContextOnly::decode(command.value.as_slice()).unwrap().context.unwrap();
        let saga = context.correlation_id;
        if rules.closed.contains(type_name) || rules.stopped.contains(&saga) {
            return Fate::IsLost;
        }
        if rules.silent.contains(type_name) {
            return Fate::IsHeld;
        }
        if !rules.stops || !rules.known.insert(command.value.clone()) {
            return Fate::Passes;
        }
        rules.stopped.insert(saga);
        match command.value.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) % 2 {
            0 => Fate::IsLost,
            _ => Fate::IsNotAnswered,
        }
    }

    async fn answer(&self, command: Any, metadata: MetadataMap) -> Result<CommandReceipt, Status> {
        let lost = Err(Status::unavailable("the gate is closed"));
        let fate = self.fate(&command);
        match fate {
            Fate::IsLost => return lost,
            Fate::IsHeld => return std::future::pending().await,
            Fate::Passes | Fate::IsNotAnswered => {}
        }
        let request = ExecuteRequest { command: Some(command) };
        let request = Request::from_parts(metadata, Extensions::default(), request);
        let answer = self.commands.clone().execute(request).await;
        match fate {
            Fate::Passes => answer.map(Response::into_inner),
            _ => lost,
        }
    }
}

#[tonic::async_trait]
impl CommandService for State {
    async fn execute(
        &self,
        request: Request<ExecuteRequest>,
    ) -> Result<Response<CommandReceipt>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.answer(request.command.unwrap(), metadata).await.map(Response::new)
    }

    type ExecuteStreamStream =
        Pin<Box<dyn Stream<Item = Result<ExecuteStreamResponse, Status>> + Send>>;

    async fn execute_stream(
        &self,
        request: Request<Streaming<ExecuteStreamRequest>>,
    ) -> Result<Response<Self::ExecuteStreamStream>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let state = self.clone();
        let answers = requests.then(move |request| {
            let (state, metadata) = (state.clone(), metadata.clone());
            async move {
                let outcome = match state.answer(request?.command.unwrap(), metadata).await {
                    Ok(receipt) => Outcome::Receipt(receipt),
                    Err(status) => Outcome::Failure(Error::from(&status).into()),
                };
                Ok(ExecuteStreamResponse { outcome: Some(outcome) })
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
