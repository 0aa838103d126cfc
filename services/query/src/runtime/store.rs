//! The SQLite file of one generation of a projection: its writer connection, its readers, and the
//! tables that every projection has.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daybook_bus::source::{Cursor, PartitionCursor};
use prost::Message;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteRow, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row as _};

use super::projection::Projection;
use super::row::{Binds, Statement, TableInfo, Tables};

/// The layout of the tables below; a file with another one is built anew.
const FORMAT: i64 = 3;

/// SQLite before this has a bug that can corrupt a WAL which two connections use.
const OLDEST_SQLITE: (u32, u32, u32) = (3, 51, 3);

/// How long a connection waits for the lock of another one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The memory for pages of the file, in KiB. A batch of some thousand rows at places by chance changes
/// as many pages; with less, pages are written before the commit and read again after it.
const CACHE_KIB: u32 = 16_384;

/// How many pages the WAL has before they are brought to their places: the pages of several large
/// batches, which are often the same.
const WAL_PAGES: u32 = 8_000;

/// How many quarantine numbers a generation has before it runs into those of the next.
const QUARANTINE_IDS_PER_GENERATION: u64 = 1_000_000;

const SCHEMA: &str = "
CREATE TABLE checkpoint (
    id              INTEGER PRIMARY KEY CHECK (id = 1),
    projection      TEXT NOT NULL,
    version         INTEGER NOT NULL,
    tables          TEXT NOT NULL,
    position        INTEGER NOT NULL,
    applied_events  INTEGER NOT NULL,
    last_event_time INTEGER NOT NULL,
    log_position    INTEGER NOT NULL,
    partitions      BLOB NOT NULL,
    commits         INTEGER NOT NULL,
    anchor_position INTEGER NOT NULL,
    anchor_event_id TEXT NOT NULL,
    disowned        TEXT NOT NULL
);
CREATE TABLE stream_versions (
    stream   TEXT PRIMARY KEY,
    version  INTEGER NOT NULL,
    position INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE waiting_versions (
    id      INTEGER PRIMARY KEY,
    entries BLOB NOT NULL
);
CREATE TABLE quarantine (
    quarantine_id   INTEGER PRIMARY KEY AUTOINCREMENT,
    stream          TEXT NOT NULL,
    version         INTEGER NOT NULL,
    position        INTEGER NOT NULL,
    problem         TEXT NOT NULL,
    attempts        INTEGER NOT NULL,
    quarantine_time INTEGER NOT NULL,
    record          BLOB NOT NULL,
    source          TEXT NOT NULL
);
CREATE INDEX quarantine_by_stream ON quarantine (stream, version);
CREATE TABLE skipped (
    stream  TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (stream, version)
) WITHOUT ROWID;
";

/// What keeps a file from being used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// SQLite or sqlx failed.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// The file is of another version of the projection or of another log, or no database of ours
    /// at all.
    #[error("{0}")]
    Unusable(String),
    /// Somebody else has written to the file since it was read. Nothing was committed.
    #[error("somebody else has written to the file")]
    Fenced,
}

/// How far a projection has come; changed in the transaction that changes the rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Checkpoint {
    /// Everything up to here is reflected.
    pub position: u64,
    /// How many events were applied.
    pub applied_events: u64,
    /// When the last applied event was recorded, in nanoseconds; 0 when there is none.
    pub last_event_ns: i64,
    /// Where the source goes on.
    pub cursor: Cursor,
    /// How often it was written. What is folded over rows of one count is committed only on top of
    /// the same count.
    pub commits: u64,
    /// The event that tells which log the rows are of.
    pub anchor: Anchor,
}

/// The event with the highest position that was seen. A log that has another one there, or none,
/// is not the log that the rows were made from.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Anchor {
    /// 0 when no event was seen yet.
    pub position: u64,
    pub event_id: String,
}

/// A record in quarantine.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Quarantined {
    /// Its number; 0 before it is stored.
    pub id: u64,
    /// Empty for a record that is no event.
    pub stream: String,
    pub version: u64,
    pub position: u64,
    pub problem: String,
    pub attempts: u32,
    pub time_ns: i64,
    pub record: Bytes,
    pub source: String,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Never older than a consistent checkpoint, whatever happens.
    Live,
    /// Worthless after a crash: a generation that is being built.
    Building,
}

/// The writer of a file.
pub(crate) struct Store {
    connection: SqliteConnection,
    /// The indexes of the projection that are made when the file is finished: to sort all their
    /// entries at once takes far less than to bring each to its place.
    later: Vec<String>,
}

