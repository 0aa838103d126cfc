//! Golden bytes: an event as it was once recorded, for every version of every event. They never
//! change; whatever is read from them today must be what was meant then.
//!
//! `golden/<aggregate>.json` has for each event and version the bytes (`hex`), what they say
//! (`value`) and what upcasters make of it (`current`). To add a version write its `event`,
//! `version` and a `value` with every field set, and run the test with `UPDATE_GOLDEN=1`: it fills
//! in what is missing and changes nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Once;

use daybook_contract::bank::v1::account::Event as AccountEvent;
use daybook_contract::contract::{AggregateState, EventError, EventSet};
use daybook_domain::account::Account;
use daybook_kernel::{Aggregate, Registry};
use prost_reflect::prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde_json::{Value, json};

use crate::{messages, option, path, pool, text};

const UPDATE: &str = "UPDATE_GOLDEN=1 cargo test -p daybook-contract --test contract golden";

/// The message of each event and version of the contract, by aggregate.
type Declared = BTreeMap<String, BTreeMap<(String, u32), MessageDescriptor>>;

fn declared(pool: &DescriptorPool) -> Declared {
    let mut declared = Declared::new();
    for message in messages(pool) {
        let Some(options) = option(message.options(), "event") else { continue };
        let version = options.get_field_by_name("version").unwrap().as_u32().unwrap();
        let of_aggregate = declared.entry(text(&options, "aggregate")).or_default();
        of_aggregate.insert((text(&options, "name"), version), message);
    }
    declared
}

/// One entry of a golden file.
struct Golden {
    event: String,
    version: u32,
    entry: Value,
}

fn read(aggregate: &str) -> Vec<Golden> {
    let path = path("golden").join(format!("{aggregate}.json"));
    let file = fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("every aggregate needs golden bytes of its events: {}: {error}", path.display())
    });
    let entries: Vec<Value> = serde_json::from_str(&file).unwrap();
    let golden = |entry: Value| Golden {
        event: entry["event"].as_str().expect("has a name").to_owned(),
        version: entry["version"].as_u64().expect("has a version").try_into().unwrap(),
        entry,
    };
    entries.into_iter().map(golden).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "{hex}");
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn to_json(descriptor: &MessageDescriptor, bytes: &[u8]) -> Value {
    let message = DynamicMessage::decode(descriptor.clone(), bytes).unwrap();
    serde_json::to_value(&message).unwrap()
}

/// What upcasters make of an event, as JSON.
fn current<A: Aggregate>(pool: &DescriptorPool, golden: &Golden, bytes: &[u8]) -> Value {
    let event =
        <A::Event as EventSet<A>>::decode(&golden.event, golden.version, bytes.to_vec().into())
            .unwrap_or_else(|error| panic!("{} {}: {error}", golden.event, golden.version));
    assert_eq!(event.name(), golden.event);
    let encoded = event.encode();
    if event.version() == golden.version {
        assert_eq!(hex(&encoded), hex(bytes), "{} is encoded in another way now", golden.event);
    }
    to_json(&pool.get_message_by_name(event.type_name()).unwrap(), &encoded)
}

/// Fills in the bytes and the current form of new entries.
struct Update;

impl Registry for Update {
    fn aggregate<A: Aggregate>(&mut self) {
        let (pool, aggregate) = (pool(), A::State::AGGREGATE);
        let messages = &declared(&pool)[aggregate];
        let mut entries = read(aggregate);
        for golden in &mut entries {
            let descriptor = &messages[&(golden.event.clone(), golden.version)];
            if golden.entry.get("hex").is_none() {
                let value = golden.entry["value"].clone();
                let message = DynamicMessage::deserialize(descriptor.clone(), value).unwrap();
                golden.entry["hex"] = hex(&message.encode_to_vec()).into();
            }
            if golden.entry.get("current").is_none() {
                let bytes = bytes(golden.entry["hex"].as_str().unwrap());
                golden.entry["current"] = current::<A>(&pool, golden, &bytes);
            }
        }
        let entries: Vec<_> = entries.into_iter().map(|golden| golden.entry).collect();
        let text = serde_json::to_string_pretty(&entries).unwrap();
        fs::write(path("golden").join(format!("{aggregate}.json")), format!("{text}\n")).unwrap();
    }
}

