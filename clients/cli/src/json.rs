//! Proto3 JSON of the messages of the contract, from its descriptors.

use std::sync::LazyLock;

use bytes::Bytes;
use daybook_client::StoredEvent;
use daybook_contract::daybook::v1::RawPayload;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, ReflectMessage, SerializeOptions, Value as Reflected,
};
use prost_types::Any;
use serde_json::{Map, Value};

use crate::exit::Exit;
use crate::money;
use crate::problem::Problem;

/// The descriptors of the contract that this program was built with.
pub(crate) static CONTRACT: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(daybook_contract::FILE_DESCRIPTOR_SET)
        .expect("the contract's descriptors are made with it")
});

/// The JSON of a message of the contract, by its full name.
pub(crate) fn of<M: Message>(name: &str, message: &M) -> Result<Value, Problem> {
    decode(name, message.encode_to_vec().into())
}

/// The JSON of a stored event, the fact itself included.
pub(crate) fn event(event: &StoredEvent) -> Result<Value, Problem> {
    decode("daybook.v1.RecordedEvent", event.bytes().clone())
}

fn decode(name: &str, bytes: Bytes) -> Result<Value, Problem> {
    let descriptor = CONTRACT
        .get_message_by_name(name)
        .expect("the names used in this program are messages of the contract");
    let message = DynamicMessage::decode(descriptor, bytes).map_err(|error| {
        Problem::new(Exit::Damaged, format!("this is not a {name}: {error}")).next("daybook doctor")
    })?;
    dynamic(message)
}

/// The JSON of a dynamic message: proto3 JSON, with lowerCamelCase names. What stands in an `Any`
/// of a type that is not known is shown as a RawPayload: its type, and its bytes in base64.
pub(crate) fn dynamic(mut message: DynamicMessage) -> Result<Value, Problem> {
    wrap_unknown(&mut message);
    message.serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new()).map_err(
        |error| {
            let name = message.descriptor().full_name().to_owned();
            Problem::new(Exit::Unexpected, format!("a {name} cannot be shown as JSON: {error}"))
        },
    )
}

fn wrap_unknown(message: &mut DynamicMessage) {
    if message.descriptor().full_name() == "google.protobuf.Any" {
        return wrap_any(message);
    }
    for (_, value) in message.fields_mut() {
        match value {
            Reflected::Message(inner) => wrap_unknown(inner),
            Reflected::List(items) => items.iter_mut().for_each(wrap_item),
            Reflected::Map(items) => items.values_mut().for_each(wrap_item),
            _ => {}
        }
    }
}

fn wrap_item(item: &mut Reflected) {
    if let Reflected::Message(inner) = item {
        wrap_unknown(inner);
    }
}

fn wrap_any(message: &mut DynamicMessage) {
    let Ok(any) = message.transcode_to::<Any>() else { return };
    let name = any.type_url.rsplit('/').next().unwrap_or_default();
    let known = message.descriptor().parent_pool().get_message_by_name(name);
    let content = known.and_then(|known| DynamicMessage::decode(known, any.value.as_slice()).ok());
    let wrapped = match content {
        Some(mut content) => {
            wrap_unknown(&mut content);
            Any { type_url: any.type_url, value: content.encode_to_vec() }
        }
        None => Any {
            type_url: "type.googleapis.com/daybook.v1.RawPayload".to_owned(),
            value: RawPayload { content_type: any.type_url, data: any.value.into() }
                .encode_to_vec(),
        },
    };
    // An Any takes the fields of an Any.
    let _ = message.transcode_from(&wrapped);
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
    let whole = self::event(event).unwrap_or_default();
    let Some(Value::Object(fact)) = whole.get("event") else { return String::new() };
    let parts = fact.iter().filter(|(name, _)| *name != "@type");
    parts.map(|(name, value)| format!("{name}={}", brief(value))).collect::<Vec<_>>().join(" ")
}

/// A value as short as it can be told.
fn brief(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            amount(object).or_else(|| answer(object)).unwrap_or_else(|| value.to_string())
        }
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

/// An object that is the answer to a step of a saga, for people.
fn answer(object: &Map<String, Value>) -> Option<String> {
    if let Some(receipt) = object.get("receipt") {
        return Some(format!("\"accepted at {}\"", receipt.get("position")?.as_str()?));
    }
    Some(format!("\"refused: {}\"", object.get("refusal")?.get("reason")?.as_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use daybook_contract::bank::v1::{MoneyDeposited, MovementMethod, TransferBounced};
    use daybook_contract::daybook::v1::step_answer::Outcome;
    use daybook_contract::daybook::v1::{
        CommandReceipt, EventMetadata, ListQuarantinedEventsResponse, Money, QuarantinedEvent,
        RecordedEvent, StepAnswer, StepRefusal, recorded_event,
    };
    use serde_json::json;

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
        let value = event(&deposited("type.googleapis.com/bank.v1.MoneyDeposited")).unwrap();
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
    fn a_fact_of_an_unknown_type_is_shown_with_its_type_and_its_bytes() {
        let unknown = deposited("type.googleapis.com/zoo.v1.LionEscaped");
        let value = event(&unknown).unwrap();
        assert_eq!(value["eventName"], "MoneyDeposited");
        assert_eq!(value["event"]["contentType"], "type.googleapis.com/zoo.v1.LionEscaped");
        assert!(value["event"]["data"].as_str().unwrap().starts_with("Cg0K"));
        // Deep inside another message, too.
        let quarantined = QuarantinedEvent { event: unknown.bytes().clone(), ..Default::default() };
        let answer =
            ListQuarantinedEventsResponse { events: vec![quarantined], ..Default::default() };
        let list = of("daybook.v1.ListQuarantinedEventsResponse", &answer).unwrap();
        assert_eq!(list["events"][0]["event"], value);
    }

    #[test]
    fn an_event_that_is_damaged_is_a_problem() {
        let event = Bytes::from_static(b"not an event");
        let events = vec![QuarantinedEvent { event, ..Default::default() }];
        let answer = ListQuarantinedEventsResponse { events, ..Default::default() };
        assert!(of("daybook.v1.ListQuarantinedEventsResponse", &answer).is_err());
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

    #[test]
    fn a_summary_tells_how_a_step_was_answered() {
        let told = |outcome| {
            let answer = StepAnswer { version: 1, index: 0, outcome: Some(outcome) };
            summary(&stored(recorded_event::Payload::Event(prost_types::Any {
                type_url: "type.googleapis.com/bank.v1.TransferBounced".into(),
                value: TransferBounced { answer: Some(answer) }.encode_to_vec(),
            })))
        };
        let receipt = CommandReceipt { position: 17, ..Default::default() };
        assert_eq!(told(Outcome::Receipt(receipt)), "answer=\"accepted at 17\"");
        let refusal = StepRefusal { reason: "ACCOUNT_CLOSED".into(), ..Default::default() };
        assert_eq!(told(Outcome::Refusal(refusal)), "answer=\"refused: ACCOUNT_CLOSED\"");
    }
}
