//! Laws of the order that hold for any sequence of commands.

use daybook_contract::catalog::v1::{ProductState, ProductStatus};
use daybook_contract::contract::CommandSet;
use daybook_contract::orders::v1::order::{Command, Event};
use daybook_contract::orders::v1::{
    AddItemRequest, CancelOrderRequest, CreateOrderRequest, OrderState, OrderStatus,
    PayOrderRequest, RemoveItemRequest, ShipOrderRequest, SubmitOrderRequest,
};
use daybook_contract::users::v1::{UserState, UserStatus};
use daybook_domain::order::{LIMIT_ITEMS, LIMIT_MINOR, Order};
use daybook_kernel::spec::{context, fold};
use daybook_kernel::{Aggregate, Currency, Money};
use proptest::prelude::*;

/// Products at small prices, at the edge of the limit, and at anything at all; some not sold.
fn product() -> impl Strategy<Value = ProductState> {
    let minor = prop_oneof![
        20 => 1..1_000_i64,
        2 => LIMIT_MINOR - 1_000..LIMIT_MINOR + 2,
        1 => 1..=i64::MAX,
    ];
    let status = prop_oneof![
        1 => Just(ProductStatus::Unspecified),
        10 => Just(ProductStatus::Active),
        1 => Just(ProductStatus::Discontinued),
    ];
    let code = prop_oneof![9 => Just("USD"), 1 => Just("JPY")];
    (minor, status, code).prop_map(|(minor, status, code)| {
        let mut product = ProductState::default();
        product.set_status(status);
        if status != ProductStatus::Unspecified {
            product.price = Some(Money::new(minor, Currency::new(code).unwrap()).into());
        }
        product
    })
}

fn command() -> impl Strategy<Value = Command> {
    let user = prop_oneof![
        1 => Just(UserStatus::Unspecified),
        1 => Just(UserStatus::Deactivated),
        8 => Just(UserStatus::Active),
    ];
    let create = user.prop_map(|status| {
        let mut user = UserState::default();
        user.set_status(status);
        reading(CreateOrderRequest { user_id: "ada".to_owned(), ..Default::default() }, &user)
    });
    let quantity = prop_oneof![20 => 1..50_u64, 1 => any::<u64>()];
    let add = (product(), quantity).prop_map(|(product, quantity)| {
        let product_id = "cup".to_owned();
        reading(AddItemRequest { product_id, quantity, ..Default::default() }, &product)
    });
    let remove = (1..12_u32).prop_map(|line| {
        RemoveItemRequest { line_id: line.to_string(), ..Default::default() }.into()
    });
    prop_oneof![
        2 => create,
        12 => add,
        4 => remove,
        1 => Just(SubmitOrderRequest::default().into()),
        1 => Just(PayOrderRequest::default().into()),
        1 => Just(ShipOrderRequest::default().into()),
        1 => Just(CancelOrderRequest::default().into()),
    ]
}

fn reading<S: 'static>(request: impl Into<Command>, state: &S) -> Command {
    let mut command = request.into();
    assert!(command.set_read(0, state));
    command
}

/// What the items come to, found without the code under test; all in one currency.
fn sum(state: &OrderState) -> i128 {
    let mut codes: Vec<_> = state
        .items
        .iter()
        .map(|item| item.unit_price.as_ref().unwrap().currency_code.clone())
        .collect();
    codes.dedup();
    assert!(codes.len() < 2, "{codes:?}");
    let prices = state.items.iter().map(|item| {
        let price = Money::try_from(item.unit_price.as_ref().unwrap()).unwrap().minor();
        i128::from(price) * i128::from(item.quantity)
    });
    prices.sum()
}

/// Whether a step may be taken: the order only ever goes forward.
fn may_follow(before: OrderStatus, after: OrderStatus) -> bool {
    use OrderStatus::{Cancelled, Open, Paid, Shipped, Submitted, Unspecified};
    matches!(
        (before, after),
        (Unspecified, Open)
            | (Open, Open | Submitted | Cancelled)
            | (Submitted, Paid | Cancelled)
            | (Paid, Shipped)
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_sequence_of_commands_keeps_the_laws(
        commands in proptest::collection::vec(command(), 1..60),
    ) {
        let cx = context();
        let mut live = OrderState::default();
        let mut history = Vec::new();
        for command in &commands {
            let before = live.clone();
            let outcome = Order::decide(&live, command, &cx);
            prop_assert_eq!(&live, &before);
            prop_assert_eq!(&Order::decide(&live, command, &cx), &outcome);

            for event in outcome.unwrap_or_default() {
                Order::evolve(&mut live, &event);
                prop_assert!(may_follow(before.status(), live.status()), "{:?} {:?}", before, event);
                // What was wanted and what was paid is the exact sum of the items.
                let stated = match &event {
                    Event::OrderSubmitted(event) => {
                        prop_assert_eq!(&event.items, &live.items);
                        event.total.as_ref()
                    }
                    Event::OrderPaid(event) => event.amount.as_ref(),
                    _ => None,
                };
                if let Some(stated) = stated {
                    let stated = Money::try_from(stated).unwrap();
                    prop_assert!(stated.is_positive());
                    prop_assert_eq!(i128::from(stated.minor()), sum(&live));
                }
                history.push(event);
            }
            prop_assert!((0..=i128::from(LIMIT_MINOR)).contains(&sum(&live)));
            prop_assert!(live.items.len() <= LIMIT_ITEMS);

            // No two items have ever had one line.
            let mut lines: Vec<_> = history.iter().filter_map(|event| match event {
                Event::ItemAdded(event) => event.item.as_ref().map(|item| &item.line_id),
                _ => None,
            }).collect();
            let count = lines.len();
            lines.sort();
            lines.dedup();
            prop_assert_eq!(lines.len(), count);
        }
        prop_assert_eq!(fold::<Order>(&history), live);
    }
}
