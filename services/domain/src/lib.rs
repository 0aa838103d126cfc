//! The domains of Daybook: one file an aggregate, one line here.
//!
//! A rule is a pure function. There is no clock, no randomness, no I/O and no float in this crate;
//! `clippy.toml` holds it to that. docs/add-a-domain.md shows how to add an aggregate.

#![deny(clippy::float_arithmetic)]

use daybook_kernel::Registry;

/// Declares the module of each aggregate, and registers all of them.
macro_rules! aggregates {
    ($($module:ident::$aggregate:ident,)*) => {
        $(pub mod $module;)*

        /// Registers every aggregate of this crate, in the order of the lines below.
        pub fn register(registry: &mut impl Registry) {
            $(registry.aggregate::<$module::$aggregate>();)*
        }
    };
}

aggregates! {
    account::Account,
    order::Order,
    product::Product,
    stock::Stock,
    user::User,
}
