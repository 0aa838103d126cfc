//! The log as a source: `daybook.v1.EventLogService` over gRPC. The embedded default, and what
//! rebuilds and gap filling read, whatever the live source is.

use std::time::Duration;

use bytes::Bytes;
use daybook_contract::daybook::v1::event_log_service_client::EventLogServiceClient;
use daybook_contract::daybook::v1::subscribe_response::Content;
use daybook_contract::daybook::v1::{
    GetEventRequest, GetLogInfoRequest, GetLogInfoResponse, ReadStreamRequest, RecordedEvent,
    SubscribeRequest, SubscribeResponse, get_event_request,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use prost::Message;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::records::Records;
use crate::source::{Batch, Cursor, Error, LogReader, Origin, Record, Source, SourceFactory};

const NAME: &str = "the log";

/// The largest answer that is accepted: a batch of the log is far smaller, but 500 events of
/// 256 KiB need not fit the 4 MiB which tonic allows.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// A dead server is noticed after the sum of the two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a server may send ahead on one stream, and on all of a connection. A reader that is busy
/// with a batch finds the next one there; the 64 KiB that are usual hold some 250 events.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// A channel to a command service, which connects when it is first used and again when the
/// connection is lost.
pub fn connect(uri: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(uri.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .tcp_nodelay(true);
    Ok(endpoint.connect_lazy())
}

/// Reads from the log over gRPC.
#[derive(Debug, Clone)]
pub struct GrpcLogReader {
    client: EventLogServiceClient<Channel>,
}

/// Opens sources over the log.
#[derive(Debug, Clone)]
pub struct LogSourceFactory {
    reader: GrpcLogReader,
}

/// A subscription.
struct LogSource {
    stream: Streaming<SubscribeResponse>,
    cursor: Cursor,
    head: u64,
}

impl GrpcLogReader {
    /// A reader over a channel to a command service; see [`connect`].
    pub fn new(channel: Channel) -> Self {
        let client =
            EventLogServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self { client }
    }

    /// Which log this is, and how far it reaches.
    pub async fn info(&self) -> Result<GetLogInfoResponse, Error> {
        let response = self.client.clone().get_log_info(GetLogInfoRequest {}).await;
        Ok(response.map_err(problem)?.into_inner())
    }

    async fn open(&self, cursor: Cursor) -> Result<Box<dyn Source>, Error> {
        let after_position = cursor.log_position;
        let head = self.info().await?.head_position;
        if after_position > head {
            return Err(Error::Lost {
                source_name: NAME.to_owned(),
                problem: format!("it ends at position {head}, before position {after_position}"),
            });
        }
        let request = SubscribeRequest { after_position, filter: None };
        let stream = self.client.clone().subscribe(request).await.map_err(problem)?.into_inner();
        Ok(Box::new(LogSource { stream, cursor, head }))
    }

    async fn id_at(&self, position: u64) -> Result<Option<String>, Error> {
        let key = Some(get_event_request::Key::Position(position));
        let event = match self.client.clone().get_event(GetEventRequest { key }).await {
            Ok(response) => response.into_inner().event,
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(problem(status)),
        };
        let event = RecordedEvent::decode(event)
            .map_err(|error| Error::Damaged { problem: format!("position {position}: {error}") })?;
        Ok(Some(event.event_id))
    }

    async fn read(&self, stream: String, from: u64, to: u64) -> Result<Vec<Bytes>, Error> {
        let Some(limit) = to.checked_sub(from).map(|more| more + 1) else {
            return Ok(Vec::new());
        };
        let request = ReadStreamRequest { stream, from_version: from, limit, ..Default::default() };
        let mut answers = match self.client.clone().read_stream(request).await {
            Ok(response) => response.into_inner(),
            Err(status) if status.code() == Code::NotFound => return Ok(Vec::new()),
            Err(status) => return Err(problem(status)),
        };
        let mut events = Vec::new();
        loop {
            match answers.message().await {
                Ok(Some(answer)) => events.extend(answer.events),
                Ok(None) => return Ok(events),
                Err(status) if status.code() == Code::NotFound => return Ok(events),
                Err(status) => return Err(problem(status)),
            }
        }
    }
}

impl LogReader for GrpcLogReader {
    fn read_stream(
        &self,
        stream: String,
        from: u64,
        to: u64,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, Error>> {
        self.read(stream, from, to).boxed()
    }

    fn event_id_at(&self, position: u64) -> BoxFuture<'_, Result<Option<String>, Error>> {
        self.id_at(position).boxed()
    }

    fn head(&self) -> BoxFuture<'_, Result<u64, Error>> {
        async { Ok(self.info().await?.head_position) }.boxed()
    }

    fn subscribe(&self, after: u64) -> BoxFuture<'_, Result<Box<dyn Source>, Error>> {
        self.open(Cursor { log_position: after, ..Cursor::default() }).boxed()
    }
}

impl LogSourceFactory {
    /// Opens sources over a channel to a command service; see [`connect`].
    pub fn new(channel: Channel) -> Self {
        Self { reader: GrpcLogReader::new(channel) }
    }
}

impl SourceFactory for LogSourceFactory {
    fn kind(&self) -> &'static str {
        "log"
    }

    fn open(&self, cursor: &Cursor) -> BoxFuture<'_, Result<Box<dyn Source>, Error>> {
        self.reader.open(cursor.clone()).boxed()
    }
}

impl LogSource {
    fn batch(&mut self, content: Option<Content>) -> Batch {
        let mut records = Records::default();
        let (position, head) = match content {
            Some(Content::Batch(batch)) => {
                records =
                    batch.events.into_iter().map(|bytes| Record::new(bytes, Origin::Log)).collect();
                (batch.position, batch.head_position)
            }
            Some(Content::CaughtUp(caught_up)) => (caught_up.position, caught_up.position),
            Some(Content::Checkpoint(checkpoint)) => {
                (checkpoint.position, checkpoint.head_position)
            }
            // Something that a newer server has to say, and that an older reader need not know.
            None => (0, 0),
        };
        // A reader never goes back, whatever the server says.
        self.cursor.log_position = self.cursor.log_position.max(position);
        self.head = self.head.max(head).max(self.cursor.log_position);
        let cursor = self.cursor.clone();
        Batch { records, position: cursor.log_position, head: self.head, cursor }
    }
}

impl Source for LogSource {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, Error>> {
        async {
            match self.stream.message().await {
                Ok(Some(response)) => Ok(self.batch(response.content)),
                Ok(None) => Err(unavailable("the server ended the subscription")),
                Err(status) => Err(problem(status)),
            }
        }
        .boxed()
    }
}

fn problem(status: Status) -> Error {
    match status.code() {
        Code::DataLoss => Error::Damaged { problem: status.message().to_owned() },
        Code::OutOfRange => {
            Error::Lost { source_name: NAME.to_owned(), problem: status.message().to_owned() }
        }
        code => unavailable(&format!("{code:?}: {}", status.message())),
    }
}

fn unavailable(problem: &str) -> Error {
    Error::Unavailable { source_name: NAME.to_owned(), problem: problem.to_owned() }
}
