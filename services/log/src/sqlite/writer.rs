//! The writing half: the one connection that appends, and a thread for it.
//!
//! The way to the thread and back is a quarter of the time that a small group takes with it. So
//! a small one is committed by whoever hands it over, as long as most are quick: the caller is a
//! thread that serves others, too, and must not wait for a slow disk. What may take longer is for
//! the thread: a long group, one that failed, a turn of the index, a checkpoint.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, LazyLock, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use tokio::sync::oneshot;
use tracing::{error, warn};

use super::checkpoint::{Checkpoints, checkpoint, count_pages};
use super::disk_runs::{self, DiskRuns};
use super::heads::Heads;
use super::index::{Index, Waste, beside_the_log};
use super::insert::Insert;
use super::merge::{Merger, Slice, remember_newest};
use super::{BUSY_TIMEOUT, FILE_NAME, LEAST_SQLITE, Options, request_column, signed};
use crate::Error;
use crate::storage::{ClaimKey, EventRow, Group, Holders, StorageWriter, StoredAnswer};

/// The prepared statements that are kept; there are fewer.
const STATEMENTS: usize = 32;

/// A group with no more events, answers and bytes of records is small. Of longer ones, the thread
/// commits one while the next is decided, which saves more than the way takes.
const SMALL: usize = 100;
const SMALL_BYTES: usize = 128 * 1024;

/// The next commit is taken to be quick when the score is at least this. A commit that was quick
/// ([`Options::quick_commit`]) adds one to it, up to a most. One that was late takes two, which may
/// be since its thread had to wait for a processor: the score falls when more than a third are late.
/// One that took many times as long, as on a disk that is slow, takes all.
const QUICK_SCORE: u32 = 8;
const MOST_SCORE: u32 = 16;
const LATE_COSTS: u32 = 2;
const VERY_LATE: u32 = 10;

/// What a transaction merges that does nothing else, at the end. The chunks that are not needed for
/// what is in memory compact runs, so that sessions that append little do not leave one each.
const AT_CLOSE: Slice = Slice { chunks: 1024, requests: 65_536 };

// After a conflict the transaction is given up in any case; SQLite then keeps no journal of its own
// to take back one statement.
static EVENTS: LazyLock<Insert<6>> = LazyLock::new(|| {
    Insert::new(
        "INSERT OR ROLLBACK INTO events (position, stream_id, version, leaf_hash, record, request)",
    )
});

/// The writing half. It holds the lock of the store until it is closed or dropped.
pub struct SqliteWriter {
    /// Shared with the thread.
    store: Arc<Mutex<Store>>,
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    /// With what went wrong when it was tried before, if it was.
    Commit(Arc<Group>, Option<Problem>, oneshot::Sender<Result<(), Error>>),
    Close(oneshot::Sender<()>),
}

impl SqliteWriter {
    pub(super) fn start(
        options: Options,
        index: Index,
        lock: File,
        file: Arc<File>,
    ) -> Result<Self, String> {
        let open = || connect(&options).map_err(|error| error.to_string());
        let connection = Some(open()?);
        let beside = open()?;
        keep_wal(&beside).map_err(|error| error.to_string())?;
        let checkpoints = Checkpoints::start(beside, file).map_err(|error| error.to_string())?;
        let store = Store {
            connection,
            checkpoints: Some(checkpoints),
            options,
            index,
            heads: Heads::new(),
            merger: None,
            full: false,
            score: 0,
            untidy: false,
            waste: None,
            stopped: None,
            _lock: lock,
        };
        let store = Arc::new(Mutex::new(store));
        let (orders, inbox) = mpsc::channel();
        let of_thread = store.clone();
        let thread = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || run(&of_thread, &inbox))
            .map_err(|error| error.to_string())?;
        Ok(Self { store, orders: Some(orders), thread: Some(thread) })
    }

    /// Commits a group on this thread, if that is likely to be short. Otherwise it is for the other
    /// one, which then begins with what went wrong here, if it was tried.
    fn commit_here(&self, group: &Group) -> Result<(), Option<Problem>> {
        if !is_small(group) {
            return Err(None);
        }
        // The thread may be tidying up; after a panic nothing goes on.
        let mut store = self.store.try_lock().map_err(|_| None)?;
        let began = Instant::now();
        if !store.is_quick() || !store.begin_at_once()? {
            return Err(None);
        }
        store.try_commit(group, true)?;
        store.take_up(group);
        store.took(began.elapsed());
        Ok(())
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // A thread that has ended drops the order, which is then answered as such.
            let _ = orders.send(order);
        }
    }
}

