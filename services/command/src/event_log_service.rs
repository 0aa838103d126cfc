//! daybook.v1.EventLogService: appending raw events, reading, and following the log.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daybook_contract::actor;
use daybook_contract::contract::{Validate, Violations};
use daybook_contract::daybook::v1::{
    AppendRequest, AppendResponse, CaughtUp, Checkpoint, Direction as WireDirection, ErrorReason,
    EventBatch, EventFilter, GetEventRequest, GetEventResponse, GetLogInfoRequest,
    GetLogInfoResponse, NewEvent as WireNewEvent, ReadAllRequest, ReadAllResponse,
    ReadStreamRequest, ReadStreamResponse, RecordedEvent, SubscribeRequest, SubscribeResponse,
    event_log_service_server, get_event_request, new_event, subscribe_response,
};
use daybook_contract::error::Error;
use daybook_kernel::StreamName;
use daybook_log::{Direction, EventLog, NewEvent, Payload, Record};
use futures::Stream;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::answers::to_receipt;
use crate::caller::Caller;
use crate::raw::Raw;
use crate::streams::OpenStreams;
use crate::{CommandBus, from_log, stopping};

/// The streams of reads and subscriptions that may be open: each holds a few batches in memory.
const MAX_OPEN_STREAMS: usize = 1024;

/// The events of one message at most.
const BATCH_EVENTS: usize = 500;

/// A message ends with the event that brings it over this size.
const BATCH_BYTES: usize = 1024 * 1024;

/// The messages that wait for a slow reader.
const BATCHES_AHEAD: usize = 2;

/// After the last version of any stream.
const LAST: u64 = i64::MAX as u64;

/// How often an idle subscription is told so.
const IDLE_CHECKPOINT: Duration = Duration::from_secs(5);

/// How publishing is doing, for GetLogInfo.
pub trait PublishingView: Send + Sync + 'static {
    /// Whether a publisher is configured.
    fn publishing(&self) -> bool;
    /// Why it does not progress; empty when all is well.
    fn problem(&self) -> String;
    /// The topics that have been seen to hold the history of the log and no other.
    fn verified_topics(&self) -> Vec<String>;
}

/// The service over a log.
pub struct EventLogServer {
    bus: CommandBus,
    publishing: Arc<dyn PublishingView>,
    closing: watch::Receiver<bool>,
    open_streams: OpenStreams,
}

impl EventLogServer {
    /// The service over the log of a bus. Open streams end when `closing` becomes true.
    pub fn new(
        bus: CommandBus,
        publishing: Arc<dyn PublishingView>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        Self { bus, publishing, closing, open_streams: OpenStreams::new(MAX_OPEN_STREAMS) }
    }

