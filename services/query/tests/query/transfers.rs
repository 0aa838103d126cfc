//! Transfers in the queries of the bank.

use daybook_contract::bank::v1::query_service_server::QueryService;
use daybook_contract::bank::v1::{
    GetDailySummaryRequest, GetTransferRequest, ListTransactionsRequest, ListTransfersRequest,
    PaymentRefunded, PaymentSent, PaymentSettled, TransactionKind, TransferCompleted,
    TransferFailed, TransferReceived, TransferRefunded, TransferSent, TransferStarted,
    TransferStatus,
};
use daybook_contract::daybook::v1::step_answer::Outcome;
use daybook_contract::daybook::v1::{StepAnswer, StepRefusal};
use daybook_domain::transfer::Transfer;
use daybook_query::BankQueries;
use tonic::Request;

use crate::bank::get;
use crate::fakes::*;

fn sent(id: &str, to: &str, cents: i64) -> daybook_contract::bank::v1::account::Event {
    TransferSent {
        transfer_id: id.to_owned(),
        to_account_id: to.to_owned(),
        amount: Some(usd(cents)),
        description: "rent".to_owned(),
    }
    .into()
}

fn received(id: &str, from: &str, cents: i64) -> daybook_contract::bank::v1::account::Event {
    TransferReceived {
        transfer_id: id.to_owned(),
        from_account_id: from.to_owned(),
        amount: Some(usd(cents)),
        description: "rent".to_owned(),
    }
    .into()
}

/// Balance, pending out and pending in, in cents.
async fn shown(bank: &BankQueries, account: &str) -> [i64; 3] {
    let answer = bank.get_account(get(account)).await.unwrap().into_inner();
    let account = answer.account.unwrap();
    [account.balance, account.pending_out, account.pending_in]
        .map(|money| daybook_contract::money::to_minor(&money.unwrap()).unwrap())
}

#[tokio::test]
async fn money_on_its_way_is_shown_at_both_ends_until_it_arrives_or_is_back() {
    let (log, dir) = (Log::new(), tempfile::tempdir().unwrap());
    log.append("ada", opened("Ada", usd(1_000)));
    log.append("bob", opened("Bob", usd(0)));
    let host = run_bank(&dir, &log);
    let bank = BankQueries::new(host.handles()).unwrap();
    let after = |expected: [[i64; 3]; 2]| {
        let (log, host, bank) = (&log, &host, &bank);
        async move {
            until_position(host, log.position()).await;
            assert_eq!([shown(bank, "ada").await, shown(bank, "bob").await], expected);
        }
    };
    after([[1_000, 0, 0], [0, 0, 0]]).await;
    log.append("ada", sent("t1", "bob", 300));
    after([[700, 300, 0], [0, 0, 300]]).await;
    log.append("ada", sent("t2", "bob", 50));
    after([[650, 350, 0], [0, 0, 350]]).await;
    log.append("bob", received("t1", "ada", 300));
    after([[650, 50, 0], [300, 0, 50]]).await;
    let refunded = TransferRefunded {
        transfer_id: "t2".to_owned(),
        to_account_id: "bob".to_owned(),
        amount: Some(usd(50)),
        reason: "ACCOUNT_CLOSED".to_owned(),
    };
    log.append("ada", refunded.into());
    after([[700, 0, 0], [300, 0, 0]]).await;

    // What one topic knows before the other is never shown as less than nothing.
    log.append("bob", received("t3", "ada", 10));
    after([[700, 0, 0], [310, 0, 0]]).await;
    log.append("ada", sent("t3", "bob", 10));
    after([[690, 0, 0], [310, 0, 0]]).await;

    let request = ListTransactionsRequest { account_id: "ada".to_owned(), ..Default::default() };
    let found = bank.list_transactions(Request::new(request)).await.unwrap().into_inner();
    let kinds: Vec<_> = found.transactions.iter().map(|t| t.kind()).collect();
    let (out, back) = (TransactionKind::TransferOut, TransactionKind::TransferRefund);
    assert_eq!(kinds, [out, back, out, out, TransactionKind::Opening]);
    let day = found.transactions[0].recorded_time.unwrap().to_string()[..10].to_owned();
    let request = GetDailySummaryRequest { start_date: day, ..Default::default() };
    let days = bank.get_daily_summary(Request::new(request)).await.unwrap().into_inner().days;
    let movements = days[0].movements.clone().unwrap();
    assert_eq!((movements.transfer_count, movements.transfer_total), (2, Some(usd(310))));
    assert_eq!((movements.deposit_count, movements.withdrawal_count), (1, 0));
}