/// A cursor as it is stored.
#[derive(Clone, PartialEq, Message)]
struct StoredPartitions {
    #[prost(message, repeated, tag = "1")]
    partitions: Vec<StoredPartition>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredPartition {
    #[prost(string, tag = "1")]
    topic: String,
    #[prost(int32, tag = "2")]
    partition: i32,
    #[prost(int64, tag = "3")]
    next_offset: i64,
    #[prost(uint64, tag = "4")]
    watermark: u64,
    #[prost(uint64, tag = "5")]
    last_record: u64,
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging()
}

/// Opens the readers of a file. They can change nothing.
pub(crate) async fn readers(path: &Path, most: u32) -> Result<SqlitePool, sqlx::Error> {
    let pool = SqlitePoolOptions::new()
        .max_connections(most)
        // A connection to a file does not go away; asking it would cost as much as the query.
        .test_before_acquire(false)
        .acquire_timeout(Duration::from_secs(10))
        .idle_timeout(Duration::from_secs(60));
    pool.connect_with(options(path).read_only(true)).await
}

impl Store {
    /// Makes the file of a new generation.
    pub async fn create<P: Projection>(
        path: &Path,
        generation: u64,
        max_pages: Option<u32>,
    ) -> Result<Self, Error> {
        let mut store = Self::connect(path, true, Durability::Building, max_pages).await?;
        let mut transaction = store.connection.begin().await?;
        transaction.execute(SCHEMA).await?;
        transaction.execute(P::SCHEMA).await?;
        let indexes = indexes(&mut transaction, P::Tables::INFO).await?;
        for (name, _) in &indexes {
            transaction.execute(AssertSqlSafe(format!("DROP INDEX {name}"))).await?;
        }
        sqlx::query("INSERT INTO checkpoint VALUES (1, ?, ?, ?, 0, 0, 0, 0, x'', 0, 0, '', '')")
            .bind(P::NAME)
            .bind(P::VERSION)
            .bind(P::SCHEMA)
            .execute(&mut *transaction)
            .await?;
        // Numbers of quarantined events are not used again by the next generation, so that a
        // skip that comes late cannot hit another event.
        sqlx::query("INSERT INTO sqlite_sequence (name, seq) VALUES ('quarantine', ?)")
            .bind(to_i64(generation.saturating_mul(QUARANTINE_IDS_PER_GENERATION)))
            .execute(&mut *transaction)
            .await?;
        transaction.execute(AssertSqlSafe(format!("PRAGMA user_version = {FORMAT}"))).await?;
        transaction.commit().await?;
        store.later = indexes.into_iter().map(|(_, sql)| sql).collect();
        Ok(store)
    }

    /// Opens the file of a generation. [`Error::Unusable`] when it has to be built anew.
    pub async fn open<P: Projection>(path: &Path, max_pages: Option<u32>) -> Result<Self, Error> {
        if !path.exists() {
            return Err(Error::Unusable(format!("{} does not exist", path.display())));
        }
        let mut store =
            Self::connect(path, false, Durability::Live, max_pages).await.map_err(unusable)?;
        match store.check::<P>().await {
            Ok(()) => Ok(store),
            Err(error) => {
                store.close_hard().await;
                Err(unusable(error))
            }
        }
    }

    async fn connect(
        path: &Path,
        create: bool,
        durability: Durability,
        max_pages: Option<u32>,
    ) -> Result<Self, Error> {
        let mut options = options(path)
            .create_if_missing(create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(match durability {
                Durability::Live => SqliteSynchronous::Normal,
                Durability::Building => SqliteSynchronous::Off,
            })
            .pragma("cache_size", format!("-{CACHE_KIB}"))
            .pragma("wal_autocheckpoint", WAL_PAGES.to_string())
            // What a statement would have to take back is noted in memory, not in a file.
            .pragma("temp_store", "MEMORY")
            .statement_cache_capacity(200);
        if let Some(pages) = max_pages {
            options = options.pragma("max_page_count", pages.to_string());
        }
        let mut connection = options.connect().await?;
        let version: String =
            sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut connection).await?;
        if parse_version(&version) < Some(OLDEST_SQLITE) {
            return Err(Error::Sql(sqlx::Error::Configuration(
                format!("SQLite {version} can corrupt its files; 3.51.3 is the oldest to use")
                    .into(),
            )));
        }
        let mode: String =
            sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut connection).await?;
        if mode != "wal" {
            return Err(Error::Sql(sqlx::Error::Configuration(
                format!("{} is in journal mode {mode}, not wal", path.display()).into(),
            )));
        }
        Ok(Self { connection, later: Vec::new() })
    }

