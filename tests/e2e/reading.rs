//! Reading the log and following it.

use std::collections::BTreeSet;

use bytes::Bytes;
use daybook_client::{Daybook as Client, StoredEvent, Update};
use daybook_contract::daybook::v1::{
    AppendRequest, Direction, EventFilter, NewEvent, RawPayload, ReadAllRequest, ReadStreamRequest,
    SubscribeRequest, new_event, recorded_event, subscribe_response,
};
use futures::{StreamExt, TryStreamExt, pin_mut};
use prost_types::Any;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::common::{Site, everything, head, usd};

const NOTHING: [u64; 0] = [];

/// Ten accounts with 60 deposits each, and 40 notes in between: more than a page of the log.
async fn write_some(client: &Client) {
    let mut commands = Vec::new();
    for account in 0..10 {
        client.open_account("Ada").account_id(format!("a{account}")).await.unwrap();
        for _ in 0..60 {
            commands.push(client.deposit(format!("a{account}"), usd(1)));
        }
    }
    let answers = client.execute_stream(futures::stream::iter(commands));
    assert_eq!(answers.try_collect::<Vec<_>>().await.unwrap().len(), 600);
    for _ in 0..40 {
        client.events().append("notes-1", vec![note("Noted")]).await.unwrap();
    }
}

fn note(name: &str) -> NewEvent {
    let raw = RawPayload { content_type: "text/plain".into(), data: Bytes::from_static(b"hello") };
    let payload = Some(new_event::Payload::Raw(raw));
    NewEvent { event_name: name.into(), event_version: 3, payload }
}

fn filter(types: &[&str], names: &[&str]) -> Option<EventFilter> {
    let texts = |of: &[&str]| of.iter().map(|text| (*text).to_owned()).collect();
    Some(EventFilter { aggregate_types: texts(types), event_names: texts(names) })
}

async fn positions(client: &Client, request: ReadAllRequest) -> Vec<u64> {
    let events = client.events().read_all(request);
    events.map_ok(|event| event.position).try_collect().await.unwrap()
}

#[tokio::test]
async fn the_log_is_read_in_both_directions_from_anywhere_with_a_limit() {
    let site = Site::new();
    let _process = site.start("command", &[]);
    let client = site.client();
    assert_eq!(positions(&client, ReadAllRequest::default()).await, NOTHING);
    write_some(&client).await;
    let head = head(&client).await;
    assert_eq!(head, 650);
    let read = |from_position, direction: Direction, limit| {
        let direction = direction.into();
        let request = ReadAllRequest { from_position, direction, limit, filter: None };
        positions(&client, request)
    };
    let (forward, backward) = (Direction::Forward, Direction::Backward);
    let up: Vec<u64> = (1..=head).collect();
    let down: Vec<u64> = (1..=head).rev().collect();
    assert_eq!(read(0, Direction::Unspecified, 0).await, up);
    assert_eq!(read(1, forward, 0).await, up);
    assert_eq!(read(0, backward, 0).await, down);
    assert_eq!(read(10, forward, 3).await, [10, 11, 12]);
    assert_eq!(read(10, backward, 3).await, [10, 9, 8]);
    assert_eq!(read(2, backward, 9).await, [2, 1]);
    assert_eq!(read(head, forward, 0).await, [head]);
    assert_eq!(read(head + 1, forward, 0).await, NOTHING);
    assert_eq!(read(head + 7, backward, 1).await, [head]);
    assert_eq!(read(u64::MAX, forward, 0).await, NOTHING);
    assert_eq!(read(1, forward, 501).await, up[..501]);
}

#[tokio::test]
async fn a_filter_lets_through_what_is_asked_for() {
    let site = Site::new();
    let _process = site.start("command", &[]);
    let client = site.client();
    write_some(&client).await;
    let all = everything(&client).await;
    let read = |filter, limit, direction: Direction| {
        let direction = direction.into();
        positions(&client, ReadAllRequest { filter, limit, direction, ..Default::default() })
    };
    let of = |wanted: &dyn Fn(&StoredEvent) -> bool| {
        all.iter().filter(|event| wanted(event)).map(|event| event.position).collect::<Vec<_>>()
    };
    let opened = of(&|event| event.event_name == "AccountOpened");
    assert_eq!(opened.len(), 10);
    let forward = Direction::Forward;
    assert_eq!(read(filter(&[], &["AccountOpened"]), 0, forward).await, opened);
    let notes = of(&|event| event.aggregate_type == "notes");
    assert_eq!(read(filter(&["notes"], &[]), 0, forward).await, notes);
    assert_eq!(read(filter(&["notes"], &["AccountOpened"]), 0, forward).await, NOTHING);
    let both = of(&|event| event.event_name != "MoneyDeposited");
    let names = filter(&["bank.account", "notes"], &["Noted", "AccountOpened"]);
    assert_eq!(read(names, 0, forward).await, both);
    let last: Vec<u64> = opened.iter().rev().take(2).copied().collect();
    let backward = read(filter(&[], &["AccountOpened"]), 2, Direction::Backward).await;
    assert_eq!(backward, last);
}

