//! The runtime of projections: generic over what they are. It gives every projection its file, its
//! source, exactly-once application, quarantine, pause and rebuild.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use daybook_bus::source::{LogReader, SourceFactory};
use tokio::sync::watch;

/// A map in the order of insertion, with a fast hash: rows and streams are looked up several times
/// for each event. Its seed is random, and no client sees an order that depends on it.
type IndexMap<K, V> = indexmap::IndexMap<K, V, foldhash::fast::RandomState>;

mod compare;
mod engine;
mod feed;
mod files;
pub(crate) mod handle;
mod history;
pub(crate) mod host;
mod offload;
pub mod projection;
mod readers;
mod rebuild;
mod rest;
pub mod row;
mod runner;
pub(crate) mod store;
mod versions;

pub use handle::{Handle, MAX_WAIT};
pub use host::{Host, OpenError};
pub use projection::{EncodedEvent, Projection, Recorded};
pub use row::{ApplyError, Row, Table, Tables};
pub use runner::{Started, start};

/// How projections are run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where their files are.
    pub data_dir: PathBuf,
    /// The projections that are run, by name; none for all of them.
    pub projections: Vec<String>,
    /// About how many records are applied at once when there are that many: one transaction, or, far
    /// behind, a part of one.
    pub batch_size: usize,
    /// The same during a rebuild, which nobody waits for.
    pub rebuild_batch_size: usize,
    /// About how many rows and versions of streams wait in memory to be written together, during a
    /// rebuild or far behind; a few hundred bytes each.
    pub waiting_rows: usize,
    /// For how long events are gathered at most, by a projection that is far behind.
    pub gathering: Duration,
    /// How long a projection that nobody asks lets events come after a batch.
    pub rest: Duration,
    /// How many streams may wait until their versions are brought to their places in the file;
    /// about 150 bytes each in memory.
    pub waiting_streams: usize,
    /// How often an event is tried before it goes into quarantine.
    pub attempts: u32,
    /// The most queries that read one projection at the same time.
    pub readers: u32,
    /// How long an answer is remembered while its rows stay the same.
    pub cache_lifetime: Duration,
    /// The most pages that a file may have; for tests of a full disk.
    pub max_page_count: Option<u32>,
}

impl Settings {
    /// The defaults, for files in a directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            projections: Vec::new(),
            batch_size: 4_000,
            rebuild_batch_size: 10_000,
            waiting_rows: 100_000,
            gathering: Duration::from_millis(500),
            rest: Duration::from_millis(500),
            waiting_streams: 16_384,
            attempts: 3,
            readers: 4,
            cache_lifetime: Duration::from_secs(60),
            max_page_count: None,
        }
    }
}

impl Settings {
    fn runs(&self, name: &str) -> bool {
        self.projections.is_empty() || self.projections.iter().any(|run| run == name)
    }
}

/// What a projection runs with.
#[derive(Clone)]
pub struct Environment {
    /// How.
    pub settings: Arc<Settings>,
    /// Where its events come from.
    pub factory: Arc<dyn SourceFactory>,
    /// The log: for rebuilds and gaps, and to see that it is still the same one.
    pub log: Arc<dyn LogReader>,
    /// Becomes true when the service stops.
    pub stop: watch::Receiver<bool>,
}
