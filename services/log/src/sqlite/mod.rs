//! The log in SQLite: WAL, synchronous=FULL, one connection that appends, with a thread of its own,
//! another beside it for the checkpoints, read-only ones for the rest, and a lock file that keeps a
//! second process out.
//!
//! A write error never leaves a half-open transaction behind: SQLite rolls back by itself on a
//! full disk and some I/O errors, after which further statements would commit one by one. So after
//! any error the connection is dropped, a new one is opened, and the store is asked whether the
//! group is in it.

mod checkpoint;
mod chunk;
mod convert;
mod disk_runs;
mod heads;
mod index;
mod insert;
mod merge;
mod raw;
mod reader;
mod runs;
mod scan;
mod writer;

use std::fs::{File, TryLockError};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::OpenFlags;
use rusqlite::types::Type;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row};
use uuid::Uuid;

use crate::Error;
use crate::limits::INDEX_AFTER;
use crate::storage::{RequestRow, StoreInfo, StoredAnswer};
use index::{Filling, Index};
pub use raw::{RawClaim, RawIndex, RawRequest, RawRow};
pub use reader::SqliteReader;
use runs::Place;
pub use writer::SqliteWriter;

/// The name of the database file in the directory of the log.
pub const FILE_NAME: &str = "log.db";

/// What makes the tables, and brings those of an earlier version up to date.
static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// SQLite before this version can corrupt a WAL that two connections share (WAL-reset bug).
const LEAST_SQLITE: (u32, u32, u32) = (3, 51, 3);

/// How long a statement waits for a lock that a foreign tool may hold.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The read-only connections; more would only take turns on the same cores.
const READERS: u32 = 4;

/// How long a quick commit takes at most: several times what it takes where the disk syncs in a
/// tenth of a millisecond.
const QUICK_COMMIT: Duration = Duration::from_millis(1);

/// How a log in SQLite is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory; made when missing.
    pub directory: PathBuf,
    /// The largest size of the database in pages of 4 KiB; `None` for what the disk holds.
    pub max_pages: Option<u32>,
    /// How many events are appended before they become a run of their index; requests are merged
    /// four times as often.
    pub index_after: NonZeroUsize,
    /// A commit that takes no longer is quick. While most are, a small group is committed within the
    /// call of [`StorageWriter::commit`](crate::storage::StorageWriter::commit); zero for never.
    pub quick_commit: Duration,
}

impl Options {
    /// The usual settings, in a directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        let index_after = NonZeroUsize::new(INDEX_AFTER).unwrap_or(NonZeroUsize::MIN);
        // Where there is one processor, there is one thread that serves all.
        let several = std::thread::available_parallelism().is_ok_and(|count| count.get() > 1);
        let quick_commit = if several { QUICK_COMMIT } else { Duration::ZERO };
        Self { directory: directory.into(), max_pages: None, index_after, quick_commit }
    }
}

/// An open log in SQLite.
pub struct Sqlite {
    /// What the store says of itself.
    pub info: StoreInfo,
    /// The writing half.
    pub writer: SqliteWriter,
    /// The reading half.
    pub reader: SqliteReader,
}

/// Opens the log, makes it when there is none, and checks that it may be written.
pub async fn open(options: Options) -> Result<Sqlite, Error> {
    let directory = options.directory.display().to_string();
    let failed = |problem: String| Error::Open { directory: directory.clone(), problem };
    std::fs::create_dir_all(&options.directory).map_err(|error| failed(error.to_string()))?;
    let lock = lock(&options.directory)?;
    let info = prepare(&options).await.map_err(|error| failed(error.to_string()))?;
    convert_index(&options.directory).await.map_err(failed)?;
    let pool = SqlitePoolOptions::new()
        .min_connections(1)
        .max_connections(READERS)
        // A connection to a file does not go away; asking it would cost as much as the query.
        .test_before_acquire(false)
        .connect_with(read_only(&options.directory))
        .await
        .map_err(|error| failed(error.to_string()))?;
    let index = read_index(&options.directory, options.index_after.get()).await;
    let index = index.map_err(failed)?;
    let file = File::open(options.directory.join(FILE_NAME));
    let file = Arc::new(file.map_err(|error| failed(error.to_string()))?);
    let reader = SqliteReader::new(pool, &options.directory, index.clone(), Some(file.clone()));
    let writer = SqliteWriter::start(options, index, lock, file).map_err(failed)?;
    Ok(Sqlite { info, writer, reader })
}

/// Opens a log to read only, whether or not a process writes to it; for checks.
pub async fn open_reader(directory: &Path) -> Result<SqliteReader, Error> {
    let failed =
        |problem: String| Error::Open { directory: directory.display().to_string(), problem };
    if !directory.join(FILE_NAME).exists() {
        return Err(failed(format!("there is no {FILE_NAME} in it")));
    }
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .connect_with(read_only(directory))
        .await
        .map_err(|error| failed(error.to_string()))?;
    let format = format(&pool).await.map_err(|error| failed(error.to_string()))?;
    let ours = MIGRATIONS.iter().map(|migration| migration.version).max();
    let converted = sqlx::query_scalar(convert::HAS_TREE).fetch_one(&pool).await;
    let has_tree: bool = converted.map_err(|error| failed(error.to_string()))?;
    if format < ours || format == ours && has_tree {
        return Err(failed(
            "it was written by an earlier version of Daybook: start this version on it once, which \
             brings it up to date"
                .to_owned(),
        ));
    }
    if format > ours {
        return Err(failed("it was written by a later version of Daybook: use that".to_owned()));
    }
    let index = read_index(directory, INDEX_AFTER).await.map_err(failed)?;
    Ok(SqliteReader::new(pool, directory, index, None))
}

