//! The run modes: `dev`, `command`, `query`, `saga`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::command_side::{self, CommandSide};
use crate::config::{self, Config, Flags};
use crate::http::{self, Health, Views};
use crate::query_side::{self, QuerySide};
use crate::saga_side::{self, SagaSide};
use crate::{serve, telemetry, welcome};

/// `daybook command`: the command side alone.
pub async fn command(flags: &Flags) -> anyhow::Result<()> {
    let process = Process::start(flags).await?;
    let command = command_side::start(&process.config).await?;
    info!(commands = %command.server.address, http = %process.http, "up");
    process.run(Some(command), None, None).await
}

/// `daybook query`: the query side alone.
pub async fn query(flags: &Flags) -> anyhow::Result<()> {
    let process = Process::start(flags).await?;
    let config = &process.config;
    let events = query_side::events(config, "query", &config.log_url).await?;
    let query = query_side::start(config, &events, &[]).await?;
    info!(queries = %query.server.address, http = %process.http, "up");
    process.run(None, Some(query), None).await
}

/// `daybook saga`: the sagas alone.
pub async fn saga(flags: &Flags) -> anyhow::Result<()> {
    let process = Process::start(flags).await?;
    let config = &process.config;
    let events = query_side::events(config, "saga", &config.log_url).await?;
    let saga = saga_side::start(config, &events).await?;
    info!(sagas = %saga.server.address, http = %process.http, "up");
    process.run(None, None, Some(saga)).await
}

/// `daybook dev`: everything.
pub async fn dev(flags: &Flags) -> anyhow::Result<()> {
    let process = Process::start(flags).await?;
    let config = &process.config;
    let command = command_side::start(config).await?;
    let addresses = (command.server.address, process.http);
    let log_url = format!("http://{}", addresses.0);
    let events = query_side::events(config, "query", &log_url).await?;
    let saga = match config.sagas {
        true => Some(saga_side::start(config, &events).await?),
        false => None,
    };
    let others = saga.as_ref().map_or(&[][..], SagaSide::projections);
    let query = query_side::start(config, &events, others).await?;
    let listening = welcome::Listening {
        command: addresses.0,
        query: query.server.address,
        saga: saga.as_ref().map_or(config.saga_listen, |saga| saga.server.address),
        http: addresses.1,
    };
    println!("{}", welcome::text(config, listening));
    process.run(Some(command), Some(query), saga).await
}

/// What every run mode has.
struct Process {
    config: Config,
    metrics: metrics_exporter_prometheus::PrometheusHandle,
    http: SocketAddr,
    listener: TcpListener,
    signals: Signals,
    closing: watch::Sender<bool>,
}

impl Process {
    async fn start(flags: &Flags) -> anyhow::Result<Self> {
        let config = config::load(flags)?;
        let metrics = telemetry::start(&config)?;
        for variable in config::unknown_variables() {
            warn!(%variable, "this is no setting and has no effect; `daybook config` lists all");
        }
        // From here on a signal ends the process in order, also one that comes during the start.
        let signals = Signals::new()?;
        let listener = serve::bind(config.http_listen, "--http").await?;
        let http = listener.local_addr()?;
        Ok(Self { config, metrics, http, listener, signals, closing: watch::Sender::new(false) })
    }

    /// Runs until a signal or a failure, then shuts down in order: the readers, then the writer.
    async fn run(
        mut self,
        mut command: Option<CommandSide>,
        mut query: Option<QuerySide>,
        mut saga: Option<SagaSide>,
    ) -> anyhow::Result<()> {
        let health: Vec<Arc<dyn Health>> = command
            .iter()
            .map(CommandSide::health)
            .chain(query.iter().map(QuerySide::health))
            .chain(saga.iter().map(SagaSide::health))
            .collect();
        if let Some(command) = &command {
            command.server.follow(command.health(), self.closing.subscribe());
        }
        if let Some(query) = &query {
            query.server.follow(query.health(), self.closing.subscribe());
        }
        if let Some(saga) = &saga {
            saga.server.follow(saga.health(), self.closing.subscribe());
        }
        let closing = self.closing.subscribe();
        let views = Views { metrics: self.metrics, health, closing };
        tokio::spawn(http::serve(self.listener, views));
        let failure = tokio::select! {
            () = self.signals.next() => None,
            error = command_failed(&mut command) => Some(error),
            error = server_failed(query.as_mut().map(|query| &mut query.server)) => Some(error),
            error = server_failed(saga.as_mut().map(|saga| &mut saga.server)) => Some(error),
        };
        info!("shutting down");
        self.closing.send_replace(true);
        let deadline = Duration::from_millis(self.config.drain_timeout_ms);
        if let Some(saga) = saga {
            saga.stop(deadline).await;
        }
        if let Some(query) = query {
            query.stop(deadline).await;
        }
        if let Some(command) = command {
            command.stop(deadline).await;
        }
        match failure {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }
}

/// The signals that end the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("signals cannot be received");
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits for what must not happen: a server that ends, or a log that cannot be trusted any more.
async fn command_failed(command: &mut Option<CommandSide>) -> anyhow::Error {
    let Some(command) = command else { return std::future::pending().await };
    let mut stopped = command.log.stopped();
    tokio::select! {
        error = command.server.failed() => error,
        Ok(stopped) = stopped.wait_for(Option::is_some) => {
            let error = stopped.clone().map(|error| error.to_string()).unwrap_or_default();
            anyhow::anyhow!("{error}; the process ends rather than lie")
        }
    }
}

async fn server_failed(server: Option<&mut serve::Running>) -> anyhow::Error {
    match server {
        Some(server) => server.failed().await,
        None => std::future::pending().await,
    }
}
