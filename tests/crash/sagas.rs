//! Transfers while the processes that carry them are killed, stopped and doubled.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use daybook_client::{Daybook as Client, Money, StoredEvent};
use daybook_contract::bank::v1::{
    AccountOpened, BankTransfer, TransferReceived, TransferRefunded, TransferSent, TransferSettled,
    TransferStatus,
};
use daybook_contract::daybook::v1::{ListSagasRequest, ReadContext, SagaStatus, recorded_event};
use daybook_testing::{Broker, Daybook as Process, eventually, unique};
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use tokio::time::sleep;

use crate::common::{PATIENCE, Site, everything, head, minor, over_kafka, usd};
use crate::ledger::Ledger;
use crate::random::{Random, seed};

/// How many transfers; the whole number of them with `DAYBOOK_TRANSFERS=10000`.
fn transfers() -> u64 {
    let asked = std::env::var("DAYBOOK_TRANSFERS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(400)
}

/// How long nothing may move before the transfers that are open count as hanging.
const STANDSTILL: Duration = Duration::from_secs(60);

const INITIAL: i64 = 10_000;

/// Opens accounts with money on them, of which the last three are closed, in another currency, and
/// unknown; so some transfers come back.
async fn open_accounts(client: &Client, accounts: u64) {
    for n in 0..accounts {
        let amount = match n + 1 == accounts {
            true => Money { currency_code: "EUR".into(), ..usd(INITIAL) },
            false => usd(INITIAL),
        };
        client
            .open_account(format!("owner {n}"))
            .account_id(format!("a{n}"))
            .initial_balance(amount)
            .await
            .unwrap();
    }
    client.open_account("closed").account_id("closed").await.unwrap();
    client.close_account("closed").await.unwrap();
}

/// Sends transfers of these numbers between random accounts, until all are accepted or refused.
async fn send_transfers(client: &Client, random: &mut Random, accounts: u64, all: Range<u64>) {
    let requests: Vec<_> = all
        .map(|n| {
            let to = match random.below(20) {
                0 => "closed".to_owned(),
                1 => "nobody".to_owned(),
                _ => format!("a{}", random.below(accounts)),
            };
            let amount = usd(i64::try_from(random.below(2_000) + 1).unwrap());
            let from = format!("a{}", random.below(accounts));
            client.transfer(from, to, amount).transfer_id(format!("t{n}")).deadline(PATIENCE * 4)
        })
        .collect();
    futures::stream::iter(requests)
        .for_each_concurrent(16, |request| async move {
            match request.await {
                Ok(_) => {}
                Err(error) => {
                    let allowed = ["SAME_ACCOUNT", "INSUFFICIENT_FUNDS", "WRONG_CURRENCY"];
                    assert!(allowed.contains(&error.reason()), "{error:?}");
                }
            }
        })
        .await;
}

/// The transfers that have these states at this position or later, and that position.
async fn transfers_that_are(
    statuses: &[TransferStatus],
    client: &Client,
    min_position: u64,
) -> Result<(Vec<BankTransfer>, u64), daybook_client::Error> {
    let (mut found, mut position) = (Vec::new(), min_position);
    for status in statuses {
        let query = client.list_transfers().status(*status).page_size(500);
        let answer = query.min_position(min_position).await?;
        position = position.max(answer.position);
        found.extend(answer.transfers);
    }
    Ok((found, position))
}

/// Waits until no transfer is on its way, for as long as something moves.
async fn none_is_open(client: &Client) {
    use TransferStatus::{Delivered, InFlight, Returning, Started};
    let open = [Started, InFlight, Delivered, Returning];
    let (mut farthest, mut since) = (0, Instant::now());
    loop {
        let (position, problem) = match client.events().info().await {
            Ok(info) => match transfers_that_are(&open, client, info.head_position).await {
                Ok((open, _)) if open.is_empty() => return,
                Ok((open, position)) => {
                    (position, format!("{} are open, such as {:?}", open.len(), open[0]))
                }
                Err(error) => (info.head_position, error.to_string()),
            },
            Err(error) => (0, error.to_string()),
        };
        if position > farthest {
            (farthest, since) = (position, Instant::now());
        }
        assert!(since.elapsed() < STANDSTILL, "the transfers do not end: {problem}");
        sleep(Duration::from_millis(100)).await;
    }
}

fn event<M: Message + Default>(event: &StoredEvent) -> M {
    let Some(recorded_event::Payload::Event(any)) = &event.payload else { panic!("no event") };
    M::decode(any.value.as_slice()).unwrap()
}

/// What the log says of a transfer.
#[derive(Debug, Default)]
struct Told {
    /// How much is on its way.
    in_flight: Option<Money>,
    sent: u32,
    arrived: u32,
    back: u32,
    /// Whether the sender has been told how it ended.
    settled: u32,
    /// How it ended, as often as it did.
    ends: Vec<TransferStatus>,
    version: u64,
}

/// The money of each account, and what there is of each currency.
#[derive(Debug, Default)]
struct Books {
    accounts: BTreeMap<String, (i64, String)>,
    /// What is on accounts and on its way, less what was paid in.
    surplus: BTreeMap<String, i64>,
}

impl Books {
    /// Money goes onto an account, or off it when the sign is -1.
    fn change(&mut self, recorded: &StoredEvent, sign: i64, money: &Money) {
        let account = self.accounts.entry(recorded.aggregate_id.clone());
        let (balance, currency) = account.or_insert((0, money.currency_code.clone()));
        *balance += sign * minor(money);
        assert_eq!(*currency, money.currency_code, "{recorded:?} is of another currency");
        assert!(*balance >= 0, "{recorded:?} takes more than there is");
        self.count(sign, money);
    }

    /// Money is there that was not there before, or not any more when the sign is -1.
    fn count(&mut self, sign: i64, money: &Money) {
        *self.surplus.entry(money.currency_code.clone()).or_default() += sign * minor(money);
    }
}

/// Money of each currency is conserved at every position of the log; no money arrives twice, comes
/// back twice, or does both; every transfer that was started has one end, which is that of its money.
fn is_conserved(log: &[StoredEvent]) -> BTreeMap<String, Told> {
    let mut books = Books::default();
    let mut transfers = BTreeMap::<String, Told>::new();
    for recorded in log {
        match (recorded.aggregate_type.as_str(), recorded.event_name.as_str()) {
            ("bank.account", "AccountOpened") => {
                let paid_in = event::<AccountOpened>(recorded).initial_balance.unwrap();
                books.change(recorded, 1, &paid_in);
                books.count(-1, &paid_in);
            }
            ("bank.account", "TransferSent") => {
                let sent: TransferSent = event(recorded);
                let (money, told) = (sent.amount.unwrap(), transfers.entry(sent.transfer_id));
                let told = told.or_default();
                books.change(recorded, -1, &money);
                books.count(1, &money);
                (told.sent, told.in_flight) = (told.sent + 1, Some(money));
            }
            ("bank.account", "TransferReceived") => {
                let received: TransferReceived = event(recorded);
                let told = transfers.get_mut(&received.transfer_id).unwrap();
                books.change(recorded, 1, &received.amount.unwrap());
                told.in_flight.take().inspect(|money| books.count(-1, money));
                told.arrived += 1;
            }
            ("bank.account", "TransferRefunded") => {
                let refunded: TransferRefunded = event(recorded);
                let told = transfers.get_mut(&refunded.transfer_id).unwrap();
                books.change(recorded, 1, &refunded.amount.unwrap());
                told.in_flight.take().inspect(|money| books.count(-1, money));
                told.back += 1;
            }
            ("bank.account", "TransferSettled") => {
                let settled: TransferSettled = event(recorded);
                transfers.get_mut(&settled.transfer_id).unwrap().settled += 1;
            }
            ("bank.transfer", name) => {
                let told = transfers.entry(recorded.aggregate_id.clone()).or_default();
                told.version = recorded.version;
                told.ends.extend(match name {
                    "TransferCompleted" => Some(TransferStatus::Completed),
                    "TransferReturned" => Some(TransferStatus::Returned),
                    "TransferFailed" => Some(TransferStatus::Failed),
                    _ => None,
                });
            }
            _ => {}
        }
        let is_conserved = books.surplus.values().all(|surplus| *surplus == 0);
        assert!(is_conserved, "at position {}: {:?}", recorded.position, books.surplus);
    }
    for (id, told) in &transfers {
        assert_eq!(told.in_flight, None, "{id}");
        let done = (told.sent, told.arrived, told.back, told.settled);
        let expected = match told.ends[..] {
            [TransferStatus::Completed] => (1, 1, 0, 1),
            [TransferStatus::Returned] => (1, 0, 1, 0),
            // It never left.
            [TransferStatus::Failed] => (0, 0, 0, 0),
            _ => panic!("{id} has not one end: {told:?}"),
        };
        assert_eq!(done, expected, "{id}: {told:?}");
    }
    transfers
}

/// Compares everything there is with the log.
async fn check(client: &Client) -> Vec<StoredEvent> {
    let log = everything(client).await;
    let told = is_conserved(&log);
    let ledger = Ledger::of(&log);
    ledger.is_projected_by(client).await;
    let accounts: Vec<_> = client.list_accounts().page_size(500).all().try_collect().await.unwrap();
    for account in accounts {
        let pending = [&account.pending_out, &account.pending_in];
        assert_eq!(pending.map(|money| minor(money.as_ref().unwrap())), [0, 0], "{account:?}");
    }
    let shown: Vec<_> = client.list_transfers().page_size(500).all().try_collect().await.unwrap();
    let shown: BTreeMap<_, _> = shown
        .into_iter()
        .map(|transfer| (transfer.transfer_id.clone(), (transfer.version, transfer.status())))
        .collect();
    let expected: BTreeMap<_, _> =
        told.iter().map(|(id, told)| (id.clone(), (told.version, told.ends[0]))).collect();
    assert_eq!(shown, expected);
    sagas_are(client, &expected).await;
    log
}

/// Whether the saga service says the same of every transfer.
async fn sagas_are(client: &Client, expected: &BTreeMap<String, (u64, TransferStatus)>) {
    let read = Some(ReadContext {
        min_position: client.events().info().await.unwrap().head_position,
        max_wait: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
        ..Default::default()
    });
    let mut request = ListSagasRequest { read, page_size: 500, ..Default::default() };
    let mut shown = BTreeMap::new();
    loop {
        let page = client.sagas().list(request.clone()).await.unwrap();
        for saga in page.sagas {
            assert_eq!(saga.open_steps, 0, "{saga:?}");
            let status = match saga.status() {
                SagaStatus::Completed => TransferStatus::Completed,
                SagaStatus::Compensated => TransferStatus::Returned,
                SagaStatus::Failed => TransferStatus::Failed,
                other => panic!("{other:?}: {}", saga.stream),
            };
            assert_eq!(shown.insert(saga.saga_id, (saga.version, status)), None);
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(&shown, expected);
}

/// Another place for a process of the same system.
fn beside(site: &Site) -> Site {
    Site { ports: site.ports.beside(), ..Site::new() }
}

/// Kills the three processes again and again, in any order and all at once, while transfers are
/// sent and until all of them have ended.
async fn killed_at_random(brokers: &[&str], count: u64) {
    const ACCOUNTS: u64 = 100;
    let seed = seed();
    let mut random = Random::new(seed);
    let site = Site::new();
    let [query, saga] = [(); 2].map(|()| beside(&site));
    let sites = [&site, &query, &saga];
    let modes = ["command", "query", "saga"];
    let mut running: Vec<Process> =
        modes.iter().zip(sites).map(|(mode, at)| at.start(mode, brokers)).collect();
    let client = saga.client_with_attempts(1_000);
    open_accounts(&client, ACCOUNTS).await;

    let started = Instant::now();
    let all_end = {
        let client = client.clone();
        let mut random = Random::new(seed ^ 1);
        tokio::spawn(async move {
            send_transfers(&client, &mut random, ACCOUNTS, 0..count).await;
            none_is_open(&client).await;
        })
    };
    let mut kills = [0; 3];
    while !all_end.is_finished() || kills.iter().any(|kills| *kills < 2) {
        sleep(Duration::from_millis(random.below(400))).await;
        let killed = match random.below(10) {
            0 => 0..3,
            which => (which % 3) as usize..(which % 3) as usize + 1,
        };
        for which in killed.clone() {
            running[which].kill();
            kills[which] += 1;
        }
        // What everybody else waits for is there first.
        for which in killed {
            running[which] = sites[which].start(modes[which], brokers);
        }
    }
    all_end.await.unwrap();
    let log = check(&client).await;
    let transfers = log.iter().filter(|event| event.event_name == "TransferStarted").count();
    println!(
        "seed {seed}: {count} transfers, {transfers} accepted, {} events, {kills:?} kills of \
         {modes:?}, {:?}",
        log.len(),
        started.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn money_is_conserved_at_every_position_whoever_is_killed() {
    killed_at_random(&[], transfers()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_is_conserved_at_every_position_over_kafka() {
    let broker = Broker::shared().await;
    let prefix = format!("{}-", unique("sagas"));
    let flags = over_kafka(broker, &prefix);
    killed_at_random(&flags, transfers() / 4).await;
}

/// Two processes carry out the same sagas; one of them is stopped in the middle and goes on later,
/// with what it believed then.
#[tokio::test(flavor = "multi_thread")]
async fn two_saga_processes_of_which_one_sleeps_have_no_effect_twice() {
    const ACCOUNTS: u64 = 10;
    let seed = seed();
    let mut random = Random::new(seed);
    let site = Site::new();
    let _command = site.start("command", &[]);
    let [queries, first, second] = [(); 3].map(|()| beside(&site));
    let _query = queries.start("query", &[]);
    let client = site.client();
    open_accounts(&client, ACCOUNTS).await;
    // Both take everything as their own, which is worse than any division of the work.
    let (one, other) = (first.start("saga", &[]), second.start("saga", &[]));
    let sending = {
        let client = client.clone();
        let mut random = Random::new(seed ^ 1);
        tokio::spawn(async move { send_transfers(&client, &mut random, ACCOUNTS, 0..300).await })
    };
    for _ in 0..6 {
        for process in [&one, &other] {
            sleep(Duration::from_millis(random.below(100))).await;
            process.signal("STOP");
            sleep(Duration::from_millis(random.below(300))).await;
            process.signal("CONT");
        }
    }
    sending.await.unwrap();
    stopped_half_way(&[&one, &other], &client, &mut random, ACCOUNTS).await;
    // One of them does it all; then the other goes on with what both believed.
    other.signal("CONT");
    none_is_open(&client).await;
    wakes_to_nothing(&one, &first, &client).await;
}

/// Sends more transfers and stops all these processes at a moment when money has left and has not
/// been told of where it went; nobody but they can bring these transfers to an end.
async fn stopped_half_way(
    processes: &[&Process],
    client: &Client,
    random: &mut Random,
    accounts: u64,
) {
    use TransferStatus::{Delivered, InFlight, Returning};
    for from in (1_000..2_000).step_by(50) {
        let (sender, mut chosen) = (client.clone(), random.clone());
        let sending = tokio::spawn(async move {
            send_transfers(&sender, &mut chosen, accounts, from..from + 50).await;
        });
        sleep(Duration::from_millis(random.below(100))).await;
        processes.iter().for_each(|process| process.signal("STOP"));
        sending.await.unwrap();
        let head = head(client).await;
        let half_way = transfers_that_are(&[InFlight, Delivered, Returning], client, head).await;
        if !half_way.unwrap().0.is_empty() {
            return;
        }
        processes.iter().for_each(|process| process.signal("CONT"));
    }
    panic!("a thousand transfers, and none of them was under way at any moment");
}

/// A stopped process goes on with what it was at, and learns that all of it is done.
async fn wakes_to_nothing(process: &Process, at: &Site, client: &Client) {
    let ended = everything(client).await.len();
    process.signal("CONT");
    let own = at.client();
    eventually(PATIENCE, || async {
        let head = client.events().info().await.ok()?.head_position;
        let read = Some(ReadContext { min_position: head, ..Default::default() });
        let request = ListSagasRequest { read, open: true, ..Default::default() };
        own.sagas().list(request).await.ok()?.sagas.is_empty().then_some(())
    })
    .await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(everything(client).await.len(), ended);
    check(&own).await;
}

/// Three processes share the sagas. One is killed and one stopped; after ten seconds the third does
/// what they leave undone, and when the stopped one goes on there is nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_saga_process_leaves_undone_the_others_take_over() {
    const ACCOUNTS: u64 = 10;
    const TAKE_OVER: Duration = Duration::from_secs(10);
    let broker = Broker::shared().await;
    let prefix = format!("{}-", unique("shares"));
    let flags = over_kafka(broker, &prefix);
    let site = Site::new();
    let _command = site.start("command", &flags);
    let queries = beside(&site);
    let _query = queries.start("query", &flags);
    let client = site.client();
    open_accounts(&client, ACCOUNTS).await;
    let sites = [(); 3].map(|()| beside(&site));
    let share = |instance: &str, at: &Site| {
        let share = ["--saga-instances", "3", "--saga-instance", instance];
        at.start("saga", &[&flags[..], &share].concat())
    };
    let _living = share("0", &sites[0]);
    let mut killed = share("1", &sites[1]);
    let stopped = share("2", &sites[2]);
    killed.kill();
    stopped.signal("STOP");
    send_transfers(&client, &mut Random::new(seed()), ACCOUNTS, 0..60).await;
    none_is_open(&client).await;
    // Of what was not its own, the third did nothing before its time.
    let mut waited = 0;
    let mut started = BTreeMap::new();
    for recorded in everything(&client).await {
        let time = SystemTime::try_from(recorded.recorded_time.unwrap()).unwrap();
        match recorded.event_name.as_str() {
            "TransferStarted" => {
                started.insert(recorded.aggregate_id.clone(), time);
            }
            "TransferSent" => {
                let sent: TransferSent = event(&recorded);
                let since = time.duration_since(started[&sent.transfer_id]).unwrap();
                waited += usize::from(since >= TAKE_OVER);
            }
            _ => {}
        }
    }
    assert!(waited > started.len() / 3, "{waited} of {} waited", started.len());
    wakes_to_nothing(&stopped, &sites[2], &client).await;
}
