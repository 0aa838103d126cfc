//! Records as they are on Kafka: events, and watermarks.

use daybook_contract::daybook::v1::RecordedEvent;
use prost::Message;
use rdkafka::message::{Header, Headers, OwnedHeaders};

use crate::envelope::Envelope;

/// The position of the event in the log.
pub const POSITION_HEADER: &str = "daybook_position";

/// The id of the store that wrote the record.
pub const STORE_ID_HEADER: &str = "daybook_store_id";

/// On a watermark: the id of the event at its position, which tells the history it is of.
pub const EVENT_ID_HEADER: &str = "daybook_event_id";

/// On a watermark: the number of partitions of the topic that the publisher writes to. A reader
/// that knows of fewer must look again before it believes the watermark.
pub const PARTITIONS_HEADER: &str = "daybook_partitions";

/// On a watermark: an offset of its partition that it comes after. A watermark at that offset or
/// before it stands in a topic that was lost and made anew: what it says to be there is not.
pub const AFTER_HEADER: &str = "daybook_after";

/// A watermark has only this field of RecordedEvent: its tag, and at most ten bytes.
const WATERMARK_TAG: u8 = 5 << 3;
const WATERMARK_MAX_BYTES: usize = 11;

/// The encoded watermark of a position.
pub(crate) fn watermark(position: u64) -> Vec<u8> {
    RecordedEvent { position, ..Default::default() }.encode_to_vec()
}

/// The position of a watermark; `None` when the bytes are anything else, or when it stands where
/// it cannot be true.
pub(crate) fn believed_watermark(message: &impl rdkafka::Message) -> Option<u64> {
    let position = watermark_position(message.payload().unwrap_or_default())?;
    let after = header(message.headers(), AFTER_HEADER).and_then(|after| after.parse().ok());
    after.is_none_or(|after: i64| after < message.offset()).then_some(position)
}

/// The position of a watermark; `None` when the bytes are anything else.
pub(crate) fn watermark_position(bytes: &[u8]) -> Option<u64> {
    if bytes.len() > WATERMARK_MAX_BYTES || bytes.first() != Some(&WATERMARK_TAG) {
        return None;
    }
    let event = RecordedEvent::decode(bytes).ok()?;
    (event == RecordedEvent { position: event.position, ..Default::default() })
        .then_some(event.position)
}

/// The headers of an event: CloudEvents 1.0 in binary mode, and our own.
pub(crate) fn event_headers(event: &Envelope, store_id: &str, source: &str) -> OwnedHeaders {
    let time = event.recorded_time.as_ref().map(ToString::to_string);
    let position = event.position.to_string();
    let headers = [
        ("ce_specversion", Some("1.0")),
        ("ce_id", event.event_id()),
        ("ce_type", event.type_name()),
        ("ce_source", Some(source)),
        ("ce_time", time.as_deref()),
        (POSITION_HEADER, Some(position.as_str())),
        (STORE_ID_HEADER, Some(store_id)),
    ];
    let with = |to: OwnedHeaders, (key, value): (&str, Option<&str>)| match value {
        Some(_) => to.insert(Header { key, value }),
        None => to,
    };
    headers.into_iter().fold(OwnedHeaders::new_with_capacity(headers.len()), with)
}

/// The headers of a watermark.
pub(crate) fn watermark_headers(
    store_id: &str,
    event_id: &str,
    partitions: u32,
    after: i64,
) -> OwnedHeaders {
    OwnedHeaders::new_with_capacity(4)
        .insert(Header { key: STORE_ID_HEADER, value: Some(store_id) })
        .insert(Header { key: EVENT_ID_HEADER, value: Some(event_id) })
        .insert(Header { key: PARTITIONS_HEADER, value: Some(&partitions.to_string()) })
        .insert(Header { key: AFTER_HEADER, value: Some(&after.to_string()) })
}

/// The value of a header, if it is there and text.
pub(crate) fn header<'a, H: Headers>(headers: Option<&'a H>, key: &str) -> Option<&'a str> {
    let header = headers?.iter().find(|header| header.key == key)?;
    std::str::from_utf8(header.value?).ok()
}

