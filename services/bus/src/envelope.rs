//! What readers need to know of a RecordedEvent before they decode the event itself.

use bytes::Bytes;
use prost::encoding::{
    DecodeContext, WireType, check_wire_type, decode_key, decode_varint, skip_field,
};
use prost::{DecodeError, Message};
use prost_types::Timestamp;

/// The parts of a RecordedEvent that readers use: slices of the record, which cost nothing where a
/// part is not kept.
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

impl<'a> Parts<'a> {
    /// Takes the fields as protobuf does: in any order, the last of several (messages are merged),
    /// and not those that are unknown.
    fn decode(record: &'a [u8]) -> Result<Self, String> {
        let mut parts = Self::default();
        fields(record, |tag, wire_type, rest| {
            match tag {
                1 => parts.event_id = length_delimited(wire_type, rest)?,
                2 => parts.aggregate_type = length_delimited(wire_type, rest)?,
                3 => parts.aggregate_id = length_delimited(wire_type, rest)?,
                4 => parts.version = varint(wire_type, rest)?,
                5 => parts.position = varint(wire_type, rest)?,
                6 => parts.event_name = length_delimited(wire_type, rest)?,
                7 => parts.event_version = varint(wire_type, rest)? as u32,
                8 => {
                    let time = length_delimited(wire_type, rest)?;
                    parts.recorded_time.get_or_insert_default().merge(time).map_err(text)?;
                }
                // One of these two, the last one.
                10 => {
                    let payload = length_delimited(wire_type, rest)?;
                    parts.event.get_or_insert_default().merge(payload)?;
                    parts.has_raw = false;
                }
                11 => {
                    length_delimited(wire_type, rest)?;
                    (parts.event, parts.has_raw) = (None, true);
                }
                _ => skip_field(wire_type, tag, rest, DecodeContext::default()).map_err(text)?,
            }
            Ok(())
        })?;
        Ok(parts)
    }
}

impl<'a> Payload<'a> {
    fn merge(&mut self, message: &'a [u8]) -> Result<(), String> {
        fields(message, |tag, wire_type, rest| {
            match tag {
                1 => self.type_url = length_delimited(wire_type, rest)?,
                2 => self.value = length_delimited(wire_type, rest)?,
                _ => skip_field(wire_type, tag, rest, DecodeContext::default()).map_err(text)?,
            }
            Ok(())
        })
    }
}

/// Takes one field after the other, each from what is left of a message.
fn fields<'a>(
    mut rest: &'a [u8],
    mut take: impl FnMut(u32, WireType, &mut &'a [u8]) -> Result<(), String>,
) -> Result<(), String> {
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest).map_err(text)?;
        take(tag, wire_type, &mut rest).map_err(|problem| format!("field {tag}: {problem}"))?;
    }
    Ok(())
}

fn varint(wire_type: WireType, rest: &mut &[u8]) -> Result<u64, String> {
    check_wire_type(WireType::Varint, wire_type).map_err(text)?;
    decode_varint(rest).map_err(text)
}

fn length_delimited<'a>(wire_type: WireType, rest: &mut &'a [u8]) -> Result<&'a [u8], String> {
    check_wire_type(WireType::LengthDelimited, wire_type).map_err(text)?;
    let length = decode_varint(rest).map_err(text)?;
    let cut = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let (field, after) =
        cut.ok_or_else(|| format!("{length} bytes long, where {} are left", rest.len()))?;
    *rest = after;
    Ok(field)
}

