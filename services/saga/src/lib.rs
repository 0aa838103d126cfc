//! The saga runtime: it follows the events of sagas, sends the commands that follow from them, and
//! records the answers in the sagas' own streams.
//!
//! What is to be done is in the rows of a projection ([`projection`]), which follow from events
//! alone; what is being done is in memory. A saga is taken up when its first event comes, or from its
//! row, and carried on without waiting for rows. The request ids of steps are derived from the saga and the
//! step (`ids.rs`), so that the log gives a step that is sent again its first answer; what is sent to
//! a saga's own stream changes nothing the second time, since its state knows what it waits for. Hence a
//! process that is killed, stopped for an hour, or run twice has no effect twice.
//!
//! *Not* here: what a saga does, which is for the domain to say.

mod executor;
mod flights;
mod history;
mod ids;
mod kind;
mod line;
mod metrics;
pub mod projection;
mod select;
mod sender;
mod service;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use daybook_bus::source::{LogReader, SourceFactory};
use daybook_contract::daybook::v1::ProjectionStatus;
use daybook_contract::daybook::v1::projection_service_server::ProjectionServiceServer;
use daybook_contract::daybook::v1::saga_service_server::SagaServiceServer;
use daybook_query::runtime::{self, Handle, Host, OpenError, start};
use daybook_query::{MAX_REQUEST_BYTES, ProjectionServer};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::transport::Channel;

use executor::Executor;
use flights::Flights;
use projection::Sagas;
use sender::Sender;
use service::SagaServer;

/// How long rows of sagas let events come. The executor, which does not ask, waits for them where a
/// saga is not carried on from memory.
const REST: Duration = Duration::from_millis(50);

/// How the runtime is run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where its projection is kept. One process at a time.
    pub data_dir: PathBuf,
    /// About how many records a transaction takes when there are that many.
    pub batch_size: usize,
    /// Which share of the sagas is this process's, when several run.
    pub share: Share,
}

/// A share of the sagas: those whose hash falls to the `index`th of `of` processes. The others
/// are taken over when nobody does them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Which one, from 0.
    pub index: u32,
    /// Of how many; at least 1.
    pub of: u32,
}

/// The running saga runtime.
pub struct SagaSide {
    host: Host,
    flights: Arc<Flights>,
    server: SagaServer,
    stop: watch::Sender<bool>,
    executor: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl SagaSide {
    /// Starts the runtime. `commands` is a channel to the command service. Returns at once.
    pub fn open(
        config: Config,
        factory: Arc<dyn SourceFactory>,
        log: Arc<dyn LogReader>,
        commands: Channel,
    ) -> Result<Self, OpenError> {
        let settings = runtime::Settings {
            batch_size: config.batch_size,
            rest: REST,
            ..runtime::Settings::new(config.data_dir)
        };
        let host = Host::open(settings, factory.clone(), log.clone(), |environment| {
            vec![start::<Sagas>(environment)]
        })?;
        let sagas = host.handles()[0].clone();
        let flights = Arc::new(Flights::default());
        let sender = Sender::new(commands);
        let (stop, stopping) = watch::channel(false);
        let server = SagaServer::new(sagas.clone(), log.clone(), sender.clone(), flights.clone());
        let executor = Executor::new(sagas, factory, log, sender, flights.clone(), config.share);
        let executor = tokio::spawn(executor.run(stopping));
        Ok(Self { host, flights, server, stop, executor: tokio::sync::Mutex::new(Some(executor)) })
    }

    /// `daybook.v1.SagaService`, and `daybook.v1.ProjectionService` over its projection.
    pub fn routes(&self) -> Routes {
        let sagas = SagaServiceServer::new(self.server.clone());
        let projections = ProjectionServiceServer::new(ProjectionServer::new(&self.host));
        Routes::new(sagas.max_decoding_message_size(MAX_REQUEST_BYTES))
            .add_service(projections.max_decoding_message_size(MAX_REQUEST_BYTES))
    }

    /// Its projection, which is the only one.
    pub fn projections(&self) -> &[Handle] {
        self.host.handles()
    }

    /// How the projection of the sagas is doing.
    pub fn status(&self) -> ProjectionStatus {
        self.host.handles()[0].status()
    }

    /// How many steps were tried in vain and are waiting, and what happened to one of them.
    pub fn waiting(&self) -> (usize, String) {
        self.flights.waiting()
    }

    /// Stops sending steps, then stops the projection. A step under way is sent again at the next
    /// start, and has one effect.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        if let Some(executor) = self.executor.lock().await.take() {
            let _ = executor.await;
        }
        self.host.shutdown().await;
    }
}
