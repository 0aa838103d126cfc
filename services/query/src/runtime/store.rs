//! The SQLite file of one generation of a projection: its writer, and the tables that every
//! projection has.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use daybook_bus::source::{Cursor, PartitionCursor};
use prost::Message;
use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::projection::Projection;
use super::row::{TableInfo, Tables, execute, select};

/// The layout of the tables below; a file with another one is built anew.
const FORMAT: i64 = 3;

/// SQLite before this (3.51.3) has a bug that can corrupt a WAL which two connections use.
const OLDEST_SQLITE: i32 = 3_051_003;

/// How long a connection waits for the lock of another one.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The memory for pages of the file, in KiB. A batch of some thousand rows at places by chance changes
/// as many pages; with less, pages are written before the commit and read again after it.
const CACHE_KIB: i32 = 16_384;

/// How many pages the WAL has before they are brought to their places: the pages of several large
/// batches, which are often the same.
const WAL_PAGES: u32 = 8_000;

/// How many statements of a connection stay prepared.
const PREPARED: usize = 200;

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
    /// SQLite failed.
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    /// It is not a SQLite that files can be trusted to.
    #[error("{0}")]
    Unfit(String),
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
    connection: Connection,
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

/// Opens a connection that can change nothing.
pub(crate) fn read_only(path: &Path) -> rusqlite::Result<Connection> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn connect(path: &Path, how: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, how | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    Ok(connection)
}

/// The writers block: they belong on a thread where that may happen.
impl Store {
    /// Makes the file of a new generation.
    pub fn create<P: Projection>(
        path: &Path,
        generation: u64,
        max_pages: Option<u32>,
    ) -> Result<Self, Error> {
        let mut store = Self::connect(path, true, Durability::Building, max_pages)?;
        let transaction = store.connection.transaction()?;
        transaction.execute_batch(SCHEMA)?;
        transaction.execute_batch(P::SCHEMA)?;
        let indexes = indexes(&transaction, P::Tables::INFO)?;
        for (name, _) in &indexes {
            transaction.execute_batch(&format!("DROP INDEX {name}"))?;
        }
        transaction.execute(
            "INSERT INTO checkpoint VALUES (1, ?, ?, ?, 0, 0, 0, 0, x'', 0, 0, '', '')",
            (P::NAME, P::VERSION, P::SCHEMA),
        )?;
        // Numbers of quarantined events are not used again by the next generation, so that a
        // skip that comes late cannot hit another event.
        transaction.execute(
            "INSERT INTO sqlite_sequence (name, seq) VALUES ('quarantine', ?)",
            [to_i64(generation.saturating_mul(QUARANTINE_IDS_PER_GENERATION))],
        )?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
        transaction.commit()?;
        store.later = indexes.into_iter().map(|(_, sql)| sql).collect();
        Ok(store)
    }

    /// Opens the file of a generation. [`Error::Unusable`] when it has to be built anew.
    pub fn open<P: Projection>(path: &Path, max_pages: Option<u32>) -> Result<Self, Error> {
        if !path.exists() {
            return Err(Error::Unusable(format!("{} does not exist", path.display())));
        }
        let store = Self::connect(path, false, Durability::Live, max_pages).map_err(unusable)?;
        store.check::<P>().map_err(unusable)?;
        Ok(store)
    }

