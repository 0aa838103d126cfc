//! The contract of Daybook: the protobuf messages and services of `proto/`, the code that
//! `daybook-codegen` makes of their options, the traits of that code ([`contract`]), the checks it
//! calls ([`rules`]), money ([`mod@money`]), the errors that callers see ([`error`])
//! and who they say they are ([`actor`]).
//!
//! Nothing here is about storage, Kafka or a server: clients depend on this crate alone.

pub mod actor;
pub mod contract;
pub mod error;
pub mod money;
pub mod rules;

// Whoever writes a contract cannot mend what clippy dislikes in the code generated from it.
#[allow(clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/contract.rs"));
}
pub use generated::*;

/// The largest request that a server takes, in bytes. A business command is far smaller; what is
/// larger is refused before it is decoded.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// The encoded FileDescriptorSet of the whole contract, custom options and comments included; for
/// server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
