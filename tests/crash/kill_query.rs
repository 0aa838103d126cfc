//! The query process is killed again and again, in the middle of its batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use daybook_client::Daybook as Client;
use daybook_testing::{Broker, unique};
use futures::TryStreamExt;
use tokio::time::sleep;

use crate::common::{Site, everything, over_kafka, usd};
use crate::ledger::Ledger;
use crate::load::Load;
use crate::random::{Random, seed};

const KILLS: usize = 8;

/// Kills and restarts the query process under load, then compares every row with the log.
async fn killed_in_its_batches(brokers: &[&str]) {
    let seed = seed();
    let mut random = Random::new(seed);
    let site = Site::new();
    let _command = site.start("command", brokers);
    let client = site.client();
    // A backlog of many batches, and what comes while it is read.
    let over = Arc::new(AtomicBool::new(false));
    let load = Load::start(&client, 4, over.clone()).await;
    backlog(&client).await;
    let reader = Site { ports: site.ports.beside(), ..Site::new() };
    // Small batches have many edges.
    let flags = [brokers, &["--batch-size", "7"]].concat();
    for kill in 0..KILLS {
        // Now while it starts, now while it works.
        let mut query = match kill % 3 {
            0 => reader.spawn("query", &flags),
            _ => reader.start("query", &flags),
        };
        sleep(Duration::from_millis(random.below(150))).await;
        query.kill();
    }
    over.store(true, Ordering::SeqCst);
    load.receipts().await;
    let log = everything(&client).await;
    println!("seed {seed}: {} events", log.len());
    let mut query = reader.start("query", &flags);
    Ledger::of(&log).is_projected_by(&client).await;
    // And once more, with nothing new to read.
    query.kill();
    let _query = reader.start("query", brokers);
    Ledger::of(&log).is_projected_by(&client).await;
}

/// Writes more than the query process reads between two kills.
async fn backlog(client: &Client) {
    let deposits = (0..3_000).map(|n| client.deposit(format!("l{}", n % Load::ACCOUNTS), usd(1)));
    let commands: Vec<_> = deposits.collect();
    let answers = client.execute_stream(futures::stream::iter(commands));
    assert_eq!(answers.try_collect::<Vec<_>>().await.unwrap().len(), 3_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_query_process_loses_and_doubles_nothing_from_the_log() {
    killed_in_its_batches(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_query_process_loses_and_doubles_nothing_over_kafka() {
    let broker = Broker::shared().await;
    let prefix = format!("{}-", unique("kill"));
    killed_in_its_batches(&over_kafka(broker, &prefix)).await;
}
