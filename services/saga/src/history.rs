//! What a saga has done, from the events of its stream.

use daybook_contract::daybook::v1::{RecordedEvent, SagaStep, recorded_event};
use daybook_kernel::Awaited;
use daybook_query::runtime::EncodedEvent;
use daybook_query::time::timestamp;
use prost::Message;
use prost::bytes::Bytes;

use crate::projection::SagaRow;
use crate::{ids, kind};

/// The steps of a saga in their order, with their answers; from all events of its stream, encoded.
pub(crate) fn steps(saga: &SagaRow, events: &[Bytes]) -> Result<Vec<SagaStep>, String> {
    let kind = kind::find(&saga.kind).ok_or("there is no such kind of saga")?;
    if events.len() as i64 != saga.version {
        return Err(format!("the log has {} of {} events", events.len(), saga.version));
    }
    let (mut state, mut steps) = (Vec::new(), Vec::<SagaStep>::new());
    for bytes in events {
        let record = RecordedEvent::decode(bytes.clone()).map_err(|error| error.to_string())?;
        let Some(recorded_event::Payload::Event(any)) = record.payload else {
            return Err(format!("version {} is no event of a saga", record.version));
        };
        let event = kind.decode(EncodedEvent {
            aggregate_type: &saga.kind,
            name: &record.event_name,
            version: record.event_version,
            bytes: any.value.into(),
        });
        let event = event.map_err(|error| error.to_string())?;
        if let Some(answer) = kind.answered(&event) {
            let answered = |step: &&mut SagaStep| step.version == answer.version;
            if let Some(step) = steps.iter_mut().find(answered) {
                step.answer = Some(answer.clone());
                step.answer_version = record.version;
                step.answer_time = record.recorded_time;
            }
        }
        let folded = kind.fold(&saga.saga_id, &state, &event)?;
        if let Some(awaited) = folded.awaited.filter(|it| it.version == record.version) {
            steps.push(SagaStep {
                cause_event_name: record.event_name,
                cause_event_id: record.event_id,
                due_time: record.recorded_time,
                ..step(saga, awaited)
            });
        }
        state = folded.state;
    }
    Ok(steps)
}

/// The step without an answer, from the row of the saga alone.
pub(crate) fn open_step(saga: &SagaRow) -> Option<SagaStep> {
    let awaited = kind::find(&saga.kind)?.awaited(&saga.saga_id, &saga.state)?;
    Some(SagaStep {
        cause_event_id: saga.step_event_id.clone(),
        due_time: Some(timestamp(saga.step_time)),
        ..step(saga, awaited)
    })
}

fn step(saga: &SagaRow, awaited: Awaited) -> SagaStep {
    let Awaited { version, step } = awaited;
    SagaStep {
        version,
        index: 0,
        command: step.type_name.to_owned(),
        target_stream: format!("{}-{}", step.aggregate, step.aggregate_id),
        request_id: ids::step(&saga.stream, version, 0).to_string(),
        ..SagaStep::default()
    }
}
