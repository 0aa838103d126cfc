//! A request has its effect once, however often it is sent, and always the same answer.

use daybook_client::{CommandReceipt, Daybook as Client, Error};
use daybook_contract::bank::v1::{DepositRequest, WithdrawRequest};
use daybook_contract::daybook::v1::{CommandContext, ReadStreamRequest};
use futures::{StreamExt, TryStreamExt, stream};
use tonic::Code;
use uuid::Uuid;

use crate::common::{Site, everything, head, usd};

fn context(request_id: &str) -> Option<CommandContext> {
    Some(CommandContext { request_id: request_id.into(), ..Default::default() })
}

/// The same answer as the first one, marked as that.
fn assert_replayed(again: &CommandReceipt, first: &CommandReceipt) {
    assert_eq!(*again, CommandReceipt { replayed: true, ..first.clone() });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_request_is_answered_again_also_after_a_restart() {
    let site = Site::new();
    let process = site.start("command", &[]);
    let client = site.strict_client();
    let open_id = Uuid::now_v7().to_string();
    let open = |client: &Client| {
        client.open_account("Ada").initial_balance(usd(5_000)).request_id(&open_id)
    };
    let opened = open(&client).await.unwrap();
    assert!(!opened.replayed);
    let account = &opened.aggregate_id;
    let deposit_id = Uuid::now_v7().to_string();
    let deposit = |client: &Client| client.deposit(account, usd(500)).request_id(&deposit_id);
    let deposited = deposit(&client).await.unwrap();
    assert_eq!((deposited.version, deposited.position), (2, 2));
    for _ in 0..3 {
        // The server made the id of the account; a retry gives the same one, not another account.
        assert_replayed(&open(&client).await.unwrap(), &opened);
        assert_replayed(&deposit(&client).await.unwrap(), &deposited);
    }

    assert!(process.terminate().success());
    let mut process = site.start("command", &[]);
    let client = site.strict_client();
    assert_replayed(&open(&client).await.unwrap(), &opened);
    assert_replayed(&deposit(&client).await.unwrap(), &deposited);
    process.kill();
    let _process = site.start("command", &[]);
    let client = site.strict_client();
    assert_replayed(&open(&client).await.unwrap(), &opened);
    assert_replayed(&deposit(&client).await.unwrap(), &deposited);

    // Neither the way it comes nor how the id is written makes it another request.
    let mut request = deposit(&client).into_request();
    request.context = context(&deposit_id.to_uppercase());
    assert_replayed(&client.execute(request).await.unwrap(), &deposited);
    assert_eq!(head(&client).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_is_refused_again_also_after_a_restart() {
    let site = Site::new();
    let process = site.start("command", &[]);
    let client = site.strict_client();
    client.open_account("Ada").account_id("ada").await.unwrap();
    let request_id = Uuid::now_v7().to_string();
    let withdraw = |client: &Client| client.withdraw("ada", usd(100)).request_id(&request_id);
    let first = withdraw(&client).await.unwrap_err();
    assert_eq!(first.reason(), "INSUFFICIENT_FUNDS");
    assert_eq!(first.metadata().get("replayed"), None);
    client.deposit("ada", usd(900)).await.unwrap();

    // It would be accepted now; but its answer has been given.
    let again = |error: Error| {
        assert_eq!(error.metadata()["replayed"], "true");
        assert_eq!(error.metadata()["balance"], "0.00 USD");
        assert_eq!((error.code(), error.message()), (first.code(), first.message()));
        let rule = error.details().precondition_failure().unwrap().violations[0].clone();
        assert_eq!((&*rule.r#type, &*rule.subject), ("INSUFFICIENT_FUNDS", "bank.account-ada"));
    };
    again(withdraw(&client).await.unwrap_err());
    assert!(process.terminate().success());
    let _process = site.start("command", &[]);
    let client = site.strict_client();
    again(withdraw(&client).await.unwrap_err());
    assert_eq!(head(&client).await, 2);
    client.withdraw("ada", usd(100)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_refused_for_its_form_or_version_may_be_mended_and_sent_again() {
    let site = Site::new();
    let _process = site.start("command", &[]);
    let client = site.strict_client();
    client.open_account("Ada").account_id("ada").await.unwrap();
    let request_id = Uuid::now_v7().to_string();
    let deposit = || client.deposit("ada", usd(100)).request_id(&request_id);
    let malformed = deposit().description("x".repeat(501)).await.unwrap_err();
    assert_eq!(malformed.code(), Code::InvalidArgument);
    let conflict = deposit().expected_version(9).await.unwrap_err();
    assert_eq!(conflict.reason(), "VERSION_CONFLICT");
    let receipt = deposit().expected_version(1).await.unwrap();
    assert!(!receipt.replayed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_from_many_callers_at_once_has_one_effect() {
    let site = Site::new();
    let _process = site.start("command", &[]);
    let client = site.strict_client();
    client.open_account("Ada").account_id("ada").await.unwrap();
    for round in 1..=10 {
        let request_id = Uuid::now_v7().to_string();
        let calls = (0..20).map(|_| client.deposit("ada", usd(1)).request_id(&request_id));
        let receipts: Vec<_> =
            stream::iter(calls).map(IntoFuture::into_future).buffer_unordered(20).collect().await;
        let receipts: Vec<CommandReceipt> = receipts.into_iter().map(Result::unwrap).collect();
        assert_eq!(receipts.iter().filter(|receipt| !receipt.replayed).count(), 1);
        assert!(receipts.iter().all(|receipt| receipt.version == round + 1));
        assert!(receipts.iter().all(|receipt| receipt.event_ids == receipts[0].event_ids));
    }
    assert_eq!(head(&client).await, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_pipelined_commands_are_answered_in_order_refused_ones_too() {
    const COUNT: u64 = 4_000;
    let site = Site::new();
    let _process = site.start("command", &[]);
    let client = site.strict_client();
    for account in 0..4 {
        client.open_account("Ada").account_id(format!("a{account}")).await.unwrap();
    }
    let account = |index: u64| format!("a{}", index % 4);
    // Every fifth is refused by the rules, every seventh for its form.
    let (refused, malformed) = (|i: u64| i.is_multiple_of(5), |i: u64| i.is_multiple_of(7));
    let ids: Vec<String> = (0..COUNT).map(|_| Uuid::now_v7().to_string()).collect();
    let any = |index: u64| {
        let request_id = &ids[usize::try_from(index).unwrap()];
        let amount = Some(usd(i64::try_from(index).unwrap() + 1));
        let account_id = account(index);
        if malformed(index) {
            let nothing = DepositRequest { context: context(request_id), ..Default::default() };
            return daybook_client::AnyCommand::from(nothing);
        }
        if refused(index) {
            let amount = Some(usd(1_000_000_000));
            let context = context(request_id);
            return WithdrawRequest { context, account_id, amount, ..Default::default() }.into();
        }
        let description = format!("number {index}");
        let context = context(request_id);
        DepositRequest { context, account_id, amount, description, ..Default::default() }.into()
    };
    let commands: Vec<_> = (0..COUNT).map(any).collect();
    let send = || client.execute_stream(stream::iter(commands.clone())).collect::<Vec<_>>();
    let answers = send().await;

    assert_eq!(answers.len() as u64, COUNT);
    let mut position = 4;
    for (index, answer) in (0..COUNT).zip(&answers) {
        match answer {
            Ok(receipt) => {
                assert!(!refused(index) && !malformed(index), "{index} was accepted");
                position += 1;
                assert_eq!((receipt.position, receipt.replayed), (position, false));
                assert_eq!(receipt.aggregate_id, account(index));
            }
            Err(error) if malformed(index) => assert_eq!(error.reason(), "INVALID_REQUEST"),
            Err(error) => {
                assert!(refused(index), "{index}: {error}");
                assert_eq!(error.reason(), "INSUFFICIENT_FUNDS");
            }
        }
    }
    let log = everything(&client).await;
    assert_eq!(log.len() as u64, position);
    for (answer, index) in answers.iter().zip(0_usize..) {
        let Ok(receipt) = answer else { continue };
        let event = &log[usize::try_from(receipt.position).unwrap() - 1];
        assert_eq!(event.metadata.as_ref().unwrap().request_id, ids[index]);
        assert_eq!(receipt.event_ids, [event.event_id.as_str()]);
        assert_eq!(event.version, receipt.version);
    }

    // All of them again: the same answers, and nothing more in the log.
    for (index, (again, first)) in send().await.iter().zip(&answers).enumerate() {
        match (again, first) {
            (Ok(again), Ok(first)) => assert_replayed(again, first),
            (Err(again), Err(first)) => assert_eq!(again.reason(), first.reason()),
            _ => panic!("{index}: {again:?} is not {first:?}"),
        }
    }
    assert_eq!(head(&client).await, position);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_for_one_stream_changes_no_answer() {
    // Every stream pushes the one before out of memory, also while it is being written.
    let no_room = ["--cached-streams", "1", "--packed-streams-mb", "0"];
    // Or it has it packed.
    let room = ["--cached-streams", "1"];
    tokio::join!(check_in_little_memory(&no_room), check_in_little_memory(&room));
}

async fn check_in_little_memory(flags: &[&str]) {
    let site = Site::new();
    let _process = site.start("command", flags);
    let client = site.strict_client();
    let accounts: Vec<String> = (0..8).map(|index| format!("a{index}")).collect();
    for account in &accounts {
        client.open_account("Ada").account_id(account).await.unwrap();
    }
    let mut commands = Vec::new();
    for round in 0..100 {
        for account in &accounts {
            commands.push(client.deposit(account, usd(1)).expected_version(2 * round + 1));
            commands.push(client.deposit(account, usd(1)).expected_version(2 * round + 2));
        }
    }
    let receipts: Vec<CommandReceipt> =
        client.execute_stream(stream::iter(commands)).try_collect().await.unwrap();
    assert_eq!(receipts.len(), 1600);
    for account in &accounts {
        let stream = format!("bank.account-{account}");
        let read = ReadStreamRequest { stream, ..Default::default() };
        let versions: Vec<u64> = client
            .events()
            .read_stream(read)
            .map_ok(|event| event.version)
            .try_collect()
            .await
            .unwrap();
        assert_eq!(versions, (1..=201).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_takes_nothing_back() {
    let site = Site::new();
    let _process = site.start("command", &[]);
    let client = site.strict_client();
    client.open_account("Ada").account_id("ada").await.unwrap();
    let ids: Vec<String> = (0..200).map(|_| Uuid::now_v7().to_string()).collect();
    for id in &ids {
        let call = client.deposit("ada", usd(1)).request_id(id).into_future();
        // The call is dropped somewhere on its way.
        let _ = tokio::time::timeout(std::time::Duration::from_micros(500), call).await;
    }
    // Another connection: one with so many calls given up may be closed by the server.
    let client = site.client();
    for id in &ids {
        client.deposit("ada", usd(1)).request_id(id).await.unwrap();
    }
    assert_eq!(head(&client).await, 201);
    let log = everything(&client).await;
    let requests: std::collections::BTreeSet<_> =
        log.iter().map(|event| event.metadata.as_ref().unwrap().request_id.clone()).collect();
    assert_eq!(requests.len(), 201);
}
