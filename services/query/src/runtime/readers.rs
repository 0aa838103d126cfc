//! The readers of a generation: connections that can change nothing. A query is one piece of work on
//! a thread where it may block, with everything that it reads of one moment.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};

use super::store;

/// How long a query waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection stays open that nobody uses.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Too many others were reading for too long.
    #[error("no turn within {} s", TURN_TIMEOUT.as_secs())]
    Busy,
    /// The generation is not served any more.
    #[error("the file is closed")]
    Closed,
    /// SQLite failed.
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    /// The query panicked, or the runtime has ended.
    #[error(transparent)]
    Lost(#[from] JoinError),
}

/// The readers of a file.
pub(crate) struct Readers {
    turns: Arc<Semaphore>,
    most: u32,
    connections: Arc<Connections>,
}

struct Connections {
    file: PathBuf,
    /// Those that nobody uses, and since when; `None` after the end.
    idle: Mutex<Option<Vec<(Connection, Instant)>>>,
}

impl Readers {
    /// At most so many at the same time.
    pub fn new(file: &Path, most: u32) -> Self {
        let connections = Connections { file: file.to_owned(), idle: Mutex::new(Some(Vec::new())) };
        let turns = Arc::new(Semaphore::new(most as usize));
        Self { turns, most, connections: Arc::new(connections) }
    }

    /// Reads rows, all of one moment, and the position which that moment reflects. A query whose
    /// caller has left keeps its turn until it has ended.
    pub async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<(T, u64), Error> {
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.turns.clone().acquire_owned());
        let turn = turn.await.map_err(|_| Error::Busy)?.map_err(|_| Error::Closed)?;
        let connections = Arc::clone(&self.connections);
        let reading = spawn_blocking(move || {
            let _turn = turn;
            connections.read(query)
        });
        reading.await?
    }

    /// Waits for the queries under way, and closes the connections; later queries fail.
    pub async fn close(&self) {
        let _ = self.turns.acquire_many(self.most).await;
        self.turns.close();
        drop(self.connections.idle().take());
    }
}

impl Connections {
    fn idle(&self) -> MutexGuard<'_, Option<Vec<(Connection, Instant)>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<(T, u64), Error> {
        let idle = self.idle().as_mut().ok_or(Error::Closed)?.pop();
        let connection = match idle {
            Some((connection, _)) => connection,
            None => store::read_only(&self.file)?,
        };
        // After an error the connection is not used again.
        connection.prepare_cached("BEGIN")?.execute([])?;
        let sql = "SELECT position FROM checkpoint";
        let position = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        let answer = query(&connection)?;
        connection.prepare_cached("COMMIT")?.execute([])?;
        if let Some(idle) = self.idle().as_mut() {
            idle.push((connection, Instant::now()));
            idle.retain(|(_, since)| since.elapsed() < IDLE_TIMEOUT);
        }
        Ok((answer, store::from_i64(position)))
    }
}
