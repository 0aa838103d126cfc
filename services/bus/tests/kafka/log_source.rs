//! The log source, against a service that answers what the test wants.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use daybook_bus::log::{GrpcLogReader, LogSourceFactory, connect};
use daybook_bus::source::{Cursor, Error, LogReader, PartitionCursor, SourceFactory};
use daybook_contract::daybook::v1::event_log_service_server::{
    EventLogService, EventLogServiceServer,
};
use daybook_contract::daybook::v1::subscribe_response::Content;
use daybook_contract::daybook::v1::{
    AppendRequest, AppendResponse, CaughtUp, Checkpoint, EventBatch, GetEventRequest,
    GetEventResponse, GetLogInfoRequest, GetLogInfoResponse, ReadAllRequest, ReadAllResponse,
    ReadStreamRequest, ReadStreamResponse, RecordedEvent, SubscribeRequest, SubscribeResponse,
    get_event_request,
};
use futures::{Stream, StreamExt, stream};
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, async_trait};

use crate::fixture::{ACCOUNT, MemoryLog};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A log of five events of one stream.
#[derive(Clone, Default)]
struct FakeLog {
    events: Vec<Bytes>,
    subscription: Arc<Mutex<Vec<Result<Content, Status>>>>,
    requests: Arc<Mutex<Vec<ReadStreamRequest>>>,
}

#[async_trait]
impl EventLogService for FakeLog {
    type ReadStreamStream = Answers<ReadStreamResponse>;
    type ReadAllStream = Answers<ReadAllResponse>;
    type SubscribeStream = Answers<SubscribeResponse>;

    async fn append(&self, _: Request<AppendRequest>) -> Result<Response<AppendResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn read_all(
        &self,
        _: Request<ReadAllRequest>,
    ) -> Result<Response<Self::ReadAllStream>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn get_event(
        &self,
        request: Request<GetEventRequest>,
    ) -> Result<Response<GetEventResponse>, Status> {
        let Some(get_event_request::Key::Position(position)) = request.into_inner().key else {
            return Err(Status::unimplemented("not needed here"));
        };
        let event = self.events.get(position as usize - 1).cloned();
        let event = event.ok_or_else(|| Status::not_found("there is no such event"))?;
        Ok(Response::new(GetEventResponse { event }))
    }

    async fn read_stream(
        &self,
        request: Request<ReadStreamRequest>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        let request = request.into_inner();
        if request.stream == "bank.account-none" {
            return Err(Status::not_found("there is no such stream"));
        }
        let (skip, take) = (request.from_version as usize - 1, request.limit as usize);
        let events = self.events.iter().skip(skip).take(take).cloned();
        let answers: Vec<_> =
            events.map(|event| Ok(ReadStreamResponse { events: vec![event] })).collect();
        self.requests.lock().unwrap().push(request);
        Ok(Response::new(stream::iter(answers).boxed()))
    }

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        assert_eq!(request.into_inner().after_position, 2);
        let answers = std::mem::take(&mut *self.subscription.lock().unwrap());
        let answers = answers
            .into_iter()
            .map(|answer| answer.map(|content| SubscribeResponse { content: Some(content) }));
        Ok(Response::new(stream::iter(answers.collect::<Vec<_>>()).boxed()))
    }

    async fn get_log_info(
        &self,
        _: Request<GetLogInfoRequest>,
    ) -> Result<Response<GetLogInfoResponse>, Status> {
        let head_position = self.events.len() as u64;
        let store_id = "the-store".to_owned();
        Ok(Response::new(GetLogInfoResponse { store_id, head_position, ..Default::default() }))
    }
}

fn five_events() -> FakeLog {
    let log = MemoryLog::new();
    for _ in 0..5 {
        log.append(ACCOUNT, "1");
    }
    FakeLog { events: log.events(), ..Default::default() }
}

async fn serve(log: FakeLog) -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder().add_service(EventLogServiceServer::new(log));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    connect(&uri).unwrap()
}

