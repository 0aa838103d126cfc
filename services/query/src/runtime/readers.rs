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

/// A connection that nobody has used for so long is closed when the next query ends.
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
    /// Those that nobody uses, and since when; `None` once they are to be closed.
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
        if self.connections.idle().is_none() {
            return Err(Error::Closed);
        }
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.turns.clone().acquire_owned());
        let turn = turn.await.map_err(|_| Error::Busy)?.map_err(|_| Error::Closed)?;
        let connections = Arc::clone(&self.connections);
        let reading = spawn_blocking(move || {
            let _turn = turn;
            connections.read(query)
        });
        reading.await?
    }

    /// Closes the connections, those of queries under way when they end, and waits for that. Later
    /// queries fail.
    pub async fn close(&self) {
        let idle = self.connections.idle().take();
        // To close the last connection of a file may take the disk a while.
        let _ = spawn_blocking(move || drop(idle)).await;
        // A turn that was given back would go to who waits for one.
        let _turns = self.turns.acquire_many(self.most).await;
        self.turns.close();
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
        let old = match self.idle().as_mut() {
            Some(idle) => {
                idle.push((connection, Instant::now()));
                let is_old =
                    |(_, since): &mut (Connection, Instant)| since.elapsed() > IDLE_TIMEOUT;
                idle.extract_if(.., is_old).collect()
            }
            None => vec![(connection, Instant::now())],
        };
        // They are closed where nobody waits for the lock.
        drop(old);
        Ok((answer, store::from_i64(position)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn file(dir: &tempfile::TempDir) -> PathBuf {
        let file = dir.path().join("rows.db");
        let connection = Connection::open(&file).unwrap();
        let schema =
            "CREATE TABLE checkpoint (position INTEGER); INSERT INTO checkpoint VALUES (7)";
        connection.execute_batch(schema).unwrap();
        file
    }

    #[tokio::test]
    async fn an_end_waits_for_queries_under_way_and_refuses_others_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let readers = Arc::new(Readers::new(&file(&dir), 1));
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (go_on, waits) = mpsc::channel::<()>();
        let reading = readers.clone();
        let under_way = tokio::spawn(async move {
            let query = move |_: &Connection| {
                begun.send(()).unwrap();
                waits.recv().unwrap();
                Ok("an answer")
            };
            reading.read(query).await.unwrap()
        });
        has_begun.await.unwrap();
        let closing = readers.clone();
        let mut end = tokio::spawn(async move { closing.close().await });
        let early = tokio::time::timeout(Duration::from_millis(100), &mut end).await;
        assert!(early.is_err(), "it did not wait for the query");
        let refused = readers.read(|_| Ok(())).await;
        assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
        go_on.send(()).unwrap();
        assert_eq!(under_way.await.unwrap(), ("an answer", 7));
        end.await.unwrap();
    }

    #[tokio::test]
    async fn a_query_that_panics_or_fails_gives_its_turn_back() {
        let dir = tempfile::tempdir().unwrap();
        let readers = Readers::new(&file(&dir), 1);
        let panicked = readers.read::<()>(|_| panic!("a bug")).await;
        assert!(matches!(panicked, Err(Error::Lost(_))), "{panicked:?}");
        let failed = readers.read(|rows| rows.execute("DELETE FROM checkpoint", [])).await;
        assert!(matches!(failed, Err(Error::Sql(_))), "{failed:?}");
        assert_eq!(readers.read(|_| Ok(())).await.unwrap(), ((), 7));
    }
}
