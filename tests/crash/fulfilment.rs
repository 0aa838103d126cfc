//! Orders on their way while the processes that carry them are killed at every step, and while a
//! step has to wait.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use daybook_client::Daybook as Client;
use daybook_contract::daybook::v1::saga_service_client::SagaServiceClient;
use daybook_contract::daybook::v1::{
    GetSagaRequest, ReadContext, RetrySagaRequest, Saga, SagaStatus, SagaStep,
};
use daybook_contract::orders::v1::{OrderStatus, StartFulfilmentRequest};
use daybook_testing::{Broker, Daybook as Process, eventually, http_get, unique};
use futures::StreamExt;
use tokio::time::sleep;

use crate::common::{PATIENCE, Site, channel, everything, head, over_kafka, usd};
use crate::gate::Gate;
use crate::ledger::Ledger;
use crate::poison::daybook;

/// A shop with two products at 10.00, twenty pieces of each, Ada with 100.00, and Bob with 5.00.
async fn shop(client: &Client) {
    client.register_user("ada", "ada@example.org").user_id("ada").await.unwrap();
    for (owner, balance) in [("ada", 10_000), ("bob", 500)] {
        let open = client.open_account(owner).account_id(owner);
        open.initial_balance(usd(balance)).await.unwrap();
    }
    for product in ["ball", "cup"] {
        client.create_product(product, usd(1_000)).product_id(product).await.unwrap();
        client.receive_stock(product, 20).await.unwrap();
    }
}

/// Submits an order of so many balls and cups.
async fn order(client: &Client, id: &str, account: &str, (balls, cups): (u64, u64), seconds: u32) {
    client.create_order("ada").order_id(id).await.unwrap();
    client.add_item(id, "ball", balls).await.unwrap();
    client.add_item(id, "cup", cups).await.unwrap();
    client.submit_order(id, account).fulfil_within_seconds(seconds).await.unwrap();
}

/// Starts a fulfilment, as a saga process does that dies after its first command.
async fn begin(client: &Client, id: &str) {
    let start = StartFulfilmentRequest { order_id: id.to_owned(), ..Default::default() };
    client.command(start).await.unwrap();
}

/// Orders that go every way there is: to the end, without the goods, without the money, cancelled
/// by the customer when it is too late for the money to stay, and beyond their deadline.
async fn orders(client: &Client) -> BTreeSet<String> {
    order(client, "good", "ada", (2, 1), 0).await;
    order(client, "no-stock", "ada", (1, 99), 0).await;
    order(client, "no-money", "bob", (1, 1), 0).await;
    order(client, "cancelled", "ada", (1, 1), 0).await;
    order(client, "late", "ada", (1, 1), 1).await;
    for id in ["cancelled", "late"] {
        begin(client, id).await;
    }
    client.cancel_order("cancelled").await.unwrap();
    sleep(Duration::from_secs(1)).await;
    ["good", "no-stock", "no-money", "cancelled", "late"].map(str::to_owned).into()
}

/// What the steps of each order have done, in order.
async fn effects(client: &Client) -> BTreeMap<String, Vec<String>> {
    let mut effects = BTreeMap::<String, Vec<String>>::new();
    for event in everything(client).await {
        let metadata = event.metadata.clone().unwrap_or_default();
        if metadata.actor == "saga" && event.aggregate_type != "orders.fulfilment" {
            let effect = format!("{} {}", event.event_name, event.aggregate_id);
            effects.entry(metadata.correlation_id).or_default().push(effect);
        }
    }
    effects
}

/// The orders whose sagas of this kind have ended.
async fn ended_of(client: &Client, kind: &str) -> BTreeSet<String> {
    let ends = ["FulfilmentCompleted", "FulfilmentUndone"];
    let mut open = BTreeMap::<String, u64>::new();
    let mut ended = BTreeSet::new();
    for event in everything(client).await {
        let id = event.aggregate_id.clone();
        if event.aggregate_type != kind {
            continue;
        }
        // A shipment ends with the answer for the last of its two items.
        let answers = open.entry(id.clone()).or_default();
        *answers +=
            u64::from(["ItemShipped", "ItemNotShipped"].contains(&event.event_name.as_str()));
        if ends.contains(&event.event_name.as_str()) || *answers == 2 {
            ended.insert(id);
        }
    }
    ended
}

