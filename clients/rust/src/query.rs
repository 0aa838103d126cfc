//! What all queries have in common, and those of the bank.

use std::collections::VecDeque;
use std::future::IntoFuture;
use std::time::Duration;

use daybook_contract::bank::v1::{
    Account, AccountStatus, BankTransfer, GetAccountRequest, GetAccountResponse,
    GetDailySummaryRequest, GetDailySummaryResponse, GetTransferRequest, GetTransferResponse,
    GetYearlyTotalsRequest, GetYearlyTotalsResponse, ListAccountsRequest, ListAccountsResponse,
    ListTransactionsRequest, ListTransactionsResponse, ListTransfersRequest, ListTransfersResponse,
    Transaction, TransactionKind, TransferStatus,
};
use daybook_contract::daybook::v1::{CommandReceipt, ReadContext};
use daybook_contract::error::Error;
use futures::Stream;
use futures::future::BoxFuture;
use futures::stream::try_unfold;
use prost::Message;
use prost_types::Timestamp;

use crate::call::Options;
use crate::client::{Daybook, Service};

/// How long a query waits for a position when it does not say; the server's default.
const DEFAULT_WAIT: Duration = Duration::from_secs(5);

/// The longest that the server waits for a position; a query that asks for more waits this long.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The request of a query RPC.
pub trait QueryRequest: Message + Default + Clone + 'static {
    /// The answer.
    type Response: Message + Default + 'static;
    /// The path of the RPC, such as `/bank.v1.QueryService/GetAccount`.
    const METHOD: &'static str;
    /// The full name of the answer, such as `bank.v1.GetAccountResponse`.
    const RESPONSE_NAME: &'static str;

    /// The service that answers.
    fn service(client: &Daybook) -> &Service;

    /// How fresh the answer must be, made when nothing is said yet.
    fn read_mut(&mut self) -> &mut ReadContext;
}

/// Says of each query which RPC it belongs to: one of its package's QueryService, unless the way to
/// another service and its name are given.
macro_rules! queries {
    ($package:literal: $($queries:tt)+) => {
        crate::query::queries!(query_service, "QueryService", $package: $($queries)+);
    };
    ($way:ident, $service:literal, $package:literal:
     $($method:literal: $request:ident => $response:ident),+ $(,)?) => {
        $(impl crate::query::QueryRequest for $request {
            type Response = $response;
            const METHOD: &'static str = concat!("/", $package, ".", $service, "/", $method);
            const RESPONSE_NAME: &'static str = concat!($package, ".", stringify!($response));

            fn service(client: &crate::client::Daybook) -> &crate::client::Service {
                client.$way()
            }

            fn read_mut(&mut self) -> &mut daybook_contract::daybook::v1::ReadContext {
                self.read.get_or_insert_default()
            }
        })+
    };
}
pub(crate) use queries;

/// The request of a query whose answer comes in pages.
pub trait PagedRequest: QueryRequest {
    /// What the pages are made of.
    type Item: Send;

    /// The size of a page, and where the page before ended.
    fn page_mut(&mut self) -> (&mut i32, &mut String);

    /// The items of an answer, and the token of the next page.
    fn page_of(answer: &mut Self::Response) -> (&mut Vec<Self::Item>, &mut String);
}

/// Says of each query with pages which field of its answer has the items.
macro_rules! paged {
    ($($request:ident => $items:ident: $item:ident),+ $(,)?) => {
        $(impl crate::query::PagedRequest for $request {
            type Item = $item;

            fn page_mut(&mut self) -> (&mut i32, &mut String) {
                (&mut self.page_size, &mut self.page_token)
            }

            fn page_of(answer: &mut Self::Response) -> (&mut Vec<$item>, &mut String) {
                (&mut answer.$items, &mut answer.next_page_token)
            }
        })+
    };
}
pub(crate) use paged;

queries!("bank.v1":
    "GetAccount": GetAccountRequest => GetAccountResponse,
    "ListAccounts": ListAccountsRequest => ListAccountsResponse,
    "ListTransactions": ListTransactionsRequest => ListTransactionsResponse,
    "GetDailySummary": GetDailySummaryRequest => GetDailySummaryResponse,
    "GetYearlyTotals": GetYearlyTotalsRequest => GetYearlyTotalsResponse,
    "GetTransfer": GetTransferRequest => GetTransferResponse,
    "ListTransfers": ListTransfersRequest => ListTransfersResponse,
);

paged!(
    ListAccountsRequest => accounts: Account,
    ListTransactionsRequest => transactions: Transaction,
    ListTransfersRequest => transfers: BankTransfer,
);

/// A query that is sent when it is awaited.
#[derive(Debug, Clone)]
#[must_use = "a query is sent when it is awaited"]
pub struct Query<R> {
    client: Daybook,
    pub(crate) request: R,
    deadline: Option<Duration>,
}

impl Daybook {
    /// Gets one account with its balance.
    pub fn get_account(&self, account_id: impl Into<String>) -> Query<GetAccountRequest> {
        self.query(GetAccountRequest { account_id: account_id.into(), ..Default::default() })
    }

    /// Lists accounts, by id; by owner and id with [`Query::owner_prefix`].
    pub fn list_accounts(&self) -> Query<ListAccountsRequest> {
        self.query(ListAccountsRequest::default())
    }

    /// Lists the transactions of one account, newest first.
    pub fn list_transactions(
        &self,
        account_id: impl Into<String>,
    ) -> Query<ListTransactionsRequest> {
        self.query(ListTransactionsRequest { account_id: account_id.into(), ..Default::default() })
    }

