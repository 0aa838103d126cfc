//! One source for many readers.
//!
//! The first reader gives its source away, and from then on every batch of it goes to all who have
//! joined: those who come to the same place. Others begin with a source of their own, at their own
//! cursor, and join when it has brought them to the end of the log. The source waits a little for
//! the slowest; whoever falls too far behind all the same opens a source of its own again, at its
//! cursor. So a reader sees what [`Source`] promises, and twenty readers cost the broker, and the
//! log, hardly more than one, at the end of the log and on the way to it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{Notify, watch};

use crate::source::{Batch, Cursor, Error, Source, SourceFactory};

/// The records that are kept for those who are not as fast; a few batches more than this. As many as
/// a projection that is far behind gathers before a commit, so that the others need not wait for it.
const KEPT_RECORDS: usize = 50_000;

/// The same for batches, which may have one record, or none: more than come while a projection
/// rests.
const KEPT_BATCHES: usize = 4_000;

/// How long the source waits for one who still needs the oldest of what is kept.
const PATIENCE: Duration = Duration::from_secs(1);

/// Opens sources that share one behind them.
#[derive(Clone)]
pub struct SharedSourceFactory {
    inner: Arc<dyn SourceFactory>,
    hub: Arc<Mutex<Weak<Hub>>>,
}

/// What the readers share. It lives as long as one of them holds it.
struct Hub {
    state: Mutex<State>,
    /// The number of the next batch; changes with each, and at the end.
    next: watch::Sender<u64>,
    /// Somebody has taken a batch, or left.
    taken: Notify,
}

#[derive(Default)]
struct State {
    /// The last batches, each with the place where it begins.
    kept: VecDeque<(Cursor, Arc<Batch>)>,
    records: usize,
    /// The number of the first of them.
    first: u64,
    /// The place after the last.
    end: Cursor,
    /// Why there will be no more.
    failed: Option<Error>,
    /// The number of the next batch of each who has joined.
    seats: HashMap<u64, u64>,
    /// How many have ever joined.
    joined: u64,
}

/// The place of one who has joined. The others wait for its owner until it is dropped.
struct Seat {
    hub: Arc<Hub>,
    id: u64,
}

/// A reader's view.
struct SharedSource {
    factory: SharedSourceFactory,
    /// The place after the batch that was returned last.
    cursor: Cursor,
    from: From,
}

/// Where its batches come from.
enum From {
    Own(Box<dyn Source>),
    Opening(BoxFuture<'static, Result<Box<dyn Source>, Error>>),
    Joined { seat: Seat, news: watch::Receiver<u64> },
}

impl SharedSourceFactory {
    /// Shares the sources of a factory.
    pub fn new(inner: Arc<dyn SourceFactory>) -> Self {
        Self { inner, hub: Arc::default() }
    }

    fn open_own(&self, cursor: &Cursor) -> BoxFuture<'static, Result<Box<dyn Source>, Error>> {
        let (inner, cursor) = (Arc::clone(&self.inner), cursor.clone());
        async move { inner.open(&cursor).await }.boxed()
    }

    /// The way to go on at a cursor: with the others if they have what comes next, else with its own
    /// source, which the others can have if there are none yet.
    fn join(&self, own: Box<dyn Source>, cursor: &Cursor) -> From {
        let mut current = lock(&self.hub);
        if let Some(hub) = current.upgrade().filter(|hub| !hub.has_failed()) {
            return hub.join(cursor).unwrap_or(From::Own(own));
        }
        let state = Mutex::new(State { end: cursor.clone(), ..State::default() });
        let hub = Arc::new(Hub { state, next: watch::Sender::new(0), taken: Notify::new() });
        *current = Arc::downgrade(&hub);
        let joined = hub.join(cursor).expect("it begins where its first reader is");
        hub.start(own);
        joined
    }
}

impl SourceFactory for SharedSourceFactory {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn open(&self, cursor: &Cursor) -> BoxFuture<'_, Result<Box<dyn Source>, Error>> {
        let cursor = cursor.clone();
        async move {
            let hub = lock(&self.hub).upgrade();
            let from = match hub.and_then(|hub| hub.join(&cursor)) {
                Some(joined) => joined,
                None => {
                    let own = self.inner.open(&cursor).await?;
                    self.join(own, &cursor)
                }
            };
            let source: Box<dyn Source> =
                Box::new(SharedSource { factory: self.clone(), cursor, from });
            Ok(source)
        }
        .boxed()
    }
}

