//! The inventory as its users meet it.

use std::collections::BTreeSet;

use daybook_contract::inventory::v1::watch_low_stock_response::Update;
use daybook_contract::inventory::v1::{
    AdjustStockRequest, MovementKind, ReceiveStockRequest, ReleaseReservationRequest,
    ReserveStockRequest, SetLowStockThresholdRequest, ShipReservationRequest, Stock,
    WatchLowStockResponse,
};
use futures::{Stream, StreamExt, TryStreamExt, future};
use tonic::Code;

use crate::common::{PATIENCE, head};
use crate::shop::Shop;

impl Shop {
    /// The stock of a product, as it is now.
    async fn stock(&self, product: &str) -> Stock {
        let query = self.client.get_stock(product).min_position(head(&self.client).await);
        query.await.unwrap().stock.unwrap()
    }

    /// Takes goods in without more ado.
    async fn receive(&self, product: &str, quantity: u64) {
        self.client.receive_stock(product, quantity).await.unwrap();
    }
}

#[tokio::test]
async fn goods_come_in_are_reserved_and_leave_the_house() {
    let shop = Shop::open();
    let client = &shop.client;
    let received = client.receive_stock("teapot", 20).reference("note 7").await.unwrap();
    assert_eq!((received.aggregate_id.as_str(), received.version), ("teapot", 1));
    client.reserve_stock("teapot", "order-1", "1", 8).await.unwrap();
    client.reserve_stock("teapot", "order-1", "2", 5).await.unwrap();
    client.release_reservation("teapot", "order-1", "2").reason("cancelled").await.unwrap();
    client.ship_reservation("teapot", "order-1", "1").await.unwrap();
    client.adjust_stock("teapot", -2, "broken").await.unwrap();
    let adjusted = client.adjust_stock("teapot", 1, "glued").await.unwrap();
    assert_eq!(adjusted.version, 7);

    let stock = shop.stock("teapot").await;
    assert_eq!((stock.on_hand, stock.reserved, stock.available), (11, 0, 11));
    assert_eq!((stock.version, stock.low), (7, false));
    let list = client.list_movements("teapot").page_size(2).all();
    let movements: Vec<_> = list.try_collect().await.unwrap();
    let shown: Vec<_> = movements.iter().map(|m| (m.kind(), m.quantity, m.on_hand_after)).collect();
    use MovementKind::{Decrease, Increase, Receipt, Release, Reservation, Shipment};
    assert_eq!(
        shown,
        [
            (Increase, 1, 11),
            (Decrease, 2, 10),
            (Shipment, 8, 12),
            (Release, 5, 20),
            (Reservation, 5, 20),
            (Reservation, 8, 20),
            (Receipt, 20, 20),
        ]
    );
    assert_eq!(movements[6].event_id, received.event_ids[0]);
    let some = client.list_movements("teapot").kind(Reservation).await.unwrap();
    assert_eq!(some.movements.len(), 2);
    let middle = movements[3].recorded_time.unwrap();
    let since = client.list_movements("teapot").since(middle).await.unwrap().movements.len();
    let until = client.list_movements("teapot").until(middle).await.unwrap().movements.len();
    assert_eq!(since + until, 7);
}

