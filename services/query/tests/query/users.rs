//! `users.v1.QueryService`.

use daybook_contract::error::Error;
use daybook_contract::orders::v1::{OrderCancelled, OrderCreated, OrderPaid};
use daybook_contract::users::v1::query_service_server::QueryService;
use daybook_contract::users::v1::{
    ActivityKind, EmailChanged, GetUserActivityRequest, GetUserRequest, GetUserStatisticsRequest,
    ListUsersRequest, User, UserActed, UserDeactivated, UserLoggedIn, UserRegistered,
    UserStatistics, UserStatus,
};
use daybook_domain::{order, user};
use daybook_query::UserQueries;
use daybook_query::runtime::Host;
use prost_types::Timestamp;
use tonic::{Code, Request};

use crate::bank::{answer, violations};
use crate::fakes::*;
use crate::random::{Random, seed};

struct People {
    host: Host,
    queries: UserQueries,
    _dir: tempfile::TempDir,
}

impl People {
    /// The projections over what has been written to a log.
    async fn over(log: &Log) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = run_bank(&dir, log);
        until_position(&host, log.position()).await;
        let queries = UserQueries::new(host.handles()).unwrap();
        Self { host, queries, _dir: dir }
    }

    async fn user(&self, id: &str) -> Result<User, Error> {
        let request = GetUserRequest { user_id: id.to_owned(), read: None };
        Ok(answer(self.queries.get_user(Request::new(request)).await)?.user.unwrap())
    }

    /// The ids of all users that a request asks for, page by page.
    async fn users(&self, mut request: ListUsersRequest) -> Vec<String> {
        let mut found = Vec::new();
        loop {
            let page = self.queries.list_users(Request::new(request.clone())).await;
            let page = answer(page).unwrap();
            found.extend(page.users.into_iter().map(|user| user.user_id));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return found;
            }
        }
    }

    /// A timeline as text, page by page.
    async fn activity(&self, mut request: GetUserActivityRequest) -> Vec<String> {
        let mut found = Vec::new();
        loop {
            let page = self.queries.get_user_activity(Request::new(request.clone())).await;
            let page = answer(page).unwrap();
            found.extend(page.activities.into_iter().map(|a| {
                let kind = a.kind().as_str_name().trim_start_matches("ACTIVITY_KIND_").to_owned();
                format!("{} {kind} {} {} {}", a.version, a.session_id, a.action, a.description)
            }));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return found;
            }
        }
    }

    async fn statistics(&self, id: &str) -> Result<UserStatistics, Error> {
        let request = GetUserStatisticsRequest { user_id: id.to_owned(), read: None };
        let answer = answer(self.queries.get_user_statistics(Request::new(request)).await)?;
        Ok(answer.statistics.unwrap())
    }
}

fn registered(name: &str, email: &str) -> UserRegistered {
    UserRegistered { name: name.to_owned(), email: email.to_owned(), registered_time: None }
}

fn logged_in(session: &str) -> UserLoggedIn {
    let (session_id, device) = (session.to_owned(), "phone".to_owned());
    UserLoggedIn { session_id, device, login_time: None }
}

fn acted(action: &str) -> UserActed {
    let (action, description) = (action.to_owned(), "teapot".to_owned());
    UserActed { action, description, session_id: "s1".to_owned(), action_time: None }
}

fn changed(email: &str) -> EmailChanged {
    EmailChanged { email: email.to_owned(), ..Default::default() }
}

fn deactivated() -> UserDeactivated {
    UserDeactivated { reason: "moved".to_owned(), ..Default::default() }
}

fn ordered(user: &str) -> OrderCreated {
    OrderCreated { user_id: user.to_owned(), created_time: None }
}

fn at(nanos: i32) -> Option<Timestamp> {
    Some(Timestamp { seconds: START, nanos })
}

