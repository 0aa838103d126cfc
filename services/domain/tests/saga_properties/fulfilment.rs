//! Fulfilments: all of it is done, or nothing of it is left.

use daybook_contract::bank::v1::{CloseAccountRequest, OpenAccountRequest, WithdrawRequest};
use daybook_contract::daybook::v1 as wire;
use daybook_contract::daybook::v1::SagaStatus;
use daybook_contract::daybook::v1::step_answer::Outcome;
use daybook_contract::inventory::v1::{
    AdjustStockRequest, ReceiveStockRequest, ReleaseReservationRequest, ShipReservationRequest,
};
use daybook_contract::orders::v1::{
    CancelFulfilmentRequest, CancelOrderRequest, ExpireFulfilmentRequest, FulfilmentStatus,
    OrderItem, OrderState, OrderStatus, PayOrderRequest, ShipOrderRequest, StartFulfilmentRequest,
    StartShipmentRequest,
};
use daybook_domain::account::Account;
use daybook_domain::fulfilment::Fulfilment;
use daybook_domain::order::Order;
use daybook_domain::shipment::Shipment;
use daybook_domain::stock::Stock;
use daybook_kernel::spec::NOW;
use daybook_kernel::{Currency, Money, Saga};
use proptest::prelude::*;

use crate::world::World;

/// What comes in between.
#[derive(Debug, Clone)]
enum Action {
    /// The runtime has seen the order.
    Start,
    Step {
        lost: bool,
    },
    Again {
        which: usize,
    },
    Expire,
    GiveUp,
    CancelOrder,
    /// Somebody pays by other means.
    PayByHand,
    /// The order leaves the house.
    ShipOrder,
    /// Somebody moves the goods of the order.
    ReleaseByHand {
        product: usize,
    },
    ShipByHand {
        product: usize,
    },
    /// Somebody else takes the money, and closes the account.
    EmptyAccount,
    /// Somebody else takes the goods.
    EmptyStock {
        product: usize,
    },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        20 => prop::bool::weighted(0.3).prop_map(|lost| Action::Step { lost }),
        4 => any::<usize>().prop_map(|which| Action::Again { which }),
        1 => Just(Action::Expire),
        1 => Just(Action::GiveUp),
        1 => Just(Action::CancelOrder),
        1 => Just(Action::Start),
        2 => Just(Action::PayByHand),
        1 => Just(Action::ShipOrder),
        1 => (0..3_usize).prop_map(|product| Action::ReleaseByHand { product }),
        1 => (0..3_usize).prop_map(|product| Action::ShipByHand { product }),
        1 => Just(Action::EmptyAccount),
        1 => (0..3_usize).prop_map(|product| Action::EmptyStock { product }),
    ]
}

fn usd(minor: i64) -> wire::Money {
    Money::new(minor, Currency::USD).into()
}

/// What has left the account and may come back.
fn in_flight(world: &World) -> i64 {
    world.accounts["ada"].transfers_in_flight.iter().map(|sent| sent.amount_minor).sum()
}

const ORDER: &str = "o1";
const BALANCE: i64 = 1_000;

