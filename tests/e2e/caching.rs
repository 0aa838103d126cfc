//! Answers that are remembered.

use std::time::Duration;

use daybook_testing::http_get;

use crate::common::{PATIENCE, Site, head, usd};

/// How many answers about accounts were remembered, and how many were read.
fn counted(site: &Site) -> (u64, u64) {
    let (_, metrics) = http_get(site.ports.http, "/metrics").unwrap();
    let count = |what: &str| {
        let name = format!("daybook_query_cache_{what}_total{{projection=\"account_balance\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.map_or(0, |count| count.parse().unwrap())
    };
    (count("hits"), count("misses"))
}

#[tokio::test]
async fn an_answer_is_remembered_until_its_rows_change() {
    let site = Site::new();
    let _server = site.start("dev", &[]);
    let client = site.client();
    let list = async || {
        let position = head(&client).await;
        let query = client.list_accounts().min_position(position).max_wait(PATIENCE);
        let answer = query.await.unwrap();
        assert!(answer.position >= position);
        answer.accounts.len()
    };
    client.open_account("Ada").await.unwrap();
    assert_eq!((list().await, list().await, list().await), (1, 1, 1));
    assert_eq!(counted(&site), (2, 1));
    client.open_account("Bob").await.unwrap();
    assert_eq!((list().await, list().await), (2, 2));
    assert_eq!(counted(&site), (3, 2));
    // Another question is another answer.
    client.list_accounts().page_size(1).await.unwrap();
    assert_eq!(counted(&site), (3, 3));
}

#[tokio::test]
async fn an_answer_is_remembered_no_longer_than_wanted() {
    let site = Site::new();
    let _server = site.start("dev", &["--cache-lifetime-ms", "50"]);
    let client = site.client();
    let opened =
        client.open_account("Ada").account_id("ada").initial_balance(usd(1)).await.unwrap();
    let get = || client.get_account("ada").min_position(opened.position).max_wait(PATIENCE);
    get().await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    get().await.unwrap();
    assert_eq!(counted(&site), (0, 2));
}
