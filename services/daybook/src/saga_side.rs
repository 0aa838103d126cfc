//! The saga side of a process: the saga runtime, its service, and where its events come from.

use std::sync::Arc;
use std::time::Duration;

use daybook_query::runtime::Handle;
use daybook_saga::{SagaSide as Sagas, Share};
use tokio::sync::watch;

use crate::command_side::services_of;
use crate::config::Config;
use crate::http::{Health, Report};
use crate::query_side::{Events, report};
use crate::serve::{self, Running};

/// A running saga side.
pub struct SagaSide {
    /// The gRPC server.
    pub server: Running,
    sagas: Arc<Sagas>,
    closing: watch::Sender<bool>,
}

/// Starts the saga runtime and serves its services.
pub async fn start(config: &Config, events: &Events) -> anyhow::Result<SagaSide> {
    let listener = serve::bind(config.saga_listen, "--saga-listen").await?;
    let data_dir = config.data.join("saga");
    let (channel, log) = (events.channel.clone(), Arc::new(events.log.clone()));
    let settings = daybook_saga::Config {
        data_dir,
        batch_size: config.batch_size,
        share: Share { index: config.saga_instance, of: config.saga_instances },
    };
    let sagas = Arc::new(Sagas::open(settings, Arc::clone(&events.factory), log, channel)?);
    let closing = watch::Sender::new(false);
    let services = services_of(|name| {
        ["daybook.v1.SagaService", "daybook.v1.ProjectionService"].contains(&name)
    });
    let routes = sagas.routes();
    let server =
        serve::serve(listener, config, routes, |routes| routes, services, closing.subscribe());
    Ok(SagaSide { server: server.await?, sagas, closing })
}

impl SagaSide {
    /// What it remembers, for the ProjectionService of the whole process.
    pub fn projections(&self) -> &[Handle] {
        self.sagas.projections()
    }

    /// How its parts are doing.
    pub fn health(&self) -> Arc<dyn Health> {
        Arc::new(SagaHealth(self.sagas.clone()))
    }

    /// Stops sending steps and waits for requests under way.
    pub async fn stop(self, deadline: Duration) {
        self.server.not_serving().await;
        self.closing.send_replace(true);
        self.sagas.shutdown().await;
        self.server.drained(deadline).await;
    }
}

struct SagaHealth(Arc<Sagas>);

impl Health for SagaHealth {
    fn reports(&self) -> Vec<Report> {
        let problem = match self.0.waiting() {
            (0, _) => String::new(),
            (steps, problem) => format!("{steps} steps wait to be tried again: {problem}"),
        };
        vec![report(&self.0.status()), Report::working("sagas", problem)]
    }
}
