//! Writes the check of every message that a request can contain, after `daybook.v1.rules` and the
//! rules that hold without being asked for.

use std::collections::BTreeMap;

use proc_macro2::{Ident, Literal, TokenStream};
use prost_reflect::{
    DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor,
};
use quote::{format_ident, quote};

use crate::mistakes::Mistakes;
use crate::model::Model;
use crate::names::{self, camel, enum_path, message_path, oneof_path, snake};
use crate::options::{self, FieldRules};

const MONEY: &str = "daybook.v1.Money";

/// The messages that can be reached from `inputs`, by full name; those of Google and Money, which
/// are checked where they are used, are left out.
pub fn reachable(inputs: impl Iterator<Item = MessageDescriptor>) -> Vec<MessageDescriptor> {
    let mut found = BTreeMap::new();
    let mut open: Vec<_> = inputs.collect();
    while let Some(message) = open.pop() {
        let known = found.contains_key(message.full_name());
        let built_in = message.full_name() == MONEY || names::is_google(message.package_name());
        if known || built_in {
            continue;
        }
        open.extend(message.fields().flat_map(|field| contained_messages(&field)));
        found.insert(message.full_name().to_owned(), message);
    }
    found.into_values().collect()
}

/// The messages that a field holds; none when they are read as bytes.
fn contained_messages(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    let kind = value_kind(field);
    kind.as_message().filter(|_| !options::verbatim(field)).cloned()
}

/// The kind of the value; for a map that of its values.
fn value_kind(field: &FieldDescriptor) -> Kind {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
        kind => kind,
    }
}

/// Rules must fit the type of their field.
pub fn check_rules(pool: &DescriptorPool, mistakes: &mut Mistakes) {
    let messages = pool.all_messages().filter(|m| !names::is_google(m.package_name()));
    for field in messages.flat_map(|message| message.fields().collect::<Vec<_>>()) {
        for problem in rule_problems(&field, &options::rules(&field)) {
            mistakes.add(&field, problem);
        }
    }
}

fn rule_problems(field: &FieldDescriptor, rules: &FieldRules) -> Vec<&'static str> {
    let kind = value_kind(field);
    let is_text = matches!(kind, Kind::String);
    let forms = [rules.max_chars > 0, rules.id, rules.uuid, rules.email];
    let forms = forms.into_iter().filter(|rule| *rule).count();
    let one_of = field.containing_oneof();
    let in_oneof = one_of.as_ref().is_some_and(|oneof| !oneof.is_synthetic());
    let is_plain_bool = matches!(kind, Kind::Bool) && one_of.is_none() && !field.is_list();
    [
        (
            forms > 0 && !is_text,
            "has a rule for text (max_chars, id, uuid, email) but is not a string; take the rule away",
        ),
        (
            forms > 1,
            "has more than one of max_chars, id, uuid and email; the last three have a length \
             already: keep one",
        ),
        (
            rules.max > 0 && !is_integer(&kind),
            "has the rule max but is not an integer; take the rule away",
        ),
        (
            rules.required && in_oneof,
            "is required inside a oneof, where only one field is set; take the rule away and let \
             the service check that the oneof is set",
        ),
        (
            rules.required && is_plain_bool && !field.is_map(),
            "is required but false is the same as not set; make it `optional bool` or an enum",
        ),
    ]
    .into_iter()
    .filter_map(|(wrong, problem)| wrong.then_some(problem))
    .collect()
}

/// The module with the checks of a package.
pub fn module(model: &Model, package: &str) -> TokenStream {
    let checks: Vec<_> = model
        .requests
        .iter()
        .filter(|message| message.package_name() == package)
        .map(implementation)
        .collect();
    let values: Vec<_> = enums(&model.requests)
        .values()
        .filter(|descriptor| descriptor.package_name() == package)
        .map(known_values)
        .collect();
    if checks.is_empty() && values.is_empty() {
        return TokenStream::new();
    }
    quote! {
        /// The checks of requests, and of what they contain.
        #[allow(unused_imports)]
        mod validation {
            use crate::contract::{Validate, Violations};
            use crate::rules;

            #(#checks)*
            #(#values)*
        }
    }
}

