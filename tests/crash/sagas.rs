//! Transfers while the processes that carry them are killed, stopped and doubled.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use daybook_client::{Daybook as Client, StoredEvent};
use daybook_contract::bank::v1::{
    AccountOpened, MoneyDeposited, TransferReceived, TransferRefunded, TransferSent,
    TransferSettled, TransferStatus,
};
use daybook_contract::daybook::v1::{ListSagasRequest, ReadContext, recorded_event};
use daybook_testing::{Broker, Daybook as Process, eventually, unique};
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use tokio::time::sleep;

use crate::common::{PATIENCE, Site, everything, minor, usd};
use crate::random::{Random, seed};

/// How many transfers; the whole number of them with `DAYBOOK_TRANSFERS=10000`.
fn transfers() -> u64 {
    let asked = std::env::var("DAYBOOK_TRANSFERS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(400)
}

const INITIAL: i64 = 10_000;

/// Opens accounts with money on them, of which the last three are closed, in another currency, and
/// unknown; so some transfers come back.
async fn open_accounts(client: &Client, accounts: u64) {
    for n in 0..accounts {
        let amount = match n + 1 == accounts {
            true => daybook_client::Money { currency_code: "EUR".into(), ..usd(INITIAL) },
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

/// Sends transfers between random accounts, until all are accepted or refused.
async fn send_transfers(client: &Client, random: &mut Random, accounts: u64, count: u64) {
    let requests: Vec<_> = (0..count)
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

/// Waits until no transfer is on its way, and then compares everything there is with the log.
async fn all_end(client: &Client) -> Vec<StoredEvent> {
    let open = || async {
        let mut open = Vec::new();
        for status in [
            TransferStatus::Started,
            TransferStatus::InFlight,
            TransferStatus::Delivered,
            TransferStatus::Returning,
        ] {
            let position = client.events().info().await?.head_position;
            let query = client.list_transfers().status(status).page_size(500);
            open.extend(query.min_position(position).await?.transfers);
        }
        Ok::<_, daybook_client::Error>(open)
    };
    let mut last = String::new();
    for _ in 0..600 {
        match open().await {
            Ok(open) if open.is_empty() => {
                let log = everything(client).await;
                check(client, &log).await;
                return log;
            }
            Ok(open) => last = format!("{} are open, such as {:?}", open.len(), open[0]),
            Err(error) => last = error.to_string(),
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("the transfers do not end: {last}");
}

fn event<M: Message + Default>(event: &StoredEvent) -> M {
    let Some(recorded_event::Payload::Event(any)) = &event.payload else { panic!("no event") };
    M::decode(any.value.as_slice()).unwrap()
}

/// Money is conserved at every position of the log; no money arrives twice, comes back twice, or
/// does both; every transfer has one end; and the queries say the same.
async fn check(client: &Client, log: &[StoredEvent]) {
    let mut balances = BTreeMap::<String, i64>::new();
    let mut in_flight = BTreeMap::<String, i64>::new();
    let mut known = BTreeMap::<String, String>::new();
    let mut ended = BTreeSet::<String>::new();
    let (mut opened, mut ends) = (0, BTreeMap::<String, Vec<String>>::new());
    for recorded in log {
        let id = recorded.aggregate_id.clone();
        let balance = balances.entry(id.clone()).or_default();
        let amount = |amount: Option<daybook_client::Money>| minor(&amount.unwrap());
        match (recorded.aggregate_type.as_str(), recorded.event_name.as_str()) {
            ("bank.account", "AccountOpened") => {
                let money = amount(event::<AccountOpened>(recorded).initial_balance);
                *balance += money;
                opened += money;
            }
            ("bank.account", "MoneyDeposited") => {
                let money = amount(event::<MoneyDeposited>(recorded).amount);
                *balance += money;
                opened += money;
            }
            ("bank.account", "TransferSent") => {
                let sent: TransferSent = event(recorded);
                *balance -= amount(sent.amount.clone());
                let twice = in_flight.insert(sent.transfer_id.clone(), amount(sent.amount));
                assert_eq!(twice, None, "{} was sent twice", sent.transfer_id);
                assert!(known.insert(sent.transfer_id.clone(), id).is_none());
            }
            ("bank.account", "TransferReceived") => {
                let received: TransferReceived = event(recorded);
                let money = amount(received.amount);
                *balance += money;
                let sent = in_flight.remove(&received.transfer_id);
                assert_eq!(sent, Some(money), "{} arrived twice", received.transfer_id);
            }
            ("bank.account", "TransferRefunded") => {
                let refunded: TransferRefunded = event(recorded);
                let money = amount(refunded.amount);
                *balance += money;
                let sent = in_flight.remove(&refunded.transfer_id);
                assert_eq!(sent, Some(money), "{} came back twice", refunded.transfer_id);
                assert!(ended.insert(refunded.transfer_id));
            }
            ("bank.account", "TransferSettled") => {
                let settled: TransferSettled = event(recorded);
                assert!(!in_flight.contains_key(&settled.transfer_id), "it is still on its way");
                assert!(ended.insert(settled.transfer_id));
            }
            ("bank.transfer", "TransferCompleted" | "TransferReturned" | "TransferFailed") => {
                ends.entry(id).or_default().push(recorded.event_name.clone());
            }
            _ => {}
        }
        assert!(balances.values().all(|balance| *balance >= 0));
        let total: i64 = balances.values().chain(in_flight.values()).sum();
        assert_eq!(total, opened, "at position {}", recorded.position);
    }
    assert!(in_flight.is_empty(), "{in_flight:?}");
    assert_eq!(known.len(), ended.len(), "every sender knows the end of its transfer");
    for (transfer, ends) in &ends {
        assert_eq!(ends.len(), 1, "{transfer} has the ends {ends:?}");
    }
    let started = log.iter().filter(|event| event.event_name == "TransferStarted").count();
    assert_eq!(ends.len(), started);

    let shown: Vec<_> = client.list_accounts().all().try_collect().await.unwrap();
    for account in shown {
        let expected = balances.get(&account.account_id).copied().unwrap_or_default();
        assert_eq!(minor(&account.balance.unwrap()), expected, "{}", account.account_id);
        assert_eq!(minor(&account.pending_out.unwrap()), 0, "{}", account.account_id);
        assert_eq!(minor(&account.pending_in.unwrap()), 0, "{}", account.account_id);
    }
}

/// Another place for a process of the same system.
fn beside(site: &Site) -> Site {
    Site { ports: site.ports.beside(), ..Site::new() }
}

/// Kills the three processes again and again, in any order, while transfers are sent.
async fn killed_at_random(brokers: &[&str], count: u64) {
    const ACCOUNTS: u64 = 20;
    let seed = seed();
    let mut random = Random::new(seed);
    let site = Site::new();
    let [query, saga] = [(); 2].map(|()| beside(&site));
    let sites = [&site, &query, &saga];
    let modes = ["command", "query", "saga"];
    let mut running: Vec<Process> =
        modes.iter().zip(sites).map(|(mode, at)| at.start(mode, brokers)).collect();
    let client = site.client_with_attempts(1_000);
    open_accounts(&client, ACCOUNTS).await;

    let sending = {
        let client = client.clone();
        let mut random = Random::new(seed ^ 1);
        tokio::spawn(async move { send_transfers(&client, &mut random, ACCOUNTS, count).await })
    };
    let mut kills = 0;
    while !sending.is_finished() || kills < 6 {
        sleep(Duration::from_millis(random.below(400))).await;
        let which = usize::try_from(random.below(3)).unwrap();
        running[which].kill();
        // The one that everything waits for is always there again.
        running[which] = sites[which].start(modes[which], brokers);
        kills += 1;
    }
    sending.await.unwrap();
    let log = all_end(&client).await;
    println!("seed {seed}: {kills} kills, {} events", log.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn money_is_conserved_at_every_position_whoever_is_killed() {
    killed_at_random(&[], transfers()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_is_conserved_at_every_position_over_kafka() {
    let broker = Broker::shared().await;
    let prefix = format!("{}-", unique("sagas"));
    let flags = ["--brokers", &broker.bootstrap, "--topic-prefix", &prefix];
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
        tokio::spawn(async move { send_transfers(&client, &mut random, ACCOUNTS, 300).await })
    };
    for _ in 0..6 {
        for process in [&one, &other] {
            sleep(Duration::from_millis(random.below(100))).await;
            process.signal("STOP");
            sleep(Duration::from_millis(random.below(300))).await;
            process.signal("CONT");
        }
    }
    one.signal("STOP");
    sending.await.unwrap();
    all_end(&client).await;
    let ended = everything(&client).await.len();
    one.signal("CONT");
    // It goes on with what it was at, and learns that all of it is done.
    let client_of_first = first.client();
    eventually(PATIENCE, || async {
        let head = client.events().info().await.ok()?.head_position;
        let read = Some(ReadContext { min_position: head, ..Default::default() });
        let request = ListSagasRequest { read, open: true, ..Default::default() };
        client_of_first.sagas().list(request).await.ok()?.sagas.is_empty().then_some(())
    })
    .await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(everything(&client).await.len(), ended, "seed {seed}");
    check(&client, &everything(&client).await).await;
}
