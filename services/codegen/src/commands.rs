//! Writes the commands of an aggregate.

use proc_macro2::TokenStream;
use quote::quote;

use crate::mistakes::Element;
use crate::model::Aggregate;
use crate::names::{camel, message_path, snake};
use crate::reads;

/// The enum of the commands of an aggregate.
pub fn command_set(aggregate: &Aggregate) -> TokenStream {
    let doc = format!(" The commands of `{}`.", aggregate.name);
    let variants = aggregate.commands.iter().map(|command| {
        let (doc, variant) = (command.method.comment(), camel(command.method.name()));
        let request = message_path(&command.request());
        let reads = reads::type_name(command).into_iter();
        quote! { #[doc = #doc] #variant(#request #(, #reads)*) }
    });
    let conversions = aggregate.commands.iter().map(|command| {
        let (variant, request) = (camel(command.method.name()), message_path(&command.request()));
        let reads = reads::type_name(command).into_iter();
        quote! {
            impl From<#request> for Command {
                fn from(request: #request) -> Self {
                    Self::#variant(request #(, #reads::default())*)
                }
            }
        }
    });
    let states = reads::states(aggregate);
    let implementation = implementation(aggregate);
    quote! {
        #[doc = #doc]
        #[derive(Debug, Clone, PartialEq)]
        pub enum Command { #(#variants,)* }
        #(#conversions)*
        #states
        #implementation
    }
}

fn implementation(aggregate: &Aggregate) -> TokenStream {
    let name = &aggregate.name;
    let commands = &aggregate.commands;
    let variants: Vec<_> = commands.iter().map(|command| camel(command.method.name())).collect();
    let types: Vec<_> =
        commands.iter().map(|command| command.request().full_name().to_owned()).collect();
    let methods = commands.iter().map(|command| &command.path);
    let keys: Vec<_> = commands.iter().map(|command| snake(&command.key)).collect();
    let requests: Vec<_> =
        commands.iter().map(|command| message_path(&command.request())).collect();
    let methods_of_reads = reads::methods(aggregate);
    let generates = commands.iter().map(|command| command.generate_key);
    quote! {
        impl crate::contract::CommandSet for Command {
            const AGGREGATE: &'static str = #name;

            fn decode(
                type_name: &str,
                bytes: &[u8],
            ) -> Option<Result<Self, prost::DecodeError>> {
                match type_name {
                    #(#types => Some(<#requests as prost::Message>::decode(bytes).map(Self::from)),)*
                    _ => None,
                }
            }

            fn type_name(&self) -> &'static str {
                match self { #(Self::#variants(..) => #types,)* }
            }

            fn method(&self) -> &'static str {
                match self { #(Self::#variants(..) => #methods,)* }
            }

            fn take_context(&mut self) -> Option<crate::daybook::v1::CommandContext> {
                match self { #(Self::#variants(request, ..) => request.context.take(),)* }
            }

            fn key(&self) -> &str {
                match self { #(Self::#variants(request, ..) => &request.#keys,)* }
            }

            fn set_key(&mut self, key: String) {
                match self { #(Self::#variants(request, ..) => request.#keys = key,)* }
            }

            fn generates_key(&self) -> bool {
                match self { #(Self::#variants(..) => #generates,)* }
            }

            fn content(&self) -> Vec<u8> {
                match self {
                    #(Self::#variants(request, ..) => match request.context {
                        None => prost::Message::encode_to_vec(request),
                        Some(_) => {
                            let request = #requests { context: None, ..request.clone() };
                            prost::Message::encode_to_vec(&request)
                        }
                    },)*
                }
            }

            fn validate(&self, violations: &mut crate::contract::Violations) {
                match self {
                    #(Self::#variants(request, ..) => {
                        crate::contract::Validate::validate(request, violations);
                    })*
                }
            }

            #methods_of_reads
        }
    }
}
