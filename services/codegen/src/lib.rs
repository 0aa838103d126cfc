//! Generates Rust from the protobuf contract: messages and services by prost and tonic, and from
//! Daybook's own options everything that a domain would otherwise have to write by hand.
//!
//! `model` reads the options and checks them; a mistake in the contract fails the build. The other
//! modules write Rust from that model: `events`, `commands`, `reads`, `validate` and `tables`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proc_macro2::TokenStream;
use prost::Message;
use prost_reflect::DescriptorPool;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};
use quote::quote;

mod across;
mod commands;
mod events;
mod mistakes;
mod model;
mod names;
mod options;
mod reads;
mod tables;
mod tree;
mod validate;

pub use mistakes::{Mistake, Mistakes};
use model::Model;

/// Why there is no code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The contract cannot be compiled.
    #[error("{0:?}")]
    Contract(#[from] protox::Error),
    /// The contract compiles, but what it says about itself makes no sense.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What was generated for the contract, beside the code of prost and tonic.
#[derive(Debug)]
pub struct Generated {
    /// The code of each package, such as `bank.v1`.
    pub packages: BTreeMap<String, String>,
    /// The code at the root of the crate: the tables over all packages.
    pub root: String,
}

/// Compiles every `.proto` file below `root` and writes to `out`: `contract.rs`, which includes
/// all the rest, and `descriptors.bin`, the encoded FileDescriptorSet.
pub fn compile(root: &Path, out: &Path) -> Result<(), Error> {
    let descriptors = descriptors(root)?;
    std::fs::write(out.join("descriptors.bin"), &descriptors)?;
    let pool = pool(&descriptors);
    let generated = generate(&pool)?;
    compile_messages(&pool, &descriptors, out)?;
    for (package, code) in &generated.packages {
        std::fs::write(out.join(format!("{package}.daybook.rs")), code)?;
    }
    std::fs::write(out.join("root.daybook.rs"), generated.root)?;
    std::fs::write(out.join("contract.rs"), tree::include_file(out, &packages(&pool)))?;
    Ok(())
}

/// The encoded FileDescriptorSet of every `.proto` file below `root`, with imports, comments and
/// custom options.
pub fn descriptors(root: &Path) -> Result<Vec<u8>, Error> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_source_info(true).include_imports(true).open_files(&files)?;
    Ok(compiler.encode_file_descriptor_set())
}

/// The code that the options of a contract ask for, or all that is wrong with them.
pub fn generate(pool: &DescriptorPool) -> Result<Generated, Mistakes> {
    let model = Model::read(pool)?;
    let mut packages = BTreeMap::new();
    for package in self::packages(pool) {
        let aggregates = model.aggregates.iter().filter(|a| a.package == package).map(|a| {
            let module = &a.module;
            let doc = format!(" The commands and events of `{}`.", a.name);
            let (commands, events) = (commands::command_set(a), events::event_set(a));
            quote! {
                #[doc = #doc]
                pub mod #module {
                    #commands
                    #events
                }
            }
        });
        let validation = validate::module(&model, &package);
        let code = pretty(quote! { #(#aggregates)* #validation });
        packages.insert(package, code);
    }
    Ok(Generated { packages, root: pretty(tables::root(&model)) })
}

/// The packages of the contract itself.
fn packages(pool: &DescriptorPool) -> Vec<String> {
    let mut packages: Vec<_> = pool
        .files()
        .map(|file| file.package_name().to_owned())
        .filter(|package| !names::is_google(package))
        .collect();
    packages.sort();
    packages.dedup();
    packages
}

/// Lets prost and tonic write messages, clients and servers.
fn compile_messages(pool: &DescriptorPool, descriptors: &[u8], out: &Path) -> Result<(), Error> {
    let mut set = FileDescriptorSet::decode(descriptors).expect("encoded a moment ago");
    for file in &mut set.file {
        let package = file.package().to_owned();
        for message in &mut file.message_type {
            read_verbatim_as_bytes(pool, &package, message);
        }
    }
    let mut config = prost_build::Config::new();
    // With their names messages can be packed into an Any.
    config.enable_type_names().type_name_domain(["."], "type.googleapis.com");
    tonic_prost_build::configure().bytes(".").out_dir(out).compile_fds_with_config(set, config)?;
    Ok(())
}

/// Turns fields with the option `daybook.v1.verbatim` into bytes: on the wire the two are the
/// same.
fn read_verbatim_as_bytes(pool: &DescriptorPool, parent: &str, message: &mut DescriptorProto) {
    let name = format!("{parent}.{}", message.name());
    let descriptor = pool.get_message_by_name(&name).expect("from the same descriptors");
    for field in &mut message.field {
        let number = u32::try_from(field.number()).expect("numbers are positive");
        let field_descriptor = descriptor.get_field(number).expect("from the same descriptors");
        if options::verbatim(&field_descriptor) {
            field.r#type = Some(Type::Bytes.into());
            field.type_name = None;
        }
    }
    for nested in &mut message.nested_type {
        read_verbatim_as_bytes(pool, &name, nested);
    }
}

fn pool(descriptors: &[u8]) -> DescriptorPool {
    DescriptorPool::decode(descriptors).expect("protox links what it compiles")
}

fn pretty(code: TokenStream) -> String {
    let file = syn::parse2(code).expect("the generated code is Rust");
    let code = prettyplease::unparse(&file);
    format!("// Generated by daybook-codegen from the options of the contract.\n\n{code}")
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
