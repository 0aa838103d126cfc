//! Holds the contract in `proto/` to its own word: it is commented, linted and compatible with
//! what was released, old events stay readable, and the generated code agrees with it.
//!
//! Nothing here names a domain, except where an example is worth more than a rule: a new domain is
//! tested by adding its `.proto` and the golden bytes of its events.

mod buf;
mod comments;
mod errors;
mod golden;
mod papers;
mod requests;
mod services;

use daybook_contract::FILE_DESCRIPTOR_SET;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage};

/// The descriptors of the contract.
fn pool() -> DescriptorPool {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap()
}

/// Whether a package is the contract's own.
fn is_ours(package: &str) -> bool {
    !package.starts_with("google.")
}

/// A path below the directory of these tests.
fn path(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract").join(name)
}

/// The value of a custom option, when it is set: `option(message.options(), "event")`.
fn option(options: DynamicMessage, name: &str) -> Option<DynamicMessage> {
    let pool = options.descriptor().parent_pool().clone();
    let extension = pool.get_extension_by_name(&format!("daybook.v1.{name}")).unwrap();
    if !options.has_extension(&extension) {
        return None;
    }
    Some(options.get_extension(&extension).as_message().unwrap().clone())
}

/// A text in the value of a custom option.
fn text(options: &DynamicMessage, field: &str) -> String {
    options.get_field_by_name(field).unwrap().as_str().unwrap().to_owned()
}

/// The contract's own messages.
fn messages(pool: &DescriptorPool) -> impl Iterator<Item = MessageDescriptor> + '_ {
    pool.all_messages().filter(|message| is_ours(message.package_name()))
}
