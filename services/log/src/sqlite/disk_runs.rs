//! Where events are, by stream, in sorted runs on the disk (`runs.rs` has those in memory).
//!
//! A run is written once, in its order, and never changed; `merge.rs` makes them. It holds the
//! places of all events between two positions, so of a stream it has versions that follow each
//! other, and an older run has those before. To find some, a reader looks at one chunk of each run,
//! or at more where the stream goes on. All of one reading must be in one transaction: in the next,
//! other runs may have the same places.

use std::ops::RangeInclusive;

use rusqlite::{Connection, Row, params};

use super::chunk::{ChunkBuilder, Damage, Places};
use super::runs::Place;
use super::{signed, unsigned};
use crate::storage::Direction;

/// Why places could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("the index of the streams is damaged: {0}")]
    Damaged(String),
}

/// A run that is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub number: i64,
    /// The positions of its events.
    pub first: u64,
    pub last: u64,
}

impl Run {
    /// How many places it has.
    pub fn len(&self) -> u64 {
        (self.last + 1).saturating_sub(self.first)
    }
}

/// The complete runs, the oldest first.
pub(super) fn complete(connection: &Connection) -> rusqlite::Result<Vec<Run>> {
    let mut statement = connection.prepare_cached(
        "SELECT run, first_position, last_position FROM runs ORDER BY first_position",
    )?;
    let runs = statement.query_map([], |row| {
        let (number, first, last) = (row.get(0)?, unsigned(row.get(1)?), unsigned(row.get(2)?));
        Ok(Run { number, first, last })
    })?;
    runs.collect()
}

/// Writes the next chunk of a run and says how many places it has.
pub(super) fn insert(
    connection: &Connection,
    run: i64,
    chunk: ChunkBuilder,
) -> rusqlite::Result<u64> {
    let Some((first, count, places)) = chunk.finish() else { return Ok(0) };
    let sql = "INSERT OR ROLLBACK INTO run_chunks (run, stream_id, version, places)
               VALUES (?, ?, ?, ?)";
    let mut insert = connection.prepare_cached(sql)?;
    insert.execute(params![run, first.stream_id, signed(first.version), places])?;
    Ok(count)
}

/// Stream and version of the first place of a chunk.
pub(super) type Key = (i64, i64);

/// The first chunk of a run after a key.
pub(super) const AFTER: &str = "SELECT stream_id, version, places FROM run_chunks
    WHERE run = ? AND (stream_id, version) > (?, ?) ORDER BY stream_id, version LIMIT 1";

/// The last chunk of a run at a key or before it.
pub(super) const UP_TO: &str = "SELECT stream_id, version, places FROM run_chunks
    WHERE run = ? AND (stream_id, version) <= (?, ?)
    ORDER BY stream_id DESC, version DESC LIMIT 1";

/// The last chunk of a run before a key.
const BEFORE: &str = "SELECT stream_id, version, places FROM run_chunks
    WHERE run = ? AND (stream_id, version) < (?, ?)
    ORDER BY stream_id DESC, version DESC LIMIT 1";

#[cfg(test)]
pub(super) const SEEKS: [&str; 3] = [AFTER, UP_TO, BEFORE];

/// Reads the chunk that one of these statements finds, and says which it is and what was read.
fn chunk<T>(
    connection: &Connection,
    (run, sql): (i64, &str),
    (stream_id, version): Key,
    read: impl FnOnce(Places<'_>) -> Result<T, Damage>,
) -> Result<Option<(Key, T)>, Error> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![run, stream_id, version])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (key, places) = read_row(row)?;
    let found = places.and_then(read);
    let found = found.map_err(|damage| Error::Damaged(describe(run, key, damage)))?;
    Ok(Some((key, found)))
}

/// A row of a chunk. Its first place must be the one that its columns say.
fn read_row<'r>(row: &'r Row<'_>) -> rusqlite::Result<(Key, Result<Places<'r>, Damage>)> {
    let key = (row.get(0)?, row.get(1)?);
    let is_first = |first: Place| (first.stream_id, signed(first.version)) == key;
    let places = Places::new(row.get_ref(2)?.as_blob()?);
    let places = places.and_then(|places| match places.clone().next() {
        Some(first) if is_first(first?) => Ok(places),
        _ => Err("it begins with another entry"),
    });
    Ok((key, places))
}

