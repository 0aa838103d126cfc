//! What readers need to know of a RecordedEvent before they decode the event itself.

use bytes::Bytes;
use prost::Message;
use prost_types::Timestamp;

/// The parts of a RecordedEvent that readers use. They are parts of the record, not copies.
#[derive(Clone, PartialEq, Message)]
struct Parts {
    #[prost(bytes = "bytes", tag = "1")]
    event_id: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    aggregate_type: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    aggregate_id: Bytes,
    #[prost(uint64, tag = "4")]
    version: u64,
    #[prost(uint64, tag = "5")]
    position: u64,
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
    #[prost(bytes = "bytes", tag = "1")]
    type_url: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
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
        let parts = match Parts::decode(record.clone()) {
            Ok(parts) => parts,
            Err(error) => return Self::Strange(format!("the record is no RecordedEvent: {error}")),
        };
        let has_payload = parts.event.is_some() || parts.raw.is_some();
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
            (std::str::from_utf8(&parts.aggregate_type), std::str::from_utf8(&parts.aggregate_id));
        let (Ok(aggregate_type), Ok(aggregate_id)) = texts else {
            return Self::Strange("the record has a text that is not UTF-8".to_owned());
        };
        let (type_url, message) =
            parts.event.map(|payload| (payload.type_url, payload.value)).unzip();
        Self::Event(Envelope {
            stream: [aggregate_type, "-", aggregate_id].concat(),
            type_bytes: aggregate_type.len(),
            event_id: parts.event_id,
            event_name: parts.event_name,
            type_url,
            version: parts.version,
            position: parts.position,
            event_version: parts.event_version,
            recorded_time: parts.recorded_time,
            message,
        })
    }
}
