//! Proto3 JSON of the messages of the contract, from its descriptors.

use std::sync::LazyLock;

use bytes::Bytes;
use daybook_client::StoredEvent;
use daybook_contract::daybook::v1::RawPayload;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, SerializeOptions};
use serde_json::{Map, Value, json};

use crate::money;

/// The descriptors of the contract that this program was built with.
pub(crate) static CONTRACT: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(daybook_contract::FILE_DESCRIPTOR_SET)
        .expect("the contract's descriptors are made with it")
});

/// The JSON of a message of the contract, by its full name.
pub(crate) fn of<M: Message>(name: &str, message: &M) -> Value {
    decode(&CONTRACT, name, message.encode_to_vec().into())
        .expect("the names used here are messages of the contract")
}

/// The JSON of an encoded message.
pub(crate) fn decode(pool: &DescriptorPool, name: &str, bytes: Bytes) -> Result<Value, String> {
    let descriptor =
        pool.get_message_by_name(name).ok_or_else(|| format!("there is no message {name}"))?;
    let message = DynamicMessage::decode(descriptor, bytes)
        .map_err(|error| format!("this is not a {name}: {error}"))?;
    dynamic(&message)
}

/// The JSON of a dynamic message: proto3 JSON, with lowerCamelCase names.
pub(crate) fn dynamic(message: &DynamicMessage) -> Result<Value, String> {
    message
        .serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new())
        .map_err(|error| format!("{} has no JSON: {error}", message.descriptor().full_name()))
}

/// The JSON of a stored event, the fact itself included. A fact of a type that this program does
/// not know is shown with its type and its bytes in base64.
pub(crate) fn event(event: &StoredEvent) -> Value {
    let name = "daybook.v1.RecordedEvent";
    if let Ok(value) = decode(&CONTRACT, name, event.bytes().clone()) {
        return value;
    }
    let mut known = (**event).clone();
    let payload = known.payload.take();
    let mut value = of(name, &known);
    if let Some(daybook_contract::daybook::v1::recorded_event::Payload::Event(any)) = payload {
        // RawPayload is a message with bytes: its JSON has them in base64.
        let raw = RawPayload { data: any.value.into(), ..Default::default() };
        let data = of("daybook.v1.RawPayload", &raw)["data"].take();
        value["event"] = json!({ "@type": any.type_url, "value": data });
    }
    value
}

/// The fact of an event on one line, for people: `amount=12.34 USD description="Salary"`.
pub(crate) fn summary(event: &StoredEvent) -> String {
    use daybook_contract::daybook::v1::recorded_event::Payload;
    if let Some(Payload::Raw(raw)) = &event.payload {
        return match std::str::from_utf8(&raw.data) {
            Ok(text) => text.split_whitespace().collect::<Vec<_>>().join(" "),
            Err(_) => format!("{} bytes of {}", raw.data.len(), raw.content_type),
        };
    }
    let whole = self::event(event);
    let Some(Value::Object(fact)) = whole.get("event") else { return String::new() };
    let parts = fact.iter().filter(|(name, _)| *name != "@type");
    parts.map(|(name, value)| format!("{name}={}", brief(value))).collect::<Vec<_>>().join(" ")
}

/// A value as short as it can be told.
fn brief(value: &Value) -> String {
    match value {
        Value::Object(object) => match amount(object) {
            Some(amount) => amount,
            None => value.to_string(),
        },
        Value::String(text) if text.chars().all(|c| c.is_alphanumeric() || "_-.:".contains(c)) => {
            text.clone()
        }
        other => other.to_string(),
    }
}

/// An object that is an amount of money, for people.
fn amount(object: &Map<String, Value>) -> Option<String> {
    let currency_code = object.get("currencyCode")?.as_str()?.to_owned();
    let units = object.get("units").map_or(Some(0), |units| units.as_str()?.parse().ok())?;
    let nanos = object.get("nanos").map_or(Some(0), Value::as_i64)?.try_into().ok()?;
    Some(money::show(Some(&daybook_client::Money { currency_code, units, nanos })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use daybook_contract::bank::v1::{MoneyDeposited, MovementMethod};
    use daybook_contract::daybook::v1::{EventMetadata, Money, RecordedEvent, recorded_event};

    fn stored(payload: recorded_event::Payload) -> StoredEvent {
        let event = RecordedEvent {
            event_id: "01890a5d-ac96-774b-bcce-b302099a8057".into(),
            aggregate_type: "bank.account".into(),
            aggregate_id: "ada".into(),
            version: 2,
            position: 17,
            event_name: "MoneyDeposited".into(),
            event_version: 3,
            recorded_time: Some(prost_types::Timestamp { seconds: 1_795_219_200, nanos: 0 }),
            metadata: Some(EventMetadata { actor: "teller".into(), ..Default::default() }),
            payload: Some(payload),
        };
        StoredEvent::decode(event.encode_to_vec().into()).unwrap()
    }

    fn deposited(type_url: &str) -> StoredEvent {
        let fact = MoneyDeposited {
            amount: Some(Money { currency_code: "USD".into(), units: 12, nanos: 340_000_000 }),
            description: "Salary March".into(),
            method: MovementMethod::Transfer.into(),
        };
        stored(recorded_event::Payload::Event(prost_types::Any {
            type_url: type_url.into(),
            value: fact.encode_to_vec(),
        }))
    }

    #[test]
    fn a_recorded_event_is_shown_whole_with_its_fact() {
        let value = event(&deposited("type.googleapis.com/bank.v1.MoneyDeposited"));
        let expected = json!({
            "eventId": "01890a5d-ac96-774b-bcce-b302099a8057",
            "aggregateType": "bank.account",
            "aggregateId": "ada",
            "version": "2",
            "position": "17",
            "eventName": "MoneyDeposited",
            "eventVersion": 3,
            "recordedTime": "2026-11-21T00:00:00Z",
            "metadata": { "actor": "teller" },
            "event": {
                "@type": "type.googleapis.com/bank.v1.MoneyDeposited",
                "amount": { "currencyCode": "USD", "units": "12", "nanos": 340_000_000 },
                "description": "Salary March",
                "method": "MOVEMENT_METHOD_TRANSFER",
            },
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_fact_of_an_unknown_type_is_shown_with_its_bytes() {
        let value = event(&deposited("type.googleapis.com/zoo.v1.LionEscaped"));
        assert_eq!(value["eventName"], "MoneyDeposited");
        assert_eq!(value["event"]["@type"], "type.googleapis.com/zoo.v1.LionEscaped");
        assert!(value["event"]["value"].as_str().unwrap().starts_with("Cg0K"));
    }

    #[test]
    fn a_summary_tells_the_fact_on_one_line() {
        let event = deposited("type.googleapis.com/bank.v1.MoneyDeposited");
        let method = "method=MOVEMENT_METHOD_TRANSFER";
        assert_eq!(
            summary(&event),
            format!("amount=12.34 USD description=\"Salary March\" {method}")
        );
        let raw = RawPayload {
            content_type: "application/json".into(),
            data: b"{\n  \"a\": 1\n}".as_slice().into(),
        };
        assert_eq!(summary(&stored(recorded_event::Payload::Raw(raw))), "{ \"a\": 1 }");
    }
}
