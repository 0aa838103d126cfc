//! What follows the log, a slice with each group: what has gathered in memory goes to its tables,
//! and sorted runs on the disk become one (a log-structured merge, O'Neil and others 1996).
//!
//! A run is written in whole chunks, at the end of their table, and is there for readers once it is
//! complete: then it gets its row in `runs`, and those that it replaces lose theirs, in one
//! transaction. The chunks of a run without a row are left over, from a run that was replaced or
//! one that a crash has cut off, and are deleted a slice at a time.

use std::ops::Bound;
use std::sync::{Arc, LazyLock};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};
use tracing::error;
use uuid::Uuid;

use super::chunk::ChunkBuilder;
use super::disk_runs::{self, AFTER, Error, Run, UP_TO, chunk_places, insert};
use super::index::{Merging, is_v7};
use super::insert::Insert;
use super::runs::Place;
use super::{signed, unsigned};
use crate::storage::StoredAnswer;

/// For so many rows that are appended (events, or requests where there are more of those) a chunk
/// is written, and another that is left over deleted: some 800 entries of 5 bytes, so 8 for each
/// row. That is a small part of what the row itself costs. Each entry is written once to come from
/// memory to the disk, and then half as often as the binary logarithm of the number of flushes,
/// which is less than 8 for a thousand million events.
const ROWS_PER_CHUNK: usize = 100;

/// How many requests are merged for each such row. More, and commands would be slower meanwhile;
/// fewer, and more would be in memory.
const REQUESTS_PER_ROW: usize = 3;

/// The requests that are merged with a group at least.
const REQUESTS_AT_LEAST: usize = 64;

/// What may be merged with a group, or at the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slice {
    /// How many chunks of runs are written, and how many deleted.
    pub chunks: usize,
    pub requests: usize,
}

static REQUESTS: LazyLock<Insert<3>> = LazyLock::new(|| {
    Insert::new("INSERT OR IGNORE INTO requests (request_id, fingerprint, position)")
});

/// What is being merged, and how far. A clone goes on with the next slice; when its transaction
/// fails, the original knows how far the tables are.
#[derive(Debug, Clone)]
pub(super) struct Merger {
    /// The complete runs, the oldest first.
    runs: Vec<Run>,
    /// No run has this number or a greater one, nor has a chunk.
    next_run: i64,
    /// What comes from memory.
    flush: Option<Flush>,
    /// Runs that become one, those of older runs first. The last goes on, so that many short
    /// runs do not wait for few long ones.
    compactions: Vec<Compaction>,
    /// The runs whose chunks are left over.
    left_over: Vec<i64>,
    /// A damaged run was met. It stays as it is, and so do the others: nothing is lost that can be
    /// read.
    damaged: bool,
    /// The disk was full. What room there is belongs to the log until another run has come from
    /// memory.
    rests: bool,
    /// The rows that were appended since they were enough for a chunk.
    rows: usize,
}