impl StorageWriter for SqliteWriter {
    fn commit(&mut self, group: Arc<Group>) -> BoxFuture<'static, Result<(), Error>> {
        let problem = match self.commit_here(&group) {
            Ok(()) => return Box::pin(std::future::ready(Ok(()))),
            Err(problem) => problem,
        };
        let (reply, answer) = oneshot::channel();
        self.order(Order::Commit(group, problem, reply));
        Box::pin(async move {
            let ended =
                || Error::Stopped { problem: "the thread that writes has ended".to_owned() };
            answer.await.unwrap_or_else(|_| Err(ended()))
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            self.order(Order::Close(reply));
            let _ = answer.await;
            drop(self);
        })
    }
}

impl Drop for SqliteWriter {
    fn drop(&mut self) {
        // The lock is free once the store is dropped after this, since the thread has ended.
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What an error means for a group.
enum Failure {
    Full,
    /// The group is not what the store can take: nothing of it was committed.
    Refused(String),
    Fatal(String),
    Other(String),
}

/// Why a group was not committed.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("{0}")]
    Settings(String),
    #[error("{0}")]
    Refused(String),
}

impl From<disk_runs::Error> for Problem {
    fn from(error: disk_runs::Error) -> Self {
        match error {
            disk_runs::Error::Sqlite(error) => Self::Sqlite(error),
            damaged @ disk_runs::Error::Damaged(_) => Self::Refused(damaged.to_string()),
        }
    }
}

impl Problem {
    fn meaning(&self) -> Failure {
        let code = match self {
            Self::Sqlite(rusqlite::Error::SqliteFailure(error, _)) => error.extended_code & 0xff,
            Self::Refused(problem) => return Failure::Refused(problem.clone()),
            Self::Sqlite(_) | Self::Settings(_) => return Failure::Other(self.to_string()),
        };
        match code {
            13 => Failure::Full,
            19 => Failure::Refused(self.to_string()),
            // IOERR, CORRUPT, CANTOPEN, NOTADB: the file is not what it should be.
            10 | 11 | 14 | 26 => Failure::Fatal(self.to_string()),
            _ => Failure::Other(self.to_string()),
        }
    }
}

/// What is written to.
struct Store {
    connection: Option<Connection>,
    /// `None` once the store is closed.
    checkpoints: Option<Checkpoints>,
    options: Options,
    index: Index,
    heads: Heads,
    /// What is being merged; `None` until the store was asked how far that is.
    merger: Option<Merger>,
    /// The last group did not fit on the disk.
    full: bool,
    /// How quick the last commits were: [`QUICK_SCORE`].
    score: u32,
    /// There is something to do before the next commit: the thread does it.
    untidy: bool,
    /// What is not needed any more, to be freed there.
    waste: Option<Waste>,
    /// Why nothing may be written any more.
    stopped: Option<String>,
    _lock: File,
}

/// What the thread does, until it is told to close or nobody is there to tell it.
fn run(store: &Mutex<Store>, inbox: &mpsc::Receiver<Order>) {
    while let Ok(order) = inbox.recv() {
        // After a panic elsewhere the thread ends, which answers the order.
        let Ok(mut store) = store.lock() else { return };
        match order {
            Order::Commit(group, problem, reply) => {
                if store.untidy {
                    // After a group that this thread did not commit.
                    store.tidy_up();
                }
                let committed = store.commit(&group, problem);
                // Whoever gets the answer is then the only one who has the group.
                drop(group);
                // The next one may come before this returns.
                let untidy = store.untidy;
                let store = untidy.then_some(store);
                let _ = reply.send(committed);
                if let Some(mut store) = store {
                    store.tidy_up();
                }
            }
            Order::Close(reply) => {
                store.close();
                let _ = reply.send(());
                return;
            }
        }
    }
}

fn is_small(group: &Group) -> bool {
    let bytes = || group.events.iter().map(|row| row.record.bytes.len()).sum::<usize>();
    group.events.len().max(group.requests.len()) <= SMALL && bytes() <= SMALL_BYTES
}

impl Store {
    /// Whether the next commit is likely to be short.
    fn is_quick(&self) -> bool {
        let goes_on = self.stopped.is_none() && !self.untidy && !self.index.is_full();
        goes_on && self.score >= QUICK_SCORE
    }

