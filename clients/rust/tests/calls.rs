//! How calls are made, against a fake server that answers as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use daybook_client::{Builder, Daybook, Error, Money, Policy, UNREACHABLE};
use daybook_contract::bank::v1::{
    DepositRequest, GetAccountRequest, GetAccountResponse, OpenAccountRequest,
};
use daybook_contract::daybook::v1::{
    CommandReceipt, ErrorReason, ExecuteStreamRequest, ExecuteStreamResponse, GetSagaRequest,
    GetSagaResponse, execute_stream_response::Outcome,
};
use futures::StreamExt;
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// A deposit as it arrived, and the actor that came with it.
type Deposited = (DepositRequest, Option<String>);

/// Answers in order, and remembers what was asked.
#[derive(Clone, Default)]
struct Fake {
    answers: Arc<Mutex<VecDeque<Result<CommandReceipt, Status>>>>,
    deposits: Arc<Mutex<Vec<Deposited>>>,
    queries: Arc<Mutex<Vec<GetAccountRequest>>>,
    saga_queries: Arc<Mutex<Vec<GetSagaRequest>>>,
    /// What every query is answered with, when it is not an empty answer.
    query_error: Arc<Mutex<Option<Status>>>,
    streamed: Arc<Mutex<Vec<String>>>,
    /// How many commands a stream answers before it breaks, for each connection in turn.
    breaks: Arc<Mutex<VecDeque<usize>>>,
}

impl UnaryService<DepositRequest> for Fake {
    type Response = CommandReceipt;
    type Future = BoxFuture<Response<CommandReceipt>, Status>;

    fn call(&mut self, request: Request<DepositRequest>) -> Self::Future {
        let actor = request.metadata().get(daybook_client::ACTOR_HEADER);
        let actor = actor.map(|value| value.to_str().unwrap().to_owned());
        self.deposits.lock().unwrap().push((request.into_inner(), actor));
        let answer = self.answers.lock().unwrap().pop_front();
        Box::pin(async move {
            match answer {
                Some(answer) => answer.map(Response::new),
                // Never: the client has to keep its deadline.
                None => std::future::pending().await,
            }
        })
    }
}

impl UnaryService<GetAccountRequest> for Fake {
    type Response = GetAccountResponse;
    type Future = BoxFuture<Response<GetAccountResponse>, Status>;

    fn call(&mut self, request: Request<GetAccountRequest>) -> Self::Future {
        self.queries.lock().unwrap().push(request.into_inner());
        let error = self.query_error.lock().unwrap().clone();
        Box::pin(async { error.map_or_else(|| Ok(Response::new(Default::default())), Err) })
    }
}

impl UnaryService<GetSagaRequest> for Fake {
    type Response = GetSagaResponse;
    type Future = BoxFuture<Response<GetSagaResponse>, Status>;

    fn call(&mut self, request: Request<GetSagaRequest>) -> Self::Future {
        self.saga_queries.lock().unwrap().push(request.into_inner());
        Box::pin(async { Ok(Response::new(Default::default())) })
    }
}

impl StreamingService<ExecuteStreamRequest> for Fake {
    type Response = ExecuteStreamResponse;
    type ResponseStream = ReceiverStream<Result<ExecuteStreamResponse, Status>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<ExecuteStreamRequest>>) -> Self::Future {
        let answers_before_break = self.breaks.lock().unwrap().pop_front().unwrap_or(usize::MAX);
        let streamed = Arc::clone(&self.streamed);
        Box::pin(async move {
            let (sender, receiver) = tokio::sync::mpsc::channel(16);
            let mut requests = request.into_inner();
            tokio::spawn(async move {
                for answered in 0.. {
                    let Ok(Some(request)) = requests.message().await else { return };
                    let command =
                        OpenAccountRequest::decode(&*request.command.unwrap().value).unwrap();
                    streamed.lock().unwrap().push(command.context.unwrap().request_id);
                    if answered == answers_before_break {
                        let _ = sender.send(Err(Status::unavailable("gone"))).await;
                        return;
                    }
                    let outcome = if command.owner_name.is_empty() {
                        Outcome::Failure(Error::new(ErrorReason::NotFound, "nobody").into())
                    } else {
                        let aggregate_id = command.owner_name;
                        Outcome::Receipt(CommandReceipt { aggregate_id, ..Default::default() })
                    };
                    let answer = ExecuteStreamResponse { outcome: Some(outcome) };
                    if sender.send(Ok(answer)).await.is_err() {
                        return;
                    }
                }
            });
            Ok(Response::new(ReceiverStream::new(receiver)))
        })
    }
}

