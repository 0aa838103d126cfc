//! The domains of Daybook: one file an aggregate, one line here.
//!
//! A rule is a pure function. There is no clock, no randomness, no I/O and no float in this crate;
//! `clippy.toml` holds it to that. docs/add-a-domain.md shows how to add an aggregate.

#![deny(clippy::float_arithmetic)]

use daybook_contract::contract::AggregateState;
use daybook_kernel::saga::{joined, total};
use daybook_kernel::{Aggregate, Registry, Saga, SagaRegistry};

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

/// Registers all sagas. Each is an aggregate as well.
macro_rules! sagas {
    ($($module:ident::$saga:ident,)*) => {
        /// Registers every saga of this crate, in the order of the lines below.
        pub fn register_sagas(registry: &mut impl SagaRegistry) {
            $(registry.saga::<$module::$saga>();)*
        }

        /// The aggregates of whose events sagas are made: the sagas, and what may start them. Some
        /// are here twice.
        pub const SAGA_AGGREGATES: &[&str] = &joined::<{ total(AGGREGATES_OF_EACH) }>(AGGREGATES_OF_EACH);

        const AGGREGATES_OF_EACH: &[&[&str]] = &[
            $(
                &[<<$module::$saga as Aggregate>::State as AggregateState>::AGGREGATE],
                <$module::$saga as Saga>::STARTED_BY,
            )*
        ];
    };
}

aggregates! {
    account::Account,
    fulfilment::Fulfilment,
    order::Order,
    product::Product,
    shipment::Shipment,
    stock::Stock,
    transfer::Transfer,
    user::User,
}

sagas! {
    fulfilment::Fulfilment,
    shipment::Shipment,
    transfer::Transfer,
}
