//! The health of a service says whether it can answer.

use daybook_testing::{Daybook, eventually};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::common::{PATIENCE, Site, channel};

/// What the health service says of the bank's queries; `None` while nobody answers.
async fn health(site: &Site) -> Option<i32> {
    let mut client = HealthClient::new(channel(site.ports.query_url()));
    let service = "bank.v1.QueryService".to_owned();
    let answer = client.check(HealthCheckRequest { service }).await.ok()?;
    Some(answer.into_inner().status)
}

#[tokio::test]
async fn a_query_service_that_has_nothing_to_show_yet_is_not_serving() {
    let site = Site::new();
    // The log of this query process does not exist yet.
    let binary = env!("CARGO_BIN_EXE_daybook");
    let _query = Daybook::spawn(binary, "query", site.data.path(), site.ports, &[]);
    let wait_for = |status: ServingStatus| {
        let site = &site;
        eventually(PATIENCE, move || async move {
            (health(site).await == Some(status as i32)).then_some(())
        })
    };
    wait_for(ServingStatus::NotServing).await;
    let ports = site.ports.beside();
    let _command = Daybook::start(binary, "command", site.data.path(), ports, &[]);
    wait_for(ServingStatus::Serving).await;
}
