//! The command side of a process: the log, the bus, its services, and the publisher.

use std::sync::Arc;
use std::time::Duration;

use daybook_command::{CommandBus, CommandServices, EventLogServer, ExecuteServer, PublishingView};
use daybook_contract::MAX_MESSAGE_BYTES;
use daybook_contract::daybook::v1::command_service_server::CommandServiceServer;
use daybook_contract::daybook::v1::event_log_service_server::EventLogServiceServer;
use daybook_log::{EventLog, StreamCache};
use tokio::sync::watch;
use tonic::service::Routes;

use crate::config::Config;
use crate::http::{Health, Report};
use crate::publishing::Publishing;
use crate::serve::{self, Running};

/// The largest answer: a batch of events, of which the last may be one of the largest.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// A running command side.
pub struct CommandSide {
    /// The log.
    pub log: EventLog,
    /// The gRPC server.
    pub server: Running,
    publishing: Arc<Publishing>,
    closing: watch::Sender<bool>,
}

/// Opens the log and serves it.
pub async fn start(config: &Config) -> anyhow::Result<CommandSide> {
    let listener = serve::bind(config.command_listen, "--command-listen").await?;
    let log = EventLog::open(daybook_log::Config {
        max_pages: (config.max_log_pages > 0).then_some(config.max_log_pages),
        cache: StreamCache {
            streams: config.cached_streams,
            packed_bytes: config.packed_streams_mb.saturating_mul(1024 * 1024),
        },
        ..daybook_log::Config::new(config.data.join("log"))
    })
    .await?;
    let mut builder = CommandBus::builder();
    daybook_domain::register(&mut builder);
    daybook_domain::register_sagas(&mut builder);
    let bus = builder.build(log.clone());
    let publishing = Arc::new(Publishing::start(config, &log));
    let closing = watch::Sender::new(false);
    let execute = CommandServiceServer::new(ExecuteServer::new(bus.clone(), closing.subscribe()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let view: Arc<dyn PublishingView> = publishing.clone();
    let events = EventLogServer::new(bus.clone(), view, closing.subscribe());
    let events = EventLogServiceServer::new(events)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_ANSWER_BYTES);
    let routes = Routes::new(execute).add_service(events);
    let commands = |routes| CommandServices::new(bus, routes);
    let services = services_of(|name| {
        name.ends_with(".CommandService") || name == "daybook.v1.EventLogService"
    });
    let server =
        serve::serve(listener, config, routes, commands, services, closing.subscribe()).await?;
    Ok(CommandSide { log, server, publishing, closing })
}

/// The services of the contract that a process serves.
pub fn services_of(serves: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = daybook_contract::METHODS
        .iter()
        .filter_map(|method| method.path.trim_start_matches('/').split('/').next())
        .filter(|name| serves(name))
        .collect();
    names.dedup();
    names
}

impl CommandSide {
    /// How its parts are doing.
    pub fn health(&self) -> Arc<dyn Health> {
        Arc::new(CommandHealth { log: self.log.clone(), publishing: self.publishing.clone() })
    }

    /// Ends open streams, waits for requests under way, flushes the publisher and closes the log.
    /// Everything that was acknowledged is durable before and after.
    pub async fn stop(self, deadline: Duration) {
        self.server.not_serving().await;
        self.closing.send_replace(true);
        self.server.drained(deadline).await;
        self.publishing.stop(deadline).await;
        self.log.close().await;
    }
}

struct CommandHealth {
    log: EventLog,
    publishing: Arc<Publishing>,
}

impl Health for CommandHealth {
    fn reports(&self) -> Vec<Report> {
        let log = match self.log.stopped().borrow().as_ref() {
            Some(error) => Report::down("log", error.to_string()),
            None => {
                let problem = self.log.write_problem().map(|error| error.to_string());
                Report::working("log", problem.unwrap_or_default())
            }
        };
        let mut reports = vec![log];
        if self.publishing.publishing() {
            // Commands go on without the broker, so this never makes the process unready.
            reports.push(Report::working("publisher", self.publishing.problem()));
        }
        reports
    }
}
