//! What readers need to know of a RecordedEvent before they decode the event itself.

use bytes::Bytes;
use prost::encoding::{
    DecodeContext, WireType, check_wire_type, decode_key, decode_varint, skip_field,
};
use prost::{DecodeError, Message};
use prost_types::Timestamp;

/// The parts of a RecordedEvent that readers use. They are parts of the record: each is looked at for
/// every record, and few are kept.
#[derive(Debug, Default, PartialEq)]
struct Parts<'a> {
    event_id: &'a [u8],
    aggregate_type: &'a [u8],
    aggregate_id: &'a [u8],
    version: u64,
    position: u64,
    event_name: &'a [u8],
    event_version: u32,
    recorded_time: Option<Timestamp>,
    event: Option<Payload<'a>>,
    has_raw: bool,
}

/// The content of an Any.
#[derive(Debug, Default, PartialEq)]
struct Payload<'a> {
    type_url: &'a [u8],
    value: &'a [u8],
}

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
enum Malformed {
    #[error(transparent)]
    Field(#[from] DecodeError),
    #[error("a field is longer than what there is")]
    CutOff,
}

impl<'a> Parts<'a> {
    /// Takes a message as protobuf does: fields may come in any order, the last one counts, and what
    /// is not known is passed over.
    fn decode(mut rest: &'a [u8]) -> Result<Self, Malformed> {
        let mut parts = Self::default();
        while !rest.is_empty() {
            let (tag, kind) = decode_key(&mut rest)?;
            let rest = &mut rest;
            match tag {
                1 => parts.event_id = bytes(kind, rest)?,
                2 => parts.aggregate_type = bytes(kind, rest)?,
                3 => parts.aggregate_id = bytes(kind, rest)?,
                4 => parts.version = number(kind, rest)?,
                5 => parts.position = number(kind, rest)?,
                6 => parts.event_name = bytes(kind, rest)?,
                7 => parts.event_version = number(kind, rest)? as u32,
                8 => parts.recorded_time.get_or_insert_default().merge(bytes(kind, rest)?)?,
                10 => parts.event.get_or_insert_default().merge(bytes(kind, rest)?)?,
                11 => {
                    bytes(kind, rest)?;
                    parts.has_raw = true;
                }
                _ => skip_field(kind, tag, rest, DecodeContext::default())?,
            }
        }
        Ok(parts)
    }
}

impl<'a> Payload<'a> {
    fn merge(&mut self, mut rest: &'a [u8]) -> Result<(), Malformed> {
        while !rest.is_empty() {
            let (tag, kind) = decode_key(&mut rest)?;
            match tag {
                1 => self.type_url = bytes(kind, &mut rest)?,
                2 => self.value = bytes(kind, &mut rest)?,
                _ => skip_field(kind, tag, &mut rest, DecodeContext::default())?,
            }
        }
        Ok(())
    }
}

fn number(kind: WireType, rest: &mut &[u8]) -> Result<u64, Malformed> {
    check_wire_type(WireType::Varint, kind)?;
    Ok(decode_varint(rest)?)
}

fn bytes<'a>(kind: WireType, rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    check_wire_type(WireType::LengthDelimited, kind)?;
    let length = usize::try_from(decode_varint(rest)?).map_err(|_| Malformed::CutOff)?;
    let (field, after) = rest.split_at_checked(length).ok_or(Malformed::CutOff)?;
    *rest = after;
    Ok(field)
}

/// An event whose message is not decoded yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// The name of its stream: aggregate type, hyphen, aggregate id.
    stream: String,
    /// How much of that is the aggregate type.
    type_bytes: usize,
    event_id: Bytes,
    event_name: Bytes,
    type_url: Option<Bytes>,
    /// The version of its stream with this event, from 1.
    pub version: u64,
    /// The position in the log, from 1.
    pub position: u64,
    /// The version of the schema of its message.
    pub event_version: u32,
    /// When it was recorded.
    pub recorded_time: Option<Timestamp>,
    /// The encoded message; `None` for bytes of no registered aggregate.
    pub message: Option<Bytes>,
}

/// What a record is.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// An event of a stream.
    Event(Envelope),
    /// A position without an event.
    Watermark,
    /// Nothing of ours, for this reason.
    Strange(String),
}

impl Envelope {
    /// The name of its stream.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The type of its aggregate.
    pub fn aggregate_type(&self) -> &str {
        &self.stream[..self.type_bytes]
    }

    /// The id of its aggregate.
    pub fn aggregate_id(&self) -> &str {
        &self.stream[self.type_bytes + 1..]
    }

    /// The unique id of the event; `None` when it is no text.
    pub fn event_id(&self) -> Option<&str> {
        std::str::from_utf8(&self.event_id).ok()
    }

    /// The name of the event; `None` when it is no text.
    pub fn event_name(&self) -> Option<&str> {
        std::str::from_utf8(&self.event_name).ok()
    }

    /// The full name of the type of its message; of bytes of no registered aggregate, the name of the
    /// event. `None` when it is no text.
    pub(crate) fn type_name(&self) -> Option<&str> {
        let Some(type_url) = &self.type_url else { return self.event_name() };
        std::str::from_utf8(type_url).ok()?.rsplit('/').next()
    }
}

