//! Merging against a model: whatever happens between two slices, the runs and what is in memory
//! together are the index of the whole log.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::super::disk_runs::{DiskRuns, by_position, complete, problems};
use super::super::index::{Filling as InMemory, Index};
use super::*;
use crate::Record;
use crate::storage::{Direction, EventRow, Group, RequestRow};

/// Streams of the model. Some entries are short, some long.
const STREAMS: [i64; 6] = [1, 2, 3, 200, 70_000, 1 << 40];

/// How many events are merged without being asked for; of requests, a quarter.
const SIZE: usize = 2400;

/// The streams by number: the positions of their events, in order of version.
type Model = BTreeMap<i64, Vec<u64>>;

/// A log without its events, but with their index.
struct Store {
    connection: Connection,
    index: Index,
    merger: Option<Merger>,
    streams: Model,
    /// The streams of all events.
    log: Vec<i64>,
}

#[derive(Debug, Clone)]
enum End {
    Commit,
    /// Nothing was committed.
    Fail,
    /// Nothing was, and how far merging was is found out anew.
    FailAndForget,
    /// It was, but nobody knows.
    Lose,
}

#[derive(Debug, Clone)]
enum Step {
    /// Appends events to streams.
    Append(Vec<usize>),
    /// Begins to merge all that is in memory.
    Flush,
    /// Merges what a group of so many rows may.
    Slice(usize, End),
    /// The process ends and begins anew.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let end = prop_oneof![30 => Just(End::Commit), 1 => Just(End::Fail), 1 => Just(End::FailAndForget), 1 => Just(End::Lose)];
    let step = prop_oneof![
        6 => prop::collection::vec(0..STREAMS.len(), 1..120).prop_map(Step::Append),
        2 => Just(Step::Flush),
        14 => (prop_oneof![0..20_usize, 0..400_usize], end).prop_map(|(rows, end)| Step::Slice(rows, end)),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..120)
}

/// The request that recorded the event at a position.
fn request(position: u64) -> RequestRow {
    let id = Uuid::from_u128(position.into());
    RequestRow { id, fingerprint: [0; 16], answer: StoredAnswer::Recorded(position) }
}