impl Merger {
    /// Begins with what the store has.
    pub fn new(connection: &Connection) -> rusqlite::Result<Self> {
        let runs = disk_runs::complete(connection)?;
        // Each step finds the next number in the index.
        let mut find = connection.prepare(
            "WITH RECURSIVE written (run) AS (
                 SELECT min(run) FROM run_chunks
                 UNION ALL
                 SELECT (SELECT min(c.run) FROM run_chunks c WHERE c.run > written.run)
                 FROM written WHERE written.run IS NOT NULL
             )
             SELECT run FROM written WHERE run IS NOT NULL",
        )?;
        let written: Vec<i64> = find.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let compactions = Compaction::all(connection, &runs)?;
        let under_way = compactions.iter().map(|compaction| &compaction.run);
        let in_use: Vec<i64> = runs.iter().chain(under_way).map(|run| run.number).collect();
        let next_run = in_use.iter().chain(&written).max().unwrap_or(&0) + 1;
        let left_over = written.into_iter().filter(|number| !in_use.contains(number)).collect();
        let (flush, damaged, rests, rows) = (None, false, false, 0);
        Ok(Self { runs, next_run, flush, compactions, left_over, damaged, rests, rows })
    }

    /// Compacts nothing until another run has come from memory, and gives up what it was
    /// compacting: the disk was full.
    pub fn rest(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.rests = true;
        self.give_up(connection)
    }

    fn give_up(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        connection.prepare_cached("DELETE FROM compactions")?.execute([])?;
        self.left_over.extend(self.compactions.drain(..).map(|given_up| given_up.run.number));
        Ok(())
    }

    /// Whether nothing is compacted because the disk was full.
    pub fn is_resting(&self) -> bool {
        self.rests
    }

    /// What may be merged with a group of so many rows.
    pub fn slice(&mut self, rows: usize) -> Slice {
        self.rows += rows;
        let chunks = self.rows / ROWS_PER_CHUNK;
        self.rows %= ROWS_PER_CHUNK;
        Slice { chunks, requests: (REQUESTS_PER_ROW * rows).max(REQUESTS_AT_LEAST) }
    }

    /// Deletes what is left over, a slice, or all of it while the disk is full: first of all in the
    /// transaction of a group, which can then have the pages.
    pub fn make_room(&mut self, connection: &Connection, slice: Slice) -> rusqlite::Result<()> {
        let mut left = if self.rests { usize::MAX } else { slice.chunks };
        while let Some(run) = self.left_over.last().filter(|_| left > 0) {
            let sql = "DELETE FROM run_chunks WHERE chunk IN
                       (SELECT chunk FROM run_chunks WHERE run = ?
                        ORDER BY stream_id, version LIMIT ?)";
            let most = i64::try_from(left).unwrap_or(i64::MAX);
            let deleted = connection.prepare_cached(sql)?.execute(params![run, most])?;
            if deleted < left {
                self.left_over.pop();
            }
            left -= deleted;
        }
        Ok(())
    }

    /// Merges a slice, and says whether all of `merging` is in the tables.
    pub fn go_on(
        &mut self,
        connection: &Connection,
        merging: Option<&Arc<Merging>>,
        slice: Slice,
    ) -> rusqlite::Result<bool> {
        let Slice { mut chunks, requests } = slice;
        let done = match merging {
            Some(merging) => self.flush(connection, merging, &mut chunks, requests)?,
            None => false,
        };
        self.compact(connection, chunks)?;
        Ok(done)
    }

    /// Merges from memory, at most so many chunks of events, then so many requests, and says
    /// whether all of it is in the tables.
    fn flush(
        &mut self,
        connection: &Connection,
        merging: &Arc<Merging>,
        chunks: &mut usize,
        requests: usize,
    ) -> rusqlite::Result<bool> {
        let mut flush = match self.flush.take() {
            Some(flush) => flush,
            None => match Flush::begin(connection, merging, self.next_run)? {
                Some(flush) => flush,
                None => return Ok(true),
            },
        };
        self.next_run = self.next_run.max(flush.run.number + 1);
        let done = flush.go_on(connection, chunks, requests)?;
        match done {
            false => self.flush = Some(flush),
            true if flush.merging.places.is_empty() => {}
            true => {
                self.runs.push(flush.run);
                self.rests = false;
            }
        }
        Ok(done)
    }

    fn compact(&mut self, connection: &Connection, chunks: usize) -> rusqlite::Result<()> {
        let mut left = chunks;
        while left > 0 && !self.damaged && !self.rests {
            self.begin_compaction(connection)?;
            let Some(compaction) = self.compactions.last_mut() else { break };
            left -= 1;
            match compaction.go_on(connection) {
                Ok(false) => {}
                Ok(true) => self.replace(connection)?,
                Err(Error::Sqlite(error)) => return Err(error),
                Err(Error::Damaged(problem)) => {
                    error!(%problem, "the index of the streams is not compacted any more");
                    self.give_up(connection)?;
                    self.damaged = true;
                }
            }
        }
        Ok(())
    }

    /// Begins to make one run of the youngest neighbours of which one is not twice as long as what
    /// follows it, if there are some. So the runs that are not at work come to be each at least
    /// twice as long as the next, and there are few.
    fn begin_compaction(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let at_work = self.compactions.last().map_or(0, |compaction| compaction.run.last);
        let idle = self.runs.partition_point(|run| run.last <= at_work);
        let idle = &self.runs[idle..];
        for end in (1..=idle.len()).rev() {
            let mut together = idle[end - 1].len();
            let mut start = end - 1;
            while let Some(before) = start.checked_sub(1).map(|at| idle[at])
                && before.len() < 2 * together
            {
                (start, together) = (start - 1, together + before.len());
            }
            if end - start > 1 {
                let together = &idle[start..end];
                let (first, last) = (together[0].first, together[together.len() - 1].last);
                let run = Run { number: self.next_run, first, last };
                self.compactions.push(Compaction::begin(connection, run, together)?);
                self.next_run += 1;
                break;
            }
        }
        Ok(())
    }

    /// Lets the run of the last compaction, which is complete, take the place of those before.
    fn replace(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let Some(Compaction { run, .. }) = self.compactions.pop() else { return Ok(()) };
        let of_it = |old: &Run| (run.first..=run.last).contains(&old.first);
        let sql = "DELETE FROM compactions WHERE run = ?";
        connection.prepare_cached(sql)?.execute([run.number])?;
        let sql = "DELETE FROM runs WHERE run = ?";
        let mut delete = connection.prepare_cached(sql)?;
        for old in self.runs.iter().filter(|old| of_it(old)) {
            delete.execute([old.number])?;
            self.left_over.push(old.number);
        }
        add_run(connection, &run)?;
        self.runs.retain(|old| !of_it(old));
        let at = self.runs.partition_point(|other| other.first < run.first);
        self.runs.insert(at, run);
        Ok(())
    }
}

