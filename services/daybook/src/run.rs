//! The run modes: `dev`, `command`, `query`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

use crate::command_side::{self, CommandSide};
use crate::config::{self, Config, Flags};
use crate::http::{self, Health, Views};
use crate::{serve, telemetry};

/// `daybook command`: the command side alone.
pub async fn command(flags: &Flags) -> anyhow::Result<()> {
    let process = Process::start(flags).await?;
    let command = command_side::start(&process.config).await?;
    info!(address = %command.server.address, "the command service is up");
    process.serve_http(vec![command.health()]).await?;
    process.run(Some(command)).await
}

/// `daybook dev`: everything.
pub async fn dev(flags: &Flags) -> anyhow::Result<()> {
    command(flags).await
}

/// What every run mode has.
struct Process {
    config: Config,
    metrics: metrics_exporter_prometheus::PrometheusHandle,
    closing: watch::Sender<bool>,
}

impl Process {
    async fn start(flags: &Flags) -> anyhow::Result<Self> {
        let config = config::load(flags)?;
        let metrics = telemetry::start(&config)?;
        Ok(Self { config, metrics, closing: watch::Sender::new(false) })
    }

    async fn serve_http(&self, health: Vec<Arc<dyn Health>>) -> anyhow::Result<()> {
        let listener = serve::bind(self.config.http_listen, "--http").await?;
        let views =
            Views { metrics: self.metrics.clone(), health, closing: self.closing.subscribe() };
        tokio::spawn(http::serve(listener, views));
        Ok(())
    }

    /// Runs until a signal or a failure, then shuts down in order.
    async fn run(self, mut command: Option<CommandSide>) -> anyhow::Result<()> {
        let failure = tokio::select! {
            signal = terminated() => signal.map(|()| None)?,
            error = failed(&mut command) => Some(error),
        };
        info!("shutting down");
        self.closing.send_replace(true);
        let deadline = Duration::from_millis(self.config.drain_timeout_ms);
        if let Some(command) = command {
            command.stop(deadline).await;
        }
        match failure {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }
}

async fn terminated() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("no signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("no signals")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Waits for what must not happen: a server that ends, or a log that cannot be trusted any more.
async fn failed(command: &mut Option<CommandSide>) -> anyhow::Error {
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
