//! Rebuilds beside the live generation, and those that a change of the code brings about.

use daybook_contract::bank::v1::GetAccountRequest;
use daybook_contract::bank::v1::query_service_server::QueryService;
use daybook_contract::daybook::v1::projection_service_server::ProjectionService;
use daybook_contract::daybook::v1::{
    PauseProjectionRequest, ProjectionState, RebuildProjectionRequest, RebuildReport, RebuildStage,
    RebuildStatus, ResumeProjectionRequest, SkipQuarantinedEventRequest, WatchRebuildRequest,
};
use daybook_contract::error::Error;
use daybook_query::runtime::Host;
use daybook_query::runtime::row::select;
use daybook_query::{BankQueries, ProjectionServer};
use futures::StreamExt;
use tonic::{Code, Request};

use crate::fakes::*;
use crate::sums::*;

/// Rebuilds a projection and watches it to the end.
async fn rebuild(host: &Host, name: &str) -> RebuildStatus {
    let service = ProjectionServer::new(host);
    let request = RebuildProjectionRequest { name: name.to_owned() };
    let begun = service.rebuild_projection(Request::new(request)).await.unwrap().into_inner();
    assert_eq!(begun.rebuild.unwrap().stage(), RebuildStage::Building);
    watch(host, name).await
}

async fn watch(host: &Host, name: &str) -> RebuildStatus {
    let request = WatchRebuildRequest { name: name.to_owned() };
    let service = ProjectionServer::new(host);
    let mut steps = service.watch_rebuild(Request::new(request)).await.unwrap().into_inner();
    let mut last = None;
    // The stream ends by itself.
    while let Some(step) = steps.next().await {
        last = step.unwrap().rebuild;
    }
    last.unwrap()
}

fn rows(report: &RebuildReport) -> (u64, u64, u64, u64) {
    (report.unchanged_rows, report.added_rows, report.removed_rows, report.changed_rows)
}

fn accounts(log: &Log, prefix: &str, count: usize) {
    for account in 0..count {
        let id = format!("{prefix}{account:03}");
        log.append(&id, opened("Owner", usd(100)));
        log.append(&id, deposited(usd(5)));
    }
}

#[tokio::test]
async fn a_rebuild_of_the_same_code_finds_the_same_rows() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    accounts(&log, "a", 100);
    log.append("zero", opened("Zero", usd(0)));
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    until_position(&host, 201).await;
    let before = dump(&dir, "sums", "sums").await;
    let old_file = live_file(&dir, "sums");
    let status = rebuild(&host, "sums").await;
    assert_eq!(status.stage(), RebuildStage::Done, "{}", status.problem);
    let report = status.report.unwrap();
    assert!(report.compared);
    assert_eq!(rows(&report), (102, 0, 0, 0));
    assert_eq!((status.position, status.target_position), (201, 201));
    assert!(status.start_time.is_some() && status.end_time.is_some());
    assert_ne!(live_file(&dir, "sums"), old_file);
    assert_eq!(dump(&dir, "sums", "sums").await, before);
    accounts(&log, "b", 10);
    until_position(&host, 221).await;
    assert_eq!(dump(&dir, "sums", "sums").await.len(), 111);
    host.shutdown().await;
    assert!(!old_file.exists());
    drop(host);

    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    until_position(&host, 221).await;
    assert_eq!(dump(&dir, "sums", "sums").await.len(), 111);
    host.shutdown().await;
}

#[tokio::test]
async fn what_was_built_has_its_indexes() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    accounts(&log, "a", 100);
    let host = run_bank(&dir, &log);
    until_position(&host, 200).await;
    let first = indexes(&dir, "account_balance");
    let names = ["accounts_by_owner", "accounts_by_status", "accounts_by_status_and_owner"];
    for name in names {
        assert!(first.contains(&name.to_owned()), "{first:?}");
    }
    assert_eq!(rebuild(&host, "account_balance").await.stage(), RebuildStage::Done);
    assert_eq!(indexes(&dir, "account_balance"), first);
    host.shutdown().await;
}

