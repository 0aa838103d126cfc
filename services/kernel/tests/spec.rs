//! The specifications themselves, on a money box: it takes money, and gives it back only when it
//! is broken. Some boxes break the laws of an aggregate, and must be found out.

#![allow(clippy::disallowed_types, reason = "the box that breaks the laws keeps something")]

use std::cell::Cell;
use std::fmt;
use std::panic::{UnwindSafe, catch_unwind};

use daybook_contract::bank::v1::account::{Command, Event, Upcast};
use daybook_contract::bank::v1::{
    AccountClosed, AccountState, CloseAccountRequest, DepositRequest, MoneyDeposited,
    MoneyDepositedV1, MoneyDepositedV2, OpenAccountRequest, WithdrawRequest,
};
use daybook_kernel::spec::{NOW, Spec, context};
use daybook_kernel::{Aggregate, Context, Rejection, RejectionKind};
use prost_types::Timestamp;

struct MoneyBox;

#[derive(Debug, PartialEq)]
enum BoxRejection {
    NotBroken { coins: i64 },
}

impl fmt::Display for BoxRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::NotBroken { coins } = self;
        write!(f, "the box with {coins} coins is not broken")
    }
}

impl Rejection for BoxRejection {
    fn reason(&self) -> &'static str {
        "NOT_BROKEN"
    }

    fn kind(&self) -> RejectionKind {
        RejectionKind::FailedPrecondition
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

impl Upcast for MoneyBox {
    fn money_deposited_v1(_: MoneyDepositedV1) -> MoneyDepositedV2 {
        MoneyDepositedV2::default()
    }

    fn money_deposited_v2(_: MoneyDepositedV2) -> MoneyDeposited {
        MoneyDeposited::default()
    }
}

thread_local! {
    static CALLS: Cell<i64> = const { Cell::new(0) };
}

impl Aggregate for MoneyBox {
    type Command = Command;
    type Event = Event;
    type State = AccountState;
    type Rejection = BoxRejection;

    fn decide(
        state: &AccountState,
        command: &Command,
        cx: &Context,
    ) -> Result<Vec<Event>, BoxRejection> {
        match command {
            Command::Deposit(request) => Ok(vec![coin(&request.description)]),
            Command::Withdraw(_) => Err(BoxRejection::NotBroken { coins: state.balance_minor }),
            Command::CloseAccount(_) => Ok(vec![
                AccountClosed { closed_time: Some(cx.now), reason: cx.actor.clone() }.into(),
            ]),
            // Opening breaks the law: it depends on what was called before.
            Command::OpenAccount(request) if !request.owner_name.is_empty() => {
                CALLS.set(CALLS.get() + 1);
                Ok(vec![coin(&CALLS.get().to_string())])
            }
            _ => Ok(vec![]),
        }
    }

    fn evolve(state: &mut AccountState, event: &Event) {
        match event {
            Event::MoneyDeposited(_) => state.balance_minor += 1,
            Event::MoneyWithdrawn(_) => {
                CALLS.set(CALLS.get() + 1);
                state.balance_minor = CALLS.get();
            }
            _ => state.balance_minor = 0,
        }
    }
}

fn coin(description: &str) -> Event {
    MoneyDeposited { description: description.to_owned(), ..Default::default() }.into()
}

fn put(description: &str) -> DepositRequest {
    DepositRequest { description: description.to_owned(), ..Default::default() }
}

fn failure(specification: impl FnOnce() + UnwindSafe) -> String {
    let panic = catch_unwind(specification).expect_err("the specification does not hold");
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => (*panic.downcast::<&str>().expect("a panic with a text")).to_owned(),
    }
}

#[test]
fn what_holds_passes() {
    Spec::<MoneyBox>::given([]).when(put("a")).then([coin("a")]);
    Spec::<MoneyBox>::given([]).when(OpenAccountRequest::default()).then_nothing();
    Spec::<MoneyBox>::given([coin("a"), coin("b")])
        .when(WithdrawRequest::default())
        .then_rejected(BoxRejection::NotBroken { coins: 2 });
}