/// The orders whose fulfilments have ended.
async fn ended(client: &Client) -> BTreeSet<String> {
    ended_of(client, "orders.fulfilment").await
}

/// The processes of a shop, of which the sagas send their commands through a gate.
struct Processes<'a> {
    site: Site,
    queries: Site,
    sagas: Site,
    gate: Gate,
    flags: &'a [&'a str],
    running: BTreeMap<&'static str, Process>,
}

impl<'a> Processes<'a> {
    /// Starts all of them but the sagas.
    async fn start(flags: &'a [&'a str]) -> Self {
        let site = Site::new();
        let gate = Gate::before(site.ports).await;
        let queries = Site { ports: site.ports.beside(), ..Site::new() };
        let sagas = Site { ports: gate.ports, ..Site::new() };
        let mut all = Self { site, queries, sagas, gate, flags, running: BTreeMap::new() };
        for mode in ["command", "query"] {
            all.run(mode);
        }
        all
    }

    fn run(&mut self, mode: &'static str) {
        let process = match mode {
            "command" => self.site.start(mode, self.flags),
            "query" => self.queries.start(mode, self.flags),
            _ => self.sagas.start(mode, self.flags),
        };
        self.running.insert(mode, process);
    }

    /// Kills these processes at every step of every saga of this kind, until those of all these
    /// orders have ended, and says how often.
    async fn killed_at_every_step(
        &mut self,
        killed: &[&'static str],
        kind: &str,
        all: &BTreeSet<String>,
    ) -> usize {
        let (client, steering) = (self.site.client(), self.sagas.client());
        let mut kills = 0;
        loop {
            let stopped = || async {
                let ended = ended_of(&client, kind).await;
                let open: BTreeSet<_> = all.difference(&ended).cloned().collect();
                self.gate.stops(&open).then_some(open.is_empty())
            };
            if eventually(PATIENCE, stopped).await {
                return kills;
            }
            for mode in killed {
                self.running.get_mut(mode).unwrap().kill();
            }
            // A saga process that lives is let go when there is somebody to go to.
            if killed.contains(&"saga") {
                self.gate.release();
            }
            for mode in killed {
                self.run(mode);
            }
            if !killed.contains(&"saga") {
                self.gate.release();
            }
            // Who lives tries again in its own time: at once is soon enough for a test.
            for id in all {
                let _ = steering.sagas().retry(format!("{kind}-{id}")).await;
            }
            kills += 1;
        }
    }
}

