//! Records on their way into a projection, and into its quarantine.

use bytes::Bytes;
use daybook_bus::source::Record;
use daybook_contract::contract::EventError;
use prost::Message;
use prost_types::Timestamp;

use crate::runtime::projection::{EncodedEvent, Projection, Recorded, guarded, stream_name};
use crate::runtime::row::{Binds, Statement};
use crate::runtime::store::{Anchor, Quarantined, statement, to_i64};

/// What is needed of a RecordedEvent; the rest is skipped. Its parts are parts of the record, not
/// copies: most projections take few of the events that they read.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Envelope {
    #[prost(bytes = "bytes", tag = "1")]
    event_id: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    aggregate_type: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    aggregate_id: Bytes,
    #[prost(uint64, tag = "4")]
    pub version: u64,
    #[prost(uint64, tag = "5")]
    pub position: u64,
    #[prost(bytes = "bytes", tag = "6")]
    event_name: Bytes,
    #[prost(uint32, tag = "7")]
    event_version: u32,
    #[prost(message, optional, tag = "8")]
    recorded_time: Option<Timestamp>,
    #[prost(message, optional, tag = "10")]
    event: Option<Payload>,
    #[prost(bytes = "bytes", optional, tag = "11")]
    raw: Option<Bytes>,
}

/// The content of an Any.
#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

impl Envelope {
    /// Whether it is of one of these aggregates.
    pub fn is_of(&self, aggregates: &[&str]) -> bool {
        aggregates.iter().any(|aggregate| aggregate.as_bytes() == self.aggregate_type)
    }

    pub fn anchor(&self) -> Anchor {
        let event_id = String::from_utf8_lossy(&self.event_id).into_owned();
        Anchor { position: self.position, event_id }
    }

    fn decode_as<P: Projection>(&self) -> Result<Recorded<P::Event>, String> {
        let Some(payload) = &self.event else { return Err(EventError::NotAnEvent.to_string()) };
        let aggregate_type = text(&self.aggregate_type)?;
        let event = P::decode(EncodedEvent {
            aggregate_type,
            name: text(&self.event_name)?,
            version: self.event_version,
            bytes: payload.value.clone(),
        });
        Ok(Recorded {
            event: event.map_err(|error| error.to_string())?,
            event_id: text(&self.event_id)?.to_owned(),
            aggregate_type: aggregate_type.to_owned(),
            aggregate_id: text(&self.aggregate_id)?.to_owned(),
            version: self.version,
            position: self.position,
            time_ns: self.recorded_time.as_ref().and_then(crate::time::nanos).unwrap_or_default(),
        })
    }
}

fn text(bytes: &Bytes) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "the record has a text that is not UTF-8".to_owned())
}

/// A record that is an event of a projection.
pub(super) struct Candidate {
    pub stream: String,
    pub event: Envelope,
    pub record: Record,
}

impl Candidate {
    /// Names its stream.
    pub fn new(event: Envelope, record: &Record) -> Result<Self, String> {
        let stream = stream_name(text(&event.aggregate_type)?, text(&event.aggregate_id)?);
        Ok(Self { stream, event, record: record.clone() })
    }

    pub fn into_work<P: Projection>(self) -> Work<P::Event> {
        Work {
            event: guarded(|| self.event.decode_as::<P>()).flatten(),
            stream: self.stream,
            version: self.event.version,
            position: self.event.position,
            record: self.record,
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
            source: self.record.origin_text(),
            record: self.record.bytes,
        }
    }
}

/// Decodes the envelope of a record; `None` for a watermark.
pub(super) fn read_record(record: &Record) -> Result<Option<Envelope>, String> {
    if record.bytes.is_empty() {
        return Err("the record is empty".to_owned());
    }
    let event = Envelope::decode(record.bytes.clone())
        .map_err(|error| format!("the record is no RecordedEvent: {error}"))?;
    let has_payload = event.event.is_some() || event.raw.is_some();
    if event.aggregate_type.is_empty() && event.version == 0 && !has_payload {
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
    Ok(Some(event))
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
        source: record.origin_text(),
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
    pub record: Record,
    pub event: Result<Recorded<E>, String>,
}
