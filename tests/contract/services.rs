//! The services, and the tables over them.

use std::collections::{BTreeMap, HashSet};

use daybook_contract::contract::{AggregateInfo, Method};
use daybook_contract::{AGGREGATES, METHODS};

use crate::{is_ours, messages, option, pool, text};

const RECEIPT: &str = "daybook.v1.CommandReceipt";

#[test]
fn the_table_of_methods_is_that_of_the_contract() {
    let pool = pool();
    let services = pool.services().filter(|service| is_ours(service.package_name()));
    let mut expected = BTreeMap::new();
    for method in services.flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let aggregate = option(method.options(), "command").map(|o| text(&o, "aggregate"));
        expected.insert(path, (method, aggregate));
    }
    let paths: Vec<_> = METHODS.iter().map(|method| method.path.to_owned()).collect();
    assert_eq!(paths, expected.keys().cloned().collect::<Vec<_>>());
    for Method { path, aggregate, input, output, client_streaming, server_streaming } in METHODS {
        let (method, command_of) = &expected[*path];
        assert_eq!(*aggregate, command_of.as_deref(), "{path}");
        assert_eq!(*input, method.input().full_name(), "{path}");
        assert_eq!(*output, method.output().full_name(), "{path}");
        assert_eq!(*client_streaming, method.is_client_streaming(), "{path}");
        assert_eq!(*server_streaming, method.is_server_streaming(), "{path}");
    }
}

#[test]
fn the_table_of_aggregates_is_that_of_the_contract() {
    let mut expected: Vec<_> = messages(&pool())
        .filter_map(|state| {
            let options = option(state.options(), "aggregate")?;
            let name = state.full_name().to_owned();
            Some((text(&options, "name"), text(&options, "topic"), name))
        })
        .collect();
    expected.sort();
    let table: Vec<_> = AGGREGATES
        .iter()
        .map(|AggregateInfo { name, topic, state }| {
            ((*name).to_owned(), (*topic).to_owned(), (*state).to_owned())
        })
        .collect();
    assert_eq!(table, expected);
}

/// The two rules that buf.yaml leaves out, with the one exception they are left out for.
#[test]
fn every_rpc_has_its_own_request_and_answer_or_a_receipt() {
    let mut seen = HashSet::new();
    for method in METHODS {
        let (path, name) = (method.path, method.path.rsplit('/').next().unwrap());
        assert!(seen.insert(method.input), "{path}: {} is taken by two RPCs", method.input);
        assert!(method.input.ends_with(&format!(".{name}Request")), "{path}: {}", method.input);
        let is_execute = path == "/daybook.v1.CommandService/Execute";
        if method.aggregate.is_some() || is_execute {
            assert_eq!(method.output, RECEIPT, "{path}");
        } else {
            assert!(method.output.ends_with(&format!(".{name}Response")), "{path}");
            assert!(seen.insert(method.output), "{path}: {} is given by two RPCs", method.output);
        }
    }
}
