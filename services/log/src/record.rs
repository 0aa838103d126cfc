//! Records: an event in the one encoding in which it is stored, published and hashed.

use std::borrow::Cow;

use bytes::Bytes;
use daybook_contract::contract::Claim;
use daybook_contract::daybook::v1::{EventMetadata, RecordedEvent};
use daybook_kernel::StreamName;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use prost::{Message, length_delimiter_len};
use prost_types::Timestamp;
use sha2::{Digest, Sha256};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::Error;

/// An event that is not recorded yet.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// The name, in the past tense.
    pub name: Cow<'static, str>,
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
        type_url: Cow<'static, str>,
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
    pub event_id: Uuid,
    pub stream: &'a StreamName,
    pub version: u64,
    pub position: u64,
    pub time: Timestamp,
    pub metadata: &'a EventMetadata,
}

/// Encodes an event, once and for all: the bytes that prost makes of the RecordedEvent, without
/// copies of its parts.
pub(crate) fn encode(event: &NewEvent, envelope: &Envelope<'_>) -> Bytes {
    let Envelope { event_id, stream, version, position, time, metadata } = envelope;
    let mut event_id_text = [0; Hyphenated::LENGTH];
    let event_id = event_id.hyphenated().encode_lower(&mut event_id_text);
    let EventMetadata { actor, correlation_id, causation_id, request_id } = metadata;
    let time = [(1, number(time.seconds)), (2, number(time.nanos.into()))];
    let metadata = [
        (1, text(actor)),
        (2, text(correlation_id)),
        (3, text(causation_id)),
        (4, text(request_id)),
    ];
    let (payload_tag, payload) = match &event.payload {
        Payload::Message { type_url, value } => {
            (10, [(1, text(type_url)), (2, Field::Bytes(value))])
        }
        Payload::Raw { content_type, data } => {
            (11, [(1, text(content_type)), (2, Field::Bytes(data))])
        }
    };
    let record = [
        (1, text(event_id)),
        (2, text(stream.category())),
        (3, text(stream.id())),
        (4, Field::Number(*version)),
        (5, Field::Number(*position)),
        (6, text(&event.name)),
        (7, Field::Number(event.version.into())),
        (8, Field::Message(&time)),
        (9, Field::Message(&metadata)),
        (payload_tag, Field::Message(&payload)),
    ];
    let mut bytes = Vec::with_capacity(length(&record));
    write(&record, &mut bytes);
    bytes.into()
}

/// The value of a field of a message.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// The fields of a message, by tag.
    Message(&'a [(u32, Field<'a>)]),
}

/// Signed numbers are written as unsigned ones of 64 bits.
fn number(number: i64) -> Field<'static> {
    Field::Number(number.cast_unsigned())
}

fn text(text: &str) -> Field<'_> {
    Field::Bytes(text.as_bytes())
}

impl Field<'_> {
    /// What is zero or empty is left out; a message never is.
    fn is_left_out(&self) -> bool {
        match self {
            Self::Number(number) => *number == 0,
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::Message(_) => false,
        }
    }
}