    fn connect(
        path: &Path,
        create: bool,
        durability: Durability,
        max_pages: Option<u32>,
    ) -> Result<Self, Error> {
        let version = rusqlite::version_number();
        if version < OLDEST_SQLITE {
            let version = rusqlite::version();
            return Err(Error::Unfit(format!(
                "SQLite {version} can corrupt its files; 3.51.3 is the oldest to use"
            )));
        }
        let mut how = OpenFlags::SQLITE_OPEN_READ_WRITE;
        how.set(OpenFlags::SQLITE_OPEN_CREATE, create);
        let connection = connect(path, how)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        let synchronous = match durability {
            Durability::Live => "NORMAL",
            Durability::Building => "OFF",
        };
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
        // What a statement would have to take back is noted in memory, not in a file.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        if let Some(pages) = max_pages {
            connection.pragma_update(None, "max_page_count", pages)?;
        }
        let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        if mode != "wal" {
            let problem = format!("{} is in journal mode {mode}, not wal", path.display());
            return Err(Error::Unfit(problem));
        }
        Ok(Self { connection, later: Vec::new() })
    }

    fn check<P: Projection>(&self) -> Result<(), Error> {
        let format: i64 =
            self.connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if format != FORMAT {
            return Err(Error::Unusable(format!("its format is {format}, not {FORMAT}")));
        }
        let sql = "SELECT projection, version, tables, disowned FROM checkpoint";
        let (name, version, tables, disowned): (String, u32, String, String) =
            self.connection.query_row(sql, [], |row| row.try_into())?;
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
    pub fn finish(&mut self) -> rusqlite::Result<()> {
        if !self.later.is_empty() {
            // There may be more entries to sort than memory for them.
            self.connection.pragma_update(None, "temp_store", "FILE")?;
            for index in std::mem::take(&mut self.later) {
                self.connection.execute_batch(&index)?;
            }
            self.connection.pragma_update(None, "temp_store", "MEMORY")?;
        }
        self.connection.pragma_update(None, "synchronous", "NORMAL")?;
        self.checkpoint_wal()
    }

    fn checkpoint_wal(&self) -> rusqlite::Result<()> {
        // Readers may keep it from being complete; the next one goes on.
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// Closes the connection in order, with the WAL written back.
    pub fn close(self) -> rusqlite::Result<()> {
        self.checkpoint_wal()?;
        self.connection.close().map_err(|(_, error)| error)
    }

    pub fn begin(&self) -> rusqlite::Result<()> {
        execute(&self.connection, "BEGIN IMMEDIATE", |_| Ok(()))
    }

    pub fn commit(&self) -> rusqlite::Result<()> {
        execute(&self.connection, "COMMIT", |_| Ok(()))
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> rusqlite::Result<Checkpoint> {
        checkpoint(&self.connection)
    }

    /// Writes the checkpoint that follows the one that was read last; within a transaction.
    pub fn set_checkpoint(&self, to: &Checkpoint) -> Result<(), Error> {
        let partitions = to.cursor.partitions.iter().map(|p| StoredPartition {
            topic: p.topic.to_string(),
            partition: p.partition,
            next_offset: p.next_offset,
            watermark: p.watermark,
            last_record: p.last_record,
        });
        let mut statement = self.connection.prepare_cached(
            "UPDATE checkpoint SET position = ?1, applied_events = ?2, last_event_time = ?3,
             log_position = ?4, partitions = ?5, commits = ?6, anchor_position = ?7,
             anchor_event_id = ?8 WHERE commits = ?6 - 1",
        )?;
        let changed = statement.execute((
            to_i64(to.position),
            to_i64(to.applied_events),
            to.last_event_ns,
            to_i64(to.cursor.log_position),
            StoredPartitions { partitions: partitions.collect() }.encode_to_vec(),
            to_i64(to.commits),
            to_i64(to.anchor.position),
            &to.anchor.event_id,
        ))?;
        match changed {
            1 => Ok(()),
            _ => Err(Error::Fenced),
        }
    }

    /// Notes that the rows are not those of the log: from now on the file is unusable, and so are
    /// its places in the partitions, where the same events may be others now.
    pub fn disown(&self, problem: &str) -> rusqlite::Result<()> {
        let sql = "UPDATE checkpoint SET disowned = ?, partitions = x''";
        execute(&self.connection, sql, |binds| binds.add(problem))
    }

    /// The connection: whoever holds it may read, and write between `begin` and `commit`.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// The checkpoint in a file.
pub(crate) fn checkpoint(connection: &Connection) -> rusqlite::Result<Checkpoint> {
    let sql = "SELECT position, applied_events, last_event_time, log_position, partitions,
               commits, anchor_position, anchor_event_id FROM checkpoint";
    connection.prepare_cached(sql)?.query_row([], |row| {
        let stored = StoredPartitions::decode(row.get_ref(4)?.as_blob()?).map_err(damaged)?;
        let partitions = stored.partitions.into_iter().map(|p| PartitionCursor {
            topic: p.topic.into(),
            partition: p.partition,
            next_offset: p.next_offset,
            watermark: p.watermark,
            last_record: p.last_record,
        });
        Ok(Checkpoint {
            position: from_i64(row.get(0)?),
            applied_events: from_i64(row.get(1)?),
            last_event_ns: row.get(2)?,
            cursor: Cursor {
                log_position: from_i64(row.get(3)?),
                partitions: partitions.collect(),
            },
            commits: from_i64(row.get(5)?),
            anchor: Anchor { position: from_i64(row.get(6)?), event_id: row.get(7)? },
        })
    })
}

/// A value that is not what was written.
pub(crate) fn damaged(error: prost::DecodeError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, Box::new(error))
}

/// The names of the indexes of some tables, and the statements that make them.
fn indexes(
    connection: &Connection,
    tables: &[TableInfo],
) -> rusqlite::Result<Vec<(String, String)>> {
    let mut indexes = Vec::new();
    for table in tables {
        let sql = "SELECT name, sql FROM sqlite_schema
                   WHERE type = 'index' AND tbl_name = ? AND sql LIKE 'CREATE INDEX%'
                   ORDER BY rowid";
        indexes.extend(select(connection, sql, &[&table.name], |row| row.try_into())?);
    }
    Ok(indexes)
}

/// Reads a row of the table `quarantine`, all columns in order.
pub(crate) fn quarantined(row: &rusqlite::Row<'_>) -> rusqlite::Result<Quarantined> {
    Ok(Quarantined {
        id: from_i64(row.get(0)?),
        stream: row.get(1)?,
        version: from_i64(row.get(2)?),
        position: from_i64(row.get(3)?),
        problem: row.get(4)?,
        attempts: row.get(5)?,
        time_ns: row.get(6)?,
        record: row.get::<_, Vec<u8>>(7)?.into(),
        source: row.get(8)?,
    })
}

/// A file that SQLite finds damaged is unusable, like one of another version.
fn unusable(error: Error) -> Error {
    let Error::Sql(sql) = &error else { return error };
    // No such table, or no such column.
    let is_other = matches!(sql, rusqlite::Error::SqlInputError { .. })
        || sql.sqlite_error_code() == Some(ErrorCode::Unknown);
    let damaged = [Some(ErrorCode::DatabaseCorrupt), Some(ErrorCode::NotADatabase)];
    match is_other || damaged.contains(&sql.sqlite_error_code()) {
        true => Error::Unusable(error.to_string()),
        false => error,
    }
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

/// The place in the source where another version of the projection was, if its file still tells.
pub(crate) fn cursor_of(path: &Path) -> Option<Cursor> {
    Some(checkpoint(&read_only(path).ok()?).ok()?.cursor)
}
