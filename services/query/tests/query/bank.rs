//! `bank.v1.QueryService`.

use std::time::Duration;

use daybook_contract::bank::v1::query_service_server::QueryService;
use daybook_contract::bank::v1::{
    AccountStatus, GetAccountRequest, GetDailySummaryRequest, GetYearlyTotalsRequest,
    ListAccountsRequest, ListAccountsResponse, ListTransactionsRequest, ListTransactionsResponse,
    MovementMethod, TransactionKind,
};
use daybook_contract::daybook::v1::{AsOf, ReadContext, as_of};
use daybook_contract::error::Error;
use daybook_query::BankQueries;
use daybook_query::runtime::Host;
use prost_types::Timestamp;
use tonic::{Code, Request, Status};

use crate::fakes::*;

pub fn get(id: &str) -> Request<GetAccountRequest> {
    Request::new(GetAccountRequest { account_id: id.to_owned(), read: None })
}

struct Bank {
    log: Log,
    host: Host,
    queries: BankQueries,
    _dir: tempfile::TempDir,
}

impl Bank {
    /// The projections over what has been written to a log.
    async fn over(log: Log) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = run_bank(&dir, &log);
        until_position(&host, log.position()).await;
        let queries = BankQueries::new(host.handles()).unwrap();
        Self { log, host, queries, _dir: dir }
    }

    async fn accounts(&self, request: ListAccountsRequest) -> Result<ListAccountsResponse, Error> {
        answer(self.queries.list_accounts(Request::new(request)).await)
    }

    async fn transactions(
        &self,
        request: ListTransactionsRequest,
    ) -> Result<ListTransactionsResponse, Error> {
        answer(self.queries.list_transactions(Request::new(request)).await)
    }

    /// The ids of all accounts, page by page.
    async fn all_accounts(&self, mut request: ListAccountsRequest) -> Vec<String> {
        let mut ids = Vec::new();
        loop {
            let page = self.accounts(request.clone()).await.unwrap();
            assert!(page.accounts.len() <= request.page_size.clamp(1, 500) as usize);
            ids.extend(page.accounts.into_iter().map(|account| account.account_id));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return ids;
            }
        }
    }

    /// The versions of all transactions, page by page.
    async fn all_transactions(&self, mut request: ListTransactionsRequest) -> Vec<u64> {
        let mut versions = Vec::new();
        loop {
            let page = self.transactions(request.clone()).await.unwrap();
            versions.extend(page.transactions.into_iter().map(|t| t.version));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return versions;
            }
        }
    }
}

pub fn answer<T>(result: Result<tonic::Response<T>, Status>) -> Result<T, Error> {
    result.map(tonic::Response::into_inner).map_err(|status| Error::from(&status))
}

pub fn violations(error: &Error) -> Vec<&str> {
    assert_eq!((error.code(), error.reason()), (Code::InvalidArgument, "INVALID_REQUEST"));
    let bad_request = error.details().bad_request().unwrap();
    bad_request.field_violations.iter().map(|violation| violation.field.as_str()).collect()
}

fn read(min_position: u64, max_wait: Duration) -> Option<ReadContext> {
    let max_wait = Some(prost_types::Duration::try_from(max_wait).unwrap());
    Some(ReadContext { min_position, max_wait, ..Default::default() })
}

#[tokio::test]
async fn an_account_has_the_balance_of_its_events() {
    let log = Log::new();
    log.append("alice", opened("Alice", usd(10_00)));
    log.append("alice", deposited(usd(2_50)));
    log.append("alice", withdrawn(usd(1_25)));
    log.append("bob", opened("Bob", money(500, "JPY")));
    log.append("carol", opened("Carol", usd(0)));
    log.append("carol", closed());
    let bank = Bank::over(log).await;
    let account = answer(bank.queries.get_account(get("alice")).await).unwrap();
    assert_eq!(account.position, 6);
    let account = account.account.unwrap();
    assert_eq!(account.owner_name, "Alice");
    assert_eq!(account.balance, Some(usd(11_25)));
    assert_eq!(account.status(), AccountStatus::Open);
    assert_eq!(account.version, 3);
    assert_eq!(account.opened_time, Some(Timestamp { seconds: START, nanos: 0 }));
    assert_eq!(account.updated_time, Some(Timestamp { seconds: START, nanos: 3 }));
    assert_eq!(account.closed_time, None);
    let account = answer(bank.queries.get_account(get("bob")).await).unwrap().account.unwrap();
    assert_eq!(account.balance, Some(money(500, "JPY")));
    let account = answer(bank.queries.get_account(get("carol")).await).unwrap().account.unwrap();
    assert_eq!(account.status(), AccountStatus::Closed);
    assert_eq!(account.closed_time, Some(Timestamp { seconds: START + 1, nanos: 0 }));
    bank.host.shutdown().await;
}

