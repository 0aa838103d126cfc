//! Events that cannot be applied.

use daybook_contract::bank::v1::account::Event;
use daybook_contract::daybook::v1::projection_service_server::ProjectionService;
use daybook_contract::daybook::v1::{
    ListQuarantinedEventsRequest, QuarantinedEvent, RetryQuarantinedStreamRequest,
    SkipQuarantinedEventRequest,
};
use daybook_contract::error::Error;
use daybook_query::ProjectionServer;
use daybook_query::runtime::Host;
use tonic::{Code, Request, Status};

use crate::fakes::*;
use crate::sums::*;

async fn list(host: &Host) -> Vec<QuarantinedEvent> {
    let service = ProjectionServer::new(host);
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListQuarantinedEventsRequest {
            name: "sums".to_owned(),
            page_size: 2,
            page_token: page_token.clone(),
        };
        let page = service.list_quarantined_events(Request::new(request)).await.unwrap();
        let page = page.into_inner();
        assert!(page.events.len() <= 2);
        all.extend(page.events);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

/// How many were applied, and how many remain.
async fn retry(host: &Host, stream: &str) -> (u64, u64) {
    try_retry(host, stream).await.unwrap()
}

async fn try_retry(host: &Host, stream: &str) -> Result<(u64, u64), Status> {
    let request =
        RetryQuarantinedStreamRequest { name: "sums".to_owned(), stream: stream.to_owned() };
    let service = ProjectionServer::new(host);
    let answer = service.retry_quarantined_stream(Request::new(request)).await?.into_inner();
    Ok((answer.applied_events, answer.remaining_events))
}

async fn skip(host: &Host, quarantine_id: u64) -> Result<(u64, u64), Status> {
    let request = SkipQuarantinedEventRequest { name: "sums".to_owned(), quarantine_id };
    let service = ProjectionServer::new(host);
    let answer = service.skip_quarantined_event(Request::new(request)).await?.into_inner();
    Ok((answer.applied_events, answer.remaining_events))
}

fn summary(events: &[QuarantinedEvent]) -> Vec<(&str, u64, &str)> {
    events.iter().map(|e| (e.stream.as_str(), e.version, e.problem.as_str())).collect()
}

/// Two accounts; the second event of `bad` has the amount that some projections cannot apply.
fn poison(log: &Log, event: Event) {
    log.append("bad", opened("Bad", usd(100)));
    log.append("good", opened("Good", usd(100)));
    log.append("bad", event);
    log.append("good", deposited(usd(5)));
    log.append("bad", deposited(usd(7)));
    log.append("bad", withdrawn(usd(8)));
}

const WAITS: &str = "waits for version 2 of its stream";

#[tokio::test]
async fn a_failing_event_stops_its_stream_alone() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = run(&dir, &log, &log, start_sums::<REFUSES, 1>);
    poison(&log, deposited(usd(666)));
    until_position(&host, 6).await;
    assert_eq!(dump(&dir, "sums", "sums").await, ["'bad' 100 1", "'good' 105 2"]);
    let events = list(&host).await;
    assert_eq!(
        summary(&events),
        [
            ("bank.account-bad", 2, "6.66 is refused"),
            ("bank.account-bad", 3, WAITS),
            ("bank.account-bad", 4, WAITS)
        ]
    );
    assert_eq!(events.iter().map(|e| e.attempts).collect::<Vec<_>>(), [3, 0, 0]);
    assert_eq!(events[0].event, log.events()[2], "the stored bytes");
    assert_eq!(events[0].position, 3);
    assert_eq!(handle(&host, "sums").status().quarantined_events, 3);

    // A retry of the same code fails again; later events go behind the others.
    assert_eq!(retry(&host, "bank.account-bad").await, (0, 3));
    assert_eq!(list(&host).await[0].attempts, 6);
    log.append("bad", deposited(usd(1)));
    log.append("good", deposited(usd(1)));
    until_position(&host, 8).await;
    assert_eq!(summary(&list(&host).await)[3], ("bank.account-bad", 5, WAITS));
    host.shutdown().await;
    drop(host);

    // The code is mended: the quarantine is still there, and a retry applies it.
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    until_position(&host, 8).await;
    assert_eq!(handle(&host, "sums").status().quarantined_events, 4);
    assert_eq!(retry(&host, "bank.account-bad").await, (4, 0));
    assert_eq!(dump(&dir, "sums", "sums").await, ["'bad' 766 5", "'good' 106 3"]);
    log.append("bad", deposited(usd(1)));
    until_position(&host, 9).await;
    assert_eq!(dump(&dir, "sums", "sums").await[0], "'bad' 767 6");
    assert_eq!(list(&host).await, []);
    for nothing in ["bank.account-bad", "bank.account-unheard_of"] {
        let error = Error::from(&try_retry(&host, nothing).await.unwrap_err());
        assert_eq!((error.code(), error.reason()), {
            (Code::NotFound, "QUARANTINED_EVENT_NOT_FOUND")
        });
    }
    host.shutdown().await;
}

