//! The checkpoint: moves what stands in the WAL into the main file, on a thread beside the one that
//! writes. SQLite by itself does all of it within some COMMIT, and a group waits for thousands of
//! pages.
//!
//! The WAL begins anew only when all of it was moved and synced, while nothing is written and
//! nobody reads from it. So the thread that writes does the rest itself, between two groups: what
//! came meanwhile.
//!
//! SQLite syncs the main file only with the last of the pages. So that the thread that writes does
//! not wait for all of them, the other one syncs the file after its part, by a descriptor of its
//! own.

use std::cell::Cell;
use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{self, TryRecvError};
use std::thread::JoinHandle;

use rusqlite::{Connection, ffi};

/// The WAL is moved when it is this long, in pages of 4 KiB.
const PAGES: i64 = 4000;

/// When the WAL does not begin anew after it was moved, a reader needs it: it is moved again with
/// so many of the next groups, then when it is this many pages longer.
const TRIES: u32 = 16;
const PAGES_MORE: i64 = PAGES / 4;

/// As long as more pages have come meanwhile, another round moves them; but fewer each time.
const REST: i64 = PAGES / 16;

/// The rounds at most.
const ROUNDS: usize = 4;

thread_local! {
    /// The pages of the WAL after the last commit of this thread.
    static WAL: Cell<i64> = const { Cell::new(0) };
}

/// Counts the pages of the WAL with every commit on a connection, which then makes no checkpoint by
/// itself.
pub(super) fn count_pages(connection: &Connection) {
    connection.wal_hook(Some(|_, pages| {
        WAL.set(pages.into());
        Ok(())
    }));
}

/// Checkpoints under way or to come. The thread has ended when this is dropped.
pub(super) struct Checkpoints {
    orders: Option<mpsc::Sender<()>>,
    moved: mpsc::Receiver<rusqlite::Result<()>>,
    thread: Option<JoinHandle<()>>,
    under_way: bool,
    /// How the part of the other thread went, until that is taken up.
    ended: Option<rusqlite::Result<()>>,
    /// How long the WAL is.
    pages: i64,
    /// How long the WAL was when it was moved, 0 once it has begun anew.
    length: i64,
    /// How often it was moved again since.
    tries: u32,
}

impl Checkpoints {
    /// Starts the thread, with a connection of its own and the main file. The file must stay open
    /// as long as any connection to it in this process: closing it gives up the locks of all of
    /// them.
    pub fn start(connection: Connection, file: Arc<File>) -> std::io::Result<Self> {
        let (orders, inbox) = mpsc::channel();
        let (outbox, moved) = mpsc::channel();
        let run = move || {
            while inbox.recv().is_ok() && outbox.send(rounds(&connection, &file)).is_ok() {}
        };
        let thread = std::thread::Builder::new().name("log-checkpoint".to_owned()).spawn(run)?;
        let (orders, thread) = (Some(orders), Some(thread));
        let (under_way, ended, pages, length, tries) = (false, None, 0, 0, 0);
        Ok(Self { orders, moved, thread, under_way, ended, pages, length, tries })
    }

    /// Looks at the WAL after a commit on this thread, with a connection of which pages are
    /// counted, and says whether there is something to do about it ([`Self::go_on`]).
    pub fn is_due(&mut self) -> bool {
        self.pages = WAL.get();
        // A group that is longer than the whole WAL before it is taken for more of the same, which
        // moves it sooner.
        if self.pages < self.length {
            self.length = 0;
        }
        if !self.under_way {
            return self.is_longer() || self.is_long();
        }
        if self.ended.is_none() {
            self.ended = match self.moved.try_recv() {
                Err(TryRecvError::Empty) => None,
                Ok(moved) => Some(moved),
                // The rest is then all of it.
                Err(TryRecvError::Disconnected) => Some(Ok(())),
            };
        }
        self.ended.is_some()
    }

    /// Whether the WAL did not begin anew when it was moved.
    fn is_longer(&self) -> bool {
        self.length > 0 && self.pages > self.length && self.tries < TRIES
    }

    /// Whether it is time to move the WAL.
    fn is_long(&self) -> bool {
        self.pages >= PAGES.max(self.length + PAGES_MORE)
    }

    /// Does what is due, with the connection that writes. After an error of input or output the
    /// file is not to be trusted.
    pub fn go_on(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if let Some(moved) = self.ended.take() {
            (self.under_way, self.length, self.tries) = (false, self.pages, 0);
            return moved.and_then(|()| checkpoint(connection, "PASSIVE")).map(drop);
        }
        if self.under_way {
            return Ok(());
        }
        if self.is_longer() {
            (self.length, self.tries) = (self.pages, self.tries + 1);
            return checkpoint(connection, "PASSIVE").map(drop);
        }
        if self.is_long() {
            self.under_way = true;
            // A thread that has ended is noticed with the next group.
            let _ = self.orders.as_ref().map(|orders| orders.send(()));
        }
        Ok(())
    }

    /// Waits for what is under way, ends the thread, and says how it went.
    pub fn end(mut self) -> rusqlite::Result<()> {
        self.join();
        self.ended.take().into_iter().chain(self.moved.try_iter()).collect()
    }

    fn join(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // The message of a panic is in the server's log.
            let _ = thread.join();
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.join();
    }
}

fn rounds(connection: &Connection, file: &File) -> rusqlite::Result<()> {
    let mut rest = i64::MAX;
    for _ in 0..ROUNDS {
        checkpoint(connection, "PASSIVE")?;
        file.sync_data().map_err(not_synced)?;
        let wal = checkpoint(connection, "NOOP")?;
        let before = std::mem::replace(&mut rest, wal.pages - wal.moved);
        if rest <= REST || rest >= before {
            break;
        }
    }
    Ok(())
}

fn not_synced(error: std::io::Error) -> rusqlite::Error {
    let problem = format!("the main file could not be synced: {error}");
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_FSYNC), Some(problem))
}

/// The WAL, in pages.
pub(super) struct Wal {
    pages: i64,
    moved: i64,
}

/// A checkpoint of one of SQLite's modes; NOOP only looks.
pub(super) fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<Wal> {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    connection.query_row(&sql, [], |row| Ok(Wal { pages: row.get(1)?, moved: row.get(2)? }))
}
