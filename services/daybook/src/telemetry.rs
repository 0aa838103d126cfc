//! Log lines to standard error, and the recorder of metrics.

use std::io::IsTerminal;

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::Config;

/// The buckets of every duration, in seconds: from a warm query to a request at its timeout.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.03, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];

/// Starts logging and metrics for this process.
pub fn start(config: &Config) -> anyhow::Result<PrometheusHandle> {
    let filter = EnvFilter::try_new(&config.log_filter)
        .with_context(|| format!("log_filter {:?} is not a filter", config.log_filter))?;
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr);
    match config.log_format.as_str() {
        "json" => lines.json().init(),
        _ => lines.with_target(false).init(),
    }
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
        .install_recorder()
        .context("the metrics cannot be recorded")
}