fn describe(run: i64, (stream_id, version): Key, damage: &str) -> String {
    format!(
        "the chunk of run {run} that begins with version {version} of stream {stream_id}: {damage}"
    )
}

/// The places of the chunk of a run that one of these statements finds.
pub(super) fn chunk_places(
    connection: &Connection,
    seek: (i64, &str),
    key: Key,
) -> Result<Option<Vec<Place>>, Error> {
    let found = chunk(connection, seek, key, |places| places.collect())?;
    Ok(found.map(|(_, places)| places))
}

/// The complete runs as of a transaction.
pub(super) struct DiskRuns<'c> {
    connection: &'c Connection,
    /// The oldest first.
    runs: Vec<Run>,
}

impl<'c> DiskRuns<'c> {
    /// The runs of a connection, which is in a transaction and stays in it.
    pub fn new(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self { connection, runs: complete(connection)? })
    }

    /// Where the versions of a stream are, at most `limit`, from one on and in a direction.
    /// `recent` are the places that were in memory before the transaction began: what has left it
    /// by then is on the disk, and those before the first of them are on the disk alone. What is
    /// returned has no gap.
    pub fn places(
        &self,
        (stream_id, recent): (i64, &[Place]),
        from: u64,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<Place>, Error> {
        let on_disk = recent.first().map_or(u64::MAX, |place| place.version.saturating_sub(1));
        let mut places = Vec::new();
        match direction {
            Direction::Forward => {
                let from = from.max(1);
                self.forward(stream_id, from..=on_disk, limit, &mut places)?;
                let recent = recent.iter().filter(|place| place.version >= from);
                places.extend(recent.take(limit - places.len()));
            }
            Direction::Backward => {
                let recent = recent.iter().rev().filter(|place| place.version <= from);
                places.extend(recent.take(limit));
                self.backward(stream_id, 1..=on_disk.min(from), limit, &mut places)?;
            }
        }
        let mut expected = match direction {
            Direction::Forward => from.max(1),
            Direction::Backward => places.first().map_or(0, |place| place.version),
        };
        for Place { version, .. } in &places {
            if *version != expected {
                return Err(missing(stream_id, expected));
            }
            expected = match direction {
                Direction::Forward => expected.saturating_add(1),
                Direction::Backward => expected.saturating_sub(1),
            };
        }
        if direction == Direction::Backward && places.len() < limit && expected > 0 {
            return Err(missing(stream_id, expected));
        }
        Ok(places)
    }

    /// The last place of a stream that is on the disk.
    pub fn last(&self, stream_id: i64) -> Result<Option<Place>, Error> {
        let mut places = Vec::new();
        self.backward(stream_id, 1..=u64::MAX, 1, &mut places)?;
        Ok(places.pop())
    }

    /// Adds places of some versions of a stream, in their order, until there are so many.
    fn forward(
        &self,
        stream_id: i64,
        versions: RangeInclusive<u64>,
        limit: usize,
        places: &mut Vec<Place>,
    ) -> Result<(), Error> {
        for run in &self.runs {
            let is_last = |place: &Place| place.version == *versions.end();
            if versions.is_empty() || places.len() >= limit || places.last().is_some_and(is_last) {
                break;
            }
            let mut take = |chunk: Places<'_>| {
                for place in chunk {
                    let place = place?;
                    let beyond = (place.stream_id, place.version) > (stream_id, *versions.end());
                    if beyond || places.len() >= limit {
                        return Ok(false);
                    }
                    if place.stream_id == stream_id && versions.contains(&place.version) {
                        places.push(place);
                    }
                }
                Ok(true)
            };
            let from = (stream_id, signed(*versions.start()));
            let mut found = self.chunk(run, UP_TO, from, &mut take)?;
            if found.is_none() {
                found = self.chunk(run, AFTER, from, &mut take)?;
            }
            while let Some((key, true)) = found {
                found = self.chunk(run, AFTER, key, &mut take)?;
            }
        }
        Ok(())
    }

    /// Adds places of some versions of a stream, against their order, until there are so many.
    fn backward(
        &self,
        stream_id: i64,
        versions: RangeInclusive<u64>,
        limit: usize,
        places: &mut Vec<Place>,
    ) -> Result<(), Error> {
        for run in self.runs.iter().rev() {
            let is_last = |place: &Place| place.version == *versions.start();
            if versions.is_empty() || places.len() >= limit || places.last().is_some_and(is_last) {
                break;
            }
            let mut take = |chunk: Places<'_>| {
                let begins = places.len();
                let mut goes_on = true;
                for place in chunk {
                    let place = place?;
                    if (place.stream_id, place.version) > (stream_id, *versions.end()) {
                        break;
                    }
                    let wanted = place.stream_id == stream_id && versions.contains(&place.version);
                    goes_on &= wanted;
                    if wanted {
                        places.push(place);
                    }
                }
                places[begins..].reverse();
                places.truncate(limit);
                Ok(goes_on && places.len() < limit)
            };
            let from = (stream_id, signed(*versions.end()));
            let mut found = self.chunk(run, UP_TO, from, &mut take)?;
            while let Some((key, true)) = found {
                found = self.chunk(run, BEFORE, key, &mut take)?;
            }
        }
        Ok(())
    }

    fn chunk(
        &self,
        run: &Run,
        sql: &str,
        key: Key,
        take: impl FnOnce(Places<'_>) -> Result<bool, Damage>,
    ) -> Result<Option<(Key, bool)>, Error> {
        chunk(self.connection, (run.number, sql), key, take)
    }
}

