//! What a contract says about itself, read from its options into a small model and checked: what
//! is in a [`Model`] makes sense, and the code that is written from it compiles.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor, ServiceDescriptor};

use crate::across::{self, Read};
use crate::mistakes::Mistakes;
use crate::options::{self, CommandOptions, EventOptions, UniqueOptions};
use crate::{names, validate};

/// The longest name of an aggregate; the kernel refuses streams with a longer category.
const MAX_AGGREGATE_NAME: usize = 63;

const CONTEXT: &str = "daybook.v1.CommandContext";
const RECEIPT: &str = "daybook.v1.CommandReceipt";

/// A contract.
pub struct Model {
    /// By name.
    pub aggregates: Vec<Aggregate>,
    /// The methods of all services, by path.
    pub methods: Vec<Method>,
    /// The messages that a request can contain, requests included, by full name.
    pub requests: Vec<MessageDescriptor>,
}

/// An aggregate.
pub struct Aggregate {
    /// Such as `bank.account`.
    pub name: String,
    /// The package of its state, which its module is put into.
    pub package: String,
    /// Its module: the last part of the name.
    pub module: proc_macro2::Ident,
    /// The Kafka topic of its events.
    pub topic: String,
    /// The message of its state.
    pub state: MessageDescriptor,
    /// What no two of its kind may have.
    pub unique: Vec<UniqueOptions>,
    /// In the order of the contract.
    pub commands: Vec<Command>,
    /// In the order of the contract.
    pub events: Vec<Event>,
}

/// A command of an aggregate.
pub struct Command {
    /// Its RPC.
    pub method: MethodDescriptor,
    /// The path of the RPC.
    pub path: String,
    /// The field with the id of the aggregate.
    pub key: String,
    /// Whether the server fills an empty key.
    pub generate_key: bool,
    /// The other aggregates whose states it reads.
    pub reads: Vec<Read>,
}

/// An event of an aggregate.
pub struct Event {
    /// Such as `MoneyDeposited`.
    pub name: String,
    /// The message of each version; that of version 1 comes first.
    pub versions: Vec<MessageDescriptor>,
}

/// A method of a service.
pub struct Method {
    /// Such as `/bank.v1.CommandService/Deposit`.
    pub path: String,
    /// The aggregate of a command.
    pub aggregate: Option<String>,
    /// The method.
    pub descriptor: MethodDescriptor,
}

impl Command {
    /// The message of the request.
    pub fn request(&self) -> MessageDescriptor {
        self.method.input()
    }
}

impl Event {
    /// The message of the current version.
    pub fn current(&self) -> &MessageDescriptor {
        self.versions.last().expect("an event is read from at least one message")
    }

    /// The current version.
    pub fn version(&self) -> u32 {
        u32::try_from(self.versions.len()).expect("read from a uint32")
    }
}

impl Model {
    /// Reads a contract, or tells all that is wrong with it.
    pub fn read(pool: &DescriptorPool) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        for file in pool.files().filter(|file| file.package_name().is_empty()) {
            mistakes.add(&file, "has no package; add one after its directory, such as bank.v1");
        }
        let mut aggregates = read_aggregates(pool, &mut mistakes);
        read_events(pool, &mut aggregates, &mut mistakes);
        read_commands(pool, &mut aggregates, &mut mistakes);
        across::check_unique(pool, &aggregates, &mut mistakes);
        for aggregate in aggregates.values() {
            let parts = [
                ("command", aggregate.commands.is_empty()),
                ("event", aggregate.events.is_empty()),
            ];
            for (part, _) in parts.into_iter().filter(|(_, is_missing)| *is_missing) {
                let mend = format!("declare one with (daybook.v1.{part})");
                mistakes.add(
                    &aggregate.state,
                    format!("aggregate {:?} has no {part}; {mend}", aggregate.name),
                );
            }
        }
        let methods = read_methods(pool);
        let requests = validate::reachable(methods.iter().map(|method| method.descriptor.input()));
        validate::check_rules(pool, &mut mistakes);
        if !mistakes.0.is_empty() {
            return Err(mistakes);
        }
        Ok(Self { aggregates: aggregates.into_values().collect(), methods, requests })
    }
}

/// By name.
pub type Aggregates = BTreeMap<String, Aggregate>;

/// The messages of the contract itself.
pub fn messages(pool: &DescriptorPool) -> impl Iterator<Item = MessageDescriptor> + '_ {
    pool.all_messages().filter(|message| !names::is_google(message.package_name()))
}

fn services(pool: &DescriptorPool) -> impl Iterator<Item = ServiceDescriptor> + '_ {
    pool.services().filter(|service| !names::is_google(service.package_name()))
}

