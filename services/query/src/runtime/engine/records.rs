//! Records on their way into a projection, and into its quarantine.

use bytes::Bytes;
use daybook_bus::source::Record;
use daybook_contract::daybook::v1::RecordedEvent;
use prost::Message;

use crate::runtime::projection::{Projection, Recorded, decode, guarded, stream_name};
use crate::runtime::row::{Binds, Statement};
use crate::runtime::store::{Quarantined, statement, to_i64};

/// A record that is an event.
pub(super) struct Candidate {
    pub stream: String,
    pub event: RecordedEvent,
    pub record: Bytes,
    pub source: String,
}

impl Candidate {
    pub fn into_work<P: Projection>(self) -> Work<P::Event> {
        Work {
            stream: self.stream,
            version: self.event.version,
            position: self.event.position,
            record: self.record,
            source: self.source,
            event: guarded(|| decode::<P>(self.event))
                .and_then(|decoded| decoded.map_err(|error| error.to_string())),
        }
    }
}

impl<E> Work<E> {
    pub fn quarantined(self, problem: String, attempts: u32) -> Quarantined {
        Quarantined {
            id: 0,
            stream: self.stream,
            version: self.version,
            position: self.position,
            problem,
            attempts,
            time_ns: crate::time::now_ns(),
            record: self.record,
            source: self.source,
        }
    }
}

/// Decodes the envelope of a record; `None` for a watermark.
pub(super) fn read_record(record: &Record) -> Result<Option<Candidate>, String> {
    if record.bytes.is_empty() {
        return Err("the record is empty".to_owned());
    }
    let event = RecordedEvent::decode(record.bytes.clone())
        .map_err(|error| format!("the record is no RecordedEvent: {error}"))?;
    if event.aggregate_type.is_empty() && event.version == 0 && event.payload.is_none() {
        if event.position == 0 {
            return Err("the record is neither an event nor a watermark".to_owned());
        }
        return Ok(None);
    }
    if event.aggregate_type.is_empty() || event.aggregate_id.is_empty() {
        return Err("the record names no stream".to_owned());
    }
    if event.version == 0 || event.position == 0 {
        return Err("the record has no version or no position".to_owned());
    }
    Ok(Some(Candidate {
        stream: stream_name(&event.aggregate_type, &event.aggregate_id),
        event,
        record: record.bytes.clone(),
        source: record.origin.clone(),
    }))
}

pub(super) fn evidence(record: &Record, problem: String) -> Quarantined {
    tracing::warn!(source = %record, %problem, "record put in quarantine");
    Quarantined {
        id: 0,
        stream: String::new(),
        version: 0,
        position: 0,
        problem,
        attempts: 1,
        time_ns: crate::time::now_ns(),
        record: record.bytes.clone(),
        source: record.origin.clone(),
    }
}

pub(super) fn waits_for(version: u64) -> String {
    format!("waits for version {version} of its stream")
}

pub(super) fn insert_quarantined(entries: &[Quarantined]) -> Statement {
    let mut binds = Binds::default();
    for entry in entries {
        binds.add(entry.stream.clone());
        binds.add(to_i64(entry.version));
        binds.add(to_i64(entry.position));
        binds.add(entry.problem.clone());
        binds.add(entry.attempts);
        binds.add(entry.time_ns);
        binds.add(entry.record.to_vec());
        binds.add(entry.source.clone());
    }
    let sql = format!(
        "INSERT INTO quarantine (stream, version, position, problem, attempts, quarantine_time,
         record, source) VALUES {}",
        vec!["(?, ?, ?, ?, ?, ?, ?, ?)"; entries.len()].join(", ")
    );
    statement(&sql, binds)
}

/// An event on its way into the projection.
pub(super) struct Work<E> {
    pub stream: String,
    pub version: u64,
    pub position: u64,
    pub record: Bytes,
    pub source: String,
    pub event: Result<Recorded<E>, String>,
}