#[tokio::test]
async fn a_line_is_reserved_released_and_shipped_once_however_often_it_is_asked_for() {
    let shop = Shop::open();
    let client = &shop.client;
    shop.receive("teapot", 3).await;
    let position = client.reserve_stock("teapot", "17", "1", 2).await.unwrap().position;
    // Each of these is a new request, as from a process that has forgotten what it did.
    for _ in 0..3 {
        let again = client.reserve_stock("teapot", "17", "1", 2).await.unwrap();
        assert_eq!((again.event_ids.len(), again.position, again.version), (0, position, 2));
    }
    let mut inventory = shop.inventory.clone();
    let more = client.reserve_stock("teapot", "17", "1", 3).into_request();
    let error = shop.forbids(inventory.reserve_stock(more), "RESERVATION_DIFFERS").await;
    assert_eq!((&*error.metadata()["reserved"], &*error.metadata()["requested"]), ("2", "3"));

    for _ in 0..2 {
        client.release_reservation("teapot", "17", "1").await.unwrap();
        client.release_reservation("teapot", "17", "never-reserved").await.unwrap();
    }
    assert_eq!(shop.stock("teapot").await.available, 3);
    client.reserve_stock("teapot", "17", "1", 3).await.unwrap();
    for _ in 0..3 {
        client.ship_reservation("teapot", "17", "1").await.unwrap();
    }
    let release = client.release_reservation("teapot", "17", "1").into_request();
    shop.forbids(inventory.release_reservation(release), "RESERVATION_SHIPPED").await;
    let reserve = client.reserve_stock("teapot", "17", "1", 3).into_request();
    shop.forbids(inventory.reserve_stock(reserve), "RESERVATION_SHIPPED").await;
    let ship = client.ship_reservation("teapot", "17", "2").into_request();
    shop.forbids(inventory.ship_reservation(ship), "NOT_RESERVED").await;
    let stock = shop.stock("teapot").await;
    assert_eq!((stock.on_hand, stock.reserved, stock.version), (0, 0, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_32_clients_that_reserve_the_last_item_exactly_one_gets_it() {
    let shop = Shop::open();
    for round in 0..20 {
        let product = format!("last-{round}");
        shop.receive(&product, 1).await;
        let attempts = (0..32).map(|number| {
            let (client, product) = (shop.site.strict_client(), product.clone());
            tokio::spawn(async move {
                let order = format!("order-{number}");
                client.reserve_stock(&product, order, "1", 1).await
            })
        });
        let outcomes = future::join_all(attempts).await;
        let (won, lost): (Vec<_>, Vec<_>) =
            outcomes.into_iter().map(Result::unwrap).partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 31), "round {round}");
        for error in lost.into_iter().map(Result::unwrap_err) {
            assert_eq!(error.reason(), "INSUFFICIENT_STOCK");
            assert_eq!(error.metadata()["available"], "0");
        }
        let stock = shop.stock(&product).await;
        assert_eq!((stock.on_hand, stock.reserved, stock.available, stock.version), (1, 1, 0, 2));
    }
}

/// What a watcher is told next.
async fn told(
    updates: &mut (impl Stream<Item = Result<WatchLowStockResponse, daybook_client::Error>> + Unpin),
) -> Option<(String, u64, bool)> {
    let next = tokio::time::timeout(PATIENCE, updates.next()).await.unwrap();
    match next.unwrap().unwrap().update.unwrap() {
        Update::Stock(stock) => Some((stock.product_id, stock.available, stock.low)),
        Update::CaughtUp(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn low_stock_is_watched_until_the_server_stops() {
    let shop = Shop::open();
    let client = shop.client.read_your_writes();
    for (product, quantity) in [("cup", 9), ("teapot", 4)] {
        client.receive_stock(product, quantity).await.unwrap();
        client.set_low_stock_threshold(product, 4).await.unwrap();
    }
    let list = client.list_low_stock().await.unwrap().stocks;
    assert_eq!(list.len(), 1);
    assert_eq!((list[0].product_id.as_str(), list[0].available), ("teapot", 4));
    assert!(list[0].low && list[0].low_since_time.is_some());

    let mut updates = std::pin::pin!(client.watch_low_stock());
    let low = |product: &str, available, low| Some((product.to_owned(), available, low));
    assert_eq!(told(&mut updates).await, low("teapot", 4, true));
    assert_eq!(told(&mut updates).await, None);
    client.reserve_stock("cup", "17", "1", 5).await.unwrap();
    assert_eq!(told(&mut updates).await, low("cup", 4, true));
    client.release_reservation("cup", "17", "1").await.unwrap();
    // Between the release and the end of the alert a watcher may see the one without the other.
    let next = told(&mut updates).await;
    let next = if next == low("cup", 9, true) { told(&mut updates).await } else { next };
    assert_eq!(next, low("cup", 9, false));

    let process = shop.process;
    let stopped = tokio::task::spawn_blocking(move || process.terminate());
    let end = tokio::time::timeout(PATIENCE, updates.next()).await.unwrap();
    assert!(end.is_none(), "{end:?}");
    assert!(stopped.await.unwrap().success());
}

#[tokio::test]
async fn what_the_stock_forbids_is_refused_and_records_nothing() {
    let shop = Shop::open();
    let client = &shop.client;
    let mut inventory = shop.inventory.clone();
    shop.receive("teapot", 5).await;
    client.reserve_stock("teapot", "17", "1", 3).await.unwrap();

    let reserve = client.reserve_stock("teapot", "18", "1", 3).into_request();
    let error = shop.forbids(inventory.reserve_stock(reserve), "INSUFFICIENT_STOCK").await;
    assert_eq!((&*error.metadata()["available"], &*error.metadata()["requested"]), ("2", "3"));
    for delta in [-3, -6, i64::MIN] {
        let adjust = client.adjust_stock("teapot", delta, "count").into_request();
        shop.forbids(inventory.adjust_stock(adjust), "STOCK_IS_RESERVED").await;
    }
    shop.receive("mug", 5).await;
    let adjust = client.adjust_stock("mug", -6, "count").into_request();
    shop.forbids(inventory.adjust_stock(adjust), "STOCK_WOULD_BE_NEGATIVE").await;
    for delta in [1_000_000_000, 999_999_996] {
        let adjust = client.adjust_stock("teapot", delta, "count").into_request();
        shop.forbids(inventory.adjust_stock(adjust), "STOCK_TOO_LARGE").await;
    }
    let receive = client.receive_stock("teapot", 1_000_000_000).into_request();
    shop.forbids(inventory.receive_stock(receive), "STOCK_TOO_LARGE").await;

    let (code, reason) = (Code::NotFound, "STOCK_NOT_FOUND");
    let reserve = client.reserve_stock("cup", "17", "1", 1).into_request();
    shop.refuses(inventory.reserve_stock(reserve), code, reason).await;
    let release = client.release_reservation("cup", "17", "1").into_request();
    shop.refuses(inventory.release_reservation(release), code, reason).await;
    let ship = client.ship_reservation("cup", "17", "1").into_request();
    shop.refuses(inventory.ship_reservation(ship), code, reason).await;
    let adjust = client.adjust_stock("cup", 1, "count").into_request();
    let error = shop.refuses(inventory.adjust_stock(adjust), code, reason).await;
    assert_eq!(error.details().resource_info().unwrap().resource_name, "cup");
    let unknown = client.get_stock("cup").await.unwrap_err();
    assert_eq!((unknown.code(), unknown.reason()), (code, reason));
    let stock = shop.stock("teapot").await;
    assert_eq!((stock.on_hand, stock.reserved, stock.version), (5, 3, 2));
}

#[tokio::test]
async fn every_malformed_field_of_a_stock_command_is_named() {
    let shop = Shop::open();
    let mut inventory = shop.inventory.clone();
    let bad_ids = ["a b", "ä", "a/b", &"x".repeat(65)];
    for id in bad_ids {
        let request = ReserveStockRequest {
            product_id: id.into(),
            order_id: id.into(),
            line_id: id.into(),
            quantity: 1,
            context: None,
        };
        let fields = ["product_id", "order_id", "line_id"];
        shop.refuses_fields(inventory.reserve_stock(request), &fields).await;
    }
    let fields = ["product_id", "order_id", "line_id", "quantity"];
    let none = ReserveStockRequest::default();
    shop.refuses_fields(inventory.reserve_stock(none), &fields).await;
    for quantity in [1_000_001, 10_u64.pow(12), u64::MAX] {
        let request = shop.client.reserve_stock("teapot", "17", "1", quantity).into_request();
        let said = shop.refuses_fields(inventory.reserve_stock(request), &["quantity"]).await;
        assert_eq!(said, format!("{quantity} is too large; at most 1000000 is allowed"));
    }
    let request = shop.client.receive_stock("teapot", 0).into_request();
    let said = shop.refuses_fields(inventory.receive_stock(request), &["quantity"]).await;
    assert_eq!(said, "must be set, and not to 0");
    let request = ReceiveStockRequest {
        product_id: String::new(),
        quantity: 1_000_000_001,
        reference: "x".repeat(201),
        context: None,
    };
    let fields = ["product_id", "quantity", "reference"];
    shop.refuses_fields(inventory.receive_stock(request), &fields).await;
    let request = ReleaseReservationRequest { reason: "x".repeat(501), ..Default::default() };
    let fields = ["product_id", "order_id", "line_id", "reason"];
    shop.refuses_fields(inventory.release_reservation(request), &fields).await;
    let fields = ["product_id", "order_id", "line_id"];
    let request = ShipReservationRequest::default();
    shop.refuses_fields(inventory.ship_reservation(request), &fields).await;
    let fields = ["product_id", "quantity_delta", "reason"];
    let request = AdjustStockRequest::default();
    shop.refuses_fields(inventory.adjust_stock(request), &fields).await;
    let request = AdjustStockRequest {
        product_id: "teapot".into(),
        quantity_delta: i64::MAX,
        reason: "x".repeat(501),
        context: None,
    };
    shop.refuses_fields(inventory.adjust_stock(request), &["quantity_delta", "reason"]).await;
    let request = SetLowStockThresholdRequest { threshold: 1_000_000_001, ..Default::default() };
    let fields = ["product_id", "threshold"];
    shop.refuses_fields(inventory.set_low_stock_threshold(request), &fields).await;
    // Nothing at all came of it.
    assert_eq!(head(&shop.client).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_are_events_that_anybody_can_follow() {
    let shop = Shop::open();
    shop.receive("teapot", 9).await;
    shop.client.set_low_stock_threshold("teapot", 5).await.unwrap();
    shop.client.reserve_stock("teapot", "17", "1", 4).await.unwrap();
    shop.receive("teapot", 1).await;
    let events = crate::common::everything(&shop.client).await;
    let names: Vec<_> = events.iter().map(|event| event.event_name.as_str()).collect();
    assert_eq!(
        names,
        [
            "StockReceived",
            "LowStockThresholdSet",
            "StockReserved",
            "LowStockReached",
            "StockReceived",
            "LowStockEnded"
        ]
    );
    let ids: BTreeSet<_> = events.iter().map(|event| event.aggregate_id.as_str()).collect();
    assert_eq!(ids, ["teapot"].into());
}
