//! The registration lines, held against the contract.

use std::path::Path;
use std::process::Command;

use daybook_contract::contract::{AggregateState, CommandSet, EventSet};
use daybook_kernel::{Aggregate, Registry};

#[derive(Default)]
struct Names(Vec<&'static str>);

impl Registry for Names {
    fn aggregate<A: Aggregate>(&mut self) {
        let name = A::State::AGGREGATE;
        assert_eq!(A::Command::AGGREGATE, name, "commands of another aggregate");
        assert_eq!(A::Event::AGGREGATE, name, "events of another aggregate");
        self.0.push(name);
    }
}

#[test]
fn every_aggregate_of_the_contract_is_registered_once() {
    let mut registered = Names::default();
    daybook_domain::register(&mut registered);
    registered.0.sort_unstable();
    let mut declared: Vec<_> = daybook_contract::AGGREGATES.iter().map(|a| a.name).collect();
    declared.sort_unstable();
    assert_eq!(registered.0, declared, "add or remove a line in services/domain/src/lib.rs");
}

/// `cargo fmt` does not look behind a macro, and so not into the modules that it declares.
#[test]
fn the_files_of_the_aggregates_are_formatted() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = source.read_dir().expect("src").map(|entry| entry.expect("a file").path());
    let files: Vec<_> = files.filter(|f| f.extension().is_some_and(|e| e == "rs")).collect();
    let output = Command::new("rustfmt")
        .args(["--check", "--edition", "2024"])
        .args(&files)
        .output()
        .expect("rustfmt is a component of rust-toolchain.toml");
    assert!(
        output.status.success(),
        "run rustfmt --edition 2024 services/domain/src/*.rs\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
