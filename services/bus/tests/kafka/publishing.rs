//! What the publisher does to the topics.

use std::collections::BTreeSet;
use std::time::Duration;

use daybook_bus::outbox::Outbox;
use daybook_bus::partition::partition_of;
use daybook_bus::source::{Cursor, Error};
use daybook_testing::{Broker, TopicReader, eventually};
use rdkafka::admin::{AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::fixture::{
    ACCOUNT, PARTITIONS, PATIENCE, World, check, check_watermarks, event_of, open_when_ready,
    positions, read_until,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_goes_out_verbatim_with_key_headers_and_our_partition() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    world.log.append(ACCOUNT, "42");
    world.log.append("notes", "mine");
    let mut publishing = world.publish();
    publishing.reaches(2).await;
    publishing.stop().await;

    let records = world.records().await;
    check(&records, 2);
    let events: Vec<_> =
        records.iter().filter_map(|(t, record)| Some((t, record, event_of(record)?))).collect();
    assert_eq!(events.len(), 2);
    for (topic, record, event) in events {
        let (expected_topic, stream) = match event.position {
            1 => (&world.bank, "bank.account-42"),
            _ => (&world.raw, "notes-mine"),
        };
        assert_eq!(topic, expected_topic);
        assert_eq!(record.payload, world.log.events()[event.position as usize - 1]);
        assert_eq!(record.key.as_deref(), Some(stream));
        assert_eq!(record.partition, partition_of(stream, PARTITIONS));
        let store_id = world.log.store_id();
        let expected = [
            ("ce_specversion", "1.0"),
            ("ce_id", event.event_id.as_str()),
            ("ce_type", "SomethingHappened"),
            ("ce_source", &format!("/daybook/{store_id}")),
            ("ce_time", "2023-11-14T22:13:20.005Z"),
            ("daybook_position", &event.position.to_string()),
            ("daybook_store_id", &store_id),
        ];
        for (key, value) in expected {
            assert_eq!(record.headers.get(key).map(String::as_str), Some(value), "{key}");
        }
        assert_eq!(record.headers.len(), expected.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_partition_of_every_topic_gets_the_watermark() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    let mut publishing = world.publish();
    world.log.append_accounts(3, 10);
    publishing.reaches(10).await;
    publishing.stop().await;

    let records = world.records().await;
    check(&records, 10);
    let mut marked = BTreeSet::new();
    for (topic, record) in &records {
        if event_of(record).is_none() && record.payload.as_ref() == [5 << 3, 10] {
            marked.insert((topic.clone(), record.partition));
        }
    }
    assert_eq!(marked.len(), 2 * PARTITIONS as usize, "all partitions of each topic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_publishes_what_is_in_the_log() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    let mut config = world.publisher_config();
    config.shutdown_timeout = PATIENCE;
    let publishing = world.publish_with(config);
    world.log.append_accounts(100, 30_000);
    publishing.stop().await;
    assert_eq!(world.log.mark(), 30_000);
    check(&world.records().await, 30_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_repeats_events_and_skips_none() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    let mut appended = 0;
    for round in 1..=4 {
        let mut publishing = world.publish();
        world.log.append_accounts(50, 5_000);
        publishing.reaches(appended + 1_000 * round).await;
        appended += 5_000;
        publishing.crash().await;
        let mark = world.log.mark();
        // The mark says nothing that is not so, and it may have been written a while ago.
        check(&world.records().await, mark);
        world.log.forget_mark(mark.saturating_sub(200));
    }
    let mut publishing = world.publish();
    publishing.reaches(20_000).await;
    publishing.stop().await;
    check(&world.records().await, 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_under_load_loses_nothing() {
    let broker = Broker::start().await;
    let world = World::new(&broker.bootstrap);
    let mut publishing = world.publish();
    let log = world.log.clone();
    let load = tokio::spawn(async move {
        for _ in 0..400 {
            log.append_accounts(20, 50);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    publishing.reaches(500).await;
    let mut source = open_when_ready(&world, &Cursor::default()).await;
    let mut seen = BTreeSet::new();
    let batch = read_until(source.as_mut(), 400, &mut seen).await.unwrap();
    // One that nobody polls would not notice that the broker is gone, and fetch again while the
    // broker is starting: librdkafka may crash then (confluentinc/librdkafka#5280).
    drop(source);

    broker.kill().await.unwrap();
    let mark = world.log.mark();
    let problem = publishing.has_problem().await;
    assert!(!problem.is_empty());
    broker.restart().await.unwrap();
    check(&world.records().await, mark);

    load.await.unwrap();
    publishing.reaches(20_000).await;
    publishing.is_well().await;
    publishing.stop().await;
    check(&world.records().await, 20_000);
    let mut source = open_when_ready(&world, &batch.cursor).await;
    read_until(source.as_mut(), 20_000, &mut seen).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_down_at_the_start_is_waited_for() {
    let broker = Broker::start().await;
    broker.kill().await.unwrap();
    let world = World::new(&broker.bootstrap);
    world.log.append_accounts(3, 100);
    let mut publishing = world.publish();
    publishing.has_problem().await;
    assert!(!publishing.status.borrow().connected);

    broker.restart().await.unwrap();
    publishing.reaches(100).await;
    publishing.is_well().await;
    publishing.stop().await;
    check(&world.records().await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_publisher_sees_the_broker_go_and_come() {
    let broker = Broker::start().await;
    let world = World::new(&broker.bootstrap);
    world.log.append_accounts(1, 1);
    let mut publishing = world.publish();
    publishing.reaches(1).await;
    publishing.is_well().await;
    broker.kill().await.unwrap();
    publishing.has_problem().await;
    broker.restart().await.unwrap();
    publishing.is_well().await;
    publishing.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_another_number_of_partitions_is_used_as_it_is() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    world.create_topic(&world.bank, 3).await;
    world.log.append_accounts(30, 300);
    let mut publishing = world.publish();
    publishing.reaches(300).await;
    publishing.stop().await;

    let records = world.records().await;
    check(&records, 300);
    let used: BTreeSet<_> =
        records.iter().filter(|(t, _)| *t == world.bank).map(|(_, r)| r.partition).collect();
    assert_eq!(used, BTreeSet::from([0, 1, 2]));
    let mut source = open_when_ready(&world, &Cursor::default()).await;
    read_until(source.as_mut(), 300, &mut BTreeSet::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn added_partitions_are_found_by_publisher_and_reader() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    world.create_topic(&world.bank, 2).await;
    world.log.append_accounts(30, 300);
    let mut publishing = world.publish();
    publishing.reaches(300).await;
    let mut seen = BTreeSet::new();
    let mut source = open_when_ready(&world, &Cursor::default()).await;
    let batch = read_until(source.as_mut(), 300, &mut seen).await.unwrap();

    let more = NewPartitions::new(&world.bank, 5);
    world.admin().create_partitions([&more], &AdminOptions::new()).await.unwrap();
    world.log.append_accounts(30, 300);
    publishing.reaches(600).await;
    let in_new_partitions = || async {
        world.log.append_accounts(30, 30);
        let records = world.records().await;
        records.iter().any(|(_, r)| r.partition > 1 && event_of(r).is_some()).then_some(())
    };
    eventually(PATIENCE, in_new_partitions).await;

    let end = world.log.end();
    publishing.reaches(end).await;
    // The open source stops before it would miss something; one at the same place reads it all.
    let refused = read_until(source.as_mut(), end, &mut seen).await.unwrap_err();
    assert!(refused.to_string().contains("more than 2 partitions"), "{refused}");
    let mut source = open_when_ready(&world, &batch.cursor).await;
    read_until(source.as_mut(), end, &mut seen).await.unwrap();
    publishing.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_lost_is_published_again_from_the_beginning() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    world.log.append_accounts(10, 200);
    world.log.append("notes", "mine");
    let mut publishing = world.publish();
    publishing.reaches(201).await;
    publishing.stop().await;
    let notes_before = notes(&world).await;

    lose_the_bank(&world).await;

    world.log.append(ACCOUNT, "a1");
    let mut publishing = world.publish();
    publishing.reaches(202).await;
    publishing.stop().await;
    check(&world.records().await, 202);
    assert_eq!(notes(&world).await, notes_before, "the other topic is left alone");
    let mut source = open_when_ready(&world, &Cursor::default()).await;
    read_until(source.as_mut(), 202, &mut BTreeSet::new()).await.unwrap();
}

/// Deletes the topic of the bank, and waits until it is gone.
async fn lose_the_bank(world: &World) {
    let admin = world.admin();
    admin.delete_topics(&[&world.bank], &AdminOptions::new()).await.unwrap();
    let reader = TopicReader::new(&world.bootstrap);
    let gone = || async { (reader.partition_count(&world.bank).await.ok()? == 0).then_some(()) };
    eventually(PATIENCE, gone).await;
}

/// Replaces the topic of the bank by an empty one.
async fn replace_the_bank(world: &World) {
    lose_the_bank(world).await;
    let admin = world.admin();
    let topic = NewTopic::new(&world.bank, 2, TopicReplication::Fixed(1));
    let made = || async {
        let results = admin.create_topics([&topic], &AdminOptions::new()).await.ok()?;
        match results.into_iter().next()? {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => Some(()),
            Err(_) => None,
        }
    };
    eventually(PATIENCE, made).await;
}

/// Waits until the topics hold all events up to a position, in whichever order they came, with no
/// watermark that says so too early.
async fn becomes_complete(world: &World, end: u64) {
    let complete = || async {
        let all = positions(&world.records().await);
        (all == (1..=end).collect()).then_some(())
    };
    eventually(PATIENCE, complete).await;
    check_watermarks(&world.records().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_while_it_publishes_is_published_again() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    world.log.append_accounts(10, 200);
    let mut config = world.publisher_config();
    config.partitions = 2;
    let mut publishing = world.publish_with(config);
    publishing.reaches(200).await;
    replace_the_bank(&world).await;
    world.log.append_accounts(10, 100);
    becomes_complete(&world, 300).await;
    publishing.stop().await;
    check_watermarks(&world.records().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_before_it_publishes_more_is_published_again() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    world.log.append_accounts(10, 200);
    let mut config = world.publisher_config();
    config.partitions = 2;
    config.topic_check_interval = Duration::from_secs(3600);
    let mut publishing = world.publish_with(config.clone());
    publishing.reaches(200).await;
    publishing.stop().await;
    // It has delivered nothing yet, and knows what is on the topic from reading it.
    let mut publishing = world.publish_with(config);
    publishing.reaches(200).await;
    replace_the_bank(&world).await;
    world.log.append_accounts(10, 100);
    becomes_complete(&world, 300).await;
    publishing.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watermark_on_a_topic_that_replaced_another_is_not_believed() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    world.log.append_accounts(10, 200);
    let mut config = world.publisher_config();
    config.partitions = 2;
    config.topic_check_interval = Duration::from_secs(3600);
    // Long enough that the first one comes to the new topic.
    config.watermark_interval = Duration::from_secs(5);
    let mut publishing = world.publish_with(config);
    publishing.reaches(200).await;
    replace_the_bank(&world).await;
    becomes_complete(&world, 200).await;
    publishing.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_does_not_go_on_in_records_that_replaced_those_it_knows() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    let mut config = world.publisher_config();
    config.partitions = 1;
    config.watermark_interval = Duration::from_millis(1);
    let mut publishing = world.publish_with(config.clone());
    // One by one, with a watermark for each.
    for position in 1..=30 {
        world.log.append(ACCOUNT, "only");
        publishing.reaches(position).await;
    }
    publishing.stop().await;
    let mut source = open_when_ready(&world, &Cursor::default()).await;
    let mut seen = BTreeSet::new();
    let cursor = read_until(source.as_mut(), 30, &mut seen).await.unwrap().cursor;
    drop(source);

    lose_the_bank(&world).await;
    world.log.append_accounts(10, 200);
    config.watermark_interval = Duration::from_secs(3600);
    let mut publishing = world.publish_with(config);
    publishing.reaches(230).await;
    publishing.stop().await;
    // The same events, and more, at other offsets.
    let mut source = open_when_ready(&world, &cursor).await;
    let lost = loop {
        match source.next().await {
            Ok(batch) => assert!(batch.position <= 30, "it claims {}", batch.position),
            Err(error) => break error,
        }
    };
    assert!(matches!(lost, Error::Lost { .. }), "{lost}");
}

async fn notes(world: &World) -> usize {
    let records = world.records().await;
    records.iter().filter(|(t, r)| *t == world.raw && event_of(r).is_some()).count()
}

/// librdkafka's thread does not sleep while it has records for a partition with five on their way.
#[tokio::test(flavor = "multi_thread")]
async fn records_wait_in_the_log_while_others_are_on_their_way() {
    let (cluster, world) = World::mocked();
    let mut publishing = world.publish();
    world.log.append_accounts(10, 10);
    publishing.reaches(10).await;

    cluster.broker_round_trip_time(1, Duration::from_secs(3)).unwrap();
    world.log.append_accounts(10, 10);
    // The first of them may have been on their way before the others were there.
    let read =
        eventually(PATIENCE, async || Some(world.log.read()).filter(|read| *read >= 15)).await;
    world.log.append_accounts(10, 10);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((world.log.mark(), world.log.read()), (10, read));
    publishing.reaches(30).await;
    publishing.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_delivery_makes_the_publisher_begin_again_after_the_mark() {
    let (cluster, world) = World::mocked();
    let mut publishing = world.publish();
    world.log.append_accounts(10, 1_000);
    publishing.reaches(1_000).await;

    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD;
    cluster.request_errors(RDKafkaApiKey::Produce, &[refusal; 3]);
    world.log.append_accounts(10, 1_000);
    publishing.reaches(2_000).await;
    publishing.is_well().await;
    assert!(publishing.status.borrow().restarts > 0);
    publishing.stop().await;
    check(&world.records().await, 2_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_older_than_its_mark_is_not_published() {
    let broker = Broker::shared().await;
    let world = World::new(&broker.bootstrap);
    world.log.append_accounts(1, 5);
    world.log.forget_mark(6);
    let mut publishing = world.publish();
    let problem = publishing.has_problem().await;
    assert!(problem.contains("beyond the end of the log, 5"), "{problem}");
    publishing.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_a_log_is_not_published_over_the_newer_one() {
    let broker = Broker::shared().await;
    let mut world = World::new(&broker.bootstrap);
    world.log.append_accounts(3, 10);
    let mut publishing = world.publish();
    publishing.reaches(10).await;
    publishing.stop().await;
    let published = world.records().await.len();

    let newer = world.log.clone();
    for mark in [6, 0] {
        world.log = newer.copy(6, mark);
        let mut publishing = world.publish();
        let problem = publishing.has_the_problem("up to 10, the log ends at 6").await;
        for part in [world.bank.as_str(), "older copy", "--topic-prefix"] {
            assert!(problem.contains(part), "{problem}");
        }
        // Commands go on, so that the log soon ends where the newer one did, and later.
        world.log.append_accounts(3, 4);
        let problem = publishing.has_the_problem("at position 10, the log has").await;
        assert!(problem.contains("older copy"), "{problem}");
        world.log.append_accounts(3, 4);
        publishing.crash().await;
        let mut publishing = world.publish();
        publishing.has_the_problem("at position 10, the log has").await;
        publishing.crash().await;
        assert_eq!(world.log.mark(), mark);
    }
    assert_eq!(world.records().await.len(), published, "nothing has been written");

    // The newer copy goes on, even when its mark is older than what was delivered.
    world.log = newer.copy(10, 4);
    world.log.append_accounts(3, 4);
    let mut publishing = world.publish();
    publishing.reaches(14).await;
    publishing.stop().await;
    check(&world.records().await, 14);
}