/// The indexes of a live file; each of them has an entry for each row.
fn indexes(dir: &tempfile::TempDir, projection: &str) -> Vec<String> {
    let reader = reader(dir, projection);
    let check = "PRAGMA integrity_check";
    let found = select(&reader, check, &[], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(found, ["ok"]);
    let names = "SELECT name FROM sqlite_schema WHERE type = 'index' ORDER BY name";
    select(&reader, names, &[], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_rebuild_with_mended_code_says_what_was_wrong() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    accounts(&log, "a", 30);
    log.append("b", opened("B", usd(5)));
    log.append("c", opened("C", usd(10)));
    log.append("c", deposited(usd(10)));
    log.append("c", withdrawn(usd(20)));
    let host = run(&dir, &log, &log, start_sums::<DOUBLES, 1>);
    until_position(&host, log.position()).await;
    host.shutdown().await;
    drop(host);
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    until_position(&host, log.position()).await;
    let report = rebuild(&host, "sums").await.report.unwrap();
    assert_eq!(rows(&report), (1, 1, 0, 31));
    assert_eq!(report.examples.len(), 20);
    assert_eq!(report.examples[0], "sums account='a000' changed: cents: 110 -> 105");
    assert_eq!(dump(&dir, "sums", "sums").await[0], "'a000' 105 2");
    // And back: what was added is removed.
    host.shutdown().await;
    drop(host);
    let host = run(&dir, &log, &log, start_sums::<DOUBLES, 1>);
    until_position(&host, log.position()).await;
    let report = rebuild(&host, "sums").await.report.unwrap();
    assert_eq!(rows(&report), (1, 0, 1, 31));
    host.shutdown().await;
}

#[tokio::test]
async fn events_and_queries_flow_during_a_rebuild() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    accounts(&log, "a", 500);
    let host = run_bank(&dir, &log);
    until_position(&host, 1_000).await;
    let bank = BankQueries::new(host.handles()).unwrap();
    let request = RebuildProjectionRequest { name: "account_balance".to_owned() };
    let service = ProjectionServer::new(&host);
    for round in 0..3 {
        service.rebuild_projection(Request::new(request.clone())).await.unwrap();
        let mut position = 0;
        loop {
            log.append("a000", deposited(usd(1)));
            let get = GetAccountRequest { account_id: "a000".to_owned(), read: None };
            let answer = bank.get_account(Request::new(get)).await.unwrap().into_inner();
            assert!(answer.position >= position, "the position went back");
            position = answer.position;
            // Whatever generation answers, its rows are those of its position.
            let expected = 105 + position.saturating_sub(1_000) as i64;
            assert_eq!(answer.account.unwrap().balance, Some(usd(expected)));
            let status = handle(&host, "account_balance").status().rebuild.unwrap();
            if status.stage() == RebuildStage::Done {
                let report = status.report.unwrap();
                assert_eq!(rows(&report), (500, 0, 0, 0), "round {round}: {report:?}");
                break;
            }
            assert_ne!(status.stage(), RebuildStage::Failed, "{}", status.problem);
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
    host.shutdown().await;
}

#[tokio::test]
async fn a_rebuild_beside_a_topic_goes_on_from_the_same_offsets() {
    let (dir, log, topic) = (tempfile::tempdir().unwrap(), Log::new(), Topic::new(2));
    let host = run(&dir, &topic, &log, start_sums::<NONE, 1>);
    until_position(&host, 0).await;
    accounts(&log, "a", 20);
    // One partition is ahead of the other: rows beyond the position are there already.
    for record in log.events() {
        topic.write(0, record);
    }
    topic.watermark(0, 40);
    topic.watermark(1, 10);
    until(&host, "sums", |status| status.position == 10 && last_event(status) == 40).await;
    assert_eq!(dump(&dir, "sums", "sums").await.len(), 20);
    let status = rebuild(&host, "sums").await;
    assert_eq!(status.stage(), RebuildStage::Done, "{}", status.problem);
    assert_eq!(rows(&status.report.unwrap()), (20, 0, 0, 0));
    assert_eq!(handle(&host, "sums").status().position, 10);
    host.shutdown().await;
    drop(host);
    // The places in the partitions were taken over: what was before them is not needed any more.
    topic.forget();
    let host = run(&dir, &topic, &log, start_sums::<NONE, 1>);
    topic.write(0, log.append("a000", deposited(usd(1))));
    topic.watermark(0, 41);
    let status = until(&host, "sums", |status| last_event(status) == 41).await;
    assert_eq!(status.position, 10);
    topic.watermark(1, 41);
    until_position(&host, 41).await;
    assert_eq!(dump(&dir, "sums", "sums").await[0], "'a000' 106 3");
    assert_eq!(log.gap_reads(), 15, "once for each stream that was ahead");
    host.shutdown().await;
}

#[tokio::test]
async fn another_version_of_the_code_rebuilds_itself_and_serves_nothing_before() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    accounts(&log, "a", 50);
    let host = run(&dir, &log, &log, start_sums::<DOUBLES, 1>);
    until_position(&host, 100).await;
    assert_eq!(dump(&dir, "sums", "sums").await[0], "'a000' 110 2");
    host.shutdown().await;
    drop(host);
    log.set_down(true);
    let host = run(&dir, &log, &log, start_sums::<NONE, 2>);
    let status = until(&host, "sums", |status| status.rebuild.is_some()).await;
    assert_eq!(status.state(), ProjectionState::Rebuilding);
    let request = RebuildProjectionRequest { name: "sums".to_owned() };
    let service = ProjectionServer::new(&host);
    let under_way = service.rebuild_projection(Request::new(request)).await.unwrap();
    assert_eq!(under_way.into_inner().rebuild.unwrap().stage(), RebuildStage::Building);
    log.set_down(false);
    let status = watch(&host, "sums").await;
    assert_eq!(status.stage(), RebuildStage::Done, "{}", status.problem);
    assert!(!status.report.unwrap().compared);
    until_position(&host, 100).await;
    assert_eq!(dump(&dir, "sums", "sums").await[0], "'a000' 105 2");
    host.shutdown().await;
    drop(host);
    // It is not rebuilt again.
    let host = run(&dir, &log, &log, start_sums::<NONE, 2>);
    until_position(&host, 100).await;
    assert_eq!(handle(&host, "sums").status().rebuild, None);
    host.shutdown().await;
}

#[tokio::test]
async fn a_query_says_that_the_projection_is_being_built() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    log.append("alice", opened("Alice", usd(1)));
    log.set_down(true);
    let host = run_bank(&dir, &log);
    let bank = BankQueries::new(host.handles()).unwrap();
    let status = bank.get_account(crate::bank::get("alice")).await.unwrap_err();
    let error = Error::from(&status);
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, "PROJECTION_REBUILDING"));
    assert!(error.details().retry_info().is_some());
    let status = until(&host, "account_balance", |status| !status.problem.is_empty()).await;
    assert_eq!(status.state(), ProjectionState::Rebuilding);
    assert!(status.problem.contains("it is down"), "{}", status.problem);
    log.set_down(false);
    until_position(&host, 1).await;
    assert_eq!(handle(&host, "account_balance").status().problem, "");
    bank.get_account(crate::bank::get("alice")).await.unwrap();
    host.shutdown().await;
}

