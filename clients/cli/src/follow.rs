//! Following one stream: what has happened to it, and then what comes, event by event.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use daybook_client::{Daybook, Error, StoredEvent, Update};
use daybook_contract::daybook::v1::{EventFilter, ReadStreamRequest};
use futures::{Stream, TryStreamExt};
use tokio::time::{Instant, timeout_at};

use crate::exit::Exit;
use crate::output;
use crate::problem::Problem;

/// After so long without an event, whoever watches is told where to look.
const QUIET: Duration = Duration::from_secs(5);

/// What is followed.
pub(crate) struct Subject<'a> {
    /// What it is, such as `transfer`; also the command that lists its like.
    pub kind: &'static str,
    /// What people call it.
    pub name: &'a str,
    /// Its stream.
    pub stream: &'a str,
    /// The command that says what it waits for.
    pub look: String,
}

/// A stream that is followed.
pub(crate) struct Follower {
    stream: String,
    look: String,
    past: VecDeque<StoredEvent>,
    updates: Pin<Box<dyn Stream<Item = Result<Update, Error>> + Send>>,
}

impl Follower {
    /// Begins with the first event of the stream, which must be there.
    pub(crate) async fn begin(client: &Daybook, subject: Subject<'_>) -> Result<Self, Problem> {
        let Subject { kind, name, stream, look } = subject;
        let request = ReadStreamRequest { stream: stream.to_owned(), ..Default::default() };
        let past: Result<VecDeque<_>, _> = client.events().read_stream(request).try_collect().await;
        let past = past.map_err(|error| match error.reason() {
            "STREAM_NOT_FOUND" => Problem::new(Exit::Refused, format!("there is no {kind} {name}"))
                .why(error.reason())
                .next(format!("daybook {kind} list")),
            _ => Problem::from(error),
        })?;
        let position = past.back().map_or(0, |event| event.position);
        let aggregate_types = past.back().map(|event| event.aggregate_type.clone());
        let filter = EventFilter {
            aggregate_types: aggregate_types.into_iter().collect(),
            ..Default::default()
        };
        let updates = Box::pin(client.events().subscribe(position, Some(filter)));
        Ok(Self { stream: stream.to_owned(), look, past, updates })
    }

    /// The next event, whenever it comes; nothing when no more can come.
    pub(crate) async fn next(&mut self) -> Result<Option<StoredEvent>, Problem> {
        if let Some(event) = self.past.pop_front() {
            return Ok(Some(event));
        }
        let quiet = Instant::now() + QUIET;
        if let Ok(event) = timeout_at(quiet, self.live()).await {
            return event;
        }
        let seconds = QUIET.as_secs();
        output::hint(&format!("nothing has happened for {seconds} s; why: {}", self.look));
        self.live().await
    }

    async fn live(&mut self) -> Result<Option<StoredEvent>, Problem> {
        while let Some(update) = self.updates.try_next().await? {
            match update {
                Update::Event(event) if event.stream() == self.stream => return Ok(Some(*event)),
                _ => {}
            }
        }
        Ok(None)
    }
}