fn update_when_asked() {
    static DONE: Once = Once::new();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        DONE.call_once(|| daybook_domain::register(&mut Update));
    }
}

/// Compares the golden bytes of each aggregate with what is read from them.
#[derive(Default)]
struct Check {
    aggregates: BTreeSet<String>,
}

impl Registry for Check {
    fn aggregate<A: Aggregate>(&mut self) {
        let (pool, aggregate) = (pool(), A::State::AGGREGATE);
        self.aggregates.insert(aggregate.to_owned());
        let entries = read(aggregate);
        let declared = &declared(&pool)[aggregate];
        let kept: BTreeSet<_> = entries.iter().map(|g| (g.event.clone(), g.version)).collect();
        let missing: Vec<_> = declared.keys().filter(|key| !kept.contains(*key)).collect();
        assert!(
            missing.is_empty(),
            "{missing:?} of {aggregate} need golden bytes: add `event`, `version` and a `value` \
             with every field set to tests/contract/golden/{aggregate}.json and run\n{UPDATE}"
        );
        for golden in &entries {
            let name = format!("{aggregate} {} {}", golden.event, golden.version);
            let descriptor =
                declared.get(&(golden.event.clone(), golden.version)).unwrap_or_else(|| {
                    panic!("{name} is gone from the contract, but its records are not")
                });
            let of = |part: &str| golden.entry.get(part).unwrap_or_else(|| panic!("{UPDATE}"));
            let bytes = bytes(of("hex").as_str().unwrap());
            assert_eq!(to_json(descriptor, &bytes), *of("value"), "{name}");
            assert_eq!(current::<A>(&pool, golden, &bytes), *of("current"), "{name}");
            let message = DynamicMessage::decode(descriptor.clone(), bytes.as_slice()).unwrap();
            let unset: Vec<_> = descriptor
                .fields()
                .filter(|field| field.containing_oneof().is_none() && !message.has_field(field))
                .map(|field| field.name().to_owned())
                .collect();
            assert!(unset.is_empty(), "{name} shows nothing of {unset:?}");
        }
    }
}

#[test]
fn the_golden_bytes_of_every_event_version_are_still_understood() {
    update_when_asked();
    let mut check = Check::default();
    daybook_domain::register(&mut check);
    let declared: BTreeSet<_> = declared(&pool()).into_keys().collect();
    assert_eq!(check.aggregates, declared, "every aggregate of the contract is registered");
}

#[test]
fn a_deposit_from_before_there_were_currencies_was_in_usd() {
    update_when_asked();
    let deposit = read("bank.account")
        .into_iter()
        .find(|golden| golden.event == "MoneyDeposited" && golden.version == 1)
        .unwrap();
    let minor: i64 = deposit.entry["value"]["amountMinor"].as_str().unwrap().parse().unwrap();
    let amount = &deposit.entry["current"]["amount"];
    assert_eq!(amount["currencyCode"], "USD");
    assert_eq!(amount["units"], (minor / 100).to_string());
    assert_eq!(amount["nanos"], json!(minor % 100 * 10_000_000));
}

#[test]
fn what_is_no_event_of_the_aggregate_is_an_error() {
    let decode = |name: &str, version, bytes: &'static [u8]| {
        <AccountEvent as EventSet<Account>>::decode(name, version, bytes.into()).unwrap_err()
    };
    let name = "MoneyDeposited".to_owned();
    for version in [0, 4, u32::MAX] {
        assert_eq!(
            decode("MoneyDeposited", version, b""),
            EventError::UnknownVersion { aggregate: "bank.account", name: name.clone(), version }
        );
    }
    assert_eq!(
        decode("MoneyPrinted", 1, b""),
        EventError::UnknownName { aggregate: "bank.account", name: "MoneyPrinted".to_owned() }
    );
    for version in 1..=3 {
        let error = decode("MoneyDeposited", version, b"\xff");
        assert!(matches!(error, EventError::Malformed { .. }), "{error}");
    }
}
