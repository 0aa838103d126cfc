//! Reads of many events at once. Over the pool every row takes a way from thread to thread of its
//! own, which costs more than reading it; here all of them take one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Params, params};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::index::Index;
use super::runs::Place;
use super::{BUSY_TIMEOUT, FILE_NAME, READERS, signed, unsigned};
use crate::storage::StoredStream;
use crate::{Error, Record};

/// Read-only connections, each on a thread for as long as one read.
#[derive(Clone)]
pub(super) struct Scans {
    inner: Arc<Inner>,
}

struct Inner {
    file: PathBuf,
    /// Connections that nobody uses; `None` after the end.
    idle: Mutex<Option<Vec<Connection>>>,
    turns: Semaphore,
}

impl Scans {
    /// Reads of the log in a directory.
    pub fn new(directory: &Path) -> Self {
        let (file, idle) = (directory.join(FILE_NAME), Mutex::new(Some(Vec::new())));
        let turns = Semaphore::new(READERS as usize);
        Self { inner: Arc::new(Inner { file, idle, turns }) }
    }

    /// Reads, on a thread where that may block.
    pub async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let stopped = || failed("the log is closed");
        let _turn = self.inner.turns.acquire().await.map_err(|_| stopped())?;
        let inner = Arc::clone(&self.inner);
        let read = spawn_blocking(move || inner.run(read));
        read.await.unwrap_or_else(|error| Err(failed(error)))
    }

    /// Waits for reads under way and closes the connections; later reads fail.
    pub async fn close(&self) {
        // A turn that was given back would go to who waits for one.
        let _turns = self.inner.turns.acquire_many(READERS).await;
        self.inner.turns.close();
        drop(self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Inner {
    fn run<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let known = idle().as_mut().and_then(Vec::pop);
        let connection = known.map_or_else(|| self.connect(), Ok).map_err(failed)?;
        // After an error the connection is not used again.
        let found = read(&connection)?;
        if let Some(idle) = idle().as_mut() {
            idle.push(connection);
        }
        Ok(found)
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.file, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "mmap_size", 0)?;
        connection.pragma_update(None, "cache_size", -4096)?;
        Ok(connection)
    }
}

/// The events that a statement over `position`, `record` and `leaf_hash` finds.
pub(super) fn events(
    connection: &Connection,
    sql: &str,
    params: impl Params,
) -> Result<Vec<Record>, Error> {
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let mut rows = statement.query(params).map_err(failed)?;
    let mut records = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let bytes = row.get_ref(1).map_err(failed)?.as_blob().map_err(failed)?;
        let leaf_hash = row.get_ref(2).map_err(failed)?.as_blob().map_err(failed)?;
        let position = unsigned(row.get(0).map_err(failed)?);
        records.push(Record::checked(position, Bytes::copy_from_slice(bytes), leaf_hash)?);
    }
    Ok(records)
}

/// Streams, each with at most so many of its first events.
pub(super) fn streams(
    connection: &Connection,
    index: &Index,
    streams: &[(Arc<str>, usize)],
) -> Result<Vec<Option<StoredStream>>, Error> {
    let mut find =
        connection.prepare_cached("SELECT id FROM streams WHERE name = ?").map_err(failed)?;
    let mut ids = Vec::with_capacity(streams.len());
    for (name, _) in streams {
        let id = find.query_row([name.as_ref()], |row| row.get(0)).optional();
        ids.push(id.map_err(failed)?);
    }
    // Memory first: what leaves it meanwhile is in the tables by then.
    let recent: Vec<_> = ids.iter().map(|id: &Option<i64>| id.map(|id| index.places(id))).collect();
    // In one look at the file, a page is read once.
    let moment = connection.unchecked_transaction().map_err(failed)?;
    let mut found = Vec::with_capacity(streams.len());
    for ((id, recent), (_, limit)) in ids.into_iter().zip(recent).zip(streams) {
        let stream = id.zip(recent).map(|(id, recent)| stream(&moment, id, &recent, *limit));
        found.push(stream.transpose().map_err(failed)?);
    }
    moment.commit().map_err(failed)?;
    Ok(found)
}

fn stream(
    connection: &Connection,
    id: i64,
    recent: &[Place],
    limit: usize,
) -> rusqlite::Result<StoredStream> {
    let version = match recent.last() {
        Some(place) => place.version,
        None => {
            let sql = "SELECT coalesce(max(version), 0) FROM stream_events WHERE stream_id = ?";
            connection.prepare_cached(sql)?.query_row([id], |row| row.get(0)).map(unsigned)?
        }
    };
    let indexed = recent.first().map_or(version, |place| place.version - 1);
    let read = || {
        let mut records = match indexed.min(limit as u64) {
            0 => Vec::new(),
            last => events(
                connection,
                "SELECT e.position, e.record, e.leaf_hash
                 FROM stream_events i JOIN events e ON e.position = i.position
                 WHERE i.stream_id = ? AND i.version <= ? ORDER BY i.version",
                params![id, signed(last)],
            )?,
        };
        let sql = "SELECT position, record, leaf_hash FROM events WHERE position = ?";
        for place in recent.iter().take(limit - records.len()) {
            records.extend(events(connection, sql, [signed(place.position)])?);
        }
        Ok(records)
    };
    Ok(StoredStream { id, version, events: read() })
}

fn failed(problem: impl ToString) -> Error {
    Error::Read { problem: problem.to_string() }
}
