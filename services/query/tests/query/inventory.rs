//! `inventory.v1.QueryService`.

use std::time::Duration;

use daybook_contract::error::Error;
use daybook_contract::inventory::v1::query_service_server::QueryService;
use daybook_contract::inventory::v1::watch_low_stock_response::Update;
use daybook_contract::inventory::v1::{
    GetStockRequest, ListLowStockRequest, ListMovementsRequest, LowStockEnded, LowStockReached,
    LowStockThresholdSet, Movement, MovementKind, ReservationReleased, ReservationShipped, Stock,
    StockAdjusted, StockReceived, StockReserved, WatchLowStockRequest, WatchLowStockResponse,
};
use daybook_domain::stock::Stock as Aggregate;
use daybook_query::InventoryQueries;
use daybook_query::runtime::Host;
use futures::{Stream, StreamExt};
use prost_types::Timestamp;
use tonic::{Code, Request, Status};

use crate::bank::{answer, violations};
use crate::fakes::*;

struct Inventory {
    log: Log,
    host: Host,
    queries: InventoryQueries,
    _dir: tempfile::TempDir,
}

impl Inventory {
    /// The projections over what has been written to a log.
    async fn over(log: Log) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = run_bank(&dir, &log);
        until_position(&host, log.position()).await;
        let queries = InventoryQueries::new(&host).unwrap();
        Self { log, host, queries, _dir: dir }
    }

    async fn stock(&self, product_id: &str) -> Result<Stock, Error> {
        let request = GetStockRequest { product_id: product_id.to_owned(), read: None };
        let found = answer(self.queries.get_stock(Request::new(request)).await)?;
        Ok(found.stock.unwrap())
    }

    /// All movements that a request asks for, page by page.
    async fn movements(&self, mut request: ListMovementsRequest) -> Vec<Movement> {
        let mut movements = Vec::new();
        loop {
            let page = self.queries.list_movements(Request::new(request.clone())).await;
            let page = answer(page).unwrap();
            movements.extend(page.movements);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return movements;
            }
        }
    }

    async fn low(&self, mut request: ListLowStockRequest) -> Vec<String> {
        let mut found = Vec::new();
        loop {
            let page = self.queries.list_low_stock(Request::new(request.clone())).await;
            let page = answer(page).unwrap();
            found.extend(page.stocks.into_iter().map(|stock| stock.product_id));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return found;
            }
        }
    }

    async fn watch(&self) -> <InventoryQueries as QueryService>::WatchLowStockStream {
        let read = Some(reflecting(self.log.position()));
        let request = Request::new(WatchLowStockRequest { read });
        self.queries.watch_low_stock(request).await.unwrap().into_inner()
    }
}

fn received(log: &Log, product: &str, quantity: u64) {
    let reference = "note 7".to_owned();
    log.append_to::<Aggregate>(product, StockReceived { quantity, reference, received_time: None });
}

fn reserved(log: &Log, product: &str, line: &str, quantity: u64) {
    let (order_id, line_id) = ("order".to_owned(), line.to_owned());
    log.append_to::<Aggregate>(product, StockReserved { order_id, line_id, quantity });
}

fn threshold(log: &Log, product: &str, threshold: u64) {
    log.append_to::<Aggregate>(product, LowStockThresholdSet { threshold, set_time: None });
}

fn low(log: &Log, product: &str, available: u64) {
    log.append_to::<Aggregate>(product, LowStockReached { available, threshold: 5 });
}

fn low_ended(log: &Log, product: &str, available: u64) {
    log.append_to::<Aggregate>(product, LowStockEnded { available, threshold: 5 });
}

/// Every kind of movement of teapots, with a day between the first two and the rest.
fn teapots() -> Log {
    let log = Log::new();
    received(&log, "teapot", 20);
    reserved(&log, "teapot", "1", 8);
    log.pass_seconds(86_400);
    reserved(&log, "teapot", "2", 2);
    let (order_id, line_id) = ("order".to_owned(), "2".to_owned());
    let reason = "cancelled".to_owned();
    let released = ReservationReleased { order_id, line_id, quantity: 2, reason };
    log.append_to::<Aggregate>("teapot", released);
    let (order_id, line_id) = ("order".to_owned(), "1".to_owned());
    log.append_to::<Aggregate>("teapot", ReservationShipped { order_id, line_id, quantity: 8 });
    threshold(&log, "teapot", 5);
    for quantity_delta in [3, -1] {
        let reason = "count".to_owned();
        log.append_to::<Aggregate>("teapot", StockAdjusted { quantity_delta, reason });
    }
    log
}

