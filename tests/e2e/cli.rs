//! The client commands of the binary, and the examples of the Rust client, against a running
//! `daybook dev`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use daybook_testing::{Daybook, Ports, TempDir, tempdir};
use serde_json::{Value, json};

use crate::common::PATIENCE;

#[allow(dead_code)]
#[path = "../../clients/rust/examples/first_steps.rs"]
mod first_steps;
#[allow(dead_code)]
#[path = "../../clients/rust/examples/follow_events.rs"]
mod follow_events;

/// The program.
pub const BINARY: &str = env!("CARGO_BIN_EXE_daybook");

/// A running server and the command line that is pointed at it.
pub struct Bench {
    ports: Ports,
    _server: Option<(Daybook, TempDir)>,
}

/// How a command ended, and what it said.
pub struct Outcome {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Bench {
    /// Starts a server.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with these flags.
    pub fn start_with(flags: &[&str]) -> Self {
        let data = tempdir().unwrap();
        let ports = Ports::free();
        let server = Daybook::start(BINARY, "dev", data.path(), ports, flags);
        Self { ports, _server: Some((server, data)) }
    }

    /// The command line alone, pointed at servers that run already.
    pub fn at(ports: Ports) -> Self {
        Self { ports, _server: None }
    }

    /// The command, with plenty of time for a slow machine.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(args);
        if args.first() != Some(&"completions") {
            command.args(["--timeout", "120s"]);
        }
        command
            .env("DAYBOOK_WAIT", "30s")
            .env("DAYBOOK_COMMAND_URL", self.ports.command_url())
            .env("DAYBOOK_QUERY_URL", self.ports.query_url())
            .env("DAYBOOK_SAGA_URL", self.ports.saga_url())
            .env("DAYBOOK_HTTP_URL", self.ports.http_url())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// A command, however it ends.
    pub fn run(&self, args: &[&str]) -> Outcome {
        outcome(self.command(args))
    }

