//! The log in SQLite: WAL, synchronous=FULL, one writing connection, read-only connections for
//! the rest, and a lock file that keeps a second process out.
//!
//! A write error never leaves a half-open transaction behind: SQLite rolls back by itself on a
//! full disk and some I/O errors, after which further statements would commit one by one. So after
//! any error the connection is dropped, a new one is opened, and the store is asked whether the
//! group is in it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteRow, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};
use tracing::warn;
use uuid::Uuid;

use crate::storage::{
    ClaimKey, Direction, EventRow, Group, Holders, RequestRow, StorageReader, StorageWriter,
    StoreInfo, StoredAnswer, StreamHead,
};
use crate::{Error, Record};

/// The name of the database file in the directory of the log.
pub const FILE_NAME: &str = "log.db";

/// SQLite before this version can corrupt a WAL that two connections share (WAL-reset bug).
const LEAST_SQLITE: (u32, u32, u32) = (3, 51, 3);

/// How long a statement waits for a lock that a foreign tool may hold.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The read-only connections; more would only take turns on the same cores.
const READERS: u32 = 4;

/// The WAL is moved into the main file when it is this long, in pages of 4 KiB.
const CHECKPOINT_PAGES: u32 = 4000;

/// The rows of one INSERT are powers of two up to this, so that few statements are ever prepared.
const MAX_ROWS: usize = 256;

/// How a log in SQLite is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory; made when missing.
    pub directory: PathBuf,
    /// The largest size of the database in pages of 4 KiB; `None` for what the disk holds.
    pub max_pages: Option<u32>,
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
    let connect = connect_options(&options);
    let mut connection =
        open_writer(&connect, options.max_pages).await.map_err(|e| failed(e.to_string()))?;
    sqlx::migrate!("./migrations")
        .run(&mut connection)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let info = store_info(&mut connection).await.map_err(|e| failed(e.to_string()))?;
    let pool = SqlitePoolOptions::new()
        .min_connections(1)
        .max_connections(READERS)
        // A connection to a file does not go away; asking it would cost as much as the query.
        .test_before_acquire(false)
        .connect_with(read_only(&options.directory))
        .await
        .map_err(|error| failed(error.to_string()))?;
    let writer = SqliteWriter {
        connection: Some(connection),
        connect,
        max_pages: options.max_pages,
        _lock: lock,
    };
    Ok(Sqlite { info, writer, reader: SqliteReader { pool } })
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
    Ok(SqliteReader { pool })
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

fn connect_options(options: &Options) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(options.directory.join(FILE_NAME))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(false)
        .pragma("mmap_size", "0")
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
        .pragma("cache_size", "-16384")
        .statement_cache_capacity(64)
        .disable_statement_logging()
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

/// Opens the writing connection and reads back what its safety rests on.
async fn open_writer(
    connect: &SqliteConnectOptions,
    max_pages: Option<u32>,
) -> Result<SqliteConnection, sqlx::Error> {
    let mut connection = connect.connect().await?;
    let version: String =
        sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut connection).await?;
    if parse_version(&version) < Some(LEAST_SQLITE) {
        return Err(sqlx::Error::Protocol(format!(
            "SQLite {version} has a bug that can corrupt the log; at least {LEAST_SQLITE:?} is \
             needed"
        )));
    }
    let journal: String =
        sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut connection).await?;
    let synchronous: i64 =
        sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut connection).await?;
    let mmap: Option<i64> =
        sqlx::query_scalar("PRAGMA mmap_size").fetch_optional(&mut connection).await?;
    if journal != "wal" || synchronous != 2 || mmap.unwrap_or(0) != 0 {
        return Err(sqlx::Error::Protocol(format!(
            "SQLite did not take its settings: journal_mode {journal} (wal), synchronous \
             {synchronous} (2), mmap_size {mmap:?} (0)"
        )));
    }
    if let Some(pages) = max_pages {
        sqlx::query(AssertSqlSafe(format!("PRAGMA max_page_count = {pages}")))
            .execute(&mut connection)
            .await?;
    }
    Ok(connection)
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
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

