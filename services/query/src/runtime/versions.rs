//! Which version of each stream a projection has seen last.
//!
//! The streams of a batch are there by chance. To write each to its place in a table would write a
//! page of the file for nearly every event, so they are appended as they come, and brought to their
//! places only when there are many. Until then they are in memory as well.

use std::num::NonZeroUsize;

use foldhash::HashMap;
use lru::LruCache;
use prost::Message;
use rusqlite::Connection;

use super::IndexMap;
use super::row::{chunks, execute, marks, select};
use super::store::{damaged, from_i64, to_i64};

/// How many streams' versions are kept in memory; about 100 bytes each.
const KNOWN_STREAMS: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// How many entries may wait for each stream that may; about 50 bytes each in the file, which are
/// read at a start.
const ENTRIES_PER_STREAM: usize = 8;

/// How far a stream is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The last version seen; 0 for none.
    pub version: u64,
    /// The position of that event, as far as it is news.
    pub position: Option<u64>,
}

/// The versions of the streams that were seen, beside those that only the file knows.
pub(crate) struct Versions {
    /// What is at its place in the file. A cache.
    known: LruCache<String, u64>,
    /// What is not there yet.
    waiting: HashMap<String, Seen>,
    /// How many streams may wait.
    most: usize,
    /// How many entries wait, of which several may be of the same stream.
    entries: usize,
}

#[derive(Clone, PartialEq, Message)]
struct Entries {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    stream: String,
    #[prost(uint64, tag = "2")]
    version: u64,
    #[prost(uint64, tag = "3")]
    position: u64,
}

impl Versions {
    /// Reads what is not at its place yet. So many streams may wait.
    pub fn load(connection: &Connection, most: usize) -> rusqlite::Result<Self> {
        let found = waiting(connection)?;
        let (known, waiting) = (LruCache::new(KNOWN_STREAMS), HashMap::default());
        let mut versions = Self { known, waiting, most, entries: found.len() };
        for Entry { stream, version, position } in found {
            versions.waiting.insert(stream, Seen { version, position: Some(position) });
        }
        Ok(versions)
    }

    /// The version of a stream; `None` when only the file knows.
    pub fn get(&mut self, stream: &str) -> Option<u64> {
        let waiting = self.waiting.get(stream).map(|seen| seen.version);
        waiting.or_else(|| self.known.get(stream).copied())
    }

    /// Writes what is news, in the transaction that is open. After an error this is of no use.
    pub fn write(
        &mut self,
        connection: &Connection,
        streams: IndexMap<String, Seen>,
    ) -> rusqlite::Result<()> {
        let mut news = Vec::new();
        for (stream, seen) in streams {
            match seen.position {
                Some(position) => news.push(Entry { stream, version: seen.version, position }),
                None if self.waiting.contains_key(&stream) => {}
                None => {
                    self.known.put(stream, seen.version);
                }
            }
        }
        if news.is_empty() {
            return Ok(());
        }
        let entries = Entries { entries: news };
        let more = entries.entries.len();
        let waits = self.entries + more <= self.most.saturating_mul(ENTRIES_PER_STREAM)
            && self.waiting.len() + more <= self.most;
        if waits {
            let sql = "INSERT INTO waiting_versions (entries) VALUES (?)";
            execute(connection, sql, |binds| binds.add(&entries.encode_to_vec()))?;
        }
        self.entries += more;
        for Entry { stream, version, position } in entries.entries {
            self.waiting.insert(stream, Seen { version, position: Some(position) });
        }
        if !waits {
            self.settle(connection)?;
        }
        Ok(())
    }

    /// Brings all that waits to its place.
    fn settle(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut waiting: Vec<_> = self.waiting.drain().collect();
        // In the order of the key, neighbours in the file are written together.
        waiting.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for chunk in chunks(&waiting) {
            let sql = format!(
                "INSERT INTO stream_versions (stream, version, position) VALUES {}
                 ON CONFLICT (stream) DO UPDATE
                 SET version = excluded.version, position = excluded.position",
                marks("(?, ?, ?)", chunk.len())
            );
            execute(connection, &sql, |binds| {
                chunk.iter().try_for_each(|(stream, seen)| {
                    binds.add(stream)?;
                    binds.add(&to_i64(seen.version))?;
                    binds.add(&to_i64(seen.position.unwrap_or_default()))
                })
            })?;
        }
        execute(connection, "DELETE FROM waiting_versions", |_| Ok(()))?;
        self.entries = 0;
        for (stream, seen) in waiting {
            self.known.put(stream, seen.version);
        }
        Ok(())
    }
}

/// The entries that are not at their places, the older ones first.
fn waiting(connection: &Connection) -> rusqlite::Result<Vec<Entry>> {
    let sql = "SELECT entries FROM waiting_versions ORDER BY id";
    let blobs: Vec<Vec<u8>> = select(connection, sql, &[], |row| row.get(0))?;
    let mut entries = Vec::new();
    for blob in blobs {
        entries.extend(Entries::decode(blob.as_slice()).map_err(damaged)?.entries);
    }
    Ok(entries)
}

/// The streams of which a file has seen events after a position, with the last version.
pub(crate) fn seen_after(
    connection: &Connection,
    position: u64,
) -> rusqlite::Result<HashMap<String, u64>> {
    let sql = "SELECT stream, version FROM stream_versions WHERE position > ?";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, from_i64(row.get(1)?)));
    let mut seen: HashMap<_, _> =
        select(connection, sql, &[&to_i64(position)], read)?.into_iter().collect();
    let waiting = waiting(connection)?.into_iter();
    let news = waiting.filter(|entry| entry.position > position);
    seen.extend(news.map(|entry| (entry.stream, entry.version)));
    Ok(seen)
}
