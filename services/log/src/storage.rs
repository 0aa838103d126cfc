//! The storage port: what the log needs of a database. SQLite is one; the contract suite in
//! `tests/log/storage_contract.rs` runs over every one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use uuid::Uuid;

use crate::{Error, Record};

/// Which way to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From old to new.
    Forward,
    /// From new to old.
    Backward,
}

/// What the writer commits at once: all of it or nothing.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Streams that begin with this group.
    pub streams: Vec<(i64, Arc<str>)>,
    /// Events, in order of position.
    pub events: Vec<EventRow>,
    /// Answers to requests.
    pub requests: Vec<RequestRow>,
    /// Claims that change hands.
    pub claims: BTreeMap<ClaimKey, Holders>,
    /// The new published mark.
    pub published: Option<u64>,
}

/// The name of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimKey {
    /// Among what it is unique.
    pub scope: &'static str,
    /// What is unique.
    pub key: String,
}

/// Which streams, by number, hold a claim before and after a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holders {
    /// The holder that the storage has; anything else in it fails the group.
    pub before: Option<i64>,
    /// The new holder.
    pub after: Option<i64>,
}

/// An event to store.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// The number of its stream.
    pub stream_id: i64,
    /// Its version in the stream.
    pub version: u64,
    /// Its hash.
    pub leaf_hash: [u8; 32],
    /// Position and encoding.
    pub record: Record,
}

/// The answer to a request, to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRow {
    /// The id that the caller chose.
    pub id: Uuid,
    /// The hash of its content.
    pub fingerprint: [u8; 16],
    /// What was answered.
    pub answer: StoredAnswer,
}

/// What was answered to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredAnswer {
    /// It recorded events; the last has this position.
    Recorded(u64),
    /// Anything else, in an encoding of the writer's.
    Other(Bytes),
}

/// What is known of a request without waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recall {
    /// It has this answer.
    Stored(RequestRow),
    /// It certainly has none.
    New,
    /// It may have one: see [`StorageReader::find_requests`].
    Unknown,
}

/// A stream as it is stored.
#[derive(Debug)]
pub struct StoredStream {
    /// The number of the stream.
    pub id: i64,
    /// Its last version, unless its events are an error.
    pub version: u64,
    /// Its first events, or why it cannot be read; then its version is not known.
    pub events: Result<Vec<Record>, Error>,
}

/// What a store says of itself when it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreInfo {
    /// The id made with the store.
    pub store_id: Uuid,
    /// When it was made, in microseconds since 1970.
    pub created_micros: i64,
    /// The position of the last event.
    pub head: u64,
    /// The largest number of a stream.
    pub last_stream_id: i64,
    /// The published mark.
    pub published: u64,
}

/// The writing half; there is one.
pub trait StorageWriter: Send + 'static {
    /// Commits a group. The work begins with the call, not with the first look at the future; the
    /// next group comes after the end of this one. The call may take as long as a quick commit.
    ///
    /// Law: `Ok` says that all of it is durable. [`Error::DiskFull`] and [`Error::NotWritten`] say
    /// that nothing of it was written and that the next commit may be tried. Any other error is
    /// final: the outcome is not known and the writer must stop.
    fn commit(&mut self, group: Arc<Group>) -> BoxFuture<'static, Result<(), Error>>;

    /// Releases what it holds; everything committed is in the main file afterwards.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// The reading half. Every record is checked against its leaf hash; a mismatch is
/// [`Error::Damaged`]. Reads see everything committed before they began.
pub trait StorageReader: Send + Sync + 'static {
    /// At most `limit` events from a position, inclusive.
    fn read_all(
        &self,
        from: u64,
        direction: Direction,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, Error>>;

    /// At most `limit` events of a stream from a version, inclusive; empty for an unknown stream.
    fn read_stream<'a>(
        &'a self,
        stream: &'a str,
        from: u64,
        direction: Direction,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Record>, Error>>;

    /// These streams, each with at most so many of its first events, in the same order; `None` for
    /// those that do not exist. Events that cannot be read concern their stream alone.
    fn load_streams(
        &self,
        streams: Vec<(Arc<str>, usize)>,
    ) -> BoxFuture<'_, Result<Vec<Option<StoredStream>>, Error>>;

    /// What is known of a request at once. Law: what was committed with one of the last
    /// [`RECENT_REQUESTS`](crate::limits::RECENT_REQUESTS) requests is [`Recall::Stored`].
    fn recall(&self, id: &Uuid) -> Recall;

    /// The stored answers of those requests that have one, in any order.
    fn find_requests<'a>(
        &'a self,
        ids: &'a [Uuid],
    ) -> BoxFuture<'a, Result<Vec<RequestRow>, Error>>;

    /// The numbers of the streams that hold these claims, in the same order.
    fn claim_holders<'a>(
        &'a self,
        claims: &'a [ClaimKey],
    ) -> BoxFuture<'a, Result<Vec<Option<i64>>, Error>>;

    /// The published mark.
    fn published(&self) -> BoxFuture<'_, Result<u64, Error>>;
}