fn text(error: DecodeError) -> String {
    error.to_string()
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
    use daybook_contract::daybook::v1::{RawPayload, RecordedEvent, recorded_event};
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
        #[prost(oneof = "ExpectedContent", tags = "10, 11")]
        content: Option<ExpectedContent>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    enum ExpectedContent {
        #[prost(message, tag = "10")]
        Event(ExpectedPayload),
        #[prost(bytes, tag = "11")]
        Raw(Vec<u8>),
    }

    #[derive(Clone, PartialEq, Message)]
    struct ExpectedPayload {
        #[prost(bytes = "vec", tag = "1")]
        type_url: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }

    fn parts(expected: &Expected) -> Parts<'_> {
        let event = match &expected.content {
            Some(ExpectedContent::Event(payload)) => Some(payload),
            Some(ExpectedContent::Raw(_)) | None => None,
        };
        Parts {
            event_id: &expected.event_id,
            aggregate_type: &expected.aggregate_type,
            aggregate_id: &expected.aggregate_id,
            version: expected.version,
            position: expected.position,
            event_name: &expected.event_name,
            event_version: expected.event_version,
            recorded_time: expected.recorded_time,
            event: event
                .map(|payload| Payload { type_url: &payload.type_url, value: &payload.value }),
            has_raw: matches!(expected.content, Some(ExpectedContent::Raw(_))),
        }
    }

    fn check(record: &[u8]) -> Result<(), TestCaseError> {
        match (Parts::decode(record), Expected::decode(record)) {
            (Ok(found), Ok(expected)) => prop_assert_eq!(found, parts(&expected)),
            (Err(_), Err(_)) => {}
            (found, expected) => prop_assert!(false, "{found:?} instead of {expected:?}"),
        }
        Ok(())
    }

    const VARINT: u64 = 0;
    const LENGTH_DELIMITED: u64 = 2;

    /// A field: mostly as the contract has it, else of any number and wire type.
    fn field() -> impl Strategy<Value = Vec<u8>> {
        let right = (1_u64..13).prop_flat_map(|tag| match tag {
            4 | 5 | 7 => number(tag).boxed(),
            8 => message(tag, prop_oneof![number(1), number(2), number(3)]).boxed(),
            10 => message(tag, prop_oneof![9 => bytes(1), 9 => bytes(2), 1 => any_field()]).boxed(),
            _ => bytes(tag).boxed(),
        });
        prop_oneof![30 => right, 1 => any_field()]
    }

    fn any_field() -> impl Strategy<Value = Vec<u8>> {
        (0_u64..13, 0_u64..8, prop::collection::vec(any::<u8>(), 0..12))
            .prop_map(|(tag, wire_type, value)| key(tag, wire_type, &value))
    }

    fn number(tag: u64) -> impl Strategy<Value = Vec<u8>> {
        any::<u64>().prop_map(move |value| key(tag, VARINT, &encoded(value)))
    }

    fn bytes(tag: u64) -> impl Strategy<Value = Vec<u8>> {
        let value = prop::collection::vec(any::<u8>(), 0..20);
        value.prop_map(move |value| key(tag, LENGTH_DELIMITED, &with_length(&value)))
    }

    fn message(tag: u64, field: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        let fields = prop::collection::vec(field, 0..3);
        fields.prop_map(move |fields| key(tag, LENGTH_DELIMITED, &with_length(&fields.concat())))
    }

    fn key(tag: u64, wire_type: u64, value: &[u8]) -> Vec<u8> {
        [encoded(tag << 3 | wire_type).as_slice(), value].concat()
    }

    fn with_length(bytes: &[u8]) -> Vec<u8> {
        [encoded(bytes.len() as u64).as_slice(), bytes].concat()
    }

    fn encoded(value: u64) -> Vec<u8> {
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
            check(&record)?;
        }

        #[test]
        fn any_bytes_are_taken_as_protobuf_takes_them(record: Vec<u8>) {
            check(&record)?;
        }

        #[test]
        fn an_event_has_the_parts_that_were_recorded(
            texts in prop::array::uniform4("[a-z0-9]{1,9}"),
            numbers in prop::array::uniform2(1..=u64::MAX),
            event_version: u32,
            time in prop::option::of((any::<i64>(), any::<i32>())),
            message in prop::option::of(prop::collection::vec(any::<u8>(), 0..9)),
        ) {
            let [event_id, aggregate_type, aggregate_id, event_name] = texts;
            let [version, position] = numbers;
            let recorded_time = time.map(|(seconds, nanos)| Timestamp { seconds, nanos });
            let type_url = "type.googleapis.com/bank.v1.Opened".to_owned();
            let payload = match message.clone() {
                Some(value) => recorded_event::Payload::Event(prost_types::Any { type_url, value }),
                None => recorded_event::Payload::Raw(RawPayload::default()),
            };
            let stream = format!("{aggregate_type}-{aggregate_id}");
            let recorded = RecordedEvent {
                event_id: event_id.clone(),
                aggregate_type,
                aggregate_id,
                version,
                position,
                event_name: event_name.clone(),
                event_version,
                recorded_time,
                payload: Some(payload),
                ..Default::default()
            };
            let Content::Event(found) = Content::of(&recorded.encode_to_vec().into()) else {
                panic!("it is an event")
            };
            prop_assert_eq!(found.stream(), stream);
            prop_assert_eq!(found.event_id(), Some(event_id.as_str()));
            prop_assert_eq!(found.event_name(), Some(event_name.as_str()));
            prop_assert_eq!((found.version, found.position), (version, position));
            prop_assert_eq!(found.event_version, event_version);
            prop_assert_eq!(found.recorded_time, recorded_time);
            let type_name = if message.is_some() { "bank.v1.Opened" } else { event_name.as_str() };
            prop_assert_eq!(found.type_name(), Some(type_name));
            prop_assert_eq!(found.message.as_deref(), message.as_deref());
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_field() {
        let Content::Strange(problem) = Content::of(&vec![2 << 3 | 2, 9, b'a'].into()) else {
            panic!("the field is cut off")
        };
        let expected = "the record is no RecordedEvent: field 2: 9 bytes long, where 1 are left";
        assert_eq!(problem, expected);
    }
}
