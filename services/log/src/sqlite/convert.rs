//! Brings the index of the streams of an earlier format, a tree, into a run, once.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior, params};

use super::chunk::ChunkBuilder;
use super::disk_runs::insert;
use super::runs::Place;
use super::{BUSY_TIMEOUT, FILE_NAME, unsigned};

/// Whether a store still has the tree.
pub(super) const HAS_TREE: &str =
    "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'stream_events')";

/// The run that the tree becomes; there is no other before.
const RUN: i64 = 1;

/// Copies the tree of a store into a run and drops it, in one transaction, unless that was done.
pub(super) fn convert(directory: &Path) -> rusqlite::Result<()> {
    let mut connection = Connection::open(directory.join(FILE_NAME))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    if !connection.query_row(HAS_TREE, [], |row| row.get(0))? {
        return Ok(());
    }
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")?;
    let moment = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    copy(&moment)?;
    moment.execute_batch("DROP TABLE stream_events")?;
    moment.commit()
}

/// The places of the tree up to a position. What is beyond the mark was being merged when the store
/// was left: the log has it.
const FROM_TREE: &str = "SELECT stream_id, version, position FROM stream_events
    WHERE position <= ? ORDER BY stream_id, version";

/// The same from the log.
const FROM_LOG: &str = "SELECT stream_id, version, position FROM events
    WHERE position <= ? ORDER BY stream_id, version";

fn copy(store: &Connection) -> rusqlite::Result<()> {
    let indexed: i64 = store.query_row("SELECT indexed FROM store", [], |row| row.get(0))?;
    if indexed == 0 {
        return Ok(());
    }
    if write_run(store, FROM_TREE, indexed)? != unsigned(indexed) {
        // The tree was damaged.
        store.execute("DELETE FROM run_chunks", [])?;
        write_run(store, FROM_LOG, indexed)?;
    }
    let sql = "INSERT INTO runs (run, first_position, last_position) VALUES (?, 1, ?)";
    store.execute(sql, params![RUN, indexed]).map(drop)
}

/// Writes the run of what a statement finds up to a position, and says how many places it has.
fn write_run(store: &Connection, sql: &str, indexed: i64) -> rusqlite::Result<u64> {
    let mut find = store.prepare(sql)?;
    let mut rows = find.query([indexed])?;
    let mut count = 0;
    let mut chunk = ChunkBuilder::default();
    while let Some(row) = rows.next()? {
        let (stream_id, version) = (row.get(0)?, unsigned(row.get(1)?));
        let place = Place { stream_id, version, position: unsigned(row.get(2)?) };
        if !chunk.add(place) {
            count += insert(store, RUN, std::mem::take(&mut chunk))?;
            chunk.add(place);
        }
    }
    Ok(count + insert(store, RUN, chunk)?)
}
