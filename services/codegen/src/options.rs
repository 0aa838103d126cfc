//! Reads Daybook's options (`daybook/v1/options.proto`) from descriptors.

use prost_reflect::{
    DynamicMessage, FieldDescriptor, MessageDescriptor, MethodDescriptor, ReflectMessage, Value,
};

/// `daybook.v1.CommandOptions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOptions {
    /// The aggregate that decides the command.
    pub aggregate: String,
    /// The request field with its id.
    pub key: String,
    /// Whether an empty key is filled by the server.
    pub generate_key: bool,
    /// The other aggregates that the decision depends on.
    pub reads: Vec<ReadOptions>,
}

/// `daybook.v1.ReadOptions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    /// The aggregate that is read.
    pub aggregate: String,
    /// The request field with its id.
    pub key: String,
    /// The name of the state in code; empty for that of the key.
    pub name: String,
}

/// `daybook.v1.AggregateOptions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AggregateOptions {
    /// The name, such as `bank.account`.
    pub name: String,
    /// The Kafka topic of its events.
    pub topic: String,
    /// What no two of its kind may have.
    pub unique: Vec<UniqueOptions>,
}

/// `daybook.v1.UniqueOptions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UniqueOptions {
    /// Its name, such as `users.email`.
    pub scope: String,
    /// Whether the case of letters makes no difference.
    pub ignore_case: bool,
    /// Why a value that is taken is refused.
    pub reason: String,
}

/// `daybook.v1.EventOptions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventOptions {
    /// The aggregate that records it.
    pub aggregate: String,
    /// The name, the same in all versions.
    pub name: String,
    /// The version of the schema, from 1.
    pub version: u32,
}

/// `daybook.v1.FieldRules`; without any rule when the field has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldRules {
    /// Must be set.
    pub required: bool,
    /// The most characters; 0 when not said.
    pub max_chars: u32,
    /// Is an id.
    pub id: bool,
    /// Is a UUID.
    pub uuid: bool,
    /// The largest number; 0 when not said.
    pub max: u64,
    /// Is an e-mail address.
    pub email: bool,
}

/// How a method is routed, when it is a command.
pub fn command(method: &MethodDescriptor) -> Option<CommandOptions> {
    let options = extension(&method.options(), "daybook.v1.command")?;
    Some(CommandOptions {
        aggregate: text(&options, "aggregate"),
        key: text(&options, "key"),
        generate_key: flag(&options, "generate_key"),
        reads: list(&options, "reads")
            .iter()
            .map(|read| ReadOptions {
                aggregate: text(read, "aggregate"),
                key: text(read, "key"),
                name: text(read, "name"),
            })
            .collect(),
    })
}

/// Which aggregate a message is the state of.
pub fn aggregate(message: &MessageDescriptor) -> Option<AggregateOptions> {
    let options = extension(&message.options(), "daybook.v1.aggregate")?;
    let unique = list(&options, "unique").into_iter().map(|unique| UniqueOptions {
        scope: text(&unique, "scope"),
        ignore_case: flag(&unique, "ignore_case"),
        reason: text(&unique, "reason"),
    });
    Some(AggregateOptions {
        name: text(&options, "name"),
        topic: text(&options, "topic"),
        unique: unique.collect(),
    })
}

/// Which event a message is.
pub fn event(message: &MessageDescriptor) -> Option<EventOptions> {
    let options = extension(&message.options(), "daybook.v1.event")?;
    Some(EventOptions {
        aggregate: text(&options, "aggregate"),
        name: text(&options, "name"),
        version: number(&options, "version").try_into().unwrap_or(u32::MAX),
    })
}

/// The rules of a field.
pub fn rules(field: &FieldDescriptor) -> FieldRules {
    let Some(options) = extension(&field.options(), "daybook.v1.rules") else {
        return FieldRules::default();
    };
    FieldRules {
        required: flag(&options, "required"),
        max_chars: number(&options, "max_chars").try_into().unwrap_or(u32::MAX),
        id: flag(&options, "id"),
        uuid: flag(&options, "uuid"),
        max: number(&options, "max"),
        email: flag(&options, "email"),
    }
}

/// Whether a field is read as bytes.
pub fn verbatim(field: &FieldDescriptor) -> bool {
    value(&field.options(), "daybook.v1.verbatim").is_some_and(|v| v.as_bool() == Some(true))
}

/// The scope in which an event takes the value of a field.
pub fn takes(field: &FieldDescriptor) -> Option<String> {
    value(&field.options(), "daybook.v1.takes")?.as_str().map(str::to_owned)
}

/// The scope in which an event gives up the value of a field.
pub fn frees(field: &FieldDescriptor) -> Option<String> {
    value(&field.options(), "daybook.v1.frees")?.as_str().map(str::to_owned)
}

fn extension(options: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    value(options, name)?.as_message().cloned()
}

fn value(options: &DynamicMessage, name: &str) -> Option<Value> {
    let extension = options.descriptor().parent_pool().get_extension_by_name(name)?;
    options.has_extension(&extension).then(|| options.get_extension(&extension).into_owned())
}

fn list(options: &DynamicMessage, field: &str) -> Vec<DynamicMessage> {
    let value = get(options, field);
    let list = value.as_list().unwrap_or_default();
    list.iter().filter_map(Value::as_message).cloned().collect()
}

fn text(options: &DynamicMessage, field: &str) -> String {
    get(options, field).as_str().unwrap_or_default().to_owned()
}

fn flag(options: &DynamicMessage, field: &str) -> bool {
    get(options, field).as_bool().unwrap_or_default()
}

fn number(options: &DynamicMessage, field: &str) -> u64 {
    match get(options, field) {
        Value::U32(number) => number.into(),
        Value::U64(number) => number,
        _ => 0,
    }
}

fn get(options: &DynamicMessage, field: &str) -> Value {
    options.get_field_by_name(field).map_or(Value::Bool(false), |value| value.into_owned())
}
