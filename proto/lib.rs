//! The contract of Daybook: the protobuf messages and services of `proto/`, the code that
//! `daybook-codegen` makes of their options, the traits of that code ([`contract`]) and the errors
//! that callers see ([`error`]).
//!
//! Nothing here is about storage, Kafka or a server: clients depend on this crate alone.

pub mod contract;
pub mod error;

mod generated {
    #![allow(missing_docs, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/contract.rs"));
}
pub use generated::*;

/// The encoded FileDescriptorSet of the whole contract, custom options and comments included; for
/// server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