    fn log(&self) -> &EventLog {
        self.bus.log()
    }
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl event_log_service_server::EventLogService for EventLogServer {
    async fn append(
        &self,
        request: Request<AppendRequest>,
    ) -> Result<Response<AppendResponse>, Status> {
        let actor = actor::of(request.metadata())?;
        let mut request = request.into_inner();
        let mut violations = Violations::default();
        request.validate(&mut violations);
        check_events(&request.events, &mut violations);
        let stream = match StreamName::parse(&request.stream) {
            Ok(stream) => Some(stream),
            Err(error) if !request.stream.is_empty() => {
                violations.add("stream", error.to_string());
                None
            }
            Err(_) => None,
        };
        let (Some(stream), true) = (stream, violations.is_empty()) else {
            return Err(Error::invalid(violations).into());
        };
        if self.bus.owns(stream.category()) {
            let message = format!(
                "stream {stream} belongs to aggregate {}: use its commands",
                stream.category()
            );
            return Err(Error::new(ErrorReason::StreamOwnedByAggregate, message)
                .with_precondition(&stream.to_string())
                .into());
        }
        let context = request.context.take().unwrap_or_default();
        let content = || request.encode_to_vec();
        let caller = Caller::new(context, "daybook.v1.AppendRequest", content)?;
        if caller.is_step() {
            return Err(crate::decide::not_awaited(caller.request_id()).into());
        }
        let events = request.events.into_iter().filter_map(to_new_event).collect();
        let submission = caller.submission(stream, actor, Box::new(Raw { events }));
        let receipt = self.log().submit(submission).await.map_err(from_log)?;
        Ok(Response::new(AppendResponse { receipt: Some(to_receipt(receipt)) }))
    }

    type ReadStreamStream = Out<ReadStreamResponse>;

    async fn read_stream(
        &self,
        request: Request<ReadStreamRequest>,
    ) -> Result<Response<Self::ReadStreamStream>, Status> {
        let request = request.into_inner();
        let mut violations = Violations::default();
        request.validate(&mut violations);
        if !request.stream.is_empty()
            && let Err(error) = StreamName::parse(&request.stream)
        {
            violations.add("stream", error.to_string());
        }
        if !violations.is_empty() {
            return Err(Error::invalid(violations).into());
        }
        let direction = direction(request.direction);
        let backward = Direction::Backward;
        let last = self.log().read_stream(&request.stream, LAST, backward, 1).await;
        let Some(last) = last.map_err(from_log)?.pop() else {
            let message = format!("there is no stream {}", request.stream);
            return Err(Error::new(ErrorReason::StreamNotFound, message)
                .with_resource("stream", &request.stream)
                .into());
        };
        let until = last.decode().map_err(from_log)?.version;
        let from = start(request.from_version, direction, until);
        let log = self.log().clone();
        let read = move |from, limit| {
            let (log, stream) = (log.clone(), request.stream.clone());
            async move { log.read_stream(&stream, from, direction, limit).await }
        };
        let place = |record: &Record| Ok(record.decode().map_err(from_log)?.version);
        let walk = Walk { from, until, direction, left: left(request.limit), filter: None };
        let wrap = |events| ReadStreamResponse { events };
        Ok(Response::new(self.pages(walk, read, place, wrap)?))
    }

    type ReadAllStream = Out<ReadAllResponse>;

    async fn read_all(
        &self,
        request: Request<ReadAllRequest>,
    ) -> Result<Response<Self::ReadAllStream>, Status> {
        let request = request.into_inner();
        let mut violations = Violations::default();
        request.validate(&mut violations);
        if !violations.is_empty() {
            return Err(Error::invalid(violations).into());
        }
        let direction = direction(request.direction);
        let log = self.log().clone();
        let read = move |from, limit| {
            let log = log.clone();
            async move { log.read_all(from, direction, limit).await }
        };
        let until = *self.log().head().borrow();
        let walk = Walk {
            from: start(request.from_position, direction, until),
            until,
            direction,
            left: left(request.limit),
            filter: Filter::new(request.filter),
        };
        let place = |record: &Record| Ok(record.position);
        let wrap = |events| ReadAllResponse { events };
        Ok(Response::new(self.pages(walk, read, place, wrap)?))
    }

    async fn get_event(
        &self,
        request: Request<GetEventRequest>,
    ) -> Result<Response<GetEventResponse>, Status> {
        let request = request.into_inner();
        let mut violations = Violations::default();
        request.validate(&mut violations);
        if !violations.is_empty() {
            return Err(Error::invalid(violations).into());
        }
        let (found, name) = match request.key {
            Some(get_event_request::Key::EventId(id)) => {
                let uuid = id.parse().map_err(|_| {
                    let mut violations = Violations::default();
                    violations.add("event_id", format!("{id:?} is not a UUID"));
                    Error::invalid(violations)
                })?;
                (self.log().find(&uuid).await, id)
            }
            Some(get_event_request::Key::Position(position)) => {
                (self.log().get(position).await, position.to_string())
            }
            None => {
                let mut violations = Violations::default();
                violations.add("key", "event_id or position must be set");
                return Err(Error::invalid(violations).into());
            }
        };
        let Some(record) = found.map_err(from_log)? else {
            let message = format!("there is no event {name}");
            return Err(Error::new(ErrorReason::EventNotFound, message)
                .with_resource("event", &name)
                .into());
        };
        Ok(Response::new(GetEventResponse { event: record.bytes }))
    }

    type SubscribeStream = Out<SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        let mut head = self.log().head();
        let end = *head.borrow_and_update();
        if request.after_position > end {
            let mut violations = Violations::default();
            violations.add(
                "after_position",
                format!("{} is beyond the end of the log, {end}", request.after_position),
            );
            return Err(Error::invalid(violations).into());
        }
        let permit = self.open_streams.open()?;
        let (out, waiting) = mpsc::channel(BATCHES_AHEAD);
        let subscription = Subscription {
            log: self.log().clone(),
            head,
            closing: self.closing.clone(),
            filter: Filter::new(request.filter),
            position: request.after_position,
            out,
        };
        tokio::spawn(async move {
            subscription.run().await;
            drop(permit);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(waiting))))
    }

    async fn get_log_info(
        &self,
        _: Request<GetLogInfoRequest>,
    ) -> Result<Response<GetLogInfoResponse>, Status> {
        let head_position = *self.log().head().borrow();
        Ok(Response::new(GetLogInfoResponse {
            store_id: self.log().store_id().to_string(),
            head_position,
            published_position: self.log().published(),
            publishing: self.publishing.publishing(),
            publishing_problem: self.publishing.problem(),
            created_time: Some(self.log().created_time()),
            verified_topics: self.publishing.verified_topics(),
        }))
    }
}

