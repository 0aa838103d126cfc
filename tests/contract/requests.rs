//! The checks of requests. A second, slow implementation of the rules over descriptors says what
//! the generated one must find, in every request of the contract.

use std::collections::BTreeSet;

use daybook_contract::bank::v1::{DepositRequest, OpenAccountRequest};
use daybook_contract::contract::{Validate, Violations};
use daybook_contract::daybook::v1::{
    AppendRequest, AsOf, CommandContext, GetEventRequest, Money, NewEvent, RawPayload, ReadContext,
    as_of, get_event_request, new_event,
};
use daybook_contract::{METHODS, check_request};
use prost_reflect::prost::Message;
use prost_reflect::prost_types::{Duration, Timestamp};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};

use crate::{is_ours, option, pool};

/// The rules of a field, as far as a test needs them.
struct Rules {
    required: bool,
    max_chars: usize,
    max: u64,
}

fn rules(field: &FieldDescriptor) -> Rules {
    let options = option(field.options(), "rules");
    let get =
        |name: &str| options.as_ref().map(|o| o.get_field_by_name(name).unwrap().into_owned());
    let flag = |name: &str| get(name).is_some_and(|value| value.as_bool().unwrap());
    let max_chars = match get("max_chars").map_or(0, |value| value.as_u32().unwrap()) {
        0 => 1_000,
        max => usize::try_from(max).unwrap(),
    };
    Rules {
        required: flag("required"),
        max_chars,
        max: get("max").map_or(0, |value| value.as_u64().unwrap()),
    }
}

fn is_verbatim(field: &FieldDescriptor) -> bool {
    let options = field.options();
    let pool = options.descriptor().parent_pool().clone();
    let verbatim = pool.get_extension_by_name("daybook.v1.verbatim").unwrap();
    options.get_extension(&verbatim).as_bool().unwrap()
}

/// A value that breaks every rule of a field, and the paths of what is wrong with it. `None` when
/// no value is wrong.
fn wrong(field: &FieldDescriptor, kind: &Kind, path: &str) -> Option<(Value, BTreeSet<String>)> {
    let rules = rules(field);
    let one = BTreeSet::from([path.to_owned()]);
    Some(match kind {
        // Too long for a text, an id and a UUID.
        Kind::String => (Value::String("\u{e4}".repeat(rules.max_chars + 1)), one),
        Kind::Enum(_) => (Value::EnumNumber(4_242), one),
        Kind::Uint64 if rules.max > 0 => (Value::U64(rules.max + 1), one),
        Kind::Uint32 if rules.max > 0 => (Value::U32((rules.max + 1).try_into().unwrap()), one),
        Kind::Int64 if rules.max > 0 => (Value::I64((rules.max + 1).try_into().unwrap()), one),
        Kind::Int32 if rules.max > 0 => (Value::I32((rules.max + 1).try_into().unwrap()), one),
        Kind::Message(message) => {
            let (message, found) = match message.full_name() {
                "daybook.v1.Money" => {
                    let money =
                        Money { currency_code: "usd".to_owned(), units: 1, nanos: -10_000_000 };
                    let bytes = money.encode_to_vec();
                    let paths = ["currency_code", "nanos"].map(|part| format!("{path}.{part}"));
                    (DynamicMessage::decode(message.clone(), bytes.as_slice()), paths.into())
                }
                "google.protobuf.Timestamp" => {
                    let bytes = Timestamp { seconds: 0, nanos: -1 }.encode_to_vec();
                    (DynamicMessage::decode(message.clone(), bytes.as_slice()), one)
                }
                "google.protobuf.Duration" => {
                    let bytes = Duration { seconds: 1, nanos: -1 }.encode_to_vec();
                    (DynamicMessage::decode(message.clone(), bytes.as_slice()), one)
                }
                _ if !is_ours(message.package_name()) => return None,
                _ => {
                    let (inner, paths) = all_wrong(message);
                    (Ok(inner), paths.into_iter().map(|p| format!("{path}.{p}")).collect())
                }
            };
            if found.is_empty() {
                return None;
            }
            (Value::Message(message.unwrap()), found)
        }
        _ => return None,
    })
}

/// A message with everything wrong that can be, and the paths of what is wrong with it.
fn all_wrong(descriptor: &MessageDescriptor) -> (DynamicMessage, BTreeSet<String>) {
    let mut message = DynamicMessage::new(descriptor.clone());
    let mut expected = BTreeSet::new();
    let mut oneofs = BTreeSet::new();
    for field in descriptor.fields().filter(|field| !is_verbatim(field)) {
        let name = field.name();
        let value = if field.is_map() {
            let Kind::Message(entry) = field.kind() else { unreachable!("a map has entries") };
            let key = "x".repeat(1_001);
            let Kind::String = entry.map_entry_key_field().kind() else { continue };
            let default = entry.map_entry_value_field().default_value();
            expected.insert(name.to_owned());
            Some(Value::Map([(MapKey::String(key), default)].into()))
        } else if field.is_list() {
            wrong(&field, &field.kind(), &format!("{name}[0]")).map(|(value, paths)| {
                expected.extend(paths);
                Value::List(vec![value])
            })
        } else {
            let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
            // Only one field of a oneof can be set: the first that can be wrong.
            if oneof.as_ref().is_some_and(|oneof| oneofs.contains(oneof.full_name())) {
                continue;
            }
            wrong(&field, &field.kind(), name).map(|(value, paths)| {
                oneofs.extend(oneof.map(|oneof| oneof.full_name().to_owned()));
                expected.extend(paths);
                value
            })
        };
        match value {
            Some(value) => message.try_set_field(&field, value).unwrap(),
            None if rules(&field).required => {
                expected.insert(name.to_owned());
            }
            None => {}
        }
    }
    (message, expected)
}