    /// Gets what happened on each day from the first to the last, both inclusive and in UTC, such
    /// as `2026-11-21`.
    pub fn daily_summary(
        &self,
        first_day: impl Into<String>,
        last_day: impl Into<String>,
    ) -> Query<GetDailySummaryRequest> {
        self.query(GetDailySummaryRequest {
            start_date: first_day.into(),
            end_date: last_day.into(),
            ..Default::default()
        })
    }

    /// Gets the totals of a year in UTC.
    pub fn yearly_totals(&self, year: i32) -> Query<GetYearlyTotalsRequest> {
        self.query(GetYearlyTotalsRequest { year, ..Default::default() })
    }

    /// Gets one transfer.
    pub fn get_transfer(&self, transfer_id: impl Into<String>) -> Query<GetTransferRequest> {
        self.query(GetTransferRequest { transfer_id: transfer_id.into(), ..Default::default() })
    }

    /// Lists transfers, newest first.
    pub fn list_transfers(&self) -> Query<ListTransfersRequest> {
        self.query(ListTransfersRequest::default())
    }

    /// Any query of the contract, typed.
    pub fn query<R: QueryRequest>(&self, request: R) -> Query<R> {
        Query { client: self.clone(), request, deadline: None }
    }
}

impl<R: QueryRequest> Query<R> {
    /// The answer must reflect this command.
    pub fn after(self, receipt: &CommandReceipt) -> Self {
        self.min_position(receipt.position)
    }

    /// The answer must reflect the log at least up to this position.
    pub fn min_position(mut self, position: u64) -> Self {
        let read = self.request.read_mut();
        read.min_position = read.min_position.max(position);
        self
    }

    /// How long the query may wait for the position; what the client was told, or 5 s. More than
    /// 30 s is taken as 30 s.
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.request.read_mut().max_wait = Some(duration(wait));
        self
    }

    /// How long this query may take, all attempts together; the wait for a position comes on top.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    async fn send(mut self) -> Result<R::Response, Error> {
        let written = self.client.written();
        if written > 0 {
            self = self.min_position(written);
        }
        let mut deadline = self.deadline.unwrap_or(self.client.inner.deadline);
        let read = self.request.read_mut();
        if read.min_position > 0 {
            read.max_wait = read.max_wait.or(self.client.inner.max_wait.map(duration));
        }
        deadline += wait_of(read);
        let options = Options { deadline, repeatable: true };
        let service = R::service(&self.client);
        self.client.unary(service, R::METHOD, self.request, options).await
    }
}

/// How long the server may wait for a position, if one is asked for.
pub(crate) fn wait_of(read: &ReadContext) -> Duration {
    if read.min_position == 0 {
        return Duration::ZERO;
    }
    read.max_wait.map_or(DEFAULT_WAIT, |wait| {
        Duration::try_from(wait).unwrap_or(Duration::ZERO).min(LONGEST_WAIT)
    })
}

/// A wait as it travels. Beyond the range of a protobuf Duration it is cut like any other that is
/// too long.
pub(crate) fn duration(wait: Duration) -> prost_types::Duration {
    wait.try_into().unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

impl<R: PagedRequest> Query<R> {
    /// The most items on a page, at most 500.
    pub fn page_size(mut self, size: i32) -> Self {
        *self.request.page_mut().0 = size;
        self
    }

    /// Goes on where the page before ended.
    pub fn page_token(mut self, token: impl Into<String>) -> Self {
        *self.request.page_mut().1 = token.into();
        self
    }

    /// All items from here on, page after page as they are wanted.
    pub fn all(self) -> impl Stream<Item = Result<R::Item, Error>> + Send {
        let start = (VecDeque::new(), Some(self));
        try_unfold(start, move |(mut page, mut next)| async move {
            while page.is_empty() {
                let Some(query) = next.take() else { return Ok(None) };
                let mut answer = query.clone().await?;
                let (items, token) = R::page_of(&mut answer);
                page = VecDeque::from(std::mem::take(items));
                let token = std::mem::take(token);
                next = (!token.is_empty()).then(|| query.page_token(token));
            }
            Ok(page.pop_front().map(|item| (item, (page, next))))
        })
    }
}

impl<R: QueryRequest> IntoFuture for Query<R> {
    type Output = Result<R::Response, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

impl Query<ListAccountsRequest> {
    /// Only accounts with this status.
    pub fn status(mut self, status: AccountStatus) -> Self {
        self.request.status = status.into();
        self
    }

    /// Only accounts whose owner's name begins with this, ASCII letters in either case.
    pub fn owner_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.request.owner_prefix = prefix.into();
        self
    }
}

impl Query<ListTransactionsRequest> {
    /// Only transactions of this kind.
    pub fn kind(mut self, kind: TransactionKind) -> Self {
        self.request.kind = kind.into();
        self
    }

    /// Only transactions recorded at this time or later.
    pub fn since(mut self, time: Timestamp) -> Self {
        self.request.start_time = Some(time);
        self
    }

    /// Only transactions recorded before this time.
    pub fn until(mut self, time: Timestamp) -> Self {
        self.request.end_time = Some(time);
        self
    }
}

impl Query<ListTransfersRequest> {
    /// Only transfers from or to this account.
    pub fn account(mut self, account_id: impl Into<String>) -> Self {
        self.request.account_id = account_id.into();
        self
    }

    /// Only transfers with this status.
    pub fn status(mut self, status: TransferStatus) -> Self {
        self.request.status = status.into();
        self
    }
}

impl Query<GetDailySummaryRequest> {
    /// Only this currency.
    pub fn currency(mut self, code: impl Into<String>) -> Self {
        self.request.currency_code = code.into();
        self
    }
}

impl Query<GetYearlyTotalsRequest> {
    /// Only this currency.
    pub fn currency(mut self, code: impl Into<String>) -> Self {
        self.request.currency_code = code.into();
        self
    }
}