/// A submitted order of three products, at 3.00 each, with an account and a stock of each.
fn world(pieces: [u64; 3]) -> World {
    let mut world = World::default();
    let account_id = "ada".to_owned();
    let initial_balance = Some(usd(BALANCE));
    let request = OpenAccountRequest { account_id, initial_balance, ..Default::default() };
    world.command::<Account>(request);
    for (product, quantity) in pieces.into_iter().enumerate().filter(|(_, pieces)| *pieces > 0) {
        let product_id = format!("p{product}");
        world.command::<Stock>(ReceiveStockRequest { product_id, quantity, ..Default::default() });
    }
    let item = |product: usize| OrderItem {
        line_id: (product + 1).to_string(),
        product_id: format!("p{product}"),
        quantity: 1,
        unit_price: Some(usd(300)),
    };
    let mut order = OrderState {
        user_id: "ada".to_owned(),
        items: (0..3).map(item).collect(),
        items_added: 3,
        account_id: "ada".to_owned(),
        created_time: Some(NOW),
        fulfil_by_time: Some(NOW),
        ..Default::default()
    };
    order.set_status(OrderStatus::Submitted);
    world.orders.insert(ORDER.to_owned(), order);
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn all_of_it_is_done_or_nothing_is_left(
        pieces in proptest::array::uniform3(0..4_u64),
        starts_late in prop::bool::weighted(0.2),
        actions in proptest::collection::vec(action(), 0..40),
    ) {
        let mut world = world(pieces);
        let start = || StartFulfilmentRequest { order_id: ORDER.to_owned(), ..Default::default() };
        if !starts_late {
            world.command::<Fulfilment>(start());
        }
        let mut taken = 0;
        let mut paid_by_hand = false;
        let mut seen = Vec::new();
        for action in actions {
            let order_id = ORDER.to_owned();
            match action {
                Action::Start => {
                    world.command::<Fulfilment>(start());
                }
                Action::PayByHand => {
                    let paid = world.command::<Order>(PayOrderRequest { order_id, ..Default::default() });
                    paid_by_hand |= matches!(paid, Outcome::Receipt(_));
                }
                Action::ShipOrder => {
                    let ship = ShipOrderRequest { order_id: order_id.clone(), ..Default::default() };
                    world.command::<Order>(ship);
                    world.command::<Shipment>(StartShipmentRequest { order_id, context: None });
                }
                Action::ReleaseByHand { product } => {
                    let (product_id, line_id) = (format!("p{product}"), (product + 1).to_string());
                    let request = ReleaseReservationRequest {
                        product_id,
                        order_id,
                        line_id,
                        ..Default::default()
                    };
                    world.command::<Stock>(request);
                }
                Action::ShipByHand { product } => {
                    let (product_id, line_id) = (format!("p{product}"), (product + 1).to_string());
                    let request =
                        ShipReservationRequest { product_id, order_id, line_id, context: None };
                    world.command::<Stock>(request);
                }
                Action::Step { lost } => {
                    if let Some(open) = world.open.first().cloned() {
                        seen.push(open.clone());
                        world.carry_out(&open, lost);
                    }
                }
                Action::Again { which } if !seen.is_empty() => {
                    let open = seen[which % seen.len()].clone();
                    world.carry_out(&open, false);
                }
                Action::Again { .. } => {}
                Action::Expire => {
                    let request = ExpireFulfilmentRequest { order_id, ..Default::default() };
                    world.command::<Fulfilment>(request);
                }
                Action::GiveUp => {
                    let request = CancelFulfilmentRequest { order_id, ..Default::default() };
                    world.command::<Fulfilment>(request);
                }
                Action::CancelOrder => {
                    world.command::<Order>(CancelOrderRequest { order_id, ..Default::default() });
                }
                Action::EmptyAccount => {
                    let account_id = "ada".to_owned();
                    let minor = world.accounts["ada"].balance_minor;
                    let amount = (minor > 0).then(|| usd(minor));
                    let request = WithdrawRequest {
                        account_id: account_id.clone(),
                        amount,
                        ..Default::default()
                    };
                    world.command::<Account>(request);
                    taken += minor - world.accounts["ada"].balance_minor;
                    world.command::<Account>(CloseAccountRequest { account_id, ..Default::default() });
                }
                Action::EmptyStock { product } => {
                    let product_id = format!("p{product}");
                    let stock = world.stocks.get(&product_id).cloned().unwrap_or_default();
                    let quantity_delta = -((stock.on_hand - stock.reserved) as i64);
                    let request = AdjustStockRequest { product_id, quantity_delta, ..Default::default() };
                    world.command::<Stock>(request);
                }
            }
            let there = world.accounts["ada"].balance_minor + in_flight(&world);
            prop_assert_eq!(there + world.settled + taken, BALANCE);
        }
        world.command::<Fulfilment>(start());
        world.settle();

        let fulfilment = &world.fulfilments[ORDER];
        let order = world.orders[ORDER].status();
        let paid = BALANCE - world.accounts["ada"].balance_minor - taken;
        prop_assert_eq!((paid, in_flight(&world)), (world.settled, 0));
        let reserved: u64 = world.stocks.values().map(|stock| stock.reserved).sum();
        let shipped: usize = world.stocks.values().map(|stock| stock.shipped.len()).sum();
        match (fulfilment.status(), order) {
            // What was sold is kept, and leaves the house with the order.
            (FulfilmentStatus::Completed, OrderStatus::Paid) => {
                prop_assert_eq!((paid, reserved, shipped), (900, 3, 0));
            }
            (FulfilmentStatus::Completed, OrderStatus::Shipped) => {
                prop_assert_eq!((paid, reserved, shipped), (900, 0, 3));
                let shipment = Shipment::status(&world.shipments[ORDER]);
                prop_assert_eq!(shipment, SagaStatus::Completed);
            }
            // Nothing of it is left.
            (FulfilmentStatus::Undone, OrderStatus::Cancelled) => {
                prop_assert_eq!((paid, reserved, shipped), (0, 0, 0));
            }
            // It was paid by other means first.
            (FulfilmentStatus::Undone, OrderStatus::Paid | OrderStatus::Shipped) => {
                prop_assert!(paid_by_hand);
                prop_assert_eq!((paid, reserved, shipped), (0, 0, 0));
            }
            _ => prop_assert!(false, "{:?} and {:?}", fulfilment, order),
        }
    }
}