impl Hub {
    /// Hands on what the source gives, until it fails or nobody listens any more.
    fn start(self: &Arc<Self>, mut source: Box<dyn Source>) {
        let (hub, readers) = (Arc::downgrade(self), self.next.clone());
        tokio::spawn(async move {
            let mut going_on = true;
            while going_on {
                let result = tokio::select! {
                    result = source.next() => result,
                    // Somebody may be about to join all the same, and must hear of it.
                    () = readers.closed() => Err(abandoned()),
                };
                going_on = result.is_ok();
                let Some(hub) = hub.upgrade() else { return };
                hub.add(result);
                // Whoever does not come in time is not waited for again.
                let _ = tokio::time::timeout(PATIENCE, hub.has_room()).await;
            }
        });
    }

    /// Waits until nobody who has joined needs what the next batch would drive out.
    async fn has_room(&self) {
        loop {
            let taken = self.taken.notified();
            if lock(&self.state).has_room() {
                return;
            }
            taken.await;
        }
    }

    fn add(&self, result: Result<Batch, Error>) {
        let mut state = lock(&self.state);
        match result {
            Ok(batch) => state.add(batch),
            Err(error) => state.failed = Some(error),
        }
        let next = state.next();
        drop(state);
        self.next.send_replace(next);
    }

    /// Joins at a cursor, if everything after it is there.
    fn join(self: &Arc<Self>, cursor: &Cursor) -> Option<From> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        if state.failed.is_some() {
            return None;
        }
        let begins = state.kept.iter().map(|(begin, _)| begin);
        let mut places = [&state.end].into_iter().chain(begins.rev());
        // The latest such place: as little as possible comes twice.
        let index = state.kept.len() - places.position(|place| continues(place, cursor))?;
        let next = state.first + u64::try_from(index).ok()?;
        let id = state.joined;
        state.joined += 1;
        state.seats.insert(id, next);
        let seat = Seat { hub: Arc::clone(self), id };
        Some(From::Joined { seat, news: self.next.subscribe() })
    }

    fn has_failed(&self) -> bool {
        lock(&self.state).failed.is_some()
    }
}

impl Seat {
    /// Takes the next batch, if it is there.
    fn take(&self) -> Found {
        let mut guard = lock(&self.hub.state);
        let state = &mut *guard;
        let next = state.seats.get_mut(&self.id).expect("it is there until the drop");
        let Some(index) = next.checked_sub(state.first) else { return Found::Gone };
        if let Some((_, batch)) = usize::try_from(index).ok().and_then(|at| state.kept.get(at)) {
            *next += 1;
            self.hub.taken.notify_one();
            // A reader that has rested answers when it is at the end of what came meanwhile, which
            // the batch did not know when it was read.
            let newest = state.kept.back().map_or(0, |(_, newest)| newest.head);
            let head = batch.head.max(newest);
            return Found::Batch(Batch { head, ..Batch::clone(batch) });
        }
        match &state.failed {
            Some(error) => Found::Failed(error.clone()),
            None => Found::NotYet,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.hub.state).seats.remove(&self.id);
        self.hub.taken.notify_one();
    }
}

/// What is known of a batch.
enum Found {
    Batch(Batch),
    NotYet,
    Gone,
    Failed(Error),
}

