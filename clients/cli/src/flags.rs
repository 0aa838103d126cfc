//! Flags that several commands share.

use std::time::Duration;

use clap::Args;
use daybook_client::{CommandRequest, Daybook, PagedRequest, Query, QueryRequest};
use uuid::Uuid;

use crate::output::Format;
use crate::problem::Problem;

const HEADING: &str = "Connection and output";

/// Where Daybook is, and how its answers are shown.
#[derive(Debug, Clone, Args)]
pub struct Globals {
    /// The address of the command service, which also has the event log
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "DAYBOOK_COMMAND_URL",
        default_value = "http://127.0.0.1:50051",
        help_heading = HEADING
    )]
    pub command_url: String,
    /// The address of the query service, which also has the projections
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "DAYBOOK_QUERY_URL",
        default_value = "http://127.0.0.1:50052",
        help_heading = HEADING
    )]
    pub query_url: String,
    /// The address of the saga service
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "DAYBOOK_SAGA_URL",
        default_value = "http://127.0.0.1:50053",
        help_heading = HEADING
    )]
    pub saga_url: String,
    /// The address of health and metrics
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "DAYBOOK_HTTP_URL",
        default_value = "http://127.0.0.1:8088",
        help_heading = HEADING
    )]
    pub http_url: String,
    /// How the answer is shown; json is proto3 JSON, one document a line for streams
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "table",
        help_heading = HEADING
    )]
    pub output: Format,
    /// Who you are; recorded with every event
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "DAYBOOK_ACTOR",
        help_heading = HEADING
    )]
    pub actor: Option<String>,
    /// How long a call may take, such as 5s or 500ms
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        default_value = "5s",
        value_parser = crate::time::parse_duration,
        help_heading = HEADING
    )]
    pub timeout: Duration,
}

impl Globals {
    /// A client as these flags say.
    pub fn client(&self) -> Result<Daybook, daybook_client::Error> {
        Daybook::builder()
            .command_url(&self.command_url)
            .query_url(&self.query_url)
            .saga_url(&self.saga_url)
            .actor(self.actor.as_deref().unwrap_or_default())
            .deadline(self.timeout)
            .build()
    }
}

/// What can be said about every command to the server.
#[derive(Debug, Clone, Args)]
pub struct CommandFlags {
    /// The idempotency key, a UUID; the same command with the same key has one effect. Made when
    /// not given
    #[arg(long, value_name = "UUID")]
    pub request_id: Option<Uuid>,
    /// The version that the stream must have; 0 when it must not exist yet
    #[arg(long, value_name = "VERSION")]
    pub expected_version: Option<u64>,
}

impl CommandFlags {
    /// Sends a command; when it is not known whether it had its effect, the problem says how to
    /// send it again.
    pub(crate) async fn send<R: CommandRequest>(
        &self,
        client: &Daybook,
        request: R,
        subject: &str,
    ) -> Result<daybook_client::CommandReceipt, Problem> {
        let request_id = self.request_id().to_string();
        let mut command = client.command(request).request_id(&request_id);
        if let Some(version) = self.expected_version {
            command = command.expected_version(version);
        }
        command.await.map_err(|error| Problem::from(error).about(subject).repeat_with(&request_id))
    }

    /// The id that was given, or a new one.
    pub(crate) fn request_id(&self) -> Uuid {
        self.request_id.unwrap_or_else(Uuid::now_v7)
    }
}

/// What can be said about every query.
#[derive(Debug, Clone, Args)]
pub struct QueryFlags {
    /// The answer must reflect the log up to this position, such as the one of a receipt; without
    /// it, everything recorded by now
    #[arg(long, value_name = "POSITION")]
    pub min_position: Option<u64>,
    /// How long to wait for that position, at most 30s; 5s when not given
    #[arg(
        long,
        value_name = "TIME",
        env = "DAYBOOK_WAIT",
        value_parser = crate::time::parse_duration
    )]
    pub wait: Option<Duration>,
    /// Take the answer as it is now, without waiting
    #[arg(long, conflicts_with = "min_position")]
    pub stale: bool,
}

impl QueryFlags {
    /// The query, as fresh as wanted. Who types one command after the other expects the second to
    /// see the effect of the first, so the end of the log is the default.
    pub(crate) async fn apply<R: QueryRequest>(
        &self,
        client: &Daybook,
        mut query: Query<R>,
    ) -> Query<R> {
        let position = match (self.min_position, self.stale) {
            (Some(position), _) => Some(position),
            (None, true) => None,
            // A query service answers without the log, too.
            (None, false) => client.events().info().await.ok().map(|info| info.head_position),
        };
        if let Some(position) = position {
            query = query.min_position(position);
        }
        if let Some(wait) = self.wait {
            query = query.max_wait(wait);
        }
        query
    }

    /// A page of a list, or all its pages as one.
    pub(crate) async fn fetch<R: PagedRequest>(
        &self,
        client: &Daybook,
        request: R,
        pages: Pages,
    ) -> Result<R::Response, Problem> {
        let size = if pages.all { LARGEST_PAGE } else { pages.page_size };
        let query = self.apply(client, client.query(request)).await.page_size(size);
        let mut answer = query.clone().page_token(pages.page_token).await?;
        if !pages.all {
            return Ok(answer);
        }
        loop {
            let (items, token) = R::page_of(&mut answer);
            if token.is_empty() {
                return Ok(answer);
            }
            let mut page = query.clone().page_token(std::mem::take(token)).await?;
            let (more_items, next) = R::page_of(&mut page);
            items.append(more_items);
            *token = std::mem::take(next);
        }
    }
}

/// The largest page that a query service gives.
const LARGEST_PAGE: i32 = 500;

/// Which part of a long list.
#[derive(Debug, Clone, Args)]
pub struct Pages {
    /// The most to show at once, up to 500
    #[arg(long, value_name = "NUMBER", default_value_t = 50,
          value_parser = clap::value_parser!(i32).range(1..=500))]
    pub page_size: i32,
    /// Go on where the page before ended
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    pub page_token: String,
    /// Show all pages
    #[arg(long)]
    pub all: bool,
}
