//! The query side of a process: projections, their services, and where their events come from.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use daybook_bus::SharedSourceFactory;
use daybook_bus::kafka::{KafkaSourceConfig, KafkaSourceFactory};
use daybook_bus::log::{GrpcLogReader, LogSourceFactory, connect};
use daybook_bus::settings::Kafka;
use daybook_bus::source::SourceFactory;
use daybook_contract::daybook::v1::{ProjectionState, ProjectionStatus};
use daybook_query::QuerySide as Projections;
use daybook_query::runtime::Handle;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tonic::transport::Channel;
use tracing::{info, warn};

use crate::command_side::services_of;
use crate::config::Config;
use crate::http::{Health, Report};
use crate::publishing::all_topics;
use crate::serve::{self, Running};

/// How often the log is asked which store is on the topics: until it says so, and from then on.
const ASK_FIRST: Duration = Duration::from_millis(100);
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How long the start waits for the first answer; without it the projections wait.
const START_WAIT: Duration = Duration::from_secs(2);

/// The file, among those of the projections, with the last known id of the store on the topics.
const STORE_ID_FILE: &str = "store_id";

/// A running query side.
pub struct QuerySide {
    /// The gRPC server.
    pub server: Running,
    projections: Arc<Projections>,
    closing: watch::Sender<bool>,
}

/// Where the events of a process come from. They are read once for all who follow them.
pub struct Events {
    /// A channel to the log.
    pub channel: Channel,
    /// The log, for rebuilds and gaps.
    pub log: GrpcLogReader,
    /// The log or Kafka.
    pub factory: Arc<dyn SourceFactory>,
}

/// Makes the source of the events. With Kafka, the last known id of the store is kept in a
/// directory.
pub async fn events(config: &Config, directory: &str, log_url: &str) -> anyhow::Result<Events> {
    let channel = channel(log_url)?;
    let log = GrpcLogReader::new(channel.clone());
    let factory: Arc<dyn SourceFactory> = match config.brokers.is_empty() {
        true => Arc::new(LogSourceFactory::new(channel.clone())),
        false => Arc::new(kafka(config, &config.data.join(directory), log.clone()).await),
    };
    Ok(Events { channel, log, factory: Arc::new(SharedSourceFactory::new(factory)) })
}

/// Starts the projections and serves queries. Its ProjectionService shows the `others` too.
pub async fn start(
    config: &Config,
    events: &Events,
    others: &[Handle],
) -> anyhow::Result<QuerySide> {
    let listener = serve::bind(config.query_listen, "--query-listen").await?;
    let settings = daybook_query::Config {
        projections: config.projection_names(),
        batch_size: config.batch_size,
        cache_lifetime: Duration::from_millis(config.cache_lifetime_ms),
        ..daybook_query::Config::new(config.data.join("query"))
    };
    let projections = Arc::new(Projections::open(
        settings,
        Arc::clone(&events.factory),
        Arc::new(events.log.clone()),
    )?);
    let closing = watch::Sender::new(false);
    let services = services_of(|name| {
        name.ends_with(".QueryService") || name == "daybook.v1.ProjectionService"
    });
    let routes = projections.routes(others);
    let server =
        serve::serve(listener, config, routes, |routes| routes, services, closing.subscribe())
            .await?;
    Ok(QuerySide { server, projections, closing })
}

/// A channel to the log. What has no scheme, or one that we do not speak, would be retried for
/// ever.
fn channel(log_url: &str) -> anyhow::Result<Channel> {
    if !log_url.starts_with("http://") {
        bail!("--log is {log_url:?}: write http://HOST:PORT (there is no TLS yet)");
    }
    connect(log_url).with_context(|| format!("--log is {log_url:?}: write http://HOST:PORT"))
}