#[tokio::test]
async fn a_rebuild_that_fails_leaves_the_old_rows() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    accounts(&log, "a", 50);
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    until_position(&host, 100).await;
    let file = live_file(&dir, "sums");
    log.set_damaged(true);
    let status = rebuild(&host, "sums").await;
    assert_eq!(status.stage(), RebuildStage::Failed);
    assert!(status.problem.contains("damaged"), "{}", status.problem);
    log.set_damaged(false);
    assert_eq!(live_file(&dir, "sums"), file);
    accounts(&log, "b", 1);
    until_position(&host, 102).await;
    // A later one succeeds.
    let status = rebuild(&host, "sums").await;
    assert_eq!(rows(&status.report.unwrap()), (51, 0, 0, 0));
    host.shutdown().await;
}

#[tokio::test]
async fn a_crash_during_a_rebuild_leaves_the_old_rows_and_nothing_else() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    accounts(&log, "a", 400);
    let mut host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    for round in 0..8 {
        until_position(&host, log.position()).await;
        let request = RebuildProjectionRequest { name: "sums".to_owned() };
        let service = ProjectionServer::new(&host);
        service.rebuild_projection(Request::new(request)).await.unwrap();
        let stop_at = round * 120;
        until(&host, "sums", |status| {
            let rebuild = status.rebuild.as_ref().unwrap();
            rebuild.position >= stop_at || rebuild.stage() == RebuildStage::Done
        })
        .await;
        drop(host);
        accounts(&log, &format!("round{round}-"), 1);
        host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    }
    until_position(&host, log.position()).await;
    assert_eq!(dump(&dir, "sums", "sums").await.len(), 408);
    host.shutdown().await;
    let databases = std::fs::read_dir(dir.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "db"));
    assert_eq!(databases.count(), 1);
}

