//! Reads and checks what an aggregate declares about others: the states that its commands read,
//! and the values that are unique among its kind.

use heck::ToShoutySnakeCase;
use prost_reflect::{
    Cardinality, DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};

use crate::mistakes::Mistakes;
use crate::model::{Aggregates, messages, unknown_aggregate};
use crate::options::{self, CommandOptions, UniqueOptions};

/// Another aggregate that a command reads.
pub struct Read {
    /// The name of its state in code: the key without `_id`.
    pub name: String,
    /// The request field with its id.
    pub key: String,
    /// The name of the aggregate.
    pub aggregate: String,
    /// The message of its state.
    pub state: MessageDescriptor,
}

/// What a command reads. Checked.
pub fn reads(
    method: &MethodDescriptor,
    options: &CommandOptions,
    aggregates: &Aggregates,
    mistakes: &mut Mistakes,
) -> Vec<Read> {
    let mut reads: Vec<Read> = Vec::new();
    for read in &options.reads {
        let Some(aggregate) = aggregates.get(&read.aggregate) else {
            mistakes.add(method, unknown_aggregate(&read.aggregate, aggregates));
            continue;
        };
        let role = format!("the key by which command {} reads", method.name());
        check_key(&method.input(), &read.key, &role, mistakes);
        let name = match read.name.as_str() {
            "" => read.key.strip_suffix("_id").unwrap_or(&read.key),
            name => name,
        };
        let name = name.to_owned();
        if reads.iter().any(|other| other.name == name) {
            let mend = "give one of them another `name`";
            mistakes.add(method, format!("reads two states called {name:?}; {mend}"));
            continue;
        }
        reads.push(Read {
            name,
            key: read.key.clone(),
            aggregate: read.aggregate.clone(),
            state: aggregate.state.clone(),
        });
    }
    reads
}

/// A key must be a field of the request with plain text.
pub fn check_key(request: &MessageDescriptor, key: &str, role: &str, mistakes: &mut Mistakes) {
    match request.get_field_by_name(key) {
        None => {
            let field = if key.is_empty() { "id" } else { key };
            let mend = format!("add `string {field}` or correct `key`");
            mistakes.add(request, format!("has no field {key:?}, {role}; {mend}"));
        }
        Some(field) if !is_plain_text(&field) => {
            let mend = format!("an id is text: make it `string {}`", field.name());
            mistakes.add(&field, format!("is {role} but not a plain string; {mend}"));
        }
        Some(_) => {}
    }
}

fn is_plain_text(field: &FieldDescriptor) -> bool {
    matches!(field.kind(), Kind::String)
        && field.cardinality() != Cardinality::Repeated
        && field.containing_oneof().is_none()
}

/// What is unique must have a name of its own and a reason for refusing, and each field that takes
/// or frees must belong to an event of the aggregate that declares it.
pub fn check_unique(pool: &DescriptorPool, aggregates: &Aggregates, mistakes: &mut Mistakes) {
    for aggregate in aggregates.values() {
        for (index, unique) in aggregate.unique.iter().enumerate() {
            let before = &aggregate.unique[..index];
            let others = aggregates.values().take_while(|other| other.name != aggregate.name);
            let mut earlier = before.iter().chain(others.flat_map(|other| &other.unique));
            if earlier.any(|other| other.scope == unique.scope) {
                let mend = "choose another name for one of them";
                let problem = format!("the scope {:?} is declared twice; {mend}", unique.scope);
                mistakes.add(&aggregate.state, problem);
            }
            if let Some(problem) = unique_problem(pool, &aggregate.package, unique) {
                mistakes.add(&aggregate.state, problem);
            }
        }
    }
    for field in messages(pool).flat_map(|message| message.fields().collect::<Vec<_>>()) {
        for (option, scope) in
            [("takes", options::takes(&field)), ("frees", options::frees(&field))]
        {
            let Some(scope) = scope else { continue };
            if let Some(problem) = claim_problem(&field, option, &scope, aggregates) {
                mistakes.add(&field, problem);
            }
        }
    }
}

fn unique_problem(pool: &DescriptorPool, package: &str, unique: &UniqueOptions) -> Option<String> {
    let UniqueOptions { scope, reason, .. } = unique;
    if scope.is_empty() {
        return Some("what is unique has no scope; give it a name, such as users.email".to_owned());
    }
    let mut rejections = pool.all_enums().filter(|rejections| {
        rejections.package_name() == package && rejections.name().ends_with("Rejection")
    });
    let is_declared = rejections.any(|rejections| {
        let name = format!("{}_{reason}", rejections.name().to_shouty_snake_case());
        rejections.get_value_by_name(&name).is_some()
    });
    (!is_declared).then(|| {
        format!(
            "the reason {reason:?} of the scope {scope:?} is no rejection of {package}; add it to \
             the enum of rejections, such as USER_REJECTION_EMAIL_TAKEN for EMAIL_TAKEN"
        )
    })
}

fn claim_problem(
    field: &FieldDescriptor,
    option: &str,
    scope: &str,
    aggregates: &Aggregates,
) -> Option<String> {
    let Some(event) = options::event(field.parent_message()) else {
        return Some(format!(
            "{option} {scope:?} but is no field of an event; only events take and free values"
        ));
    };
    if !is_plain_text(field) {
        return Some(format!(
            "{option} {scope:?} but is not a plain string; make it `string {}`",
            field.name()
        ));
    }
    let aggregate = aggregates.get(&event.aggregate)?;
    let is_declared = aggregate.unique.iter().any(|unique| unique.scope == scope);
    (!is_declared).then(|| {
        format!(
            "{option} {scope:?}, which aggregate {:?} does not declare; add `unique` with this \
             scope to its (daybook.v1.aggregate) or correct the name",
            aggregate.name
        )
    })
}
