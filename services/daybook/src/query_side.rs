//! The query side of a process: projections, their services, and where their events come from.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use daybook_bus::kafka::{KafkaSourceConfig, KafkaSourceFactory};
use daybook_bus::log::{GrpcLogReader, LogSourceFactory, connect};
use daybook_bus::settings::Kafka;
use daybook_bus::source::SourceFactory;
use daybook_contract::daybook::v1::{ProjectionState, ProjectionStatus};
use daybook_query::QuerySide as Projections;
use tokio::sync::watch;
use tracing::warn;

use crate::command_side::services_of;
use crate::config::Config;
use crate::http::{Health, Report};
use crate::publishing::projected_topics;
use crate::serve::{self, Running};

/// How long a query process over Kafka waits for the log to say which store it is.
const ASK_STORE: Duration = Duration::from_secs(2);

/// A running query side.
pub struct QuerySide {
    /// The gRPC server.
    pub server: Running,
    projections: Arc<Projections>,
    closing: watch::Sender<bool>,
}

/// Starts the projections and serves queries.
pub async fn start(config: &Config, log_url: &str) -> anyhow::Result<QuerySide> {
    let listener = serve::bind(config.query_listen, "--query-listen").await?;
    let channel = connect(log_url).with_context(|| format!("log_url {log_url:?} is no URL"))?;
    let log = GrpcLogReader::new(channel.clone());
    let factory: Arc<dyn SourceFactory> = match config.brokers.is_empty() {
        true => Arc::new(LogSourceFactory::new(channel)),
        false => Arc::new(kafka(config, &log).await),
    };
    let settings = daybook_query::Config {
        batch_size: config.batch_size,
        ..daybook_query::Config::new(config.data.join("query"))
    };
    let projections = Arc::new(Projections::open(settings, factory, Arc::new(log))?);
    let closing = watch::Sender::new(false);
    let services = services_of(|name| {
        name.ends_with(".QueryService") || name == "daybook.v1.ProjectionService"
    });
    let routes = projections.routes();
    let server = serve::serve(listener, config, routes, services, closing.subscribe()).await?;
    Ok(QuerySide { server, projections, closing })
}

async fn kafka(config: &Config, log: &GrpcLogReader) -> KafkaSourceFactory {
    // Without the log it is taken on trust that the topics are of one store.
    let store_id = match tokio::time::timeout(ASK_STORE, log.info()).await {
        Ok(Ok(info)) => Some(info.store_id),
        _ => {
            warn!(log_url = %config.log_url, "the log does not answer; records of any store are taken");
            None
        }
    };
    let kafka = Kafka::new(&config.brokers);
    KafkaSourceFactory::new(KafkaSourceConfig::new(kafka, projected_topics(config), store_id))
}

impl QuerySide {
    /// How its parts are doing.
    pub fn health(&self) -> Arc<dyn Health> {
        Arc::new(QueryHealth(self.projections.clone()))
    }

    /// Waits for requests under way and stops the projections at a batch boundary.
    pub async fn stop(self, deadline: Duration) {
        self.server.not_serving().await;
        self.closing.send_replace(true);
        // The projections end the open streams, which the server waits for.
        self.projections.shutdown().await;
        self.server.drained(deadline).await;
    }
}

struct QueryHealth(Arc<Projections>);

impl Health for QueryHealth {
    fn reports(&self) -> Vec<Report> {
        self.0.statuses().iter().map(report).collect()
    }
}

/// A projection that can answer is working, even when it is paused or behind.
fn report(status: &ProjectionStatus) -> Report {
    let part = format!("projection {}", status.name);
    if status.state() == ProjectionState::Rebuilding {
        return Report::down(part, "it is being built");
    }
    let mut problems = Vec::new();
    if !status.problem.is_empty() {
        problems.push(status.problem.clone());
    }
    if status.state() == ProjectionState::Paused {
        problems.push("it is paused".to_owned());
    }
    if status.quarantined_events > 0 {
        problems.push(format!("{} events are in quarantine", status.quarantined_events));
    }
    Report::working(part, problems.join("; "))
}