    async fn check<P: Projection>(&mut self) -> Result<(), Error> {
        let format: i64 =
            sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut self.connection).await?;
        if format != FORMAT {
            return Err(Error::Unusable(format!("its format is {format}, not {FORMAT}")));
        }
        let row = sqlx::query("SELECT projection, version, tables, disowned FROM checkpoint")
            .fetch_one(&mut self.connection)
            .await?;
        let (name, version, tables, disowned): (String, u32, String, String) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        if name != P::NAME || version != P::VERSION {
            return Err(Error::Unusable(format!(
                "it is {name} version {version}, not {} version {}",
                P::NAME,
                P::VERSION
            )));
        }
        if tables != P::SCHEMA {
            return Err(Error::Unusable("its tables are others".to_owned()));
        }
        if !disowned.is_empty() {
            return Err(Error::Unusable(disowned));
        }
        Ok(())
    }

    /// Makes a file that was built ready to be served: it gets its indexes, from now on commits are
    /// durable in order, and what was written so far is in the file itself.
    pub async fn finish(&mut self) -> Result<(), sqlx::Error> {
        if !self.later.is_empty() {
            // There may be more entries to sort than memory for them.
            self.connection.execute("PRAGMA temp_store = FILE").await?;
            for index in std::mem::take(&mut self.later) {
                self.connection.execute(AssertSqlSafe(index)).await?;
            }
            self.connection.execute("PRAGMA temp_store = MEMORY").await?;
        }
        self.connection.execute("PRAGMA synchronous = NORMAL").await?;
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").await?;
        Ok(())
    }

    /// Closes the connection in order, with the WAL written back.
    pub async fn close(mut self) -> Result<(), sqlx::Error> {
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").await?;
        self.connection.close().await
    }

    /// Closes the connection as it is. SQLite may have rolled back what sqlx believes to be an
    /// open transaction, so after a failed write nothing more may be said on it.
    pub async fn close_hard(self) {
        // An error while a broken connection is closed tells nothing new.
        let _ = self.connection.close_hard().await;
    }

    pub async fn begin(&mut self) -> Result<(), sqlx::Error> {
        self.connection.execute("BEGIN IMMEDIATE").await.map(drop)
    }

    pub async fn commit(&mut self) -> Result<(), sqlx::Error> {
        self.connection.execute("COMMIT").await.map(drop)
    }

    /// Runs statements that return nothing.
    pub async fn write(&mut self, statements: Vec<Statement>) -> Result<(), sqlx::Error> {
        for Statement { sql, binds } in statements {
            sqlx::query_with(AssertSqlSafe(sql), binds.0).execute(&mut self.connection).await?;
        }
        Ok(())
    }

    /// Runs a statement that returns rows.
    pub async fn read(&mut self, statement: Statement) -> Result<Vec<SqliteRow>, sqlx::Error> {
        sqlx::query_with(AssertSqlSafe(statement.sql), statement.binds.0)
            .fetch_all(&mut self.connection)
            .await
    }

    /// The checkpoint.
    pub async fn checkpoint(&mut self) -> Result<Checkpoint, sqlx::Error> {
        checkpoint(&mut self.connection).await
    }

    /// Writes the checkpoint that follows the one that was read last; within a transaction.
    pub async fn set_checkpoint(&mut self, to: &Checkpoint) -> Result<(), Error> {
        let partitions = to.cursor.partitions.iter().map(|p| StoredPartition {
            topic: p.topic.to_string(),
            partition: p.partition,
            next_offset: p.next_offset,
            watermark: p.watermark,
            last_record: p.last_record,
        });
        let done = sqlx::query(
            "UPDATE checkpoint SET position = ?1, applied_events = ?2, last_event_time = ?3,
             log_position = ?4, partitions = ?5, commits = ?6, anchor_position = ?7,
             anchor_event_id = ?8 WHERE commits = ?6 - 1",
        )
        .bind(to_i64(to.position))
        .bind(to_i64(to.applied_events))
        .bind(to.last_event_ns)
        .bind(to_i64(to.cursor.log_position))
        .bind(StoredPartitions { partitions: partitions.collect() }.encode_to_vec())
        .bind(to_i64(to.commits))
        .bind(to_i64(to.anchor.position))
        .bind(&to.anchor.event_id)
        .execute(&mut self.connection)
        .await?;
        match done.rows_affected() {
            1 => Ok(()),
            _ => Err(Error::Fenced),
        }
    }

    /// Notes that the rows are not those of the log: from now on the file is unusable, and so are
    /// its places in the partitions, where the same events may be others now.
    pub async fn disown(&mut self, problem: &str) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE checkpoint SET disowned = ?, partitions = x''")
            .bind(problem)
            .execute(&mut self.connection)
            .await
            .map(drop)
    }

    /// The connection, for what only one caller needs.
    pub fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}