/// A service under one of the names that the client calls.
macro_rules! served_as {
    ($server:ident, $name:literal, $call:ident, $request:ty, $response:ty) => {
        #[derive(Clone)]
        struct $server(Fake);

        impl NamedService for $server {
            const NAME: &'static str = $name;
        }

        impl Service<http::Request<tonic::body::Body>> for $server {
            type Response = http::Response<tonic::body::Body>;
            type Error = std::convert::Infallible;
            type Future = BoxFuture<Self::Response, Self::Error>;

            fn poll_ready(
                &mut self,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Result<(), Self::Error>> {
                std::task::Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
                let fake = self.0.clone();
                Box::pin(async move {
                    let codec = ProstCodec::<$response, $request>::default();
                    Ok(Grpc::new(codec).$call(fake, request).await)
                })
            }
        }
    };
}

served_as!(Commands, "bank.v1.CommandService", unary, DepositRequest, CommandReceipt);
served_as!(Queries, "bank.v1.QueryService", unary, GetAccountRequest, GetAccountResponse);
served_as!(Sagas, "daybook.v1.SagaService", unary, GetSagaRequest, GetSagaResponse);
served_as!(
    Streams,
    "daybook.v1.CommandService",
    streaming,
    ExecuteStreamRequest,
    ExecuteStreamResponse
);

/// Starts the fake and a client of it.
async fn start(answers: Vec<Result<CommandReceipt, Status>>) -> (Fake, Daybook) {
    start_with(answers, |client| client).await
}

/// Starts the fake and a client of it that is set up further.
async fn start_with(
    answers: Vec<Result<CommandReceipt, Status>>,
    set_up: fn(Builder) -> Builder,
) -> (Fake, Daybook) {
    let fake = Fake { answers: Arc::new(Mutex::new(answers.into())), ..Fake::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder()
        .add_service(Commands(fake.clone()))
        .add_service(Queries(fake.clone()))
        .add_service(Sagas(fake.clone()))
        .add_service(Streams(fake.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    let quick = Policy {
        max_attempts: 4,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(2),
    };
    let client = Daybook::builder()
        .command_url(&url)
        .query_url(&url)
        .saga_url(&url)
        .retries(quick)
        .actor("teller-1");
    (fake, set_up(client).build().unwrap())
}

fn money() -> Money {
    Money { currency_code: "USD".into(), units: 5, nanos: 0 }
}

fn receipt(position: u64) -> CommandReceipt {
    CommandReceipt { aggregate_id: "ada".into(), position, ..Default::default() }
}

fn unavailable() -> Status {
    Error::new(ErrorReason::NotServing, "starting").into()
}

fn request_ids(fake: &Fake) -> Vec<String> {
    let deposits = fake.deposits.lock().unwrap();
    deposits.iter().map(|(request, _)| request.context.clone().unwrap().request_id).collect()
}

#[tokio::test]
async fn every_attempt_at_a_command_has_the_same_request_id() {
    let overloaded = Error::new(ErrorReason::Overloaded, "busy").into();
    let (fake, daybook) = start(vec![Err(unavailable()), Err(overloaded), Ok(receipt(7))]).await;
    let answer = daybook.deposit("ada", money()).await.unwrap();
    assert_eq!(answer.position, 7);
    let ids = request_ids(&fake);
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(uuid::Uuid::parse_str(&ids[0]).unwrap().get_version_num(), 7);
}

#[tokio::test]
async fn the_request_id_and_the_actor_of_the_caller_are_sent() {
    let (fake, daybook) = start(vec![Ok(receipt(1))]).await;
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    daybook.deposit("ada", money()).request_id(id).expected_version(3).await.unwrap();
    let (request, actor) = fake.deposits.lock().unwrap()[0].clone();
    let context = request.context.unwrap();
    assert_eq!(context.request_id, id);
    assert_eq!(context.expected_version, Some(3));
    assert_eq!(actor.as_deref(), Some("teller-1"));
}

#[tokio::test]
async fn a_refusal_is_not_tried_again() {
    let refusals = [
        Error::custom(Code::FailedPrecondition, "INSUFFICIENT_FUNDS", "too little"),
        Error::new(ErrorReason::VersionConflict, "somebody was faster"),
        Error::new(ErrorReason::InvalidRequest, "no"),
        Error::new(ErrorReason::DiskFull, "full"),
        Error::new(ErrorReason::DamagedRecord, "damaged"),
        Error::new(ErrorReason::Internal, "oops"),
    ];
    for refusal in refusals {
        let (fake, daybook) = start(vec![Err(refusal.clone().into()), Ok(receipt(1))]).await;
        let error = daybook.deposit("ada", money()).await.unwrap_err();
        assert_eq!((error.code(), error.reason()), (refusal.code(), refusal.reason()));
        assert_eq!(request_ids(&fake).len(), 1, "{refusal}");
    }
}

#[tokio::test]
async fn attempts_come_to_an_end() {
    let (fake, daybook) = start(vec![Err(unavailable()); 9]).await;
    let error = daybook.deposit("ada", money()).await.unwrap_err();
    assert_eq!(error.reason(), "NOT_SERVING");
    assert_eq!(request_ids(&fake).len(), 4);
}

#[tokio::test]
async fn a_call_keeps_its_deadline() {
    let (_fake, daybook) = start(vec![]).await;
    let deadline = Duration::from_millis(100);
    let error = daybook.deposit("ada", money()).deadline(deadline).await.unwrap_err();
    assert_eq!(error.reason(), "DEADLINE_EXCEEDED");
    assert!(error.message().contains("within 100ms"), "{error}");
}

#[tokio::test]
async fn a_service_that_is_not_there_is_named() {
    // A port below those that systems give away.
    let url = "http://127.0.0.1:1";
    let daybook = Daybook::builder().query_url(url).max_attempts(2).build().unwrap();
    let error = daybook.get_account("ada").await.unwrap_err();
    assert_eq!(error.reason(), UNREACHABLE);
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(error.metadata()["url"], url);
    assert!(error.message().contains("the query service at"), "{error}");
    assert!(error.message().contains("refused"), "{error}");
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_at_once() {
    for url in ["", "localhost:50051", "https://localhost:50051", "http://"] {
        let error = Daybook::connect(url, "http://127.0.0.1:1").unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{url}: {error}");
    }
}

#[tokio::test]
async fn an_actor_that_cannot_be_sent_is_refused_at_once() {
    for actor in ["José", "a\nb", &"x".repeat(65)] {
        let error = Daybook::builder().actor(actor).build().unwrap_err();
        assert_eq!(error.reason(), "INVALID_REQUEST", "{actor}: {error}");
    }
    Daybook::builder().actor("Jose of desk 4").build().unwrap();
}

#[tokio::test]
async fn a_query_after_a_receipt_asks_for_its_position() {
    let (fake, daybook) = start(vec![]).await;
    daybook.get_account("ada").after(&receipt(41)).await.unwrap();
    daybook.get_account("ada").await.unwrap();
    let queries = fake.queries.lock().unwrap();
    assert_eq!(queries[0].read.as_ref().unwrap().min_position, 41);
    assert_eq!(queries[1].read.clone().unwrap_or_default().min_position, 0);
}

#[tokio::test]
async fn a_session_reads_its_writes() {
    let (fake, daybook) = start(vec![Ok(receipt(12)), Ok(receipt(11))]).await;
    let session = daybook.read_your_writes();
    session.deposit("ada", money()).await.unwrap();
    session.clone().deposit("ada", money()).await.unwrap();
    session.get_account("ada").await.unwrap();
    daybook.get_account("ada").await.unwrap();
    session.sagas().get(GetSagaRequest::default()).await.unwrap();
    let of_sagas = fake.saga_queries.lock().unwrap();
    assert_eq!(of_sagas[0].read.as_ref().unwrap().min_position, 12);
    let queries = fake.queries.lock().unwrap();
    assert_eq!(queries[0].read.as_ref().unwrap().min_position, 12);
    assert_eq!(queries[1].read.clone().unwrap_or_default().min_position, 0);
}

#[tokio::test]
async fn a_query_waits_for_its_position_once_as_long_as_it_was_told() {
    let (fake, daybook) = start(vec![]).await;
    let lagging = Error::new(ErrorReason::ProjectionLagging, "not there yet");
    *fake.query_error.lock().unwrap() = Some(lagging.into());
    let error = daybook.get_account("ada").min_position(9).await.unwrap_err();
    assert_eq!(error.reason(), "PROJECTION_LAGGING");
    assert_eq!(fake.queries.lock().unwrap().len(), 1);
    *fake.query_error.lock().unwrap() = Some(unavailable());
    daybook.get_account("ada").await.unwrap_err();
    assert_eq!(fake.queries.lock().unwrap().len(), 5, "anything else is tried four times");
}

#[tokio::test]
async fn a_query_is_told_to_wait_as_long_as_it_says_or_else_its_client() {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let (fake, daybook) =
        start_with(vec![], |client| client.max_wait(Duration::from_secs(60))).await;
    daybook.get_account("ada").min_position(9).await.unwrap();
    daybook.get_account("ada").min_position(9).max_wait(minutes(2)).await.unwrap();
    daybook.get_account("ada").await.unwrap();
    let queries = fake.queries.lock().unwrap();
    let waits = queries.iter().map(|query| query.read.as_ref().and_then(|read| read.max_wait));
    let waits: Vec<_> = waits.map(|wait| wait.map(|wait| wait.seconds)).collect();
    assert_eq!(
        waits,
        [Some(60), Some(120), None],
        "one without a position has nothing to wait for"
    );
}

fn owners(names: &[&str]) -> Vec<OpenAccountRequest> {
    let open =
        |name: &&str| OpenAccountRequest { owner_name: (*name).to_owned(), ..Default::default() };
    names.iter().map(open).collect()
}

#[tokio::test]
async fn a_stream_of_commands_is_answered_in_order_and_goes_on_after_a_refusal() {
    let (_fake, daybook) = start(vec![]).await;
    let commands = futures::stream::iter(owners(&["a", "", "c"]));
    let answers: Vec<_> = daybook.execute_stream(commands).collect().await;
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[0].as_ref().unwrap().aggregate_id, "a");
    assert_eq!(answers[1].as_ref().unwrap_err().reason(), "NOT_FOUND");
    assert_eq!(answers[2].as_ref().unwrap().aggregate_id, "c");
}

#[tokio::test]
async fn a_broken_stream_of_commands_goes_on_with_the_same_request_ids() {
    let (fake, daybook) = start(vec![]).await;
    fake.breaks.lock().unwrap().extend([2, 0, 1]);
    let names: Vec<String> = (0..50).map(|n| format!("owner-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let answers: Vec<_> =
        daybook.execute_stream(futures::stream::iter(owners(&names))).collect().await;
    let answered: Vec<_> = answers.into_iter().map(|a| a.unwrap().aggregate_id).collect();
    assert_eq!(answered, names);
    let mut ids = fake.streamed.lock().unwrap().clone();
    assert!(ids.len() > 50, "some came twice");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 50, "and then with the same request id");
}

#[tokio::test]
async fn a_stream_of_commands_that_stays_broken_ends_with_the_error() {
    let (fake, daybook) = start(vec![]).await;
    fake.breaks.lock().unwrap().extend([1, 0, 0, 0, 0, 0]);
    let commands = futures::stream::iter(owners(&["a", "b", "c"]));
    let answers: Vec<_> = daybook.execute_stream(commands).collect().await;
    assert_eq!(answers.len(), 2);
    assert!(answers[0].is_ok());
    assert_eq!(answers[1].as_ref().unwrap_err().reason(), UNREACHABLE);
}
