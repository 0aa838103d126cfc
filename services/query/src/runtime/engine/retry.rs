//! What an operator does with quarantined events, each in one transaction: apply them again, or
//! give one up.

use std::slice;
use std::sync::Arc;

use daybook_bus::source::{Origin, Record};

use super::{Effects, Engine, Error, Work, insert_quarantined, waits_for};
use crate::runtime::projection::Projection;
use crate::runtime::row::{Binds, Statement, chunks};
use crate::runtime::store::{self, Checkpoint, Quarantined, from_i64, statement, to_i64};

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
    pub async fn retry(&mut self, stream: &str) -> Result<Retried, Error> {
        if !self.blocked.contains_key(stream) {
            return Err(Error::NoneQuarantined(stream.to_owned()));
        }
        self.retry_after(stream, None).await
    }

    /// Gives up a quarantined event and applies the later ones of its stream.
    pub async fn skip(&mut self, id: u64) -> Result<Retried, Error> {
        let mut binds = Binds::default();
        binds.add(to_i64(id));
        let sql = "SELECT * FROM quarantine WHERE quarantine_id = ?";
        let rows = self.store.read(statement(sql, binds)).await?;
        let found = quarantined_rows(&rows)?.pop().ok_or(Error::NotQuarantined(id))?;
        if found.stream.is_empty() {
            let mut binds = Binds::default();
            binds.add(to_i64(id));
            let delete = statement("DELETE FROM quarantine WHERE quarantine_id = ?", binds);
            self.store.write(vec![delete]).await?;
            self.quarantined -= 1;
            return Ok(Retried::default());
        }
        if self.blocked.get(&found.stream) != Some(&found.version) {
            return Err(Error::NotFirst(id, found.stream));
        }
        let stream = found.stream.clone();
        self.retry_after(&stream, Some(found)).await
    }

    /// Goes through the quarantined events of a stream in order, a page a transaction, until one
    /// fails. The first of them is given up when it is `given_up`.
    async fn retry_after(
        &mut self,
        stream: &str,
        mut given_up: Option<Quarantined>,
    ) -> Result<Retried, Error> {
        let mut applied = 0;
        loop {
            let page = self.quarantined_page(stream).await?;
            let last_page = page.len() < RETRY_BATCH as usize;
            let result = self.retry_page(stream, page, given_up.take()).await?;
            applied += result.applied;
            if last_page || result.failed {
                return Ok(Retried { applied, remaining: self.count(stream).await? });
            }
        }
    }

    async fn retry_page(
        &mut self,
        stream: &str,
        page: Vec<Quarantined>,
        given_up: Option<Quarantined>,
    ) -> Result<Page, Error> {
        let mut effects = Effects::default();
        let mut writes = Vec::new();
        let mut done = Vec::new();
        let mut works = Vec::new();
        for entry in &page {
            if given_up.as_ref().is_some_and(|given_up| given_up.id == entry.id) {
                writes.push(insert_skipped(stream, entry.version));
                done.push(entry.id);
                continue;
            }
            let origin = Origin::Text(entry.source.clone());
            let record = Arc::new(Record::new(entry.record.clone(), origin));
            works.push((entry, Work::new::<P>(&record)));
        }
        let mut first_failed = None;
        for (entry, work) in &works {
            let result = match work {
                Some(work) => self.try_first(slice::from_ref(work), &mut false).await?,
                None => Err("the record is no event".to_owned()),
            };
            match result {
                Ok(time_ns) => {
                    effects.applied += 1;
                    effects.last_event_ns = effects.last_event_ns.max(time_ns);
                    done.push(entry.id);
                }
                Err(problem) => {
                    writes.extend(failed_again(entry, &problem, self.attempts));
                    first_failed = Some(entry.version);
                    break;
                }
            }
        }
        for chunk in chunks(&done) {
            let marks = vec!["?"; chunk.len()].join(", ");
            let mut binds = Binds::default();
            chunk.iter().for_each(|id| binds.add(to_i64(*id)));
            let sql = format!("DELETE FROM quarantine WHERE quarantine_id IN ({marks})");
            writes.push(statement(&sql, binds));
        }
        let checkpoint = Checkpoint {
            applied_events: self.checkpoint.applied_events + effects.applied,
            last_event_ns: self.checkpoint.last_event_ns.max(effects.last_event_ns),
            commits: self.checkpoint.commits + 1,
            ..self.checkpoint.clone()
        };
        self.store.begin().await?;
        self.store.write(writes).await?;
        self.write(&mut effects, &checkpoint).await?;
        self.store.commit().await?;
        let result = Page { applied: effects.applied, failed: first_failed.is_some() };
        self.quarantined -= done.len() as u64;
        if let Some(given_up) = given_up {
            self.skipped.insert((stream.to_owned(), given_up.version));
        }
        match first_failed {
            Some(version) => self.blocked.insert(stream.to_owned(), version),
            // The next page, if there is one, is gone through before anything else.
            None => self.blocked.remove(stream),
        };
        self.committed(effects, checkpoint);
        Ok(result)
    }

    async fn quarantined_page(&mut self, stream: &str) -> Result<Vec<Quarantined>, sqlx::Error> {
        let mut binds = Binds::default();
        binds.add(stream.to_owned());
        binds.add(RETRY_BATCH);
        let sql = "SELECT * FROM quarantine WHERE stream = ? ORDER BY version LIMIT ?";
        quarantined_rows(&self.store.read(statement(sql, binds)).await?)
    }

    async fn count(&mut self, stream: &str) -> Result<u64, sqlx::Error> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM quarantine WHERE stream = ?")
            .bind(stream)
            .fetch_one(self.store.connection())
            .await?;
        Ok(from_i64(count))
    }

    /// Takes over from another generation what is not in the log: the events that were given up
    /// and the records that are no events.
    pub async fn take_over(
        &mut self,
        skipped: &[(String, u64)],
        evidence: &[Quarantined],
    ) -> Result<(), Error> {
        self.flush().await?;
        self.store.begin().await?;
        for (stream, version) in skipped {
            self.store.write(vec![insert_skipped(stream, *version)]).await?;
        }
        for chunk in chunks(evidence) {
            self.store.write(vec![insert_quarantined(chunk)]).await?;
        }
        self.store.commit().await?;
        self.quarantined += evidence.len() as u64;
        self.skipped.extend(skipped.iter().cloned());
        // What was quarantined here before it was given up there is given up now.
        loop {
            let due = skipped.iter().find(|(stream, version)| {
                self.blocked.get(stream).is_some_and(|first| first == version)
            });
            let Some((stream, _)) = due else { return Ok(()) };
            let first = self.quarantined_page(stream).await?.into_iter().next();
            let Some(first) = first else { return Ok(()) };
            self.retry_after(stream, Some(first)).await?;
        }
    }
}

fn insert_skipped(stream: &str, version: u64) -> Statement {
    let mut binds = Binds::default();
    binds.add(stream.to_owned());
    binds.add(to_i64(version));
    statement("INSERT OR IGNORE INTO skipped (stream, version) VALUES (?, ?)", binds)
}

/// Notes that an event failed again, and that the later ones wait for it.
fn failed_again(entry: &Quarantined, problem: &str, attempts: u32) -> [Statement; 2] {
    let mut own = Binds::default();
    own.add(problem.to_owned());
    own.add(attempts);
    own.add(to_i64(entry.id));
    let mut later = Binds::default();
    later.add(waits_for(entry.version));
    later.add(entry.stream.clone());
    later.add(to_i64(entry.version));
    [
        statement(
            "UPDATE quarantine SET problem = ?, attempts = attempts + ? WHERE quarantine_id = ?",
            own,
        ),
        statement("UPDATE quarantine SET problem = ? WHERE stream = ? AND version > ?", later),
    ]
}

fn quarantined_rows(rows: &[sqlx::sqlite::SqliteRow]) -> Result<Vec<Quarantined>, sqlx::Error> {
    rows.iter().map(store::quarantined).collect()
}