#[tokio::test]
async fn an_unknown_account_is_not_found() {
    let log = Log::new();
    log.append("alice", opened("Alice", usd(0)));
    let bank = Bank::over(log).await;
    let from_balance = answer(bank.queries.get_account(get("nobody")).await).unwrap_err();
    let request = ListTransactionsRequest { account_id: "nobody".to_owned(), ..Default::default() };
    let from_transactions = bank.transactions(request).await.unwrap_err();
    for error in [from_balance, from_transactions] {
        assert_eq!((error.code(), error.reason()), (Code::NotFound, "ACCOUNT_NOT_FOUND"));
        let resource = error.details().resource_info().unwrap();
        assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), {
            ("bank.account", "nobody")
        });
        assert_eq!(error.metadata()["position"], "1");
    }
    bank.host.shutdown().await;
}

#[tokio::test]
async fn a_query_waits_for_its_position() {
    let log = Log::new();
    log.append("alice", opened("Alice", usd(0)));
    let bank = Bank::over(log).await;
    let queries = bank.queries.clone();
    let reading = tokio::spawn(async move {
        let mut request = get("alice");
        request.get_mut().read = read(3, Duration::from_secs(30));
        queries.get_account(request).await
    });
    bank.log.append("alice", deposited(usd(5)));
    tokio::task::yield_now().await;
    bank.log.append("alice", deposited(usd(6)));
    let found = answer(reading.await.unwrap()).unwrap();
    assert!(found.position >= 3);
    assert_eq!(found.account.unwrap().balance, Some(usd(11)));
    bank.host.shutdown().await;
}

#[tokio::test]
async fn a_query_that_waited_in_vain_says_how_far_the_projection_is() {
    let log = Log::new();
    log.append("alice", opened("Alice", usd(0)));
    let bank = Bank::over(log).await;
    let mut request = get("alice");
    request.get_mut().read = read(17, Duration::from_millis(20));
    let error = answer(bank.queries.get_account(request).await).unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, "PROJECTION_LAGGING"));
    assert!(error.details().retry_info().is_some());
    assert_eq!(error.metadata()["position"], "1");
    assert_eq!(error.metadata()["min_position"], "17");
    assert_eq!(error.metadata()["projection"], "account_balance");
    bank.host.shutdown().await;
}

#[tokio::test]
async fn a_query_that_waits_does_not_hold_up_a_shutdown() {
    let log = Log::new();
    log.append("alice", opened("Alice", usd(0)));
    let bank = Bank::over(log).await;
    let queries = bank.queries.clone();
    let (began, beginning) = tokio::sync::oneshot::channel();
    let reading = tokio::spawn(async move {
        let mut request = get("alice");
        request.get_mut().read = read(17, Duration::from_secs(30));
        began.send(()).unwrap();
        queries.get_account(request).await
    });
    beginning.await.unwrap();
    bank.host.shutdown().await;
    let error = answer(reading.await.unwrap()).unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, "NOT_SERVING"));
}

#[tokio::test]
async fn what_is_not_supported_yet_is_refused() {
    let log = Log::new();
    log.append("alice", opened("Alice", usd(0)));
    let bank = Bank::over(log).await;
    let as_of = Some(AsOf { moment: Some(as_of::Moment::Version(1)) });
    for read in [
        ReadContext { as_of, ..Default::default() },
        ReadContext { branch_id: "what-if".to_owned(), ..Default::default() },
    ] {
        let mut request = get("alice");
        request.get_mut().read = Some(read);
        let error = answer(bank.queries.get_account(request).await).unwrap_err();
        assert_eq!((error.code(), error.reason()), (Code::Unimplemented, "NOT_SUPPORTED"));
    }
    bank.host.shutdown().await;
}

