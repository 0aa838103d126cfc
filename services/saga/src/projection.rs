//! What the runtime remembers, as a projection: every saga with its state, its steps and their
//! answers, and the sagas that are to be started. All of it follows from events, so that it is the
//! same after a crash, a rebuild, and in a second process.

use daybook_contract::contract::EventError;
use daybook_contract::daybook::v1::{SagaStatus, StepAnswer};
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
        /// All their steps.
        steps: StepRow in "steps",
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
        /// How many steps have no answer.
        open_steps: i64,
    }

    /// A step.
    pub struct StepRow {
        key {
            /// The stream of the saga.
            stream: String,
            /// The version of that stream with the event that the step follows from.
            version: i64,
            /// Which of the steps that follow from it.
            number: i64,
        }
        /// The name of that event.
        event_name: String,
        /// Its id.
        event_id: String,
        /// When it was recorded, in nanoseconds.
        event_time: i64,
        /// Its position.
        position: i64,
        /// The aggregate that the command goes to.
        aggregate: String,
        /// Its id.
        aggregate_id: String,
        /// The full name of the request.
        type_name: String,
        /// The encoded request, without its context.
        request: Vec<u8>,
        /// 1 as long as there is no answer, then 0.
        is_open: i64,
        /// An encoded `daybook.v1.StepAnswer`.
        answer: Option<Vec<u8>>,
        /// The version of the saga's stream with the answer.
        answer_version: Option<i64>,
        /// When that was recorded.
        answer_time: Option<i64>,
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

/// The numbers of `daybook.v1.SagaStatus`.
const STATUSES: std::ops::RangeInclusive<i64> = 1..=5;

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

impl Projection for Sagas {
    const NAME: &'static str = "sagas";
    const VERSION: u32 = 3;
    const AGGREGATES: &'static [&'static str] = daybook_domain::SAGA_AGGREGATES;
    const SCHEMA: &'static str = "
        CREATE TABLE sagas (
            stream       TEXT PRIMARY KEY,
            kind         TEXT NOT NULL,
            saga_id      TEXT NOT NULL,
            status       INTEGER NOT NULL,
            version      INTEGER NOT NULL,
            state        BLOB NOT NULL,
            started_time INTEGER NOT NULL,
            updated_time INTEGER NOT NULL,
            ended_time   INTEGER,
            due_time     INTEGER,
            refusal      BLOB,
            position     INTEGER NOT NULL,
            open_steps   INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE INDEX sagas_by_position ON sagas (position);
        CREATE INDEX sagas_by_kind ON sagas (kind, position);
        CREATE INDEX sagas_by_status ON sagas (status, position);
        CREATE INDEX sagas_by_kind_and_status ON sagas (kind, status, position);
        CREATE INDEX sagas_open ON sagas (position) WHERE ended_time IS NULL;
        CREATE INDEX sagas_open_by_kind ON sagas (kind, position, started_time)
            WHERE ended_time IS NULL;
        CREATE INDEX sagas_due ON sagas (due_time) WHERE due_time IS NOT NULL;
        CREATE TABLE steps (
            stream         TEXT NOT NULL,
            version        INTEGER NOT NULL,
            number         INTEGER NOT NULL,
            event_name     TEXT NOT NULL,
            event_id       TEXT NOT NULL,
            event_time     INTEGER NOT NULL,
            position       INTEGER NOT NULL,
            aggregate      TEXT NOT NULL,
            aggregate_id   TEXT NOT NULL,
            type_name      TEXT NOT NULL,
            request        BLOB NOT NULL,
            is_open        INTEGER NOT NULL,
            answer         BLOB,
            answer_version INTEGER,
            answer_time    INTEGER,
            PRIMARY KEY (stream, version, number)
        ) WITHOUT ROWID;
        CREATE INDEX steps_open ON steps (position) WHERE is_open = 1;
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
            if event.version == 1 {
                tables.starts.want(stream.clone());
            }
            if let Some(answer) = own.kind.answered(&own.event) {
                tables.steps.want(step_key(&stream, answer));
            }
            tables.sagas.want(stream);
            for status in STATUSES {
                tables.counts.want((own.kind.name().to_owned(), status));
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

fn step_key(stream: &str, answer: &StepAnswer) -> (String, i64, i64) {
    (stream.to_owned(), i64::try_from(answer.version).unwrap_or(i64::MAX), answer.index.into())
}

type Started = (&'static dyn Kind, String, Step);

/// The sagas that an event starts.
fn started(event: &Recorded<SagaEvent>) -> Result<Vec<Started>, String> {
    let foreign = Foreign {
        aggregate_type: &event.aggregate_type,
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

/// Folds an event of a saga: its state, the step that it answers, and the steps that follow.
fn advance(event: &Recorded<SagaEvent>, own: &Own, tables: &mut Tables) -> Result<(), ApplyError> {
    let stream = event.stream();
    if event.version == 1 {
        *tables.starts.edit(&stream)? = None;
    }
    let before = tables.sagas.get(&stream)?.cloned();
    let state = before.as_ref().map_or(&[][..], |saga| &saga.state);
    let folded =
        own.kind.fold(&event.aggregate_id, state, &own.event).map_err(ApplyError::failed)?;
    let mut saga = before.clone().unwrap_or_else(|| SagaRow {
        stream: stream.clone(),
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
        open_steps: 0,
    });
    if let Some(answer) = own.kind.answered(&own.event) {
        saga.open_steps -= answered(event, &stream, answer, tables)?;
    }
    if let Some(awaited) = folded.awaited.filter(|awaited| awaited.version == event.version) {
        saga.open_steps += 1;
        tables.steps.put(new_step(event, &stream, awaited.step));
    }
    saga.status = i64::from(i32::from(folded.status));
    saga.version = event.version_i64();
    saga.updated_time = event.time_ns;
    saga.due_time = folded.due_time;
    saga.refusal = folded.refusal.map(|refusal| refusal.encode_to_vec());
    saga.ended_time = has_ended(folded.status).then_some(event.time_ns);
    saga.state = folded.state;
    count(before.as_ref(), -1, tables)?;
    count(Some(&saga), 1, tables)?;
    tables.sagas.put(saga);
    Ok(())
}

/// Closes the step with this answer, and says how many steps that were.
fn answered(
    event: &Recorded<SagaEvent>,
    stream: &str,
    answer: &StepAnswer,
    tables: &mut Tables,
) -> Result<i64, ApplyError> {
    let Some(step) = tables.steps.edit(&step_key(stream, answer))? else {
        return Err(ApplyError::failed(format!(
            "there is no step {} of version {} to answer",
            answer.index, answer.version
        )));
    };
    let was_open = std::mem::replace(&mut step.is_open, 0);
    step.answer = Some(answer.encode_to_vec());
    step.answer_version = Some(event.version_i64());
    step.answer_time = Some(event.time_ns);
    Ok(was_open)
}

fn new_step(event: &Recorded<SagaEvent>, stream: &str, step: Step) -> StepRow {
    StepRow {
        stream: stream.to_owned(),
        version: event.version_i64(),
        number: 0,
        event_name: event.event.name.clone(),
        event_id: event.event_id.clone(),
        event_time: event.time_ns,
        position: event.position_i64(),
        aggregate: step.aggregate.to_owned(),
        aggregate_id: step.aggregate_id,
        type_name: step.type_name.to_owned(),
        request: step.request,
        is_open: 1,
        answer: None,
        answer_version: None,
        answer_time: None,
    }
}

/// Whether nothing more is going to happen.
pub(crate) fn has_ended(status: SagaStatus) -> bool {
    matches!(status, SagaStatus::Completed | SagaStatus::Compensated | SagaStatus::Failed)
}

fn count(saga: Option<&SagaRow>, change: i64, tables: &mut Tables) -> Result<(), ApplyError> {
    let Some(saga) = saga else { return Ok(()) };
    let key = (saga.kind.clone(), saga.status);
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
