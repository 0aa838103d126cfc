//! The log is put back to an older copy, or removed, while the projections stay as they are.

use std::fs;
use std::path::Path;

use daybook_testing::{Broker, eventually, unique};
use tonic::Code;

use crate::common::{PATIENCE, Site, minor, over_kafka, usd};

/// Copies a directory of plain files.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A site whose log holds ada with 100.00 and a deposit of 1000.00. Beside it lies a copy of the
/// log from before the deposit.
async fn with_a_copy() -> Site {
    let site = Site::new();
    let client = site.client();
    let log = site.data.path().join("log");
    let process = site.start("dev", &[]);
    client.open_account("Ada").account_id("ada").initial_balance(usd(10_000)).await.unwrap();
    assert!(process.terminate().success());
    copy(&log, &site.data.path().join("copy"));
    let process = site.start("dev", &[]);
    let deposit = client.deposit("ada", usd(100_000)).await.unwrap();
    let ada = client.get_account("ada").after(&deposit).max_wait(PATIENCE).await.unwrap();
    assert_eq!(ada.account.unwrap().balance, Some(usd(110_000)));
    assert!(process.terminate().success());
    fs::remove_dir_all(&log).unwrap();
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_built_anew_after_the_log_was_put_back_to_a_copy() {
    let site = with_a_copy().await;
    copy(&site.data.path().join("copy"), &site.data.path().join("log"));
    let _process = site.start("dev", &[]);
    let client = site.client();
    // As many events as there were before, and one more.
    let bob = client.open_account("Bob").account_id("bob");
    bob.initial_balance(usd(100)).await.unwrap();
    client.deposit("ada", usd(50)).await.unwrap();
    let last = client.deposit("ada", usd(50)).await.unwrap();
    let ada = client.get_account("ada").after(&last).max_wait(PATIENCE).await.unwrap();
    assert_eq!(ada.account.unwrap().balance, Some(usd(10_100)));
    let bob = client.get_account("bob").after(&last).max_wait(PATIENCE).await.unwrap();
    assert_eq!(bob.account.unwrap().balance, Some(usd(100)));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_built_anew_after_the_log_was_removed() {
    let site = with_a_copy().await;
    let _process = site.start("dev", &[]);
    let client = site.client();
    let bob = client.open_account("Bob").account_id("bob");
    bob.initial_balance(usd(100)).await.unwrap();
    client.deposit("bob", usd(50)).await.unwrap();
    let last = client.deposit("bob", usd(50)).await.unwrap();
    let bob = client.get_account("bob").after(&last).max_wait(PATIENCE).await.unwrap();
    assert_eq!(bob.account.unwrap().balance, Some(usd(200)));
    let ada = client.get_account("ada").after(&last).max_wait(PATIENCE).await.unwrap_err();
    assert_eq!(ada.code(), Code::NotFound, "{ada}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_topics_hold_of_the_newer_log_is_not_applied_to_the_older() {
    let broker = Broker::shared().await;
    let prefix = format!("{}-", unique("restored"));
    let flags = over_kafka(broker, &prefix);
    let site = Site::new();
    let reader = Site { ports: site.ports.beside(), ..Site::new() };
    let client = site.client();
    let (log, older) = (site.data.path().join("log"), site.data.path().join("copy"));

    let command = site.start("command", &flags);
    client.open_account("Ada").account_id("ada").initial_balance(usd(10_000)).await.unwrap();
    assert!(command.terminate().success());
    copy(&log, &older);
    let command = site.start("command", &flags);
    let query = reader.start("query", &flags);
    let deposit = client.deposit("ada", usd(100_000)).await.unwrap();
    client.open_account("Bob").account_id("bob").await.unwrap();
    let ada = client.get_account("ada").after(&deposit).max_wait(PATIENCE).await.unwrap();
    assert_eq!(ada.account.unwrap().balance, Some(usd(110_000)));
    assert!(command.terminate().success());

    // The query process runs on, and so does the log, over what is on the topics.
    fs::remove_dir_all(&log).unwrap();
    copy(&older, &log);
    let command = site.start("command", &flags);
    for _ in 0..5 {
        client.deposit("ada", usd(50)).await.unwrap();
    }
    let refused = || async {
        let problem = client.events().info().await.unwrap().publishing_problem;
        problem.contains("older copy").then_some(())
    };
    eventually(PATIENCE, refused).await;
    let balance = || async {
        let account = client.get_account("ada").await.ok()?.account?;
        Some(minor(&account.balance.unwrap())).filter(|balance| *balance < 100_000)
    };
    eventually(PATIENCE, balance).await;
    // Rows made from the topics would be disowned at once, made again, and so on.
    for _ in 0..30 {
        assert!(balance().await.is_some(), "rows of the newer log are back");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let bob = client.get_account("bob").await.unwrap_err();
    assert_eq!(bob.code(), Code::NotFound, "{bob}");

    // The way out that the refusal names; as long as only one side takes it, nothing is read.
    assert!(command.terminate().success());
    let prefix = format!("{}-", unique("anew"));
    let flags = over_kafka(broker, &prefix);
    let _command = site.start("command", &flags);
    let last = client.deposit("ada", usd(50)).await.unwrap();
    let verified = || async {
        let info = client.events().info().await.unwrap();
        (info.published_position == last.position).then_some(info.verified_topics)
    };
    let verified = eventually(PATIENCE, verified).await;
    assert!(verified.iter().all(|topic| topic.starts_with(&prefix)), "{verified:?}");
    for _ in 0..30 {
        assert!(balance().await.is_some(), "rows of the newer log are back");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(query.terminate().success());
    let _query = reader.start("query", &flags);
    let ada = client.get_account("ada").after(&last).max_wait(PATIENCE).await.unwrap();
    assert_eq!(ada.account.unwrap().balance, Some(usd(10_300)));
}