#[tokio::test]
async fn a_stock_has_the_pieces_of_its_events() {
    let log = teapots();
    reserved(&log, "teapot", "3", 10);
    low(&log, "teapot", 4);
    received(&log, "cup", 7);
    let inventory = Inventory::over(log).await;
    let teapots = inventory.stock("teapot").await.unwrap();
    let expected = Stock {
        product_id: "teapot".to_owned(),
        on_hand: 14,
        reserved: 10,
        available: 4,
        low_stock_threshold: 5,
        low: true,
        low_since_time: Some(Timestamp { seconds: START + 86_400, nanos: 10 }),
        version: 10,
        updated_time: Some(Timestamp { seconds: START + 86_400, nanos: 10 }),
    };
    assert_eq!(teapots, expected);
    let cups = inventory.stock("cup").await.unwrap();
    assert_eq!((cups.on_hand, cups.available, cups.low, cups.version), (7, 7, false, 1));
    inventory.host.shutdown().await;
}

#[tokio::test]
async fn an_unknown_stock_is_not_found() {
    let log = Log::new();
    received(&log, "teapot", 1);
    let inventory = Inventory::over(log).await;
    let from_levels = inventory.stock("cup").await.unwrap_err();
    let request = ListMovementsRequest { product_id: "cup".to_owned(), ..Default::default() };
    let found = inventory.queries.list_movements(Request::new(request)).await;
    for error in [from_levels, answer(found).unwrap_err()] {
        assert_eq!((error.code(), error.reason()), (Code::NotFound, "STOCK_NOT_FOUND"));
        let resource = error.details().resource_info().unwrap();
        assert_eq!(
            (resource.resource_type.as_str(), resource.resource_name.as_str()),
            ("inventory.stock", "cup")
        );
    }
    inventory.host.shutdown().await;
}

#[tokio::test]
async fn movements_are_listed_newest_first_and_filtered() {
    let inventory = Inventory::over(teapots()).await;
    let all = || ListMovementsRequest { product_id: "teapot".to_owned(), ..Default::default() };
    let movements = inventory.movements(all()).await;
    let shown: Vec<_> = movements
        .iter()
        .map(|m| {
            let kind = m.kind().as_str_name().trim_start_matches("MOVEMENT_KIND_");
            let (on_hand, reserved) = (m.on_hand_after, m.reserved_after);
            let line = format!("{} {kind} {} {on_hand} {reserved}", m.version, m.quantity);
            format!("{line} {}/{} {}", m.order_id, m.line_id, m.description)
        })
        .collect();
    assert_eq!(
        shown,
        [
            "8 DECREASE 1 14 0 / count",
            "7 INCREASE 3 15 0 / count",
            "5 SHIPMENT 8 12 0 order/1 ",
            "4 RELEASE 2 20 8 order/2 cancelled",
            "3 RESERVATION 2 20 10 order/2 ",
            "2 RESERVATION 8 20 8 order/1 ",
            "1 RECEIPT 20 20 0 / note 7",
        ]
    );
    assert_eq!(movements[6].position, 1);
    assert!(movements.iter().all(|m| !m.event_id.is_empty() && m.product_id == "teapot"));

    for page_size in [1, 2, 6, 7] {
        let paged = inventory.movements(ListMovementsRequest { page_size, ..all() }).await;
        assert_eq!(paged, movements, "{page_size}");
    }
    let kind = MovementKind::Reservation.into();
    let some = inventory.movements(ListMovementsRequest { kind, page_size: 1, ..all() }).await;
    assert_eq!(some.iter().map(|m| m.version).collect::<Vec<_>>(), [3, 2]);
    let second_day = Some(Timestamp { seconds: START + 86_400, nanos: 0 });
    let since = ListMovementsRequest { start_time: second_day, ..all() };
    assert_eq!(inventory.movements(since).await, movements[..5]);
    let until = ListMovementsRequest { end_time: second_day, ..all() };
    assert_eq!(inventory.movements(until).await, movements[5..]);
    inventory.host.shutdown().await;
}

#[tokio::test]
async fn low_stock_is_listed_by_product() {
    let log = Log::new();
    for product in ["d", "a", "c", "b", "e"] {
        received(&log, product, 4);
        low(&log, product, 4);
    }
    received(&log, "c", 9);
    low_ended(&log, "c", 13);
    received(&log, "full", 9);
    let inventory = Inventory::over(log).await;
    for page_size in 0..=5 {
        let request = ListLowStockRequest { page_size, ..Default::default() };
        assert_eq!(inventory.low(request).await, ["a", "b", "d", "e"], "{page_size}");
    }
    inventory.host.shutdown().await;
}

