//! What the Kafka source gives to a reader.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daybook_bus::kafka::{KafkaSourceConfig, KafkaSourceFactory};
use daybook_bus::outbox::Outbox;
use daybook_bus::source::{Cursor, Error, SourceFactory};
use daybook_contract::daybook::v1::RecordedEvent;
use daybook_testing::Broker;
use prost::Message as _;
use rdkafka::admin::AdminOptions;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::watch;

use crate::fixture::{
    ACCOUNT, MemoryLog, PARTITIONS, PATIENCE, World, open_when_ready, open_with, read_until,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_position_moves_over_idle_partitions_and_both_topics() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    let mut publishing = world.publish();
    publishing.is_well().await;
    let mut source = open_when_ready(&world, &Cursor::default()).await;
    let mut seen = BTreeSet::new();
    // One stream: 23 of the 24 partitions stay idle.
    for position in 1..=20 {
        assert_eq!(world.log.append(ACCOUNT, "only"), position);
        let batch = read_until(source.as_mut(), position, &mut seen).await.unwrap();
        assert_eq!((batch.position, batch.head), (position, position));
    }
    world.log.append("notes", "mine");
    read_until(source.as_mut(), 21, &mut seen).await.unwrap();
    publishing.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_alone_move_the_position() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    let mut config = world.publisher_config();
    config.watermark_interval = Duration::from_secs(3600);
    let mut publishing = world.publish_with(config);
    publishing.is_well().await;
    let mut source = open_when_ready(&world, &Cursor::default()).await;
    let mut seen = BTreeSet::new();
    for round in 1..=10 {
        world.log.append_accounts(40, 99);
        world.log.append("notes", "mine");
        let batch = read_until(source.as_mut(), round * 100, &mut seen).await.unwrap();
        assert_eq!(batch.position, round * 100);
    }
    publishing.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_an_event_does_not_come_a_watermark_moves_the_position() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    let mut publishing = world.publish();
    publishing.is_well().await;
    let mut config = world.source_config();
    config.topics = vec![world.bank.clone()];
    let mut source = open_with(config, &Cursor::default()).await;
    world.log.append(ACCOUNT, "a");
    for _ in 0..5 {
        world.log.append("notes", "on the other topic");
    }
    world.log.append(ACCOUNT, "a");
    world.log.append("notes", "the last");
    let mut positions = Vec::new();
    loop {
        let next = tokio::time::timeout(PATIENCE, source.next());
        let batch = next.await.expect("a batch comes").unwrap();
        for record in batch.records.iter() {
            positions.push(RecordedEvent::decode(record.bytes.clone()).unwrap().position);
        }
        let missing = |at: &u64| *at <= batch.position && !positions.contains(at);
        assert_eq!([1, 7].iter().find(|at| missing(at)), None, "before {}", batch.position);
        if batch.position == 8 {
            break;
        }
    }
    publishing.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_goes_on_at_its_cursor() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    let mut publishing = world.publish();
    publishing.is_well().await;
    let mut cursor = Cursor::default();
    let mut seen = BTreeSet::new();
    for round in 1..=5 {
        world.log.append_accounts(40, 1_000);
        let mut source = open_when_ready(&world, &cursor).await;
        // Somewhere in the middle, and not at the end.
        let until = round * 1_000 - 500;
        cursor = read_until(source.as_mut(), until, &mut seen).await.unwrap().cursor;
        assert!(cursor.log_position >= until);
    }
    let mut source = open_when_ready(&world, &cursor).await;
    let batch = read_until(source.as_mut(), 5_000, &mut seen).await.unwrap();
    publishing.stop().await;

    // At the end there is nothing more to read, and the position is known at once.
    let mut source = open_when_ready(&world, &batch.cursor).await;
    let first = source.next().await.unwrap();
    assert_eq!((first.records.len(), first.position), (0, 5_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_no_larger_than_configured() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    world.log.append_accounts(10, 500);
    let mut publishing = world.publish();
    publishing.reaches(500).await;
    publishing.stop().await;
    let mut config = world.source_config();
    config.max_batch = 7;
    let mut source = open_with(config, &Cursor::default()).await;
    let mut seen = 0;
    while seen < 500 {
        let batch = source.next().await.unwrap();
        assert!(batch.records.len() <= 7);
        seen += batch.records.len();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_yet_is_unavailable() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    let error = world.open(&Cursor::default()).await.err().unwrap();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains(&world.bank), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_is_unavailable() {
    let world = World::new(&format!("127.0.0.1:{}", daybook_testing::free_port()));
    let error = world.open(&Cursor::default()).await.err().unwrap();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_beyond_the_end_is_lost() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    world.log.append_accounts(10, 100);
    let mut publishing = world.publish();
    publishing.reaches(100).await;
    publishing.stop().await;
    let mut source = open_when_ready(&world, &Cursor::default()).await;
    let mut cursor = read_until(source.as_mut(), 100, &mut BTreeSet::new()).await.unwrap().cursor;
    Arc::make_mut(&mut cursor.partitions)[0].next_offset += 1_000;
    let error = world.open(&cursor).await.err().unwrap();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_records_are_lost_unless_the_log_position_covers_them() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    let mut publishing = world.publish();
    world.log.append_accounts(20, 200);
    publishing.reaches(200).await;
    let mut source = open_when_ready(&world, &Cursor::default()).await;
    let mut seen = BTreeSet::new();
    let old = read_until(source.as_mut(), 200, &mut seen).await.unwrap().cursor;
    world.log.append_accounts(20, 200);
    publishing.reaches(400).await;
    read_until(source.as_mut(), 400, &mut seen).await.unwrap();
    delete_everything(&world).await;

    let error = world.open(&old).await.err().unwrap();
    assert!(matches!(error, Error::Lost { .. }), "{error}");

    // A reader that has everything from the log goes on with what comes.
    world.log.append(ACCOUNT, "a1");
    publishing.reaches(401).await;
    // Its last watermarks say that nothing beyond it has been deleted.
    publishing.stop().await;
    let mut publishing = world.publish();
    publishing.is_well().await;
    let known = Cursor { log_position: 401, ..Cursor::default() };
    let mut source = open_when_ready(&world, &known).await;
    seen.insert(401);
    world.log.append(ACCOUNT, "a1");
    let batch = read_until(source.as_mut(), 402, &mut seen).await.unwrap();
    open_when_ready(&world, &batch.cursor).await;

    // One that lacks something is told so, before it is given a wrong position.
    for position in [0, 100, 399] {
        let unknown = Cursor { log_position: position, ..Cursor::default() };
        let mut source = open_when_ready(&world, &unknown).await;
        let mut seen: BTreeSet<u64> = (1..=position).collect();
        let error = read_until(source.as_mut(), 402, &mut seen).await.unwrap_err();
        assert!(matches!(error, Error::Lost { .. }), "{error}");
    }
    publishing.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_other_stores_are_dropped_and_poison_is_handed_on() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    let mut publishing = world.publish();
    world.log.append_accounts(5, 50);
    publishing.reaches(50).await;
    let other = MemoryLog::new();
    other.append(ACCOUNT, "intruder");
    let foreign = other.events()[0].clone();
    let store_id = "another-store";
    write(&world, &foreign, Some(store_id)).await;
    // A watermark of another store would move the position far ahead.
    write(&world, &Bytes::from_static(&[5 << 3, 0xff, 0x7f]), Some(store_id)).await;
    write(&world, &Bytes::from_static(b"(poison"), None).await;
    write(&world, &Bytes::new(), None).await;
    world.log.append_accounts(5, 50);
    publishing.reaches(100).await;
    publishing.stop().await;

    let mut source = open_when_ready(&world, &Cursor::default()).await;
    let mut records = Vec::new();
    loop {
        let batch = source.next().await.unwrap();
        assert!(batch.position <= 100 && batch.head <= 100, "{batch:?}");
        records.extend(batch.records.iter().cloned());
        if batch.position == 100 {
            break;
        }
    }
    let ours = world.log.events();
    let strange: Vec<_> = records.iter().filter(|r| !ours.contains(&r.bytes)).collect();
    let bytes: Vec<&[u8]> = strange.iter().map(|record| record.bytes.as_ref()).collect();
    assert_eq!(bytes, [b"(poison".as_slice(), b""]);
    assert!(strange[0].origin_text().starts_with(&format!("{}/3@", world.bank)), "{}", strange[0]);
    assert_eq!(records.len(), 102);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_or_a_watermark_without_a_store_is_not_handed_on() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    let mut publishing = world.publish();
    world.log.append(ACCOUNT, "victim");
    publishing.reaches(1).await;
    // By hand, with the version that the stream will have next.
    let forger = MemoryLog::new();
    forger.append(ACCOUNT, "victim");
    forger.append(ACCOUNT, "victim");
    let forged = forger.events()[1].clone();
    write(&world, &forged, None).await;
    write(&world, &Bytes::from_static(&[5 << 3, 0xff, 0x7f]), None).await;
    world.log.append(ACCOUNT, "victim");
    publishing.reaches(2).await;
    publishing.stop().await;
    assert!(world.records().await.iter().any(|(_, record)| record.payload == forged));

    let mut source = open_when_ready(&world, &Cursor::default()).await;
    let mut records = Vec::new();
    loop {
        let batch = source.next().await.unwrap();
        assert!(batch.position <= 2 && batch.head <= 2, "{batch:?}");
        records.extend(batch.records.iter().map(|record| record.bytes.clone()));
        if batch.position == 2 {
            break;
        }
    }
    assert_eq!(records, world.log.events());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_source_is_opened_before_the_store_is_known() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    world.log.append_accounts(2, 10);
    let mut publishing = world.publish();
    publishing.reaches(10).await;
    publishing.stop().await;
    let store_id = watch::Sender::new(None);
    let config = KafkaSourceConfig { store_id: store_id.subscribe(), ..world.source_config() };
    let factory = KafkaSourceFactory::new(config);
    let error = factory.open(&Cursor::default()).await.err().unwrap();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("does not say which store is on the topics"), "{error}");

    store_id.send_replace(Some(world.log.store_id()));
    let mut source = factory.open(&Cursor::default()).await.unwrap();
    read_until(source.as_mut(), 10, &mut BTreeSet::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_ends_when_the_log_is_another_store() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    world.log.append_accounts(2, 10);
    let mut publishing = world.publish();
    publishing.reaches(10).await;
    let ours = Some(world.log.store_id());
    let store_id = watch::Sender::new(ours.clone());
    let config = KafkaSourceConfig { store_id: store_id.subscribe(), ..world.source_config() };
    let factory = KafkaSourceFactory::new(config);
    let mut idle = factory.open(&Cursor::default()).await.unwrap();
    let mut busy = factory.open(&Cursor::default()).await.unwrap();
    let mut seen = BTreeSet::new();
    read_until(idle.as_mut(), 10, &mut seen).await.unwrap();
    // The same store once more is no news.
    store_id.send_replace(ours);
    world.log.append_accounts(2, 10);
    read_until(idle.as_mut(), 20, &mut seen).await.unwrap();
    publishing.stop().await;

    let change = async { store_id.send_replace(Some("another-store".to_owned())) };
    let waiting = tokio::time::timeout(PATIENCE, read_until(idle.as_mut(), 21, &mut seen));
    let (ended, _) = tokio::join!(waiting, change);
    for error in [ended.unwrap().unwrap_err(), busy.next().await.unwrap_err()] {
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("another store"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_source_does_not_give_up() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    let mut publishing = world.publish();
    world.log.append_accounts(1, 10);
    publishing.reaches(10).await;
    let mut config = world.source_config();
    config.stall_timeout = Duration::from_secs(1);
    let mut source = open_with(config, &Cursor::default()).await;
    let mut seen = BTreeSet::new();
    read_until(source.as_mut(), 10, &mut seen).await.unwrap();
    // Several looks at the ends of the partitions, which find nothing new.
    let idle = tokio::time::timeout(Duration::from_secs(5), source.next()).await;
    assert!(idle.is_err(), "{idle:?}");
    world.log.append_accounts(1, 10);
    read_until(source.as_mut(), 20, &mut seen).await.unwrap();
    publishing.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_gets_nothing_although_there_is_something_gives_up() {
    let (cluster, world) = World::mocked();
    world.log.append_accounts(10, 100);
    let mut publishing = world.publish();
    publishing.reaches(100).await;
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
    cluster.request_errors(RDKafkaApiKey::Fetch, &[refusal; 10_000]);
    let mut config = world.source_config();
    config.stall_timeout = Duration::from_millis(200);
    let mut source = KafkaSourceFactory::new(config).open(&Cursor::default()).await.unwrap();
    let error = read_until(source.as_mut(), 100, &mut BTreeSet::new()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("have not come for 200ms"), "{error}");
    publishing.stop().await;
}

async fn write(world: &World, payload: &Bytes, store_id: Option<&str>) {
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", &world.bootstrap).create().unwrap();
    let mut record =
        FutureRecord::<str, [u8]>::to(&world.bank).partition(3).payload(payload.as_ref());
    if store_id.is_some() {
        let header = Header { key: "daybook_store_id", value: store_id };
        record = record.headers(OwnedHeaders::new().insert(header));
    }
    producer.send(record, Duration::from_secs(30)).await.unwrap();
}

async fn delete_everything(world: &World) {
    let mut list = TopicPartitionList::new();
    for topic in [&world.bank, &world.raw] {
        for partition in 0..i32::try_from(PARTITIONS).unwrap() {
            list.add_partition_offset(topic, partition, Offset::End).unwrap();
        }
    }
    world.admin().delete_records(&list, &AdminOptions::new()).await.unwrap();
}
