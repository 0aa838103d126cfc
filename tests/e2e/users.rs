//! Users as their users meet them.

use std::process::Command;

use daybook_contract::users::v1::{
    ActivityKind, ChangeEmailRequest, DeactivateUserRequest, RecordActionRequest,
    RecordLoginRequest, RegisterUserRequest, UserStatus,
};
use futures::TryStreamExt;
use futures::future::join_all;
use tonic::Code;

use crate::cli::Bench;
use crate::common::{eur, head, usd};
use crate::shop::Shop;

fn register(user_id: &str, email: &str) -> RegisterUserRequest {
    let (user_id, name, email) = (user_id.to_owned(), "Ada".to_owned(), email.to_owned());
    RegisterUserRequest { user_id, name, email, context: None }
}

#[tokio::test]
async fn a_user_lives_from_registration_to_deactivation() {
    let shop = Shop::open();
    let client = &shop.client;
    let registered = client.register_user("Ada Lovelace", "Ada@example.org").await.unwrap();
    let id = registered.aggregate_id.as_str();
    client.record_login(id).session("s1").device("phone").await.unwrap();
    client.record_action(id, "product.viewed").description("teapot").session("s1").await.unwrap();
    client.change_email(id, "ada@example.net").await.unwrap();
    let same = client.change_email(id, "ada@example.net").await.unwrap();
    assert!(same.event_ids.is_empty());
    let last = client.deactivate_user(id).reason("moved").await.unwrap();
    assert_eq!(last.version, 5);

    let user = client.get_user(id).min_position(last.position).await.unwrap();
    let user = user.user.unwrap();
    assert_eq!((user.name.as_str(), user.email.as_str()), ("Ada Lovelace", "ada@example.net"));
    assert_eq!((user.status(), user.version), (UserStatus::Deactivated, 5));
    let found = client.list_users().email("ADA@EXAMPLE.NET").min_position(last.position);
    assert_eq!(found.await.unwrap().users, [user]);
    let timeline = client.user_activity(id).page_size(2).min_position(last.position);
    let timeline: Vec<_> = timeline.all().try_collect().await.unwrap();
    let kinds: Vec<_> = timeline.iter().map(|entry| entry.kind()).collect();
    use ActivityKind::{Action, Deactivation, EmailChange, Login, Registration};
    assert_eq!(kinds, [Deactivation, EmailChange, Action, Login, Registration]);
    let logins = client.user_activity(id).kind(Login).await.unwrap().activities;
    assert_eq!((logins.len(), logins[0].description.as_str()), (1, "phone"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_32_clients_with_one_address_exactly_one_is_registered() {
    let mut shop = Shop::open();
    let taken = join_all((0..32).map(|n| {
        let mut users = shop.users.clone();
        // Each in another case: they are all the same address.
        let email: String = "somebody@example.org"
            .chars()
            .enumerate()
            .map(|(at, c)| if n >> (at % 5) & 1 == 1 { c.to_ascii_uppercase() } else { c })
            .collect();
        async move { users.register_user(register(&format!("user-{n}"), &email)).await }
    }))
    .await;
    let (won, lost): (Vec<_>, Vec<_>) = taken.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 31));
    for status in lost {
        let error = crate::common::error(status.unwrap_err());
        assert_eq!((error.code(), error.reason()), (Code::AlreadyExists, "EMAIL_TAKEN"));
        assert_eq!(error.metadata()["email"], "somebody@example.org");
    }
    assert_eq!(head(&shop.client).await, 1);

    // It is taken after a power cut, too, and the store knows whose it is.
    shop.process.kill();
    shop.process = shop.site.start("dev", &[]);
    let request = register("late", "Somebody@Example.org");
    let mut users = shop.users.clone();
    shop.refuses(users.register_user(request), Code::AlreadyExists, "EMAIL_TAKEN").await;
    shop.process.kill();
    let doctor = Command::new(env!("CARGO_BIN_EXE_daybook"))
        .args(["doctor", "--data"])
        .arg(shop.site.data.path())
        .output()
        .unwrap();
    assert!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stdout));
}

