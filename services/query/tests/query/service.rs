//! The whole query side over gRPC.

use std::sync::Arc;

use daybook_contract::bank::v1::GetAccountRequest;
use daybook_contract::bank::v1::query_service_client::QueryServiceClient;
use daybook_contract::daybook::v1::projection_service_client::ProjectionServiceClient;
use daybook_contract::daybook::v1::{
    GetProjectionRequest, ListProjectionsRequest, ListQuarantinedEventsRequest, ProjectionState,
    RebuildProjectionRequest, RebuildStage, WatchRebuildRequest,
};
use daybook_contract::error::Error;
use daybook_query::projections::account_balance::AccountBalance;
use daybook_query::runtime::Projection;
use daybook_query::{Config, MAX_REQUEST_BYTES, QuerySide};
use futures::FutureExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::{Channel, Server};

use crate::fakes::*;

struct Served {
    side: QuerySide,
    channel: Channel,
    stop: oneshot::Sender<()>,
    server: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

async fn serve(log: &Log) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { batch_size: 10, ..Config::new(dir.path().join("query")) };
    let side = QuerySide::open(config, Arc::new(log.clone()), Arc::new(log.clone())).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let serving = Server::builder()
        .add_routes(side.routes(&[]))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped.map(drop));
    let server = tokio::spawn(async move { serving.await.unwrap() });
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    let channel = channel.connect().await.unwrap();
    Served { side, channel, stop, server, _dir: dir }
}

#[tokio::test]
async fn accounts_and_projections_are_served() {
    let log = Log::new();
    log.append("alice", opened("Alice", usd(1)));
    let served = serve(&log).await;
    let mut bank = QueryServiceClient::new(served.channel.clone());
    // A receipt's position is enough: the query waits for the first build, too.
    let read = Some(reflecting(1));
    let request = GetAccountRequest { account_id: "alice".to_owned(), read };
    let found = bank.get_account(request).await.unwrap().into_inner();
    assert_eq!(found.account.unwrap().balance, Some(usd(1)));

    let mut projections = ProjectionServiceClient::new(served.channel.clone());
    let found = projections.list_projections(ListProjectionsRequest {}).await.unwrap();
    let found = found.into_inner().projections;
    let names: Vec<_> = found.iter().map(|status| status.name.as_str()).collect();
    let mut expected = daybook_query::projections::NAMES.to_vec();
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(served.side.statuses().len(), names.len());
    let request = GetProjectionRequest { name: "account_balance".to_owned() };
    let found = projections.get_projection(request).await.unwrap().into_inner();
    let status = found.projection.unwrap();
    assert_eq!((status.version, status.position), (AccountBalance::VERSION, 1));
    assert_eq!(status.state(), ProjectionState::Live);
    served.side.shutdown().await;
}

#[tokio::test]
async fn bad_requests_are_refused_with_a_reason() {
    let served = serve(&Log::new()).await;
    let mut projections = ProjectionServiceClient::new(served.channel.clone());
    let request = GetProjectionRequest { name: "unheard_of".to_owned() };
    let error = Error::from(&projections.get_projection(request).await.unwrap_err());
    assert_eq!((error.code(), error.reason()), (Code::NotFound, "PROJECTION_NOT_FOUND"));
    let error = projections.get_projection(GetProjectionRequest::default()).await;
    let error = Error::from(&error.unwrap_err());
    assert_eq!((error.code(), error.reason()), (Code::InvalidArgument, "INVALID_REQUEST"));
    let request = ListQuarantinedEventsRequest { page_size: -1, ..Default::default() };
    let error = Error::from(&projections.list_quarantined_events(request).await.unwrap_err());
    assert_eq!(error.details().bad_request().unwrap().field_violations.len(), 2);
    let request = ListQuarantinedEventsRequest {
        name: "account_balance".to_owned(),
        page_token: "00".to_owned(),
        ..Default::default()
    };
    let error = Error::from(&projections.list_quarantined_events(request).await.unwrap_err());
    assert_eq!(error.reason(), "INVALID_PAGE_TOKEN");
    let mut bank = QueryServiceClient::new(served.channel.clone());
    let account_id = "x".repeat(MAX_REQUEST_BYTES);
    let error = bank.get_account(GetAccountRequest { account_id, read: None }).await.unwrap_err();
    assert_eq!(error.code(), Code::OutOfRange);
    served.side.shutdown().await;
}

#[tokio::test]
async fn a_shutdown_ends_the_streams_and_then_the_server() {
    let log = Log::new();
    for _ in 0..5 {
        log.append("alice", opened("Alice", usd(1)));
    }
    log.set_down(true);
    let served = serve(&log).await;
    let mut projections = ProjectionServiceClient::new(served.channel.clone());
    let name = || "daily_summary".to_owned();
    let request = RebuildProjectionRequest { name: name() };
    let begun = projections.rebuild_projection(request).await.unwrap().into_inner();
    assert_eq!(begun.rebuild.unwrap().stage(), RebuildStage::Building);
    let mut steps =
        projections.watch_rebuild(WatchRebuildRequest { name: name() }).await.unwrap().into_inner();
    let first = steps.message().await.unwrap().unwrap().rebuild.unwrap();
    assert_eq!(first.stage(), RebuildStage::Building);
    served.side.shutdown().await;
    while let Some(step) = steps.message().await.unwrap() {
        assert_eq!(step.rebuild.unwrap().stage(), RebuildStage::Building);
    }
    drop(steps);
    served.stop.send(()).unwrap();
    served.server.await.unwrap();
}
