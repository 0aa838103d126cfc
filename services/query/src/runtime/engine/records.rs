//! Records on their way into a projection, and into its quarantine.

use std::sync::Arc;

use daybook_bus::Envelope;
use daybook_bus::source::Record;
use daybook_contract::contract::EventError;
use rusqlite::Connection;

use crate::runtime::projection::{EncodedEvent, Projection, Recorded, guarded};
use crate::runtime::row::{execute, marks};
use crate::runtime::store::{Quarantined, to_i64};

/// An event of a projection.
fn decode<P: Projection>(event: &Envelope) -> Result<Recorded<P::Event>, String> {
    let Some(bytes) = &event.message else { return Err(EventError::NotAnEvent.to_string()) };
    let found = P::AGGREGATES.iter().copied().find(|own| *own == event.aggregate_type());
    let aggregate_type = found
        .ok_or_else(|| format!("{} takes no events of {}", P::NAME, event.aggregate_type()))?;
    let decoded = P::decode(EncodedEvent {
        aggregate_type,
        name: event.event_name().ok_or(NO_TEXT)?,
        version: event.event_version,
        bytes: bytes.clone(),
    });
    Ok(Recorded {
        event: decoded.map_err(|error| error.to_string())?,
        event_id: event.event_id().ok_or(NO_TEXT)?.to_owned(),
        aggregate_type,
        aggregate_id: event.aggregate_id().to_owned(),
        version: event.version,
        position: event.position,
        time_ns: event.recorded_time.as_ref().and_then(crate::time::nanos).unwrap_or_default(),
    })
}

const NO_TEXT: &str = "the record has a text that is not UTF-8";

/// An event on its way into the projection.
pub(super) struct Work<E> {
    record: Arc<Record>,
    pub event: Result<Recorded<E>, String>,
}

impl<E> Work<E> {
    /// Decodes the event of a record; `None` when it is none.
    pub fn new<P: Projection<Event = E>>(record: &Arc<Record>) -> Option<Self> {
        let envelope = record.event()?;
        let event = guarded(|| decode::<P>(envelope)).flatten();
        Some(Self { record: Arc::clone(record), event })
    }

    /// What is known of the event without decoding it.
    pub fn envelope(&self) -> &Envelope {
        self.record.event().expect("it was one when this was made")
    }
}

impl<E> Work<E> {
    pub fn quarantined(&self, problem: String, attempts: u32) -> Quarantined {
        let envelope = self.envelope();
        Quarantined {
            id: 0,
            stream: envelope.stream().to_owned(),
            version: envelope.version,
            position: envelope.position,
            problem,
            attempts,
            time_ns: crate::time::now_ns(),
            source: self.record.origin_text(),
            record: self.record.bytes.clone(),
        }
    }
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

pub(super) fn insert_quarantined(
    connection: &Connection,
    entries: &[Quarantined],
) -> rusqlite::Result<()> {
    let sql = format!(
        "INSERT INTO quarantine (stream, version, position, problem, attempts, quarantine_time,
         record, source) VALUES {}",
        marks("(?, ?, ?, ?, ?, ?, ?, ?)", entries.len())
    );
    execute(connection, &sql, |binds| {
        entries.iter().try_for_each(|entry| {
            binds.add(&entry.stream)?;
            binds.add(&to_i64(entry.version))?;
            binds.add(&to_i64(entry.position))?;
            binds.add(&entry.problem)?;
            binds.add(&entry.attempts)?;
            binds.add(&entry.time_ns)?;
            binds.add(entry.record.as_ref())?;
            binds.add(&entry.source)
        })
    })
}

#[cfg(test)]
mod tests {
    use daybook_bus::source::Origin;
    use daybook_contract::daybook::v1::RecordedEvent;
    use daybook_contract::daybook::v1::recorded_event::Payload;
    use prost::Message;
    use prost_types::Any;

    use super::*;
    use crate::projections::account_balance::AccountBalance;

    /// Such as one in quarantine, when the projection takes fewer aggregates than it did.
    #[test]
    fn an_event_of_others_is_refused_with_both_names() {
        let event = RecordedEvent {
            event_id: "id".to_owned(),
            aggregate_type: "orders.order".to_owned(),
            aggregate_id: "7".to_owned(),
            version: 1,
            position: 9,
            event_name: "Placed".to_owned(),
            payload: Some(Payload::Event(Any::default())),
            ..Default::default()
        };
        let record = Arc::new(Record::new(event.encode_to_vec().into(), Origin::Log));
        let work = Work::new::<AccountBalance>(&record).expect("it names a stream");
        let expected = "account_balance takes no events of orders.order";
        assert_eq!(work.event.err().as_deref(), Some(expected));
    }
}