#[tokio::test]
async fn a_stream_is_read_in_both_directions_from_any_version() {
    let site = Site::new();
    let _process = site.start("command", &[]);
    let client = site.client();
    write_some(&client).await;
    let read = |from_version, direction: Direction, limit| {
        let (stream, direction) = ("bank.account-a3".to_owned(), direction.into());
        let request = ReadStreamRequest { stream, from_version, direction, limit };
        let log = client.events();
        async move { log.read_stream(request).try_collect::<Vec<_>>().await.unwrap() }
    };
    let versions = |events: Vec<StoredEvent>| -> Vec<u64> {
        assert!(events.iter().all(|event| event.stream() == "bank.account-a3"));
        events.iter().map(|event| event.version).collect()
    };
    let (forward, backward) = (Direction::Forward, Direction::Backward);
    let all = read(0, Direction::Unspecified, 0).await;
    assert!(all.windows(2).all(|pair| pair[0].position < pair[1].position));
    assert_eq!(versions(all), (1..=61).collect::<Vec<_>>());
    assert_eq!(versions(read(0, backward, 0).await), (1..=61).rev().collect::<Vec<_>>());
    assert_eq!(versions(read(60, forward, 9).await), [60, 61]);
    assert_eq!(versions(read(2, backward, 9).await), [2, 1]);
    assert_eq!(versions(read(0, backward, 1).await), [61]);
    assert_eq!(versions(read(62, forward, 0).await), NOTHING);
}

#[tokio::test]
async fn an_event_is_found_by_its_position_and_its_id_and_is_the_same_everywhere() {
    let site = Site::new();
    let _process = site.start("command", &[]);
    let client =
        Client::builder().command_url(site.ports.command_url()).actor("teller-7").build().unwrap();
    client.open_account("Ada").account_id("ada").initial_balance(usd(100)).await.unwrap();
    let request_id = Uuid::now_v7().to_string();
    let command = client.deposit("ada", usd(5)).request_id(&request_id);
    let receipt = command.correlation_id("ticket-7").causation_id("event-8").await.unwrap();
    let log = client.events();
    let event = log.get_at(receipt.position).await.unwrap();
    assert_eq!(log.get_by_id(&receipt.event_ids[0]).await.unwrap(), event);
    assert_eq!(log.get_by_id(receipt.event_ids[0].to_uppercase()).await.unwrap(), event);
    assert_eq!(everything(&client).await[1], event);
    assert_eq!(event.stream(), "bank.account-ada");
    assert_eq!((event.version, event.position), (2, 2));
    assert_eq!((event.event_name.as_str(), event.event_version), ("MoneyDeposited", 3));
    assert_eq!(event.recorded_time, receipt.recorded_time);
    let metadata = event.metadata.clone().unwrap();
    assert_eq!(metadata.actor, "teller-7");
    assert_eq!((&*metadata.correlation_id, &*metadata.causation_id), ("ticket-7", "event-8"));
    assert_eq!(metadata.request_id, request_id);
    let Some(recorded_event::Payload::Event(any)) = &event.payload else { panic!("{event:?}") };
    assert_eq!(any.type_url, "type.googleapis.com/bank.v1.MoneyDeposited");
}

#[tokio::test]
async fn events_of_any_kind_are_appended_together_and_kept_as_they_came() {
    let site = Site::new();
    let _process = site.start("command", &[]);
    let client = site.strict_client();
    let any = Any { type_url: "example.com/shop.v1.Sold".into(), value: vec![8, 150, 1] };
    let payload = Some(new_event::Payload::Event(any.clone()));
    let sold = NewEvent { event_name: "Sold".into(), event_version: 0, payload };
    let events = vec![note("Noted"), sold, note("Noted")];
    let request_id = Uuid::now_v7().to_string();
    let context = daybook_contract::daybook::v1::CommandContext {
        request_id,
        expected_version: Some(0),
        ..Default::default()
    };
    let request = AppendRequest { stream: "shop.till-7".into(), events, context: Some(context) };
    let log = client.events();
    let receipt = log.append_request(request.clone()).await.unwrap();
    assert_eq!((receipt.aggregate_id.as_str(), receipt.version, receipt.position), ("7", 3, 3));
    assert_eq!(receipt.event_ids.len(), 3);
    let again = log.append_request(request).await.unwrap();
    assert!(again.replayed);
    assert_eq!(again.event_ids, receipt.event_ids);

    let read = ReadStreamRequest { stream: "shop.till-7".into(), ..Default::default() };
    let stored: Vec<StoredEvent> = log.read_stream(read).try_collect().await.unwrap();
    let ids: Vec<&str> = stored.iter().map(|event| event.event_id.as_str()).collect();
    assert_eq!(ids, receipt.event_ids);
    let Some(recorded_event::Payload::Raw(raw)) = &stored[0].payload else { panic!() };
    assert_eq!((raw.content_type.as_str(), raw.data.as_ref()), ("text/plain", &b"hello"[..]));
    assert_eq!(stored[0].event_version, 3);
    assert_eq!(stored[1].payload, Some(recorded_event::Payload::Event(any)));
    assert_eq!(stored[1].event_version, 1);
}

