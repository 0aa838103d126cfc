//! Enums of the contract, the mapping in `proto/error.rs` and `docs/errors.md` say the same.

use std::collections::BTreeMap;

use daybook_contract::FILE_DESCRIPTOR_SET;
use daybook_contract::daybook::v1::ErrorReason;
use daybook_contract::error::{Error, code_of, reason_name};
use prost_reflect::{DescriptorPool, EnumDescriptor};
use tonic::{Code, Status};

const PAGE: &str = include_str!("../../docs/errors.md");

fn values(name: &str) -> EnumDescriptor {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    pool.get_enum_by_name(name).unwrap()
}

/// The reasons of an enum, without its prefix, in order, without the unspecified one.
fn reasons(name: &str, prefix: &str) -> Vec<String> {
    let names = values(name).values().map(|value| value.name().to_owned()).collect::<Vec<_>>();
    names.iter().skip(1).map(|name| name.strip_prefix(prefix).unwrap().to_owned()).collect()
}

/// The rows of the table below the heading that names an enum: reason, code, cause, remedy.
fn rows(name: &str) -> Vec<[String; 4]> {
    let (_, section) = PAGE.split_once(&format!("(`{name}`)")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let cells = |line: &str| -> Option<[String; 4]> {
        let cells: Vec<_> =
            line.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect();
        cells.try_into().ok()
    };
    let mut rows: Vec<_> = section.lines().filter_map(cells).collect();
    rows.retain(|row| row[0].starts_with('`'));
    for row in &mut rows {
        row[0] = row[0].trim_matches('`').to_owned();
    }
    rows
}

/// The name of a code, as google.rpc.Code has it.
fn code_name(code: Code) -> String {
    let camel = format!("{code:?}");
    let mut name = String::new();
    for letter in camel.chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_uppercase());
    }
    name
}

#[test]
fn the_page_lists_every_reason_with_its_code_cause_and_remedy() {
    let listed = rows("daybook.v1.ErrorReason");
    let names: Vec<_> = listed.iter().map(|row| row[0].clone()).collect();
    assert_eq!(names, reasons("daybook.v1.ErrorReason", "ERROR_REASON_"));
    for [reason, code, cause, remedy] in listed {
        let value = ErrorReason::from_str_name(&format!("ERROR_REASON_{reason}")).unwrap();
        assert_eq!(reason_name(value), reason);
        assert_eq!(code, code_name(code_of(value)), "{reason}");
        assert!(!cause.is_empty() && !remedy.is_empty(), "{reason}");
    }
}

#[test]
fn the_page_lists_every_rejection_with_the_code_that_its_comment_names() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    let enums = pool.all_enums().filter(|e| e.name().ends_with("Rejection"));
    let enums: Vec<_> = enums.collect();
    assert!(!enums.is_empty());
    for rejection in enums {
        let comments = comments(&rejection);
        let unspecified = rejection.default_value();
        let prefix = unspecified.name().strip_suffix("UNSPECIFIED").unwrap();
        let listed = rows(rejection.full_name());
        let names: Vec<_> = listed.iter().map(|row| row[0].clone()).collect();
        assert_eq!(names, reasons(rejection.full_name(), prefix));
        for [reason, code, cause, remedy] in listed {
            let comment = &comments[&format!("{prefix}{reason}")];
            assert!(comment.ends_with(&format!("{code}.")), "{reason}: {code}, {comment}");
            assert!(!cause.is_empty() && !remedy.is_empty(), "{reason}");
        }
    }
}

/// The comment of each value of an enum, in one line.
fn comments(values: &EnumDescriptor) -> BTreeMap<String, String> {
    let file = values.parent_file();
    let proto = file.file_descriptor_proto();
    let locations = &proto.source_code_info.as_ref().unwrap().location;
    let comment = |path: &[i32]| {
        let location = locations.iter().find(|location| location.path == path).unwrap();
        location.leading_comments().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    values.values().map(|value| (value.name().to_owned(), comment(value.path()))).collect()
}

#[test]
fn an_error_survives_the_way_over_the_wire() {
    let error = Error::new(ErrorReason::VersionConflict, "stale").with("expected_version", 3);
    let status = Status::from(error);
    assert_eq!(status.code(), Code::Aborted);
    let back = Error::from(&status);
    assert_eq!((back.reason(), back.message()), ("VERSION_CONFLICT", "stale"));
    assert_eq!(back.metadata()["expected_version"], "3");
    let failure = daybook_contract::daybook::v1::Failure::from(back);
    let again = Error::from(&Status::from(&failure));
    assert_eq!((again.code(), again.reason()), (Code::Aborted, "VERSION_CONFLICT"));
}