fn cursor(log_position: u64) -> Cursor {
    let topic = "bank-events".into();
    let place =
        PartitionCursor { topic, partition: 3, next_offset: 17, watermark: 2, last_record: 3 };
    Cursor { log_position, partitions: Arc::new([place]) }
}

#[tokio::test]
async fn a_subscription_becomes_batches() {
    let log = five_events();
    let events = log.events[2..].to_vec();
    *log.subscription.lock().unwrap() = vec![
        Ok(Content::Batch(EventBatch { events: events.clone(), position: 5, head_position: 6 })),
        Ok(Content::CaughtUp(CaughtUp { position: 6 })),
        Ok(Content::Checkpoint(Checkpoint { position: 7, head_position: 9 })),
    ];
    let factory = LogSourceFactory::new(serve(log).await);
    assert_eq!(factory.kind(), "log");
    let mut source = factory.open(&cursor(2)).await.unwrap();

    let batch = source.next().await.unwrap();
    let bytes: Vec<_> = batch.records.iter().map(|record| record.bytes.clone()).collect();
    assert_eq!(bytes, events);
    assert_eq!(batch.records.iter().next().unwrap().origin_text(), "log@3");
    assert_eq!((batch.position, batch.head), (5, 6));
    assert_eq!(batch.cursor, cursor(5), "the places in Kafka are kept");
    let batch = source.next().await.unwrap();
    assert_eq!((batch.records.len(), batch.position, batch.head), (0, 6, 6));
    let batch = source.next().await.unwrap();
    assert_eq!((batch.records.len(), batch.position, batch.head), (0, 7, 9));
    let error = source.next().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn a_damaged_record_is_not_taken_for_a_bad_connection() {
    let log = five_events();
    *log.subscription.lock().unwrap() = vec![Err(Status::data_loss("position 3 is damaged"))];
    let reader = GrpcLogReader::new(serve(log).await);
    let mut source = reader.subscribe(2).await.unwrap();
    let error = source.next().await.unwrap_err();
    assert_eq!(error, Error::Damaged { problem: "position 3 is damaged".to_owned() });
}

#[tokio::test]
async fn a_cursor_beyond_the_end_of_the_log_is_lost() {
    let factory = LogSourceFactory::new(serve(five_events()).await);
    let error = factory.open(&cursor(6)).await.err().unwrap();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let uri = format!("http://127.0.0.1:{}", daybook_testing::free_port());
    let factory = LogSourceFactory::new(connect(&uri).unwrap());
    let error = factory.open(&cursor(0)).await.err().unwrap();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn a_part_of_a_stream_is_read() {
    let log = five_events();
    let (events, requests) = (log.events.clone(), log.requests.clone());
    let reader = GrpcLogReader::new(serve(log).await);
    let stream = "bank.account-1".to_owned();
    assert_eq!(reader.read_stream(stream.clone(), 2, 4).await.unwrap(), events[1..4]);
    assert_eq!(reader.read_stream(stream.clone(), 4, 9).await.unwrap(), events[3..]);
    assert!(reader.read_stream(stream, 4, 3).await.unwrap().is_empty());
    assert!(reader.read_stream("bank.account-none".to_owned(), 1, 3).await.unwrap().is_empty());
    let limits: Vec<_> = requests.lock().unwrap().iter().map(|request| request.limit).collect();
    assert_eq!(limits, [3, 6]);
    assert_eq!(reader.head().await.unwrap(), 5);
    assert_eq!(reader.info().await.unwrap().store_id, "the-store");
}

#[tokio::test]
async fn an_event_is_known_by_its_id() {
    let log = five_events();
    let fifth = RecordedEvent::decode(log.events[4].clone()).unwrap();
    let reader = GrpcLogReader::new(serve(log).await);
    assert_eq!(reader.event_id_at(5).await.unwrap(), Some(fifth.event_id));
    assert_eq!(reader.event_id_at(6).await.unwrap(), None);
}
