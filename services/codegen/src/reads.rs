//! Writes what commands read: a struct with the states of other aggregates for each command that
//! has any, and how they get into it.

use proc_macro2::{Ident, TokenStream};
use quote::quote;

use crate::model::{Aggregate, Command};
use crate::names::{camel, message_path, snake};

/// The struct with what a command reads; `None` when it reads nothing.
pub fn type_name(command: &Command) -> Option<Ident> {
    let is_reading = !command.reads.is_empty();
    is_reading.then(|| camel(&format!("{}Reads", command.method.name())))
}

/// The structs.
pub fn states(aggregate: &Aggregate) -> TokenStream {
    let structs = aggregate.commands.iter().filter_map(|command| {
        let name = type_name(command)?;
        let doc = format!(
            " The states that `{}` reads, as of the same moment; the default of one that does not \
             exist.",
            command.method.name()
        );
        let fields = command.reads.iter().map(|read| {
            let doc = format!(" The `{}` whose id is in `{}`.", read.aggregate, read.key);
            let (field, state) = (snake(&read.name), message_path(&read.state));
            quote! { #[doc = #doc] pub #field: #state }
        });
        Some(quote! {
            #[doc = #doc]
            #[derive(Debug, Clone, Default, PartialEq)]
            pub struct #name { #(#fields,)* }
        })
    });
    quote! { #(#structs)* }
}

/// The methods of `CommandSet` about reads.
pub fn methods(aggregate: &Aggregate) -> TokenStream {
    let lists = aggregate.commands.iter().map(|command| {
        let variant = camel(command.method.name());
        if command.reads.is_empty() {
            return quote! { Self::#variant(..) => Vec::new(), };
        }
        let reads = command.reads.iter().map(|read| {
            let (aggregate, field, key) = (&read.aggregate, &read.key, snake(&read.key));
            quote! {
                crate::contract::Read { aggregate: #aggregate, key: &request.#key, field: #field }
            }
        });
        quote! { Self::#variant(request, ..) => vec![#(#reads),*], }
    });
    let setters = aggregate.commands.iter().flat_map(|command| {
        let variant = camel(command.method.name());
        command.reads.iter().enumerate().map(move |(index, read)| {
            let field = snake(&read.name);
            quote! {
                (Self::#variant(_, reads), #index) => {
                    crate::contract::set_read(&mut reads.#field, state)
                }
            }
        })
    });
    quote! {
        fn reads(&self) -> Vec<crate::contract::Read<'_>> {
            match self { #(#lists)* }
        }

        #[allow(unused_variables)]
        fn set_read(&mut self, index: usize, state: &dyn std::any::Any) -> bool {
            match (self, index) {
                #(#setters)*
                _ => false,
            }
        }
    }
}
