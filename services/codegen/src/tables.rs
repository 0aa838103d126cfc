//! Writes what stands at the root of the crate: tables over the whole contract.

use std::collections::BTreeSet;

use proc_macro2::TokenStream;
use quote::quote;

use crate::model::Model;
use crate::names::{message_path, package_path};

/// The tables, and the functions that choose by them.
pub fn root(model: &Model) -> TokenStream {
    let methods = methods(model);
    let aggregates = aggregates(model);
    let check = check_request(model);
    let dispatch = dispatch(model);
    quote! { #methods #aggregates #check #dispatch }
}

fn methods(model: &Model) -> TokenStream {
    let rows = model.methods.iter().map(|method| {
        let path = &method.path;
        let aggregate = match &method.aggregate {
            Some(aggregate) => quote!(Some(#aggregate)),
            None => quote!(None),
        };
        let descriptor = &method.descriptor;
        let (input, output) = (descriptor.input(), descriptor.output());
        let (input, output) = (input.full_name(), output.full_name());
        let client_streaming = descriptor.is_client_streaming();
        let server_streaming = descriptor.is_server_streaming();
        quote! {
            crate::contract::Method {
                path: #path,
                aggregate: #aggregate,
                input: #input,
                output: #output,
                client_streaming: #client_streaming,
                server_streaming: #server_streaming,
            }
        }
    });
    quote! {
        /// Every method of every service, sorted by path.
        pub const METHODS: &[crate::contract::Method] = &[#(#rows),*];
    }
}

fn aggregates(model: &Model) -> TokenStream {
    let rows = model.aggregates.iter().map(|aggregate| {
        let (name, topic) = (&aggregate.name, &aggregate.topic);
        let state = aggregate.state.full_name();
        quote! { crate::contract::AggregateInfo { name: #name, topic: #topic, state: #state } }
    });
    quote! {
        /// Every aggregate, sorted by name.
        pub const AGGREGATES: &[crate::contract::AggregateInfo] = &[#(#rows),*];
    }
}

fn check_request(model: &Model) -> TokenStream {
    let inputs: BTreeSet<_> = model
        .methods
        .iter()
        .map(|method| method.descriptor.input().full_name().to_owned())
        .collect();
    let arms = model.requests.iter().filter(|m| inputs.contains(m.full_name())).map(|request| {
        let (name, path) = (request.full_name(), message_path(request));
        quote! { #name => check::<#path>(bytes) }
    });
    quote! {
        /// Checks the encoded request of any RPC by its full type name, such as
        /// `bank.v1.DepositRequest`. `None` when no RPC takes it.
        pub fn check_request(
            type_name: &str,
            bytes: bytes::Bytes,
        ) -> Option<Result<crate::contract::Violations, prost::DecodeError>> {
            fn check<M: prost::Message + Default + crate::contract::Validate>(
                bytes: bytes::Bytes,
            ) -> Result<crate::contract::Violations, prost::DecodeError> {
                let mut violations = crate::contract::Violations::default();
                M::decode(bytes)?.validate(&mut violations);
                Ok(violations)
            }
            Some(match type_name {
                #(#arms,)*
                _ => return None,
            })
        }
    }
}

fn dispatch(model: &Model) -> TokenStream {
    let arms = model.aggregates.iter().map(|aggregate| {
        let (name, module) = (&aggregate.name, &aggregate.module);
        let package = package_path(&aggregate.package);
        quote! {
            Some(#name) => {
                decode_and_dispatch::<#package::#module::Command>(dispatch, method, request).await
            }
        }
    });
    quote! {
        /// Hands the encoded request of a command RPC to `dispatch`. A method that is not a command
        /// is refused with `NOT_SUPPORTED`, what is not its request with `INVALID_REQUEST`.
        pub async fn dispatch(
            dispatch: &impl crate::contract::Dispatch,
            method: &crate::contract::Method,
            request: tonic::Request<bytes::Bytes>,
        ) -> Result<crate::daybook::v1::CommandReceipt, tonic::Status> {
            use crate::contract::{decode_and_dispatch, not_a_command};
            match method.aggregate {
                #(#arms)*
                _ => Err(not_a_command(method)),
            }
        }
    }
}