/// Kills these processes at every step of every order: before its command arrives, or after it had
/// its effect and before anybody is told.
async fn killed_at_every_step(killed: &[&'static str], flags: &[&str]) {
    let mut processes = Processes::start(flags).await;
    let client = processes.site.client();
    shop(&client).await;
    let all = orders(&client).await;
    processes.gate.stop_at_each_step();
    processes.run("saga");
    let kills = processes.killed_at_every_step(killed, "orders.fulfilment", &all).await;
    // Five orders of at least two steps each.
    assert!(kills >= 10, "only {kills} kills of {killed:?}");
    everything_happened_once(&client).await;
    let steering = processes.sagas.client();
    let status = async |id: &str| saga(&steering, id).await.0.status();
    assert_eq!(status("good").await, SagaStatus::Completed);
    for id in ["no-stock", "no-money", "cancelled", "late"] {
        assert_eq!(status(id).await, SagaStatus::Compensated, "{id}");
    }
}

/// What was done to the orders of [`orders`], once each and undone in reverse order; and what is
/// left of stock and money.
async fn everything_happened_once(client: &Client) {
    let effects = effects(client).await;
    let expected: BTreeMap<String, Vec<String>> = [
        (
            "good",
            &[
                "StockReserved ball",
                "StockReserved cup",
                "PaymentSent ada",
                "OrderPaid good",
                "PaymentSettled ada",
            ][..],
        ),
        (
            "no-stock",
            &["StockReserved ball", "ReservationReleased ball", "OrderCancelled no-stock"],
        ),
        (
            "no-money",
            &[
                "StockReserved ball",
                "StockReserved cup",
                "ReservationReleased cup",
                "ReservationReleased ball",
                "OrderCancelled no-money",
            ],
        ),
        (
            "cancelled",
            &[
                "StockReserved ball",
                "StockReserved cup",
                "PaymentSent ada",
                "PaymentRefunded ada",
                "ReservationReleased cup",
                "ReservationReleased ball",
            ],
        ),
        // Its deadline had passed before the answer to its first step came.
        ("late", &["StockReserved ball", "ReservationReleased ball", "OrderCancelled late"]),
    ]
    .map(|(id, effects)| (id.to_owned(), effects.iter().map(|&effect| effect.to_owned()).collect()))
    .into();
    assert_eq!(effects, expected);
    let ledger = Ledger::of(&everything(client).await);
    ledger.is_projected_by(client).await;
    assert_eq!((ledger.balance("ada"), ledger.balance("bob")), (7_000, 500));
    let position = head(client).await;
    for (product, reserved) in [("ball", 2), ("cup", 1)] {
        let query = client.get_stock(product).min_position(position).await;
        let stock = query.unwrap().stock.unwrap();
        assert_eq!((stock.on_hand, stock.reserved), (20, reserved), "{product}");
    }
    for id in ["good", "no-stock", "no-money", "cancelled", "late"] {
        let status = client.get_order(id).min_position(position).await;
        let status = status.unwrap().order.unwrap().status();
        let expected = match id {
            "good" => OrderStatus::Paid,
            _ => OrderStatus::Cancelled,
        };
        assert_eq!(status, expected, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_process_killed_at_every_step_has_each_effect_once() {
    killed_at_every_step(&["saga"], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn command_and_query_processes_killed_at_every_step_have_each_effect_once() {
    killed_at_every_step(&["command", "query"], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_killed_at_every_step_over_kafka_have_each_effect_once() {
    let broker = Broker::shared().await;
    let prefix = format!("{}-", unique("fulfilment"));
    let flags = over_kafka(broker, &prefix);
    killed_at_every_step(&["command", "saga"], &flags).await;
}

/// Two processes carry out the same orders. At every step one of them falls asleep, and the other goes
/// on with what it believed a step ago.
#[tokio::test(flavor = "multi_thread")]
async fn two_saga_processes_that_sleep_in_turn_have_each_effect_once() {
    let processes = Processes::start(&[]).await;
    let client = processes.site.client();
    shop(&client).await;
    let all = orders(&client).await;
    processes.gate.stop_at_each_step();
    let other = Site { ports: processes.gate.ports.beside(), ..Site::new() };
    let sites = [&processes.sagas, &other];
    let sagas = sites.map(|site| site.start("saga", &[]));
    let mut turns = 0;
    loop {
        let stopped = || async {
            let open: BTreeSet<_> = all.difference(&ended(&client).await).cloned().collect();
            processes.gate.stops(&open).then_some(open.is_empty())
        };
        if eventually(PATIENCE, stopped).await {
            break;
        }
        let (asleep, awake) = (turns % 2, (turns + 1) % 2);
        sagas[asleep].signal("STOP");
        sagas[awake].signal("CONT");
        processes.gate.release();
        let steering = sites[awake].client();
        for id in &all {
            let _ = steering.sagas().retry(format!("orders.fulfilment-{id}")).await;
        }
        turns += 1;
    }
    // The longest way has six steps.
    assert!(turns >= 6, "only {turns} turns");
    // Whoever sleeps wakes to nothing.
    let before = head(&client).await;
    sagas.iter().for_each(|process| process.signal("CONT"));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(head(&client).await, before);
    everything_happened_once(&client).await;
}

/// Two orders of two products each are shipped; each piece leaves the house once.
#[tokio::test(flavor = "multi_thread")]
async fn a_shipment_killed_at_every_step_takes_each_piece_once() {
    for killed in [&["saga"][..], &["command", "query"]] {
        let mut processes = Processes::start(&[]).await;
        let client = processes.site.client();
        shop(&client).await;
        processes.run("saga");
        let all: BTreeSet<String> = ["one", "two"].map(str::to_owned).into();
        for id in &all {
            order(&client, id, "ada", (2, 1), 0).await;
        }
        let fulfilled = || async { (ended(&client).await == all).then_some(()) };
        eventually(PATIENCE, fulfilled).await;
        processes.gate.stop_at_each_step();
        for id in &all {
            client.ship_order(id).tracking_id("parcel").await.unwrap();
        }
        let kills = processes.killed_at_every_step(killed, "orders.shipment", &all).await;
        // The start, and each of the two steps with its answer; the last answer may be the end.
        assert!(kills >= 4, "only {kills} kills of {killed:?}");
        let done = effects(&client).await;
        for id in &all {
            let steps = done[id].iter().filter(|effect| effect.starts_with("ReservationShipped"));
            assert_eq!(
                steps.collect::<Vec<_>>(),
                ["ReservationShipped ball", "ReservationShipped cup"]
            );
            let (saga, _) = get(&processes.sagas.client(), &format!("orders.shipment-{id}")).await;
            assert_eq!(saga.status(), SagaStatus::Completed);
        }
        let position = head(&client).await;
        for (product, left) in [("ball", 16), ("cup", 18)] {
            let query = client.get_stock(product).min_position(position).await;
            let stock = query.unwrap().stock.unwrap();
            assert_eq!((stock.on_hand, stock.reserved), (left, 0), "{product}");
        }
    }
}

/// Three processes share the sagas, and two of them die. The deadlines of their orders pass; then the
/// third undoes these orders too.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_while_its_process_is_down_is_kept_by_another() {
    const TAKE_OVER: Duration = Duration::from_secs(10);
    let broker = Broker::shared().await;
    let prefix = format!("{}-", unique("deadlines"));
    let flags = over_kafka(broker, &prefix);
    let site = Site::new();
    let beside = || Site { ports: site.ports.beside(), ..Site::new() };
    let queries = beside();
    let _processes = [site.start("command", &flags), queries.start("query", &flags)];
    let client = site.client();
    shop(&client).await;
    let sites = [(); 3].map(|()| beside());
    let mut sagas = Vec::new();
    for (instance, at) in ["0", "1", "2"].iter().zip(&sites) {
        let share = ["--saga-instances", "3", "--saga-instance", instance];
        sagas.push(at.start("saga", &[&flags[..], &share].concat()));
    }
    for process in &mut sagas[1..] {
        process.kill();
    }
    let all: BTreeSet<_> = (0..9).map(|n| format!("o{n}")).collect();
    for id in &all {
        order(&client, id, "ada", (1, 1), 4).await;
        begin(&client, id).await;
    }
    let all_end = || async { (ended(&client).await == all).then_some(()) };
    eventually(PATIENCE, all_end).await;
    let (mut started, mut taken_over) = (BTreeMap::new(), 0);
    for event in everything(&client).await {
        let time = SystemTime::try_from(event.recorded_time.unwrap()).unwrap();
        match event.event_name.as_str() {
            "FulfilmentStarted" => drop(started.insert(event.aggregate_id.clone(), time)),
            "FulfilmentUndone" => {
                let took = time.duration_since(started[&event.aggregate_id]).unwrap();
                taken_over += usize::from(took >= TAKE_OVER);
            }
            _ => {}
        }
    }
    assert!(taken_over >= 3, "only {taken_over} of nine were of those who died");
    let steering = sites[0].client();
    let mut kept = 0;
    for id in &all {
        let (saga, _) = saga(&steering, id).await;
        match saga.status() {
            SagaStatus::Completed => kept += 1,
            SagaStatus::Compensated => {
                assert_eq!(saga.refusal.unwrap().reason, "DEADLINE_PASSED", "{id}");
                let query = client.get_order(id).min_position(head(&client).await).await;
                assert_eq!(query.unwrap().order.unwrap().status(), OrderStatus::Cancelled, "{id}");
            }
            other => panic!("{id} is {other:?}"),
        }
    }
    let position = head(&client).await;
    let ada = client.get_account("ada").min_position(position).await.unwrap().account.unwrap();
    assert_eq!(ada.balance, Some(usd(10_000 - 2_000 * kept)));
    let ball = client.get_stock("ball").min_position(position).await.unwrap().stock.unwrap();
    assert_eq!(ball.reserved, kept as u64);
}

/// A fulfilment and its steps, as of now.
async fn saga(client: &Client, id: &str) -> (Saga, Vec<SagaStep>) {
    get(client, &format!("orders.fulfilment-{id}")).await
}

/// A saga and its steps, as of now.
pub async fn get(client: &Client, stream: &str) -> (Saga, Vec<SagaStep>) {
    let get = || async {
        let read = Some(ReadContext { min_position: head(client).await, ..Default::default() });
        let request = GetSagaRequest { read, stream: stream.to_owned() };
        let answer = client.sagas().get(request).await.ok()?;
        Some((answer.saga?, answer.steps))
    };
    eventually(PATIENCE, get).await
}

/// Waits until a step of a saga has been tried in vain, and answers with what happened.
async fn waits(client: &Client, stream: &str) -> String {
    let waits = || async {
        let (_, steps) = get(client, stream).await;
        let step = steps.into_iter().find(|step| step.failed_attempts > 0)?;
        assert_eq!(step.answer, None);
        Some(step.problem)
    };
    eventually(PATIENCE, waits).await
}

/// A shop whose sagas send their commands through a gate.
struct Gated {
    _processes: [Process; 2],
    _site: Site,
    sagas: Site,
    gate: Gate,
    client: Client,
}

impl Gated {
    async fn start() -> Self {
        let site = Site::new();
        let gate = Gate::before(site.ports).await;
        let sagas = Site { ports: gate.ports, ..Site::new() };
        let processes = [site.start("command", &[]), sagas.start("saga", &[])];
        let client = sagas.client();
        shop(&client).await;
        Self { _processes: processes, _site: site, sagas, gate, client }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_waits_is_seen_tried_again_and_undone_by_hand() {
    let shop = Gated::start().await;
    let Gated { gate, sagas, client, .. } = &shop;
    gate.close("inventory.v1.ReserveStockRequest");
    for id in ["later", "given-up"] {
        order(client, id, "ada", (1, 1), 0).await;
        let problem = waits(client, &format!("orders.fulfilment-{id}")).await;
        assert!(problem.contains("the gate is closed"), "{problem}");
    }
    let says = |args: &[&str], code: i32, part: &str| {
        let (actual, text) = daybook(sagas, args);
        assert!(actual == code && text.contains(part), "{args:?}: {actual} {text}");
    };
    let (later, given_up) = ("orders.fulfilment-later", "orders.fulfilment-given-up");
    says(&["saga", "show", later], 0, "the gate is closed");
    says(&["saga", "retry", later], 0, "1 steps have no answer yet");
    says(&["saga", "retry", later, "-o", "json"], 0, "\"steps\": 1");
    let (code, ready) = http_get(sagas.ports.http, "/readyz").unwrap();
    assert!(code == 200 && ready.contains("steps wait to be tried again"), "{code}: {ready}");

    // It may have had its effect: until that is known, nothing is undone.
    says(&["saga", "compensate", given_up, "--reason", "changed their mind"], 0, "version");
    let (saga, steps) = get(client, given_up).await;
    assert_eq!((saga.status(), saga.open_steps, steps.len()), (SagaStatus::Compensating, 1, 1));
    says(&["saga", "list", "--status", "compensating"], 0, given_up);
    gate.open();
    for stream in [later, given_up] {
        client.sagas().retry(stream).await.unwrap();
    }
    says(&["saga", "watch", later], 0, "FulfilmentCompleted");
    says(&["saga", "watch", given_up], 3, "changed their mind");
    let effects = effects(client).await;
    assert_eq!(
        effects["given-up"],
        ["StockReserved ball", "ReservationReleased ball", "OrderCancelled given-up"]
    );
    assert_eq!(effects["later"].last().unwrap(), "PaymentSettled ada");
    // Once more, it is as it was; and what is done is not undone.
    client.sagas().compensate(given_up, "again").await.unwrap();
    let late = client.sagas().compensate(later, "too late").await.unwrap_err();
    assert_eq!(late.reason(), "TOO_LATE_TO_CANCEL");

    // Nobody makes a step wait by using its request id for something else.
    let step = daybook_kernel::step_id("bank.transfer-taken", 1, 0);
    let taken = client.deposit("bob", usd(1)).request_id(&step).await.unwrap_err();
    assert_eq!(taken.reason(), "STEP_NOT_AWAITED");
}

/// Waits until a transfer from Ada to Bob has arrived.
async fn transfer(client: &Client, id: &str) {
    client.transfer("ada", "bob", usd(1)).transfer_id(id).await.unwrap();
    let arrives = || async {
        let (saga, _) = get(client, &format!("bank.transfer-{id}")).await;
        (saga.status() == SagaStatus::Completed).then_some(())
    };
    eventually(PATIENCE, arrives).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_without_an_answer_holds_up_nobody_else() {
    let shop = Gated::start().await;
    let Gated { gate, client, .. } = &shop;
    gate.silence("orders.v1.PayOrderRequest");
    order(client, "silent", "ada", (1, 1), 0).await;
    // One of them may wait behind the step until its deadline; then it goes alone.
    for n in 0..5 {
        transfer(client, &format!("t{n}")).await;
    }
    let (_, steps) = saga(client, "silent").await;
    let failed = steps.last().unwrap().failed_attempts;
    assert!(failed <= 2, "five transfers took as long as {failed} deadlines");
    let problem = waits(client, "orders.fulfilment-silent").await;
    assert!(problem.contains("DeadlineExceeded"), "{problem}");
    transfer(client, "later").await;
    gate.open();
    let ended = || async { ended(client).await.contains("silent").then_some(()) };
    eventually(PATIENCE, ended).await;
    let expected = ["PaymentSent ada", "OrderPaid silent", "PaymentSettled ada"];
    assert_eq!(effects(client).await["silent"][2..], expected);
}

/// Once a saga is taken up, it does not wait for its rows, on the way forward and back.
#[tokio::test(flavor = "multi_thread")]
async fn a_saga_is_carried_on_while_its_rows_stand_still() {
    let shop = Gated::start().await;
    let Gated { gate, client, .. } = &shop;
    gate.close("bank.v1.SendTransferRequest");
    let transfers =
        [("arrives", "bob", "TransferCompleted"), ("returns", "no", "TransferReturned")];
    for (id, to, _) in transfers {
        client.transfer("ada", to, usd(1)).transfer_id(id).await.unwrap();
        waits(client, &format!("bank.transfer-{id}")).await;
    }
    client.projections().pause("sagas").await.unwrap();
    gate.open();
    for (id, _, end) in transfers {
        let ends = || async {
            let all = everything(client).await;
            let mut ends = all.iter().filter(|event| event.event_name == end);
            ends.any(|event| event.aggregate_id == id).then_some(())
        };
        eventually(PATIENCE, ends).await;
        let stream = format!("bank.transfer-{id}");
        let query = GetSagaRequest { stream, ..Default::default() };
        let shown = client.sagas().get(query).await.unwrap();
        assert_eq!((shown.saga.unwrap().version, shown.steps.len()), (1, 1));
    }
    client.projections().resume("sagas").await.unwrap();
    let all = everything(client).await;
    for (id, ..) in transfers {
        let (saga, steps) = get(client, &format!("bank.transfer-{id}")).await;
        assert!(saga.ended_time.is_some() && saga.version == 4, "{saga:?}");
        // Each step says which event it follows from, whoever found out.
        let of_saga = all.iter().filter(|event| event.aggregate_id == id);
        let causes: Vec<_> = of_saga.take(3).map(|event| event.event_id.as_str()).collect();
        let shown: Vec<_> = steps.iter().map(|step| step.cause_event_id.as_str()).collect();
        assert_eq!(shown, causes);
        // What was refused has left no event.
        let metadata = all.iter().filter_map(|event| event.metadata.as_ref());
        let sent = metadata.filter(|it| it.actor == "saga" && it.correlation_id == id);
        let sent = sent.map(|it| it.causation_id.as_str()).collect::<BTreeSet<_>>();
        assert!(causes.iter().all(|cause| sent.contains(cause)), "{causes:?}: {sent:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_steps_that_fail_again_and_again_hold_up_nobody_else() {
    const FAILING: usize = 10_500;
    let site = Site::new();
    let gate = Gate::before(site.ports).await;
    let sagas = Site { ports: gate.ports, ..Site::new() };
    let _command = site.start("command", &[]);
    let client = sagas.client();
    shop(&client).await;
    gate.close("bank.v1.SendTransferRequest");
    futures::stream::iter(0..FAILING)
        .for_each_concurrent(64, |n| {
            let transfer = client.transfer("ada", "bob", usd(1)).transfer_id(format!("t{n}"));
            async { assert!(transfer.await.is_ok()) }
        })
        .await;
    let _saga = sagas.start("saga", &[]);
    // All of them were tried, more than are under way at once.
    let all_wait = || async {
        let (_, metrics) = http_get(sagas.ports.http, "/metrics")?;
        let line = metrics.lines().find_map(|l| l.strip_prefix("daybook_saga_steps_waiting "))?;
        (line.parse::<f64>().ok()? >= FAILING as f64).then_some(())
    };
    eventually(PATIENCE, all_wait).await;
    order(&client, "good", "ada", (1, 1), 0).await;
    let ended = || async { ended(&client).await.contains("good").then_some(()) };
    eventually(PATIENCE, ended).await;
}

/// What a person asks for is recorded as done by that person.
#[tokio::test(flavor = "multi_thread")]
async fn who_steers_a_saga_by_hand_is_named_in_the_log() {
    let shop = Gated::start().await;
    let Gated { gate, sagas, client, .. } = &shop;
    gate.close("inventory.v1.ReserveStockRequest");
    for id in ["given-up", "later"] {
        order(client, id, "ada", (1, 1), 0).await;
        waits(client, &format!("orders.fulfilment-{id}")).await;
    }
    let says = |args: &[&str]| {
        let (code, text) = daybook(sagas, &[args, &["--actor", "grace"]].concat());
        assert_eq!(code, 0, "{args:?}: {text}");
    };
    says(&["saga", "compensate", "orders.fulfilment-given-up", "--reason", "a mistake"]);
    // Long pauses by now: whoever comes first has been asked.
    sleep(Duration::from_secs(10)).await;
    gate.open();
    says(&["saga", "retry", "orders.fulfilment-later"]);
    let both = || async { (ended(client).await.len() == 2).then_some(()) };
    eventually(PATIENCE, both).await;
    let by = |name: &str, id: &str, log: &[daybook_client::StoredEvent]| -> Vec<String> {
        let of = |event: &&daybook_client::StoredEvent| {
            event.event_name == name && event.aggregate_id == id
        };
        let metadata = log.iter().filter(of).map(|event| event.metadata.clone().unwrap());
        metadata.map(|metadata| metadata.actor).collect()
    };
    let log = everything(client).await;
    assert_eq!(by("FulfilmentCancelled", "given-up", &log), ["grace"]);
    assert_eq!(by("OrderPaid", "later", &log), ["saga"], "nobody asked for this step");
    let of_later = |event: &daybook_client::StoredEvent| {
        let metadata = event.metadata.clone().unwrap();
        (event.event_name == "StockReserved" && metadata.correlation_id == "later")
            .then_some(metadata.actor)
    };
    assert_eq!(log.iter().filter_map(of_later).collect::<Vec<_>>(), ["grace", "saga"]);
    // A name that no command may have is refused here too.
    let mut request =
        tonic::Request::new(RetrySagaRequest { stream: "orders.fulfilment-later".into() });
    request.metadata_mut().insert("daybook-actor", "x".repeat(65).parse().unwrap());
    let mut steering = SagaServiceClient::new(channel(sagas.ports.saga_url()));
    let refused = steering.retry_saga(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
}