#[tokio::test]
async fn money_for_an_order_is_shown_on_its_way_until_it_is_settled_or_back() {
    let (log, dir) = (Log::new(), tempfile::tempdir().unwrap());
    log.append("ada", opened("Ada", usd(1_000)));
    let host = run_bank(&dir, &log);
    let bank = BankQueries::new(host.handles()).unwrap();
    let after = |expected: [i64; 3]| {
        let (log, host, bank) = (&log, &host, &bank);
        async move {
            until_position(host, log.position()).await;
            assert_eq!(shown(bank, "ada").await, expected);
        }
    };
    let send = |order: &str, cents| {
        let (order_id, amount) = (order.to_owned(), Some(usd(cents)));
        let description = format!("order {order}");
        log.append("ada", PaymentSent { order_id, amount, description }.into());
    };
    send("o1", 300);
    after([700, 300, 0]).await;
    send("o2", 50);
    after([650, 350, 0]).await;
    let settled = PaymentSettled { order_id: "o1".to_owned(), amount: Some(usd(300)) };
    log.append("ada", settled.into());
    after([650, 50, 0]).await;
    let (order_id, reason) = ("o2".to_owned(), "INSUFFICIENT_STOCK".to_owned());
    let refunded = PaymentRefunded { order_id, amount: Some(usd(50)), reason };
    log.append("ada", refunded.into());
    after([700, 0, 0]).await;

    let request = ListTransactionsRequest { account_id: "ada".to_owned(), ..Default::default() };
    let found = bank.list_transactions(Request::new(request)).await.unwrap().into_inner();
    let shown: Vec<_> = found
        .transactions
        .iter()
        .map(|t| (t.kind(), t.description.as_str(), t.balance_after.clone().unwrap()))
        .collect();
    let (out, back) = (TransactionKind::Payment, TransactionKind::PaymentRefund);
    let expected = [
        (back, "INSUFFICIENT_STOCK", usd(700)),
        (out, "order o2", usd(650)),
        (out, "order o1", usd(700)),
        (TransactionKind::Opening, "", usd(1_000)),
    ];
    assert_eq!(shown, expected);
    // What has left the bank counts as withdrawn: deposits less withdrawals are what is there.
    let day = found.transactions[0].recorded_time.unwrap().to_string()[..10].to_owned();
    let request = GetDailySummaryRequest { start_date: day, ..Default::default() };
    let days = bank.get_daily_summary(Request::new(request)).await.unwrap().into_inner().days;
    let movements = days[0].movements.clone().unwrap();
    assert_eq!((movements.deposit_count, movements.deposit_total), (1, Some(usd(1_000))));
    assert_eq!((movements.withdrawal_count, movements.withdrawal_total), (1, Some(usd(300))));
}

fn started(from: &str, to: &str) -> TransferStarted {
    TransferStarted {
        from_account_id: from.to_owned(),
        to_account_id: to.to_owned(),
        amount: Some(usd(5)),
        ..Default::default()
    }
}

#[tokio::test]
async fn transfers_are_listed_newest_first_by_account_and_status() {
    let (log, dir) = (Log::new(), tempfile::tempdir().unwrap());
    for (id, from, to) in
        [("t1", "ada", "bob"), ("t2", "bob", "ada"), ("t3", "bob", "cleo"), ("t4", "ada", "cleo")]
    {
        log.append_to::<Transfer>(id, started(from, to));
    }
    let refusal = StepRefusal { reason: "INSUFFICIENT_FUNDS".to_owned(), ..Default::default() };
    let outcome = Some(Outcome::Refusal(refusal.clone()));
    let answer = Some(StepAnswer { version: 1, index: 0, outcome });
    log.append_to::<Transfer>("t2", TransferFailed { answer });
    log.append_to::<Transfer>("t4", TransferCompleted { answer: None });
    let host = run_bank(&dir, &log);
    until_position(&host, log.position()).await;
    let bank = BankQueries::new(host.handles()).unwrap();

    let listed = |account_id: &str, status: TransferStatus| {
        let bank = &bank;
        let mut request = ListTransfersRequest {
            account_id: account_id.to_owned(),
            status: status.into(),
            page_size: 2,
            ..Default::default()
        };
        async move {
            let mut ids = Vec::new();
            loop {
                let page = bank.list_transfers(Request::new(request.clone())).await.unwrap();
                let page = page.into_inner();
                ids.extend(page.transfers.into_iter().map(|transfer| transfer.transfer_id));
                request.page_token = page.next_page_token;
                if request.page_token.is_empty() {
                    return ids;
                }
            }
        }
    };
    let any = TransferStatus::Unspecified;
    assert_eq!(listed("", any).await, ["t4", "t3", "t2", "t1"]);
    assert_eq!(listed("ada", any).await, ["t4", "t2", "t1"]);
    assert_eq!(listed("cleo", any).await, ["t4", "t3"]);
    assert_eq!(listed("nobody", any).await, [""; 0]);
    assert_eq!(listed("", TransferStatus::Started).await, ["t3", "t1"]);
    assert_eq!(listed("ada", TransferStatus::Failed).await, ["t2"]);

    let request = GetTransferRequest { transfer_id: "t2".to_owned(), read: None };
    let found = bank.get_transfer(Request::new(request)).await.unwrap().into_inner();
    let transfer = found.transfer.unwrap();
    assert_eq!((transfer.refusal, transfer.version), (Some(refusal), 2));
    assert!(transfer.ended_time.is_some());
}