/// How many bytes [`write`] adds.
fn length(fields: &[(u32, Field<'_>)]) -> usize {
    let written = fields.iter().filter(|(_, field)| !field.is_left_out());
    let lengths = written.map(|(tag, field)| {
        let delimited = |length: usize| length_delimiter_len(length) + length;
        let length = match field {
            Field::Number(number) => encoded_len_varint(*number),
            Field::Bytes(bytes) => delimited(bytes.len()),
            Field::Message(fields) => delimited(length(fields)),
        };
        key_len(*tag) + length
    });
    lengths.sum()
}

/// Writes the fields of a message.
fn write(fields: &[(u32, Field<'_>)], to: &mut Vec<u8>) {
    for (tag, field) in fields.iter().filter(|(_, field)| !field.is_left_out()) {
        match field {
            Field::Number(number) => {
                encode_key(*tag, WireType::Varint, to);
                encode_varint(*number, to);
            }
            Field::Bytes(bytes) => {
                encode_key(*tag, WireType::LengthDelimited, to);
                encode_varint(bytes.len() as u64, to);
                to.extend_from_slice(bytes);
            }
            Field::Message(fields) => {
                encode_key(*tag, WireType::LengthDelimited, to);
                encode_varint(length(fields) as u64, to);
                write(fields, to);
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use daybook_contract::daybook::v1::RawPayload;
    use daybook_contract::daybook::v1::recorded_event::Payload as RecordedPayload;
    use proptest::prelude::*;
    use prost_types::Any;

    use super::*;

    /// The record as prost makes it.
    fn by_prost(event: NewEvent, envelope: &Envelope<'_>) -> Vec<u8> {
        let payload = match event.payload {
            Payload::Message { type_url, value } => {
                RecordedPayload::Event(Any { type_url: type_url.into(), value })
            }
            Payload::Raw { content_type, data } => {
                RecordedPayload::Raw(RawPayload { content_type, data })
            }
        };
        RecordedEvent {
            event_id: envelope.event_id.to_string(),
            aggregate_type: envelope.stream.category().to_owned(),
            aggregate_id: envelope.stream.id().to_owned(),
            version: envelope.version,
            position: envelope.position,
            event_name: event.name.into(),
            event_version: event.version,
            recorded_time: Some(envelope.time),
            metadata: Some(envelope.metadata.clone()),
            payload: Some(payload),
        }
        .encode_to_vec()
    }

    /// Texts, empty and longer than a length of one byte among them.
    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![Just(String::new()), ".{0,20}", ".{100,300}"]
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(Vec::new()),
            prop::collection::vec(any::<u8>(), 0..300),
            Just(vec![7; 20_000]),
        ]
    }

    fn payloads() -> impl Strategy<Value = Payload> {
        prop_oneof![
            (texts(), bytes()).prop_map(|(type_url, value)| {
                let type_url = type_url.into();
                Payload::Message { type_url, value }
            }),
            (texts(), bytes()).prop_map(|(content_type, data)| {
                let data = data.into();
                Payload::Raw { content_type, data }
            }),
        ]
    }

    fn numbers() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), 1..300_u64, any::<u64>()]
    }

    fn times() -> impl Strategy<Value = Timestamp> {
        let seconds = prop_oneof![Just(0), -300..300_i64, any::<i64>()];
        let nanos = prop_oneof![Just(0), any::<i32>()];
        (seconds, nanos).prop_map(|(seconds, nanos)| Timestamp { seconds, nanos })
    }

    fn metadata() -> impl Strategy<Value = EventMetadata> {
        let texts = (texts(), texts(), texts(), texts());
        texts.prop_map(|(actor, correlation_id, causation_id, request_id)| EventMetadata {
            actor,
            correlation_id,
            causation_id,
            request_id,
        })
    }

    fn streams() -> impl Strategy<Value = StreamName> {
        ("[a-z0-9._]{1,63}", "[A-Za-z0-9._~-]{1,64}")
            .prop_map(|(category, id)| StreamName::new(&category, &id).unwrap())
    }

    proptest! {
        #[test]
        fn a_record_is_what_prost_makes_of_it(
            (name, version, payload) in (texts(), any::<u32>(), payloads()),
            (event_id, stream, metadata) in (any::<u128>(), streams(), metadata()),
            (stream_version, position, time) in (numbers(), numbers(), times()),
            is_zero in any::<bool>(),
        ) {
            let version = if is_zero { 0 } else { version };
            let event = NewEvent { name: name.into(), version, payload, claims: Vec::new() };
            let (event_id, stream, metadata) = (Uuid::from_u128(event_id), &stream, &metadata);
            let version = stream_version;
            let envelope = Envelope { event_id, stream, version, position, time, metadata };
            prop_assert_eq!(encode(&event, &envelope), by_prost(event, &envelope));
        }
    }
}