#[tokio::test]
async fn an_address_is_free_again_when_its_user_gives_it_up() {
    let shop = Shop::open();
    let client = &shop.client;
    for user in ["ada", "bob"] {
        shop.user(user).await;
    }
    let to = |user: &str, email: &str| client.change_email(user, email).into_request();
    let mut users = shop.users.clone();
    let taken = users.change_email(to("bob", "ADA@example.org"));
    shop.refuses(taken, Code::AlreadyExists, "EMAIL_TAKEN").await;
    // Another spelling of one's own is no other address.
    client.change_email("ada", "Ada@Example.org").await.unwrap();
    client.change_email("ada", "ada@example.net").await.unwrap();
    client.change_email("bob", "ada@example.org").await.unwrap();
    let taken = users.register_user(register("cyd", "ada@EXAMPLE.net"));
    shop.refuses(taken, Code::AlreadyExists, "EMAIL_TAKEN").await;
    client.deactivate_user("ada").await.unwrap();
    client.register_user("Cyd", "ada@example.net").user_id("cyd").await.unwrap();
    // A refused command claims nothing.
    let again = users.register_user(register("cyd", "new@example.org"));
    shop.refuses(again, Code::AlreadyExists, "USER_ALREADY_REGISTERED").await;
    client.register_user("Dan", "new@example.org").await.unwrap();
    // An accent makes the same letter whether it is a character of its own or not.
    client.register_user("Zoé", "zo\u{e9}@example.org").await.unwrap();
    let taken = users.register_user(register("zoe", "ZOE\u{301}@example.org"));
    shop.refuses(taken, Code::AlreadyExists, "EMAIL_TAKEN").await;
}

#[tokio::test]
async fn a_command_repeated_with_its_id_has_its_first_answer() {
    let shop = Shop::open();
    let id = "01939b4e-7c52-7d18-9f5a-3c1f0e6b2a44";
    let ada = || shop.client.register_user("Ada", "ada@example.org").request_id(id);
    let first = ada().await.unwrap();
    let again = ada().await.unwrap();
    assert!(again.replayed);
    assert_eq!(again.aggregate_id, first.aggregate_id);
    let id = "01939b4e-7c52-7d18-9f5a-3c1f0e6b2a45";
    let bob = || shop.client.register_user("Bob", "ada@example.org").request_id(id);
    assert_eq!(bob().await.unwrap_err().reason(), "EMAIL_TAKEN");
    shop.client.deactivate_user(&first.aggregate_id).await.unwrap();
    let error = bob().await.unwrap_err();
    assert_eq!((error.reason(), &*error.metadata()["replayed"]), ("EMAIL_TAKEN", "true"));
}

#[tokio::test]
async fn every_field_of_every_command_is_checked() {
    let shop = Shop::open();
    let (users, long) = (shop.users.clone(), "x".repeat(1_001));
    let client = || users.clone();
    let text = || long.clone();

    let request = RegisterUserRequest {
        user_id: "a b".into(),
        name: String::new(),
        email: "ada".into(),
        context: None,
    };
    let fields = ["user_id", "name", "email"];
    let said = shop.refuses_fields(client().register_user(request), &fields).await;
    assert!(said.contains("\"ada\" is not an e-mail address"));
    let missing = RegisterUserRequest { name: text(), ..Default::default() };
    shop.refuses_fields(client().register_user(missing), &["name", "email"]).await;
    for email in ["@x.org", "a@", "a b@x.org", "a@b@x.org", "a@x..org", "a@x.org\u{0}"] {
        let request = register("", email);
        shop.refuses_fields(client().register_user(request), &["email"]).await;
    }

    let request = RecordLoginRequest {
        user_id: String::new(),
        session_id: "a b".into(),
        device: text(),
        context: None,
    };
    let fields = ["user_id", "session_id", "device"];
    shop.refuses_fields(client().record_login(request), &fields).await;

    let request = RecordActionRequest {
        user_id: "/".into(),
        action: String::new(),
        description: text(),
        session_id: "a b".into(),
        context: None,
    };
    let fields = ["user_id", "action", "description", "session_id"];
    shop.refuses_fields(client().record_action(request), &fields).await;
    let request =
        RecordActionRequest { user_id: "ada".into(), action: text(), ..Default::default() };
    shop.refuses_fields(client().record_action(request), &["action"]).await;

    let request = ChangeEmailRequest::default();
    shop.refuses_fields(client().change_email(request), &["user_id", "email"]).await;
    let request = DeactivateUserRequest { reason: text(), ..Default::default() };
    shop.refuses_fields(client().deactivate_user(request), &["user_id", "reason"]).await;

    // What is well-formed comes to the rules.
    let request = shop.client.deactivate_user("nobody").into_request();
    shop.refuses(client().deactivate_user(request), Code::NotFound, "USER_NOT_FOUND").await;
    shop.user("ada").await;
    shop.deactivate("ada").await;
    let request = shop.client.record_login("ada").into_request();
    shop.forbids(client().record_login(request), "USER_DEACTIVATED").await;
}

