//! Reads of many events one after the other. Over the pool every row takes a way from thread to
//! thread of its own, which costs more than reading it; here a whole page takes one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, params};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::{BUSY_TIMEOUT, FILE_NAME, READERS, unsigned};
use crate::{Error, Record};

/// Read-only connections for long reads.
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

    /// The events that a statement over `position`, `record` and `leaf_hash` finds.
    pub async fn read(
        &self,
        sql: &'static str,
        from: i64,
        limit: i64,
    ) -> Result<Vec<Record>, Error> {
        let stopped = || failed("the log is closed");
        let _turn = self.inner.turns.acquire().await.map_err(|_| stopped())?;
        let inner = Arc::clone(&self.inner);
        let read = spawn_blocking(move || inner.read(sql, from, limit));
        read.await.unwrap_or_else(|error| Err(failed(error)))
    }

    /// Waits for reads under way and closes the connections; later reads fail.
    pub async fn close(&self) {
        let _ = self.inner.turns.acquire_many(READERS).await;
        self.inner.turns.close();
        drop(self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Inner {
    fn read(&self, sql: &str, from: i64, limit: i64) -> Result<Vec<Record>, Error> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let known = idle().as_mut().and_then(Vec::pop);
        let connection = known.map_or_else(|| self.connect(), Ok).map_err(failed)?;
        // After an error the connection is not used again.
        let records = rows(&connection, sql, from, limit)?;
        if let Some(idle) = idle().as_mut() {
            idle.push(connection);
        }
        Ok(records)
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

fn rows(connection: &Connection, sql: &str, from: i64, limit: i64) -> Result<Vec<Record>, Error> {
    let mut statement = connection.prepare_cached(sql).map_err(failed)?;
    let mut rows = statement.query(params![from, limit]).map_err(failed)?;
    let mut records = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let bytes = row.get_ref(1).map_err(failed)?.as_blob().map_err(failed)?;
        let leaf_hash = row.get_ref(2).map_err(failed)?.as_blob().map_err(failed)?;
        let position = unsigned(row.get(0).map_err(failed)?);
        records.push(Record::checked(position, Bytes::copy_from_slice(bytes), leaf_hash)?);
    }
    Ok(records)
}

fn failed(problem: impl ToString) -> Error {
    Error::Read { problem: problem.to_string() }
}