    /// Begins a transaction, unless another process is writing.
    fn begin_at_once(&self) -> Result<bool, Problem> {
        let Some(connection) = &self.connection else { return Ok(false) };
        connection.busy_timeout(Duration::ZERO)?;
        let begun = begin(connection);
        connection.busy_timeout(BUSY_TIMEOUT)?;
        match begun {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(false),
            begun => Ok(begun.map(|()| true)?),
        }
    }

    /// Commits a group, or goes on after a problem that it met.
    fn commit(&mut self, group: &Group, problem: Option<Problem>) -> Result<(), Error> {
        if let Some(problem) = self.stopped.clone() {
            return Err(Error::Stopped { problem });
        }
        let began = Instant::now();
        let rested = self.full || self.merger.as_ref().is_some_and(Merger::is_resting);
        let tried = problem.map_or_else(|| self.try_commit(group, false), Err);
        let committed = match self.take_up_or_ask(group, tried) {
            // What was merged by the way may have taken the room; now that rests.
            Err(Error::DiskFull) if !rested => {
                let tried = self.try_commit(group, false);
                self.take_up_or_ask(group, tried)
            }
            committed => committed,
        };
        match committed {
            Ok(()) => self.took(began.elapsed()),
            Err(_) => self.score = 0,
        }
        committed
    }

    /// Notes how long a commit took.
    fn took(&mut self, time: Duration) {
        let quick = self.options.quick_commit;
        self.score = if time <= quick {
            (self.score + 1).min(MOST_SCORE)
        } else if time <= quick.saturating_mul(VERY_LATE) {
            self.score.saturating_sub(LATE_COSTS)
        } else {
            0
        };
    }

    /// After an error the store is asked whether the group is in it.
    fn take_up_or_ask(&mut self, group: &Group, tried: Result<(), Problem>) -> Result<(), Error> {
        let error = match tried {
            Ok(()) => {
                self.take_up(group);
                return Ok(());
            }
            Err(error) => error,
        };
        warn!(%error, events = group.events.len(), "a group could not be committed");
        let failure = error.meaning();
        match failure {
            Failure::Fatal(problem) => {
                // After a failed fsync the page cache may show what the disk does not have:
                // even a look at the store proves nothing.
                return Err(self.stop(problem));
            }
            Failure::Refused(problem) => {
                // What is in the way is in the store already, so a look would mislead.
                self.connection = None;
                return Err(Error::NotWritten { problem });
            }
            Failure::Full => self.full = true,
            Failure::Other(_) => {}
        }
        match self.was_committed(group) {
            Ok(true) => {
                self.take_up(group);
                Ok(())
            }
            Ok(false) => Err(match failure {
                Failure::Full => Error::DiskFull,
                Failure::Other(problem) | Failure::Refused(problem) | Failure::Fatal(problem) => {
                    Error::NotWritten { problem }
                }
            }),
            Err(second) => Err(self.stop(format!("{error}; then {second}"))),
        }
    }

    /// Notes what is durable now.
    fn take_up(&mut self, group: &Group) {
        self.index.add(group);
        for row in &group.events {
            self.heads.set(row.stream_id, row.version);
        }
        let is_due = self.checkpoints.as_mut().is_some_and(Checkpoints::is_due);
        self.untidy |= is_due || self.waste.is_some();
    }

    /// What follows a commit and may take long.
    fn tidy_up(&mut self) {
        (self.untidy, self.waste) = (false, None);
        self.checkpoint();
    }

    /// Moves what is in the WAL into the main file, as far as it is due. Nothing that is durable
    /// depends on it; when the file cannot be written, the next group is refused.
    fn checkpoint(&mut self) {
        let (Some(connection), Some(checkpoints)) = (&self.connection, &mut self.checkpoints)
        else {
            return;
        };
        let Err(error) = checkpoints.go_on(connection) else { return };
        let problem = Problem::from(error);
        match problem.meaning() {
            Failure::Fatal(problem) => {
                error!(%problem, "the WAL could not be moved into the main file; the log stops");
                self.stop(problem);
            }
            Failure::Full | Failure::Refused(_) | Failure::Other(_) => {
                warn!(%problem, "the WAL could not be moved into the main file; it stays for now");
            }
        }
    }

    /// Nothing may be written any more, and the WAL, which has everything, must stay.
    fn stop(&mut self, problem: String) -> Error {
        if let Some(connection) = self.connection.take() {
            let _ = keep_wal(&connection);
        }
        self.stopped = Some(problem.clone());
        Error::Stopped { problem }
    }