/// The version of the tables in a store.
async fn format(pool: &SqlitePool) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(pool).await
}

fn lock(directory: &Path) -> Result<File, Error> {
    let name = directory.display().to_string();
    let open =
        |error: std::io::Error| Error::Open { directory: name.clone(), problem: error.to_string() };
    let file = File::create(directory.join("lock")).map_err(open)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { directory: name }),
        Err(TryLockError::Error(error)) => Err(open(error)),
    }
}

/// Makes the tables, or brings those of an earlier version up to date.
async fn prepare(options: &Options) -> Result<StoreInfo, sqlx::Error> {
    let mut connection = SqliteConnectOptions::new()
        .filename(options.directory.join(FILE_NAME))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(false)
        .disable_statement_logging()
        .connect()
        .await?;
    let migrated = MIGRATIONS.run(&mut connection).await;
    migrated.map_err(|error| sqlx::Error::Protocol(error.to_string()))?;
    let info = store_info(&mut connection).await?;
    connection.close().await?;
    Ok(info)
}

fn read_only(directory: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(directory.join(FILE_NAME))
        .read_only(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("mmap_size", "0")
        .pragma("cache_size", "-4096")
        .disable_statement_logging()
}

async fn store_info(connection: &mut SqliteConnection) -> Result<StoreInfo, sqlx::Error> {
    let fresh = Uuid::now_v7();
    let micros = i64::try_from(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_micros(),
    )
    .unwrap_or(i64::MAX);
    sqlx::query("INSERT OR IGNORE INTO store (only_row, store_id, created_time) VALUES (1, ?, ?)")
        .bind(fresh.to_string())
        .bind(micros)
        .execute(&mut *connection)
        .await?;
    let row = sqlx::query(
        "SELECT store_id, created_time, published,
                (SELECT coalesce(max(position), 0) FROM events) AS head,
                (SELECT coalesce(max(id), 0) FROM streams) AS last_stream_id
         FROM store",
    )
    .fetch_one(connection)
    .await?;
    let store_id: String = row.get("store_id");
    Ok(StoreInfo {
        store_id: store_id.parse().map_err(|error| {
            sqlx::Error::Protocol(format!("{store_id:?} is no store id: {error}"))
        })?,
        created_micros: row.get("created_time"),
        head: unsigned(row.get("head")),
        last_stream_id: row.get("last_stream_id"),
        published: unsigned(row.get("published")),
    })
}

/// Brings the index of the streams of an earlier format up to date.
async fn convert_index(directory: &Path) -> Result<(), String> {
    let directory = directory.to_owned();
    let converted = tokio::task::spawn_blocking(move || convert::convert(&directory));
    let converted = converted.await.map_err(|error| error.to_string())?;
    converted.map_err(|error| error.to_string())
}

/// What the tables of the indexes do not hold yet, from the end of the log.
async fn read_index(directory: &Path, size: usize) -> Result<Index, String> {
    let path = directory.join(FILE_NAME);
    let read = tokio::task::spawn_blocking(move || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = rusqlite::Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let moment = connection.transaction()?;
        tail(&moment)
    });
    let read = read.await.map_err(|error| error.to_string())?;
    let (filling, newest) = read.map_err(|error| error.to_string())?;
    Ok(Index::new(size, filling, newest))
}

fn tail(store: &rusqlite::Connection) -> rusqlite::Result<(Filling, Uuid)> {
    let (indexed, requests_indexed, newest): (i64, i64, [u8; 16]) = store.query_row(
        "SELECT indexed, requests_indexed, newest_request FROM store",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let mut events = store.prepare(
        "SELECT position, stream_id, version, request FROM events
         WHERE position > ? ORDER BY position",
    )?;
    let mut rows = events.query([indexed])?;
    let mut filling = Filling::default();
    let mut places = Vec::new();
    while let Some(row) = rows.next()? {
        let position = row.get(0)?;
        places.push(Place {
            stream_id: row.get(1)?,
            version: unsigned(row.get(2)?),
            position: unsigned(position),
        });
        if position > requests_indexed
            && let Some(request) = row.get_ref(3)?.as_blob_or_null()?
        {
            let request = request_of(request, unsigned(position)).ok_or_else(|| {
                let problem = format!("the request of position {position} is damaged");
                rusqlite::Error::FromSqlConversionFailure(3, Type::Blob, problem.into())
            })?;
            filling.requests.add(request);
        }
    }
    filling.add_events(places.into_iter());
    Ok((filling, Uuid::from_bytes(newest)))
}

/// The column `request` of an event.
fn request_column(row: &RequestRow) -> [u8; 32] {
    let mut column = [0; 32];
    column[..16].copy_from_slice(row.id.as_bytes());
    column[16..].copy_from_slice(&row.fingerprint);
    column
}

/// The request in the column `request` of the event at a position.
fn request_of(column: &[u8], position: u64) -> Option<RequestRow> {
    let (id, fingerprint) = column.split_at_checked(16)?;
    Some(RequestRow {
        id: Uuid::from_slice(id).ok()?,
        fingerprint: fingerprint.try_into().ok()?,
        answer: StoredAnswer::Recorded(position),
    })
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
