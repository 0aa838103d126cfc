//! The log is put back to an older copy, or removed, while the projections stay as they are.

use std::fs;
use std::path::Path;

use tonic::Code;

use crate::common::{PATIENCE, Site, usd};

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

#[tokio::test]
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

#[tokio::test]
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