    /// Writes a group, in a transaction that has begun or not, and merges by the way what a group of
    /// so many rows may.
    fn try_commit(&mut self, group: &Group, has_begun: bool) -> Result<(), Problem> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(&self.options)?),
        };
        let merging = self.index.to_merge(false);
        if !has_begun {
            begin(connection)?;
        }
        let mut merger = match &self.merger {
            Some(merger) => merger.clone(),
            None => Merger::new(connection)?,
        };
        if self.full {
            merger.rest(connection)?;
        }
        let slice = merger.slice(group.events.len().max(group.requests.len()));
        merger.make_room(connection, slice)?;
        check_versions(connection, &self.heads, &self.index, group)?;
        write(connection, group)?;
        let merged = merger.go_on(connection, merging.as_ref(), slice)?;
        commit(connection)?;
        (self.merger, self.full) = (Some(merger), false);
        if merged {
            self.waste = self.index.merged();
        }
        Ok(())
    }

    /// After an error: a new connection, and whether the group is in the store after all.
    fn was_committed(&mut self, group: &Group) -> Result<bool, Problem> {
        // Whatever the old connection still holds is given up, not committed. Which slice was the
        // last is not known, either.
        (self.connection, self.merger) = (None, None);
        let connection = self.connection.insert(connect(&self.options)?);
        if let Some(last) = group.events.last() {
            let hash: Option<Vec<u8>> = connection
                .query_row(
                    "SELECT leaf_hash FROM events WHERE position = ?",
                    [signed(last.record.position)],
                    |row| row.get(0),
                )
                .optional()?;
            return Ok(hash.is_some_and(|hash| hash == last.leaf_hash));
        }
        let Some((last, _)) = beside_the_log(group).last() else { return Ok(false) };
        let sql = "SELECT EXISTS (SELECT 1 FROM requests WHERE request_id = ?)";
        Ok(connection.query_row(sql, [last.id.as_bytes().as_slice()], |row| row.get(0))?)
    }

    /// Brings the indexes up to date, so that the next start has nothing to read, and everything
    /// into the main file.
    fn close(&mut self) {
        let ended = self.checkpoints.take().map_or(Ok(()), Checkpoints::end);
        let closed = ended.map_err(Problem::from).and_then(|()| self.merge_all());
        if let Err(error) = closed {
            warn!(%error, "the indexes or the WAL could not be brought up to date; nothing is lost");
            self.stop(error.to_string());
        }
        if let Some(connection) = self.connection.take() {
            let _ = connection.close();
        }
    }

    /// Merges what is in memory of the indexes, and leaves nothing in the WAL.
    fn merge_all(&mut self) -> Result<(), Problem> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let mut merger = match self.merger.take() {
            Some(merger) => merger,
            None => Merger::new(connection)?,
        };
        while let Some(merging) = self.index.to_merge(true) {
            begin(connection)?;
            let merged = merger.go_on(connection, Some(&merging), AT_CLOSE)?;
            commit(connection)?;
            if merged {
                self.index.merged();
            }
            // So that the WAL takes the room of one slice only.
            checkpoint(connection, "PASSIVE")?;
        }
        begin(connection)?;
        merger.make_room(connection, AT_CLOSE)?;
        commit(connection)?;
        checkpoint(connection, "TRUNCATE")?;
        Ok(())
    }
}

/// Even when it is the last connection to be closed, it does not move the WAL and delete it.
fn keep_wal(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
}

/// Opens a connection that writes and reads back what its safety rests on.
fn connect(options: &Options) -> Result<Connection, Problem> {
    let connection = Connection::open(options.directory.join(FILE_NAME))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    if parse_version(rusqlite::version()) < Some(LEAST_SQLITE) {
        return Err(Problem::Settings(format!(
            "SQLite {} has a bug that can corrupt the log; at least {LEAST_SQLITE:?} is needed",
            rusqlite::version()
        )));
    }
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF;
         PRAGMA mmap_size = 0; PRAGMA cache_size = -16384;",
    )?;
    count_pages(&connection);
    if let Some(pages) = options.max_pages {
        connection.execute_batch(&format!("PRAGMA max_page_count = {pages}"))?;
    }
    let journal: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    let synchronous: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
    let mmap: Option<i64> =
        connection.query_row("PRAGMA mmap_size", [], |row| row.get(0)).optional()?;
    if journal != "wal" || synchronous != 2 || mmap.unwrap_or(0) != 0 {
        return Err(Problem::Settings(format!(
            "SQLite did not take its settings: journal_mode {journal} (wal), synchronous \
             {synchronous} (2), mmap_size {mmap:?} (0)"
        )));
    }
    Ok(connection)
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

