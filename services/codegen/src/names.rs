//! Rust names of elements of the contract: the same that prost and tonic give them.

use heck::{ToSnakeCase, ToUpperCamelCase};
use proc_macro2::{Ident, Span, TokenStream};
use prost_reflect::{EnumDescriptor, MessageDescriptor};
use quote::quote;

/// Keywords that cannot be raw identifiers.
const NEVER_RAW: [&str; 5] = ["super", "self", "Self", "extern", "crate"];

/// The name of a module, a field or a function.
pub fn snake(name: &str) -> Ident {
    ident(&name.to_snake_case())
}

/// The name of a type or a variant.
pub fn camel(name: &str) -> Ident {
    ident(&name.to_upper_camel_case())
}

fn ident(name: &str) -> Ident {
    if NEVER_RAW.contains(&name) {
        return Ident::new(&format!("{name}_"), Span::call_site());
    }
    // A keyword does not parse as an identifier.
    syn::parse_str(name).unwrap_or_else(|_| Ident::new_raw(name, Span::call_site()))
}

/// The path of a package: `crate::bank::v1`.
pub fn package_path(package: &str) -> TokenStream {
    let segments = package.split('.').map(snake);
    quote!(crate #(::#segments)*)
}

/// The path of a message: `crate::bank::v1::DepositRequest`.
pub fn message_path(message: &MessageDescriptor) -> TokenStream {
    let scope = scope(message.package_name(), message.parent_message());
    let name = camel(message.name());
    quote!(#scope::#name)
}

/// The path of an enum: `crate::bank::v1::MovementMethod`.
pub fn enum_path(descriptor: &EnumDescriptor) -> TokenStream {
    let scope = scope(descriptor.package_name(), descriptor.parent_message());
    let name = camel(descriptor.name());
    quote!(#scope::#name)
}

/// The path of the enum of a oneof: `crate::daybook::v1::new_event::Payload`.
pub fn oneof_path(message: &MessageDescriptor, oneof: &str) -> TokenStream {
    let scope = scope(message.package_name(), Some(message.clone()));
    let name = camel(oneof);
    quote!(#scope::#name)
}

/// The module that prost puts nested types into.
fn scope(package: &str, parent: Option<MessageDescriptor>) -> TokenStream {
    let mut modules = Vec::new();
    let mut next = parent;
    while let Some(message) = next {
        modules.insert(0, snake(message.name()));
        next = message.parent_message();
    }
    let package = package_path(package);
    quote!(#package #(::#modules)*)
}

/// Whether a package is not the contract's own.
pub fn is_google(package: &str) -> bool {
    package == "google" || package.starts_with("google.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_prost() {
        assert_eq!(snake("OpenAccount").to_string(), "open_account");
        assert_eq!(snake("type").to_string(), "r#type");
        assert_eq!(snake("self").to_string(), "self_");
        assert_eq!(camel("account_opened").to_string(), "AccountOpened");
        assert_eq!(package_path("bank.v1").to_string(), quote!(crate::bank::v1).to_string());
    }
}
