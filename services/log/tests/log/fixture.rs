//! A tiny domain: a counter that must not go below zero.

use daybook_contract::daybook::v1::{EventMetadata, Failure, RecordedEvent, recorded_event};
use daybook_kernel::StreamName;
use daybook_log::sqlite;
use daybook_log::{
    Claim, ClaimChange, Config, Decider, Error, EventLog, Facts, Folder, NewEvent, Payload,
    Receipt, RequestKey, State, StreamCache, Submission,
};
use uuid::Uuid;

/// What a test wants the counter to do.
#[derive(Clone)]
pub enum Ask {
    /// Add these, an event each; refused when the sum would be below zero at the end.
    Add(Vec<i64>),
    /// Run into a fault of the domain.
    Panic,
    /// Record one event of this many bytes.
    Bytes(usize),
    /// Record one event that panics when it is folded from the storage.
    Poison,
    /// Record an event for each of these changes of claims.
    Claim(Vec<(ClaimChange, String)>),
    /// Add the sums of the counters that are read.
    AddReads,
    /// Add the version in the receipt of another request, or -1 for one that was refused; refused
    /// without an answer to it.
    AddAnswer,
}

/// Hardly any memory: streams are read, or unpacked, again and again; with the last, those of a group
/// that is not durable yet are forgotten as well.
pub const LITTLE: [StreamCache; 3] = [
    StreamCache { streams: 2, packed_bytes: 0 },
    StreamCache { streams: 2, packed_bytes: 1024 * 1024 },
    StreamCache { streams: 0, packed_bytes: 8 * 64 },
];

struct Counter {
    ask: Ask,
    decided: Vec<i64>,
}

/// How the state of a counter is made.
pub struct Sum;

/// The content type of an event on which the fold panics.
const FAULTY: &str = "application/fault";

impl Folder for Sum {
    fn empty(&self) -> State {
        Box::new(0i64)
    }

    fn fold(&self, state: &mut State, event: &RecordedEvent) -> Result<(), String> {
        let Some(recorded_event::Payload::Raw(raw)) = &event.payload else {
            return Err("not a number".into());
        };
        assert!(raw.content_type != FAULTY, "a fault of the domain in the fold");
        let text = std::str::from_utf8(&raw.data).map_err(|error| error.to_string())?;
        let number: i64 = text.trim().parse().map_err(|_| format!("{text:?} is no number"))?;
        *state.downcast_mut::<i64>().unwrap() += number;
        Ok(())
    }

    fn pack(&self, state: &State, into: &mut Vec<u8>) {
        into.extend_from_slice(&state.downcast_ref::<i64>().unwrap().to_le_bytes());
    }

    fn unpack(&self, bytes: &[u8]) -> Option<State> {
        Some(Box::new(i64::from_le_bytes(bytes.try_into().ok()?)))
    }
}

impl Decider for Counter {
    fn folder(&self) -> Option<&'static dyn Folder> {
        Some(&Sum)
    }

    fn decide(&mut self, facts: Facts<'_>) -> Result<Vec<NewEvent>, Failure> {
        let number = |state: &State| *state.downcast_ref::<i64>().unwrap();
        let sum = number(facts.state.unwrap());
        let padding = match &self.ask {
            Ask::Panic => panic!("a fault of the domain"),
            Ask::Poison => {
                self.decided = vec![0];
                0
            }
            Ask::Bytes(bytes) => {
                self.decided = vec![0];
                *bytes
            }
            Ask::Claim(changes) => {
                self.decided = vec![0; changes.len()];
                0
            }
            Ask::AddAnswer => {
                let Some(answer) = facts.answer else {
                    return Err(Failure {
                        code: 9,
                        message: "no answer".into(),
                        ..Failure::default()
                    });
                };
                self.decided = vec![answer.outcome.map_or(-1, |receipt| receipt.version as i64)];
                0
            }
            Ask::AddReads => {
                self.decided = vec![facts.reads.iter().map(|read| number(read)).sum()];
                0
            }
            Ask::Add(numbers) if sum + numbers.iter().sum::<i64>() < 0 => {
                let message = format!("the sum is {sum}");
                return Err(Failure { code: 9, message, details: Vec::new() });
            }
            Ask::Add(numbers) => {
                self.decided = numbers.clone();
                0
            }
        };
        let event = |(at, number): (usize, &i64)| NewEvent {
            name: "Added".into(),
            version: 1,
            payload: Payload::Raw {
                content_type: match &self.ask {
                    Ask::Poison => FAULTY.into(),
                    _ => "text/plain".into(),
                },
                data: format!("{number}{}", " ".repeat(padding)).into(),
            },
            claims: match &self.ask {
                Ask::Claim(changes) => vec![claim(changes[at].0, &changes[at].1)],
                _ => Vec::new(),
            },
        };
        Ok(self.decided.iter().enumerate().map(event).collect())
    }

    fn taken(&self, claim: &Claim) -> Failure {
        let message = format!("{} of {} is taken", claim.key, claim.scope);
        Failure { code: 6, message, details: Vec::new() }
    }

    fn evolve(&mut self, state: &mut State) {
        *state.downcast_mut::<i64>().unwrap() += self.decided.iter().sum::<i64>();
    }
}

