//! Laws of the account that hold for any sequence of commands.

use daybook_contract::bank::v1::account::{Command, Event};
use daybook_contract::bank::v1::{
    AccountRejection as Reason, AccountState, AccountStatus, CloseAccountRequest, DepositRequest,
    OpenAccountRequest, WithdrawRequest,
};
use daybook_contract::daybook::v1 as wire;
use daybook_domain::account::{Account, LIMIT_MINOR};
use daybook_kernel::spec::{context, fold};
use daybook_kernel::{Aggregate, Currency, Money, Rejection};
use proptest::prelude::*;

/// Small amounts, so that balances are hit exactly; the edges of the limit; anything at all.
fn amount() -> impl Strategy<Value = wire::Money> {
    let minor = prop_oneof![
        8 => -2..200_i64,
        2 => LIMIT_MINOR - 2..LIMIT_MINOR + 2,
        1 => any::<i64>(),
    ];
    let code = prop_oneof![8 => Just("USD"), 1 => Just("JPY"), 1 => Just("KWD")];
    let countable = (minor, code)
        .prop_map(|(minor, code)| Money::new(minor, Currency::new(code).unwrap()).into());
    let uncountable = prop_oneof![Just(i64::MIN), Just(i64::MAX)].prop_map(|units| wire::Money {
        currency_code: "USD".to_owned(),
        units,
        nanos: 0,
    });
    prop_oneof![20 => countable, 1 => uncountable]
}

fn command() -> impl Strategy<Value = Command> {
    let open = proptest::option::of(amount()).prop_map(|initial_balance| {
        OpenAccountRequest { initial_balance, ..Default::default() }.into()
    });
    let deposit = amount()
        .prop_map(|amount| DepositRequest { amount: Some(amount), ..Default::default() }.into());
    let withdraw = amount()
        .prop_map(|amount| WithdrawRequest { amount: Some(amount), ..Default::default() }.into());
    let close = Just(CloseAccountRequest::default().into());
    prop_oneof![2 => open, 6 => deposit, 6 => withdraw, 1 => close]
}

/// What an event adds to the balance.
fn effect(event: &Event) -> i128 {
    let minor = |amount: &Option<wire::Money>| {
        i128::from(Money::try_from(amount.as_ref().unwrap()).unwrap().minor())
    };
    match event {
        Event::AccountOpened(event) => minor(&event.initial_balance),
        Event::MoneyDeposited(event) => minor(&event.amount),
        Event::MoneyWithdrawn(event) => -minor(&event.amount),
        Event::AccountClosed(_) | Event::TransferSettled(_) | Event::PaymentSettled(_) => 0,
        Event::PaymentSent(event) => -minor(&event.amount),
        Event::PaymentRefunded(event) => minor(&event.amount),
        Event::TransferSent(event) => -minor(&event.amount),
        Event::TransferReceived(event) => minor(&event.amount),
        Event::TransferRefunded(event) => minor(&event.amount),
    }
}

/// Every rule that a command breaks, found without the code under test.
fn broken_rules(state: &AccountState, command: &Command) -> Vec<Reason> {
    let exists = state.status() != AccountStatus::Unspecified;
    let closed = state.status() == AccountStatus::Closed;
    let (amount, opens) = match command {
        Command::OpenAccount(request) => (request.initial_balance.clone(), true),
        Command::Deposit(request) => (request.amount.clone(), false),
        Command::Withdraw(request) => (request.amount.clone(), false),
        Command::CloseAccount(_) => (None, false),
        _ => unreachable!("transfers and payments have laws of their own, in saga_properties"),
    };
    let mut broken = Vec::new();
    let mut rule = |holds: bool, reason| {
        if !holds {
            broken.push(reason);
        }
    };
    rule(opens || exists, Reason::AccountNotFound);
    rule(!opens || !exists, Reason::AccountAlreadyOpen);
    rule(opens || !closed, Reason::AccountClosed);
    if let Some(amount) = amount {
        let places = Currency::new(&amount.currency_code).unwrap().exponent();
        let minor = i128::from(amount.units) * 10_i128.pow(places)
            + i128::from(amount.nanos) / 10_i128.pow(9 - places);
        let balance = i128::from(state.balance_minor);
        let after = if matches!(command, Command::Deposit(_)) { balance + minor } else { minor };
        rule(opens || amount.currency_code == state.currency_code, Reason::WrongCurrency);
        rule(minor > 0 || (opens && minor == 0), Reason::AmountNotPositive);
        rule(minor.max(after) <= i128::from(LIMIT_MINOR), Reason::AmountTooLarge);
        let withdraws = matches!(command, Command::Withdraw(_));
        rule(!withdraws || minor <= balance, Reason::InsufficientFunds);
    }
    let closes = matches!(command, Command::CloseAccount(_));
    rule(!closes || state.balance_minor == 0, Reason::BalanceNotZero);
    broken
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_sequence_of_commands_keeps_the_laws(
        commands in proptest::collection::vec(command(), 1..40),
    ) {
        let cx = context();
        let mut live = AccountState::default();
        let mut history = Vec::new();
        for command in &commands {
            let before = live.clone();
            let outcome = Account::decide(&live, command, &cx);

            // It is pure: nothing moved, and the same again gives the same.
            prop_assert_eq!(&live, &before);
            prop_assert_eq!(&Account::decide(&live, command, &cx), &outcome);

            // It refuses exactly what breaks a rule, and names the first.
            let first = broken_rules(&live, command).into_iter().next();
            let given = outcome.as_ref().err().map(|rejection| rejection.reason());
            let wanted = first.map(|reason| reason.as_str_name()["ACCOUNT_REJECTION_".len()..].to_owned());
            prop_assert_eq!(given.map(str::to_owned), wanted, "{:?} on {:?}", command, before);

            for event in outcome.unwrap_or_default() {
                Account::evolve(&mut live, &event);
                history.push(event);
            }
            prop_assert!((0..=LIMIT_MINOR).contains(&live.balance_minor), "{:?}", live);
        }

        // The balance is the sum of what happened, and replaying what was stored gives the state.
        let sum: i128 = history.iter().map(effect).sum();
        prop_assert_eq!(sum, i128::from(live.balance_minor));
        prop_assert_eq!(fold::<Account>(&history), live);
    }
}
