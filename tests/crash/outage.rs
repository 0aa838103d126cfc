//! The broker is killed and comes back while clients write, and so is the publisher.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use daybook_client::{Daybook as Client, StoredEvent};
use daybook_testing::{Broker, TopicReader, eventually, http_get, unique};
use futures::StreamExt;
use tokio::time::sleep;

use crate::common::{PATIENCE, Site, everything, head, over_kafka, usd};
use crate::ledger::Ledger;
use crate::load::Load;
use crate::random::{Random, seed};

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_on_without_the_broker_and_every_event_arrives_in_order() {
    let broker = Broker::start().await;
    let flags = over_kafka(&broker, "");
    let site = Site::new();
    let command = site.start("command", &flags);
    let reader = Site { ports: site.ports.beside(), ..Site::new() };
    let _query = reader.start("query", &flags);
    let client = site.client();

    let over = Arc::new(AtomicBool::new(false));
    let load = Load::start(&client, 4, over.clone()).await;
    let moves_on = |from: u64| {
        let client = client.clone();
        async move {
            let on = || async { (head(&client).await > from + 200).then_some(()) };
            eventually(PATIENCE, on).await;
        }
    };
    moves_on(0).await;
    for _ in 0..2 {
        broker.kill().await.unwrap();
        // It says what is the matter, and goes on.
        let told = || async {
            let info = client.events().info().await.unwrap();
            (!info.publishing_problem.is_empty()).then_some(info)
        };
        let info = eventually(PATIENCE, told).await;
        moves_on(info.head_position).await;
        let (code, ready) = http_get(site.ports.http, "/readyz").unwrap();
        assert!(code == 200 && ready.contains("degraded"), "{code}: {ready}");
        let behind = client.events().info().await.unwrap();
        assert!(behind.published_position < behind.head_position, "{behind:?}");
        broker.restart().await.unwrap();
        let caught_up = || async {
            let info = client.events().info().await.unwrap();
            (info.published_position > behind.head_position).then_some(())
        };
        eventually(PATIENCE, caught_up).await;
    }
    over.store(true, Ordering::SeqCst);
    // Not one command failed, in all that time, and none was sent twice.
    let receipts = load.receipts().await;
    let log = everything(&client).await;
    assert_eq!(receipts + Load::ACCOUNTS, log.len());
    published(&client).await;
    topic_has_all_in_order(&broker.bootstrap, "bank-events", &log).await;
    Ledger::of(&log).is_projected_by(&client).await;
    assert!(command.terminate().success());
}

/// A record may come again; but what comes for the first time comes in order of version, for each
/// stream, and none is missing.
async fn topic_has_all_in_order(bootstrap: &str, topic: &str, log: &[StoredEvent]) {
    let records = TopicReader::new(bootstrap).read_all(topic).await.unwrap();
    let mut versions: BTreeMap<String, u64> = BTreeMap::new();
    let mut count = 0;
    for record in records {
        let Some(stream) = record.key else { continue };
        let position: usize = record.headers["daybook_position"].parse().unwrap();
        let event = &log[position - 1];
        assert_eq!(record.payload, event.bytes());
        assert_eq!(stream, event.stream());
        let version = versions.entry(stream).or_default();
        assert!(event.version <= *version + 1, "{event:?} came after version {version}");
        if event.version == *version + 1 {
            *version = event.version;
            count += 1;
        }
    }
    assert_eq!(count, log.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_is_killed_skips_nothing() {
    let seed = seed();
    let mut random = Random::new(seed);
    let broker = Broker::shared().await;
    let prefix = format!("{}-", unique("publisher"));
    let flags = over_kafka(broker, &prefix);
    let site = Site::new();
    for round in 0..8 {
        let mut command = site.start("command", &flags);
        let client = site.strict_client();
        if round == 0 {
            client.open_account("Ada").account_id("ada").await.unwrap();
        }
        let deposits = {
            let client = client.clone();
            futures::stream::repeat_with(move || client.deposit("ada", usd(1)))
        };
        let wanted = usize::try_from(random.below(1_000)).unwrap();
        let mut answers = client.execute_stream(deposits).take(wanted);
        while let Some(answer) = answers.next().await {
            answer.unwrap();
        }
        sleep(Duration::from_micros(random.below(20_000))).await;
        command.kill();
    }
    let _command = site.start("command", &flags);
    let client = site.client();
    published(&client).await;
    let log = everything(&client).await;
    println!("seed {seed}: {} events", log.len());
    topic_has_all_in_order(&broker.bootstrap, &format!("{prefix}bank-events"), &log).await;
}

/// Waits until everything is published and nothing is the matter.
async fn published(client: &Client) {
    let published = || async {
        let info = client.events().info().await.unwrap();
        (info.published_position == info.head_position).then_some(info)
    };
    let info = eventually(PATIENCE, published).await;
    assert_eq!(info.publishing_problem, "");
}
