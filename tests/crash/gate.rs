//! Stands between a saga process and the command service, and decides what becomes of each
//! command: so that a process can be killed at exactly this step, or a step has to wait.

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use daybook_contract::daybook::v1::command_service_client::CommandServiceClient;
use daybook_contract::daybook::v1::command_service_server::{CommandService, CommandServiceServer};
use daybook_contract::daybook::v1::{
    CommandContext, CommandReceipt, ExecuteRequest, ExecuteStreamRequest, ExecuteStreamResponse,
};
use daybook_testing::{Ports, free_port};
use futures::Stream;
use prost::Message;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};
use tower::{Service, ServiceExt};

use crate::common::channel;

/// A gate; it is gone when this is dropped.
pub struct Gate {
    /// The ports of a process that sends its commands through it.
    pub ports: Ports,
    state: Arc<State>,
    server: JoinHandle<()>,
}

struct State {
    commands: CommandServiceClient<Channel>,
    rules: Mutex<Rules>,
    /// Changes when what is held is let go.
    released: watch::Sender<u64>,
}

#[derive(Default)]
struct Rules {
    /// The requests that find nobody, by the name of their type.
    closed: BTreeSet<String>,
    /// Whether each new request is held.
    holds: bool,
    /// The requests that have been held once; they are not held again.
    known: HashSet<Vec<u8>>,
    /// The sagas whose requests are held.
    held: BTreeSet<String>,
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
        let state = Arc::new(State {
            commands: CommandServiceClient::new(commands.clone()),
            rules: Mutex::default(),
            released: watch::Sender::new(0),
        });
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
        let routes = Routes::new(CommandServiceServer::from_arc(state.clone()))
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

    /// Everything passes again.
    pub fn open(&self) {
        self.state.rules().closed.clear();
    }

    /// From now on every request is held when it comes for the first time: one half of them before
    /// they reach the command service, the other half after they had their effect.
    pub fn hold(&self) {
        self.state.rules().holds = true;
    }

    /// Whether a request of each of these sagas is held.
    pub fn holds(&self, sagas: &BTreeSet<String>) -> bool {
        sagas.is_subset(&self.state.rules().held)
    }

    /// Lets go what is held: its sender, if it is still there, is told that nobody answers.
    pub fn release(&self) {
        self.state.rules().held.clear();
        self.state.released.send_modify(|count| *count += 1);
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

    /// Never answers, until what is held is let go.
    async fn held(&self, saga: String) -> Status {
        let mut released = self.released.subscribe();
        self.rules().held.insert(saga);
        let _ = released.changed().await;
        Status::unavailable("the gate has let it go")
    }
}

#[tonic::async_trait]
impl CommandService for State {
    async fn execute(
        &self,
        request: Request<ExecuteRequest>,
    ) -> Result<Response<CommandReceipt>, Status> {
        let command = request.get_ref().command.clone().unwrap();
        let type_name = command.type_url.rsplit('/').next().unwrap_or_default();
        if self.rules().closed.contains(type_name) {
            return Err(Status::unavailable("the gate is closed"));
        }
        let context = ContextOnly::decode(command.value.as_slice()).unwrap().context.unwrap();
        let new = {
            let mut rules = self.rules();
            rules.holds && rules.known.insert(command.value.clone())
        };
        let early = command.value.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) % 2 == 0;
        if new && early {
            return Err(self.held(context.correlation_id).await);
        }
        let answer = self.commands.clone().execute(request).await;
        match new {
            true => Err(self.held(context.correlation_id).await),
            false => answer,
        }
    }

    type ExecuteStreamStream =
        Pin<Box<dyn Stream<Item = Result<ExecuteStreamResponse, Status>> + Send>>;

    async fn execute_stream(
        &self,
        _: Request<Streaming<ExecuteStreamRequest>>,
    ) -> Result<Response<Self::ExecuteStreamStream>, Status> {
        Err(Status::unimplemented("a saga process sends no stream"))
    }
}