impl State {
    fn next(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    fn is_full(&self) -> bool {
        self.kept.len() > 1 && (self.records > KEPT_RECORDS || self.kept.len() > KEPT_BATCHES)
    }

    /// Whether nobody needs the oldest of what is kept, or there is room beside it.
    fn has_room(&self) -> bool {
        !self.is_full() || self.seats.values().all(|next| *next != self.first)
    }

    fn add(&mut self, batch: Batch) {
        while self.is_full()
            && let Some((_, oldest)) = self.kept.pop_front()
        {
            self.records -= oldest.records.len();
            self.first += 1;
        }
        self.records += batch.records.len();
        let begin = std::mem::replace(&mut self.end, batch.cursor.clone());
        self.kept.push_back((begin, Arc::new(batch)));
    }
}

impl Source for SharedSource {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, Error>> {
        async {
            loop {
                match &mut self.from {
                    From::Opening(opening) => self.from = From::Own(opening.await?),
                    From::Own(own) => {
                        let batch = own.next().await?;
                        self.cursor.clone_from(&batch.cursor);
                        if batch.position >= batch.head {
                            self.join();
                        }
                        return Ok(batch);
                    }
                    From::Joined { seat, news } => {
                        // What comes after this look is news.
                        news.mark_unchanged();
                        match seat.take() {
                            Found::Batch(batch) => {
                                self.cursor.clone_from(&batch.cursor);
                                return Ok(batch);
                            }
                            // It keeps its sender as long as somebody holds it.
                            Found::NotYet => drop(news.changed().await),
                            Found::Gone => {
                                self.from = From::Opening(self.factory.open_own(&self.cursor));
                            }
                            Found::Failed(error) => return Err(shared(error)),
                        }
                    }
                }
            }
        }
        .boxed()
    }
}

impl SharedSource {
    /// Leaves the source of its own to the others, if there is one.
    fn join(&mut self) {
        let nothing = From::Opening(futures::future::pending().boxed());
        self.from = match std::mem::replace(&mut self.from, nothing) {
            From::Own(own) => self.factory.join(own, &self.cursor),
            other => other,
        };
    }
}

/// Whether what comes after one place is what comes after another. Events of the log may come
/// twice, which their versions tell; other records on a topic may not, since nothing tells.
fn continues(place: &Cursor, other: &Cursor) -> bool {
    let read = |cursor: &Cursor| cursor.partitions.iter().map(|p| p.next_offset).sum::<i64>();
    place.log_position <= other.log_position
        && place.partitions.len() == other.partitions.len()
        // Most places differ, and this is cheaper than to look for each partition.
        && read(place) == read(other)
        && place.partitions.iter().all(|place| {
            let same = |p: &&crate::source::PartitionCursor| {
                p.partition == place.partition && p.topic == place.topic
            };
            let other = other.partitions.iter().find(same);
            other.is_some_and(|other| {
                (place.next_offset, place.last_record) == (other.next_offset, other.last_record)
            })
        })
}

fn abandoned() -> Error {
    let (source_name, problem) = ("the shared source".to_owned(), "all readers left".to_owned());
    Error::Unavailable { source_name, problem }
}

/// Each reader has its own place, which may still be there when the shared one is lost.
fn shared(error: Error) -> Error {
    match error {
        Error::Lost { source_name, problem } => Error::Unavailable { source_name, problem },
        error => error,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::source::{Origin, Record};

    /// A log of numbers; its records are their positions. Clones are the same.
    #[derive(Clone)]
    struct Numbers {
        end: watch::Sender<u64>,
        broken: watch::Sender<bool>,
        open: Arc<AtomicUsize>,
        ever_opened: Arc<AtomicUsize>,
    }

    struct NumbersSource {
        numbers: Numbers,
        position: u64,
    }

    impl Numbers {
        fn new() -> Self {
            Self {
                end: watch::Sender::new(0),
                broken: watch::Sender::new(false),
                open: Arc::default(),
                ever_opened: Arc::default(),
            }
        }

        fn grow(&self, by: u64) {
            self.end.send_modify(|end| *end += by);
        }

        async fn has_open(&self, sources: usize) {
            let wait = async {
                while self.open.load(Ordering::SeqCst) != sources {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let open = || self.open.load(Ordering::SeqCst);
            tokio::time::timeout(Duration::from_secs(30), wait)
                .await
                .unwrap_or_else(|_| panic!("{} sources are open, not {sources}", open()));
        }
    }

    impl SourceFactory for Numbers {
        fn kind(&self) -> &'static str {
            "numbers"
        }

        fn open(&self, cursor: &Cursor) -> BoxFuture<'_, Result<Box<dyn Source>, Error>> {
            self.open.fetch_add(1, Ordering::SeqCst);
            self.ever_opened.fetch_add(1, Ordering::SeqCst);
            let numbers = self.clone();
            let source: Box<dyn Source> =
                Box::new(NumbersSource { numbers, position: cursor.log_position });
            async move { Ok(source) }.boxed()
        }
    }

    impl Drop for NumbersSource {
        fn drop(&mut self) {
            self.numbers.open.fetch_sub(1, Ordering::SeqCst);
        }
    }

    impl Source for NumbersSource {
        fn next(&mut self) -> BoxFuture<'_, Result<Batch, Error>> {
            async {
                let (mut end, mut broken) =
                    (self.numbers.end.subscribe(), self.numbers.broken.subscribe());
                let head = tokio::select! {
                    _ = broken.wait_for(|broken| *broken) => {
                        let (source_name, problem) = (String::new(), "broken".to_owned());
                        return Err(Error::Lost { source_name, problem });
                    }
                    head = end.wait_for(|end| *end > self.position) => *head.unwrap(),
                };
                let last = head.min(self.position + 7);
                let bytes = |position: u64| Bytes::copy_from_slice(&position.to_be_bytes());
                let record = |position| Record::new(bytes(position), Origin::Log);
                let records = (self.position + 1..=last).map(record).collect();
                self.position = last;
                let cursor = Cursor { log_position: last, ..Cursor::default() };
                Ok(Batch { records, position: last, head, cursor })
            }
            .boxed()
        }
    }

    /// A reader that knows what it has seen.
    struct Reader {
        source: Box<dyn Source>,
        seen: u64,
    }

    impl Reader {
        async fn open(factory: &SharedSourceFactory, after: u64) -> Self {
            let cursor = Cursor { log_position: after, ..Cursor::default() };
            Self { source: factory.open(&cursor).await.unwrap(), seen: after }
        }

        /// Reads until a position; nothing is missing, whatever comes twice.
        async fn reads(&mut self, until: u64) {
            while self.seen < until {
                let next = tokio::time::timeout(Duration::from_secs(30), self.source.next());
                let batch = next.await.expect("a batch comes").unwrap();
                for record in batch.records.iter() {
                    let position = u64::from_be_bytes(record.bytes[..].try_into().unwrap());
                    assert!(position <= self.seen + 1, "{} is missing", self.seen + 1);
                    self.seen = self.seen.max(position);
                }
                assert!(batch.position <= self.seen, "{} is claimed too early", batch.position);
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn readers_from_anywhere_end_up_with_one_source() {
        let numbers = Numbers::new();
        let factory = SharedSourceFactory::new(Arc::new(numbers.clone()));
        numbers.grow(1_000);
        let mut readers = Vec::new();
        for after in [0, 990, 17, 1_000, 500, 999] {
            readers.push(Reader::open(&factory, after).await);
        }
        for round in 1..=20 {
            numbers.grow(10);
            let reading = readers.iter_mut().map(|reader| reader.reads(1_000 + round * 10));
            futures::future::join_all(reading).await;
        }
        numbers.has_open(1).await;
        // One more finds the others, since they still have what it lacks.
        let mut late = Reader::open(&factory, 1_195).await;
        late.reads(1_200).await;
        numbers.has_open(1).await;
        drop((readers, late));
        numbers.has_open(0).await;
        let mut again = Reader::open(&factory, 1_100).await;
        again.reads(1_200).await;
        numbers.has_open(1).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_begins_at_the_same_place_shares_the_way_to_the_end() {
        let numbers = Numbers::new();
        let factory = SharedSourceFactory::new(Arc::new(numbers.clone()));
        let many = 5 * KEPT_RECORDS as u64;
        numbers.grow(many);
        let mut readers = Vec::new();
        for _ in 0..3 {
            readers.push(Reader::open(&factory, 0).await);
        }
        let reading = readers.iter_mut().map(|reader| reader.reads(many));
        futures::future::join_all(reading).await;
        assert_eq!(numbers.ever_opened.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_falls_behind_reads_alone_and_misses_nothing() {
        let numbers = Numbers::new();
        let factory = SharedSourceFactory::new(Arc::new(numbers.clone()));
        numbers.grow(1);
        let mut fast = Reader::open(&factory, 0).await;
        let mut slow = Reader::open(&factory, 0).await;
        fast.reads(1).await;
        slow.reads(1).await;
        numbers.has_open(1).await;
        let many = 3 * KEPT_RECORDS as u64;
        numbers.grow(many);
        fast.reads(1 + many).await;
        slow.reads(1 + many).await;
        numbers.grow(1);
        fast.reads(2 + many).await;
        slow.reads(2 + many).await;
        numbers.has_open(1).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_source_that_fails_fails_for_all_and_is_opened_again() {
        let numbers = Numbers::new();
        let factory = SharedSourceFactory::new(Arc::new(numbers.clone()));
        numbers.grow(1);
        let mut readers = [Reader::open(&factory, 0).await, Reader::open(&factory, 0).await];
        for reader in &mut readers {
            reader.reads(1).await;
        }
        numbers.broken.send_replace(true);
        for reader in &mut readers {
            let error = reader.source.next().await.unwrap_err();
            assert!(matches!(error, Error::Unavailable { .. }), "the place is not lost: {error}");
        }
        numbers.broken.send_replace(false);
        numbers.grow(5);
        for reader in &mut readers {
            *reader = Reader::open(&factory, 1).await;
            reader.reads(6).await;
        }
        numbers.has_open(1).await;
    }
}