#[cfg(test)]
mod tests {
    use daybook_contract::daybook::v1::RawPayload;
    use daybook_contract::daybook::v1::recorded_event::Payload;
    use rdkafka::Timestamp;
    use rdkafka::message::OwnedMessage;

    use super::*;
    use crate::envelope::Content;

    fn headers_of(payload: Option<Payload>) -> Vec<(String, String)> {
        let event = RecordedEvent {
            event_id: "id".to_owned(),
            aggregate_type: "account".to_owned(),
            aggregate_id: "7".to_owned(),
            version: 1,
            position: 9,
            event_name: "Opened".to_owned(),
            payload,
            ..Default::default()
        };
        let Content::Event(event) = Content::of(&event.encode_to_vec().into()) else {
            panic!("it is an event")
        };
        let headers = event_headers(&event, "store", "/daybook/store");
        let text = |header: Header<'_, &[u8]>| {
            let value = header.value.map(|value| String::from_utf8_lossy(value).into_owned());
            (header.key.to_owned(), value.unwrap_or_default())
        };
        headers.iter().map(text).collect()
    }

    #[test]
    fn an_event_has_the_headers_of_cloudevents_and_ours() {
        let type_url = "type.googleapis.com/bank.v1.AccountOpened".to_owned();
        let any = prost_types::Any { type_url, value: vec![1] };
        let headers = headers_of(Some(Payload::Event(any)));
        let expected = [
            ("ce_specversion", "1.0"),
            ("ce_id", "id"),
            ("ce_type", "bank.v1.AccountOpened"),
            ("ce_source", "/daybook/store"),
            (POSITION_HEADER, "9"),
            (STORE_ID_HEADER, "store"),
        ];
        assert_eq!(headers, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn bytes_of_no_aggregate_have_the_name_of_the_event_as_their_type() {
        let raw = RawPayload { content_type: "text/plain".to_owned(), data: vec![1].into() };
        for payload in [Some(Payload::Raw(raw)), None] {
            let kind = headers_of(payload).into_iter().find(|(key, _)| key == "ce_type");
            assert_eq!(kind.unwrap().1, "Opened");
        }
    }

    #[test]
    fn an_id_or_a_type_that_is_no_text_is_none() {
        let record = RecordedEvent {
            aggregate_type: "account".to_owned(),
            aggregate_id: "7".to_owned(),
            version: 1,
            position: 9,
            ..Default::default()
        };
        for tag in [1_u8, 6] {
            let mut bytes = record.encode_to_vec();
            bytes.extend([tag << 3 | 2, 1, 0xff]);
            let Content::Event(event) = Content::of(&bytes.into()) else {
                panic!("it is an event")
            };
            let missing = (event.event_id().is_none(), event.type_name().is_none());
            assert_eq!(missing, (tag == 1, tag == 6));
        }
    }

    #[test]
    fn a_watermark_is_a_position_and_nothing_else() {
        for position in [1, 127, 128, u64::MAX] {
            assert_eq!(watermark_position(&watermark(position)), Some(position));
        }
        let event = RecordedEvent { position: 1, version: 1, ..Default::default() };
        assert_eq!(watermark_position(&event.encode_to_vec()), None);
        assert_eq!(watermark_position(b""), None);
        assert_eq!(watermark_position(b"(poison"), None);
    }

    #[test]
    fn a_watermark_before_what_it_comes_after_is_not_believed() {
        let at = |offset, after| {
            let (topic, time) = ("a".to_owned(), Timestamp::NotAvailable);
            let headers = watermark_headers("store", "event", 1, after);
            OwnedMessage::new(Some(watermark(7)), None, topic, time, 0, offset, Some(headers))
        };
        assert_eq!(believed_watermark(&at(0, -1)), Some(7));
        assert_eq!(believed_watermark(&at(5, 4)), Some(7));
        assert_eq!(believed_watermark(&at(4, 4)), None);
        assert_eq!(believed_watermark(&at(0, 4)), None);
    }
}
