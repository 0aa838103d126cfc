//! What the runtime remembers, as a projection: every saga with its state, and the sagas that are to
//! be started. All of it follows from events, so that it is the same after a crash, a rebuild, and in
//! a second process. What a saga has done before is in the log.

use daybook_contract::contract::EventError;
use daybook_contract::daybook::v1::SagaStatus;
use daybook_kernel::{Foreign, Step};
use daybook_query::runtime::{ApplyError, EncodedEvent, Projection, Recorded};
use prost::Message;

use crate::kind::{self, AnyEvent, Kind};

/// The projection.
pub struct Sagas;

daybook_query::rows! {
    /// The tables of the projection.
    pub struct Tables {
        /// All sagas.
        sagas: SagaRow in "sagas",
        /// The sagas that other aggregates' events start and that have not begun yet.
        starts: StartRow in "starts",
        /// How many sagas there are of each kind and status.
        counts: CountRow in "counts",
    }

    /// A saga.
    pub struct SagaRow {
        key {
            /// Its stream.
            stream: String,
        }
        /// The name of its aggregate.
        kind: String,
        /// Its id.
        saga_id: String,
        /// A number of `daybook.v1.SagaStatus`.
        status: i64,
        /// The version of its stream.
        version: i64,
        /// Its encoded state.
        state: Vec<u8>,
        /// When its first event was recorded, in nanoseconds.
        started_time: i64,
        /// When its last event was recorded.
        updated_time: i64,
        /// When it ended.
        ended_time: Option<i64>,
        /// When it has to be woken.
        due_time: Option<i64>,
        /// Why it was undone: an encoded `daybook.v1.StepRefusal`.
        refusal: Option<Vec<u8>>,
        /// The position of its first event.
        position: i64,
        /// The position of the event that the step without an answer follows from; none when there
        /// is no such step. Which step that is, the state says.
        step_position: Option<i64>,
        /// The version of the last event that a step follows from.
        step_version: i64,
        /// Its id.
        step_event_id: String,
        /// When it was recorded, in nanoseconds.
        step_time: i64,
    }

    /// A saga that is to be started.
    pub struct StartRow {
        key {
            /// Its stream.
            stream: String,
        }
        /// Its kind.
        kind: String,
        /// Its id.
        saga_id: String,
        /// The full name of the request that starts it.
        type_name: String,
        /// The encoded request, without its context.
        request: Vec<u8>,
        /// The id of the event that starts it.
        event_id: String,
        /// When that was recorded, in nanoseconds.
        event_time: i64,
        /// Its position.
        position: i64,
    }

    /// How many sagas there are.
    pub struct CountRow {
        key {
            /// The kind.
            kind: String,
            /// A number of `daybook.v1.SagaStatus`.
            status: i64,
        }
        /// How many.
        sagas: i64,
    }
}

/// An event as this projection sees it.
pub struct SagaEvent {
    /// An event of a saga.
    own: Option<Own>,
    /// An event that may start sagas of these kinds.
    starts: Vec<&'static dyn Kind>,
    name: String,
    schema: u32,
    bytes: Vec<u8>,
}

struct Own {
    kind: &'static dyn Kind,
    event: AnyEvent,
}

impl Own {
    fn is_started_by_others(&self) -> bool {
        !self.kind.started_by().is_empty()
    }
}

