//! The command process is killed as by a power cut, fifty times, while clients write.
//!
//! Clients know the id of each of their requests and keep every receipt. What they got no answer
//! to they send again with the same id, after the restart. In the end the log must hold exactly
//! what the receipts say, and each request once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use daybook_client::{CommandReceipt, Daybook as Client, Error, StoredEvent};
use daybook_contract::daybook::v1::ReadStreamRequest;
use daybook_testing::eventually;
use futures::TryStreamExt;
use tokio::task::JoinSet;
use tokio::time::sleep;
use uuid::Uuid;

use crate::common::{PATIENCE, Site, everything, usd};
use crate::ledger::Ledger;
use crate::random::Random;

const ROUNDS: u64 = 50;

/// The most rounds, where fifty kills never came between a commit and its answer. How often they do
/// depends on the disk: the slower it is, the more of the time is before the commit.
const MOST_ROUNDS: u64 = 500;

const CLIENTS: u64 = 6;
const ACCOUNTS: u64 = 5;

/// A movement of money that a client wants: the sign says which way.
#[derive(Debug, Clone)]
struct Wish {
    request_id: String,
    account: String,
    amount: i64,
}

/// What a client knows when it has its answer.
#[derive(Debug, Clone)]
enum Answer {
    Done(CommandReceipt),
    Refused(String),
}

/// What one client asked for and learned. It outlives the rounds.
struct Teller {
    random: Random,
    answers: Vec<(Wish, Answer)>,
    unanswered: Option<Wish>,
    /// How many unanswered requests had had their effect when they were sent again.
    recovered: u64,
    /// Answers that came twice and were not the same.
    broken: Vec<String>,
}

impl Teller {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            answers: Vec::new(),
            unanswered: None,
            recovered: 0,
            broken: Vec::new(),
        }
    }

    fn wish(&mut self) -> Wish {
        let account = format!("a{}", self.random.below(ACCOUNTS));
        // More is withdrawn than there is, now and then.
        let sign = if self.random.below(3) == 0 { -3 } else { 1 };
        let amount = sign * (1 + i64::try_from(self.random.below(100)).unwrap());
        Wish { request_id: Uuid::now_v7().to_string(), account, amount }
    }

    /// Writes until the process is gone; counts the answers.
    async fn work(mut self, client: Client, answered: Arc<AtomicU64>) -> Self {
        loop {
            let wish = self.unanswered.take().unwrap_or_else(|| self.wish());
            match send(&client, &wish).await {
                Ok((answer, replayed)) => {
                    self.recovered += u64::from(replayed);
                    self.answers.push((wish, answer));
                }
                Err(_) => {
                    self.unanswered = Some(wish);
                    return self;
                }
            }
            answered.fetch_add(1, Ordering::SeqCst);
            // An answered request is sent again sometimes: nobody can know that it arrived.
            if self.random.below(8) == 0 {
                self.repeat(&client).await;
            }
        }
    }

    async fn repeat(&mut self, client: &Client) {
        let index = self.random.below(self.answers.len() as u64);
        let (wish, first) = &self.answers[usize::try_from(index).unwrap()];
        let Ok((again, replayed)) = send(client, wish).await else { return };
        let same = match (first, &again) {
            (Answer::Done(first), Answer::Done(again)) => first == again,
            (Answer::Refused(first), Answer::Refused(again)) => first == again,
            _ => false,
        };
        if !same || !replayed {
            self.broken.push(format!("{wish:?}: first {first:?}, then {again:?}"));
        }
    }
}