#[test]
fn the_state_afterwards_can_be_seen() {
    let when = Spec::<MoneyBox>::given([coin("a")]).when(put("b"));
    assert_eq!(when.state().balance_minor, 2);
    let refused = Spec::<MoneyBox>::given([coin("a")]).when(WithdrawRequest::default());
    assert_eq!(refused.state().balance_minor, 1);
}

#[test]
fn the_context_is_fixed_and_can_be_changed() {
    let closed = |seconds, actor: &str| -> Event {
        let closed_time = Some(Timestamp { seconds, nanos: 0 });
        AccountClosed { closed_time, reason: actor.to_owned() }.into()
    };
    let close = CloseAccountRequest::default;
    Spec::<MoneyBox>::given([]).when(close()).then([closed(NOW.seconds, "spec")]);
    let later = Timestamp { seconds: 7, nanos: 0 };
    Spec::<MoneyBox>::given([]).at(later).when(close()).then([closed(7, "spec")]);
    let eve = Context { actor: "eve".to_owned(), ..context() };
    Spec::<MoneyBox>::given([]).within(eve).when(close()).then([closed(NOW.seconds, "eve")]);
}

#[test]
fn a_failure_shows_what_was_given_wanted_and_got() {
    let text = failure(|| {
        Spec::<MoneyBox>::given([coin("first"), coin("second")])
            .when(WithdrawRequest::default())
            .then([coin("third")]);
    });
    let expected = [
        "a specification of bank.account does not hold",
        "   given: 1. MoneyDeposited(",
        "          2. MoneyDeposited(",
        "    when: Withdraw(WithdrawRequest",
        "    then: 1. MoneyDeposited(",
        " but was: rejected: NotBroken { coins: 2 } (the box with 2 coins is not broken)",
        " context: Context { aggregate_id: \"spec\"",
    ];
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{text}");
    for (line, start) in lines.into_iter().zip(expected) {
        assert!(line.starts_with(start), "{line:?} does not start with {start:?}");
    }
}

#[test]
fn a_wrong_rejection_and_a_wrong_event_are_found() {
    failure(|| {
        Spec::<MoneyBox>::given([coin("a")])
            .when(WithdrawRequest::default())
            .then_rejected(BoxRejection::NotBroken { coins: 2 });
    });
    failure(|| Spec::<MoneyBox>::given([]).when(put("a")).then([coin("b")]));
    failure(|| Spec::<MoneyBox>::given([]).when(put("a")).then([coin("a"), coin("a")]));
    let text = failure(|| Spec::<MoneyBox>::given([]).when(put("a")).then_nothing());
    assert!(text.contains("then: no events"), "{text}");
}

#[test]
fn a_decision_that_is_not_pure_is_found_out() {
    let text = failure(|| {
        let open = OpenAccountRequest { owner_name: "Ada".to_owned(), ..Default::default() };
        let _ = Spec::<MoneyBox>::given([]).when(open);
    });
    assert!(text.contains("decide is not pure"), "{text}");
}

#[test]
fn a_fold_that_is_not_deterministic_is_found_out() {
    let text = failure(|| {
        let withdrawn = Event::MoneyWithdrawn(Default::default());
        let _ = Spec::<MoneyBox>::given([withdrawn]).when(put("a"));
    });
    assert!(text.contains("evolve is not deterministic"), "{text}");
}

#[test]
fn an_aggregate_that_the_command_does_not_read_is_not_given() {
    let text = failure(|| {
        let spec = Spec::<MoneyBox>::given([]).reading::<MoneyBox>("other", [coin("a")]);
        let _ = spec.when(put("b"));
    });
    assert!(text.contains("the command does not read bank.account-other"), "{text}");
}