#[tokio::test]
async fn malformed_requests_are_refused_with_all_that_is_wrong() {
    let bank = Bank::over(Log::new()).await;
    let wait = prost_types::Duration { seconds: -1, nanos: 0 };
    let negative = Some(ReadContext { max_wait: Some(wait), ..Default::default() });
    let request = GetAccountRequest { account_id: "no id!".to_owned(), read: negative };
    let error = answer(bank.queries.get_account(Request::new(request)).await).unwrap_err();
    assert_eq!(violations(&error), ["account_id", "read.max_wait"]);

    let request = ListAccountsRequest {
        page_size: -1,
        status: 77,
        owner_prefix: "x".repeat(201),
        ..Default::default()
    };
    let error = bank.accounts(request).await.unwrap_err();
    assert_eq!(violations(&error), ["status", "owner_prefix", "page_size"]);

    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let request = ListTransactionsRequest {
        page_size: -5,
        start_time: time(10),
        end_time: time(10),
        ..Default::default()
    };
    let error = bank.transactions(request).await.unwrap_err();
    assert_eq!(violations(&error), ["account_id", "page_size", "end_time"]);

    for (start, end, currency, expected) in [
        ("", "", "", vec!["start_date"]),
        ("2026-02-30", "2026-13-01", "usd", vec!["start_date", "end_date", "currency_code"]),
        ("20261121", "", "ABC", vec!["start_date", "currency_code"]),
        ("2026-11-21", "2026-11-20", "", vec!["end_date"]),
        ("2026-01-01", "2027-01-02", "", vec!["end_date"]),
        ("1969-12-31", "", "", vec!["start_date"]),
    ] {
        let request = GetDailySummaryRequest {
            start_date: start.to_owned(),
            end_date: end.to_owned(),
            currency_code: currency.to_owned(),
            read: None,
        };
        let error = bank.queries.get_daily_summary(Request::new(request)).await;
        assert_eq!(violations(&answer(error).unwrap_err()), expected, "{start} {end}");
    }
    for year in [0, -1, 1969, 10_000] {
        let request = GetYearlyTotalsRequest { year, ..Default::default() };
        let error = bank.queries.get_yearly_totals(Request::new(request)).await;
        assert_eq!(violations(&answer(error).unwrap_err()), ["year"]);
    }
    bank.host.shutdown().await;
}

#[tokio::test]
async fn accounts_are_listed_by_id_or_owner_in_pages_and_filtered() {
    let log = Log::new();
    for (id, owner) in [
        ("07", "Zoë"),
        ("03", "alice Miller"),
        ("05", "ALICE"),
        ("01", "Alicia"),
        ("06", "Al"),
        ("02", "Bob"),
        ("04", "100%"),
        ("08", "100_000"),
        ("09", "ÉMILE"),
        ("10", "aL"),
    ] {
        log.append(id, opened(owner, usd(0)));
    }
    log.append("05", closed());
    let bank = Bank::over(log).await;
    let all = ["01", "02", "03", "04", "05", "06", "07", "08", "09", "10"];
    for page_size in [1, 2, 3, 8, 9, 10, 1_000] {
        let request = ListAccountsRequest { page_size, ..Default::default() };
        assert_eq!(bank.all_accounts(request).await, all, "{page_size}");
    }
    let by = |prefix: &str, status: AccountStatus| ListAccountsRequest {
        owner_prefix: prefix.to_owned(),
        status: status.into(),
        page_size: 2,
        ..Default::default()
    };
    let any = AccountStatus::Unspecified;
    for (prefix, status, expected) in [
        ("ali", any, vec!["05", "03", "01"]),
        ("AL", any, vec!["06", "10", "05", "03", "01"]),
        ("alice", any, vec!["05", "03"]),
        ("al", AccountStatus::Open, vec!["06", "10", "03", "01"]),
        ("alice", AccountStatus::Open, vec!["03"]),
        ("", AccountStatus::Closed, vec!["05"]),
        ("100%", any, vec!["04"]),
        ("100_", any, vec!["08"]),
        ("zo", any, vec!["07"]),
        ("ZOË", any, vec![]),
        ("É", any, vec!["09"]),
        ("émile", any, vec![]),
        ("nobody", any, vec![]),
    ] {
        assert_eq!(bank.all_accounts(by(prefix, status)).await, expected, "{prefix} {status:?}");
    }
    bank.host.shutdown().await;
}

