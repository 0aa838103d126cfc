//! Holds the arrows between the crates: they only point down.
//!
//! contract ← kernel ← {domain, log, bus} ← {command, query ← saga} ← daybook, and the clients see
//! the contract only. Direct dependencies are compared; the contract itself stands on tonic.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which crates of the workspace each crate may use. A new crate needs a line: where it stands is
/// a decision.
const ARROWS: &[(&str, &[&str])] = &[
    ("daybook-codegen", &[]),
    ("daybook-contract", &["daybook-codegen"]),
    ("daybook-kernel", &["daybook-contract"]),
    ("daybook-domain", &["daybook-contract", "daybook-kernel"]),
    ("daybook-log", &["daybook-contract", "daybook-kernel"]),
    ("daybook-bus", &["daybook-contract", "daybook-kernel"]),
    ("daybook-command", &["daybook-contract", "daybook-kernel", "daybook-log", "daybook-bus"]),
    ("daybook-query", &["daybook-contract", "daybook-kernel", "daybook-domain", "daybook-bus"]),
    (
        "daybook-saga",
        &["daybook-contract", "daybook-kernel", "daybook-domain", "daybook-bus", "daybook-query"],
    ),
    ("daybook-client", &["daybook-contract"]),
    ("daybook-cli", &["daybook-contract", "daybook-client"]),
    (
        "daybook",
        &[
            "daybook-bus",
            "daybook-cli",
            "daybook-client",
            "daybook-command",
            "daybook-contract",
            "daybook-domain",
            "daybook-kernel",
            "daybook-log",
            "daybook-query",
            "daybook-saga",
        ],
    ),
];

/// The only foreign crates that pure code may use: encodings, errors, nothing that acts.
const PURE: &[(&str, &[&str])] = &[
    ("daybook-kernel", &["prost-types", "sha2", "thiserror"]),
    ("daybook-domain", &["thiserror"]),
];

/// Foreign crates that only these may use, each for a reason of its own.
const RESERVED: &[(&str, &[&str])] = &[
    // The log owns the truth, queries and sagas their projections; nobody else opens a database.
    ("sqlx", &["daybook-log"]),
    ("rusqlite", &["daybook-log", "daybook-query", "daybook-saga"]),
    ("rdkafka", &["daybook-bus"]),
    ("axum", &["daybook"]),
    ("tonic-health", &["daybook"]),
    ("clap", &["daybook", "daybook-cli"]),
];

/// A crate of the workspace and what it stands on, dependencies of tests aside.
struct Member {
    directory: PathBuf,
    dependencies: BTreeSet<String>,
}

#[test]
fn every_crate_stands_only_on_those_below_it() {
    for (name, member) in members() {
        let allowed = allowed(ARROWS, &name)
            .unwrap_or_else(|| panic!("{name} has no line in ARROWS: say what it may stand on"));
        for dependency in member.dependencies.iter().filter(|d| d.starts_with("daybook")) {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name} must not depend on {dependency}; it may use {allowed:?}"
            );
        }
    }
}

#[test]
fn pure_crates_use_nothing_that_acts() {
    let members = members();
    for (name, allowed) in PURE {
        let foreign = members[*name].dependencies.iter().filter(|d| !d.starts_with("daybook"));
        for dependency in foreign {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name} is pure and must not depend on {dependency}; it may use {allowed:?}"
            );
        }
    }
}

#[test]
fn databases_brokers_and_servers_are_reserved() {
    for (name, member) in members() {
        for (reserved, owners) in RESERVED {
            assert!(
                !member.dependencies.contains(*reserved) || owners.contains(&name.as_str()),
                "{name} must not depend on {reserved}: that is for {owners:?}"
            );
        }
    }
}

/// The crates of the workspace by name, those of `tests/` aside: they may use anything, and
/// nothing may use them.
fn members() -> BTreeMap<String, Member> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline", "--manifest-path"])
        .arg(root.join("Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");

    let members: BTreeMap<_, _> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            let directory =
                Path::new(text(&package["manifest_path"])).parent().expect("a file").to_owned();
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            let dependencies = dependencies
                .iter()
                .filter(|d| d["kind"] != "dev")
                .map(|d| text(&d["name"]).to_owned())
                .collect();
            (text(&package["name"]).to_owned(), Member { directory, dependencies })
        })
        .filter(|(_, member)| !member.directory.starts_with(root.join("tests")))
        .collect();
    assert!(members.len() >= 3, "the workspace was not found at {}", root.display());
    members
}

fn allowed<'a>(table: &[(&str, &'a [&'a str])], name: &str) -> Option<&'a [&'a str]> {
    table.iter().find(|(known, _)| *known == name).map(|(_, allowed)| *allowed)
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}
