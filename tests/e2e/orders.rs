//! Orders as their users meet them.

use daybook_client::{CommandReceipt, Money};
use daybook_contract::orders::v1::{
    AddItemRequest, CancelOrderRequest, CreateOrderRequest, Order, OrderStatus, PayOrderRequest,
    RemoveItemRequest, ShipOrderRequest, SubmitOrderRequest,
};
use futures::{TryStreamExt, future};
use tonic::Code;

use crate::common::{eur, everything, head, minor, usd};
use crate::shop::Shop;

impl Shop {
    /// An order, as it is now.
    async fn order(&self, order: &str) -> Order {
        let query = self.client.get_order(order).min_position(head(&self.client).await);
        query.await.unwrap().order.unwrap()
    }

    /// Ada, teapots at 19.99 USD and cups at 4.50 USD.
    async fn with_teapots() -> Self {
        let shop = Self::open();
        shop.user("ada").await;
        shop.product("teapot", usd(19_99)).await;
        shop.product("cup", usd(4_50)).await;
        shop
    }

    /// An order of Ada with two teapots that has come so far.
    async fn order_at(&self, order: &str, status: OrderStatus) {
        use OrderStatus::{Cancelled, Open, Paid, Shipped};
        self.client.create_order("ada").order_id(order).await.unwrap();
        self.client.add_item(order, "teapot", 2).await.unwrap();
        if status == Cancelled {
            self.client.cancel_order(order).await.unwrap();
        }
        if matches!(status, Open | Cancelled) {
            return;
        }
        self.client.submit_order(order, "account").await.unwrap();
        if matches!(status, Paid | Shipped) {
            self.client.pay_order(order).payment_id("payment").await.unwrap();
        }
        if status == Shipped {
            self.client.ship_order(order).tracking_id("parcel").await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_order_goes_from_the_first_item_to_the_parcel() {
    let shop = Shop::with_teapots().await;
    let client = &shop.client;
    let created = client.create_order("ada").await.unwrap();
    let id = created.aggregate_id.as_str();
    client.add_item(id, "teapot", 2).await.unwrap();
    client.add_item(id, "cup", 6).await.unwrap();
    client.add_item(id, "cup", 1).await.unwrap();
    client.remove_item(id, "2").await.unwrap();
    // The price is that of the moment of adding.
    shop.price("cup", usd(5_00)).await;
    client.add_item(id, "cup", 3).await.unwrap();
    let order = shop.order(id).await;
    assert_eq!((order.status(), order.user_id.as_str()), (OrderStatus::Open, "ada"));
    assert_eq!(minor(order.total.as_ref().unwrap()), 2 * 19_99 + 4_50 + 3 * 5_00);
    let items: Vec<_> = order
        .items
        .iter()
        .map(|item| {
            let price = minor(item.unit_price.as_ref().unwrap());
            (item.line_id.as_str(), item.product_id.as_str(), item.quantity, price)
        })
        .collect();
    assert_eq!(items, [("1", "teapot", 2, 19_99), ("3", "cup", 1, 4_50), ("4", "cup", 3, 5_00)]);

    client.submit_order(id, "adas-account").await.unwrap();
    client.pay_order(id).payment_id("payment-1").await.unwrap();
    let shipped = client.ship_order(id).tracking_id("parcel-1").await.unwrap();
    let order = shop.order(id).await;
    assert_eq!((order.status(), order.version), (OrderStatus::Shipped, shipped.version));
    let known = [&order.account_id, &order.payment_id, &order.tracking_id];
    assert_eq!(known, ["adas-account", "payment-1", "parcel-1"]);
    assert!(order.submitted_time.is_some() && order.paid_time.is_some());
    assert!(order.shipped_time.is_some() && order.cancelled_time.is_none());
}

#[tokio::test]
async fn every_step_out_of_turn_is_refused_by_name() {
    let shop = Shop::with_teapots().await;
    use OrderStatus::{Cancelled, Open, Paid, Shipped, Submitted};
    let statuses = [Open, Submitted, Paid, Shipped, Cancelled];
    for status in statuses {
        shop.order_at(&format!("{status:?}"), status).await;
    }
    // For open, submitted, paid, shipped, cancelled; empty for what would be accepted.
    let submitted = "ORDER_ALREADY_SUBMITTED";
    let (paid, shipped) = ("ORDER_ALREADY_PAID", "ORDER_ALREADY_SHIPPED");
    let (not_submitted, cancelled) = ("ORDER_NOT_SUBMITTED", "ORDER_CANCELLED");
    let table = [
        ("AddItem", ["", submitted, paid, shipped, cancelled]),
        ("RemoveItem", ["", submitted, paid, shipped, cancelled]),
        ("SubmitOrder", ["", submitted, paid, shipped, cancelled]),
        ("PayOrder", [not_submitted, "", paid, shipped, cancelled]),
        ("ShipOrder", [not_submitted, "ORDER_NOT_PAID", "", shipped, cancelled]),
        ("CancelOrder", ["", "", paid, shipped, ""]),
    ];
    let (client, mut orders) = (&shop.client, shop.orders.clone());
    for (command, reasons) in table {
        for (status, reason) in statuses.into_iter().zip(reasons).filter(|(_, r)| !r.is_empty()) {
            let id = format!("{status:?}");
            let error = match command {
                "AddItem" => {
                    let request = client.add_item(&id, "teapot", 1).into_request();
                    shop.forbids(orders.add_item(request), reason).await
                }
                "RemoveItem" => {
                    let request = client.remove_item(&id, "1").into_request();
                    shop.forbids(orders.remove_item(request), reason).await
                }
                "SubmitOrder" => {
                    let request = client.submit_order(&id, "account").into_request();
                    shop.forbids(orders.submit_order(request), reason).await
                }
                "PayOrder" => {
                    let request = client.pay_order(&id).into_request();
                    shop.forbids(orders.pay_order(request), reason).await
                }
                "ShipOrder" => {
                    let request = client.ship_order(&id).into_request();
                    shop.forbids(orders.ship_order(request), reason).await
                }
                _ => {
                    let request = client.cancel_order(&id).into_request();
                    shop.forbids(orders.cancel_order(request), reason).await
                }
            };
            assert_eq!(error.metadata()["order_id"], id, "{command}");
        }
    }
    for status in statuses {
        let request = client.create_order("ada").order_id(format!("{status:?}")).into_request();
        let reason = "ORDER_ALREADY_EXISTS";
        shop.refuses(orders.create_order(request), Code::AlreadyExists, reason).await;
    }
    // What undoes a step may be repeated.
    let again = client.cancel_order("Cancelled").await.unwrap();
    assert!(again.event_ids.is_empty());
}

#[tokio::test]
async fn only_what_is_sold_is_ordered_and_only_by_those_who_may() {
    let shop = Shop::with_teapots().await;
    shop.user("bob").await;
    shop.deactivate("bob").await;
    shop.product("plate", usd(7_00)).await;
    shop.discontinue("plate").await;
    shop.product("saucer", eur(2_00)).await;
    shop.order_at("open", OrderStatus::Open).await;
    let (client, mut orders) = (&shop.client, shop.orders.clone());

    let nobody = client.create_order("nobody").into_request();
    let error = shop.forbids(orders.create_order(nobody), "UNKNOWN_USER").await;
    assert_eq!(error.metadata()["user_id"], "nobody");
    let bob = client.create_order("bob").into_request();
    shop.forbids(orders.create_order(bob), "USER_DEACTIVATED").await;

    let spoon = client.add_item("open", "spoon", 1).into_request();
    let error = shop.forbids(orders.add_item(spoon), "UNKNOWN_PRODUCT").await;
    assert_eq!(error.metadata()["product_id"], "spoon");
    let plate = client.add_item("open", "plate", 1).into_request();
    shop.forbids(orders.add_item(plate), "PRODUCT_DISCONTINUED").await;
    let saucer = client.add_item("open", "saucer", 1).into_request();
    let error = shop.forbids(orders.add_item(saucer), "WRONG_CURRENCY").await;
    assert_eq!(
        (&*error.metadata()["order_currency"], &*error.metadata()["currency"]),
        ("USD", "EUR")
    );
    let line = client.remove_item("open", "2").into_request();
    shop.forbids(orders.remove_item(line), "ITEM_NOT_IN_ORDER").await;
    client.remove_item("open", "1").await.unwrap();
    let empty = client.submit_order("open", "account").into_request();
    shop.forbids(orders.submit_order(empty), "ORDER_EMPTY").await;
    // With nothing in it, an order takes any currency again.
    client.add_item("open", "saucer", 1).await.unwrap();

    // 10^12 cents times 1,000 are just within the limit; one cent more is not.
    let dear = Money { currency_code: "EUR".into(), units: 10_i64.pow(10), nanos: 0 };
    shop.product("palace", dear).await;
    client.remove_item("open", "2").await.unwrap();
    client.add_item("open", "palace", 1_000).await.unwrap();
    let saucer = client.add_item("open", "saucer", 1).into_request();
    let error = shop.forbids(orders.add_item(saucer), "TOTAL_TOO_LARGE").await;
    assert_eq!(error.metadata()["limit"], "10000000000000.00 EUR");
    let total = shop.order("open").await.total.unwrap();
    assert_eq!((total.units, total.nanos), (10_i64.pow(13), 0));
}

#[tokio::test]
async fn an_order_that_does_not_exist_is_not_found() {
    let shop = Shop::with_teapots().await;
    let (client, mut orders) = (&shop.client, shop.orders.clone());
    let (code, reason) = (Code::NotFound, "ORDER_NOT_FOUND");
    let add = client.add_item("nothing", "teapot", 1).into_request();
    shop.refuses(orders.add_item(add), code, reason).await;
    let remove = client.remove_item("nothing", "1").into_request();
    shop.refuses(orders.remove_item(remove), code, reason).await;
    let submit = client.submit_order("nothing", "account").into_request();
    shop.refuses(orders.submit_order(submit), code, reason).await;
    let pay = client.pay_order("nothing").into_request();
    shop.refuses(orders.pay_order(pay), code, reason).await;
    let ship = client.ship_order("nothing").into_request();
    shop.refuses(orders.ship_order(ship), code, reason).await;
    let cancel = client.cancel_order("nothing").into_request();
    let error = shop.refuses(orders.cancel_order(cancel), code, reason).await;
    assert_eq!(error.details().resource_info().unwrap().resource_type, "orders.order");
    let unknown = client.get_order("nothing").await.unwrap_err();
    assert_eq!((unknown.code(), unknown.reason()), (code, reason));
}

#[tokio::test]
async fn every_malformed_field_of_an_order_command_is_named() {
    let shop = Shop::open();
    let mut orders = shop.orders.clone();
    for id in ["a b", "ä", "a/b", &"x".repeat(65)] {
        let request = CreateOrderRequest { order_id: id.into(), user_id: id.into(), context: None };
        shop.refuses_fields(orders.create_order(request), &["order_id", "user_id"]).await;
        let request = AddItemRequest {
            order_id: id.into(),
            product_id: id.into(),
            quantity: 0,
            context: None,
        };
        let fields = ["order_id", "product_id", "quantity"];
        shop.refuses_fields(orders.add_item(request), &fields).await;
    }
    let request = CreateOrderRequest::default();
    shop.refuses_fields(orders.create_order(request), &["user_id"]).await;
    for (quantity, what) in [
        (0, "must be set, and not to 0".to_owned()),
        (1_000_001, "1000001 is too large; at most 1000000 is allowed".to_owned()),
        (10_u64.pow(12), "1000000000000 is too large; at most 1000000 is allowed".to_owned()),
        (u64::MAX, format!("{} is too large; at most 1000000 is allowed", u64::MAX)),
    ] {
        let request = shop.client.add_item("order", "teapot", quantity).into_request();
        let said = shop.refuses_fields(orders.add_item(request), &["quantity"]).await;
        assert_eq!(said, what);
    }
    let request = RemoveItemRequest::default();
    shop.refuses_fields(orders.remove_item(request), &["order_id", "line_id"]).await;
    let request = SubmitOrderRequest::default();
    shop.refuses_fields(orders.submit_order(request), &["order_id", "account_id"]).await;
    let request = PayOrderRequest { payment_id: "x".repeat(65), ..Default::default() };
    shop.refuses_fields(orders.pay_order(request), &["order_id", "payment_id"]).await;
    let request = ShipOrderRequest { tracking_id: "x".repeat(101), ..Default::default() };
    shop.refuses_fields(orders.ship_order(request), &["order_id", "tracking_id"]).await;
    let request = CancelOrderRequest { reason: "x".repeat(501), ..Default::default() };
    shop.refuses_fields(orders.cancel_order(request), &["order_id", "reason"]).await;
    assert_eq!(head(&shop.client).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_added_while_its_price_changes_has_one_of_the_two_prices_as_of_its_place() {
    let shop = Shop::with_teapots().await;
    shop.order_at("open", OrderStatus::Open).await;
    let adding = async {
        for _ in 0..50 {
            shop.client.add_item("open", "cup", 1).await.unwrap();
        }
    };
    let changing = async {
        for cents in 1..=50 {
            shop.price("cup", usd(cents)).await;
        }
    };
    future::join(adding, changing).await;
    // The log tells what the price was when each item was added.
    let mut price = usd(4_50);
    let mut items = 0;
    for event in everything(&shop.client).await {
        let payload = event.payload.clone().unwrap();
        let daybook_contract::daybook::v1::recorded_event::Payload::Event(any) = payload else {
            panic!("an event of the contract")
        };
        use daybook_contract::{catalog::v1::PriceChanged, orders::v1::ItemAdded};
        match event.event_name.as_str() {
            "PriceChanged" => {
                let changed: PriceChanged = prost::Message::decode(any.value.as_slice()).unwrap();
                price = changed.price.unwrap();
            }
            "ItemAdded" => {
                let added: ItemAdded = prost::Message::decode(any.value.as_slice()).unwrap();
                let item = added.item.unwrap();
                if item.product_id == "cup" {
                    assert_eq!(item.unit_price, Some(price.clone()), "at {}", event.position);
                    items += 1;
                }
            }
            _ => {}
        }
    }
    assert_eq!(items, 50);
}

#[tokio::test]
async fn orders_are_found_by_user_status_time_and_product_and_summed_up() {
    let shop = Shop::with_teapots().await;
    shop.user("bob").await;
    use OrderStatus::{Cancelled, Open, Paid, Shipped, Submitted};
    for (number, status) in
        [Open, Submitted, Paid, Shipped, Cancelled, Paid].into_iter().enumerate()
    {
        shop.order_at(&format!("ada-{number}"), status).await;
    }
    shop.client.create_order("bob").order_id("bob-0").await.unwrap();
    let last = shop.client.add_item("bob-0", "cup", 3).await.unwrap();
    let client = shop.client.read_your_writes();
    let all = CommandReceipt { position: last.position, ..Default::default() };
    let ids = async |query: daybook_client::Query<_>| -> Vec<String> {
        let orders: Vec<Order> = query.after(&all).page_size(2).all().try_collect().await.unwrap();
        orders.into_iter().map(|order| order.order_id).collect()
    };
    let everything = ids(client.list_orders()).await;
    assert_eq!(everything, ["bob-0", "ada-5", "ada-4", "ada-3", "ada-2", "ada-1", "ada-0"]);
    assert_eq!(ids(client.list_orders().user("bob")).await, ["bob-0"]);
    assert_eq!(ids(client.list_orders().status(Paid)).await, ["ada-5", "ada-2"]);
    let open_of_ada = client.list_orders().status(Open).user("ada");
    assert_eq!(ids(open_of_ada).await, ["ada-0"]);
    let middle = shop.order("ada-3").await.created_time.unwrap();
    assert_eq!(ids(client.list_orders().since(middle)).await, everything[..4]);
    assert_eq!(ids(client.list_orders().until(middle)).await, everything[4..]);

    assert_eq!(client.list_orders_by_product("ghost").await.unwrap().orders, []);
    let cups = client.list_orders_by_product("cup").await.unwrap().orders;
    assert_eq!(cups.len(), 1);
    assert_eq!((cups[0].order_id.as_str(), cups[0].item.as_ref().unwrap().quantity), ("bob-0", 3));
    let teapots: Vec<_> =
        client.list_orders_by_product("teapot").page_size(1).all().try_collect().await.unwrap();
    assert_eq!(teapots.len(), 6);

    // A run over midnight has two days.
    let first = shop.order("ada-0").await.created_time.unwrap().to_string();
    let day = last.recorded_time.unwrap().to_string();
    let query = client.daily_statistics(&first[..10], &day[..10]).currency("USD");
    let days = query.after(&all).await.unwrap().days;
    let sum = |count: fn(&_) -> u64| days.iter().map(count).sum::<u64>();
    assert_eq!(sum(|day: &daybook_contract::orders::v1::DailyStatistics| day.orders_submitted), 4);
    assert_eq!(sum(|day| day.orders_paid), 3);
    assert_eq!(sum(|day| day.orders_cancelled), 0);
    let revenue: i64 = days.iter().map(|day| minor(day.revenue.as_ref().unwrap())).sum();
    assert_eq!(revenue, 3 * 2 * 19_99);
    for day in days.iter().filter(|day| day.orders_paid > 0) {
        assert_eq!(day.average_basket, Some(usd(2 * 19_99)));
    }
}
