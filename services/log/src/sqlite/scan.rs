//! Reads of many events at once. Over the pool every row takes a way from thread to thread of its
//! own, which costs more than reading it; here all of them take one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Params, Row};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::disk_runs::{self, DiskRuns};
use super::index::Index;
use super::runs::Place;
use super::{BUSY_TIMEOUT, FILE_NAME, READERS, signed, unsigned};
use crate::storage::{Direction, StoredStream};
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
        records.push(record(row)?);
    }
    Ok(records)
}

/// The record in a row that begins with `position`, `record` and `leaf_hash`.
fn record(row: &Row<'_>) -> Result<Record, Error> {
    let bytes = row.get_ref(1).map_err(failed)?.as_blob().map_err(failed)?;
    let leaf_hash = row.get_ref(2).map_err(failed)?.as_blob().map_err(failed)?;
    let position = unsigned(row.get(0).map_err(failed)?);
    Record::checked(position, Bytes::copy_from_slice(bytes), leaf_hash)
}

/// At most `limit` events of a stream from a version, inclusive.
pub(super) fn stream(
    connection: &Connection,
    index: &Index,
    name: &str,
    from: u64,
    direction: Direction,
    limit: usize,
) -> Result<Vec<Record>, Error> {
    let Some(id) = stream_id(connection, name)? else { return Ok(Vec::new()) };
    // Memory first: what leaves it meanwhile is in the runs on the disk by then.
    let recent = index.places(id);
    let moment = connection.unchecked_transaction().map_err(failed)?;
    let runs = DiskRuns::new(&moment).map_err(failed)?;
    let places = runs.places((id, &recent), from, direction, limit).map_err(failed)?;
    let records = at(&moment, &places)?;
    moment.commit().map_err(failed)?;
    Ok(records)
}

/// Streams, each with at most so many of its first events.
pub(super) fn streams(
    connection: &Connection,
    index: &Index,
    streams: &[(Arc<str>, usize)],
) -> Result<Vec<Option<StoredStream>>, Error> {
    let ids = streams.iter().map(|(name, _)| stream_id(connection, name));
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    // Memory first: what leaves it meanwhile is in the runs on the disk by then.
    let recent: Vec<_> = ids.iter().map(|id| id.map(|id| index.places(id))).collect();
    // In one look at the file, a page is read once.
    let moment = connection.unchecked_transaction().map_err(failed)?;
    let runs = DiskRuns::new(&moment).map_err(failed)?;
    let mut found = Vec::with_capacity(streams.len());
    for ((id, recent), (_, limit)) in ids.into_iter().zip(recent).zip(streams) {
        let Some((id, recent)) = id.zip(recent) else {
            found.push(None);
            continue;
        };
        let stored = match first_places(&runs, id, &recent, *limit) {
            Ok((version, places)) => StoredStream { id, version, events: at(&moment, &places) },
            Err(error) => StoredStream { id, version: 0, events: Err(failed(error)) },
        };
        found.push(Some(stored));
    }
    moment.commit().map_err(failed)?;
    Ok(found)
}

/// The version of a stream, and where at most so many of its first events are.
fn first_places(
    runs: &DiskRuns<'_>,
    id: i64,
    recent: &[Place],
    limit: usize,
) -> Result<(u64, Vec<Place>), disk_runs::Error> {
    let places = runs.places((id, recent), 1, Direction::Forward, limit)?;
    let last = match recent.last() {
        None if places.len() < limit => places.last().copied(),
        None => runs.last(id)?,
        last => last.copied(),
    };
    Ok((last.map_or(0, |place| place.version), places))
}

/// The number of a stream.
fn stream_id(connection: &Connection, name: &str) -> Result<Option<i64>, Error> {
    let find = connection.prepare_cached("SELECT id FROM streams WHERE name = ?");
    let id = find.and_then(|mut find| find.query_row([name], |row| row.get(0)).optional());
    id.map_err(failed)
}

/// The name of a stream, where it is known.
fn stream_name(connection: &Connection, id: i64) -> String {
    let name =
        connection.query_row("SELECT name FROM streams WHERE id = ?", [id], |row| row.get(0));
    name.unwrap_or_default()
}

/// The events at these places, which must have what the index says.
fn at(connection: &Connection, places: &[Place]) -> Result<Vec<Record>, Error> {
    let sql = "SELECT position, record, leaf_hash, stream_id, version FROM events
               WHERE position = ?";
    let mut find = connection.prepare_cached(sql).map_err(failed)?;
    let mut records = Vec::with_capacity(places.len());
    for Place { stream_id, version, position } in places {
        let mut rows = find.query([signed(*position)]).map_err(failed)?;
        let found = match rows.next().map_err(failed)? {
            Some(row) => {
                let event = (row.get(3).map_err(failed)?, unsigned(row.get(4).map_err(failed)?));
                (event == (*stream_id, *version)).then(|| record(row))
            }
            None => None,
        };
        let wrong = || Error::Damaged {
            position: *position,
            stream: stream_name(connection, *stream_id),
            problem: format!("version {version} of its stream belongs here, but is not"),
        };
        records.push(found.unwrap_or_else(|| Err(wrong()))?);
    }
    Ok(records)
}

fn failed(problem: impl ToString) -> Error {
    Error::Read { problem: problem.to_string() }
}