fn read_aggregates(pool: &DescriptorPool, mistakes: &mut Mistakes) -> Aggregates {
    let mut aggregates = Aggregates::new();
    for state in messages(pool) {
        let Some(options) = options::aggregate(&state) else { continue };
        // An aggregate with a mistake is kept, so that what refers to it is not blamed as well.
        let mut module = names::snake(state.name());
        match name_problem(&options.name) {
            Some(problem) => mistakes.add(&state, problem),
            None => module = names::snake(options.name.rsplit('.').next().unwrap_or_default()),
        }
        if !is_topic(&options.topic) {
            let mend = "give it a Kafka topic of letters, digits, '.', '_' and '-', such as \
                        bank-events";
            mistakes.add(&state, format!("topic {:?} is not one; {mend}", options.topic));
        }
        let aggregate = Aggregate {
            name: options.name.clone(),
            package: state.package_name().to_owned(),
            module,
            topic: options.topic,
            state: state.clone(),
            unique: options.unique,
            commands: Vec::new(),
            events: Vec::new(),
        };
        check_module(pool, &aggregate, &aggregates, mistakes);
        if let Some(other) = aggregates.get(&options.name) {
            let (name, other) = (&options.name, other.state.full_name());
            mistakes.add(
                &state,
                format!("aggregate {name:?} has the state {other} already; choose another name"),
            );
            continue;
        }
        aggregates.insert(options.name, aggregate);
    }
    aggregates
}

/// The module of an aggregate must not meet another in its package.
fn check_module(
    pool: &DescriptorPool,
    aggregate: &Aggregate,
    others: &Aggregates,
    mistakes: &mut Mistakes,
) {
    let module = &aggregate.module;
    let same = others.values().find(|other| {
        other.name != aggregate.name
            && other.package == aggregate.package
            && other.module == *module
    });
    if let Some(other) = same {
        mistakes.add(
            &aggregate.state,
            format!(
                "aggregates {:?} and {:?} of one package both need the module {module}; choose \
                 another last part",
                other.name, aggregate.name
            ),
        );
    }
    // prost makes a module of the same name for what is declared inside a message.
    let meets = messages(pool).find(|message| {
        let nests = message.child_messages().len() > 0
            || message.child_enums().len() > 0
            || message.oneofs().any(|oneof| !oneof.is_synthetic());
        message.package_name() == aggregate.package
            && message.parent_message().is_none()
            && nests
            && names::snake(message.name()) == *module
    });
    if let Some(message) = meets {
        mistakes.add(
            &aggregate.state,
            format!(
                "the module {module} of aggregate {:?} is also that of what {} declares inside; \
                 rename one of them or move the inner declarations out",
                aggregate.name,
                message.full_name()
            ),
        );
    }
}

fn name_problem(name: &str) -> Option<String> {
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    if name.contains('-') {
        return Some(format!(
            "aggregate name {name:?} has a hyphen, which separates it from the id in the name of \
             a stream; use '.' or '_' instead"
        ));
    }
    if name.len() > MAX_AGGREGATE_NAME || !name.split('.').all(is_word) {
        return Some(format!(
            "aggregate name {name:?} is not one; use at most {MAX_AGGREGATE_NAME} characters: \
             words of lower case letters, digits and '_' joined by dots, such as bank.account"
        ));
    }
    None
}

