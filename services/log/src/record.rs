//! Records: an event in the one encoding in which it is stored, published and hashed.

use bytes::Bytes;
use daybook_contract::contract::Claim;
use daybook_contract::daybook::v1::recorded_event::Payload as RecordedPayload;
use daybook_contract::daybook::v1::{EventMetadata, RawPayload, RecordedEvent};
use daybook_kernel::StreamName;
use prost::Message;
use prost_types::{Any, Timestamp};
use sha2::{Digest, Sha256};

use crate::Error;

/// An event that is not recorded yet.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// The name, in the past tense.
    pub name: String,
    /// The version of its schema, from 1.
    pub version: u32,
    /// The fact itself.
    pub payload: Payload,
    /// What it claims for its stream, and what it gives up, in this order.
    pub claims: Vec<Claim>,
}

/// What an event says.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// A protobuf message.
    Message {
        /// `type.googleapis.com/` and the full name of the message.
        type_url: String,
        /// The encoded message.
        value: Vec<u8>,
    },
    /// Anything else.
    Raw {
        /// The media type.
        content_type: String,
        /// The bytes.
        data: Bytes,
    },
}

/// A stored event: its position and its encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The position in the log, from 1.
    pub position: u64,
    /// The encoded RecordedEvent, exactly as it was appended.
    pub bytes: Bytes,
}

/// What surrounds an event when it is recorded.
pub(crate) struct Envelope<'a> {
    pub event_id: String,
    pub stream: &'a StreamName,
    pub version: u64,
    pub position: u64,
    pub time: Timestamp,
    pub metadata: &'a EventMetadata,
}

/// Encodes an event, once and for all.
pub(crate) fn encode(event: NewEvent, envelope: Envelope<'_>) -> Bytes {
    let payload = match event.payload {
        Payload::Message { type_url, value } => RecordedPayload::Event(Any { type_url, value }),
        Payload::Raw { content_type, data } => {
            RecordedPayload::Raw(RawPayload { content_type, data })
        }
    };
    RecordedEvent {
        event_id: envelope.event_id,
        aggregate_type: envelope.stream.category().to_owned(),
        aggregate_id: envelope.stream.id().to_owned(),
        version: envelope.version,
        position: envelope.position,
        event_name: event.name,
        event_version: event.version,
        recorded_time: Some(envelope.time),
        metadata: Some(envelope.metadata.clone()),
        payload: Some(payload),
    }
    .encode_to_vec()
    .into()
}

/// The leaf hash of RFC 6962: SHA-256 of a zero byte and the record.
pub fn leaf_hash(record: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(record);
    hash.finalize().into()
}

impl Record {
    /// Takes a record from storage, if it is what was once written.
    pub(crate) fn checked(position: u64, bytes: Bytes, leaf: &[u8]) -> Result<Self, Error> {
        if leaf_hash(&bytes) != leaf {
            return Err(Error::Damaged {
                position,
                stream: stream_of(&bytes),
                problem: "it does not match its leaf hash".to_owned(),
            });
        }
        Ok(Self { position, bytes })
    }

    /// Decodes the record.
    pub fn decode(&self) -> Result<RecordedEvent, Error> {
        RecordedEvent::decode(self.bytes.clone()).map_err(|error| Error::Damaged {
            position: self.position,
            stream: String::new(),
            problem: error.to_string(),
        })
    }
}

/// The name of the stream in a record that may be damaged.
fn stream_of(bytes: &[u8]) -> String {
    RecordedEvent::decode(bytes)
        .map(|event| stream_name(&event))
        .unwrap_or_else(|_| "unknown".to_owned())
}

/// The name of the stream of an event.
pub fn stream_name(event: &RecordedEvent) -> String {
    format!("{}-{}", event.aggregate_type, event.aggregate_id)
}