/// Sends once: the answer, and whether it is said to be that of an earlier request. An error says
/// that there is no answer yet.
async fn send(client: &Client, wish: &Wish) -> Result<(Answer, bool), Error> {
    let Wish { request_id, account, amount } = wish;
    let answer = match *amount {
        amount if amount > 0 => client.deposit(account, usd(amount)).request_id(request_id).await,
        amount => client.withdraw(account, usd(-amount)).request_id(request_id).await,
    };
    match answer {
        Ok(receipt) => {
            let replayed = receipt.replayed;
            Ok((Answer::Done(CommandReceipt { replayed: false, ..receipt }), replayed))
        }
        Err(error) if error.reason() == "INSUFFICIENT_FUNDS" => {
            let replayed = error.metadata().contains_key("replayed");
            Ok((Answer::Refused(error.message().to_owned()), replayed))
        }
        Err(error) if error.is_retryable() => Err(error),
        Err(error) => panic!("{wish:?}: {error} ({:?}, {})", error.code(), error.reason()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_under_load_lose_no_receipt_and_double_no_effect() {
    let seed = crate::random::seed();
    let mut random = Random::new(seed);
    let site = Site::new();
    let mut process = site.start("command", &[]);
    let reader = Site { ports: site.ports.beside(), ..Site::new() };
    let query = reader.start("query", &[]);
    let client = site.client();
    for account in 0..ACCOUNTS {
        let open = client.open_account("Ada").account_id(format!("a{account}"));
        open.initial_balance(usd(100)).await.unwrap();
    }
    let mut tellers: Vec<Teller> = (0..CLIENTS).map(|n| Teller::new(seed ^ (n + 1))).collect();
    let recovered = |tellers: &[Teller]| tellers.iter().map(|t| t.recovered).sum::<u64>();
    for round in 0..MOST_ROUNDS {
        if round >= ROUNDS && recovered(&tellers) > 0 {
            break;
        }
        let answered = Arc::new(AtomicU64::new(0));
        let mut working = JoinSet::new();
        for teller in tellers.drain(..) {
            working.spawn(teller.work(site.strict_client(), answered.clone()));
        }
        // Anywhere between the first answer and a few dozen groups, and anywhere in a group.
        let wanted = random.below(60);
        let enough = || async { (answered.load(Ordering::SeqCst) >= wanted).then_some(()) };
        eventually(PATIENCE, enough).await;
        sleep(Duration::from_micros(random.below(3_000))).await;
        process.kill();
        while let Some(teller) = working.join_next().await {
            tellers.push(teller.unwrap());
        }
        process = site.start("command", &[]);
    }
    // The last unanswered ones.
    let client = site.client();
    for teller in &mut tellers {
        if let Some(wish) = teller.unanswered.take() {
            let (answer, replayed) = send(&client, &wish).await.unwrap();
            teller.recovered += u64::from(replayed);
            teller.answers.push((wish, answer));
        }
        assert_eq!(teller.broken, [] as [String; 0], "seed {seed}");
    }
    let recovered = recovered(&tellers);
    let answers: Vec<(Wish, Answer)> = tellers.into_iter().flat_map(|t| t.answers).collect();
    let log = everything(&client).await;
    println!("seed {seed}: {} answers, {} events, {recovered} lost", answers.len(), log.len());
    assert!(recovered > 0, "seed {seed}: no kill came between a commit and its answer");
    check_log(&log, seed);
    check_answers(&log, &answers, seed);
    Ledger::of(&log).is_projected_by(&client).await;
    assert!(query.terminate().success());
    check_streams(&client, &log, &answers, seed).await;
    replays_are_the_first_answers(&client, &answers, seed).await;
    assert!(process.terminate().success());
}

/// Positions and versions have no gap, ids are unique, time does not run back.
fn check_log(log: &[StoredEvent], seed: u64) {
    let mut versions: HashMap<String, u64> = HashMap::new();
    let mut ids = BTreeSet::new();
    let mut last_time = (0, 0);
    for (event, position) in log.iter().zip(1..) {
        assert_eq!(event.position, position, "seed {seed}");
        let version = versions.entry(event.stream()).or_default();
        *version += 1;
        assert_eq!(event.version, *version, "seed {seed}: {event:?}");
        assert!(ids.insert(&event.event_id), "seed {seed}: {event:?}");
        let time = event.recorded_time.map(|time| (time.seconds, time.nanos)).unwrap();
        assert!(time >= last_time, "seed {seed}: {event:?}");
        last_time = time;
    }
}

/// What the receipts say stands in the log, and what was refused does not.
fn check_answers(log: &[StoredEvent], answers: &[(Wish, Answer)], seed: u64) {
    let mut effects: BTreeMap<String, &StoredEvent> = BTreeMap::new();
    for event in log {
        let request_id = event.metadata.as_ref().unwrap().request_id.clone();
        let before = effects.insert(request_id, event);
        assert!(before.is_none(), "seed {seed}: twice: {before:?} and {event:?}");
    }
    for (wish, answer) in answers {
        match answer {
            Answer::Done(receipt) => {
                let event = effects[&wish.request_id];
                assert_eq!(event.position, receipt.position, "seed {seed}: {wish:?}");
                assert_eq!(event.version, receipt.version, "seed {seed}: {wish:?}");
                assert_eq!(receipt.event_ids, [event.event_id.as_str()], "seed {seed}");
                assert_eq!(event.recorded_time, receipt.recorded_time, "seed {seed}");
                assert_eq!(event.aggregate_id, wish.account, "seed {seed}");
            }
            Answer::Refused(_) => {
                assert!(!effects.contains_key(&wish.request_id), "seed {seed}: {wish:?}");
            }
        }
    }
    let done = answers.iter().filter(|(_, answer)| matches!(answer, Answer::Done(_))).count();
    let opened = usize::try_from(ACCOUNTS).unwrap();
    assert_eq!(log.len(), done + opened, "seed {seed}: there are effects without a request");
}

/// Balances follow from what was answered, from the log, and from the state of the server alike.
async fn check_streams(
    client: &Client,
    log: &[StoredEvent],
    answers: &[(Wish, Answer)],
    seed: u64,
) {
    let mut expected: BTreeMap<String, i64> =
        (0..ACCOUNTS).map(|account| (format!("a{account}"), 100)).collect();
    for (wish, answer) in answers {
        if matches!(answer, Answer::Done(_)) {
            *expected.get_mut(&wish.account).unwrap() += wish.amount;
        }
    }
    let folded = Ledger::of(log);
    for (account, balance) in expected {
        assert_eq!(folded.balance(&account), balance, "seed {seed}: {account}");
        let read =
            ReadStreamRequest { stream: format!("bank.account-{account}"), ..Default::default() };
        let stream: Vec<StoredEvent> =
            client.events().read_stream(read).try_collect().await.unwrap();
        let of_log: Vec<&StoredEvent> =
            log.iter().filter(|event| event.aggregate_id == account).collect();
        assert_eq!(stream.iter().collect::<Vec<_>>(), of_log, "seed {seed}");
        // The server knows it to the cent: one more is too much, all of it is not.
        let too_much = client.withdraw(&account, usd(balance + 1)).await.unwrap_err();
        assert_eq!(too_much.reason(), "INSUFFICIENT_FUNDS", "seed {seed}");
        if balance > 0 {
            client.withdraw(&account, usd(balance)).await.unwrap();
        }
        client.close_account(&account).await.unwrap();
    }
}

/// Every request again, after all of it: the answers are still the first ones.
async fn replays_are_the_first_answers(client: &Client, answers: &[(Wish, Answer)], seed: u64) {
    let before = crate::common::head(client).await;
    // One in so many is enough, and all of them would take longer than the test itself.
    for (wish, first) in answers.iter().step_by(7) {
        let (again, replayed) = send(client, wish).await.unwrap();
        assert!(replayed, "seed {seed}: {wish:?}: {again:?}");
        match (again, first) {
            (Answer::Done(again), Answer::Done(first)) => assert_eq!(again, *first, "seed {seed}"),
            (Answer::Refused(again), Answer::Refused(first)) => {
                assert_eq!(again, *first, "seed {seed}");
            }
            (again, first) => panic!("seed {seed}: {wish:?}: first {first:?}, then {again:?}"),
        }
    }
    assert_eq!(crate::common::head(client).await, before, "seed {seed}");
}