impl Projection for Sagas {
    const NAME: &'static str = "sagas";
    const VERSION: u32 = 4;
    const AGGREGATES: &'static [&'static str] = daybook_domain::SAGA_AGGREGATES;
    const SCHEMA: &'static str = "
        CREATE TABLE sagas (
            stream        TEXT NOT NULL UNIQUE,
            kind          TEXT NOT NULL,
            saga_id       TEXT NOT NULL,
            status        INTEGER NOT NULL,
            version       INTEGER NOT NULL,
            state         BLOB NOT NULL,
            started_time  INTEGER NOT NULL,
            updated_time  INTEGER NOT NULL,
            ended_time    INTEGER,
            due_time      INTEGER,
            refusal       BLOB,
            position      INTEGER NOT NULL,
            step_position INTEGER,
            step_version  INTEGER NOT NULL,
            step_event_id TEXT NOT NULL,
            step_time     INTEGER NOT NULL
        );
        CREATE INDEX sagas_by_kind_and_status ON sagas (kind, status, position);
        CREATE INDEX sagas_due ON sagas (due_time) WHERE due_time IS NOT NULL;
        CREATE INDEX sagas_with_step ON sagas (step_position) WHERE step_position IS NOT NULL;
        CREATE TABLE starts (
            stream     TEXT PRIMARY KEY,
            kind       TEXT NOT NULL,
            saga_id    TEXT NOT NULL,
            type_name  TEXT NOT NULL,
            request    BLOB NOT NULL,
            event_id   TEXT NOT NULL,
            event_time INTEGER NOT NULL,
            position   INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE INDEX starts_by_position ON starts (position);
        CREATE TABLE counts (
            kind   TEXT NOT NULL,
            status INTEGER NOT NULL,
            sagas  INTEGER NOT NULL,
            PRIMARY KEY (kind, status)
        ) WITHOUT ROWID;";
    type Tables = Tables;
    type Event = SagaEvent;

    fn decode(event: EncodedEvent<'_>) -> Result<SagaEvent, EventError> {
        let starts: Vec<_> =
            kind::all().filter(|kind| kind.started_by().contains(&event.aggregate_type)).collect();
        let (name, schema) = (event.name.to_owned(), event.version);
        let bytes = match starts.is_empty() {
            true => Vec::new(),
            false => event.bytes.to_vec(),
        };
        let own = kind::find(event.aggregate_type)
            .map(|kind| Ok::<_, EventError>(Own { kind, event: kind.decode(event)? }))
            .transpose()?;
        Ok(SagaEvent { own, starts, name, schema, bytes })
    }

    fn want(event: &Recorded<SagaEvent>, tables: &mut Tables) {
        if let Some(own) = &event.event.own {
            let stream = event.stream();
            if event.version > 1 {
                tables.sagas.want(stream);
            } else if own.is_started_by_others() {
                tables.starts.want(stream);
            }
        }
        for (kind, id, _) in started(event).unwrap_or_default() {
            let stream = stream_of(kind, &id);
            tables.sagas.want(stream.clone());
            tables.starts.want(stream);
        }
    }

    fn apply(event: &Recorded<SagaEvent>, tables: &mut Tables) -> Result<(), ApplyError> {
        if let Some(own) = &event.event.own {
            advance(event, own, tables)?;
        }
        for (kind, id, step) in started(event).map_err(ApplyError::failed)? {
            to_start(event, kind, id, step, tables)?;
        }
        Ok(())
    }
}

/// The stream of a saga.
fn stream_of(kind: &dyn Kind, id: &str) -> String {
    format!("{}-{id}", kind.name())
}