#[tokio::test]
async fn a_user_is_as_the_events_say() {
    let log = Log::new();
    log.append_to::<user::User>("ada", registered("Ada", "Ada@x.org"));
    log.append_to::<user::User>("ada", logged_in("s1"));
    log.append_to::<user::User>("ada", changed("ada@y.org"));
    log.append_to::<user::User>("bob", registered("Bob", "bob@x.org"));
    log.append_to::<user::User>("bob", deactivated());
    let people = People::over(&log).await;
    let ada = people.user("ada").await.unwrap();
    assert_eq!((ada.name.as_str(), ada.email.as_str(), ada.version), ("Ada", "ada@y.org", 3));
    assert_eq!((ada.status(), ada.deactivated_time), (UserStatus::Active, None));
    assert_eq!((ada.registered_time, ada.last_login_time), (at(1), at(2)));
    let bob = people.user("bob").await.unwrap();
    assert_eq!((bob.status(), bob.deactivated_time), (UserStatus::Deactivated, at(5)));
    assert_eq!((bob.email.as_str(), bob.last_login_time), ("bob@x.org", None));
    let error = people.user("eve").await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::NotFound, "USER_NOT_FOUND"));
    people.host.shutdown().await;
}

#[tokio::test]
async fn users_are_listed_by_name_address_and_status() {
    let log = Log::new();
    for (id, name) in [("1", "Ada"), ("2", "adam"), ("3", "Bob"), ("4", "Äda"), ("5", "ada")] {
        log.append_to::<user::User>(id, registered(name, &format!("{name}@X.org")));
    }
    log.append_to::<user::User>("2", deactivated());
    log.append_to::<user::User>("3", changed("New@x.org"));
    let people = People::over(&log).await;
    let all = ListUsersRequest { page_size: 1, ..Default::default() };
    assert_eq!(people.users(all.clone()).await, ["1", "2", "3", "4", "5"]);
    let named = ListUsersRequest { name_prefix: "AD".to_owned(), ..all.clone() };
    assert_eq!(people.users(named.clone()).await, ["1", "5", "2"]);
    let active = ListUsersRequest { status: UserStatus::Active.into(), ..all.clone() };
    assert_eq!(people.users(active).await, ["1", "3", "4", "5"]);
    let both = ListUsersRequest { status: UserStatus::Active.into(), ..named };
    assert_eq!(people.users(both).await, ["1", "5"]);
    let with = |email: &str| ListUsersRequest { email: email.to_owned(), ..all.clone() };
    assert_eq!(people.users(with("äda@x.ORG")).await, ["4"]);
    assert_eq!(people.users(with("a\u{308}da@x.org")).await, ["4"], "an ä in two characters");
    assert_eq!(people.users(with("new@X.org")).await, ["3"]);
    assert!(people.users(with("bob@x.org")).await.is_empty());
    let other = ListUsersRequest { name_prefix: "Z".to_owned(), ..with("new@x.org") };
    assert!(people.users(other).await.is_empty());
    people.host.shutdown().await;
}