#[tokio::test]
async fn a_paused_projection_is_rebuilt_as_far_as_it_is() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    accounts(&log, "a", 10);
    let host = run(&dir, &log, &log, start_sums::<DOUBLES, 1>);
    until_position(&host, 20).await;
    host.shutdown().await;
    drop(host);
    let host = run(&dir, &log, &log, start_sums::<NONE, 1>);
    until_position(&host, 20).await;
    let service = ProjectionServer::new(&host);
    let pause = PauseProjectionRequest { name: "sums".to_owned() };
    service.pause_projection(Request::new(pause)).await.unwrap();
    accounts(&log, "b", 10);
    let status = rebuild(&host, "sums").await;
    assert_eq!(rows(&status.report.unwrap()), (0, 0, 0, 10));
    let status = handle(&host, "sums").status();
    assert_eq!((status.state(), status.position), (ProjectionState::Paused, 20));
    let resume = ResumeProjectionRequest { name: "sums".to_owned() };
    service.resume_projection(Request::new(resume)).await.unwrap();
    until_position(&host, 40).await;
    assert_eq!(dump(&dir, "sums", "sums").await.len(), 20);
    host.shutdown().await;
}

#[tokio::test]
async fn a_rebuild_keeps_what_was_given_up_and_tries_what_was_not() {
    let (dir, log, topic) = (tempfile::tempdir().unwrap(), Log::new(), Topic::new(1));
    let host = run(&dir, &topic, &log, start_sums::<REFUSES, 1>);
    until_position(&host, 0).await;
    for id in ["given-up", "not"] {
        log.append(id, opened("Owner", usd(1)));
        log.append(id, deposited(usd(666)));
        log.append(id, deposited(usd(2)));
    }
    log.events().into_iter().for_each(|record| topic.write(0, record));
    topic.write(0, "no event");
    topic.watermarks(6);
    until_position(&host, 6).await;
    let service = ProjectionServer::new(&host);
    // In order: the two of the first account, the two of the second; the evidence came first,
    // because what is no event is found before anything is applied.
    let skip = SkipQuarantinedEventRequest {
        name: "sums".to_owned(),
        quarantine_id: first_quarantined(&dir, "sums", "bank.account-given-up"),
    };
    service.skip_quarantined_event(Request::new(skip)).await.unwrap();
    let before = dump(&dir, "sums", "sums").await;
    assert_eq!(before, ["'given-up' 3 2", "'not' 1 1"]);
    let status = rebuild(&host, "sums").await;
    assert_eq!(rows(&status.report.unwrap()), (2, 0, 0, 0), "{}", status.problem);
    assert_eq!(dump(&dir, "sums", "sums").await, before);
    assert_eq!(handle(&host, "sums").status().quarantined_events, 3);
    host.shutdown().await;
    drop(host);
    // With mended code both are applied by a rebuild.
    let host = run(&dir, &topic, &log, start_sums::<NONE, 1>);
    until(&host, "sums", |status| status.position == 6).await;
    let status = rebuild(&host, "sums").await;
    assert_eq!(rows(&status.report.unwrap()), (0, 0, 0, 2), "{}", status.problem);
    assert_eq!(dump(&dir, "sums", "sums").await, ["'given-up' 669 3", "'not' 669 3"]);
    assert_eq!(handle(&host, "sums").status().quarantined_events, 1, "the evidence");
    host.shutdown().await;
}

fn first_quarantined(dir: &tempfile::TempDir, projection: &str, stream: &str) -> u64 {
    let sql = "SELECT min(quarantine_id) FROM quarantine WHERE stream = ?";
    let id: i64 = reader(dir, projection).query_row(sql, [stream], |row| row.get(0)).unwrap();
    id as u64
}