fn missing(stream_id: i64, version: u64) -> Error {
    Error::Damaged(format!("version {version} of stream {stream_id} is not in it"))
}

/// What is wrong with the runs themselves: together they must have an entry for each position up to
/// `indexed`, each run those between its own two, in the order of streams and versions. With that,
/// they are right if each position has its stream and version ([`by_position`]).
pub(super) fn problems(connection: &Connection, indexed: u64) -> rusqlite::Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut next = 1;
    let runs = complete(connection)?;
    for Run { number, first, last } in &runs {
        if *first != next || last < first {
            problems.push(format!(
                "run {number} of the index has positions {first} to {last} where {next} follows"
            ));
        }
        next = last + 1;
    }
    if next != indexed + 1 {
        let last = next - 1;
        problems.push(format!("the runs of the index go to {last}, store.indexed to {indexed}"));
    }
    for run in &runs {
        let (mut count, mut before) = (0, Place::default());
        let mut damaged = false;
        each_chunk(connection, run.number, |key, places| {
            let read = places.and_then(|places| {
                for place in places {
                    let place = place?;
                    if (place.stream_id, place.version) <= (before.stream_id, before.version) {
                        return Err("its entries are not after those before it");
                    }
                    if !(run.first..=run.last).contains(&place.position) {
                        return Err("an entry has a position that is not of this run");
                    }
                    (count, before) = (count + 1, place);
                }
                Ok(())
            });
            if let Err(damage) = read {
                damaged = true;
                problems.push(format!("the index: {}", describe(run.number, key, damage)));
            }
        })?;
        if !damaged && count != run.len() {
            let (number, len) = (run.number, run.len());
            problems
                .push(format!("run {number} of the index has {count} entries instead of {len}"));
        }
    }
    Ok(problems)
}

/// The stream and the version that the index has for each of some positions; 0 for what it has not.
pub(super) fn by_position(
    connection: &Connection,
    positions: RangeInclusive<u64>,
) -> rusqlite::Result<Vec<(i64, u64)>> {
    let (first, last) = positions.clone().into_inner();
    let mut found = vec![(0, 0); (last + 1).saturating_sub(first) as usize];
    for run in complete(connection)? {
        if run.last < first || run.first > last {
            continue;
        }
        each_chunk(connection, run.number, |_, places| {
            // What is wrong with a chunk is not said here.
            for place in places.into_iter().flatten().map_while(Result::ok) {
                if positions.contains(&place.position) {
                    found[(place.position - first) as usize] = (place.stream_id, place.version);
                }
            }
        })?;
    }
    Ok(found)
}

/// Shows all chunks of a run in their order.
fn each_chunk(
    connection: &Connection,
    run: i64,
    mut show: impl FnMut(Key, Result<Places<'_>, Damage>),
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT stream_id, version, places FROM run_chunks WHERE run = ?
         ORDER BY stream_id, version",
    )?;
    let mut rows = statement.query([run])?;
    while let Some(row) = rows.next()? {
        let (key, places) = read_row(row)?;
        show(key, places);
    }
    Ok(())
}
