//! The command process stands still for a while, as on a machine that has too much to do.

use std::collections::BTreeSet;
use std::time::Duration;

use daybook_client::Daybook as Client;
use futures::{StreamExt, stream};
use uuid::Uuid;

use crate::common::{PATIENCE, Site, everything, usd};

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_ran_out_of_patience_and_sent_again_have_one_effect() {
    let site = Site::new();
    let process = site.start("command", &[]);
    let patient = site.client();
    patient.open_account("Ada").account_id("ada").await.unwrap();
    let impatient = Client::builder()
        .command_url(site.ports.command_url())
        .deadline(Duration::from_millis(200))
        .max_attempts(1)
        .build()
        .unwrap();
    let ids: Vec<String> = (0..40).map(|_| Uuid::now_v7().to_string()).collect();
    let send = |client: &Client, ids: &[String]| {
        let calls: Vec<_> = ids
            .iter()
            .map(|id| client.deposit("ada", usd(1)).request_id(id).into_future())
            .collect();
        stream::iter(calls).buffer_unordered(16).collect::<Vec<_>>()
    };
    // The first few are answered, then nothing is; what is sent lies in the sockets.
    send(&patient, &ids[..8]).await;
    process.signal("STOP");
    for _ in 0..3 {
        for answer in send(&impatient, &ids).await {
            assert_eq!(answer.unwrap_err().reason(), "DEADLINE_EXCEEDED");
        }
    }
    process.signal("CONT");
    let receipts = send(&patient, &ids).await;
    let positions: BTreeSet<u64> =
        receipts.into_iter().map(|receipt| receipt.unwrap().position).collect();
    assert_eq!(positions, (2..=41).collect::<BTreeSet<_>>());
    // Whatever was still on its way has arrived when the process has ended.
    assert!(process.terminate().success());
    let _process = site.start("command", &[]);
    let client = site.client();
    let log = everything(&client).await;
    assert_eq!(log.len(), 41);
    let refused = client.withdraw("ada", usd(41)).deadline(PATIENCE).await.unwrap_err();
    assert_eq!(refused.metadata()["balance"], "0.40 USD");
}
