//! What an operator does with quarantined events, each in one transaction: apply them again, or
//! give one up.

use std::slice;
use std::sync::Arc;

use daybook_bus::source::{Origin, Record};

use rusqlite::Connection;

use super::{Effects, Engine, Error, Work, insert_quarantined, waits_for};
use crate::runtime::projection::Projection;
use crate::runtime::row::{chunks, execute, marks, select};
use crate::runtime::store::{Checkpoint, Quarantined, from_i64, quarantined, to_i64};

/// How many quarantined events are applied again in one transaction.
const RETRY_BATCH: u32 = 1_000;

/// What came of applying quarantined events again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Retried {
    pub applied: u64,
    pub remaining: u64,
}

struct Page {
    applied: u64,
    failed: bool,
}

impl<P: Projection> Engine<P> {
    /// Applies the quarantined events of a stream again.
    pub fn retry(&mut self, stream: &str) -> Result<Retried, Error> {
        if !self.blocked.contains_key(stream) {
            return Err(Error::NoneQuarantined(stream.to_owned()));
        }
        self.retry_after(stream, None)
    }

    /// Gives up a quarantined event and applies the later ones of its stream.
    pub fn skip(&mut self, id: u64) -> Result<Retried, Error> {
        let sql = "SELECT * FROM quarantine WHERE quarantine_id = ?";
        let mut found = select(self.store.connection(), sql, &[&to_i64(id)], quarantined)?;
        let found = found.pop().ok_or(Error::NotQuarantined(id))?;
        if found.stream.is_empty() {
            remove(self.store.connection(), &[id])?;
            self.quarantined -= 1;
            return Ok(Retried::default());
        }
        if self.blocked.get(&found.stream) != Some(&found.version) {
            return Err(Error::NotFirst(id, found.stream));
        }
        let stream = found.stream.clone();
        self.retry_after(&stream, Some(found))
    }

    /// Goes through the quarantined events of a stream in order, a page a transaction, until one
    /// fails. The first of them is given up when it is `given_up`.
    fn retry_after(
        &mut self,
        stream: &str,
        mut given_up: Option<Quarantined>,
    ) -> Result<Retried, Error> {
        let mut applied = 0;
        loop {
            let page = self.quarantined_page(stream)?;
            let last_page = page.len() < RETRY_BATCH as usize;
            let result = self.retry_page(stream, page, given_up.take())?;
            applied += result.applied;
            if last_page || result.failed {
                return Ok(Retried { applied, remaining: self.count(stream)? });
            }
        }
    }

    fn retry_page(
        &mut self,
        stream: &str,
        page: Vec<Quarantined>,
        given_up: Option<Quarantined>,
    ) -> Result<Page, Error> {
        let mut effects = Effects::default();
        let (mut given_up_version, mut failed) = (None, None);
        let mut done = Vec::new();
        let mut works = Vec::new();
        for entry in &page {
            if given_up.as_ref().is_some_and(|given_up| given_up.id == entry.id) {
                given_up_version = Some(entry.version);
                done.push(entry.id);
                continue;
            }
            let origin = Origin::Text(entry.source.clone());
            let record = Arc::new(Record::new(entry.record.clone(), origin));
            works.push((entry, Work::new::<P>(&record)));
        }
        for (entry, work) in &works {
            let result = match work {
                Some(work) => self.try_first(slice::from_ref(work), &mut false)?,
                None => Err("the record is no event".to_owned()),
            };
            match result {
                Ok(time_ns) => {
                    effects.applied += 1;
                    effects.last_event_ns = effects.last_event_ns.max(time_ns);
                    done.push(entry.id);
                }
                Err(problem) => {
                    failed = Some((*entry, problem));
                    break;
                }
            }
        }
        let checkpoint = Checkpoint {
            applied_events: self.checkpoint.applied_events + effects.applied,
            last_event_ns: self.checkpoint.last_event_ns.max(effects.last_event_ns),
            commits: self.checkpoint.commits + 1,
            ..self.checkpoint.clone()
        };
        self.store.begin()?;
        let connection = self.store.connection();
        if let Some(version) = given_up_version {
            insert_skipped(connection, stream, version)?;
        }
        if let Some((entry, problem)) = &failed {
            failed_again(connection, entry, problem, self.attempts)?;
        }
        remove(connection, &done)?;
        self.write(&mut effects, &checkpoint)?;
        self.store.commit()?;
        let result = Page { applied: effects.applied, failed: failed.is_some() };
        self.quarantined -= done.len() as u64;
        if let Some(given_up) = given_up {
            self.skipped.insert((stream.to_owned(), given_up.version));
        }
        match failed {
            Some((entry, _)) => self.blocked.insert(stream.to_owned(), entry.version),
            // The next page, if there is one, is gone through before anything else.
            None => self.blocked.remove(stream),
        };
        self.committed(effects, checkpoint);
        Ok(result)
    }

