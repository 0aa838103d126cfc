//! The event log: reading, following and appending.

use std::collections::VecDeque;
use std::ops::Deref;

use bytes::Bytes;
use daybook_contract::daybook::v1::{
    AppendRequest, AppendResponse, CommandReceipt, ErrorReason, EventFilter, GetEventRequest,
    GetEventResponse, GetLogInfoRequest, GetLogInfoResponse, NewEvent, ReadAllRequest,
    ReadAllResponse, ReadStreamRequest, ReadStreamResponse, RecordedEvent, SubscribeRequest,
    SubscribeResponse, get_event_request, subscribe_response,
};
use daybook_contract::error::Error;
use futures::Stream;
use futures::stream::try_unfold;
use prost::Message;
use tokio::time::{sleep, timeout};
use tonic::Streaming;
use uuid::Uuid;

use crate::client::Daybook;
use crate::failure;

/// The event log of a Daybook.
#[derive(Debug, Clone)]
pub struct EventLog {
    client: Daybook,
}

/// An event as it is stored. It reads like a [`RecordedEvent`]; its bytes are what was hashed.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    bytes: Bytes,
    event: RecordedEvent,
}

impl StoredEvent {
    /// Decodes a stored event.
    pub fn decode(bytes: Bytes) -> Result<Self, Error> {
        let event = RecordedEvent::decode(bytes.clone()).map_err(|error| {
            Error::new(ErrorReason::DamagedRecord, format!("an event cannot be decoded: {error}"))
        })?;
        Ok(Self { bytes, event })
    }

    /// The stored bytes, fields that this client does not know included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The stream of the event.
    pub fn stream(&self) -> String {
        format!("{}-{}", self.event.aggregate_type, self.event.aggregate_id)
    }

    /// The decoded event alone.
    pub fn into_event(self) -> RecordedEvent {
        self.event
    }
}

impl Deref for StoredEvent {
    type Target = RecordedEvent;

    fn deref(&self) -> &RecordedEvent {
        &self.event
    }
}

/// What a subscriber learns.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// The next event.
    Event(Box<StoredEvent>),
    /// Everything up to this position has been sent; what follows is live.
    CaughtUp(u64),
    /// Everything wanted up to this position has been sent.
    Checkpoint(u64),
}

impl EventLog {
    pub(crate) fn new(client: Daybook) -> Self {
        Self { client }
    }

    /// Which log this is and how far it reaches.
    pub async fn info(&self) -> Result<GetLogInfoResponse, Error> {
        self.unary("/daybook.v1.EventLogService/GetLogInfo", GetLogInfoRequest {}).await
    }

    /// Gets the event with this id.
    pub async fn get_by_id(&self, event_id: impl Into<String>) -> Result<StoredEvent, Error> {
        self.get(get_event_request::Key::EventId(event_id.into())).await
    }

    /// Gets the event at this position.
    pub async fn get_at(&self, position: u64) -> Result<StoredEvent, Error> {
        self.get(get_event_request::Key::Position(position)).await
    }

    async fn get(&self, key: get_event_request::Key) -> Result<StoredEvent, Error> {
        let request = GetEventRequest { key: Some(key) };
        let answer: GetEventResponse =
            self.unary("/daybook.v1.EventLogService/GetEvent", request).await?;
        StoredEvent::decode(answer.event)
    }

    /// Appends events to a stream that no aggregate owns, all or none.
    pub async fn append(
        &self,
        stream: impl Into<String>,
        events: Vec<NewEvent>,
    ) -> Result<CommandReceipt, Error> {
        self.append_request(AppendRequest { stream: stream.into(), events, context: None }).await
    }

    /// Appends events with a context, such as an expected version. A request id is made when the
    /// context has none.
    pub async fn append_request(
        &self,
        mut request: AppendRequest,
    ) -> Result<CommandReceipt, Error> {
        let context = request.context.get_or_insert_default();
        if context.request_id.is_empty() {
            context.request_id = Uuid::now_v7().to_string();
        }
        let answer: AppendResponse =
            self.unary("/daybook.v1.EventLogService/Append", request).await?;
        let receipt = answer.receipt.ok_or_else(|| {
            failure::malformed(&self.client.inner.command, "an append without a receipt")
        })?;
        self.client.remember(&receipt);
        Ok(receipt)
    }