fn enums(messages: &[MessageDescriptor]) -> BTreeMap<String, EnumDescriptor> {
    messages
        .iter()
        .flat_map(|message| message.fields().collect::<Vec<_>>())
        .filter_map(|field| value_kind(&field).as_enum().cloned())
        .map(|descriptor| (descriptor.full_name().to_owned(), descriptor))
        .collect()
}

fn known_values(descriptor: &EnumDescriptor) -> TokenStream {
    let path = enum_path(descriptor);
    let values = descriptor.values().map(|value| {
        let (number, name) = (value.number(), value.name().to_owned());
        quote!((#number, #name))
    });
    quote! {
        impl crate::rules::KnownValues for #path {
            const VALUES: &'static [(i32, &'static str)] = &[#(#values),*];
        }
    }
}

fn implementation(message: &MessageDescriptor) -> TokenStream {
    let path = message_path(message);
    let fields = message.fields().filter(|field| !is_in_oneof(field)).map(|f| field_checks(&f));
    let oneofs = message
        .oneofs()
        .filter(|oneof| !oneof.is_synthetic())
        .map(|oneof| oneof_checks(message, &oneof));
    let checks: Vec<_> = fields.chain(oneofs).filter(|checks| !checks.is_empty()).collect();
    let violations = violations(checks.is_empty());
    quote! {
        impl Validate for #path {
            fn validate(&self, #violations: &mut Violations) {
                #(#checks)*
            }
        }
    }
}

/// The name of the argument, which a message without any rule does not use.
fn violations(unused: bool) -> Ident {
    if unused { format_ident!("_violations") } else { format_ident!("violations") }
}

fn is_in_oneof(field: &FieldDescriptor) -> bool {
    field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic())
}

