//! Checks a whole log, row by row, without changing it: for `daybook doctor`. It may run while a
//! process writes to the log; then it checks what was there when it came by.

use std::collections::HashMap;
use std::path::Path;

use daybook_contract::daybook::v1::RecordedEvent;
use prost::Message;
use uuid::Uuid;

use crate::record::{leaf_hash, stream_name};
use crate::sqlite::{self, RawClaim, RawRequest, RawRow, SqliteReader};
use crate::{Claim, ClaimChange, Error};

/// The rows that are checked at a time.
const PAGE: usize = 1000;

/// The positions for which the index is looked through at a time: 16 bytes each.
const PLACES: u64 = 4 * 1024 * 1024;

/// The problems that are listed; further ones are only counted.
pub const MAX_LISTED: usize = 100;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// How many events were checked.
    pub events: u64,
    /// How many streams they belong to.
    pub streams: u64,
    /// How many things are wrong.
    pub problem_count: u64,
    /// The first of them.
    pub problems: Vec<Problem>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The position of the record; 0 when it is about the file as a whole.
    pub position: u64,
    /// The stream of the record; empty when it is about the file as a whole.
    pub stream: String,
    /// What is wrong.
    pub text: String,
}

/// What an event claims, for whoever can read it; the log itself cannot.
pub type ClaimsOf = dyn Fn(&RecordedEvent) -> Vec<Claim>;

/// Checks the log in a directory. With `claims_of`, the claims are checked against the events, too;
/// without, only whether their streams exist. `progress` is told how many events are done.
pub async fn verify(
    directory: &Path,
    claims_of: Option<&ClaimsOf>,
    mut progress: impl FnMut(u64),
) -> Result<Findings, Error> {
    let reader = sqlite::open_reader(directory).await?;
    let findings = check(&reader, claims_of, &mut progress).await;
    reader.close().await;
    findings
}

async fn check(
    reader: &SqliteReader,
    claims_of: Option<&ClaimsOf>,
    progress: &mut impl FnMut(u64),
) -> Result<Findings, Error> {
    let mut findings = Findings::default();
    let mut claims = Claimed::read(reader, claims_of).await?;
    let index = reader.raw_index().await?;
    for text in reader.integrity_problems().await?.into_iter().chain(index.problems) {
        findings.add(0, "", text);
    }
    let mut after = 0;
    let mut places = Places { indexed: index.indexed, first: 1, found: Vec::new() };
    let mut versions: HashMap<String, u64> = HashMap::new();
    let mut last_time = (0, 0);
    loop {
        let rows = reader.raw_events(after, PAGE).await?;
        let Some(last) = rows.last().map(|row| row.position) else { break };
        for row in rows {
            if row.position != after + 1 {
                let text = format!("positions {} to {} are missing", after + 1, row.position - 1);
                findings.add(row.position, &row.stream, text);
            }
            after = row.position;
            places.check(reader, &row, &mut findings).await?;
            let event = check_row(&row, &mut versions, &mut last_time, &mut findings);
            if let Some(event) = event {
                check_request(&row, &event, index.requests_indexed, &mut findings);
                claims.follow(&row, &event, &mut findings);
            }
            findings.events += 1;
        }
        progress(last);
    }
    check_requests(reader, &mut findings).await?;
    claims.compare(&mut findings);
    findings.streams = versions.len() as u64;
    Ok(findings)
}

fn check_row(
    row: &RawRow,
    versions: &mut HashMap<String, u64>,
    last_time: &mut (i64, i32),
    findings: &mut Findings,
) -> Option<RecordedEvent> {
    let mut wrong = |text: String| findings.add(row.position, &row.stream, text);
    let version = versions.entry(row.stream.clone()).or_insert(0);
    *version += 1;
    if row.version != *version {
        wrong(format!("version {} stands where {version} belongs", row.version));
        *version = row.version;
    }
    if leaf_hash(&row.record) != row.leaf_hash.as_slice() {
        wrong("the record does not match its leaf hash".to_owned());
        return None;
    }
    let event = match RecordedEvent::decode(row.record.clone()) {
        Ok(event) => event,
        Err(error) => {
            wrong(format!("the record is no RecordedEvent: {error}"));
            return None;
        }
    };
    let inside = (event.position, event.version, stream_name(&event));
    if inside != (row.position, row.version, row.stream.clone()) {
        wrong(format!(
            "the record says position {}, version {}, stream {}; its row says version {}, stream {}",
            inside.0, inside.1, inside.2, row.version, row.stream
        ));
    }
    let time = event.recorded_time.map_or((0, 0), |time| (time.seconds, time.nanos));
    if time < *last_time {
        wrong("it was recorded before the record at the position before".to_owned());
    }
    *last_time = time;
    Some(event)
}

/// What the index of the streams has for some positions.
struct Places {
    /// Up to here it must have every event. What is beyond is in memory.
    indexed: u64,
    /// The position of the first that was found.
    first: u64,
    found: Vec<(i64, u64)>,
}

