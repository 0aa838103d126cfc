//! Everything a caller can get wrong: each has its code and its reason, and records nothing.

use std::fmt::Debug;

use bytes::Bytes;
use daybook_client::{Daybook as Client, Error, Money, QueryRequest};
use daybook_contract::bank::v1::command_service_client::CommandServiceClient as BankCommands;
use daybook_contract::bank::v1::{
    CloseAccountRequest, DepositRequest, GetAccountRequest, GetDailySummaryRequest,
    GetYearlyTotalsRequest, ListAccountsRequest, ListTransactionsRequest, OpenAccountRequest,
    WithdrawRequest,
};
use daybook_contract::daybook::v1::command_service_client::CommandServiceClient as AnyCommands;
use daybook_contract::daybook::v1::event_log_service_client::EventLogServiceClient as EventLog;
use daybook_contract::daybook::v1::{
    AppendRequest, AsOf, CommandContext, ExecuteRequest, GetEventRequest,
    ListQuarantinedEventsRequest, NewEvent, RawPayload, ReadAllRequest, ReadContext,
    ReadStreamRequest, SubscribeRequest, as_of, get_event_request, new_event,
};
use daybook_testing::Daybook as Process;
use futures::TryStreamExt;
use prost_types::Any;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use uuid::Uuid;

use crate::common::{PATIENCE, Site, channel, error, head, usd};

/// A command side with one open account, `ada`, which has 100 USD.
struct Bank {
    client: Client,
    commands: BankCommands<Channel>,
    any: AnyCommands<Channel>,
    log: EventLog<Channel>,
    _process: Process,
    _site: Site,
}

impl Bank {
    async fn open() -> Self {
        let site = Site::new();
        let process = site.start("command", &[]);
        let client = site.strict_client();
        client.open_account("Ada").account_id("ada").initial_balance(usd(10_000)).await.unwrap();
        Self {
            client,
            commands: site.bank_commands(),
            any: AnyCommands::new(channel(site.ports.command_url())),
            log: site.event_log(),
            _process: process,
            _site: site,
        }
    }

    /// Makes a call that must be refused in this way and record nothing.
    async fn refuses<T: Debug>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
        code: Code,
        reason: &str,
    ) -> Error {
        let before = head(&self.client).await;
        let error = error(call.await.expect_err(reason));
        assert_eq!((error.code(), error.reason()), (code, reason), "{error}");
        assert!(!error.message().is_empty());
        assert_eq!(head(&self.client).await, before, "{reason} recorded something");
        error
    }

    /// Makes a call whose fields must be refused, exactly these.
    async fn refuses_fields<T: Debug>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
        fields: &[&str],
    ) {
        let error = self.refuses(call, Code::InvalidArgument, "INVALID_REQUEST").await;
        let violations = error.details().bad_request().unwrap().field_violations.clone();
        let found: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(found, fields, "{error}");
        assert!(violations.iter().all(|violation| !violation.description.is_empty()));
    }

    async fn refuses_amount(&self, amount: Money, code: Code, reason: &str) -> Error {
        let mut commands = self.commands.clone();
        let deposit = commands.deposit(deposit("ada", amount.clone()));
        self.refuses(deposit, code, reason).await;
        let withdraw = commands.withdraw(WithdrawRequest {
            account_id: "ada".into(),
            amount: Some(amount),
            ..Default::default()
        });
        self.refuses(withdraw, code, reason).await
    }
}

fn deposit(account_id: &str, amount: Money) -> DepositRequest {
    DepositRequest { account_id: account_id.into(), amount: Some(amount), ..Default::default() }
}

fn with_context(context: CommandContext) -> DepositRequest {
    DepositRequest { context: Some(context), ..deposit("ada", usd(1)) }
}

fn any(name: &str, value: Vec<u8>) -> ExecuteRequest {
    let type_url = format!("type.googleapis.com/{name}");
    ExecuteRequest { command: Some(Any { type_url, value }) }
}

fn raw_event(name: &str) -> NewEvent {
    let raw = RawPayload { content_type: "text/plain".into(), data: Bytes::from_static(b"hello") };
    let payload = Some(new_event::Payload::Raw(raw));
    NewEvent { event_name: name.into(), event_version: 1, payload }
}

fn append(stream: &str, events: Vec<NewEvent>) -> AppendRequest {
    AppendRequest { stream: stream.into(), events, context: None }
}