/// The writing half. It holds the lock of the store.
pub struct SqliteWriter {
    connection: Option<SqliteConnection>,
    connect: SqliteConnectOptions,
    max_pages: Option<u32>,
    _lock: File,
}

/// What an error of SQLite means for a group.
enum Failure {
    Full,
    /// A constraint did not hold: nothing of the group was committed.
    Refused(String),
    Fatal(String),
    Other(String),
}

impl SqliteWriter {
    async fn try_commit(&mut self, group: &Group) -> Result<(), sqlx::Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(open_writer(&self.connect, self.max_pages).await?),
        };
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
        insert(connection, "streams (id, name)", 2, &group.streams, |query, (id, name)| {
            query.bind(*id).bind(name.as_ref())
        })
        .await?;
        let columns = "events (position, stream_id, version, leaf_hash, record)";
        insert(connection, columns, 5, &group.events, |query, row: &EventRow| {
            query
                .bind(signed(row.record.position))
                .bind(row.stream_id)
                .bind(signed(row.version))
                .bind(row.leaf_hash.as_slice())
                .bind(row.record.bytes.as_ref())
        })
        .await?;
        let columns = "requests (request_id, fingerprint, position, answer)";
        insert(connection, columns, 4, &group.requests, |query, row: &RequestRow| {
            let (position, answer) = match &row.answer {
                StoredAnswer::Recorded(position) => (Some(signed(*position)), None),
                StoredAnswer::Other(answer) => (None, Some(answer.as_ref())),
            };
            query
                .bind(row.id.as_bytes().as_slice())
                .bind(row.fingerprint.as_slice())
                .bind(position)
                .bind(answer)
        })
        .await?;
        write_claims(connection, &group.claims).await?;
        if let Some(published) = group.published {
            sqlx::query("UPDATE store SET published = ?")
                .bind(signed(published))
                .execute(&mut *connection)
                .await?;
        }
        sqlx::query("COMMIT").execute(&mut *connection).await?;
        Ok(())
    }

    /// After an error: a new connection, and whether the group is in the store after all.
    async fn was_committed(&mut self, group: &Group) -> Result<bool, sqlx::Error> {
        if let Some(connection) = self.connection.take() {
            // Whatever the old connection still holds is given up, not committed.
            let _ = connection.close_hard().await;
        }
        let mut connection = open_writer(&self.connect, self.max_pages).await?;
        let found = if let Some(last) = group.events.last() {
            let hash: Option<Vec<u8>> =
                sqlx::query_scalar("SELECT leaf_hash FROM events WHERE position = ?")
                    .bind(signed(last.record.position))
                    .fetch_optional(&mut connection)
                    .await?;
            hash.is_some_and(|hash| hash == last.leaf_hash)
        } else if let Some(last) = group.requests.last() {
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM requests WHERE request_id = ?)")
                .bind(last.id.as_bytes().as_slice())
                .fetch_one(&mut connection)
                .await?
        } else {
            false
        };
        self.connection = Some(connection);
        Ok(found)
    }
}

impl StorageWriter for SqliteWriter {
    fn commit<'a>(&'a mut self, group: &'a Group) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let Err(error) = self.try_commit(group).await else { return Ok(()) };
            warn!(%error, events = group.events.len(), "a group could not be committed");
            let failure = classify(&error);
            match failure {
                Failure::Fatal(problem) => {
                    // After a failed fsync the page cache may show what the disk does not have:
                    // even a look at the store proves nothing.
                    self.connection = None;
                    return Err(Error::Stopped { problem });
                }
                Failure::Refused(problem) => {
                    // What is in the way is in the store already, so a look would mislead.
                    self.connection = None;
                    return Err(Error::NotWritten { problem });
                }
                Failure::Full | Failure::Other(_) => {}
            }
            match self.was_committed(group).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(match failure {
                    Failure::Full => Error::DiskFull,
                    Failure::Other(problem)
                    | Failure::Refused(problem)
                    | Failure::Fatal(problem) => Error::NotWritten { problem },
                }),
                Err(second) => Err(Error::Stopped { problem: format!("{error}; then {second}") }),
            }
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if let Some(mut connection) = self.connection {
                let done =
                    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await;
                if let Err(error) = done {
                    warn!(%error, "the WAL could not be moved into the main file; it is kept");
                }
                let _ = connection.close().await;
            }
        })
    }
}

