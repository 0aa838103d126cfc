//! Writes the events of an aggregate: the enum of the current ones, the trait with an upcaster
//! for each superseded version, and what the state says about its aggregate.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};

use crate::mistakes::Element;
use crate::model::{Aggregate, Event};
use crate::names::{camel, message_path, snake};
use crate::options::{self, UniqueOptions};

/// Everything about the events of an aggregate.
pub fn event_set(aggregate: &Aggregate) -> TokenStream {
    let enumeration = enumeration(aggregate);
    let upcast = upcast(aggregate);
    let implementation = implementation(aggregate);
    let state = state(aggregate);
    quote! { #enumeration #upcast #implementation #state }
}

fn enumeration(aggregate: &Aggregate) -> TokenStream {
    let doc = format!(" The current events of `{}`.", aggregate.name);
    let variants = aggregate.events.iter().map(|event| {
        let (doc, variant) = (event.current().comment(), camel(&event.name));
        let message = message_path(event.current());
        quote! { #[doc = #doc] #variant(#message) }
    });
    let conversions = aggregate.events.iter().map(|event| {
        let (variant, message) = (camel(&event.name), message_path(event.current()));
        quote! {
            impl From<#message> for Event {
                fn from(event: #message) -> Self {
                    Self::#variant(event)
                }
            }
        }
    });
    quote! {
        #[doc = #doc]
        #[derive(Debug, Clone, PartialEq)]
        pub enum Event { #(#variants,)* }
        #(#conversions)*
    }
}

fn upcast(aggregate: &Aggregate) -> TokenStream {
    let doc = format!(
        " Brings superseded versions of the events of `{}` up to the next one. Old records are \
         read through it, so it must not change what it made of them once.",
        aggregate.name
    );
    let methods = aggregate.events.iter().flat_map(|event| {
        event.versions.windows(2).enumerate().map(|(index, pair)| {
            let version = index + 1;
            let doc =
                format!(" Brings version {version} of `{}` to version {}.", event.name, index + 2);
            let method = upcaster(event, version);
            let (old, new) = (message_path(&pair[0]), message_path(&pair[1]));
            quote! { #[doc = #doc] fn #method(old: #old) -> #new; }
        })
    });
    quote! {
        #[doc = #doc]
        pub trait Upcast { #(#methods)* }
    }
}

fn upcaster(event: &Event, version: usize) -> Ident {
    format_ident!("{}_v{version}", snake(&event.name))
}

fn implementation(aggregate: &Aggregate) -> TokenStream {
    let name = &aggregate.name;
    let decode = decode(aggregate);
    let unique = aggregate.unique.iter().map(|unique| {
        let UniqueOptions { scope, reason, .. } = unique;
        quote!(crate::contract::Unique { scope: #scope, reason: #reason })
    });
    let claims = claims(aggregate);
    let variants: Vec<_> = aggregate.events.iter().map(|event| camel(&event.name)).collect();
    let names = aggregate.events.iter().map(|event| &event.name);
    let versions = aggregate.events.iter().map(Event::version);
    let types: Vec<_> =
        aggregate.events.iter().map(|event| event.current().full_name().to_owned()).collect();
    let urls = types.iter().map(|name| format!("type.googleapis.com/{name}"));
    quote! {
        impl<U: Upcast> crate::contract::EventSet<U> for Event {
            const AGGREGATE: &'static str = #name;
            const UNIQUE: &'static [crate::contract::Unique] = &[#(#unique),*];

            #decode

            fn name(&self) -> &'static str {
                match self { #(Self::#variants(_) => #names,)* }
            }

            fn version(&self) -> u32 {
                match self { #(Self::#variants(_) => #versions,)* }
            }

            fn type_name(&self) -> &'static str {
                match self { #(Self::#variants(_) => #types,)* }
            }

            fn type_url(&self) -> &'static str {
                match self { #(Self::#variants(_) => #urls,)* }
            }

            fn encode(&self) -> Vec<u8> {
                match self { #(Self::#variants(event) => prost::Message::encode_to_vec(event),)* }
            }

            #claims
        }
    }
}

fn decode(aggregate: &Aggregate) -> TokenStream {
    let arms = aggregate.events.iter().flat_map(|event| {
        let variant = camel(&event.name);
        (1..=event.versions.len()).map(move |version| {
            let mut value = quote!(crate::contract::decode_event(name, version, bytes)?);
            for superseded in version..event.versions.len() {
                let method = upcaster(event, superseded);
                value = quote!(U::#method(#value));
            }
            let (name, version) = (&event.name, event_version(version));
            quote! { (#name, #version) => Ok(Self::#variant(#value)) }
        })
    });
    let names = aggregate.events.iter().map(|event| &event.name);
    let aggregate = &aggregate.name;
    quote! {
        fn decode(
            name: &str,
            version: u32,
            bytes: bytes::Bytes,
        ) -> Result<Self, crate::contract::EventError> {
            match (name, version) {
                #(#arms,)*
                (#(#names)|*, _) => Err(crate::contract::EventError::UnknownVersion {
                    aggregate: #aggregate,
                    name: name.to_owned(),
                    version,
                }),
                _ => Err(crate::contract::EventError::UnknownName {
                    aggregate: #aggregate,
                    name: name.to_owned(),
                }),
            }
        }
    }
}

/// What each event frees, and then what it takes.
fn claims(aggregate: &Aggregate) -> TokenStream {
    let arms = aggregate.events.iter().filter_map(|event| {
        let fields: Vec<_> = event.current().fields().collect();
        let freed = fields.iter().filter_map(|field| Some((field, options::frees(field)?, "Free")));
        let taken = fields.iter().filter_map(|field| Some((field, options::takes(field)?, "Take")));
        let claims: Vec<_> = freed
            .chain(taken)
            .map(|(field, scope, change)| {
                let unique = aggregate.unique.iter().find(|unique| unique.scope == scope);
                let ignore_case = unique.is_some_and(|unique| unique.ignore_case);
                let (field, change) = (snake(field.name()), camel(change));
                quote! {
                    crate::contract::claim(
                        &mut claims,
                        crate::contract::ClaimChange::#change,
                        #scope,
                        &event.#field,
                        #ignore_case,
                    );
                }
            })
            .collect();
        let variant = camel(&event.name);
        (!claims.is_empty()).then(|| quote! { Self::#variant(event) => { #(#claims)* } })
    });
    let arms: Vec<_> = arms.collect();
    let body = if arms.is_empty() {
        quote!(Vec::new())
    } else {
        quote! {
            let mut claims = Vec::new();
            #[allow(unreachable_patterns)]
            match self {
                #(#arms)*
                _ => {}
            }
            claims
        }
    };
    quote! {
        fn claims(&self) -> Vec<crate::contract::Claim> {
            #body
        }
    }
}

fn event_version(version: usize) -> u32 {
    u32::try_from(version).expect("read from a uint32")
}

fn state(aggregate: &Aggregate) -> TokenStream {
    let path = message_path(&aggregate.state);
    let (name, topic) = (&aggregate.name, &aggregate.topic);
    let type_name = aggregate.state.full_name();
    quote! {
        impl crate::contract::AggregateState for #path {
            const AGGREGATE: &'static str = #name;
            const TOPIC: &'static str = #topic;
            const TYPE_NAME: &'static str = #type_name;
        }
    }
}