impl Store {
    fn new() -> Self {
        let connection = Connection::open_in_memory().unwrap();
        let before =
            "CREATE TABLE store (indexed INTEGER NOT NULL, requests_indexed INTEGER NOT NULL,
                          newest_request BLOB NOT NULL);
                      INSERT INTO store VALUES (0, 0, zeroblob(16));
                      CREATE TABLE requests (request_id BLOB PRIMARY KEY, fingerprint, position);";
        connection.execute_batch(before).unwrap();
        connection.execute_batch(include_str!("../../../migrations/0005_runs.sql")).unwrap();
        let index = Index::new(SIZE, InMemory::default(), Uuid::nil());
        Self { connection, index, merger: None, streams: Model::new(), log: Vec::new() }
    }

    fn append(&mut self, streams: impl IntoIterator<Item = i64>) {
        let mut group = Group::default();
        for stream_id in streams {
            self.log.push(stream_id);
            let position = self.log.len() as u64;
            let positions = self.streams.entry(stream_id).or_default();
            positions.push(position);
            let version = positions.len() as u64;
            let record = Record { position, bytes: Bytes::new() };
            group.requests.push(request(position));
            group.events.push(EventRow { stream_id, version, leaf_hash: [0; 32], record });
        }
        self.index.add(&group);
    }

    fn slice(&mut self, rows: usize, end: &End) {
        self.connection.execute_batch("BEGIN").unwrap();
        let mut merger = match &self.merger {
            Some(merger) => merger.clone(),
            None => Merger::new(&self.connection).unwrap(),
        };
        let merging = self.index.to_merge(false);
        let slice = Slice { chunks: (rows / 40).max(1), requests: (3 * rows).max(64) };
        merger.make_room(&self.connection, slice).unwrap();
        let merged = merger.go_on(&self.connection, merging.as_ref(), slice).unwrap();
        self.connection
            .execute_batch(match end {
                End::Fail | End::FailAndForget => "ROLLBACK",
                End::Commit | End::Lose => "COMMIT",
            })
            .unwrap();
        match end {
            End::Commit => {
                self.merger = Some(merger);
                if merged {
                    self.index.merged();
                }
            }
            End::Fail => {}
            End::FailAndForget | End::Lose => self.merger = None,
        }
    }

    fn crash(&mut self) {
        let mut rest = InMemory::default();
        let indexed = self.indexed();
        let places = self.places().filter(|place| place.position > indexed);
        let mut places: Vec<Place> = places.collect();
        places.sort_by_key(|place| place.position);
        rest.add_events(places.into_iter());
        let mark = self.mark("requests_indexed");
        (mark + 1..=self.log.len() as u64)
            .for_each(|position| rest.requests.add(request(position)));
        self.index = Index::new(SIZE, rest, Uuid::nil());
        self.merger = None;
    }

    /// All places in their order.
    fn places(&self) -> impl Iterator<Item = Place> {
        self.streams.iter().flat_map(|(stream_id, positions)| {
            let places = (1..).zip(positions);
            places.map(|(version, position)| Place {
                stream_id: *stream_id,
                version,
                position: *position,
            })
        })
    }

    fn indexed(&self) -> u64 {
        self.mark("indexed")
    }

    fn mark(&self, column: &str) -> u64 {
        let sql = format!("SELECT {column} FROM store");
        unsigned(self.connection.query_row(&sql, [], |row| row.get(0)).unwrap())
    }

    fn written_runs(&self) -> HashSet<i64> {
        let mut find = self.connection.prepare("SELECT DISTINCT run FROM run_chunks").unwrap();
        find.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    /// What readers see who looked at the memory before the last step, when the streams were these.
    fn check(&self, before: &Model, recent: &BTreeMap<i64, Vec<Place>>) {
        assert_eq!(problems(&self.connection, self.indexed()).unwrap(), Vec::<String>::new());
        let runs = DiskRuns::new(&self.connection).unwrap();
        for (stream_id, recent) in recent {
            let positions = before.get(stream_id).map_or(&[][..], Vec::as_slice);
            let last = recent.last().copied().or_else(|| runs.last(*stream_id).unwrap());
            assert_eq!(last.map(|last| last.position), positions.last().copied());
            let end = positions.len();
            for (from, limit) in
                [(0, 1), (1, end), (1, end + 1), (end / 2, 3), (end, 1), (end + 1, 9)]
            {
                let read = |direction| -> Vec<u64> {
                    let stream = (*stream_id, recent.as_slice());
                    let places = runs.places(stream, from as u64, direction, limit).unwrap();
                    places.iter().map(|place| place.position).collect()
                };
                let forward = positions.iter().skip(from.max(1) - 1).take(limit).copied();
                assert_eq!(read(Direction::Forward), forward.collect::<Vec<_>>());
                let backward = positions[..end.min(from)].iter().rev().take(limit).copied();
                assert_eq!(read(Direction::Backward), backward.collect::<Vec<_>>());
            }
        }
    }

    fn recent(&self) -> BTreeMap<i64, Vec<Place>> {
        STREAMS.iter().map(|stream_id| (*stream_id, self.index.places(*stream_id))).collect()
    }

    /// Merges until nothing is left to do.
    fn settle(&mut self) {
        let mut idle_before = false;
        for _ in 0..10_000 {
            self.slice(0, &End::Commit);
            let merger = self.merger.as_ref().unwrap();
            let idle = merger.flush.is_none() && merger.compactions.is_empty();
            let idle = idle && merger.left_over.is_empty() && self.index.to_merge(false).is_none();
            // The last slice of a flush leaves nothing to begin a compaction with.
            if idle && idle_before {
                return;
            }
            idle_before = idle;
        }
        panic!("merging has no end");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn runs_and_memory_are_the_index_of_the_log_whatever_happens(steps in steps()) {
        let mut store = Store::new();
        for step in steps {
            let (before, recent) = (store.streams.clone(), store.recent());
            match step {
                Step::Append(streams) => store.append(streams.into_iter().map(|at| STREAMS[at])),
                Step::Flush => drop(store.index.to_merge(true)),
                Step::Slice(rows, end) => store.slice(rows, &end),
                Step::Crash => store.crash(),
            }
            store.check(&before, &recent);
            store.check(&store.streams, &store.recent());
        }
        store.index.to_merge(true);
        store.settle();
        store.index.to_merge(true);
        store.settle();
        store.check(&store.streams, &store.recent());
        prop_assert_eq!(store.indexed(), store.log.len() as u64);
        let requests = store.connection.query_row("SELECT count(*) FROM requests", [], |row| row.get(0));
        prop_assert_eq!(requests, Ok(store.log.len() as i64));
        let mut by_place = by_position(&store.connection, 1..=store.indexed()).unwrap();
        let mut expected = vec![(0, 0); by_place.len()];
        for place in store.places() {
            expected[place.position as usize - 1] = (place.stream_id, place.version);
        }
        prop_assert_eq!(&mut by_place, &mut expected);
        let runs = complete(&store.connection).unwrap();
        prop_assert!(runs.is_sorted_by(|before, later| before.len() >= 2 * later.len()), "{runs:?}");
        let numbers: HashSet<i64> = runs.iter().map(|run| run.number).collect();
        prop_assert_eq!(numbers, store.written_runs());
    }
}

/// A store with runs of so many places, none of which are to be compacted.
fn store_with(runs: &[usize]) -> Store {
    let mut store = Store::new();
    for (number, places) in runs.iter().enumerate() {
        store.append((0..*places).map(|at| STREAMS[(at + number) % STREAMS.len()]));
        store.index.to_merge(true);
        store.settle();
    }
    store
}

#[test]
fn a_compaction_ends_while_the_requests_of_a_flush_are_merged() {
    let mut store = store_with(&[200]);
    for places in [150, 1000] {
        store.append((0..places).map(|at| STREAMS[at % 6]));
        store.index.to_merge(true);
        let mut compacted = false;
        while store.index.to_merge(false).is_some() {
            store.slice(0, &End::Commit);
            store.check(&store.streams, &store.recent());
            let merger = store.merger.as_ref().unwrap();
            compacted |= merger.flush.is_some() && merger.runs[0].len() == 350;
        }
        assert_eq!(compacted, places == 1000);
    }
    store.settle();
    assert_eq!(complete(&store.connection).unwrap().len(), 1);
}

#[test]
fn small_groups_together_may_merge_as_much_as_a_large_one() {
    let mut merger = Merger::new(&Store::new().connection).unwrap();
    let chunks: usize = (0..1000).map(|_| merger.slice(7).chunks).sum();
    assert_eq!(chunks, 7000 / ROWS_PER_CHUNK);
    assert_eq!(merger.slice(5000).chunks, 5000 / ROWS_PER_CHUNK);
}

#[test]
fn a_compaction_goes_on_after_a_restart() {
    let mut store = store_with(&[2000]);
    store.append((0..1500).map(|at| STREAMS[at % 5]));
    store.index.to_merge(true);
    while store.index.to_merge(false).is_some() {
        store.slice(0, &End::Commit);
    }
    // Sessions of a group each, which write one chunk of some hundred.
    let mut sessions = 0;
    while complete(&store.connection).unwrap().len() > 1 {
        store.crash();
        store.slice(0, &End::Commit);
        store.check(&store.streams, &store.recent());
        sessions += 1;
        assert!(sessions < 500, "it never ends");
    }
    assert!(sessions > 50, "{sessions}");
    store.settle();
    assert_eq!(complete(&store.connection).unwrap()[0].len(), 3500);
}

#[test]
fn after_the_disk_was_full_nothing_is_compacted_until_the_next_flush() {
    let mut store = store_with(&[200]);
    for (full, expected) in [(true, vec![200, 150]), (false, vec![500])] {
        store.append((0..150).map(|at| STREAMS[at % 6]));
        store.index.to_merge(true);
        while store.index.to_merge(false).is_some() {
            store.slice(0, &End::Commit);
        }
        if full {
            store.merger.as_mut().unwrap().rest(&store.connection).unwrap();
        }
        (0..100).for_each(|_| store.slice(0, &End::Commit));
        let runs = complete(&store.connection).unwrap();
        assert_eq!(runs.iter().map(Run::len).collect::<Vec<_>>(), expected);
        assert_eq!(store.written_runs().len(), runs.len(), "nothing is left over");
    }
}

#[test]
fn many_short_runs_do_not_wait_for_few_long_ones() {
    let mut store = store_with(&[3000]);
    store.append((0..1600).map(|at| STREAMS[at % 5]));
    store.index.to_merge(true);
    let mut most = 0;
    let mut flushes = 0;
    for slice in 0..4000 {
        // Each slice may write a chunk, which has some 25 entries here, and two come with each.
        store.append([1, 200]);
        if slice % 20 == 19 {
            store.index.to_merge(true);
        }
        flushes += usize::from(slice % 20 == 19);
        store.slice(0, &End::Commit);
        most = most.max(store.merger.as_ref().unwrap().runs.len());
    }
    // The long ones have become one beside that.
    let first = store.merger.as_ref().unwrap().runs[0];
    assert!(first.len() > 4600 && flushes == 200, "{first:?}");
    assert!(most <= 16, "{most} runs at once");
}

#[test]
fn a_damaged_run_stays_and_the_log_goes_on() {
    let changes = [
        "UPDATE run_chunks SET places = substr(places, 1, length(places) - 1)
         WHERE chunk = (SELECT min(chunk) FROM run_chunks WHERE stream_id > 2)",
        "DELETE FROM run_chunks WHERE chunk = (SELECT min(chunk) FROM run_chunks WHERE stream_id > 2)",
        "UPDATE run_chunks SET stream_id = stream_id + 1
         WHERE chunk = (SELECT min(chunk) FROM run_chunks WHERE stream_id > 2)",
    ];
    for change in changes {
        let mut store = store_with(&[600]);
        assert_eq!(store.connection.execute(change, []).unwrap(), 1);
        let damaged = complete(&store.connection).unwrap();
        store.append((0..400).map(|at| STREAMS[at % 6]));
        store.index.to_merge(true);
        store.settle();
        assert!(store.merger.as_ref().unwrap().damaged, "{change}");
        assert_eq!(store.indexed(), 1000);
        let runs = complete(&store.connection).unwrap();
        assert_eq!((runs.len(), runs[0]), (2, damaged[0]), "{change}");
        assert_eq!(store.written_runs().len(), 2, "nothing is left over: {change}");
        assert!(!problems(&store.connection, 1000).unwrap().is_empty(), "{change}");
        let runs = DiskRuns::new(&store.connection).unwrap();
        let read = |stream_id| runs.places((stream_id, &[]), 1, Direction::Forward, 1000);
        // A reader gets the whole stream or an error.
        assert_eq!(read(1).unwrap().len(), store.streams[&1].len(), "{change}");
        let whole = |id| read(id).is_ok_and(|places| places.len() == store.streams[&id].len());
        let failed = STREAMS.iter().filter(|id| read(**id).is_err()).count();
        let wrong = STREAMS.iter().filter(|id| read(**id).is_ok() && !whole(**id)).count();
        assert!(failed > 0 && wrong == 0, "{change}: {failed} failed, {wrong} are wrong");
    }
}

#[test]
fn runs_that_contradict_each_other_stay() {
    let mut store = store_with(&[200]);
    // Another run has the same versions, at the same positions.
    let copy = "INSERT INTO run_chunks (run, stream_id, version, places)
                SELECT 50, stream_id, version, places FROM run_chunks;
                INSERT INTO runs VALUES (50, 201, 400);
                UPDATE store SET indexed = 400";
    store.connection.execute_batch(copy).unwrap();
    let before = complete(&store.connection).unwrap();
    store.merger = None;
    (0..100).for_each(|_| store.slice(0, &End::Commit));
    assert!(store.merger.as_ref().unwrap().damaged);
    assert_eq!(complete(&store.connection).unwrap(), before);
    assert_eq!(store.written_runs().len(), 2, "nothing is left over");
}

#[test]
fn chunks_are_found_by_their_index() {
    let store = Store::new();
    for sql in disk_runs::SEEKS {
        let mut explain = store.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let plan = explain.query_map([0, 0, 0], |row| row.get(3)).unwrap();
        let plan: Vec<String> = plan.map(Result::unwrap).collect();
        let by_index = plan[0].contains("(run=? AND (stream_id,version)");
        assert!(plan.len() == 1 && by_index, "{plan:?}");
    }
}