fn begin(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
}

/// Commits: what was written is durable when this returns.
fn commit(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare_cached("COMMIT")?.execute([]).map(drop)
}

/// Checks that each event follows the last of its stream: no index would refuse a second event of a
/// version.
fn check_versions(
    connection: &Connection,
    heads: &Heads,
    index: &Index,
    group: &Group,
) -> Result<(), Problem> {
    let mut last: BTreeMap<i64, u64> = group.streams.iter().map(|(id, _)| (*id, 0)).collect();
    let mut on_disk = None;
    for EventRow { stream_id, version, .. } in &group.events {
        let in_group = last.get(stream_id).copied();
        let known = in_group.or_else(|| heads.get(*stream_id));
        let before = match known.or_else(|| index.last_version(*stream_id)) {
            Some(before) => before,
            None => {
                let runs = match &mut on_disk {
                    Some(runs) => runs,
                    none => none.insert(DiskRuns::new(connection)?),
                };
                runs.last(*stream_id)?.map_or(0, |place| place.version)
            }
        };
        if *version != before + 1 {
            return Err(Problem::Refused(format!(
                "version {version} of stream {stream_id} does not follow its last, {before}"
            )));
        }
        last.insert(*stream_id, *version);
    }
    Ok(())
}

fn write(connection: &Connection, group: &Group) -> Result<(), Problem> {
    if !group.streams.is_empty() {
        let sql = "INSERT INTO streams (id, name) VALUES (?, ?)";
        let mut insert = connection.prepare_cached(sql)?;
        for (id, name) in &group.streams {
            insert.execute(params![id, name.as_ref()])?;
        }
    }
    write_events(connection, group)?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO requests (request_id, fingerprint, answer) VALUES (?, ?, ?)",
    )?;
    for (row, answer) in beside_the_log(group) {
        insert.execute(params![
            row.id.as_bytes().as_slice(),
            row.fingerprint.as_slice(),
            answer
        ])?;
    }
    remember_newest(connection, beside_the_log(group).map(|(row, _)| &row.id))?;
    write_claims(connection, &group.claims)?;
    if let Some(published) = group.published {
        let sql = "UPDATE store SET published = ?";
        connection.prepare_cached(sql)?.execute([signed(published)])?;
    }
    Ok(())
}

fn write_events(connection: &Connection, group: &Group) -> Result<(), Problem> {
    let recorded = group.requests.iter().filter_map(|row| match row.answer {
        StoredAnswer::Recorded(position) => Some((position, request_column(row))),
        StoredAnswer::Other(_) => None,
    });
    let requests: BTreeMap<u64, [u8; 32]> = recorded.collect();
    let mut known = 0;
    let rows = group.events.iter().map(|row| {
        let request = requests.get(&row.record.position);
        known += usize::from(request.is_some());
        [
            ValueRef::Integer(signed(row.record.position)),
            ValueRef::Integer(row.stream_id),
            ValueRef::Integer(signed(row.version)),
            ValueRef::Blob(&row.leaf_hash),
            ValueRef::Blob(&row.record.bytes),
            request.map_or(ValueRef::Null, |request| ValueRef::Blob(request)),
        ]
    });
    EVENTS.all(connection, rows)?;
    if known < requests.len() {
        let problem = "a request has recorded an event that is not here".to_owned();
        return Err(Problem::Refused(problem));
    }
    Ok(())
}

/// Lets claims change hands. What the store says of their holders must be what the writer knows.
fn write_claims(
    connection: &Connection,
    claims: &BTreeMap<ClaimKey, Holders>,
) -> Result<(), Problem> {
    if claims.is_empty() {
        return Ok(());
    }
    let mut delete = connection
        .prepare_cached("DELETE FROM claims WHERE scope = ? AND key = ? AND stream_id = ?")?;
    let mut insert =
        connection.prepare_cached("INSERT INTO claims (scope, key, stream_id) VALUES (?, ?, ?)")?;
    for (ClaimKey { scope, key }, holders) in claims {
        if let Some(before) = holders.before
            && delete.execute(params![scope, key, before])? != 1
        {
            let problem = format!("stream {before} does not hold {key:?} of {scope}");
            return Err(Problem::Refused(problem));
        }
        if let Some(after) = holders.after {
            insert.execute(params![scope, key, after])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
