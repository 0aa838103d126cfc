//! Laws of a product that hold for any sequence of commands.

use daybook_contract::catalog::v1::product::{Command, Event};
use daybook_contract::catalog::v1::{
    ChangePriceRequest, CreateProductRequest, DescribeProductRequest, DiscontinueProductRequest,
    ProductRejection as Reason, ProductState, ProductStatus,
};
use daybook_contract::daybook::v1::Money;
use daybook_domain::product::{LIMIT_MINOR, Product};
use daybook_kernel::spec::{context, fold};
use daybook_kernel::{Aggregate, Rejection};
use proptest::prelude::*;

/// Few prices, the edges of the limit, and what is no price.
fn price() -> impl Strategy<Value = Money> {
    let minor = prop_oneof![
        6 => 1..4_i64,
        1 => -1..1_i64,
        1 => LIMIT_MINOR - 1..LIMIT_MINOR + 2,
        1 => any::<i64>(),
    ];
    (minor, prop_oneof![5 => Just("JPY"), 1 => Just("KRW")]).prop_map(|(units, currency)| Money {
        currency_code: currency.to_owned(),
        units,
        nanos: 0,
    })
}

fn command() -> impl Strategy<Value = Command> {
    let name = || prop_oneof![Just("pot".to_owned()), Just("cup".to_owned())];
    let create = (name(), price()).prop_map(|(name, price)| {
        CreateProductRequest { name, price: Some(price), ..Default::default() }.into()
    });
    let reprice = price()
        .prop_map(|price| ChangePriceRequest { price: Some(price), ..Default::default() }.into());
    let describe =
        name().prop_map(|name| DescribeProductRequest { name, ..Default::default() }.into());
    prop_oneof![
        3 => create,
        8 => reprice,
        3 => describe,
        1 => Just(DiscontinueProductRequest::default().into()),
    ]
}

/// The rules that a command breaks, in the order of the contract.
fn broken_rules(state: &ProductState, command: &Command) -> Vec<Reason> {
    let (price, creates) = match command {
        Command::CreateProduct(request) => (request.price.as_ref(), true),
        Command::ChangePrice(request) => (request.price.as_ref(), false),
        Command::DescribeProduct(_) | Command::DiscontinueProduct(_) => (None, false),
    };
    let exists = state.status() != ProductStatus::Unspecified;
    let currency = state.price.as_ref().map(|price| &price.currency_code);
    let mut broken = Vec::new();
    let mut rule = |holds: bool, reason| {
        if !holds {
            broken.push(reason);
        }
    };
    rule(creates || exists, Reason::ProductNotFound);
    rule(!creates || !exists, Reason::ProductAlreadyExists);
    let is_sold = state.status() != ProductStatus::Discontinued;
    rule(creates || is_sold, Reason::ProductDiscontinued);
    if let Some(price) = price {
        rule(creates || currency == Some(&price.currency_code), Reason::WrongCurrency);
        rule(price.units > 0, Reason::PriceNotPositive);
        rule(price.units <= LIMIT_MINOR, Reason::PriceTooLarge);
    }
    broken
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_sequence_of_commands_keeps_the_laws(
        commands in proptest::collection::vec(command(), 1..40),
    ) {
        let cx = context();
        let mut live = ProductState::default();
        let mut history = Vec::new();
        for command in &commands {
            let before = live.clone();
            let outcome = Product::decide(&live, command, &cx);
            prop_assert_eq!(&Product::decide(&live, command, &cx), &outcome);
            let first = broken_rules(&live, command).into_iter().next();
            let wanted = first.map(|reason| &reason.as_str_name()["PRODUCT_REJECTION_".len()..]);
            let given = outcome.as_ref().err().map(Rejection::reason);
            prop_assert_eq!(given, wanted, "{:?} on {:?}", command, before);
            for event in outcome.clone().unwrap_or_default() {
                if let Event::PriceChanged(changed) = &event {
                    prop_assert_eq!(&changed.old_price, &before.price);
                }
                Product::evolve(&mut live, &event);
                history.push(event);
            }

            // What is recorded changes something; what changes nothing is not recorded.
            let recorded = outcome.is_ok_and(|events| !events.is_empty());
            prop_assert_eq!(recorded, live != before, "{:?} on {:?}", command, before);
            let price = live.price.as_ref().map_or(1, |price| price.units);
            prop_assert!((1..=LIMIT_MINOR).contains(&price), "{:?}", live);
        }
        prop_assert_eq!(fold::<Product>(&history), live);
    }
}
