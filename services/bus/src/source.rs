//! Sources of events for the read side. Kafka and the log look the same from here.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::envelope::{Content, Envelope};
use crate::records::Records;

/// A source of recorded events.
///
/// Law: events of one stream come in order of version; any event may come again; after a batch is
/// applied, nothing up to its `position` is missing. A source may begin anew at an earlier point,
/// never at a later one than the cursor it was opened with.
pub trait Source: Send + 'static {
    /// Waits for the next batch. Cancel-safe: a batch is lost only by dropping the source. After
    /// an error the source must be opened again.
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, Error>>;
}

/// Opens sources; one for each reader.
pub trait SourceFactory: Send + Sync + 'static {
    /// `log` or `kafka`.
    fn kind(&self) -> &'static str;

    /// Opens a source that begins at a cursor; the default cursor is the beginning.
    fn open(&self, cursor: &Cursor) -> BoxFuture<'_, Result<Box<dyn Source>, Error>>;
}

/// Reads from the log itself: for rebuilds, to fill gaps, and to see which log it is.
pub trait LogReader: Send + Sync + 'static {
    /// The encoded events of a stream with versions `from..=to`, in order.
    fn read_stream(
        &self,
        stream: String,
        from: u64,
        to: u64,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, Error>>;

    /// The id of the event at a position, from 1; `None` when there is no such event. Ids are
    /// unique over all logs, so this tells whether two readings were of the same history.
    fn event_id_at(&self, position: u64) -> BoxFuture<'_, Result<Option<String>, Error>>;

    /// The position of the end of the log.
    fn head(&self) -> BoxFuture<'_, Result<u64, Error>>;

    /// A source over the log after a position, whatever the live source is.
    fn subscribe(&self, after: u64) -> BoxFuture<'_, Result<Box<dyn Source>, Error>>;
}

/// Some records, and how far they bring the reader.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The records, maybe none.
    pub records: Records,
    /// Nothing up to this position is missing once these records are applied. 0 when the source
    /// cannot say yet.
    pub position: u64,
    /// The end of the log, as far as the source knows.
    pub head: u64,
    /// Where to begin after these records. To be stored in the same transaction as their effect.
    pub cursor: Cursor,
}

/// A record of a source. From Kafka it may be anything; no event is decoded yet.
#[derive(Debug, Clone)]
pub struct Record {
    /// The encoded RecordedEvent, or what somebody else wrote to the topic.
    pub bytes: Bytes,
    /// Where it was found.
    pub origin: Origin,
    /// What it is.
    pub content: Content,
}

/// Where a record was found, for messages to people. It becomes text only where it is shown: there
/// are many records, and few are ever spoken of.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// In the log, at the position that the record has.
    Log,
    /// On Kafka.
    Kafka {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// The offset.
        offset: i64,
    },
    /// In words.
    Text(String),
}

/// A place in a source: opaque to readers, stored with their checkpoint. It has a place for each
/// kind of source, so that a reader can change from one to the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cursor {
    /// The position in the log after which the log source begins.
    pub log_position: u64,
    /// For each partition read so far. Every batch has them for every reader, so they are shared.
    pub partitions: Arc<[PartitionCursor]>,
}

/// A place in a Kafka partition.
#[derive(Debug, Clone, PartialEq)]
pub struct PartitionCursor {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset to read next.
    pub next_offset: i64,
    /// The last watermark seen: everything up to this position has been seen on this partition.
    pub watermark: u64,
    /// A hash of the record before `next_offset`, 0 when there is none. A partition with another
    /// one there has lost its records and got others.
    pub last_record: u64,
}

/// Why a source gives nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// It cannot be reached at the moment; trying again later may help.
    #[error("{source_name} cannot be reached: {problem}")]
    Unavailable {
        /// Which source.
        source_name: String,
        /// What happened.
        problem: String,
    },
    /// It does not have what the cursor asks for any more, or is another store's.
    #[error("{source_name} cannot go on from here: {problem}")]
    Lost {
        /// Which source.
        source_name: String,
        /// What happened.
        problem: String,
    },
    /// The log says that a record is damaged.
    #[error("the log is damaged: {problem}")]
    Damaged {
        /// What happened.
        problem: String,
    },
}

impl Record {
    /// Looks what a record is.
    pub fn new(bytes: Bytes, origin: Origin) -> Self {
        let content = Content::of(&bytes);
        Self { bytes, origin, content }
    }

    /// The event, if it is one.
    pub fn event(&self) -> Option<&Envelope> {
        match &self.content {
            Content::Event(event) => Some(event),
            Content::Watermark | Content::Strange(_) => None,
        }
    }

    /// Where it was found, as text: `bank-events/3@1042` or `log@17`.
    pub fn origin_text(&self) -> String {
        match &self.origin {
            Origin::Log => format!("log@{}", self.event().map_or(0, |event| event.position)),
            Origin::Kafka { topic, partition, offset } => format!("{topic}/{partition}@{offset}"),
            Origin::Text(text) => text.clone(),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.origin_text(), self.bytes.len())
    }
}