impl Places {
    /// The index must have this row where it is. That its entries are as many as there are events,
    /// and in order, is known by then ([`SqliteReader::raw_index`]); so when it has every row, it
    /// is complete and right.
    async fn check(
        &mut self,
        reader: &SqliteReader,
        row: &RawRow,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        if row.position > self.indexed {
            return Ok(());
        }
        let mut at = row.position.saturating_sub(self.first);
        if at >= self.found.len() as u64 {
            self.found = Vec::new();
            let last = self.indexed.min(row.position.saturating_add(PLACES - 1));
            self.found = reader.raw_places(row.position..=last).await?;
            (self.first, at) = (row.position, 0);
        }
        let text = match self.found.get(at as usize) {
            Some(place) if *place == (row.stream_id, row.version) => return Ok(()),
            None | Some((0, 0)) => "it is missing in the index of its stream".to_owned(),
            Some((stream_id, version)) => {
                format!("the index says that it is version {version} of stream {stream_id}")
            }
        };
        findings.add(row.position, &row.stream, text);
        Ok(())
    }
}

/// The request beside the record must be that of the record, and in the table of requests.
fn check_request(row: &RawRow, event: &RecordedEvent, indexed: u64, findings: &mut Findings) {
    let Some((id, fingerprint)) = row.request.as_ref().and_then(|it| it.split_at_checked(16))
    else {
        return;
    };
    let mut wrong = |text: &str| findings.add(row.position, &row.stream, text.to_owned());
    if !is_request_of(id, event) {
        wrong("it stands beside the id of a request that did not record it");
    }
    match &row.answered {
        None if row.position > indexed => {}
        None => wrong("its request is missing in the table of requests"),
        Some((stored, at)) if stored != fingerprint || *at != row.position => {
            wrong("the table of requests has another answer to its request");
        }
        Some(_) => {}
    }
}

/// What the table of requests says of events that do not name their request.
async fn check_requests(reader: &SqliteReader, findings: &mut Findings) -> Result<(), Error> {
    let mut after = Vec::new();
    loop {
        let requests = reader.raw_requests(&after, PAGE).await?;
        let Some(last) = requests.last() else { return Ok(()) };
        after.clone_from(&last.id);
        for RawRequest { id, position, record } in requests {
            // Events of the first format do not name it beside the record.
            let event = record.and_then(|record| RecordedEvent::decode(record).ok());
            if !event.is_some_and(|event| is_request_of(&id, &event)) {
                let id = Uuid::from_slice(&id).unwrap_or_default();
                let text = format!("the table of requests says that {id} recorded this event");
                findings.add(position, "", text);
            }
        }
    }
}

fn is_request_of(id: &[u8], event: &RecordedEvent) -> bool {
    let recorded = event.metadata.as_ref().map(|metadata| metadata.request_id.parse::<Uuid>());
    recorded.is_some_and(|recorded| recorded.is_ok_and(|recorded| recorded.as_bytes() == id))
}

/// Who holds what, by the events and by the table.
struct Claimed<'a> {
    claims_of: Option<&'a ClaimsOf>,
    /// The table was read when this was the last position.
    head: u64,
    table: Vec<RawClaim>,
    by_events: HashMap<(String, String), String>,
}

impl<'a> Claimed<'a> {
    async fn read(reader: &SqliteReader, claims_of: Option<&'a ClaimsOf>) -> Result<Self, Error> {
        let (head, table) = reader.raw_claims().await?;
        Ok(Self { claims_of, head, table, by_events: HashMap::new() })
    }

    fn follow(&mut self, row: &RawRow, event: &RecordedEvent, findings: &mut Findings) {
        let Some(claims_of) = self.claims_of.filter(|_| row.position <= self.head) else { return };
        for Claim { scope, key, change } in claims_of(event) {
            let claim = (scope.to_owned(), key);
            let holder = self.by_events.get(&claim);
            let mine = holder.is_some_and(|holder| *holder == row.stream);
            match change {
                ClaimChange::Take => {
                    if let Some(holder) = holder.filter(|_| !mine) {
                        let (scope, key) = &claim;
                        let text = format!("it claims {key:?} of {scope}, which {holder} holds");
                        findings.add(row.position, &row.stream, text);
                    }
                    self.by_events.insert(claim, row.stream.clone());
                }
                ClaimChange::Free if mine => drop(self.by_events.remove(&claim)),
                ClaimChange::Free => {}
            }
        }
    }

    fn compare(mut self, findings: &mut Findings) {
        for RawClaim { scope, key, stream } in std::mem::take(&mut self.table) {
            let Some(stream) = stream else {
                findings.add(0, "", format!("{key:?} of {scope} is held by an unknown stream"));
                continue;
            };
            if self.claims_of.is_none() {
                continue;
            }
            let text = match self.by_events.remove(&(scope.clone(), key.clone())) {
                Some(holder) if holder == stream => continue,
                Some(holder) => format!("{key:?} of {scope} belongs to {holder} by the events"),
                None => format!("{key:?} of {scope} belongs to nobody by the events"),
            };
            findings.add(0, &stream, format!("{text}, to {stream} by the table of claims"));
        }
        for ((scope, key), stream) in self.by_events {
            let text = format!("{key:?} of {scope} is missing in the table of claims");
            findings.add(0, &stream, text);
        }
    }
}

impl Findings {
    fn add(&mut self, position: u64, stream: &str, text: String) {
        self.problem_count += 1;
        if self.problems.len() < MAX_LISTED {
            self.problems.push(Problem { position, stream: stream.to_owned(), text });
        }
    }
}
