//! The ceiling: a tonic server with the settings and messages of daybook that does nothing.
//!
//! It runs as a process of its own (`daybook-bench noop-server`) and takes the same requests from
//! the same clients. It decodes them and answers with a message of the usual size.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use daybook_contract::bank::v1::query_service_server::{QueryService, QueryServiceServer};
use daybook_contract::bank::v1::{
    Account, GetAccountRequest, GetAccountResponse, GetDailySummaryRequest,
    GetDailySummaryResponse, GetTransferRequest, GetTransferResponse, GetYearlyTotalsRequest,
    GetYearlyTotalsResponse, ListAccountsRequest, ListAccountsResponse, ListTransactionsRequest,
    ListTransactionsResponse, ListTransfersRequest, ListTransfersResponse,
};
use daybook_contract::contract::{CommandSet, Dispatch};
use daybook_contract::daybook::v1::command_service_server::{CommandService, CommandServiceServer};
use daybook_contract::daybook::v1::execute_stream_response::Outcome;
use daybook_contract::daybook::v1::{
    CommandReceipt, ExecuteRequest, ExecuteStreamRequest, ExecuteStreamResponse, Money,
};
use daybook_contract::orders::v1 as orders;
use prost_types::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::tonic_bank;

/// The settings of daybook's own server.
const MAX_STREAMS: u32 = 1024;
const KEEPALIVE: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct Noop;

/// An answer of the usual size.
pub fn receipt() -> CommandReceipt {
    CommandReceipt {
        aggregate_id: "bench-00042".to_owned(),
        version: 42,
        position: 4_200_000,
        event_ids: vec!["019a9d9e-5c4b-7cc1-9d0e-0c8f8e2b6a11".to_owned()],
        replayed: false,
        recorded_time: Some(Timestamp { seconds: 1_763_000_000, nanos: 123_456_000 }),
    }
}

impl Dispatch for Noop {
    async fn dispatch<C: CommandSet>(&self, _: Request<C>) -> Result<CommandReceipt, Status> {
        Ok(receipt())
    }
}

#[tonic::async_trait]
impl CommandService for Noop {
    async fn execute(
        &self,
        _: Request<ExecuteRequest>,
    ) -> Result<Response<CommandReceipt>, Status> {
        Ok(Response::new(receipt()))
    }

    type ExecuteStreamStream =
        Pin<Box<dyn Stream<Item = Result<ExecuteStreamResponse, Status>> + Send>>;

