//! Writes what stands at the root of the crate: tables over the whole contract.

use std::collections::BTreeSet;

use proc_macro2::TokenStream;
use quote::{format_ident, quote};

use crate::commands::router_name;
use crate::model::Model;
use crate::names::{camel, message_path, package_path, snake};

/// The tables, and the function that adds every router.
pub fn root(model: &Model) -> TokenStream {
    let methods = methods(model);
    let aggregates = aggregates(model);
    let check = check_request(model);
    let services = command_services(model);
    quote! { #methods #aggregates #check #services }
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

fn command_services(model: &Model) -> TokenStream {
    let services = model.routers.iter().map(|router| {
        let package = package_path(router.service.package_name());
        let module = format_ident!("{}_server", snake(router.service.name()));
        let server = camel(&format!("{}Server", router.service.name()));
        let name = router_name(router);
        quote! {
            .add_service(
                #package::#module::#server::new(#package::#name(dispatch.clone()))
                    .max_decoding_message_size(crate::MAX_MESSAGE_BYTES)
            )
        }
    });
    quote! {
        /// The command services of all domains; every command goes to `dispatch`.
        pub fn command_services<D: crate::contract::Dispatch>(
            dispatch: D,
        ) -> tonic::service::Routes {
            tonic::service::Routes::default() #(#services)*
        }
    }
}
