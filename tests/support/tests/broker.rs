//! The broker of the tests does what the tests rely on.

use std::time::Duration;

use daybook_testing::{Broker, TopicReader, eventually, tempdir, unique};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{FutureProducer, FutureRecord};

async fn write(bootstrap: &str, topic: &str, payload: &str) {
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    let record = FutureRecord::to(topic).key("key").payload(payload);
    producer.send(record, Duration::from_secs(30)).await.unwrap();
}

#[tokio::test]
async fn a_killed_broker_comes_back_with_its_data() {
    let broker = Broker::start().await;
    let topic = unique("survivors");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &broker.bootstrap).create().unwrap();
    let new = NewTopic::new(&topic, 2, TopicReplication::Fixed(1));
    admin.create_topics([&new], &AdminOptions::new()).await.unwrap();
    write(&broker.bootstrap, &topic, "before").await;

    broker.kill().await.unwrap();
    broker.restart().await.unwrap();

    write(&broker.bootstrap, &topic, "after").await;
    let reader = TopicReader::new(&broker.bootstrap);
    assert_eq!(reader.partition_count(&topic).await.unwrap(), 2);
    let payloads: Vec<_> =
        reader.read_all(&topic).await.unwrap().into_iter().map(|r| r.payload).collect();
    assert_eq!(payloads, ["before", "after"]);
}

/// Run by the test below, which kills it.
#[tokio::test]
async fn a_test_that_waits_to_be_killed() {
    let Ok(file) = std::env::var("DAYBOOK_TEST_VICTIM") else { return };
    let broker = Broker::start().await;
    std::fs::write(&file, &broker.bootstrap).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_broker_ends_with_a_killed_test() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("bootstrap");
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_test_that_waits_to_be_killed"])
        .env("DAYBOOK_TEST_VICTIM", &file)
        .spawn()
        .unwrap();
    let read = || async { std::fs::read_to_string(&file).ok().filter(|text| !text.is_empty()) };
    let bootstrap = eventually(Duration::from_secs(300), read).await;

    victim.kill().unwrap();
    victim.wait().unwrap();

    let refused = || async { std::net::TcpStream::connect(&bootstrap).err() };
    eventually(Duration::from_secs(60), refused).await;
}
