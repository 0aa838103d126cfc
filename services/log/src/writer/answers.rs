//! Answers to requests: what is kept of them, and how they are given once more.

use bytes::Bytes;
use daybook_contract::daybook::v1::execute_stream_response::Outcome as StoredOutcome;
use daybook_contract::daybook::v1::{CommandReceipt, ExecuteStreamResponse};
use foldhash::HashMap;
use futures::future::join_all;
use prost::Message as _;
use uuid::Uuid;

use crate::limits::MAX_EVENTS_PER_SUBMISSION;
use crate::log::Shared;
use crate::record::stream_name;
use crate::storage::{Direction, RequestRow, StorageReader, StoredAnswer};
use crate::{Answer, Error, Receipt, Record, RequestKey};

/// The answer to an id that was used for something else.
pub(super) fn reused(request: &RequestKey) -> Error {
    Error::RequestIdReused { request_id: request.id.to_string() }
}

/// A first answer, given once more.
pub(super) fn replayed(outcome: Result<Receipt, Error>) -> Result<Receipt, Error> {
    match outcome {
        Ok(receipt) => Ok(Receipt { replayed: true, ..receipt }),
        Err(Error::Refused { failure, .. }) => Err(Error::Refused { failure, replayed: true }),
        other => other,
    }
}

/// What is kept of an answer under the request id; `None` when a retry is to be decided anew.
pub(super) fn to_store(outcome: &Result<Receipt, Error>) -> Option<StoredAnswer> {
    let kept = match outcome {
        Ok(receipt) if !receipt.event_ids.is_empty() => {
            return Some(StoredAnswer::Recorded(receipt.position));
        }
        Ok(receipt) => StoredOutcome::Receipt(CommandReceipt {
            aggregate_id: receipt.aggregate_id.clone(),
            version: receipt.version,
            position: receipt.position,
            event_ids: Vec::new(),
            replayed: true,
            recorded_time: Some(receipt.recorded_time),
        }),
        Err(Error::Refused { failure, .. }) => StoredOutcome::Failure(failure.as_ref().clone()),
        Err(_) => return None,
    };
    let encoded = ExecuteStreamResponse { outcome: Some(kept) }.encode_to_vec();
    Some(StoredAnswer::Other(encoded.into()))
}

/// The first answer to a request, from what is stored.
pub(super) async fn stored_answer(
    reader: &dyn StorageReader,
    row: &RequestRow,
) -> Result<Receipt, Error> {
    match &row.answer {
        StoredAnswer::Recorded(position) => {
            let most = MAX_EVENTS_PER_SUBMISSION;
            let records = reader.read_all(*position, Direction::Backward, most).await?;
            receipt(&row.id, *position, records)
        }
        StoredAnswer::Other(bytes) => kept(bytes),
    }
}

/// The first answer to a request, if what it is made of is in memory.
pub(super) fn recent_answer(shared: &Shared, row: &RequestRow) -> Option<Told> {
    let outcome = match &row.answer {
        StoredAnswer::Recorded(position) => {
            receipt(&row.id, *position, shared.recent_until(*position)?)
        }
        StoredAnswer::Other(bytes) => kept(bytes),
    };
    Some(told(row.fingerprint, outcome))
}

/// What a decision is told of a request, or why that cannot be read.
pub(super) type Told = Result<Answer, Error>;

/// The answer to a request with this fingerprint.
pub(super) fn told(fingerprint: [u8; 16], outcome: Result<Receipt, Error>) -> Told {
    let outcome = match outcome {
        Ok(receipt) => Ok(receipt),
        Err(Error::Refused { failure, .. }) => Err(failure),
        Err(error) => return Err(error),
    };
    Ok(Answer { fingerprint, outcome })
}

/// The answers to requests, from what is stored.
pub(super) async fn stored_answers(
    reader: &dyn StorageReader,
    rows: impl Iterator<Item = &RequestRow>,
) -> HashMap<Uuid, Told> {
    let answers =
        rows.map(
            |row| async move { (row.id, told(row.fingerprint, stored_answer(reader, row).await)) },
        );
    join_all(answers).await.into_iter().collect()
}

/// The answer that was kept as it is.
fn kept(bytes: &Bytes) -> Result<Receipt, Error> {
    let decoded = ExecuteStreamResponse::decode(bytes.clone());
    match decoded.ok().and_then(|stored| stored.outcome) {
        Some(StoredOutcome::Receipt(receipt)) => Ok(Receipt {
            version: receipt.version,
            position: receipt.position,
            aggregate_id: receipt.aggregate_id,
            event_ids: Vec::new(),
            recorded_time: receipt.recorded_time.unwrap_or_default(),
            replayed: true,
        }),
        Some(StoredOutcome::Failure(failure)) => {
            Err(Error::Refused { failure: Box::new(failure), replayed: true })
        }
        None => Err(Error::Read { problem: "a stored answer is damaged".to_owned() }),
    }
}

/// The receipt of a request from the records up to its last, newest first: the events of one
/// request follow one another and carry its id.
fn receipt(id: &Uuid, position: u64, records: Vec<Record>) -> Result<Receipt, Error> {
    let mut events = Vec::new();
    for record in &records {
        let event = record.decode()?;
        let by = event.metadata.as_ref().map_or("", |metadata| metadata.request_id.as_str());
        if by.parse() != Ok(*id) {
            break;
        }
        events.push(event);
    }
    let Some(last) = events.first() else {
        let problem = "it does not carry the id of the request that recorded it".to_owned();
        return Err(Error::Damaged { position, stream: String::new(), problem });
    };
    let ids = events.iter().rev().map(|event| event.event_id.parse());
    let event_ids = ids.collect::<Result<_, uuid::Error>>().map_err(|error| {
        let problem = format!("the id of an event of its request is not a UUID: {error}");
        Error::Damaged { position, stream: stream_name(last), problem }
    })?;
    Ok(Receipt {
        version: last.version,
        position,
        aggregate_id: last.aggregate_id.clone(),
        event_ids,
        recorded_time: last.recorded_time.unwrap_or_default(),
        replayed: true,
    })
}