fn paths(violations: Violations) -> BTreeSet<String> {
    violations.into_vec().into_iter().map(|violation| violation.field).collect()
}

fn check(message: &DynamicMessage) -> BTreeSet<String> {
    let name = message.descriptor().full_name().to_owned();
    let violations = check_request(&name, message.encode_to_vec().into());
    paths(violations.unwrap_or_else(|| panic!("{name} is not checked")).unwrap())
}

#[test]
fn every_fault_of_every_request_is_found_at_once() {
    let pool = pool();
    let mut found = 0;
    for method in METHODS {
        let (message, expected) = all_wrong(&pool.get_message_by_name(method.input).unwrap());
        assert_eq!(check(&message), expected, "{}", method.path);
        found += expected.len();
    }
    assert!(found > 50, "only {found} faults were made");
}

#[test]
fn every_required_field_of_every_request_is_asked_for() {
    let pool = pool();
    let mut found = 0;
    for method in METHODS {
        let request = pool.get_message_by_name(method.input).unwrap();
        let required = request.fields().filter(|field| rules(field).required);
        let expected: BTreeSet<_> = required.map(|field| field.name().to_owned()).collect();
        found += expected.len();
        assert_eq!(check(&DynamicMessage::new(request)), expected, "{}", method.path);
    }
    assert!(found > 10, "only {found} fields are required");
}

#[test]
fn what_no_rpc_takes_is_not_checked() {
    assert!(check_request("bank.v1.AccountState", Default::default()).is_none());
    assert!(check_request("bank.v1.DepositRequest", b"\xff".as_slice().into()).unwrap().is_err());
}

/// Compares what is said about a request, in order.
#[track_caller]
fn says(request: &impl Validate, expected: &[&str]) {
    let mut violations = Violations::default();
    request.validate(&mut violations);
    let said: Vec<_> = violations
        .into_vec()
        .into_iter()
        .map(|violation| format!("{}: {}", violation.field, violation.description))
        .collect();
    assert_eq!(said, expected);
}

#[test]
fn a_deposit_with_many_faults_is_told_all_of_them() {
    let context = CommandContext { request_id: "again".to_owned(), ..CommandContext::default() };
    let amount = Money { currency_code: "EUR".to_owned(), units: 0, nanos: 5_000_000 };
    let request = DepositRequest {
        context: Some(context),
        account_id: "my account".to_owned(),
        amount: Some(amount),
        description: "x".repeat(501),
        method: 42,
    };
    says(
        &request,
        &[
            "context.request_id: \"again\" is not a UUID; one looks like \
             01939b4e-7c52-7d18-9f5a-3c1f0e6b2a44",
            "account_id: \"my account\" is not an id; an id has 1 to 64 letters, digits, '.', \
             '_', '~' and '-'",
            "amount.nanos: nanos 5000000 is finer than the smallest unit of EUR, 10000000 nanos",
            "description: has 501 characters; at most 500 are allowed",
            "method: unknown value 42; known: 0 (MOVEMENT_METHOD_UNSPECIFIED), \
             1 (MOVEMENT_METHOD_CASH), 2 (MOVEMENT_METHOD_CARD), 3 (MOVEMENT_METHOD_TRANSFER), \
             4 (MOVEMENT_METHOD_CHEQUE)",
        ],
    );
    says(&DepositRequest::default(), &["account_id: must be set", "amount: must be set"]);
}

#[test]
fn a_right_request_passes() {
    let request = OpenAccountRequest { owner_name: "Zo\u{eb}".to_owned(), ..Default::default() };
    says(&request, &[]);
    let read = ReadContext {
        max_wait: Some(Duration { seconds: 1, nanos: 0 }),
        as_of: Some(AsOf { moment: Some(as_of::Moment::Version(3)) }),
        ..ReadContext::default()
    };
    says(&read, &[]);
}

#[test]
fn a_fault_in_a_list_and_in_a_oneof_has_its_path() {
    let right = NewEvent { event_name: "Seen".to_owned(), ..NewEvent::default() };
    let raw = RawPayload { content_type: "x".repeat(1_001), ..RawPayload::default() };
    let wrong = NewEvent { payload: Some(new_event::Payload::Raw(raw)), ..NewEvent::default() };
    let request = AppendRequest {
        stream: "notes-1".to_owned(),
        events: vec![right.clone(), right, wrong],
        ..AppendRequest::default()
    };
    says(
        &request,
        &[
            "events[2].event_name: must be set",
            "events[2].raw.content_type: has 1001 characters; at most 1000 are allowed",
        ],
    );
    let key = Some(get_event_request::Key::EventId("first".to_owned()));
    says(
        &GetEventRequest { key },
        &["event_id: \"first\" is not a UUID; one looks like 01939b4e-7c52-7d18-9f5a-3c1f0e6b2a44"],
    );
}
