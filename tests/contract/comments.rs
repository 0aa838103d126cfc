//! Everything in the contract has a comment: it is the documentation of the API.

use std::collections::HashSet;

use prost_reflect::prost_types::source_code_info::Location;
use prost_reflect::{DescriptorPool, FileDescriptor};

use crate::{is_ours, pool};

/// The elements of a file: name and path.
fn elements(pool: &DescriptorPool, file: &FileDescriptor) -> Vec<(String, Vec<i32>)> {
    let mut elements = Vec::new();
    let mut add = |name: &str, path: &[i32]| elements.push((name.to_owned(), path.to_vec()));
    for service in file.services() {
        add(service.full_name(), service.path());
        for method in service.methods() {
            add(method.full_name(), method.path());
        }
    }
    for message in pool.all_messages().filter(|m| m.parent_file() == *file && !m.is_map_entry()) {
        add(message.full_name(), message.path());
        for field in message.fields() {
            add(field.full_name(), field.path());
        }
        for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
            add(oneof.full_name(), oneof.path());
        }
    }
    for enumeration in pool.all_enums().filter(|e| e.parent_file() == *file) {
        add(enumeration.full_name(), enumeration.path());
        for value in enumeration.values() {
            add(value.full_name(), value.path());
        }
    }
    for extension in pool.all_extensions().filter(|e| e.parent_file() == *file) {
        add(extension.full_name(), extension.path());
    }
    elements
}

#[test]
fn every_element_has_a_comment() {
    let pool = pool();
    let mut checked = 0;
    let mut missing = Vec::new();
    for file in pool.files().filter(|file| is_ours(file.package_name())) {
        let info =
            file.file_descriptor_proto().source_code_info.as_ref().expect("kept by build.rs");
        let has_comment = |location: &&Location| !location.leading_comments().trim().is_empty();
        let commented: HashSet<_> = info
            .location
            .iter()
            .filter(has_comment)
            .map(|location| location.path.as_slice())
            .collect();
        for (name, path) in elements(&pool, &file) {
            checked += 1;
            if !commented.contains(path.as_slice()) {
                missing.push(format!("{}: {name}", file.name()));
            }
        }
    }
    assert!(missing.is_empty(), "write a comment above each of these:\n{}", missing.join("\n"));
    assert!(checked > 100, "only {checked} elements were found");
}