fn claim(change: ClaimChange, key: &str) -> Claim {
    Claim { scope: "counter.name", key: key.to_owned(), change }
}

pub fn stream(id: impl std::fmt::Display) -> StreamName {
    StreamName::new("counter", &id.to_string()).unwrap()
}

/// A submission; the fingerprint of a request follows from what is asked.
pub fn submission(id: impl std::fmt::Display, ask: Ask, request: Option<Uuid>) -> Submission {
    let mut fingerprint = [0; 16];
    if let Ask::Add(numbers) = &ask {
        for (at, number) in numbers.iter().take(16).enumerate() {
            fingerprint[at] = number.to_le_bytes()[0];
        }
    }
    Submission {
        stream: stream(id),
        reads: Vec::new(),
        expected_version: None,
        answer_of: None,
        request: request.map(|id| RequestKey { id, fingerprint }),
        metadata: EventMetadata {
            request_id: request.unwrap_or_else(Uuid::now_v7).to_string(),
            ..EventMetadata::default()
        },
        decider: Box::new(Counter { ask, decided: Vec::new() }),
    }
}

pub async fn add(
    log: &EventLog,
    id: impl std::fmt::Display,
    number: i64,
) -> Result<Receipt, Error> {
    log.submit(submission(id, Ask::Add(vec![number]), None)).await
}

/// Submits changes of claims, such as `"+a"` to take and `"-a"` to free.
pub async fn claim_all(
    log: &EventLog,
    id: impl std::fmt::Display,
    changes: &[&str],
) -> Result<Receipt, Error> {
    log.submit(submission(id, Ask::Claim(claims(changes)), None)).await
}

/// Changes of claims, as for [`claim_all`].
pub fn claims(changes: &[&str]) -> Vec<(ClaimChange, String)> {
    let change = |text: &&str| match text.split_at(1) {
        ("+", key) => (ClaimChange::Take, key.to_owned()),
        ("-", key) => (ClaimChange::Free, key.to_owned()),
        _ => panic!("{text} is no change of a claim"),
    };
    changes.iter().map(change).collect()
}

/// Submits the sum of other counters.
pub async fn add_reads(
    log: &EventLog,
    id: impl std::fmt::Display,
    reads: &[&str],
) -> Result<Receipt, Error> {
    let reads = reads.iter().map(|read| (stream(read), &Sum as &'static dyn Folder));
    let reads = reads.collect();
    log.submit(Submission { reads, ..submission(id, Ask::AddReads, None) }).await
}

/// Submits what the answer to a request says.
pub async fn add_answer(
    log: &EventLog,
    id: impl std::fmt::Display,
    answer_of: Uuid,
) -> Result<Receipt, Error> {
    let answer_of = Some(answer_of);
    log.submit(Submission { answer_of, ..submission(id, Ask::AddAnswer, None) }).await
}

pub async fn add_as(
    log: &EventLog,
    id: impl std::fmt::Display,
    number: i64,
    request: Uuid,
) -> Result<Receipt, Error> {
    log.submit(submission(id, Ask::Add(vec![number]), Some(request))).await
}

pub async fn open(dir: &tempfile::TempDir) -> EventLog {
    EventLog::open(Config::new(dir.path())).await.unwrap()
}

/// Every event of the log, checked for gaps in positions and in the versions of each stream.
pub async fn all_events(log: &EventLog) -> Vec<RecordedEvent> {
    let mut events: Vec<RecordedEvent> = Vec::new();
    let mut versions = std::collections::HashMap::new();
    loop {
        let from = events.len() as u64 + 1;
        let page = log.read_all(from, daybook_log::Direction::Forward, 500).await.unwrap();
        if page.is_empty() {
            return events;
        }
        for record in page {
            let event = record.decode().unwrap();
            assert_eq!(event.position, events.len() as u64 + 1, "positions have no gap");
            let version = versions.entry(event.aggregate_id.clone()).or_insert(0);
            *version += 1;
            assert_eq!(event.version, *version, "versions of {} have no gap", event.aggregate_id);
            events.push(event);
        }
    }
}

/// What a process that ends at this moment leaves of a log.
pub fn copy_of(dir: &tempfile::TempDir) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in [sqlite::FILE_NAME.to_owned(), format!("{}-wal", sqlite::FILE_NAME)] {
        std::fs::copy(dir.path().join(&name), copy.path().join(&name)).unwrap();
    }
    copy
}