#[tokio::test]
async fn a_timeline_has_everything_newest_first_and_in_pages() {
    let log = Log::new();
    log.append_to::<user::User>("ada", registered("Ada", "ada@x.org"));
    log.append_to::<user::User>("bob", registered("Bob", "bob@x.org"));
    log.append_to::<user::User>("ada", logged_in("s1"));
    log.append_to::<user::User>("ada", acted("viewed"));
    log.append_to::<user::User>("bob", acted("bought"));
    log.append_to::<user::User>("ada", changed("new@x.org"));
    log.append_to::<user::User>("ada", deactivated());
    let people = People::over(&log).await;
    let of = |user: &str| GetUserActivityRequest {
        user_id: user.to_owned(),
        page_size: 2,
        ..Default::default()
    };
    let whole = [
        "5 DEACTIVATION   moved",
        "4 EMAIL_CHANGE   new@x.org",
        "3 ACTION s1 viewed teapot",
        "2 LOGIN s1  phone",
        "1 REGISTRATION   ",
    ];
    assert_eq!(people.activity(of("ada")).await, whole);
    assert_eq!(people.activity(of("bob")).await, ["2 ACTION s1 bought teapot", whole[4]]);
    let logins = GetUserActivityRequest { kind: ActivityKind::Login.into(), ..of("ada") };
    assert_eq!(people.activity(logins).await, whole[3..4]);
    let middle = GetUserActivityRequest { start_time: at(3), end_time: at(6), ..of("ada") };
    assert_eq!(people.activity(middle).await, whole[2..4]);
    let unknown = people.queries.get_user_activity(Request::new(of("eve"))).await;
    assert_eq!(answer(unknown).unwrap_err().reason(), "USER_NOT_FOUND");
    let wrong = GetUserActivityRequest {
        page_size: -1,
        kind: 99,
        start_time: at(6),
        end_time: at(6),
        ..of("")
    };
    let wrong = answer(people.queries.get_user_activity(Request::new(wrong)).await).unwrap_err();
    assert_eq!(violations(&wrong), ["user_id", "kind", "page_size", "end_time"]);
    people.host.shutdown().await;
}

/// The events of two users and their orders, by stream.
fn history(log: &Log) -> Vec<Vec<bytes::Bytes>> {
    let paid = |amount| OrderPaid { amount: Some(amount), ..Default::default() };
    let (u, o) = ("ada", ["o1", "o2", "o3", "o4"]);
    vec![
        vec![
            log.append_to::<user::User>(u, registered("Ada", "ada@x.org")),
            log.append_to::<user::User>(u, logged_in("s1")),
            log.append_to::<user::User>(u, acted("viewed")),
        ],
        vec![
            log.append_to::<order::Order>(o[0], ordered(u)),
            log.append_to::<order::Order>(o[0], paid(usd(5_00))),
        ],
        vec![
            log.append_to::<order::Order>(o[1], ordered(u)),
            log.append_to::<order::Order>(o[1], paid(usd(2_50))),
        ],
        vec![
            log.append_to::<order::Order>(o[2], ordered(u)),
            log.append_to::<order::Order>(o[2], paid(money(300, "JPY"))),
        ],
        vec![
            log.append_to::<order::Order>(o[3], ordered(u)),
            log.append_to::<order::Order>(o[3], OrderCancelled::default()),
        ],
        vec![log.append_to::<order::Order>("o5", ordered("nobody"))],
    ]
}

#[tokio::test]
async fn statistics_are_the_same_in_whichever_order_the_topics_come() {
    for seed in (seed()..).take(20) {
        let (dir, log, topic) = (tempfile::tempdir().unwrap(), Log::new(), Topic::new(2));
        // Whatever is there at the start is read from the log, in its order.
        let host = run(&dir, &topic, &log, daybook_query::projections::start_all);
        until_position(&host, 0).await;
        topic.write_mixed(&history(&log), &mut Random::new(seed));
        topic.watermarks(log.position());
        until_position(&host, log.position()).await;
        assert_eq!(log.gap_reads(), 0, "seed {seed}");
        let people = People { queries: UserQueries::new(host.handles()).unwrap(), host, _dir: dir };
        let ada = people.statistics("ada").await.unwrap();
        assert_eq!((ada.login_count, ada.action_count), (1, 1), "seed {seed}");
        let orders = (ada.order_count, ada.paid_order_count, ada.cancelled_order_count);
        assert_eq!(orders, (4, 3, 1), "seed {seed}");
        assert_eq!(ada.total_spent, [money(300, "JPY"), usd(7_50)], "seed {seed}");
        assert_eq!((ada.registered_time, ada.last_seen_time), (at(1), at(11)), "seed {seed}");
        let error = people.statistics("nobody").await.unwrap_err();
        assert_eq!(error.reason(), "USER_NOT_FOUND", "seed {seed}");
        people.host.shutdown().await;
    }
}