fn classify(error: &sqlx::Error) -> Failure {
    let code = error
        .as_database_error()
        .and_then(|error| error.code())
        .and_then(|code| code.parse::<i32>().ok());
    match code.map(|code| code & 0xff) {
        Some(13) => Failure::Full,
        Some(19) => Failure::Refused(error.to_string()),
        // IOERR, CORRUPT, CANTOPEN, NOTADB: the file is not what it should be.
        Some(10 | 11 | 14 | 26) => Failure::Fatal(error.to_string()),
        _ => Failure::Other(error.to_string()),
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// Inserts rows with few, large statements.
async fn insert<'r, R>(
    connection: &mut SqliteConnection,
    columns: &str,
    width: usize,
    mut rows: &'r [R],
    bind: impl Fn(Query<'r>, &'r R) -> Query<'r>,
) -> Result<(), sqlx::Error> {
    while !rows.is_empty() {
        let count = (1 << rows.len().ilog2()).min(MAX_ROWS);
        let (now, later) = rows.split_at(count);
        let values = format!("({})", vec!["?"; width].join(","));
        // A row that is refused ends the whole group, so SQLite need not note what it would take
        // to undo this statement alone.
        let values = vec![values; count].join(",");
        let sql = format!("INSERT OR ROLLBACK INTO {columns} VALUES {values}");
        let query = now.iter().fold(sqlx::query(AssertSqlSafe(sql)), &bind);
        query.execute(&mut *connection).await?;
        rows = later;
    }
    Ok(())
}

/// Lets claims change hands. What the store says of their holders must be what the writer knows.
async fn write_claims(
    connection: &mut SqliteConnection,
    claims: &BTreeMap<ClaimKey, Holders>,
) -> Result<(), sqlx::Error> {
    for (claim, holders) in claims {
        let Some(before) = holders.before else { continue };
        let delete = "DELETE FROM claims WHERE scope = ? AND key = ? AND stream_id = ?";
        let query = sqlx::query(delete).bind(claim.scope).bind(claim.key.as_str()).bind(before);
        if query.execute(&mut *connection).await?.rows_affected() != 1 {
            let ClaimKey { scope, key } = claim;
            let problem = format!("stream {before} does not hold {key:?} of {scope}");
            return Err(sqlx::Error::Protocol(problem));
        }
    }
    let taken: Vec<(&ClaimKey, i64)> =
        claims.iter().filter_map(|(claim, holders)| Some((claim, holders.after?))).collect();
    insert(connection, "claims (scope, key, stream_id)", 3, &taken, |query, (claim, holder)| {
        query.bind(claim.scope).bind(claim.key.as_str()).bind(*holder)
    })
    .await
}

/// The reading half.
#[derive(Clone)]
pub struct SqliteReader {
    pool: SqlitePool,
}

impl SqliteReader {
    /// What SQLite itself finds wrong with the file; reads all of it.
    pub async fn integrity_problems(&self) -> Result<Vec<String>, Error> {
        let found: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check")
            .fetch_all(&self.pool)
            .await
            .map_err(read_error)?;
        Ok(found.into_iter().filter(|line| line != "ok").collect())
    }

    /// The columns of the events after a position, as they are, for a check of every row.
    pub async fn raw_events(&self, after: u64, limit: usize) -> Result<Vec<RawRow>, Error> {
        sqlx::query(
            "SELECT e.position, e.version, e.leaf_hash, e.record, coalesce(s.name, '') AS name
             FROM events e LEFT JOIN streams s ON s.id = e.stream_id
             WHERE e.position > ? ORDER BY e.position LIMIT ?",
        )
        .bind(signed(after))
        .bind(limit as i64)
        .map(|row: SqliteRow| RawRow {
            position: unsigned(row.get(0)),
            version: unsigned(row.get(1)),
            leaf_hash: row.get(2),
            record: row.get::<Vec<u8>, _>(3).into(),
            stream: row.get(4),
        })
        .fetch_all(&self.pool)
        .await
        .map_err(read_error)
    }

    /// The table of claims as it is, and the position of the last event of the same moment.
    pub async fn raw_claims(&self) -> Result<(u64, Vec<RawClaim>), Error> {
        let mut moment = self.pool.begin().await.map_err(read_error)?;
        let head: i64 = sqlx::query_scalar("SELECT coalesce(max(position), 0) FROM events")
            .fetch_one(&mut *moment)
            .await
            .map_err(read_error)?;
        let claims = sqlx::query(
            "SELECT c.scope, c.key, s.name FROM claims c LEFT JOIN streams s ON s.id = c.stream_id",
        )
        .map(|row: SqliteRow| RawClaim { scope: row.get(0), key: row.get(1), stream: row.get(2) })
        .fetch_all(&mut *moment)
        .await
        .map_err(read_error)?;
        Ok((unsigned(head), claims))
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A row of the claims, unchecked.
#[derive(Debug, Clone)]
pub struct RawClaim {
    /// Among what it is unique.
    pub scope: String,
    /// What is unique.
    pub key: String,
    /// The name of the stream that holds it, where there is one with its number.
    pub stream: Option<String>,
}

/// A row of the events, unchecked.
#[derive(Debug, Clone)]
pub struct RawRow {
    /// The position, from the column.
    pub position: u64,
    /// The version, from the column.
    pub version: u64,
    /// The stored hash.
    pub leaf_hash: Vec<u8>,
    /// The encoded RecordedEvent.
    pub record: Bytes,
    /// The name of the stream, from the table of streams.
    pub stream: String,
}

impl StorageReader for SqliteReader {
    fn read_all(
        &self,
        from: u64,
        direction: Direction,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Record>, Error>> {
        let sql = match direction {
            Direction::Forward => {
                "SELECT position, record, leaf_hash FROM events WHERE position >= ?
                 ORDER BY position LIMIT ?"
            }
            Direction::Backward => {
                "SELECT position, record, leaf_hash FROM events WHERE position <= ?
                 ORDER BY position DESC LIMIT ?"
            }
        };
        let query = sqlx::query(sql).bind(signed(from)).bind(limit as i64);
        Box::pin(collect(query, &self.pool))
    }

    fn read_stream<'a>(
        &'a self,
        stream: &'a str,
        from: u64,
        direction: Direction,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Record>, Error>> {
        let sql = match direction {
            Direction::Forward => {
                "SELECT position, record, leaf_hash FROM events
                 WHERE stream_id = (SELECT id FROM streams WHERE name = ?) AND version >= ?
                 ORDER BY version LIMIT ?"
            }
            Direction::Backward => {
                "SELECT position, record, leaf_hash FROM events
                 WHERE stream_id = (SELECT id FROM streams WHERE name = ?) AND version <= ?
                 ORDER BY version DESC LIMIT ?"
            }
        };
        let query = sqlx::query(sql).bind(stream).bind(signed(from)).bind(limit as i64);
        Box::pin(collect(query, &self.pool))
    }

    fn stream_heads<'a>(
        &'a self,
        streams: &'a [Arc<str>],
    ) -> BoxFuture<'a, Result<Vec<Option<StreamHead>>, Error>> {
        Box::pin(async move {
            let rows = sqlx::query(
                "SELECT wanted.key, s.id,
                        (SELECT max(version) FROM events WHERE stream_id = s.id)
                 FROM json_each(?) AS wanted JOIN streams s ON s.name = wanted.value",
            )
            .bind(json_list(streams.iter().map(AsRef::as_ref)))
            .fetch_all(&self.pool)
            .await
            .map_err(read_error)?;
            let mut heads = vec![None; streams.len()];
            for row in rows {
                let index = usize::try_from(row.get::<i64, _>(0)).unwrap_or(usize::MAX);
                let version = unsigned(row.get::<Option<i64>, _>(2).unwrap_or(0));
                if let Some(head) = heads.get_mut(index) {
                    *head = Some(StreamHead { id: row.get(1), version });
                }
            }
            Ok(heads)
        })
    }

    fn find_requests<'a>(
        &'a self,
        ids: &'a [Uuid],
    ) -> BoxFuture<'a, Result<Vec<RequestRow>, Error>> {
        Box::pin(async move {
            let hex: Vec<String> = ids.iter().map(|id| id.simple().to_string()).collect();
            let rows = sqlx::query(
                "SELECT request_id, fingerprint, position, answer FROM requests
                 WHERE request_id IN (SELECT unhex(value) FROM json_each(?))",
            )
            .bind(json_list(hex.iter().map(String::as_str)))
            .fetch_all(&self.pool)
            .await
            .map_err(read_error)?;
            rows.into_iter().map(request_row).collect()
        })
    }

    fn claim_holders<'a>(
        &'a self,
        claims: &'a [ClaimKey],
    ) -> BoxFuture<'a, Result<Vec<Option<i64>>, Error>> {
        Box::pin(async move {
            let mut holders = HashMap::new();
            for some in claims.chunks(MAX_ROWS) {
                let wanted = vec!["(?, ?)"; some.len()].join(",");
                let sql = format!(
                    "SELECT scope, key, stream_id FROM claims
                     WHERE (scope, key) IN (VALUES {wanted})"
                );
                let query = some.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, claim| {
                    query.bind(claim.scope).bind(claim.key.as_str())
                });
                for row in query.fetch_all(&self.pool).await.map_err(read_error)? {
                    let name: (String, String) = (row.get(0), row.get(1));
                    holders.insert(name, row.get::<i64, _>(2));
                }
            }
            let holder = |claim: &ClaimKey| {
                holders.get(&(claim.scope.to_owned(), claim.key.clone())).copied()
            };
            Ok(claims.iter().map(holder).collect())
        })
    }

    fn published(&self) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(async move {
            let published: i64 = sqlx::query_scalar("SELECT published FROM store")
                .fetch_one(&self.pool)
                .await
                .map_err(read_error)?;
            Ok(unsigned(published))
        })
    }
}