fn add_run(connection: &Connection, run: &Run) -> rusqlite::Result<()> {
    let sql = "INSERT INTO runs (run, first_position, last_position) VALUES (?, ?, ?)";
    let values = params![run.number, signed(run.first), signed(run.last)];
    connection.prepare_cached(sql)?.execute(values).map(drop)
}

/// What comes from memory: the places of events become a run, then requests go to their table.
#[derive(Debug, Clone)]
struct Flush {
    merging: Arc<Merging>,
    run: Run,
    /// How many of the places are written.
    places: usize,
    after_request: Option<Uuid>,
}

impl Flush {
    /// `None` if it is in the tables: after an error it may turn out that the last slice was
    /// committed.
    fn begin(
        connection: &Connection,
        merging: &Arc<Merging>,
        number: i64,
    ) -> rusqlite::Result<Option<Self>> {
        let sql = "SELECT indexed, requests_indexed FROM store";
        let mut marks = connection.prepare_cached(sql)?;
        let marks = marks.query_row([], |row| Ok((row.get(0)?, row.get(1)?)));
        let (indexed, requests_indexed): (i64, i64) = marks?;
        let mark = if merging.places.is_empty() { requests_indexed } else { indexed };
        if unsigned(mark) >= merging.last {
            return Ok(None);
        }
        remember_newest(connection, merging.requests.rows.keys())?;
        let run = Run { number, first: unsigned(indexed) + 1, last: merging.last };
        Ok(Some(Self { merging: merging.clone(), run, places: 0, after_request: None }))
    }