fn is_topic(topic: &str) -> bool {
    (1..=249).contains(&topic.len())
        && topic.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn read_events(pool: &DescriptorPool, aggregates: &mut Aggregates, mistakes: &mut Mistakes) {
    // The versions of each event, by aggregate and name; events in the order of the contract.
    let mut order = Vec::new();
    let mut versions: BTreeMap<(String, String), BTreeMap<u32, MessageDescriptor>> =
        BTreeMap::new();
    let mut doubled = BTreeSet::new();
    for message in messages(pool) {
        let Some(event) = options::event(&message) else { continue };
        if let Some(problem) = event_problem(&event, aggregates) {
            mistakes.add(&message, problem);
            continue;
        }
        let key = (event.aggregate.clone(), event.name.clone());
        let of_event = versions.entry(key.clone()).or_default();
        if of_event.is_empty() {
            order.push(key.clone());
        }
        if let Some(other) = of_event.get(&event.version) {
            mistakes.add(
                &message,
                format!(
                    "version {} of event {:?} is {} already; give one of them another version",
                    event.version,
                    event.name,
                    other.full_name()
                ),
            );
            doubled.insert(key);
            continue;
        }
        of_event.insert(event.version, message);
    }
    // A version that is there twice probably leaves a hole elsewhere: one mistake is enough.
    order.retain(|key| !doubled.contains(key));
    for (aggregate, name) in order {
        let of_event = &versions[&(aggregate.clone(), name.clone())];
        if let Some(missing) = (1..).zip(of_event.keys()).find(|(due, version)| due != *version) {
            let current = of_event.values().next_back().expect("not empty");
            mistakes.add(
                current,
                format!(
                    "event {name:?} has a version {} but no version {}; every version from 1 needs \
                     its message, because old records must stay readable",
                    missing.1, missing.0
                ),
            );
            continue;
        }
        let versions = of_event.values().cloned().collect();
        let aggregate = aggregates.get_mut(&aggregate).expect("checked above");
        aggregate.events.push(Event { name, versions });
    }
}

fn event_problem(event: &EventOptions, aggregates: &Aggregates) -> Option<String> {
    let EventOptions { aggregate, name, version } = event;
    if aggregate.is_empty() {
        let mend = "add `aggregate` to (daybook.v1.event)";
        return Some(format!("the event has no aggregate; {mend}"));
    }
    if !aggregates.contains_key(aggregate) {
        return Some(unknown_aggregate(aggregate, aggregates));
    }
    if names::camel(name) != *name {
        let mend = "use UpperCamelCase in the past tense, such as MoneyDeposited";
        return Some(format!("event name {name:?} is not one; {mend}"));
    }
    if *version == 0 {
        return Some("the event has no version; versions are counted from 1".to_owned());
    }
    None
}

/// What is said of the name of an aggregate that there is not.
pub fn unknown_aggregate(name: &str, aggregates: &Aggregates) -> String {
    let known: Vec<_> = aggregates.keys().map(String::as_str).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    format!(
        "there is no aggregate {name:?}; known: {known}. Correct the name, or declare the \
         aggregate by (daybook.v1.aggregate) on the message of its state"
    )
}

fn read_commands(pool: &DescriptorPool, aggregates: &mut Aggregates, mistakes: &mut Mistakes) {
    let mut requests = BTreeSet::new();
    for service in services(pool) {
        let commands: Vec<_> =
            service.methods().map(|method| (options::command(&method), method)).collect();
        if commands.iter().all(|(options, _)| options.is_none()) {
            continue;
        }
        for (options, method) in commands {
            let Some(options) = options else {
                let mend = "give it (daybook.v1.command) or move it to another service";
                mistakes.add(&method, format!("not a command in a service of commands; {mend}"));
                continue;
            };
            check_command(&method, &options, mistakes);
            let reads = across::reads(&method, &options, aggregates, mistakes);
            if !requests.insert(method.input().full_name().to_owned()) {
                let request = method.input().full_name().to_owned();
                let mend = "give each command RPC its own request";
                mistakes.add(&method, format!("{request} is the request of two commands; {mend}"));
            }
            let Some(aggregate) = aggregates.get_mut(&options.aggregate) else {
                mistakes.add(&method, unknown_aggregate(&options.aggregate, aggregates));
                continue;
            };
            if aggregate.commands.iter().any(|command| command.method.name() == method.name()) {
                let mend = "the name of a command is unique within its aggregate: rename one";
                mistakes
                    .add(&method, format!("aggregate {:?} has it twice; {mend}", aggregate.name));
            }
            aggregate.commands.push(Command {
                path: path(&method),
                method,
                key: options.key,
                generate_key: options.generate_key,
                reads,
            });
        }
    }
}

fn check_command(method: &MethodDescriptor, options: &CommandOptions, mistakes: &mut Mistakes) {
    let request = method.input();
    if method.is_client_streaming() || method.is_server_streaming() {
        let mend = "take `stream` away; daybook.v1.CommandService/ExecuteStream is for many";
        mistakes.add(method, format!("a command is one request with one answer; {mend}"));
    }
    let output = method.output();
    if output.full_name() != RECEIPT {
        let output = output.full_name();
        mistakes.add(
            method,
            format!("returns {output}; a command returns {RECEIPT}, so that it can be repeated"),
        );
    }
    let has_context = request.get_field(1).is_some_and(|field| {
        let kind = field.kind();
        field.name() == "context" && kind.as_message().is_some_and(|m| m.full_name() == CONTEXT)
    });
    if !has_context {
        mistakes
            .add(&request, format!("a command needs its context; add `{CONTEXT} context = 1;`"));
    }
    let role = format!("the key of command {}", method.name());
    across::check_key(&request, &options.key, &role, mistakes);
}

fn read_methods(pool: &DescriptorPool) -> Vec<Method> {
    let mut methods: Vec<_> = services(pool)
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|descriptor| Method {
            path: path(&descriptor),
            aggregate: options::command(&descriptor).map(|options| options.aggregate),
            descriptor,
        })
        .collect();
    methods.sort_by(|a, b| a.path.cmp(&b.path));
    methods
}

fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}