fn field_checks(field: &FieldDescriptor) -> TokenStream {
    let rules = options::rules(field);
    let (name, member) = (field.name(), snake(field.name()));
    let required = rules.required.then(|| {
        let is_set = is_set(field, &member);
        let is_number = is_integer(&field.kind()) && !field.is_list() && !is_optional(field);
        let check = if is_number { quote!(not_zero) } else { quote!(required) };
        quote!(rules::#check(violations, #name, #is_set);)
    });
    let value = value_checks(field, &rules, &member);
    quote!(#required #value)
}

/// Whether a field is set: not absent, not empty, not zero.
fn is_set(field: &FieldDescriptor, member: &Ident) -> TokenStream {
    if field.is_list() || field.is_map() {
        return quote!(!self.#member.is_empty());
    }
    if is_optional(field) {
        return quote!(self.#member.is_some());
    }
    match field.kind() {
        // Blanks say no more than nothing.
        Kind::String => quote!(!self.#member.trim().is_empty()),
        Kind::Message(_) | Kind::Bytes => quote!(!self.#member.is_empty()),
        Kind::Double | Kind::Float => quote!(self.#member != 0.0),
        Kind::Bool => quote!(self.#member),
        _ => quote!(self.#member != 0),
    }
}

/// Whether the Rust type of a single field is an Option. prost makes one of every message, but a
/// verbatim one is bytes.
fn is_optional(field: &FieldDescriptor) -> bool {
    field.supports_presence() && !options::verbatim(field)
}

fn value_checks(field: &FieldDescriptor, rules: &FieldRules, member: &Ident) -> TokenStream {
    let name = field.name();
    if options::verbatim(field) {
        return TokenStream::new();
    }
    if let Kind::Message(entry) = field.kind()
        && field.is_map()
    {
        let key = Element::bound(Name::Plain(name.to_owned()), "key")
            .checks(&entry.map_entry_key_field().kind(), &FieldRules::default());
        let value = Element::bound(Name::Pattern(format!("{name}[{{key}}]")), "value")
            .checks(&entry.map_entry_value_field().kind(), rules);
        return if value.is_empty() {
            in_block(&key, quote!(for key in self.#member.keys()))
        } else {
            in_block(&quote!(#key #value), quote!(for (key, value) in &self.#member))
        };
    }
    if field.is_list() {
        let checks = Element::bound(Name::Pattern(format!("{name}[{{index}}]")), "value")
            .checks(&field.kind(), rules);
        return in_block(&checks, quote!(for (index, value) in self.#member.iter().enumerate()));
    }
    let name = Name::Plain(name.to_owned());
    if is_optional(field) {
        let checks = Element::bound(name, "value").checks(&field.kind(), rules);
        return in_block(&checks, quote!(if let Some(value) = &self.#member));
    }
    Element { name, by_ref: quote!(&self.#member), by_value: quote!(self.#member) }
        .checks(&field.kind(), rules)
}

/// Nothing when there is nothing to check.
fn in_block(checks: &TokenStream, head: TokenStream) -> TokenStream {
    if checks.is_empty() {
        return TokenStream::new();
    }
    quote!(#head { #checks })
}

fn oneof_checks(message: &MessageDescriptor, oneof: &OneofDescriptor) -> TokenStream {
    let (path, member) = (oneof_path(message, oneof.name()), snake(oneof.name()));
    let fields: Vec<_> = oneof.fields().filter(|field| !options::verbatim(field)).collect();
    let checks = fields.iter().map(|field| {
        let checks = Element::bound(Name::Plain(field.name().to_owned()), "value")
            .checks(&field.kind(), &options::rules(field));
        let variant = camel(field.name());
        in_block(&checks, quote!(if let Some(#path::#variant(value)) = &self.#member))
    });
    quote!(#(#checks)*)
}

/// How a value is named to people.
enum Name {
    /// The name of the field.
    Plain(String),
    /// The name of an element, with its key or index still to be filled in: `events[{index}]`.
    Pattern(String),
}

impl Name {
    /// An expression for a `&str`.
    fn by_ref(&self) -> TokenStream {
        match self {
            Self::Plain(name) => quote!(#name),
            Self::Pattern(pattern) => quote!(&format!(#pattern)),
        }
    }

    /// An expression for something that becomes a String.
    fn owned(&self) -> TokenStream {
        match self {
            Self::Plain(name) => quote!(#name),
            Self::Pattern(pattern) => quote!(format!(#pattern)),
        }
    }
}

/// One value: its name, and Rust expressions for a reference to it and for itself.
struct Element {
    name: Name,
    by_ref: TokenStream,
    by_value: TokenStream,
}

impl Element {
    /// A value that a variable is a reference to.
    fn bound(name: Name, variable: &str) -> Self {
        let variable = format_ident!("{variable}");
        Self { name, by_ref: quote!(#variable), by_value: quote!(*#variable) }
    }

    fn checks(&self, kind: &Kind, rules: &FieldRules) -> TokenStream {
        let Self { by_ref, by_value, .. } = self;
        let name = self.name.by_ref();
        match kind {
            Kind::String if rules.id => quote!(rules::id(violations, #name, #by_ref);),
            Kind::String if rules.uuid => quote!(rules::uuid(violations, #name, #by_ref);),
            Kind::String if rules.email => quote!(rules::email(violations, #name, #by_ref);),
            Kind::String if rules.max_chars == 0 => {
                quote!(rules::text(violations, #name, #by_ref, rules::DEFAULT_MAX_CHARS);)
            }
            Kind::String => {
                let max = Literal::u32_unsuffixed(rules.max_chars);
                quote!(rules::text(violations, #name, #by_ref, #max);)
            }
            Kind::Enum(descriptor) => {
                let path = enum_path(descriptor);
                quote!(rules::known::<#path>(violations, #name, #by_value);)
            }
            Kind::Message(message) => self.message_checks(message),
            kind if rules.max > 0 && is_integer(kind) => {
                let max = Literal::u64_unsuffixed(rules.max);
                quote!(rules::at_most(violations, #name, #by_value, #max);)
            }
            _ => TokenStream::new(),
        }
    }

    fn message_checks(&self, message: &MessageDescriptor) -> TokenStream {
        let (name, value) = (self.name.by_ref(), &self.by_ref);
        match message.full_name() {
            MONEY => quote!(rules::money(violations, #name, #value);),
            "google.protobuf.Timestamp" => quote!(rules::timestamp(violations, #name, #value);),
            "google.protobuf.Duration" => quote!(rules::duration(violations, #name, #value);),
            _ if names::is_google(message.package_name()) => TokenStream::new(),
            _ => {
                let name = self.name.owned();
                quote!(violations.within(#name, |violations| #value.validate(violations));)
            }
        }
    }
}

fn is_integer(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Int32
            | Kind::Int64
            | Kind::Uint32
            | Kind::Uint64
            | Kind::Sint32
            | Kind::Sint64
            | Kind::Fixed32
            | Kind::Fixed64
            | Kind::Sfixed32
            | Kind::Sfixed64
    )
}