    fn go_on(
        &mut self,
        connection: &Connection,
        chunks: &mut usize,
        requests: usize,
    ) -> rusqlite::Result<bool> {
        let merging = Arc::clone(&self.merging);
        let places = &merging.places;
        while self.places < places.len() && *chunks > 0 {
            let mut chunk = ChunkBuilder::default();
            let written = places[self.places..].iter().take_while(|place| chunk.add(**place));
            self.places += written.count();
            insert(connection, self.run.number, chunk)?;
            *chunks -= 1;
        }
        if self.places < places.len() || !self.merge_requests(connection, requests)? {
            return Ok(false);
        }
        let last = signed(self.run.last);
        let mut events = 0;
        if !places.is_empty() {
            add_run(connection, &self.run)?;
            events = last;
        }
        let sql = "UPDATE store SET indexed = max(indexed, ?),
                   requests_indexed = max(requests_indexed, ?)";
        connection.prepare_cached(sql)?.execute([events, last])?;
        Ok(true)
    }

    /// Merges the next requests in the order of their table, and says whether there are no more. A
    /// row may be there from before a crash.
    fn merge_requests(&mut self, connection: &Connection, rows: usize) -> rusqlite::Result<bool> {
        let mut left = rows;
        let from = self.after_request.map_or(Bound::Unbounded, Bound::Excluded);
        let requests = self.merging.requests.rows.range((from, Bound::Unbounded)).take(left);
        let requests = requests.inspect(|(id, _)| {
            self.after_request = Some(**id);
            left -= 1;
        });
        // Other answers are in the table since they were given.
        let recorded = requests.filter_map(|(id, row)| match row.answer {
            StoredAnswer::Recorded(position) => Some([
                ValueRef::Blob(id.as_bytes()),
                ValueRef::Blob(&row.fingerprint),
                ValueRef::Integer(signed(position)),
            ]),
            StoredAnswer::Other(_) => None,
        });
        REQUESTS.all(connection, recorded)?;
        Ok(left > 0)
    }
}

/// Notes that these ids are in the table of requests.
pub(super) fn remember_newest<'a>(
    connection: &Connection,
    ids: impl Iterator<Item = &'a Uuid>,
) -> rusqlite::Result<()> {
    let Some(newest) = ids.filter(|id| is_v7(id)).max() else { return Ok(()) };
    let sql = "UPDATE store SET newest_request = max(newest_request, ?)";
    connection.prepare_cached(sql)?.execute([newest.as_bytes().as_slice()])?;
    Ok(())
}

/// Runs that become one.
#[derive(Debug, Clone)]
struct Compaction {
    run: Run,
    sources: Vec<Source>,
    /// How many places are written.
    written: u64,
    /// The last of them.
    last: Option<Place>,
}

impl Compaction {
    fn begin(connection: &Connection, run: Run, sources: &[Run]) -> rusqlite::Result<Self> {
        let sql = "INSERT INTO compactions (run, first_position, last_position, written)
                   VALUES (?, ?, ?, 0)";
        let values = params![run.number, signed(run.first), signed(run.last)];
        connection.prepare_cached(sql)?.execute(values)?;
        let sources = sources.iter().map(|source| Source::new(source.number)).collect();
        Ok(Self { run, sources, written: 0, last: None })
    }

    /// Those that were under way when the store was left, those of older runs first. They go on
    /// after the last place that is written.
    fn all(connection: &Connection, runs: &[Run]) -> rusqlite::Result<Vec<Self>> {
        let sql = "SELECT run, first_position, last_position, written FROM compactions
                   ORDER BY first_position";
        let mut find = connection.prepare(sql)?;
        let found = find.query_map([], |row| {
            let (number, first, last) = (row.get(0)?, unsigned(row.get(1)?), unsigned(row.get(2)?));
            Ok((Run { number, first, last }, unsigned(row.get(3)?)))
        })?;
        let mut compactions = Vec::new();
        for compaction in found {
            let (run, written) = compaction?;
            let of_it = |source: &&Run| (run.first..=run.last).contains(&source.first);
            let sources = runs.iter().filter(of_it).map(|source| Source::new(source.number));
            let sources = sources.collect();
            compactions.push(Self { run, sources, written, last: None });
        }
        Ok(compactions)
    }