#[tokio::test]
async fn a_page_token_belongs_to_its_query() {
    let log = Log::new();
    for id in ["a", "b", "c"] {
        log.append(id, opened("Owner", usd(1)));
        log.append(id, deposited(usd(1)));
    }
    let bank = Bank::over(log).await;
    let accounts = ListAccountsRequest { page_size: 1, ..Default::default() };
    let token = bank.accounts(accounts.clone()).await.unwrap().next_page_token;
    assert!(!token.is_empty());
    let of_other_filters = ListAccountsRequest {
        page_token: token.clone(),
        owner_prefix: "O".to_owned(),
        ..accounts.clone()
    };
    let damaged = ListAccountsRequest { page_token: token[1..].to_owned(), ..accounts.clone() };
    for request in [of_other_filters, damaged] {
        let error = bank.accounts(request).await.unwrap_err();
        assert_eq!((error.code(), error.reason()), {
            (Code::InvalidArgument, "INVALID_PAGE_TOKEN")
        });
    }
    let of_other_query = ListTransactionsRequest {
        account_id: "a".to_owned(),
        page_token: token.clone(),
        ..Default::default()
    };
    let error = bank.transactions(of_other_query).await.unwrap_err();
    assert_eq!(error.reason(), "INVALID_PAGE_TOKEN");
    // The size of the page may change, and the time to wait.
    let other_size = ListAccountsRequest {
        page_token: token,
        page_size: 7,
        read: read(1, Duration::from_secs(1)),
        ..accounts
    };
    assert_eq!(bank.accounts(other_size).await.unwrap().accounts.len(), 2);
    bank.host.shutdown().await;
}

#[tokio::test]
async fn transactions_are_listed_newest_first_and_filtered() {
    let log = Log::new();
    log.append("a", opened("A", usd(100)));
    log.pass_seconds(60);
    log.append("a", deposited(usd(50)));
    log.append_deposit_v1("a", 7);
    log.pass_seconds(60);
    log.append_deposit_v2("a", 8, "USD");
    log.append("a", withdrawn(usd(30)));
    log.append("empty", opened("Empty", usd(0)));
    let bank = Bank::over(log.clone()).await;
    let of = |id: &str| ListTransactionsRequest { account_id: id.to_owned(), ..Default::default() };
    let found = bank.transactions(of("a")).await.unwrap();
    assert_eq!((found.position, found.next_page_token.as_str()), (6, ""));
    let shown: Vec<_> = found
        .transactions
        .iter()
        .map(|t| {
            let minor =
                |m: &Option<_>| daybook_contract::money::to_minor(m.as_ref().unwrap()).unwrap();
            let description = t.description.as_str();
            (t.version, t.kind(), minor(&t.amount), minor(&t.balance_after), description)
        })
        .collect();
    use TransactionKind::*;
    assert_eq!(
        shown,
        [
            (5, Withdrawal, 30, 135, "rent"),
            (4, Deposit, 8, 165, "older"),
            (3, Deposit, 7, 157, "old"),
            (2, Deposit, 50, 150, "wages"),
            (1, Opening, 100, 100, ""),
        ]
    );
    let methods: Vec<_> = found.transactions.iter().map(|t| t.method()).collect();
    assert_eq!(methods[0], MovementMethod::Cash);
    assert_eq!(methods[1..3], [MovementMethod::Unspecified; 2]);
    assert_eq!(methods[3], MovementMethod::Transfer);
    let withdrawal = &found.transactions[0];
    assert_eq!(withdrawal.position, 5);
    assert_eq!(withdrawal.event_id, decoded(&log)[4].0.event_id);
    assert_eq!(withdrawal.recorded_time, Some(Timestamp { seconds: START + 120, nanos: 5 }));

    assert_eq!(bank.transactions(of("empty")).await.unwrap().transactions, []);
    for page_size in [1, 2, 4, 5, 6] {
        let request = ListTransactionsRequest { page_size, ..of("a") };
        assert_eq!(bank.all_transactions(request).await, [5, 4, 3, 2, 1]);
    }
    let kind = |kind| ListTransactionsRequest { kind, page_size: 2, ..of("a") };
    assert_eq!(bank.all_transactions(kind(Deposit.into())).await, [4, 3, 2]);
    assert_eq!(bank.all_transactions(kind(Opening.into())).await, [1]);
    let time = |seconds| Some(Timestamp { seconds: START + seconds, nanos: 0 });
    let between = |start_time, end_time| ListTransactionsRequest {
        start_time,
        end_time,
        page_size: 2,
        ..of("a")
    };
    for (start, end, expected) in [
        (time(60), time(120), vec![3, 2]),
        (time(0), time(60), vec![1]),
        (time(120), None, vec![5, 4]),
        (None, time(120), vec![3, 2, 1]),
        (time(121), None, vec![]),
        (None, Some(Timestamp { seconds: 253_402_300_799, nanos: 0 }), vec![5, 4, 3, 2, 1]),
    ] {
        assert_eq!(bank.all_transactions(between(start, end)).await, expected);
    }
    bank.host.shutdown().await;
}