#[tokio::test]
async fn an_unknown_account_is_not_found() {
    let bank = Bank::open().await;
    let mut commands = bank.commands.clone();
    let (code, reason) = (Code::NotFound, "ACCOUNT_NOT_FOUND");
    let error = bank.refuses(commands.deposit(deposit("bob", usd(1))), code, reason).await;
    assert_eq!(error.metadata()["account_id"], "bob");
    assert_eq!(error.details().resource_info().unwrap().resource_name, "bob");
    let withdraw =
        WithdrawRequest { account_id: "bob".into(), amount: Some(usd(1)), ..Default::default() };
    bank.refuses(commands.withdraw(withdraw), code, reason).await;
    let close = CloseAccountRequest { account_id: "bob".into(), ..Default::default() };
    bank.refuses(commands.close_account(close), code, reason).await;
}

#[tokio::test]
async fn an_amount_that_is_none_is_refused() {
    let bank = Bank::open().await;
    let positive = "AMOUNT_NOT_POSITIVE";
    for amount in [usd(0), usd(-1), usd(-10_000)] {
        let error = bank.refuses_amount(amount, Code::FailedPrecondition, positive).await;
        let precondition = error.details().precondition_failure().unwrap();
        assert_eq!(precondition.violations[0].r#type, positive);
        assert_eq!(precondition.violations[0].subject, "bank.account-ada");
    }
    let nanos = |units, nanos| Money { currency_code: "USD".into(), units, nanos };
    // Below a cent, beyond a unit, with two signs.
    for amount in [nanos(1, 5_000_000), nanos(0, 1), nanos(1, 1_000_000_000), nanos(1, -10_000_000)]
    {
        let mut commands = bank.commands.clone();
        let call = commands.deposit(deposit("ada", amount.clone()));
        bank.refuses_fields(call, &["amount.nanos"]).await;
        let open = OpenAccountRequest {
            owner_name: "Bob".into(),
            initial_balance: Some(amount),
            ..Default::default()
        };
        bank.refuses_fields(commands.open_account(open), &["initial_balance.nanos"]).await;
    }
    let mut commands = bank.commands.clone();
    let none = DepositRequest { account_id: "ada".into(), ..Default::default() };
    bank.refuses_fields(commands.deposit(none), &["amount"]).await;
    let negative = OpenAccountRequest {
        owner_name: "Bob".into(),
        initial_balance: Some(usd(-1)),
        ..Default::default()
    };
    bank.refuses(commands.open_account(negative), Code::FailedPrecondition, positive).await;
}

#[tokio::test]
async fn an_amount_beyond_the_limits_is_refused() {
    let bank = Bank::open().await;
    let mut commands = bank.commands.clone();
    let (code, reason) = (Code::FailedPrecondition, "AMOUNT_TOO_LARGE");
    let units = |units| Money { currency_code: "USD".into(), units, nanos: 0 };
    // More than fits into 64 bits of cents, just more than the limit, and a sum that passes it.
    for amount in [units(i64::MAX), units(i64::MAX / 100), units(10_i64.pow(13)), {
        let mut limit = units(10_i64.pow(13) - 100);
        limit.nanos = 10_000_000;
        limit
    }] {
        bank.refuses(commands.deposit(deposit("ada", amount)), code, reason).await;
    }
    let more = WithdrawRequest {
        account_id: "ada".into(),
        amount: Some(usd(10_001)),
        ..Default::default()
    };
    let call = commands.withdraw(more);
    let error = bank.refuses(call, Code::FailedPrecondition, "INSUFFICIENT_FUNDS").await;
    assert_eq!(error.metadata()["balance"], "100.00 USD");
    assert_eq!(error.metadata()["requested"], "100.01 USD");
}

#[tokio::test]
async fn a_currency_that_is_not_the_accounts_or_none_at_all_is_refused() {
    let bank = Bank::open().await;
    let mut commands = bank.commands.clone();
    let money = |code: &str| Money { currency_code: code.into(), units: 1, nanos: 0 };
    let error = bank.refuses_amount(money("EUR"), Code::FailedPrecondition, "WRONG_CURRENCY").await;
    assert_eq!(error.metadata()["account_currency"], "USD");
    assert_eq!(error.metadata()["currency"], "EUR");
    for code in ["", "usd", "US", "XQZ", "EURO", "€"] {
        let call = commands.deposit(deposit("ada", money(code)));
        bank.refuses_fields(call, &["amount.currency_code"]).await;
    }
}

#[tokio::test]
async fn a_text_that_is_missing_or_too_long_is_refused() {
    let bank = Bank::open().await;
    let mut commands = bank.commands.clone();
    let unprintable = ["a\x1b[31mb", "a\nb", "a\u{202e}b", "\u{9b}"];
    let long = ["x".repeat(201), "ü".repeat(10_000)];
    for name in ["", "  "].into_iter().chain(unprintable).chain(long.iter().map(String::as_str)) {
        let open = OpenAccountRequest { owner_name: name.into(), ..Default::default() };
        bank.refuses_fields(commands.open_account(open), &["owner_name"]).await;
    }
    let long = DepositRequest { description: "x".repeat(501), ..deposit("ada", usd(1)) };
    bank.refuses_fields(commands.deposit(long), &["description"]).await;
    for id in ["a b", "a/b", "ä", "a\n", &"x".repeat(65)] {
        let open = OpenAccountRequest {
            account_id: id.into(),
            owner_name: "Bob".into(),
            ..Default::default()
        };
        bank.refuses_fields(commands.open_account(open), &["account_id"]).await;
    }
    let nobody = deposit("", usd(1));
    bank.refuses_fields(commands.deposit(nobody), &["account_id"]).await;
    let correlation_id = "x".repeat(65);
    let context = CommandContext { correlation_id, ..Default::default() };
    let call = commands.deposit(with_context(context));
    bank.refuses_fields(call, &["context.correlation_id"]).await;
}

#[tokio::test]
async fn an_enum_value_of_the_future_is_refused_in_a_command() {
    let bank = Bank::open().await;
    let mut commands = bank.commands.clone();
    for method in [99, -1, i32::MAX] {
        let request = DepositRequest { method, ..deposit("ada", usd(1)) };
        bank.refuses_fields(commands.deposit(request), &["method"]).await;
    }
    let mut log = bank.log.clone();
    let read = ReadAllRequest { direction: 7, ..Default::default() };
    bank.refuses_fields(log.read_all(read), &["direction"]).await;
}

#[tokio::test]
async fn a_malformed_uuid_is_refused() {
    let bank = Bank::open().await;
    let mut commands = bank.commands.clone();
    for id in ["nonsense", "01939b4e7c527d189f5a3c1f0e6b2a44", "{}", &"0".repeat(36)] {
        let context = CommandContext { request_id: id.into(), ..Default::default() };
        let call = commands.deposit(with_context(context));
        bank.refuses_fields(call, &["context.request_id"]).await;
    }
    let mut log = bank.log.clone();
    let key = Some(get_event_request::Key::EventId("nonsense".into()));
    bank.refuses_fields(log.get_event(GetEventRequest { key }), &["event_id"]).await;
    bank.refuses_fields(log.get_event(GetEventRequest { key: None }), &["key"]).await;
}

#[tokio::test]
async fn every_violation_of_a_request_is_named_at_once() {
    let bank = Bank::open().await;
    let mut commands = bank.commands.clone();
    let request = DepositRequest {
        context: Some(CommandContext { request_id: "nonsense".into(), ..Default::default() }),
        account_id: "a b".into(),
        amount: Some(Money { currency_code: "usd".into(), units: 1, nanos: -1 }),
        description: "x".repeat(1000),
        method: 99,
    };
    let fields = [
        "context.request_id",
        "account_id",
        "amount.currency_code",
        "amount.nanos",
        "description",
        "method",
    ];
    bank.refuses_fields(commands.deposit(request), &fields).await;
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_before_it_is_decoded() {
    let bank = Bank::open().await;
    let mut commands = bank.commands.clone();
    let large = DepositRequest { description: "x".repeat(1024 * 1024), ..deposit("ada", usd(1)) };
    let (code, reason) = (Code::ResourceExhausted, "LIMIT_EXCEEDED");
    let error = bank.refuses(commands.deposit(large), code, reason).await;
    let told = ["what", "limit"].map(|key| &*error.metadata()[key]);
    assert_eq!(told, ["message", "262144"], "{error}");
    let packed = any("bank.v1.DepositRequest", vec![0; 1024 * 1024]);
    let error = bank.refuses(bank.any.clone().execute(packed), code, reason).await;
    assert!(error.message().contains("262144"), "{error}");
    let mut log = bank.log.clone();
    let many = append("notes-1", (0..101).map(|_| raw_event("Noted")).collect());
    let error = bank.refuses(log.append(many), code, reason).await;
    assert_eq!((&*error.metadata()["actual"], &*error.metadata()["limit"]), ("101", "100"));
    // A request just below the limit makes a record just above it.
    let raw = RawPayload { data: vec![0; 262_050].into(), ..Default::default() };
    let event = NewEvent { payload: Some(new_event::Payload::Raw(raw)), ..raw_event("Noted") };
    let error = bank.refuses(log.append(append("notes-1", vec![event])), code, reason).await;
    assert_eq!(error.metadata()["limit"], "262144");
}

#[tokio::test]
async fn a_stale_expected_version_is_a_conflict_that_names_both() {
    let bank = Bank::open().await;
    let mut commands = bank.commands.clone();
    for expected in [0, 2, u64::MAX] {
        let context = CommandContext { expected_version: Some(expected), ..Default::default() };
        let call = commands.deposit(with_context(context));
        let error = bank.refuses(call, Code::Aborted, "VERSION_CONFLICT").await;
        assert_eq!(error.metadata()["stream"], "bank.account-ada");
        assert_eq!(error.metadata()["expected_version"], expected.to_string());
        assert_eq!(error.metadata()["actual_version"], "1");
    }
    let context = CommandContext { expected_version: Some(1), ..Default::default() };
    let receipt = commands.deposit(with_context(context)).await.unwrap().into_inner();
    assert_eq!(receipt.version, 2);
}

#[tokio::test]
async fn a_request_id_belongs_to_one_request() {
    let bank = Bank::open().await;
    let mut commands = bank.commands.clone();
    let request_id = Uuid::now_v7().to_string();
    let context = CommandContext { request_id: request_id.clone(), ..Default::default() };
    let first = with_context(context.clone());
    commands.deposit(first.clone()).await.unwrap();
    let (code, reason) = (Code::AlreadyExists, "REQUEST_ID_REUSED");
    let others = [
        DepositRequest { amount: Some(usd(2)), ..first.clone() },
        DepositRequest { account_id: "bob".into(), ..first.clone() },
        DepositRequest { description: "another".into(), ..first.clone() },
        with_context(CommandContext { expected_version: Some(2), ..context.clone() }),
    ];
    for other in others {
        let error = bank.refuses(commands.deposit(other), code, reason).await;
        assert_eq!(error.metadata()["request_id"], request_id);
    }
    let withdraw = WithdrawRequest {
        context: Some(context.clone()),
        account_id: "ada".into(),
        amount: Some(usd(1)),
        ..Default::default()
    };
    bank.refuses(commands.withdraw(withdraw), code, reason).await;
    let mut log = bank.log.clone();
    let append =
        AppendRequest { context: Some(context), ..append("notes-1", vec![raw_event("N")]) };
    bank.refuses(log.append(append), code, reason).await;
    assert!(commands.deposit(first).await.unwrap().into_inner().replayed);
}

#[tokio::test]
async fn a_branch_is_not_supported_yet_and_says_so() {
    let bank = Bank::open().await;
    let mut commands = bank.commands.clone();
    let context = CommandContext { branch_id: "what-if".into(), ..Default::default() };
    let call = commands.deposit(with_context(context));
    let error = bank.refuses(call, Code::Unimplemented, "NOT_SUPPORTED").await;
    assert_eq!(error.metadata()["field"], "context.branch_id");
}

#[tokio::test]
async fn a_packed_command_that_is_none_is_refused() {
    let bank = Bank::open().await;
    let mut client = bank.any.clone();
    bank.refuses_fields(client.execute(ExecuteRequest { command: None }), &["command"]).await;
    let (code, reason) = (Code::InvalidArgument, "UNKNOWN_COMMAND");
    for name in ["", "bank.v1.Deposit", "bank.v1.MoneyDeposited", "shop.v1.BuyRequest"] {
        let error = bank.refuses(client.execute(any(name, Vec::new())), code, reason).await;
        assert_eq!(error.metadata()["type_url"], format!("type.googleapis.com/{name}"));
    }
    let garbage = any("bank.v1.DepositRequest", vec![0xff; 40]);
    bank.refuses_fields(client.execute(garbage), &["command.value"]).await;
    let empty = any("bank.v1.DepositRequest", Vec::new());
    bank.refuses_fields(client.execute(empty), &["account_id", "amount"]).await;
}

#[tokio::test]
async fn a_body_that_is_not_the_message_is_refused() {
    let bank = Bank::open().await;
    // Field 2 of a deposit is a text; in this message it is a message that is not UTF-8.
    let raw = RawPayload { content_type: "x".into(), data: Bytes::from_static(&[0xff, 0xfe]) };
    // The first is served by Daybook itself, the second by tonic.
    for path in ["/bank.v1.CommandService/Deposit", "/daybook.v1.CommandService/Execute"] {
        let mut grpc = tonic::client::Grpc::new(bank.client.command_service().channel.clone());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<RawPayload, RawPayload>::default();
        let call = grpc.unary(tonic::Request::new(raw.clone()), path.parse().unwrap(), codec);
        bank.refuses(call, Code::InvalidArgument, "INVALID_REQUEST").await;
    }
}

#[tokio::test]
async fn an_unknown_method_is_not_supported() {
    let bank = Bank::open().await;
    for path in ["/bank.v1.CommandService/Rob", "/bank.v9.CommandService/Deposit", "/nonsense"] {
        let mut grpc = tonic::client::Grpc::new(bank.client.command_service().channel.clone());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<RawPayload, RawPayload>::default();
        let call =
            grpc.unary(tonic::Request::new(RawPayload::default()), path.parse().unwrap(), codec);
        bank.refuses(call, Code::Unimplemented, "NOT_SUPPORTED").await;
    }
}

#[tokio::test]
async fn a_raw_append_keeps_to_its_own_streams_and_to_the_form() {
    let bank = Bank::open().await;
    let mut log = bank.log.clone();
    for stream in ["bank.account-ada", "bank.account-new"] {
        let call = log.append(append(stream, vec![raw_event("Stolen")]));
        bank.refuses(call, Code::FailedPrecondition, "STREAM_OWNED_BY_AGGREGATE").await;
    }
    for stream in ["", "notes", "Notes-1", "notes-", "-1", "notes-a b", "bänk-1"] {
        let call = log.append(append(stream, vec![raw_event("Noted")]));
        bank.refuses_fields(call, &["stream"]).await;
    }
    bank.refuses_fields(log.append(append("notes-1", vec![])), &["events"]).await;
    let empty = NewEvent { payload: None, ..raw_event("Noted") };
    let nameless = raw_event("");
    let call = log.append(append("notes-1", vec![raw_event("Noted"), empty, nameless]));
    bank.refuses_fields(call, &["events[2].event_name", "events[1].payload"]).await;
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let bank = Bank::open().await;
    let mut log = bank.log.clone();
    for stream in ["bank.account-bob", "notes-1"] {
        let read = ReadStreamRequest { stream: stream.into(), ..Default::default() };
        bank.refuses(log.read_stream(read), Code::NotFound, "STREAM_NOT_FOUND").await;
    }
    for stream in ["", "ada", "bank.account-", "BANK-1"] {
        let read = ReadStreamRequest { stream: stream.into(), ..Default::default() };
        bank.refuses_fields(log.read_stream(read), &["stream"]).await;
    }
    let keys = [
        get_event_request::Key::Position(0),
        get_event_request::Key::Position(99),
        get_event_request::Key::Position(u64::MAX),
        get_event_request::Key::EventId(Uuid::now_v7().to_string()),
        get_event_request::Key::EventId(Uuid::nil().to_string()),
    ];
    for key in keys {
        let call = log.get_event(GetEventRequest { key: Some(key) });
        bank.refuses(call, Code::NotFound, "EVENT_NOT_FOUND").await;
    }
    for after_position in [2, u64::MAX] {
        let beyond = SubscribeRequest { after_position, filter: None };
        bank.refuses_fields(log.subscribe(beyond), &["after_position"]).await;
    }
}

#[tokio::test]
async fn an_actor_that_cannot_be_recorded_is_refused() {
    let bank = Bank::open().await;
    let mut commands = bank.commands.clone();
    let mut request = tonic::Request::new(deposit("ada", usd(1)));
    request.metadata_mut().insert("daybook-actor", "x".repeat(65).parse().unwrap());
    bank.refuses_fields(commands.deposit(request), &["daybook-actor"]).await;
}

/// A whole bank in one process, for what queries refuse.
struct Queries {
    client: Client,
    _process: Process,
    _site: Site,
}

impl Queries {
    async fn open() -> Self {
        let site = Site::new();
        let process = site.start("dev", &[]);
        let client = site.strict_client();
        let mut last = Default::default();
        for account in ["ada", "bob"] {
            let open = client.open_account("Somebody").account_id(account);
            open.initial_balance(usd(1)).await.unwrap();
            last = client.deposit(account, usd(1)).await.unwrap();
        }
        for query in [client.list_transactions("ada"), client.list_transactions("bob")] {
            query.after(&last).max_wait(PATIENCE / 3).await.unwrap();
        }
        client.get_account("ada").after(&last).max_wait(PATIENCE / 3).await.unwrap();
        Self { client, _process: process, _site: site }
    }

    /// Sends a query that must be refused in this way.
    async fn refuses<Q: QueryRequest + Debug>(&self, query: Q, code: Code, reason: &str) -> Error {
        let answer = self.client.query(query.clone()).await;
        let error = answer.err().unwrap_or_else(|| panic!("{query:?} was answered"));
        assert_eq!((error.code(), error.reason()), (code, reason), "{error}");
        error
    }

    /// Sends a query whose fields must be refused, exactly these.
    async fn refuses_fields<Q: QueryRequest + Debug>(&self, query: Q, fields: &[&str]) {
        let error = self.refuses(query, Code::InvalidArgument, "INVALID_REQUEST").await;
        let violations = &error.details().bad_request().unwrap().field_violations;
        let found: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(found, fields, "{error}");
    }
}

fn transactions(account_id: &str) -> ListTransactionsRequest {
    ListTransactionsRequest { account_id: account_id.into(), ..Default::default() }
}

fn days(start_date: &str, end_date: &str) -> GetDailySummaryRequest {
    let (start_date, end_date) = (start_date.into(), end_date.into());
    GetDailySummaryRequest { start_date, end_date, ..Default::default() }
}

#[tokio::test]
async fn a_page_token_belongs_to_its_query() {
    let queries = Queries::open().await;
    let query = ListTransactionsRequest { page_size: 1, ..transactions("ada") };
    let first = queries.client.query(query.clone()).await.unwrap();
    let token = first.next_page_token;
    assert!(!token.is_empty());
    let (code, reason) = (Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    let with = |page_token: &str| ListTransactionsRequest {
        page_token: page_token.into(),
        ..query.clone()
    };
    let second = queries.client.query(with(&token)).await.unwrap();
    assert_eq!(second.transactions.len(), 1);
    // Another account, another kind, another time, another RPC.
    let other = ListTransactionsRequest { account_id: "bob".into(), ..with(&token) };
    queries.refuses(other, code, reason).await;
    queries.refuses(ListTransactionsRequest { kind: 2, ..with(&token) }, code, reason).await;
    let start_time = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    queries.refuses(ListTransactionsRequest { start_time, ..with(&token) }, code, reason).await;
    let accounts = ListAccountsRequest { page_token: token.clone(), ..Default::default() };
    queries.refuses(accounts, code, reason).await;
    // Not a token at all, and one that was cut or changed.
    let half = &token[..token.len() / 2];
    let changed: String = token.chars().rev().collect();
    for wrong in ["nonsense", " ", "AAAA", half, &changed, &"A".repeat(1_000)] {
        queries.refuses(with(wrong), code, reason).await;
    }
}

#[tokio::test]
async fn the_past_and_branches_are_not_supported_yet_in_queries() {
    let queries = Queries::open().await;
    for moment in [
        as_of::Moment::Version(1),
        as_of::Moment::Position(1),
        as_of::Moment::Time(prost_types::Timestamp { seconds: 1, nanos: 0 }),
    ] {
        let as_of = Some(AsOf { moment: Some(moment) });
        let read = Some(ReadContext { as_of, ..Default::default() });
        let query = GetAccountRequest { read, account_id: "ada".into() };
        queries.refuses(query, Code::Unimplemented, "NOT_SUPPORTED").await;
    }
    let read = Some(ReadContext { branch_id: "what-if".into(), ..Default::default() });
    let query = ListTransactionsRequest { read: read.clone(), ..transactions("ada") };
    queries.refuses(query, Code::Unimplemented, "NOT_SUPPORTED").await;
    let query = GetYearlyTotalsRequest { read, year: 2026, ..Default::default() };
    queries.refuses(query, Code::Unimplemented, "NOT_SUPPORTED").await;
}

#[tokio::test]
async fn the_fields_of_queries_are_checked() {
    let queries = Queries::open().await;
    let nobody = GetAccountRequest::default();
    queries.refuses_fields(nobody, &["account_id"]).await;
    queries.refuses_fields(transactions("a b"), &["account_id"]).await;
    for page_size in [-1, i32::MIN] {
        let query = ListTransactionsRequest { page_size, ..transactions("ada") };
        queries.refuses_fields(query, &["page_size"]).await;
        let query = ListAccountsRequest { page_size, ..Default::default() };
        queries.refuses_fields(query, &["page_size"]).await;
    }
    let query = ListTransactionsRequest { kind: 99, ..transactions("ada") };
    queries.refuses_fields(query, &["kind"]).await;
    let query = ListAccountsRequest { status: -1, ..Default::default() };
    queries.refuses_fields(query, &["status"]).await;
    let start_time = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: -1 });
    let query = ListTransactionsRequest { start_time, ..transactions("ada") };
    queries.refuses_fields(query, &["start_time"]).await;

    queries.refuses_fields(days("", ""), &["start_date"]).await;
    for date in ["yesterday", "2026-13-01", "2026-02-30", "2026-2-3", "26-01-01"] {
        queries.refuses_fields(days(date, ""), &["start_date"]).await;
        queries.refuses_fields(days("2026-01-01", date), &["end_date"]).await;
    }
    queries.refuses_fields(days("2026-01-02", "2026-01-01"), &["end_date"]).await;
    queries.refuses_fields(days("2025-01-01", "2026-01-02"), &["end_date"]).await;
    queries.client.query(days("2024-01-01", "2024-12-31")).await.unwrap();
    for year in [0, 1969, 10_000, -1] {
        let query = GetYearlyTotalsRequest { year, ..Default::default() };
        queries.refuses_fields(query, &["year"]).await;
    }
    let wait = |seconds| ReadContext {
        min_position: 1,
        max_wait: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..Default::default()
    };
    for seconds in [-1, i64::MAX] {
        let query = GetAccountRequest { read: Some(wait(seconds)), account_id: "ada".into() };
        queries.refuses_fields(query, &["read.max_wait"]).await;
    }
    let (code, reason) = (Code::NotFound, "ACCOUNT_NOT_FOUND");
    let error = queries
        .refuses(GetAccountRequest { account_id: "cyd".into(), ..Default::default() }, code, reason)
        .await;
    assert_eq!(error.details().resource_info().unwrap().resource_name, "cyd");
    queries.refuses(transactions("cyd"), code, reason).await;
}

#[tokio::test]
async fn projections_that_do_not_exist_are_not_found_in_every_call() {
    let queries = Queries::open().await;
    let projections = queries.client.projections();
    let name = "nothing";
    let listed = ListQuarantinedEventsRequest { name: name.into(), ..Default::default() };
    let errors = [
        projections.get(name).await.unwrap_err(),
        projections.rebuild(name).await.unwrap_err(),
        projections.watch_rebuild(name).try_collect::<Vec<_>>().await.unwrap_err(),
        projections.pause(name).await.unwrap_err(),
        projections.resume(name).await.unwrap_err(),
        projections.quarantine(listed).await.unwrap_err(),
        projections.retry(name, "bank.account-ada").await.unwrap_err(),
        projections.skip(name, 1).await.unwrap_err(),
    ];
    for error in errors {
        let found = (error.code(), error.reason());
        assert_eq!(found, (Code::NotFound, "PROJECTION_NOT_FOUND"), "{error}");
    }
    let empty = projections.get("").await.unwrap_err();
    assert_eq!((empty.code(), empty.reason()), (Code::InvalidArgument, "INVALID_REQUEST"));
    let none = projections.skip("account_balance", 77).await.unwrap_err();
    assert_eq!((none.code(), none.reason()), (Code::NotFound, "QUARANTINED_EVENT_NOT_FOUND"));
}