    async fn execute_stream(
        &self,
        request: Request<Streaming<ExecuteStreamRequest>>,
    ) -> Result<Response<Self::ExecuteStreamStream>, Status> {
        let answers = request.into_inner().map(|request| {
            request.map(|_| ExecuteStreamResponse { outcome: Some(Outcome::Receipt(receipt())) })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tonic::async_trait]
impl QueryService for Noop {
    async fn get_account(
        &self,
        request: Request<GetAccountRequest>,
    ) -> Result<Response<GetAccountResponse>, Status> {
        let time = Some(Timestamp { seconds: 1_763_000_000, nanos: 123_456_000 });
        let account = Account {
            account_id: request.into_inner().account_id,
            owner_name: "Ada Lovelace".to_owned(),
            balance: Some(Money { currency_code: "USD".to_owned(), units: 1000, nanos: 0 }),
            status: 1,
            version: 42,
            opened_time: time,
            closed_time: None,
            updated_time: time,
            pending_out: Some(Money { currency_code: "USD".to_owned(), units: 0, nanos: 0 }),
            pending_in: Some(Money { currency_code: "USD".to_owned(), units: 0, nanos: 0 }),
        };
        Ok(Response::new(GetAccountResponse { account: Some(account), position: 4_200_000 }))
    }

    async fn list_accounts(
        &self,
        _: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        Ok(Response::new(ListAccountsResponse::default()))
    }

    async fn list_transactions(
        &self,
        _: Request<ListTransactionsRequest>,
    ) -> Result<Response<ListTransactionsResponse>, Status> {
        Ok(Response::new(ListTransactionsResponse::default()))
    }

    async fn get_daily_summary(
        &self,
        _: Request<GetDailySummaryRequest>,
    ) -> Result<Response<GetDailySummaryResponse>, Status> {
        Ok(Response::new(GetDailySummaryResponse::default()))
    }

    async fn get_yearly_totals(
        &self,
        _: Request<GetYearlyTotalsRequest>,
    ) -> Result<Response<GetYearlyTotalsResponse>, Status> {
        Ok(Response::new(GetYearlyTotalsResponse::default()))
    }

    async fn get_transfer(
        &self,
        _: Request<GetTransferRequest>,
    ) -> Result<Response<GetTransferResponse>, Status> {
        Ok(Response::new(GetTransferResponse::default()))
    }

    async fn list_transfers(
        &self,
        _: Request<ListTransfersRequest>,
    ) -> Result<Response<ListTransfersResponse>, Status> {
        Ok(Response::new(ListTransfersResponse::default()))
    }
}

#[tonic::async_trait]
impl orders::query_service_server::QueryService for Noop {
    async fn get_order(
        &self,
        request: Request<orders::GetOrderRequest>,
    ) -> Result<Response<orders::GetOrderResponse>, Status> {
        let time = Some(Timestamp { seconds: 1_763_000_000, nanos: 123_456_000 });
        let money = Some(Money { currency_code: "USD".to_owned(), units: 1000, nanos: 0 });
        let item = |number: u32| orders::OrderItem {
            line_id: number.to_string(),
            product_id: format!("product-{number:06}"),
            quantity: 3,
            unit_price: money.clone(),
        };
        let order = orders::Order {
            order_id: request.into_inner().order_id,
            user_id: "user-0042".to_owned(),
            status: 1,
            total: money.clone(),
            item_count: 3,
            items: (0..3).map(item).collect(),
            version: 4,
            created_time: time,
            updated_time: time,
            ..orders::Order::default()
        };
        Ok(Response::new(orders::GetOrderResponse { order: Some(order), position: 4_200_000 }))
    }

    async fn list_orders(
        &self,
        _: Request<orders::ListOrdersRequest>,
    ) -> Result<Response<orders::ListOrdersResponse>, Status> {
        Ok(Response::new(orders::ListOrdersResponse::default()))
    }

    async fn list_orders_by_product(
        &self,
        _: Request<orders::ListOrdersByProductRequest>,
    ) -> Result<Response<orders::ListOrdersByProductResponse>, Status> {
        Ok(Response::new(orders::ListOrdersByProductResponse::default()))
    }

    async fn get_daily_statistics(
        &self,
        _: Request<orders::GetDailyStatisticsRequest>,
    ) -> Result<Response<orders::GetDailyStatisticsResponse>, Status> {
        Ok(Response::new(orders::GetDailyStatisticsResponse::default()))
    }
}

/// Serves the ceiling.
pub async fn serve() -> Result<()> {
    let routes = tonic_bank::routes(Noop)
        .add_service(CommandServiceServer::new(Noop))
        .add_service(QueryServiceServer::new(Noop))
        .add_service(orders::query_service_server::QueryServiceServer::new(Noop));
    serve_routes(routes).await
}

/// Serves until standard input ends, which it does when the process that started this one ends.
pub async fn serve_routes(routes: Routes) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let until = async {
        let mut nothing = Vec::new();
        let _ = tokio::io::stdin().read_to_end(&mut nothing).await;
    };
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_routes(routes)
        .serve_with_incoming(incoming);
    tokio::select! {
        served = server => Ok(served?),
        () = until => Ok(()),
    }
}

/// A server of this program as a process. It ends when this is dropped.
pub struct Process {
    /// Where it listens.
    pub url: String,
    child: Child,
}

impl Process {
    /// Starts this program with arguments that make it a server.
    pub fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("a server to compare with cannot be started")?;
        let mut line = String::new();
        let output = child.stdout.take().context("a server to compare with has no output")?;
        BufReader::new(output).read_line(&mut line)?;
        ensure!(!line.is_empty(), "a server to compare with has ended at once");
        Ok(Self { url: format!("http://{}", line.trim()), child })
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended by itself.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