#[tokio::test]
async fn days_and_years_are_summed_up_for_each_currency() {
    const DAY: i64 = 86_400;
    let log = Log::new();
    log.append("a", opened("A", usd(100)));
    log.append("b", opened("B", money(0, "EUR")));
    log.append("b", deposited(money(70, "EUR")));
    log.pass_seconds(DAY);
    log.append("a", withdrawn(usd(100)));
    log.append("a", closed());
    log.append("c", opened("C", usd(5)));
    log.pass_seconds(60 * DAY);
    log.append_deposit_v1("c", 9);
    let bank = Bank::over(log).await;
    let daily = async |start: &str, end: &str, currency: &str| {
        let request = GetDailySummaryRequest {
            start_date: start.to_owned(),
            end_date: end.to_owned(),
            currency_code: currency.to_owned(),
            read: None,
        };
        let found = answer(bank.queries.get_daily_summary(Request::new(request)).await).unwrap();
        assert_eq!(found.position, 7);
        let line = |day: daybook_contract::bank::v1::DailySummary| {
            format!("{} {}", day.date, summary(&day.movements.unwrap()))
        };
        found.days.into_iter().map(line).collect::<Vec<_>>()
    };
    let first = ["2026-11-21 EUR +1 -0 in 1 70 out 0 0", "2026-11-21 USD +1 -0 in 1 100 out 0 0"];
    let second = "2026-11-22 USD +1 -1 in 1 5 out 1 100";
    assert_eq!(daily("2026-11-21", "", "").await, first);
    assert_eq!(daily("2026-11-21", "2026-11-22", "").await, [first[0], first[1], second]);
    assert_eq!(daily("2026-11-21", "2027-11-21", "EUR").await, [first[0]]);
    assert_eq!(daily("2026-11-23", "2026-12-31", "").await, [""; 0]);
    let yearly = async |year, currency: &str| {
        let request =
            GetYearlyTotalsRequest { year, currency_code: currency.to_owned(), read: None };
        let found = answer(bank.queries.get_yearly_totals(Request::new(request)).await).unwrap();
        found.totals.iter().map(summary).collect::<Vec<_>>()
    };
    let usd_2026 = "USD +2 -1 in 2 105 out 1 100";
    assert_eq!(yearly(2026, "").await, ["EUR +1 -0 in 1 70 out 0 0", usd_2026]);
    assert_eq!(yearly(2026, "USD").await, [usd_2026]);
    assert_eq!(yearly(2027, "").await, ["USD +0 -0 in 1 9 out 0 0"]);
    assert_eq!(yearly(1970, "").await, [""; 0]);
    bank.host.shutdown().await;
}

pub fn summary(m: &daybook_contract::bank::v1::MovementSummary) -> String {
    let minor = |m: &Option<_>| daybook_contract::money::to_minor(m.as_ref().unwrap()).unwrap();
    format!(
        "{} +{} -{} in {} {} out {} {}",
        m.currency_code,
        m.accounts_opened,
        m.accounts_closed,
        m.deposit_count,
        minor(&m.deposit_total),
        m.withdrawal_count,
        minor(&m.withdrawal_total)
    )
}

#[tokio::test]
async fn an_answer_given_again_is_never_an_old_one() {
    let log = Log::new();
    log.append("a", opened("A", usd(0)));
    let bank = Bank::over(log).await;
    for cents in 1..=50 {
        let position = bank.log.position() + 1;
        bank.log.append("a", deposited(usd(1)));
        for _ in 0..2 {
            let mut request = get("a");
            request.get_mut().read = read(position, Duration::from_secs(30));
            let found = answer(bank.queries.get_account(request).await).unwrap();
            assert_eq!(found.account.unwrap().balance, Some(usd(cents)));
            assert!(found.position >= position);
        }
    }
    bank.host.shutdown().await;
    let error = answer(bank.queries.get_account(get("b")).await).unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, "NOT_SERVING"));
}