    /// Reads the events of one stream.
    pub fn read_stream(
        &self,
        request: ReadStreamRequest,
    ) -> impl Stream<Item = Result<StoredEvent, Error>> + Send + 'static {
        let path = "/daybook.v1.EventLogService/ReadStream";
        batches(self.client.clone(), path, request, |answer: ReadStreamResponse| answer.events)
    }

    /// Reads the events of all streams.
    pub fn read_all(
        &self,
        request: ReadAllRequest,
    ) -> impl Stream<Item = Result<StoredEvent, Error>> + Send + 'static {
        let path = "/daybook.v1.EventLogService/ReadAll";
        batches(self.client.clone(), path, request, |answer: ReadAllResponse| answer.events)
    }

    /// Follows the log after a position: what is there, and then what comes, without a gap. When
    /// the connection breaks, it is made again and the stream goes on where it was; an error ends
    /// the stream only when that does not succeed, or cannot.
    pub fn subscribe(
        &self,
        after_position: u64,
        filter: Option<EventFilter>,
    ) -> impl Stream<Item = Result<Update, Error>> + Send + 'static {
        let subscription = Subscription {
            client: self.client.clone(),
            after: after_position,
            filter,
            answers: None,
            ready: VecDeque::new(),
            failures: 0,
        };
        try_unfold(subscription, |mut subscription| async move {
            let update = subscription.next().await?;
            Ok(Some((update, subscription)))
        })
    }

    async fn unary<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Error>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let options = self.client.repeatable();
        self.client.unary(&self.client.inner.command, path, request, options).await
    }
}

/// A reading under way.
enum Reading<Q, A> {
    /// Not yet asked for.
    Request(Q),
    /// The rest of a batch, and the batches to come.
    Answers(VecDeque<Bytes>, Box<Streaming<A>>),
}

/// The events of the batches that a reading answers with.
fn batches<Q, A>(
    client: Daybook,
    path: &'static str,
    request: Q,
    events: fn(A) -> Vec<Bytes>,
) -> impl Stream<Item = Result<StoredEvent, Error>> + Send + 'static
where
    Q: Message + Clone + 'static,
    A: Message + Default + 'static,
{
    try_unfold(Reading::Request(request), move |reading| {
        let client = client.clone();
        async move {
            let service = &client.inner.command;
            let (mut batch, mut answers) = match reading {
                Reading::Answers(batch, answers) => (batch, answers),
                Reading::Request(request) => {
                    let options = client.repeatable();
                    let answers = client.server_stream(service, path, request, options).await?;
                    (VecDeque::new(), Box::new(answers))
                }
            };
            let deadline = client.inner.deadline;
            while batch.is_empty() {
                match timeout(deadline, answers.message()).await {
                    Ok(Ok(Some(answer))) => batch = events(answer).into(),
                    Ok(Ok(None)) => return Ok(None),
                    Ok(Err(status)) => return Err(failure::from_status(&status, service)),
                    Err(_) => return Err(failure::too_late(service, deadline)),
                }
            }
            let Some(bytes) = batch.pop_front() else { return Ok(None) };
            Ok(Some((StoredEvent::decode(bytes)?, Reading::Answers(batch, answers))))
        }
    })
}

/// A subscription under way.
struct Subscription {
    client: Daybook,
    /// Everything up to here has arrived.
    after: u64,
    filter: Option<EventFilter>,
    answers: Option<Streaming<SubscribeResponse>>,
    ready: VecDeque<Update>,
    /// Broken connections since something last arrived.
    failures: u32,
}

impl Subscription {
    async fn next(&mut self) -> Result<Update, Error> {
        loop {
            if let Some(update) = self.ready.pop_front() {
                return Ok(update);
            }
            match self.receive().await {
                Ok(answer) => {
                    self.failures = 0;
                    self.take(answer)?;
                }
                Err(error) => self.recover(error).await?,
            }
        }
    }

    /// Waits for the next answer, on a new connection when there is none.
    async fn receive(&mut self) -> Result<SubscribeResponse, Error> {
        let service = &self.client.inner.command;
        if self.answers.is_none() {
            let request =
                SubscribeRequest { after_position: self.after, filter: self.filter.clone() };
            let path = "/daybook.v1.EventLogService/Subscribe";
            let options = self.client.repeatable();
            self.answers = Some(self.client.server_stream(service, path, request, options).await?);
        }
        let answers = self.answers.as_mut().expect("it was opened just now");
        match answers.message().await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(failure::unreachable(service, "it ended the subscription")),
            Err(status) => Err(failure::from_status(&status, service)),
        }
    }

    fn take(&mut self, answer: SubscribeResponse) -> Result<(), Error> {
        use subscribe_response::Content;
        match answer.content {
            Some(Content::Batch(batch)) => {
                for bytes in batch.events {
                    self.ready.push_back(Update::Event(Box::new(StoredEvent::decode(bytes)?)));
                }
                self.after = self.after.max(batch.position);
            }
            Some(Content::CaughtUp(caught_up)) => {
                self.after = self.after.max(caught_up.position);
                self.ready.push_back(Update::CaughtUp(caught_up.position));
            }
            Some(Content::Checkpoint(checkpoint)) => {
                self.after = self.after.max(checkpoint.position);
                self.ready.push_back(Update::Checkpoint(checkpoint.position));
            }
            // Something that a newer server says and an older client need not know.
            None => {}
        }
        Ok(())
    }

    /// Lets a broken connection be made again, unless it breaks again and again.
    async fn recover(&mut self, error: Error) -> Result<(), Error> {
        self.answers = None;
        self.failures += 1;
        let retries = &self.client.inner.retries;
        if !error.is_retryable() || self.failures >= retries.max_attempts {
            return Err(error);
        }
        sleep(retries.pause(self.failures, None)).await;
        Ok(())
    }
}
