//! `daybook stock` and `daybook order` against a running `daybook dev`.

use std::io::{BufRead, BufReader};
use std::process::Command;

use serde_json::{Value, json};

use crate::cli::{BINARY, Bench};

/// Whether each line of a table begins with these words, the header first.
#[track_caller]
fn assert_table(text: &str, begins: &[&[&str]]) {
    let lines: Vec<Vec<&str>> =
        text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), begins.len(), "{text}");
    for (line, begin) in lines.iter().zip(begins) {
        assert_eq!(&line[..begin.len()], *begin, "{text}");
    }
}

/// The value of a row of a table of names and values.
fn field<'t>(text: &'t str, name: &str) -> &'t str {
    let row = text.lines().find_map(|line| line.strip_prefix(name));
    row.unwrap_or_else(|| panic!("no {name} in {text}")).trim()
}

#[test]
fn stock_lives_through_the_stock_commands() {
    let bench = Bench::start();
    let received = bench.json(&["stock", "receive", "teapot", "20", "--reference", "note 7"]);
    assert_eq!((&received["aggregateId"], &received["version"]), (&json!("teapot"), &json!("1")));
    bench.json(&["stock", "threshold", "teapot", "12"]);
    let line = |number| ["--order", "17", "--line", number];
    let with = |words: &[&'static str], number| [words, &line(number)].concat();
    bench.json(&with(&["stock", "reserve", "teapot", "5"], "1"));
    let low = bench.json(&with(&["stock", "reserve", "teapot", "3"], "2"));
    assert_eq!(low["eventIds"].as_array().unwrap().len(), 2, "an alert comes with it");
    let again = bench.run(&with(&["stock", "reserve", "teapot", "3"], "2"));
    assert_eq!(again.code, 0);
    assert!(again.err.contains("nothing had to be recorded"), "{}", again.err);

    let shown = bench.text(&["stock", "show", "teapot"]);
    assert_eq!(field(&shown, "on hand"), "20");
    assert_eq!((field(&shown, "reserved"), field(&shown, "available")), ("8", "12"));
    assert!(field(&shown, "low  ").starts_with("yes, since 20"), "{shown}");
    assert_table(
        &bench.text(&["stock", "low"]),
        &[&["PRODUCT", "AVAILABLE", "LOW", "AT"], &["teapot", "12", "12", "20", "8"]],
    );

    bench.json(&with(&["stock", "ship", "teapot"], "1"));
    bench.json(&with(&["stock", "release", "teapot", "--reason", "cancelled"], "2"));
    bench.json(&["stock", "adjust", "teapot", "-1", "--reason", "broken"]);
    let answer = bench.json(&["stock", "movements", "teapot", "--all"]);
    let kinds: Vec<_> =
        answer["movements"].as_array().unwrap().iter().map(|m| m["kind"].clone()).collect();
    let kind = |kind: &str| json!(format!("MOVEMENT_KIND_{kind}"));
    let expected = ["DECREASE", "RELEASE", "SHIPMENT", "RESERVATION", "RESERVATION", "RECEIPT"];
    assert_eq!(kinds, expected.map(kind));
    let page = bench.run(&["stock", "movements", "teapot", "--page-size", "2"]);
    let header = ["RECORDED", "KIND", "PIECES", "ON", "HAND", "RESERVED", "ORDER"];
    assert_eq!(
        page.out.lines().next().unwrap().split_whitespace().take(7).collect::<Vec<_>>(),
        header
    );
    assert_eq!(page.out.lines().count(), 3);
    let (_, more) = page.err.split_once("more: daybook ").unwrap();
    let more: Vec<_> = more.split_whitespace().take_while(|word| !word.starts_with('(')).collect();
    assert!(more.starts_with(&["stock", "movements", "teapot", "--page-size", "2"]), "{more:?}");
    // What it says is what to type; the test adds the timeout by itself.
    let at = more.iter().position(|word| *word == "--timeout").unwrap();
    let next = bench.text(&[&more[..at], &more[at + 2..]].concat());
    assert_eq!(next.lines().count(), 3, "{next}");
    let releases = bench.json(&["stock", "movements", "teapot", "--kind", "release"]);
    assert_eq!(releases["movements"].as_array().unwrap().len(), 1);
    let low = bench.json(&["stock", "low"]);
    assert_eq!(low.get("stocks"), None, "{low}");
}

#[test]
fn a_refusal_of_the_shop_says_what_why_and_what_next() {
    let bench = Bench::start();
    bench.json(&["stock", "receive", "teapot", "2"]);
    let refused = bench.run(&["stock", "reserve", "teapot", "3", "--order", "17", "--line", "1"]);
    assert_eq!(refused.code, 3);
    assert!(refused.err.starts_with(
        "error: 2 pieces are available, fewer than the 3 asked for\n  why:  INSUFFICIENT_STOCK, "
    ), "{}", refused.err);
    assert!(refused.err.ends_with("next: daybook stock show teapot\n"), "{}", refused.err);
    let unknown = bench.run(&["stock", "show", "cup"]);
    assert_eq!(unknown.code, 3);
    assert!(unknown.err.contains("there is no stock of product cup"), "{}", unknown.err);
    let zero = bench.run(&["stock", "receive", "teapot", "0"]);
    assert_eq!(zero.code, 4, "{}", zero.err);
    assert!(zero.err.contains("quantity"), "{}", zero.err);
    let word = bench.run(&["stock", "receive", "teapot", "many"]);
    assert_eq!(word.code, 2);
    let no_line = bench.run(&["stock", "ship", "teapot", "--order", "17"]);
    assert_eq!(no_line.code, 2);

    let nobody = bench.run(&["order", "create", "nobody"]);
    assert_eq!(nobody.code, 3);
    assert!(nobody.err.contains("there is no user nobody"), "{}", nobody.err);
    let unknown = bench.run(&["order", "pay", "17", "-o", "json"]);
    assert_eq!(unknown.code, 3);
    let problem: Value = serde_json::from_str(&unknown.err).unwrap();
    assert_eq!(
        (&problem["reason"], &problem["code"]),
        (&json!("ORDER_NOT_FOUND"), &json!("NOT_FOUND"))
    );
    assert_eq!(problem["next"][0], "daybook order list");
}

/// Ada, and teapots at 19.99 USD.
fn shop() -> Bench {
    // The order is brought on its way by hand here.
    let bench = Bench::start_with(&["--sagas", "false"]);
    let user = json!({"user_id": "ada", "name": "Ada", "email": "ada@example.org"}).to_string();
    bench.text(&["call", "users.v1.CommandService/RegisterUser", &user]);
    let price = json!({"currency_code": "USD", "units": "19", "nanos": 990000000});
    let product = json!({"product_id": "teapot", "name": "Teapot", "price": price}).to_string();
    bench.text(&["call", "catalog.v1.CommandService/CreateProduct", &product]);
    bench
}

#[test]
fn an_order_lives_through_the_order_commands() {
    let bench = shop();
    let created = bench.json(&["order", "create", "ada", "--id", "17"]);
    assert_eq!((&created["aggregateId"], &created["version"]), (&json!("17"), &json!("1")));
    let empty = bench.run(&["order", "submit", "17", "adas-account"]);
    assert_eq!(empty.code, 3);
    assert!(empty.err.ends_with("next: daybook order add 17 PRODUCT\n"), "{}", empty.err);
    bench.json(&["order", "add", "17", "teapot", "2"]);
    bench.json(&["order", "add", "17", "teapot"]);
    bench.json(&["order", "remove", "17", "1"]);
    bench.json(&["order", "add", "17", "teapot", "3"]);

    // It is followed from the beginning to the end, while the rest happens.
    let mut watch = bench.command(&["order", "watch", "17"]).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || lines.next().map(|line| line.unwrap());
    assert!(next().unwrap().contains("OrderCreated"));
    for command in [
        &["order", "submit", "17", "adas-account"][..],
        &["order", "pay", "17", "--payment", "cash-1"],
        &["order", "ship", "17", "--tracking", "parcel-1"],
    ] {
        bench.json(command);
    }
    let mut rest = Vec::new();
    while let Some(line) = next() {
        rest.push(line.split_whitespace().nth(4).unwrap().to_owned());
    }
    let expected = [
        "ItemAdded",
        "ItemAdded",
        "ItemRemoved",
        "ItemAdded",
        "OrderSubmitted",
        "OrderPaid",
        "OrderShipped",
    ];
    assert_eq!(rest, expected);
    assert!(watch.wait().unwrap().success());

    let shown = bench.text(&["order", "show", "17"]);
    assert_eq!((field(&shown, "status"), field(&shown, "total")), ("shipped", "79.96 USD"));
    let items = shown.split_once("\n\n").unwrap().1;
    assert_table(
        items,
        &[
            &["LINE", "PRODUCT", "PIECES", "PRICE"],
            &["2", "teapot", "1", "19.99", "USD"],
            &["3", "teapot", "3", "19.99", "USD"],
        ],
    );

    bench.json(&["order", "create", "ada", "--id", "18"]);
    bench.json(&["order", "add", "18", "teapot", "1"]);
    bench.json(&["order", "cancel", "18", "--reason", "too late"]);
    assert_table(
        &bench.text(&["order", "list", "--user", "ada"]),
        &[
            &["ORDER", "USER", "STATUS", "ITEMS", "TOTAL", "CREATED"],
            &["18", "ada", "cancelled", "1", "19.99", "USD"],
            &["17", "ada", "shipped", "2", "79.96", "USD"],
        ],
    );
    let cancelled = bench.json(&["order", "list", "--status", "cancelled", "--all"]);
    assert_eq!(cancelled["orders"].as_array().unwrap().len(), 1);
    assert_table(
        &bench.text(&["order", "by-product", "teapot"]),
        &[
            &["ORDER", "LINE", "USER", "STATUS", "PIECES", "PRICE"],
            &["18", "1", "ada", "cancelled", "1"],
            &["17", "3", "ada", "shipped", "3"],
            &["17", "2", "ada", "shipped", "1"],
        ],
    );
    let submitted = bench.json(&["order", "show", "17"])["order"]["submittedTime"].clone();
    let day = &submitted.as_str().unwrap()[..10];
    let statistics = bench.json(&["order", "statistics", day, "--currency", "USD"]);
    assert_eq!(statistics["days"][0]["ordersSubmitted"], "1");
}

#[test]
fn whoever_watches_learns_from_the_exit_code_how_it_ended() {
    let bench = Bench::start();
    let user = json!({"user_id": "ada", "name": "Ada", "email": "ada@example.org"}).to_string();
    bench.text(&["call", "users.v1.CommandService/RegisterUser", &user]);
    bench.json(&["product", "create", "Teapot", "19.99", "--id", "teapot"]);
    bench.json(&["stock", "receive", "teapot", "5"]);
    for (account, money) in [("rich", "100"), ("poor", "1")] {
        bench.json(&["account", "open", "Ada", money, "--id", account]);
        bench.json(&["order", "create", "ada", "--id", account]);
        bench.json(&["order", "add", account, "teapot"]);
        bench.json(&["order", "submit", account, account]);
    }
    let paid = "orders.fulfilment-rich";
    assert_eq!(bench.run(&["saga", "watch", paid]).code, 0);
    bench.json(&["order", "ship", "rich"]);
    assert_eq!(bench.run(&["order", "watch", "rich"]).code, 0);
    // Whatever it is, its end that nobody wanted is a refusal with its reason.
    let unpaid = "orders.fulfilment-poor";
    for (watch, what) in [
        (&["saga", "watch", unpaid][..], "error: saga orders.fulfilment-poor did not complete\n"),
        (&["order", "watch", "poor"], "error: order poor was cancelled\n"),
        (
            &["transfer", "send", "rich", "nobody", "2", "--id", "t", "--watch"],
            "error: the money of transfer t did not arrive\n",
        ),
        (&["transfer", "watch", "t"], "error: the money of transfer t did not arrive\n"),
    ] {
        let outcome = bench.run(watch);
        assert_eq!(outcome.code, 3, "{watch:?}: {}{}", outcome.out, outcome.err);
        assert!(outcome.err.starts_with(what), "{}", outcome.err);
        assert!(outcome.err.contains("\n  why:  "), "{}", outcome.err);
        assert!(outcome.err.contains("\n  next: daybook "), "{}", outcome.err);
    }
    let beyond = bench.run(&["transfer", "send", "poor", "rich", "2"]);
    assert!(beyond.code == 3 && beyond.err.contains("INSUFFICIENT_FUNDS"), "{}", beyond.err);
    assert!(beyond.err.ends_with("next: daybook account show poor\n"), "{}", beyond.err);
    for watch in [&["order", "watch"][..], &["transfer", "watch"], &["saga", "watch"]] {
        let help = bench.text(&[watch, &["--help"]].concat());
        assert!(help.lines().next().unwrap().contains("; ends with 3 when "), "{help}");
    }
}

#[test]
fn low_stock_is_followed_live() {
    let bench = Bench::start();
    bench.json(&["stock", "receive", "teapot", "3"]);
    let mut watch = bench.command(&["stock", "watch"]).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut hints = BufReader::new(watch.stderr.take().unwrap()).lines();
    let hint = "no stock is low; what becomes low is shown as it does";
    assert_eq!(hints.next().unwrap().unwrap(), hint);
    bench.json(&["stock", "threshold", "teapot", "3"]);
    let line = lines.next().unwrap().unwrap();
    let words: Vec<_> = line.split_whitespace().skip(1).collect();
    assert_eq!(words, ["low", "3", "available", "teapot"]);
    watch.kill().unwrap();
    watch.wait().unwrap();
    // There is nothing to say of a silence that is none.
    let mut watch = bench.command(&["stock", "watch"]).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("teapot"));
    bench.json(&["stock", "receive", "teapot", "1"]);
    assert!(lines.next().unwrap().unwrap().contains("enough"));
    watch.kill().unwrap();
    assert_eq!(watch.wait_with_output().unwrap().stderr, b"");
}

#[test]
fn the_completions_know_the_commands_of_the_shop() {
    for shell in ["bash", "zsh", "fish"] {
        let output = Command::new(BINARY).args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        for word in ["movements", "threshold", "by-product", "statistics"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}