#[tokio::test]
async fn every_malformed_field_is_refused() {
    let inventory = Inventory::over(Log::new()).await;
    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let request = ListMovementsRequest {
        page_size: -1,
        kind: 99,
        start_time: time(2),
        end_time: time(2),
        ..Default::default()
    };
    let error = answer(inventory.queries.list_movements(Request::new(request)).await).unwrap_err();
    assert_eq!(violations(&error), ["product_id", "kind", "page_size", "end_time"]);
    let request = ListLowStockRequest { page_size: -1, ..Default::default() };
    let error = answer(inventory.queries.list_low_stock(Request::new(request)).await).unwrap_err();
    assert_eq!(violations(&error), ["page_size"]);
    let request = ListLowStockRequest { page_token: "00".to_owned(), ..Default::default() };
    let error = answer(inventory.queries.list_low_stock(Request::new(request)).await).unwrap_err();
    assert_eq!(error.reason(), "INVALID_PAGE_TOKEN");
    let request = GetStockRequest { product_id: "a b".to_owned(), read: None };
    let error = answer(inventory.queries.get_stock(Request::new(request)).await).unwrap_err();
    assert_eq!(violations(&error), ["product_id"]);
    inventory.host.shutdown().await;
}

/// What a watcher was told next: the product, what is available, and whether that is low.
async fn told(
    updates: &mut (impl Stream<Item = Result<WatchLowStockResponse, Status>> + Unpin),
) -> String {
    let next = tokio::time::timeout(Duration::from_secs(60), updates.next()).await;
    match next.expect("an update comes").expect("it goes on").unwrap().update.unwrap() {
        Update::Stock(stock) => format!("{} {} {}", stock.product_id, stock.available, stock.low),
        Update::CaughtUp(caught_up) => format!("{} are low", caught_up.low_products),
    }
}

#[tokio::test]
async fn a_watcher_is_told_what_is_low_and_then_every_change() {
    let log = Log::new();
    for product in ["b", "a", "full"] {
        received(&log, product, 9);
    }
    for product in ["b", "a"] {
        reserved(&log, product, "1", 5);
        low(&log, product, 4);
    }
    let inventory = Inventory::over(log).await;
    let mut updates = inventory.watch().await;
    assert_eq!(told(&mut updates).await, "a 4 true");
    assert_eq!(told(&mut updates).await, "b 4 true");
    assert_eq!(told(&mut updates).await, "2 are low");

    // What is not about low stock is not told.
    received(&inventory.log, "full", 1);
    reserved(&inventory.log, "b", "2", 1);
    assert_eq!(told(&mut updates).await, "b 3 true");
    received(&inventory.log, "a", 9);
    assert_eq!(told(&mut updates).await, "a 13 true");
    low_ended(&inventory.log, "a", 13);
    assert_eq!(told(&mut updates).await, "a 13 false");
    low(&inventory.log, "new", 0);
    assert_eq!(told(&mut updates).await, "new 0 true");

    // A second watcher begins with what is low now.
    let mut second = inventory.watch().await;
    assert_eq!(told(&mut second).await, "b 3 true");
    assert_eq!(told(&mut second).await, "new 0 true");
    assert_eq!(told(&mut second).await, "2 are low");
    inventory.host.shutdown().await;
}

#[tokio::test]
async fn a_watcher_is_told_of_more_changes_than_are_read_at_once() {
    let inventory = Inventory::over(Log::new()).await;
    let mut updates = inventory.watch().await;
    assert_eq!(told(&mut updates).await, "0 are low");
    let products: Vec<_> = (0..1_203).map(|number| format!("product-{number:04}")).collect();
    for product in &products {
        low(&inventory.log, product, 0);
    }
    // The watcher was busy elsewhere until now.
    until_position(&inventory.host, inventory.log.position()).await;
    for product in &products {
        assert_eq!(told(&mut updates).await, format!("{product} 0 true"));
    }
    let mut second = inventory.watch().await;
    for product in &products {
        assert_eq!(told(&mut second).await, format!("{product} 0 true"));
    }
    assert_eq!(told(&mut second).await, "1203 are low");
    inventory.host.shutdown().await;
}

#[tokio::test]
async fn the_watching_ends_without_an_error_when_the_service_stops() {
    let log = Log::new();
    received(&log, "teapot", 3);
    let inventory = Inventory::over(log).await;
    let mut updates = inventory.watch().await;
    assert_eq!(told(&mut updates).await, "0 are low");
    let waiting = tokio::spawn(async move { updates.next().await });
    tokio::task::yield_now().await;
    inventory.host.shutdown().await;
    let end = tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap().unwrap();
    assert!(end.is_none(), "{end:?}");
}
