//! A real broker for tests.
//!
//! Which one: that of `KAFKA_BROKERS` when it is set; else Redpanda, where a Docker engine
//! answers; else Apache Kafka, which Maven fetches once into the target directory. Whatever is
//! started here ends with the test process, even when that is killed.

use std::env;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use crate::kafka::Kafka;
use crate::redpanda::Redpanda;

/// How long a broker may take to start, on a slow and busy machine.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(180);

static SHARED: OnceCell<Broker> = OnceCell::const_new();

/// A broker, which ends when this is dropped.
#[derive(Debug)]
pub struct Broker {
    /// Where clients connect: `127.0.0.1:9092`.
    pub bootstrap: String,
    kind: Arc<Mutex<Kind>>,
}

#[derive(Debug)]
enum Kind {
    External,
    Redpanda(Redpanda),
    Kafka(Kafka),
}

impl Broker {
    /// The broker that all tests of this process share. Give topics [`unique`](crate::unique)
    /// names, and do not kill it.
    ///
    /// # Panics
    /// When no broker can be started; the message says what would help.
    pub async fn shared() -> &'static Self {
        SHARED.get_or_init(|| Self::make(Self::external_or_own)).await
    }

    /// A broker of one's own, which may be killed; `KAFKA_BROKERS` has no part in it.
    ///
    /// # Panics
    /// When no broker can be started; the message says what would help.
    pub async fn start() -> Self {
        Self::make(Self::own).await
    }

    async fn make(how: fn() -> Result<Self>) -> Self {
        spawn_blocking(how).await.expect("starting a broker does not panic").unwrap_or_else(
            |error| {
                panic!(
                    "no Kafka broker for this test: {error:#}\nOne of these is needed: KAFKA_BROKERS=host:port \
                     of a running broker; a Docker engine, for Redpanda; or Java 17 and Maven, for Apache \
                     Kafka (the first time with access to Maven Central)"
                )
            },
        )
    }

    fn external_or_own() -> Result<Self> {
        let Some(bootstrap) = external() else { return Self::own() };
        await_ready(&bootstrap).context("the broker of KAFKA_BROKERS")?;
        Ok(Self::new(bootstrap, Kind::External))
    }

    fn own() -> Result<Self> {
        if Redpanda::is_possible() {
            let redpanda = Redpanda::start()?;
            return Ok(Self::new(redpanda.bootstrap(), Kind::Redpanda(redpanda)));
        }
        let kafka = Kafka::start()?;
        Ok(Self::new(kafka.bootstrap(), Kind::Kafka(kafka)))
    }

    fn new(bootstrap: String, kind: Kind) -> Self {
        Self { bootstrap, kind: Arc::new(Mutex::new(kind)) }
    }

    /// Kills the broker, as SIGKILL does. Its data stay.
    pub async fn kill(&self) -> Result<()> {
        self.with_kind(|kind| match kind {
            Kind::External => bail!("the broker of KAFKA_BROKERS cannot be killed by a test"),
            Kind::Redpanda(redpanda) => redpanda.kill(),
            Kind::Kafka(kafka) => kafka.kill(),
        })
        .await
    }

    /// Starts it again, on the same port and with the same data. Returns when it answers.
    pub async fn restart(&self) -> Result<()> {
        self.with_kind(|kind| match kind {
            Kind::External => bail!("the broker of KAFKA_BROKERS cannot be restarted by a test"),
            Kind::Redpanda(redpanda) => redpanda.restart(),
            Kind::Kafka(kafka) => kafka.restart(),
        })
        .await
    }

    /// Runs what blocks where it blocks nobody.
    async fn with_kind(
        &self,
        work: impl FnOnce(&mut Kind) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let kind = Arc::clone(&self.kind);
        spawn_blocking(move || work(&mut kind.lock().unwrap_or_else(PoisonError::into_inner)))
            .await?
    }
}

fn external() -> Option<String> {
    env::var("KAFKA_BROKERS").ok().filter(|brokers| !brokers.is_empty())
}

/// Waits until a broker answers for its cluster.
pub(crate) fn await_ready(bootstrap: &str) -> Result<()> {
    await_ready_while(bootstrap, || Ok(()))
}

/// The same, as long as `alive` finds nothing wrong.
pub(crate) fn await_ready_while(
    bootstrap: &str,
    mut alive: impl FnMut() -> Result<()>,
) -> Result<()> {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "50")
        // Until it is up, refused connections are nothing to report.
        .set("log_level", "0")
        .create()?;
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        alive()?;
        match client.fetch_metadata(None, Duration::from_millis(200)) {
            Ok(metadata) if !metadata.brokers().is_empty() => return Ok(()),
            Ok(_) => std::thread::sleep(Duration::from_millis(20)),
            Err(_) if Instant::now() < deadline => {}
            Err(error) => bail!("{bootstrap} does not answer after {START_TIMEOUT:?}: {error}"),
        }
    }
}
