//! The checkpoint: moves what stands in the WAL into the main file, on a thread beside the one that
//! writes. SQLite by itself does all of it within some COMMIT, and a group waits for thousands of
//! pages.
//!
//! The WAL begins anew only when all of it was moved and synced, while nothing is written. So the
//! thread that writes does the rest itself, between two groups: what came meanwhile.

use std::sync::mpsc::{self, TryRecvError};
use std::thread::JoinHandle;

use rusqlite::Connection;

/// The WAL is moved when it is this long, in pages of 4 KiB.
const PAGES: i64 = 4000;

/// When the WAL could not begin anew since a reader needed it, this many pages later once more.
const PAGES_MORE: i64 = PAGES / 4;

/// As long as more pages have come meanwhile, another round moves them.
const REST: i64 = PAGES / 16;

/// The rounds at most.
const ROUNDS: usize = 4;

/// Checkpoints under way or to come. The thread ends when this is dropped.
pub(super) struct Checkpoints {
    orders: Option<mpsc::Sender<()>>,
    moved: mpsc::Receiver<rusqlite::Result<()>>,
    thread: Option<JoinHandle<()>>,
    under_way: bool,
    /// How long the WAL was when it was moved, 0 once it has begun anew.
    length: i64,
}

impl Checkpoints {
    /// Starts the thread, with a connection of its own to the file.
    pub fn start(connection: Connection) -> std::io::Result<Self> {
        let (orders, inbox) = mpsc::channel();
        let (outbox, moved) = mpsc::channel();
        let run = move || {
            while inbox.recv().is_ok() && outbox.send(rounds(&connection)).is_ok() {}
        };
        let thread = std::thread::Builder::new().name("log-checkpoint".to_owned()).spawn(run)?;
        let (orders, thread) = (Some(orders), Some(thread));
        Ok(Self { orders, moved, thread, under_way: false, length: 0 })
    }

    /// What there is to do after a group, on the thread that writes, with its connection. After an
    /// error of input or output the file is not to be trusted.
    pub fn go_on(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if self.under_way {
            let moved = match self.moved.try_recv() {
                Err(TryRecvError::Empty) => return Ok(()),
                Ok(moved) => moved,
                // The rest is then all of it.
                Err(TryRecvError::Disconnected) => Ok(()),
            };
            self.under_way = false;
            self.length = checkpoint(connection, "NOOP")?.pages;
            return moved.and_then(|()| checkpoint(connection, "PASSIVE")).map(drop);
        }
        let pages = checkpoint(connection, "NOOP")?.pages;
        if pages < self.length {
            self.length = 0;
        }
        if pages >= PAGES.max(self.length + PAGES_MORE) {
            self.under_way = true;
            // A thread that has ended is noticed with the next group.
            let _ = self.orders.as_ref().map(|orders| orders.send(()));
        }
        Ok(())
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn rounds(connection: &Connection) -> rusqlite::Result<()> {
    for _ in 0..ROUNDS {
        checkpoint(connection, "PASSIVE")?;
        let wal = checkpoint(connection, "NOOP")?;
        if wal.pages - wal.moved <= REST {
            break;
        }
    }
    Ok(())
}

/// The WAL, in pages.
struct Wal {
    pages: i64,
    moved: i64,
}

fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<Wal> {
    let mut statement = connection.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?;
    statement.query_row([], |row| Ok(Wal { pages: row.get(1)?, moved: row.get(2)? }))
}