#[tokio::test]
async fn a_panic_concerns_its_event_alone() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = run(&dir, &log, &log, start_sums::<PANICS, 1>);
    poison(&log, deposited(usd(666)));
    until_position(&host, 6).await;
    assert_eq!(dump(&dir, "sums", "sums").await, ["'bad' 100 1", "'good' 105 2"]);
    let problem = &list(&host).await[0].problem;
    assert!(problem.contains("6.66 is a bug"), "{problem}");
    host.shutdown().await;
}

#[tokio::test]
async fn a_panic_while_an_event_is_decoded_concerns_it_alone() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = run(&dir, &log, &log, start_sums::<PANICS_DECODING, 1>);
    poison(&log, withdrawn(usd(1)));
    until_position(&host, 6).await;
    assert_eq!(dump(&dir, "sums", "sums").await, ["'bad' 100 1", "'good' 105 2"]);
    let problem = &list(&host).await[0].problem;
    assert!(problem.contains("an upcaster's bug"), "{problem}");
    assert_eq!(retry(&host, "bank.account-bad").await, (0, 3));
    host.shutdown().await;
    drop(host);
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    until_position(&host, 6).await;
    assert_eq!(retry(&host, "bank.account-bad").await, (3, 0));
    assert_eq!(dump(&dir, "sums", "sums").await[0], "'bad' 98 4");
    host.shutdown().await;
}

#[tokio::test]
async fn a_panic_while_rows_are_wanted_does_no_harm() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = run(&dir, &log, &log, start_sums::<PANICS_WANTING, 1>);
    poison(&log, withdrawn(usd(1)));
    until_position(&host, 6).await;
    host.shutdown().await;
    drop(host);
    // The rows are not in memory any more, and the first event of the batch is one of those.
    log.append("bad", withdrawn(usd(1)));
    log.append("good", withdrawn(usd(1)));
    let host = run(&dir, &log, &log, start_sums::<PANICS_WANTING, 1>);
    until_position(&host, 8).await;
    assert_eq!(dump(&dir, "sums", "sums").await, expected(&log));
    assert!(list(&host).await.is_empty());
    host.shutdown().await;
}

#[tokio::test]
async fn a_skipped_event_counts_as_seen_and_the_later_ones_are_applied() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = run(&dir, &log, &log, start_sums::<REFUSES, 1>);
    poison(&log, deposited(usd(666)));
    until_position(&host, 6).await;
    let events = list(&host).await;
    let not_first = Error::from(&skip(&host, events[1].quarantine_id).await.unwrap_err());
    assert_eq!((not_first.code(), not_first.reason()), {
        (Code::FailedPrecondition, "PROJECTION_STATE")
    });
    let unknown = Error::from(&skip(&host, 99).await.unwrap_err());
    assert_eq!((unknown.code(), unknown.reason()), {
        (Code::NotFound, "QUARANTINED_EVENT_NOT_FOUND")
    });
    assert_eq!(skip(&host, events[0].quarantine_id).await.unwrap(), (2, 0));
    assert_eq!(dump(&dir, "sums", "sums").await, ["'bad' 99 3", "'good' 105 2"]);
    log.append("bad", deposited(usd(1)));
    until_position(&host, 7).await;
    assert_eq!(dump(&dir, "sums", "sums").await[0], "'bad' 100 4");
    host.shutdown().await;
}

#[tokio::test]
async fn skipping_stops_at_the_next_event_that_fails() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = run(&dir, &log, &log, start_sums::<REFUSES, 1>);
    poison(&log, deposited(usd(666)));
    log.append("bad", deposited(usd(666)));
    log.append("bad", deposited(usd(2)));
    until_position(&host, 8).await;
    let first = list(&host).await[0].quarantine_id;
    assert_eq!(skip(&host, first).await.unwrap(), (2, 2));
    let events = list(&host).await;
    assert_eq!(
        summary(&events),
        [
            ("bank.account-bad", 5, "6.66 is refused"),
            ("bank.account-bad", 6, "waits for version 5 of its stream"),
        ]
    );
    assert_eq!(skip(&host, events[0].quarantine_id).await.unwrap(), (1, 0));
    assert_eq!(dump(&dir, "sums", "sums").await[0], "'bad' 101 4");
    host.shutdown().await;
}