    /// Waits until a list has so many entries.
    #[track_caller]
    fn until_listed(&self, args: &[&str], entries: &str, number: usize) {
        let start = Instant::now();
        loop {
            let list = self.json(args);
            let found = list[entries].as_array().map_or(0, Vec::len);
            if found == number {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{args:?}: {found} of {number}: {list}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn run_with_input(&self, args: &[&str], input: &str) -> Outcome {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        finished(child.wait_with_output().unwrap())
    }

    /// A command that must succeed, with its answer as JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        let outcome = self.run(&args);
        assert_eq!(outcome.code, 0, "{args:?}: {}", outcome.err);
        serde_json::from_str(&outcome.out).unwrap_or_else(|e| panic!("{e}: {}", outcome.out))
    }

    /// A command that must succeed, with its answer as it is.
    pub fn text(&self, args: &[&str]) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.code, 0, "{args:?}: {}", outcome.err);
        outcome.out
    }
}

fn outcome(mut command: Command) -> Outcome {
    finished(command.output().unwrap())
}

fn finished(output: std::process::Output) -> Outcome {
    Outcome {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The position of a receipt, for the flag that waits for it.
fn position(receipt: &Value) -> String {
    receipt["position"].as_str().unwrap().to_owned()
}

fn usd(units: &str, nanos: i64) -> Value {
    match nanos {
        0 => json!({"currencyCode": "USD", "units": units}),
        _ => json!({"currencyCode": "USD", "units": units, "nanos": nanos}),
    }
}

#[test]
fn an_account_lives_through_the_account_commands() {
    let bench = Bench::start();
    let opened = bench.json(&["account", "open", "Ada Lovelace", "100.00", "USD", "--id", "ada"]);
    assert_eq!((&opened["aggregateId"], &opened["version"]), (&json!("ada"), &json!("1")));
    bench.json(&[
        "account",
        "deposit",
        "ada",
        "2500",
        "-d",
        "Salary March",
        "--method",
        "transfer",
    ]);
    let withdrawn =
        bench.json(&["account", "withdraw", "ada", "12.34", "USD", "--expected-version", "2"]);
    let at = position(&withdrawn);

    let shown = bench.json(&["account", "show", "ada", "--min-position", &at]);
    assert_eq!(shown["account"]["balance"], usd("2587", 660_000_000));
    assert_eq!(shown["account"]["status"], "ACCOUNT_STATUS_OPEN");
    let table = bench.text(&["account", "show", "ada", "--min-position", &at]);
    assert!(table.contains("Ada Lovelace") && table.contains("2587.66 USD"), "{table}");

    let history = bench.json(&["account", "history", "ada", "--min-position", &at]);
    let kinds: Vec<_> =
        history["transactions"].as_array().unwrap().iter().map(|t| t["kind"].clone()).collect();
    let expected = ["WITHDRAWAL", "DEPOSIT", "OPENING"].map(|k| format!("TRANSACTION_KIND_{k}"));
    assert_eq!(kinds, expected);
    let deposits =
        bench.json(&["account", "history", "ada", "--kind", "deposit", "--min-position", &at]);
    assert_eq!(deposits["transactions"][0]["description"], "Salary March");
    assert_eq!(deposits["transactions"].as_array().unwrap().len(), 1);

    let today = bench.json(&["account", "summary", "--min-position", &at]);
    assert_eq!(today["days"][0]["movements"]["depositTotal"], usd("2600", 0));
    let year = bench.json(&["account", "totals", "--min-position", &at]);
    assert_eq!(year["totals"][0]["withdrawalTotal"], usd("12", 340_000_000));
    assert_eq!(year["totals"][0]["accountsOpened"], "1");

    let refused = bench.run(&["account", "close", "ada"]);
    assert_eq!(refused.code, 3);
    assert!(refused.err.contains("BALANCE_NOT_ZERO"), "{}", refused.err);
    bench.json(&["account", "withdraw", "ada", "2587.66"]);
    let closed = bench.json(&["account", "close", "ada", "--reason", "moved away"]);
    let at = position(&closed);
    let listed =
        bench.json(&["account", "list", "--status", "closed", "--min-position", &at, "--all"]);
    assert_eq!(listed["accounts"][0]["accountId"], "ada");
}

#[test]
fn pages_are_gone_through_with_the_command_that_is_offered() {
    let bench = Bench::start();
    let mut at = String::new();
    for owner in ["Ada", "Ben", "Carla"] {
        let id = owner.to_lowercase();
        at = position(&bench.json(&["account", "open", owner, "--id", &id]));
    }
    let first = bench.run(&["account", "list", "--page-size", "2", "--min-position", &at]);
    assert!(first.out.contains("Ben") && !first.out.contains("Carla"), "{}", first.out);
    let token = first.err.split("--page-token ").nth(1).unwrap();
    let token = token.split_whitespace().next().unwrap();
    let second = bench.text(&["account", "list", "--page-size", "2", "--page-token", token]);
    assert!(second.contains("Carla") && !second.contains("Ben"), "{second}");
    let all = bench.json(&["account", "list", "--all"]);
    assert_eq!(all["accounts"].as_array().unwrap().len(), 3);
}

#[test]
fn every_kind_of_failure_has_its_exit_code_and_says_what_next() {
    let bench = Bench::start();
    bench.json(&["account", "open", "Ada", "10", "--id", "ada"]);
    let cases: [(&[&str], i32, &str, &str); 12] = [
        (&["account", "deposit", "nobody", "5"], 3, "ACCOUNT_NOT_FOUND", "account list"),
        (&["account", "open", "Ada", "--id", "ada"], 3, "ACCOUNT_ALREADY_OPEN", "show ada"),
        (&["account", "withdraw", "ada", "50"], 3, "INSUFFICIENT_FUNDS", "show ada"),
        (&["account", "deposit", "ada", "5", "EUR"], 3, "WRONG_CURRENCY", "show ada"),
        (&["account", "deposit", "ada", "-5"], 3, "AMOUNT_NOT_POSITIVE", "above zero"),
        (
            &["account", "deposit", "ada", "5", "--expected-version", "7"],
            3,
            "VERSION_CONFLICT",
            "--expected-version",
        ),
        (&["account", "deposit", "ada", "0.001"], 4, "smallest amount, 0.01 USD", "12.34 USD"),
        (&["account", "deposit", "no spaces", "5"], 4, "account_id", "--help"),
        (&["events", "show", "99"], 3, "EVENT_NOT_FOUND", "events tail"),
        (&["projection", "show", "nothing"], 3, "PROJECTION_NOT_FOUND", "projection list"),
        (&["account", "list", "--page-token", "xyz"], 4, "INVALID_PAGE_TOKEN", "--page-token"),
        (&["account", "deposit"], 2, "required", "--help"),
    ];
    for (args, code, why, next) in cases {
        let outcome = bench.run(args);
        assert_eq!(outcome.code, code, "{args:?}: {}", outcome.err);
        assert_eq!(outcome.out, "", "{args:?}");
        assert!(outcome.err.contains(why) && outcome.err.contains(next), "{}", outcome.err);
    }
}

#[test]
fn a_server_that_is_not_there_is_named_and_the_errors_of_programs_are_json() {
    let args = ["account", "deposit", "ada", "5", "-o", "json", "--command-url"];
    let mut command = Command::new(BINARY);
    command.args(args).arg(Ports::free().command_url());
    let outcome = outcome(command);
    assert_eq!(outcome.code, 5);
    let error: Value = serde_json::from_str(&outcome.err).unwrap();
    assert_eq!(error["reason"], "UNREACHABLE");
    assert_eq!(error["exitCode"], 5);
    let next = error["next"].to_string();
    assert!(next.contains("daybook dev") && next.contains("--request-id"), "{next}");
}

#[test]
fn a_repeated_command_has_one_effect() {
    let bench = Bench::start();
    bench.json(&["account", "open", "Ada", "--id", "ada"]);
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let deposit = ["account", "deposit", "ada", "5", "--request-id", id];
    let first = bench.json(&deposit);
    let second = bench.json(&deposit);
    assert_eq!(second["replayed"], true);
    assert_eq!(second["position"], first["position"]);
    let other = bench.run(&["account", "deposit", "ada", "6", "--request-id", id]);
    assert_eq!(other.code, 3);
    assert!(other.err.contains("REQUEST_ID_REUSED"), "{}", other.err);
}

#[test]
fn events_are_shown_read_appended_and_followed() {
    let bench = Bench::start();
    let opened = bench.json(&["account", "open", "Ada", "10", "--id", "ada", "--actor", "teller"]);
    bench.json(&["account", "deposit", "ada", "5", "-d", "Salary"]);

    let by_position = bench.json(&["events", "show", "1"]);
    assert_eq!(by_position["event"]["@type"], "type.googleapis.com/bank.v1.AccountOpened");
    assert_eq!(by_position["event"]["ownerName"], "Ada");
    assert_eq!(by_position["metadata"]["actor"], "teller");
    let id = opened["eventIds"][0].as_str().unwrap();
    assert_eq!(bench.json(&["events", "show", id]), by_position);

    let read = bench.text(&["events", "read", "bank.account-ada", "-o", "json"]);
    let events: Vec<Value> = read.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let names: Vec<_> = events.iter().map(|event| event["eventName"].clone()).collect();
    assert_eq!(names, ["AccountOpened", "MoneyDeposited"]);
    let last = bench.text(&["events", "read", "bank.account-ada", "--backward", "--limit", "1"]);
    assert!(last.contains("amount=5.00 USD description=Salary"), "{last}");

    let note = r#"{"text": "buy milk"}"#;
    bench.json(&["events", "append", "notes-today", "NoteTaken", note]);
    let wrong = bench.run(&["events", "append", "notes-today", "NoteTaken", "{milk"]);
    assert_eq!(wrong.code, 4, "{}", wrong.err);
    let owned = bench.run(&["events", "append", "bank.account-ada", "MoneyDeposited", note]);
    assert_eq!(owned.code, 3, "{}", owned.err);
    let notes = bench.text(&["events", "read", "--aggregate", "notes"]);
    assert!(notes.contains("NoteTaken") && notes.contains("buy milk"), "{notes}");

    let tail = bench.text(&["events", "tail", "--last", "2", "--no-follow"]);
    let shown: Vec<_> = tail.lines().collect();
    assert_eq!(shown.len(), 2, "{tail}");
    assert!(shown[0].contains("MoneyDeposited") && shown[1].contains("NoteTaken"), "{tail}");
}

#[test]
fn a_tail_follows_what_comes() {
    let bench = Bench::start();
    bench.json(&["account", "open", "Ada", "--id", "ada"]);
    let mut tail = bench.command(&["events", "tail", "-o", "json"]).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let mut next = || -> Value {
        serde_json::from_str(&lines.next().expect("the tail goes on").unwrap()).unwrap()
    };
    assert_eq!(next()["eventName"], "AccountOpened");
    bench.json(&["account", "deposit", "ada", "5"]);
    assert_eq!(next()["eventName"], "MoneyDeposited");
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
fn any_rpc_can_be_called_with_json() {
    let bench = Bench::start();
    let methods = bench.text(&["call"]);
    for method in [
        "bank.v1.CommandService/Deposit",
        "bank.v1.QueryService/GetAccount",
        "daybook.v1.EventLogService/Subscribe",
        "daybook.v1.ProjectionService/ListProjections",
    ] {
        assert!(methods.contains(method), "{method} is not in {methods}");
    }

    let open = r#"{"accountId": "ada", "ownerName": "Ada"}"#;
    let receipt = bench.json(&["call", "bank.v1.CommandService/OpenAccount", open]);
    assert_eq!(receipt["aggregateId"], "ada");
    let deposit = r#"{"command": {"@type": "type.googleapis.com/bank.v1.DepositRequest",
        "accountId": "ada", "amount": {"currencyCode": "USD", "units": "5"}}}"#;
    let receipt = bench.json(&["call", "daybook.v1.CommandService/Execute", deposit]);
    let query =
        format!(r#"{{"accountId": "ada", "read": {{"minPosition": {}}}}}"#, receipt["position"]);
    let answer = bench.run_with_input(&["call", "bank.v1.QueryService/GetAccount", "-"], &query);
    let answer: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(answer["account"]["balance"], usd("5", 0));

    let streamed = bench.run_with_input(
        &["call", "daybook.v1.CommandService/ExecuteStream", "-"],
        &format!("{deposit}\n{deposit}\n"),
    );
    assert_eq!(streamed.out.lines().count(), 2, "{}{}", streamed.out, streamed.err);
    let events = bench.text(&["call", "/daybook.v1.EventLogService/ReadAll", r#"{"limit": 1}"#]);
    let batch: Value = serde_json::from_str(&events).unwrap();
    assert_eq!(batch["events"][0]["event"]["ownerName"], "Ada");

    let refused = bench.run(&["call", "bank.v1.CommandService/OpenAccount", open]);
    assert_eq!(refused.code, 3, "{}", refused.err);
    assert!(refused.err.contains("daybook account show ada"), "{}", refused.err);
    let unknown = bench.run(&["call", "bank.v1.CommandService/Rob", "{}"]);
    assert_eq!(unknown.code, 4, "{}", unknown.err);
    assert!(unknown.err.contains("CloseAccount"), "{}", unknown.err);
    let malformed = bench.run(&["call", "bank.v1.CommandService/OpenAccount", r#"{"owner": 1}"#]);
    assert_eq!(malformed.code, 4, "{}", malformed.err);
}

#[test]
fn projections_are_seen_and_steered() {
    let bench = Bench::start();
    let opened = bench.json(&["account", "open", "Ada", "10", "--id", "ada"]);
    bench.json(&["account", "show", "ada", "--min-position", &position(&opened)]);
    let list = bench.json(&["projection", "list"]);
    let names: Vec<_> =
        list["projections"].as_array().unwrap().iter().map(|p| p["name"].clone()).collect();
    for name in ["account_balance", "account_transactions", "daily_summary"] {
        assert!(names.contains(&name.into()), "{names:?}");
    }

    let paused = bench.json(&["projection", "pause", "account_balance"]);
    assert_eq!(paused["state"], "PROJECTION_STATE_PAUSED");
    let deposited = bench.json(&["account", "deposit", "ada", "5"]);
    let at = position(&deposited);
    let behind = bench.run(&["account", "show", "ada", "--min-position", &at, "--wait", "100ms"]);
    assert_eq!(behind.code, 5, "{}", behind.err);
    assert!(behind.err.contains("PROJECTION_LAGGING"), "{}", behind.err);
    let stale = bench.json(&["account", "show", "ada", "--stale"]);
    assert_eq!(stale["account"]["balance"], usd("10", 0));
    let unwell = bench.run(&["doctor"]);
    assert_eq!(unwell.code, 1, "{}", unwell.out);
    assert!(unwell.out.contains("daybook projection resume account_balance"), "{}", unwell.out);
    bench.json(&["projection", "resume", "account_balance"]);
    let shown = bench.json(&["account", "show", "ada", "--min-position", &at]);
    assert_eq!(shown["account"]["balance"], usd("15", 0));

    // The sagas' own, in the other service.
    bench.json(&["account", "open", "Bob", "10", "--id", "bob"]);
    bench.text(&["transfer", "send", "ada", "bob", "1", "--id", "rent", "--watch"]);
    bench.json(&["projection", "pause", "sagas"]);
    let at = position(&bench.json(&["account", "deposit", "ada", "5"]));
    for args in [["saga", "list"].as_slice(), &["saga", "show", "bank.transfer-rent"]] {
        let behind = bench.run(&[args, &["--min-position", &at, "--wait", "100ms"]].concat());
        assert_eq!(behind.code, 5, "{}", behind.err);
        assert!(behind.err.contains("daybook projection resume sagas"), "{}", behind.err);
    }
    let stale = bench.json(&["saga", "list", "--stale"]);
    assert_eq!(stale["sagas"][0]["stream"], "bank.transfer-rent");
    bench.json(&["projection", "resume", "sagas"]);
    bench.json(&["saga", "list", "--min-position", &at]);

    let rebuilt = bench.json(&["projection", "rebuild", "account_balance"]);
    assert_eq!(rebuilt["stage"], "REBUILD_STAGE_DONE");
    let report = &rebuilt["report"];
    assert_eq!((&report["compared"], &report["unchangedRows"]), (&json!(true), &json!("2")));
    assert_eq!(report.get("changedRows"), None);
    let empty = bench.text(&["projection", "quarantine", "account_balance"]);
    assert!(empty.contains("nothing is in quarantine"), "{empty}");
    let nothing = bench.run(&["projection", "skip", "account_balance", "7"]);
    assert_eq!(nothing.code, 3, "{}", nothing.err);
}

#[test]
fn the_demo_fills_the_bank_and_the_shop_once() {
    the_demo_ends_well(&Bench::start());
}

/// Plays a small demo, twice, and looks at what is left when the sagas have done their part.
pub fn the_demo_ends_well(bench: &Bench) {
    let demo = ["demo", "--customers", "40", "--movements", "600", "--seed", "5"];
    let first = bench.json(&demo);
    assert_eq!(first["accountsOpened"], 40);
    assert_eq!(first["replayed"], 0);
    let movements =
        ["deposits", "withdrawals", "refused"].map(|kind| first[kind].as_u64().unwrap());
    assert!(movements.iter().sum::<u64>() >= 600, "{first}");

    let at = first["position"].to_string();
    let all = bench.json(&["account", "list", "--all", "--min-position", &at]);
    assert_eq!(all["accounts"].as_array().unwrap().len(), 40);
    let someone = first["account"].as_str().unwrap();
    let history = bench.text(&["account", "history", someone, "--min-position", &at]);
    assert!(history.contains("Salary March"), "{history}");

    assert_eq!(first["usersRegistered"], 40);
    let number = |kind: &str| first[kind].as_u64().unwrap() as usize;
    let (submitted, cancelled) = (number("ordersSubmitted"), number("ordersCancelled"));
    let (shipped, transfers) = (number("ordersShipped"), number("transfers"));
    assert!(shipped > 0 && cancelled > 0 && transfers > 0, "{first}");
    assert_eq!((number("ordersPaid"), shipped), (submitted, submitted.div_ceil(2)));
    let orders = bench.json(&["order", "list", "--user", someone]);
    assert_eq!(orders["orders"].as_array().map(Vec::len), Some(1), "{orders}");
    // The sagas are at work; in the end everything is paid, and nothing was short.
    let paid = ["order", "list", "--status", "paid", "--all"];
    bench.until_listed(&paid, "orders", submitted - shipped);
    bench.until_listed(&["order", "list", "--status", "cancelled"], "orders", cancelled);
    let completed = ["transfer", "list", "--status", "completed", "--all"];
    bench.until_listed(&completed, "transfers", transfers);
    bench.until_listed(&["saga", "list", "--open"], "sagas", 0);
    let accounts = bench.json(&["account", "list", "--all", "--wait", "30s"]);
    for account in accounts["accounts"].as_array().unwrap() {
        for pending in ["pendingIn", "pendingOut"] {
            let money = &account[pending];
            assert!(money.get("units").is_none() && money.get("nanos").is_none(), "{account}");
        }
    }
    // A paid order can be shipped, and its goods leave with it.
    let paid = bench.json(&["order", "list", "--status", "paid"]);
    let id = paid["orders"][0]["orderId"].as_str().unwrap();
    bench.json(&["order", "ship", id]);
    let shipments = ["saga", "list", "--kind", "orders.shipment", "--status", "completed"];
    bench.until_listed(&shipments, "sagas", shipped + 1);
    bench.until_listed(&["order", "list", "--status", "shipped"], "orders", shipped + 1);
    bench.until_listed(&["stock", "low"], "stocks", 6);
    bench.until_listed(&["product", "search", "leaves"], "products", 2);
    bench.until_listed(&["user", "list", "--all"], "users", 40);

    let second = bench.json(&demo);
    assert_eq!(second["position"], first["position"]);
    for kind in ["deposits", "transfers", "products", "ordersSubmitted", "usersRegistered"] {
        assert_eq!(second[kind], first[kind]);
    }
    assert!(second["replayed"].as_u64().unwrap() > 600, "{second}");
    assert!(bench.text(&demo).contains("Try next:"));
}

#[test]
fn a_well_daybook_passes_the_doctor_and_the_health_check() {
    let bench = Bench::start();
    let doctor = bench.text(&["doctor"]);
    assert!(doctor.contains("✓ command service"), "{doctor}");
    assert!(doctor.contains("✓ contract") && !doctor.contains('✗'), "{doctor}");
    let checks = bench.json(&["doctor"]);
    let all_ok = checks["checks"].as_array().unwrap().iter().all(|check| check["ok"] == true);
    assert!(all_ok, "{checks}");

    let url = format!("{}/readyz", bench.ports.http_url());
    assert_eq!(bench.run(&["health", "--url", &url]).code, 0);
    let nowhere = format!("{}/readyz", Ports::free().http_url());
    assert_eq!(bench.run(&["health", "--url", &nowhere]).code, 1);
}

#[test]
fn completions_are_printed_for_the_whole_binary() {
    for shell in ["bash", "zsh", "fish"] {
        let mut command = Command::new(BINARY);
        command.args(["completions", shell]);
        let script = outcome(command);
        assert_eq!(script.code, 0, "{}", script.err);
        assert!(script.out.contains("dev") && script.out.contains("account"), "{shell}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_client_run() {
    let bench = Bench::start();
    let ports = bench.ports;
    let said = first_steps::run(&ports.command_url(), &ports.query_url()).await.unwrap();
    assert!(said.contains("has 2587.66 USD after 3 transactions"), "{said}");
    let lines = std::sync::Mutex::new(Vec::new());
    follow_events::run(&ports.command_url(), 3, |line| lines.lock().unwrap().push(line))
        .await
        .unwrap();
    let lines = lines.into_inner().unwrap();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].ends_with("v1 AccountOpened"), "{lines:?}");
}