impl Content {
    /// Looks what a record is.
    pub(crate) fn of(record: &Bytes) -> Self {
        if record.is_empty() {
            return Self::Strange("the record is empty".to_owned());
        }
        let parts = match Parts::decode(record) {
            Ok(parts) => parts,
            Err(error) => return Self::Strange(format!("the record is no RecordedEvent: {error}")),
        };
        let has_payload = parts.event.is_some() || parts.has_raw;
        if parts.aggregate_type.is_empty() && parts.version == 0 && !has_payload {
            return match parts.position {
                0 => Self::Strange("the record is neither an event nor a watermark".to_owned()),
                _ => Self::Watermark,
            };
        }
        if parts.aggregate_type.is_empty() || parts.aggregate_id.is_empty() {
            return Self::Strange("the record names no stream".to_owned());
        }
        if parts.version == 0 || parts.position == 0 {
            return Self::Strange("the record has no version or no position".to_owned());
        }
        let texts =
            (std::str::from_utf8(parts.aggregate_type), std::str::from_utf8(parts.aggregate_id));
        let (Ok(aggregate_type), Ok(aggregate_id)) = texts else {
            return Self::Strange("the record has a text that is not UTF-8".to_owned());
        };
        let part = |bytes| record.slice_ref(bytes);
        let payload = parts.event.map(|payload| (part(payload.type_url), part(payload.value)));
        let (type_url, message) = payload.unzip();
        Self::Event(Envelope {
            stream: [aggregate_type, "-", aggregate_id].concat(),
            type_bytes: aggregate_type.len(),
            event_id: part(parts.event_id),
            event_name: part(parts.event_name),
            type_url,
            version: parts.version,
            position: parts.position,
            event_version: parts.event_version,
            recorded_time: parts.recorded_time,
            message,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What protobuf makes of the same bytes.
    #[derive(Clone, PartialEq, Message)]
    struct Expected {
        #[prost(bytes = "vec", tag = "1")]
        event_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        aggregate_type: Vec<u8>,
        #[prost(bytes = "vec", tag = "3")]
        aggregate_id: Vec<u8>,
        #[prost(uint64, tag = "4")]
        version: u64,
        #[prost(uint64, tag = "5")]
        position: u64,
        #[prost(bytes = "vec", tag = "6")]
        event_name: Vec<u8>,
        #[prost(uint32, tag = "7")]
        event_version: u32,
        #[prost(message, optional, tag = "8")]
        recorded_time: Option<Timestamp>,
        #[prost(message, optional, tag = "10")]
        event: Option<ExpectedPayload>,
        #[prost(bytes = "vec", optional, tag = "11")]
        raw: Option<Vec<u8>>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct ExpectedPayload {
        #[prost(bytes = "vec", tag = "1")]
        type_url: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }

    fn parts(expected: &Expected) -> Parts<'_> {
        Parts {
            event_id: &expected.event_id,
            aggregate_type: &expected.aggregate_type,
            aggregate_id: &expected.aggregate_id,
            version: expected.version,
            position: expected.position,
            event_name: &expected.event_name,
            event_version: expected.event_version,
            recorded_time: expected.recorded_time,
            event: expected
                .event
                .as_ref()
                .map(|payload| Payload { type_url: &payload.type_url, value: &payload.value }),
            has_raw: expected.raw.is_some(),
        }
    }

    /// A field of any number and kind, right or not.
    fn field() -> impl Strategy<Value = Vec<u8>> {
        let number = || any::<u64>().prop_map(|value| (0, varint(value)));
        let fixed = || any::<u64>().prop_map(|value| (1, value.to_le_bytes().to_vec()));
        let bytes =
            || prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| (2, with_length(&bytes)));
        let time = (any::<i64>(), any::<i32>()).prop_map(|(seconds, nanos)| {
            (2, with_length(&Timestamp { seconds, nanos }.encode_to_vec()))
        });
        let payload = prop::collection::vec((1_u64..4, bytes()), 0..3).prop_map(|fields| {
            let fields = fields.into_iter().map(|(tag, (kind, value))| key(tag, kind, &value));
            (2, with_length(&fields.collect::<Vec<_>>().concat()))
        });
        let right = (1_u64..13).prop_flat_map(move |tag| {
            let value = match tag {
                4 | 5 | 7 => number().boxed(),
                8 => time.clone().boxed(),
                10 => payload.clone().boxed(),
                12 => prop_oneof![number(), fixed(), bytes()].boxed(),
                _ => bytes().boxed(),
            };
            value.prop_map(move |(kind, value)| key(tag, kind, &value))
        });
        let any_kind = (0_u64..13, prop_oneof![number(), fixed(), bytes()])
            .prop_map(|(tag, (kind, value))| key(tag, kind, &value));
        prop_oneof![30 => right, 1 => any_kind]
    }

    fn key(tag: u64, kind: u64, value: &[u8]) -> Vec<u8> {
        [varint(tag << 3 | kind).as_slice(), value].concat()
    }

    fn with_length(bytes: &[u8]) -> Vec<u8> {
        [varint(bytes.len() as u64).as_slice(), bytes].concat()
    }

    fn varint(value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        prost::encoding::encode_varint(value, &mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn parts_are_what_protobuf_says(
            fields in prop::collection::vec(field(), 0..12),
            cut in prop::option::weighted(0.2, 0_usize..200),
        ) {
            let mut record = fields.concat();
            record.truncate(cut.unwrap_or(usize::MAX));
            let expected = Expected::decode(record.as_slice());
            match (Parts::decode(&record), &expected) {
                (Ok(found), Ok(expected)) => prop_assert_eq!(found, parts(expected)),
                (Err(_), Err(_)) => {}
                (found, expected) => prop_assert!(false, "{found:?} instead of {expected:?}"),
            }
        }

        #[test]
        fn any_bytes_are_taken_as_protobuf_takes_them(record: Vec<u8>) {
            let expected = Expected::decode(record.as_slice());
            prop_assert_eq!(Parts::decode(&record).is_ok(), expected.is_ok());
        }
    }
}