    fn quarantined_page(&self, stream: &str) -> rusqlite::Result<Vec<Quarantined>> {
        let sql = "SELECT * FROM quarantine WHERE stream = ? ORDER BY version LIMIT ?";
        select(self.store.connection(), sql, &[&stream, &RETRY_BATCH], quarantined)
    }

    fn count(&self, stream: &str) -> rusqlite::Result<u64> {
        let sql = "SELECT count(*) FROM quarantine WHERE stream = ?";
        self.store.connection().query_row(sql, [stream], |row| row.get(0)).map(from_i64)
    }

    /// Takes over from another generation what is not in the log: the events that were given up
    /// and the records that are no events.
    pub fn take_over(
        &mut self,
        skipped: &[(String, u64)],
        evidence: &[Quarantined],
    ) -> Result<(), Error> {
        self.flush()?;
        self.store.begin()?;
        for (stream, version) in skipped {
            insert_skipped(self.store.connection(), stream, *version)?;
        }
        for chunk in chunks(evidence) {
            insert_quarantined(self.store.connection(), chunk)?;
        }
        self.store.commit()?;
        self.quarantined += evidence.len() as u64;
        self.skipped.extend(skipped.iter().cloned());
        // What was quarantined here before it was given up there is given up now.
        loop {
            let due = skipped.iter().find(|(stream, version)| {
                self.blocked.get(stream).is_some_and(|first| first == version)
            });
            let Some((stream, _)) = due else { return Ok(()) };
            let first = self.quarantined_page(stream)?.into_iter().next();
            let Some(first) = first else { return Ok(()) };
            self.retry_after(stream, Some(first))?;
        }
    }
}

/// Removes events from the quarantine.
fn remove(connection: &Connection, ids: &[u64]) -> rusqlite::Result<()> {
    for chunk in chunks(ids) {
        let ids = marks("?", chunk.len());
        let sql = format!("DELETE FROM quarantine WHERE quarantine_id IN ({ids})");
        execute(connection, &sql, |binds| chunk.iter().try_for_each(|id| binds.add(&to_i64(*id))))?;
    }
    Ok(())
}

fn insert_skipped(connection: &Connection, stream: &str, version: u64) -> rusqlite::Result<()> {
    let sql = "INSERT OR IGNORE INTO skipped (stream, version) VALUES (?, ?)";
    connection.execute(sql, (stream, to_i64(version))).map(drop)
}

/// Notes that an event failed again, and that the later ones wait for it.
fn failed_again(
    connection: &Connection,
    entry: &Quarantined,
    problem: &str,
    attempts: u32,
) -> rusqlite::Result<()> {
    let own = "UPDATE quarantine SET problem = ?, attempts = attempts + ? WHERE quarantine_id = ?";
    connection.execute(own, (problem, attempts, to_i64(entry.id)))?;
    let later = "UPDATE quarantine SET problem = ? WHERE stream = ? AND version > ?";
    let values = (waits_for(entry.version), &entry.stream, to_i64(entry.version));
    connection.execute(later, values).map(drop)
}