/// The source over Kafka. The directory is where the last known id of the store is kept.
async fn kafka(config: &Config, dir: &Path, log: GrpcLogReader) -> KafkaSourceFactory {
    let file = dir.join(STORE_ID_FILE);
    let ids = watch::Sender::new(last_known(&file));
    let mut store_id = ids.subscribe();
    let topics = all_topics(config);
    tokio::spawn(follow_store(log, topics.clone(), file, ids));
    // Nearly always the log is there, and the projections need not begin with a failure.
    let known = tokio::time::timeout(START_WAIT, store_id.wait_for(Option::is_some)).await.is_ok();
    if !known {
        let log_url = &config.log_url;
        warn!(%log_url, "the log does not say yet which store is on the topics; until then nothing is read");
    }
    let kafka = Kafka::new(&config.brokers);
    KafkaSourceFactory::new(KafkaSourceConfig::new(kafka, topics, store_id))
}

/// Asks the log which store it is, as long as somebody wants to know, and whether that is the one
/// on all of our topics: after a restore it may be an older copy, and nothing on them is to be
/// applied. The answer is kept in a file, so that a query process can start without the log.
async fn follow_store(
    log: GrpcLogReader,
    topics: Vec<String>,
    file: PathBuf,
    ids: watch::Sender<Option<String>>,
) {
    loop {
        if let Ok(info) = log.info().await {
            let is_on_all = topics.iter().all(|topic| info.verified_topics.contains(topic));
            let store_id = is_on_all.then_some(info.store_id);
            learn_store(store_id, &file, &ids).await;
        }
        let interval = if ids.borrow().is_some() { ASK_AGAIN } else { ASK_FIRST };
        tokio::select! {
            () = ids.closed() => return,
            () = sleep(interval) => {}
        }
    }
}

/// Keeps the id of the store and tells it, if it is new.
async fn learn_store(store_id: Option<String>, file: &Path, ids: &watch::Sender<Option<String>>) {
    if *ids.borrow() == store_id {
        return;
    }
    let written = {
        let (file, store_id) = (file.to_owned(), store_id.clone());
        spawn_blocking(move || keep(&file, store_id.as_deref().unwrap_or_default())).await
    };
    match written {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(file = %file.display(), %error, "the store id cannot be kept"),
        Err(error) => warn!(%error, "the store id cannot be kept"),
    }
    info!(store_id, "the store on the topics");
    ids.send_replace(store_id);
}

/// The id in the file. One that cannot be read is as good as none: the log is asked.
fn last_known(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    Some(text.trim().to_owned()).filter(|store_id| !store_id.is_empty())
}

/// Replaces the file atomically.
fn keep(file: &Path, store_id: &str) -> io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let tmp = file.with_extension("tmp");
    let mut new = File::create(&tmp)?;
    writeln!(new, "{store_id}")?;
    new.sync_all()?;
    fs::rename(&tmp, file)?;
    File::open(dir)?.sync_all()
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
pub(crate) fn report(status: &ProjectionStatus) -> Report {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_of_the_log_that_cannot_work_is_refused_with_its_flag() {
        assert!(channel("http://127.0.0.1:50051").is_ok());
        for url in ["127.0.0.1:50051", "localhost:50051", "https://log:50051", "http://", ""] {
            let text = channel(url).unwrap_err().to_string();
            assert!(text.contains("--log") && text.contains("write http://HOST:PORT"), "{text}");
        }
    }

    #[tokio::test]
    async fn the_store_is_known_without_the_log_from_the_last_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("query").join(STORE_ID_FILE);
        assert_eq!(last_known(&file), None);
        let ids = watch::Sender::new(None);
        for store_id in [Some("first"), Some("second"), None, Some("third")] {
            learn_store(store_id.map(str::to_owned), &file, &ids).await;
            assert_eq!(ids.borrow().as_deref(), store_id);
            assert_eq!(last_known(&file).as_deref(), store_id);
        }
        // The same again is no news, for which sources would end.
        let mut news = ids.subscribe();
        news.mark_unchanged();
        learn_store(Some("third".to_owned()), &file, &ids).await;
        assert!(!news.has_changed().unwrap());
    }
}
