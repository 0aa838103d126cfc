//! `bank.v1.QueryService`.

use daybook_contract::bank::v1::query_service_server::QueryService;
use daybook_contract::bank::v1::{AccountStatus, GetAccountRequest};
use daybook_query::BankQueries;
use tonic::Request;

use crate::fakes::*;

pub fn get(id: &str) -> Request<GetAccountRequest> {
    Request::new(GetAccountRequest { account_id: id.to_owned(), read: None })
}

#[tokio::test]
async fn an_account_has_the_balance_of_its_events() {
    let (dir, log) = (tempfile::tempdir().unwrap(), Log::new());
    log.append("alice", opened("Alice", usd(10_00)));
    log.append("alice", deposited(usd(2_50)));
    log.append("alice", withdrawn(usd(1_25)));
    let host = run_bank(&dir, &log);
    until_position(&host, 3).await;
    let bank = BankQueries::new(host.handles()).unwrap();
    let answer = bank.get_account(get("alice")).await.unwrap().into_inner();
    assert_eq!(answer.position, 3);
    let account = answer.account.unwrap();
    assert_eq!(account.owner_name, "Alice");
    assert_eq!(account.balance, Some(usd(11_25)));
    assert_eq!(account.status(), AccountStatus::Open);
    assert_eq!(account.version, 3);
    host.shutdown().await;
}