    /// Writes the next chunk and says whether that was all; then it must be what the runs had to
    /// have.
    fn go_on(&mut self, connection: &Connection) -> Result<bool, Error> {
        if self.last.is_none() && self.written > 0 {
            self.find_end(connection)?;
        }
        let mut chunk = ChunkBuilder::default();
        let ended = loop {
            let Some((place, source)) = self.least(connection)? else { break true };
            if self.last.is_some_and(|last| !place.may_follow(&last)) {
                let problem =
                    format!("run {} would have {place:?} after {:?}", self.run.number, self.last);
                return Err(Error::Damaged(problem));
            }
            if !chunk.add(place) {
                break false;
            }
            self.last = Some(place);
            self.sources[source].at += 1;
        };
        self.written += insert(connection, self.run.number, chunk)?;
        let sql = "UPDATE compactions SET written = ? WHERE run = ?";
        let values = params![signed(self.written), self.run.number];
        connection.prepare_cached(sql)?.execute(values)?;
        if ended && self.written != self.run.len() {
            let Run { first, last, .. } = self.run;
            let problem = format!("{} entries for the positions {first} to {last}", self.written);
            return Err(Error::Damaged(problem));
        }
        Ok(ended)
    }

    /// Begins after what another process has written.
    fn find_end(&mut self, connection: &Connection) -> Result<(), Error> {
        let end = chunk_places(connection, (self.run.number, UP_TO), (i64::MAX, i64::MAX))?;
        let end = end.and_then(|places| places.last().copied());
        let nothing = || Error::Damaged(format!("run {} has no places", self.run.number));
        let end = end.ok_or_else(nothing)?;
        for source in &mut self.sources {
            source.begin_after(connection, &end)?;
        }
        self.last = Some(end);
        Ok(())
    }

    /// The next place in order, and which source has it.
    fn least(&mut self, connection: &Connection) -> Result<Option<(Place, usize)>, Error> {
        let mut least: Option<(Place, usize)> = None;
        for (at, source) in self.sources.iter_mut().enumerate() {
            let place = source.peek(connection)?;
            if let Some(place) = place.filter(|place| least.is_none_or(|(other, _)| *place < other))
            {
                least = Some((place, at));
            }
        }
        Ok(least)
    }
}

/// A run that is read in its order, a chunk at a time.
#[derive(Debug, Clone)]
struct Source {
    run: i64,
    /// A chunk; a clone is the same.
    places: Arc<[Place]>,
    /// How far it is read.
    at: usize,
    ended: bool,
}

impl Source {
    fn new(run: i64) -> Self {
        Self { run, places: Arc::default(), at: 0, ended: false }
    }

    /// Passes over all places up to this one.
    fn begin_after(&mut self, connection: &Connection, place: &Place) -> Result<(), Error> {
        let key = (place.stream_id, signed(place.version));
        if let Some(places) = chunk_places(connection, (self.run, UP_TO), key)? {
            self.at = places.partition_point(|other| other.key() <= place.key());
            self.places = places.into();
        }
        Ok(())
    }

    /// The next place.
    fn peek(&mut self, connection: &Connection) -> Result<Option<Place>, Error> {
        if self.at == self.places.len() && !self.ended {
            let before = self.places.last().copied();
            let key = |place: &Place| (place.stream_id, signed(place.version));
            let after = self.places.first().map_or((i64::MIN, i64::MIN), key);
            match chunk_places(connection, (self.run, AFTER), after)? {
                Some(places) if before < places.first().copied() => {
                    (self.places, self.at) = (places.into(), 0);
                }
                Some(_) => {
                    let problem = format!("run {} is not in order after {before:?}", self.run);
                    return Err(Error::Damaged(problem));
                }
                None => self.ended = true,
            }
        }
        Ok(self.places.get(self.at).copied())
    }
}

#[cfg(test)]
mod tests;