#[tokio::test]
async fn an_unknown_event_and_a_malformed_one_are_quarantined() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    log.append("a", opened("A", usd(1)));
    log.append_unknown("a");
    log.append("b", opened("B", usd(1)));
    log.append_bytes("b", "MoneyDeposited", 3, "bank.v1.MoneyDeposited", vec![0x0a, 0xff]);
    log.append("c", opened("C", usd(1)));
    log.append_bytes("c", "MoneyDeposited", 4, "bank.v1.MoneyDeposited", Vec::new());
    log.append("d", opened("D", usd(1)));
    until_position(&host, 7).await;
    let events = list(&host).await;
    let problems: Vec<_> = events.iter().map(|e| e.problem.as_str()).collect();
    assert_eq!(problems[0], "bank.account has no event AccountFrozen");
    assert!(problems[1].starts_with("MoneyDeposited version 3 is malformed"), "{problems:?}");
    assert_eq!(problems[2], "bank.account has no version 4 of MoneyDeposited");
    assert_eq!(dump(&dir, "sums", "sums").await.len(), 4);
    host.shutdown().await;
}

#[tokio::test]
async fn a_record_that_is_no_event_is_evidence_and_stops_nothing() {
    let (dir, log, topic) = (tempfile::tempdir().unwrap(), Log::new(), Topic::new(1));
    let host = run(&dir, &topic, &log, start_sums::<NONE, 1>);
    until_position(&host, 0).await;
    topic.write(0, log.append("a", opened("A", usd(1))));
    topic.write(0, "{\"hello\": \"world\"}");
    topic.write(0, "");
    topic.write(0, log.append("a", deposited(usd(1))));
    // A record that claims to be far ahead of the log, which knows nothing of it.
    let foreign = Log::new();
    for _ in 0..9 {
        foreign.append("a", deposited(usd(1)));
    }
    topic.write(0, foreign.events().pop().unwrap());
    topic.write(0, log.append("a", deposited(usd(1))));
    topic.watermarks(3);
    until_position(&host, 3).await;
    assert_eq!(dump(&dir, "sums", "sums").await, ["'a' 3 3"]);
    let events = list(&host).await;
    let sources: Vec<_> = events.iter().map(|e| (e.stream.as_str(), e.source.as_str())).collect();
    assert_eq!(
        sources,
        [("", "bank-events/0@1"), ("", "bank-events/0@2"), ("", "bank-events/0@4")]
    );
    assert!(events.iter().all(|event| event.event.is_empty()));
    for event in &events {
        assert_eq!(skip(&host, event.quarantine_id).await.unwrap(), (0, 0));
    }
    assert_eq!(list(&host).await, []);
    assert_eq!(handle(&host, "sums").status().quarantined_events, 0);
    host.shutdown().await;
}

#[tokio::test]
async fn many_waiting_events_are_applied_in_order() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    poison(&log, deposited(usd(666)));
    for _ in 0..2_500 {
        log.append("bad", deposited(usd(1)));
    }
    let host = run(&dir, &log, &log, start_sums::<REFUSES, 1>);
    until_position(&host, log.position()).await;
    let first = list(&host).await[0].quarantine_id;
    // The records come again: they are known by their version, in quarantine or not.
    assert_eq!(handle(&host, "sums").status().quarantined_events, 2_503);
    assert_eq!(skip(&host, first).await.unwrap(), (2_502, 0));
    assert_eq!(dump(&dir, "sums", "sums").await[0], "'bad' 2599 2503");
    host.shutdown().await;
}

#[tokio::test]
async fn a_duplicate_of_a_quarantined_event_is_not_quarantined_twice() {
    let (dir, log, topic) = (tempfile::tempdir().unwrap(), Log::new(), Topic::new(1));
    let host = run(&dir, &topic, &log, start_sums::<REFUSES, 1>);
    until_position(&host, 0).await;
    poison(&log, deposited(usd(666)));
    for _ in 0..3 {
        log.events().into_iter().for_each(|record| topic.write(0, record));
    }
    topic.watermarks(6);
    until_position(&host, 6).await;
    assert_eq!(list(&host).await.len(), 3);
    host.shutdown().await;
}