#[tokio::test]
async fn statistics_count_what_a_user_did_and_ordered() {
    let shop = Shop::open();
    let client = &shop.client;
    shop.user("ada").await;
    shop.product("teapot", usd(20_00)).await;
    shop.product("cup", eur(3_50)).await;
    client.record_login("ada").await.unwrap();
    client.record_action("ada", "product.viewed").await.unwrap();
    for (order, product) in [("1", "teapot"), ("2", "cup"), ("3", "cup"), ("4", "cup")] {
        client.create_order("ada").order_id(order).await.unwrap();
        client.add_item(order, product, 2).await.unwrap();
    }
    for order in ["1", "2", "3"] {
        client.submit_order(order, "account").await.unwrap();
    }
    client.pay_order("1").await.unwrap();
    client.pay_order("2").await.unwrap();
    let last = client.cancel_order("3").await.unwrap();
    let query = client.user_statistics("ada").min_position(last.position);
    let numbers = query.await.unwrap().statistics.unwrap();
    assert_eq!((numbers.login_count, numbers.action_count), (1, 1));
    let orders = (numbers.order_count, numbers.paid_order_count, numbers.cancelled_order_count);
    assert_eq!(orders, (4, 2, 1));
    assert_eq!(numbers.total_spent, [eur(7_00), usd(40_00)]);
    assert_eq!(numbers.last_seen_time, last.recorded_time);
    let error = client.user_statistics("nobody").await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::NotFound, "USER_NOT_FOUND"));
}

#[test]
fn a_user_lives_through_the_user_commands() {
    let bench = Bench::start();
    bench.text(&["user", "register", "Ada Lovelace", "ada@example.org", "--id", "ada"]);
    bench.text(&["user", "login", "ada", "--session", "s1", "--device", "phone"]);
    bench.text(&["user", "act", "ada", "product.viewed", "-d", "teapot", "--session", "s1"]);
    let changed = bench.run(&["user", "email", "ada", "ada@example.net"]);
    assert_eq!((changed.code, changed.err.as_str()), (0, ""));
    let again = bench.run(&["user", "email", "ada", "ada@example.net"]);
    let hint = "nothing had to be recorded: it is so already\n";
    assert_eq!((again.code, again.err.as_str()), (0, hint));
    let taken = bench.run(&["user", "register", "Bob", "Ada@Example.net"]);
    assert_eq!(taken.code, 3, "{}", taken.err);
    assert!(taken.err.contains("EMAIL_TAKEN") && taken.err.contains("user list"), "{}", taken.err);
    let malformed = bench.run(&["user", "register", "Bob", "bob"]);
    assert_eq!(malformed.code, 4, "{}", malformed.err);
    let shown = bench.text(&["user", "show", "ada"]);
    assert!(shown.contains("ada@example.net") && shown.contains("active"), "{shown}");
    let listed = bench.text(&["user", "list", "--name", "ada"]);
    assert!(listed.starts_with("USER") && listed.contains("Ada Lovelace"), "{listed}");
    let activity = bench.text(&["user", "activity", "ada", "--kind", "action"]);
    assert!(activity.contains("product.viewed  teapot"), "{activity}");
    let numbers = bench.json(&["user", "statistics", "ada"]);
    assert_eq!(numbers["statistics"]["loginCount"], "1");
    bench.text(&["user", "deactivate", "ada", "--reason", "moved"]);
    let all = bench.json(&["user", "list", "--all", "--status", "deactivated"]);
    assert_eq!(all["users"][0]["userId"], "ada");
    let gone = bench.run(&["user", "login", "ada"]);
    assert_eq!(gone.code, 3);
    assert!(gone.err.contains("daybook user show ada"), "{}", gone.err);
}
