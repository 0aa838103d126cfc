//! The client itself: where the services are, and how calls to them are made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use daybook_contract::daybook::v1::{CommandReceipt, ErrorReason};
use daybook_contract::error::Error;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::event_log::EventLog;
use crate::projections::Projections;
use crate::retry::Policy;
use crate::sagas::Sagas;

/// The metadata key under which the actor travels.
pub const ACTOR_HEADER: &str = "daybook-actor";

/// The longest name of an actor that the server takes.
const MAX_ACTOR_CHARS: usize = 64;

/// The deadline of a call unless told otherwise: longer than any healthy answer takes, and short
/// enough to be noticed.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How often an open connection is checked while calls are under way, so that a subscription
/// notices when the other side is gone without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// A client of one Daybook: its command, query and saga services. Cheap to clone; clones
/// share their connections.
#[derive(Debug, Clone)]
pub struct Daybook {
    pub(crate) inner: Arc<Inner>,
    /// The last position written, for a session that reads its writes.
    written: Option<Arc<AtomicU64>>,
}

/// What all clones share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub command: Service,
    pub query: Service,
    pub saga: Service,
    pub deadline: Duration,
    pub max_wait: Option<Duration>,
    pub retries: Policy,
    pub actor: Option<MetadataValue<Ascii>>,
}

/// A service and the way to it.
#[derive(Debug, Clone)]
pub struct Service {
    /// `command`, `query` or `saga`.
    pub name: &'static str,
    /// Where it is.
    pub url: String,
    /// The connection; it is made when it is first needed.
    pub channel: Channel,
}

/// Says what a client is to be like.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until build() is called"]
pub struct Builder {
    command_url: String,
    query_url: String,
    saga_url: String,
    deadline: Duration,
    max_wait: Option<Duration>,
    retries: Policy,
    actor: String,
}

impl Daybook {
    /// A client of the services at these addresses, such as `http://127.0.0.1:50051` and
    /// `http://127.0.0.1:50052`. The connections are made when they are first needed, and again
    /// when they break. Must be called within a Tokio runtime.
    pub fn connect(
        command_url: impl Into<String>,
        query_url: impl Into<String>,
    ) -> Result<Self, Error> {
        Self::builder().command_url(command_url).query_url(query_url).build()
    }

    /// A client that is set up in detail.
    pub fn builder() -> Builder {
        Builder {
            command_url: "http://127.0.0.1:50051".to_owned(),
            query_url: "http://127.0.0.1:50052".to_owned(),
            saga_url: "http://127.0.0.1:50053".to_owned(),
            deadline: DEFAULT_DEADLINE,
            max_wait: None,
            retries: Policy::default(),
            actor: String::new(),
        }
    }

    /// A session that reads its own writes: every query of it, and of its clones, reflects every
    /// command of it that was answered before.
    pub fn read_your_writes(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), written: Some(Arc::default()) }
    }

    /// The event log.
    pub fn events(&self) -> EventLog {
        EventLog::new(self.clone())
    }

    /// The projections of the query service.
    pub fn projections(&self) -> Projections {
        Projections::new(self.clone())
    }

    /// The sagas of the saga service.
    pub fn sagas(&self) -> Sagas {
        Sagas::new(self.clone())
    }

    /// The command service.
    pub fn command_service(&self) -> &Service {
        &self.inner.command
    }

    /// The query service.
    pub fn query_service(&self) -> &Service {
        &self.inner.query
    }

    /// The saga service.
    pub fn saga_service(&self) -> &Service {
        &self.inner.saga
    }

    /// Remembers a receipt, when this is a session that reads its writes.
    pub(crate) fn remember(&self, receipt: &CommandReceipt) {
        if let Some(written) = &self.written {
            written.fetch_max(receipt.position, Ordering::SeqCst);
        }
    }

    /// The position that queries of this session must reflect; 0 when any will do.
    pub(crate) fn written(&self) -> u64 {
        self.written.as_ref().map_or(0, |written| written.load(Ordering::SeqCst))
    }
}

impl Builder {
    /// Where the command service is; `http://127.0.0.1:50051` unless told otherwise.
    pub fn command_url(mut self, url: impl Into<String>) -> Self {
        self.command_url = url.into();
        self
    }

    /// Where the query service is; `http://127.0.0.1:50052` unless told otherwise.
    pub fn query_url(mut self, url: impl Into<String>) -> Self {
        self.query_url = url.into();
        self
    }

    /// Where the saga service is; `http://127.0.0.1:50053` unless told otherwise.
    pub fn saga_url(mut self, url: impl Into<String>) -> Self {
        self.saga_url = url.into();
        self
    }

    /// How long a call may take, all attempts together; 5 s unless told otherwise. A query that
    /// waits for a position may take as much longer as it is allowed to wait.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long a query may wait for a position when it does not say; 5 s unless told otherwise,
    /// and 30 s at most.
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = Some(wait);
        self
    }

    /// How often a call is tried and how long the pauses are.
    pub fn retries(mut self, policy: Policy) -> Self {
        self.retries = policy;
        self
    }

    /// The most attempts of a call, the first included.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.retries.max_attempts = attempts.max(1);
        self
    }

    /// Who sends the commands; recorded with every event.
    pub fn actor(mut self, actor: impl Into<String>) -> Self {
        self.actor = actor.into();
        self
    }

    /// The client. Must be called within a Tokio runtime.
    pub fn build(self) -> Result<Daybook, Error> {
        let actor = (!self.actor.is_empty()).then(|| actor(&self.actor)).transpose()?;
        let inner = Inner {
            command: service("command", self.command_url)?,
            query: service("query", self.query_url)?,
            saga: service("saga", self.saga_url)?,
            deadline: self.deadline,
            max_wait: self.max_wait,
            retries: self.retries,
            actor,
        };
        Ok(Daybook { inner: Arc::new(inner), written: None })
    }
}

/// The actor as it travels. A header takes more than a header should have: what is not ASCII
/// reads differently on every side.
fn actor(name: &str) -> Result<MetadataValue<Ascii>, Error> {
    let plain = name.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    let fits = plain && name.len() <= MAX_ACTOR_CHARS;
    fits.then(|| name.parse().ok()).flatten().ok_or_else(|| {
        let rule = format!("must be 1 to {MAX_ACTOR_CHARS} visible ASCII characters");
        Error::new(ErrorReason::InvalidRequest, format!("the actor {name:?} {rule}"))
            .with_violation("actor", rule)
    })
}

/// A service at an address; no connection is made yet.
fn service(name: &'static str, url: String) -> Result<Service, Error> {
    let refuse = |problem: String| {
        let message = format!(
            "{url:?} is not the address of the {name} service: {problem}; an address looks like \
             http://127.0.0.1:50051"
        );
        Error::new(ErrorReason::InvalidRequest, message)
            .with_violation(&format!("{name}_url"), "must be like http://127.0.0.1:50051")
    };
    let endpoint = Endpoint::from_shared(url.clone()).map_err(|e| refuse(e.to_string()))?;
    if endpoint.uri().scheme_str() != Some("http") {
        return Err(refuse("only http:// is supported".to_owned()));
    }
    let channel = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .tcp_nodelay(true)
        .connect_lazy();
    Ok(Service { name, url, channel })
}