/// Where to read, and how much.
struct Walk {
    from: u64,
    /// The end when the request arrived: a reader of a busy log still comes to an end.
    until: u64,
    direction: Direction,
    left: u64,
    filter: Option<Filter>,
}

impl EventLogServer {
    /// Sends page after page until the end of what there is, the limit, or a shutdown.
    fn pages<T, F>(
        &self,
        mut walk: Walk,
        read: impl Fn(u64, usize) -> F + Send + Sync + 'static,
        place: impl Fn(&Record) -> Result<u64, Status> + Send + Sync + 'static,
        wrap: impl Fn(Vec<Bytes>) -> T + Send + 'static,
    ) -> Result<Out<T>, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<Vec<Record>, daybook_log::Error>> + Send,
    {
        let permit = self.open_streams.open()?;
        let closing = self.closing.clone();
        let (out, waiting) = mpsc::channel(BATCHES_AHEAD);
        tokio::spawn(async move {
            let _permit = permit;
            while !walk.is_over() {
                // When the server stops, a reader must not take the part for the whole.
                let closing = *closing.borrow();
                let step = match closing {
                    true => Err(stopping()),
                    false => next_page(&mut walk, &read, &place).await,
                };
                let sent = match step {
                    Ok(events) if events.is_empty() => continue,
                    Ok(events) => out.send(Ok(wrap(events))).await,
                    Err(status) => {
                        let _ = out.send(Err(status)).await;
                        return;
                    }
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        Ok(Box::pin(ReceiverStream::new(waiting)))
    }
}

impl Walk {
    fn is_over(&self) -> bool {
        self.left == 0
            || match self.direction {
                Direction::Forward => self.from > self.until,
                Direction::Backward => self.from == 0,
            }
    }
}

/// The limit of a request, where 0 means all.
fn left(limit: u64) -> u64 {
    if limit == 0 { u64::MAX } else { limit }
}

/// The wanted events of the next page, maybe none of them.
async fn next_page<F>(
    walk: &mut Walk,
    read: &(impl Fn(u64, usize) -> F + Sync),
    place: &(impl Fn(&Record) -> Result<u64, Status> + Sync),
) -> Result<Vec<Bytes>, Status>
where
    F: Future<Output = Result<Vec<Record>, daybook_log::Error>>,
{
    let limit = match walk.filter {
        Some(_) => BATCH_EVENTS,
        None => BATCH_EVENTS.min(usize::try_from(walk.left).unwrap_or(usize::MAX)),
    };
    let records = read(walk.from, limit).await.map_err(from_log)?;
    if records.is_empty() {
        // What is between here and the end must be there.
        return Err(missing(walk.from));
    }
    let mut events = Vec::new();
    let mut bytes = 0;
    for record in records {
        let at = place(&record)?;
        if at != walk.from {
            return Err(missing(walk.from));
        }
        walk.from = match walk.direction {
            Direction::Forward => at + 1,
            Direction::Backward => at - 1,
        };
        if !wanted(&walk.filter, &record)? {
            continue;
        }
        bytes += record.bytes.len();
        events.push(record.bytes);
        walk.left -= 1;
        if walk.is_over() || bytes >= BATCH_BYTES {
            break;
        }
    }
    Ok(events)
}

/// A place that should have an event and has none.
fn missing(place: u64) -> Status {
    from_log(daybook_log::Error::Damaged {
        position: place,
        stream: String::new(),
        problem: "it is missing".to_owned(),
    })
}

/// One subscriber. Catch-up and live are the same loop over the log by position, so there is no
/// seam between them where an event could be missed.
struct Subscription {
    log: EventLog,
    head: watch::Receiver<u64>,
    closing: watch::Receiver<bool>,
    filter: Option<Filter>,
    position: u64,
    out: mpsc::Sender<Result<SubscribeResponse, Status>>,
}

impl Subscription {
    async fn run(mut self) {
        let mut caught_up = false;
        loop {
            let head = *self.head.borrow_and_update();
            let sent = if self.position < head {
                // Only a reader that fell behind by more than a page is told again.
                caught_up &= head - self.position <= BATCH_EVENTS as u64;
                match self.page(head).await {
                    Ok(content) => self.send(content).await,
                    Err(status) => {
                        let _ = self.out.send(Err(status)).await;
                        return;
                    }
                }
            } else if !caught_up {
                caught_up = true;
                let position = self.position;
                self.send(subscribe_response::Content::CaughtUp(CaughtUp { position })).await
            } else {
                self.wait().await
            };
            if !sent {
                return;
            }
        }
    }

    /// The next events that are wanted, or a checkpoint when the filter lets none through.
    async fn page(&mut self, head: u64) -> Result<subscribe_response::Content, Status> {
        let records = self
            .log
            .read_all(self.position + 1, Direction::Forward, BATCH_EVENTS)
            .await
            .map_err(from_log)?;
        if records.is_empty() {
            return Err(missing(self.position + 1));
        }
        let mut events = Vec::new();
        let mut bytes = 0;
        for record in records {
            if record.position != self.position + 1 {
                return Err(missing(self.position + 1));
            }
            self.position = record.position;
            if !wanted(&self.filter, &record)? {
                continue;
            }
            bytes += record.bytes.len();
            events.push(record.bytes);
            if bytes >= BATCH_BYTES {
                break;
            }
        }
        let (position, head_position) = (self.position, head.max(self.position));
        Ok(match events.is_empty() {
            true => subscribe_response::Content::Checkpoint(Checkpoint { position, head_position }),
            false => {
                subscribe_response::Content::Batch(EventBatch { events, position, head_position })
            }
        })
    }

    /// Waits for more. False when the subscription is to end.
    async fn wait(&mut self) -> bool {
        tokio::select! {
            changed = self.head.changed() => changed.is_ok(),
            closed = closed(&mut self.closing) => {
                let _ = self.out.try_send(Err(closed));
                false
            }
            () = self.out.closed() => false,
            () = tokio::time::sleep(IDLE_CHECKPOINT) => {
                let idle = Checkpoint { position: self.position, head_position: self.position };
                let content = Some(subscribe_response::Content::Checkpoint(idle));
                self.out.send(Ok(SubscribeResponse { content })).await.is_ok()
            }
        }
    }

    async fn send(&mut self, content: subscribe_response::Content) -> bool {
        let response = Ok(SubscribeResponse { content: Some(content) });
        tokio::select! {
            sent = self.out.send(response) => sent.is_ok(),
            _ = closed(&mut self.closing) => false,
        }
    }
}

/// Waits for the shutdown and says how an open stream ends then.
async fn closed(closing: &mut watch::Receiver<bool>) -> Status {
    let _ = closing.wait_for(|closing| *closing).await;
    stopping()
}

/// Which events are wanted.
struct Filter {
    aggregate_types: Vec<String>,
    event_names: Vec<String>,
}

impl Filter {
    fn new(filter: Option<EventFilter>) -> Option<Self> {
        let EventFilter { aggregate_types, event_names } = filter?;
        let all = aggregate_types.is_empty() && event_names.is_empty();
        (!all).then_some(Self { aggregate_types, event_names })
    }

    fn wants(&self, event: &RecordedEvent) -> bool {
        (self.aggregate_types.is_empty() || self.aggregate_types.contains(&event.aggregate_type))
            && (self.event_names.is_empty() || self.event_names.contains(&event.event_name))
    }
}

fn wanted(filter: &Option<Filter>, record: &Record) -> Result<bool, Status> {
    let Some(filter) = filter else { return Ok(true) };
    Ok(filter.wants(&record.decode().map_err(from_log)?))
}

/// The direction of a valid request.
fn direction(wire: i32) -> Direction {
    match WireDirection::try_from(wire) {
        Ok(WireDirection::Backward) => Direction::Backward,
        _ => Direction::Forward,
    }
}

/// The place to begin with, which the request may leave open. Going back, it is no later than
/// the last there is.
fn start(from: u64, direction: Direction, last: u64) -> u64 {
    match (from, direction) {
        (0, Direction::Forward) => 1,
        (0, Direction::Backward) => last,
        (from, Direction::Forward) => from,
        (from, Direction::Backward) => from.min(last),
    }
}

fn check_events(events: &[WireNewEvent], violations: &mut Violations) {
    for (index, event) in events.iter().enumerate() {
        violations.within(format!("events[{index}]"), |violations| match &event.payload {
            None => violations.add("payload", "event or raw must be set"),
            Some(new_event::Payload::Event(any)) if !any.type_url.contains('/') => violations.add(
                "event.type_url",
                format!("{:?} is not a type URL, such as type.googleapis.com/a.B", any.type_url),
            ),
            Some(_) => {}
        });
    }
}

fn to_new_event(event: WireNewEvent) -> Option<NewEvent> {
    let payload = match event.payload? {
        new_event::Payload::Event(any) => {
            Payload::Message { type_url: any.type_url.into(), value: any.value }
        }
        new_event::Payload::Raw(raw) => {
            Payload::Raw { content_type: raw.content_type, data: raw.data }
        }
    };
    let (name, version) = (event.event_name.into(), event.event_version.max(1));
    Some(NewEvent { name, version, payload, claims: Vec::new() })
}