/// Takes what a subscription sends until it has the position, and checks that nothing is missing
/// or doubled.
async fn follow(client: Client, after: u64, until: u64, filter: Option<EventFilter>) -> Vec<u64> {
    let updates = client.events().subscribe(after, filter.clone());
    pin_mut!(updates);
    let mut seen = Vec::new();
    let mut reached = after;
    while reached < until {
        match updates.next().await.unwrap().unwrap() {
            Update::Event(event) => {
                assert!(event.position > reached, "{} came after {reached}", event.position);
                seen.push(event.position);
                reached = event.position;
            }
            Update::CaughtUp(position) | Update::Checkpoint(position) => {
                assert!(position >= reached, "progress {position} came after {reached}");
                reached = position;
            }
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_that_begin_anywhere_while_others_write_see_every_event_once() {
    const LAST: u64 = 3_000;
    let site = Site::new();
    let _process = site.start("command", &[]);
    let client = site.client();
    for account in 0..10 {
        client.open_account("Ada").account_id(format!("a{account}")).await.unwrap();
    }
    let writer = tokio::spawn({
        let client = client.clone();
        async move {
            let deposits = (10..LAST).map({
                let client = client.clone();
                move |n| client.deposit(format!("a{}", n % 10), usd(1))
            });
            let answers = client.execute_stream(futures::stream::iter(deposits));
            answers.try_collect::<Vec<_>>().await.unwrap()
        }
    });
    let mut followers = JoinSet::new();
    for number in 0..12_u64 {
        let client = site.client();
        followers.spawn(async move {
            // Somewhere in what there is by now: the writer goes on meanwhile.
            let head = head(&client).await;
            let after = head * number / 11;
            let seen = follow(client, after, LAST, None).await;
            assert_eq!(seen, (after + 1..=LAST).collect::<Vec<_>>(), "after {after}");
        });
        tokio::task::yield_now().await;
    }
    let opened = filter(&[], &["AccountOpened"]);
    let seen = follow(site.client(), 0, LAST, opened).await;
    assert_eq!(seen, (1..=10).collect::<Vec<_>>());
    assert_eq!(writer.await.unwrap().len() as u64, LAST - 10);
    while let Some(done) = followers.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_subscriber_is_told_when_it_has_caught_up_and_of_progress_without_events() {
    let site = Site::new();
    let _process = site.start("command", &[]);
    let client = site.client();
    write_some(&client).await;
    let head = head(&client).await;
    let mut log = site.event_log();
    let filter = filter(&["nothing"], &[]);
    let request = SubscribeRequest { after_position: 0, filter };
    let mut answers = log.subscribe(request).await.unwrap().into_inner();
    let mut checkpoints = Vec::new();
    let caught_up = loop {
        match answers.message().await.unwrap().unwrap().content.unwrap() {
            subscribe_response::Content::Batch(batch) => panic!("{batch:?}"),
            subscribe_response::Content::Checkpoint(checkpoint) => {
                assert_eq!(checkpoint.head_position, head);
                checkpoints.push(checkpoint.position);
            }
            subscribe_response::Content::CaughtUp(caught_up) => break caught_up.position,
        }
    };
    // A page each: the filter is for the events, not for the progress.
    assert_eq!(checkpoints, [500, head]);
    assert_eq!(caught_up, head);
    client.deposit("a0", usd(1)).await.unwrap();
    let live = answers.message().await.unwrap().unwrap().content.unwrap();
    let subscribe_response::Content::Checkpoint(live) = live else { panic!("{live:?}") };
    assert_eq!((live.position, live.head_position), (head + 1, head + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_loses_nothing_and_holds_up_nobody() {
    let site = Site::new();
    let _process = site.start("command", &[]);
    let client = site.client();
    client.open_account("Ada").account_id("ada").await.unwrap();
    let mut log = site.event_log();
    let request = SubscribeRequest { after_position: 0, filter: None };
    // Nobody reads from it until all is written.
    let mut slow = log.subscribe(request).await.unwrap().into_inner();
    let text = "x".repeat(500);
    let deposits = (0..8_000).map({
        let client = client.clone();
        move |_| client.deposit("ada", usd(1)).description(text.clone())
    });
    let answers = client.execute_stream(futures::stream::iter(deposits));
    assert_eq!(answers.try_collect::<Vec<_>>().await.unwrap().len(), 8_000);
    let mut seen = BTreeSet::new();
    let mut last = 0;
    while last < 8_001 {
        let message = slow.message().await.unwrap().unwrap();
        if let Some(subscribe_response::Content::Batch(batch)) = message.content {
            for bytes in batch.events {
                let event = StoredEvent::decode(bytes).unwrap();
                assert_eq!(event.position, last + 1);
                last = event.position;
                assert!(seen.insert(event.event_id.clone()));
            }
            assert_eq!(batch.position, last);
        }
    }
}