type Started = (&'static dyn Kind, String, Step);

/// The sagas that an event starts.
fn started(event: &Recorded<SagaEvent>) -> Result<Vec<Started>, String> {
    let foreign = Foreign {
        aggregate_type: event.aggregate_type,
        aggregate_id: &event.aggregate_id,
        name: &event.event.name,
        version: event.event.schema,
        bytes: &event.event.bytes,
    };
    let mut started = Vec::new();
    for kind in &event.event.starts {
        if let Some((id, step)) = kind.start(&foreign)? {
            started.push((*kind, id, step));
        }
    }
    Ok(started)
}

/// Notes a saga that is to be started, unless it has begun already: topics may come in any order.
fn to_start(
    event: &Recorded<SagaEvent>,
    kind: &'static dyn Kind,
    saga_id: String,
    step: Step,
    tables: &mut Tables,
) -> Result<(), ApplyError> {
    let stream = stream_of(kind, &saga_id);
    if tables.sagas.get(&stream)?.is_some() || tables.starts.get(&stream)?.is_some() {
        return Ok(());
    }
    tables.starts.put(StartRow {
        stream,
        kind: kind.name().to_owned(),
        saga_id,
        type_name: step.type_name.to_owned(),
        request: step.request,
        event_id: event.event_id.clone(),
        event_time: event.time_ns,
        position: event.position_i64(),
    });
    Ok(())
}

/// Folds an event of a saga: its state, and the step that it waits for.
fn advance(event: &Recorded<SagaEvent>, own: &Own, tables: &mut Tables) -> Result<(), ApplyError> {
    let stream = event.stream();
    // Before its first event there is no saga, so there is no row to look for.
    let before = match event.version {
        1 => None,
        _ => tables.sagas.get(&stream)?.cloned(),
    };
    if before.is_none() && own.is_started_by_others() {
        *tables.starts.edit(&stream)? = None;
    }
    let state = before.as_ref().map_or(&[][..], |saga| &saga.state);
    let folded =
        own.kind.fold(&event.aggregate_id, state, &own.event).map_err(ApplyError::failed)?;
    let counted = before.as_ref().map(|saga| saga.status);
    let mut saga = before.unwrap_or_else(|| SagaRow {
        stream,
        kind: own.kind.name().to_owned(),
        saga_id: event.aggregate_id.clone(),
        status: 0,
        version: 0,
        state: Vec::new(),
        started_time: event.time_ns,
        updated_time: 0,
        ended_time: None,
        due_time: None,
        refusal: None,
        position: event.position_i64(),
        step_position: None,
        step_version: 0,
        step_event_id: String::new(),
        step_time: 0,
    });
    match folded.awaited {
        Some(awaited) if awaited.version == event.version => {
            saga.step_position = Some(event.position_i64());
            saga.step_version = event.version_i64();
            saga.step_event_id.clone_from(&event.event_id);
            saga.step_time = event.time_ns;
        }
        // It has waited for this step since an earlier event.
        Some(awaited) if i64::try_from(awaited.version) == Ok(saga.step_version) => {}
        _ => saga.step_position = None,
    }
    saga.status = i64::from(i32::from(folded.status));
    saga.version = event.version_i64();
    saga.updated_time = event.time_ns;
    saga.due_time = folded.due_time;
    saga.refusal = folded.refusal.map(|refusal| refusal.encode_to_vec());
    saga.ended_time = has_ended(folded.status).then_some(event.time_ns);
    saga.state = folded.state;
    if counted != Some(saga.status) {
        if let Some(status) = counted {
            count(&saga.kind, status, -1, tables)?;
        }
        count(&saga.kind, saga.status, 1, tables)?;
    }
    tables.sagas.put(saga);
    Ok(())
}

/// Where a saga stands that has not ended.
pub(crate) const OPEN: [SagaStatus; 2] = [SagaStatus::Running, SagaStatus::Compensating];

/// Whether nothing more is going to happen.
pub(crate) fn has_ended(status: SagaStatus) -> bool {
    matches!(status, SagaStatus::Completed | SagaStatus::Compensated | SagaStatus::Failed)
}

/// Few rows, which stay in memory: they are not wanted beforehand.
fn count(kind: &str, status: i64, change: i64, tables: &mut Tables) -> Result<(), ApplyError> {
    let key = (kind.to_owned(), status);
    let slot = tables.counts.edit(&key)?;
    let (kind, status) = key;
    slot.get_or_insert(CountRow { kind, status, sagas: 0 }).sagas += change;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_saga_and_whatever_starts_one_is_followed() {
        let mut needed: Vec<_> = kind::all()
            .flat_map(|kind| std::iter::once(kind.name()).chain(kind.started_by().iter().copied()))
            .collect();
        needed.sort_unstable();
        needed.dedup();
        let mut followed = Sagas::AGGREGATES.to_vec();
        followed.sort_unstable();
        followed.dedup();
        assert_eq!(followed, needed);
        assert!(followed.contains(&"bank.transfer") && followed.contains(&"orders.order"));
    }
}