/// The checkpoint in a file.
pub(crate) async fn checkpoint(
    connection: &mut SqliteConnection,
) -> Result<Checkpoint, sqlx::Error> {
    let row = sqlx::query(
        "SELECT position, applied_events, last_event_time, log_position, partitions,
         commits, anchor_position, anchor_event_id FROM checkpoint",
    )
    .fetch_one(connection)
    .await?;
    let stored = StoredPartitions::decode(row.try_get::<Vec<u8>, _>(4)?.as_slice())
        .map_err(|error| sqlx::Error::Decode(error.into()))?;
    let partitions = stored.partitions.into_iter().map(|p| PartitionCursor {
        topic: p.topic.into(),
        partition: p.partition,
        next_offset: p.next_offset,
        watermark: p.watermark,
        last_record: p.last_record,
    });
    Ok(Checkpoint {
        position: from_i64(row.try_get(0)?),
        applied_events: from_i64(row.try_get(1)?),
        last_event_ns: row.try_get(2)?,
        cursor: Cursor {
            log_position: from_i64(row.try_get(3)?),
            partitions: partitions.collect(),
        },
        commits: from_i64(row.try_get(5)?),
        anchor: Anchor { position: from_i64(row.try_get(6)?), event_id: row.try_get(7)? },
    })
}

/// The names of the indexes of some tables, and the statements that make them.
async fn indexes(
    connection: &mut SqliteConnection,
    tables: &[TableInfo],
) -> Result<Vec<(String, String)>, sqlx::Error> {
    let mut indexes = Vec::new();
    for table in tables {
        let sql = "SELECT name, sql FROM sqlite_schema
                   WHERE type = 'index' AND tbl_name = ? AND sql LIKE 'CREATE INDEX%'
                   ORDER BY rowid";
        indexes.extend(sqlx::query_as(sql).bind(table.name).fetch_all(&mut *connection).await?);
    }
    Ok(indexes)
}

/// A statement over some rows of values.
pub(crate) fn statement(sql: &str, binds: Binds) -> Statement {
    Statement { sql: Arc::from(sql), binds }
}

/// Reads a row of the table `quarantine`, all columns in order.
pub(crate) fn quarantined(row: &SqliteRow) -> Result<Quarantined, sqlx::Error> {
    Ok(Quarantined {
        id: from_i64(row.try_get(0)?),
        stream: row.try_get(1)?,
        version: from_i64(row.try_get(2)?),
        position: from_i64(row.try_get(3)?),
        problem: row.try_get(4)?,
        attempts: row.try_get(5)?,
        time_ns: row.try_get(6)?,
        record: row.try_get::<Vec<u8>, _>(7)?.into(),
        source: row.try_get(8)?,
    })
}

/// A file that SQLite finds damaged is unusable, like one of another version.
fn unusable(error: Error) -> Error {
    let Error::Sql(sqlx::Error::Database(database)) = &error else { return error };
    let code = database.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or_default();
    // SQLITE_ERROR (no such table), SQLITE_CORRUPT, SQLITE_NOTADB.
    match code & 0xff {
        1 | 11 | 26 => Error::Unusable(error.to_string()),
        _ => error,
    }
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

/// Positions, versions and counts are far below 2^63.
pub(crate) fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The other way; nothing negative is ever stored.
pub(crate) fn from_i64(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// The number of an enum value; it was one when it was stored.
pub(crate) fn number(stored: i64) -> i32 {
    i32::try_from(stored).unwrap_or_default()
}

/// Opens a connection that can change nothing.
pub(crate) async fn read_only(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    options(path).read_only(true).connect().await
}

/// The place in the source where another version of the projection was, if its file still tells.
pub(crate) async fn cursor_of(path: &Path) -> Option<Cursor> {
    let connection = read_only(path).await.ok()?;
    let mut store = Store { connection, later: Vec::new() };
    let checkpoint = store.checkpoint().await.ok();
    store.close_hard().await;
    Some(checkpoint?.cursor)
}