async fn collect(query: Query<'_>, pool: &SqlitePool) -> Result<Vec<Record>, Error> {
    let mut rows = query.fetch(pool);
    let mut records = Vec::new();
    while let Some(row) = rows.try_next().await.map_err(read_error)? {
        let bytes = Bytes::from(row.get::<Vec<u8>, _>(1));
        let leaf: &[u8] = row.get(2);
        records.push(Record::checked(unsigned(row.get(0)), bytes, leaf)?);
    }
    Ok(records)
}

fn request_row(row: SqliteRow) -> Result<RequestRow, Error> {
    let damaged = |what: &str| Error::Read { problem: format!("a request has a damaged {what}") };
    let id: &[u8] = row.get(0);
    let fingerprint: &[u8] = row.get(1);
    let answer = match (row.get::<Option<i64>, _>(2), row.get::<Option<Vec<u8>>, _>(3)) {
        (Some(position), None) => StoredAnswer::Recorded(unsigned(position)),
        (None, Some(answer)) => StoredAnswer::Other(answer.into()),
        _ => return Err(damaged("answer")),
    };
    Ok(RequestRow {
        id: Uuid::from_slice(id).map_err(|_| damaged("id"))?,
        fingerprint: fingerprint.try_into().map_err(|_| damaged("fingerprint"))?,
        answer,
    })
}

/// A JSON array of texts that hold nothing to escape: names of streams, and hexadecimal digits.
fn json_list<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = texts.map(|text| format!("\"{text}\"")).collect();
    format!("[{}]", quoted.join(","))
}

fn read_error(error: sqlx::Error) -> Error {
    Error::Read { problem: error.to_string() }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
