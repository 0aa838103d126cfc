//! `orders.v1.QueryService`.

use daybook_contract::daybook::v1::Money;
use daybook_contract::error::Error;
use daybook_contract::orders::v1::query_service_server::QueryService;
use daybook_contract::orders::v1::{
    GetDailyStatisticsRequest, GetOrderRequest, ItemAdded, ItemRemoved, ListOrdersByProductRequest,
    ListOrdersRequest, Order, OrderCancelled, OrderCreated, OrderItem, OrderPaid, OrderShipped,
    OrderStatus, OrderSubmitted,
};
use daybook_domain::order::Order as Aggregate;
use daybook_query::OrderQueries;
use daybook_query::runtime::Host;
use prost_types::Timestamp;
use tonic::{Code, Request};

use crate::bank::{answer, violations};
use crate::fakes::*;

struct Shop {
    host: Host,
    queries: OrderQueries,
    dir: tempfile::TempDir,
}

impl Shop {
    /// The projections over what has been written to a log.
    async fn over(log: Log) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = run_bank(&dir, &log);
        until_position(&host, log.position()).await;
        let queries = OrderQueries::new(host.handles()).unwrap();
        Self { host, queries, dir }
    }

    async fn order(&self, order_id: &str) -> Result<Order, Error> {
        let request = GetOrderRequest { order_id: order_id.to_owned(), read: None };
        let found = answer(self.queries.get_order(Request::new(request)).await)?;
        Ok(found.order.unwrap())
    }

    /// The ids of all orders that a request asks for, page by page.
    async fn orders(&self, mut request: ListOrdersRequest) -> Vec<String> {
        let mut found = Vec::new();
        loop {
            let page = self.queries.list_orders(Request::new(request.clone())).await;
            let page = answer(page).unwrap();
            found.extend(page.orders.into_iter().map(|order| order.order_id));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return found;
            }
        }
    }

    async fn of_product(&self, product: &str, page_size: i32) -> Vec<String> {
        let product_id = product.to_owned();
        let mut request =
            ListOrdersByProductRequest { product_id, page_size, ..Default::default() };
        let mut found = Vec::new();
        loop {
            let page = self.queries.list_orders_by_product(Request::new(request.clone())).await;
            let page = answer(page).unwrap();
            found.extend(page.orders.into_iter().map(|order| {
                let status = order.status().as_str_name().trim_start_matches("ORDER_STATUS_");
                let item = order.item.as_ref().unwrap();
                assert_eq!(item.product_id, product);
                let (line, quantity) = (&item.line_id, item.quantity);
                format!("{} {line} {quantity} {} {status}", order.order_id, order.user_id)
            }));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return found;
            }
        }
    }

    async fn days(&self, request: GetDailyStatisticsRequest) -> Vec<String> {
        let found = self.queries.get_daily_statistics(Request::new(request)).await;
        let minor = |money: &Option<Money>| {
            daybook_contract::money::to_minor(money.as_ref().unwrap()).unwrap()
        };
        let days = answer(found).unwrap().days.into_iter().map(|day| {
            let counts = [day.orders_submitted, day.orders_paid, day.orders_cancelled];
            let (revenue, average) = (minor(&day.revenue), minor(&day.average_basket));
            format!("{} {} {counts:?} {revenue} {average}", day.date, day.currency_code)
        });
        days.collect()
    }
}

fn created(log: &Log, order: &str, user: &str) {
    let user_id = user.to_owned();
    log.append_to::<Aggregate>(order, OrderCreated { user_id, created_time: None });
}

fn item(line: &str, product: &str, quantity: u64, unit_price: Money) -> OrderItem {
    let (line_id, product_id) = (line.to_owned(), product.to_owned());
    OrderItem { line_id, product_id, quantity, unit_price: Some(unit_price) }
}

fn added(log: &Log, order: &str, item: OrderItem) {
    log.append_to::<Aggregate>(order, ItemAdded { item: Some(item) });
}

fn removed(log: &Log, order: &str, line: &str) {
    log.append_to::<Aggregate>(order, ItemRemoved { line_id: line.to_owned() });
}

fn submitted(log: &Log, order: &str, total: Money) {
    let account_id = "account".to_owned();
    let event = OrderSubmitted { account_id, total: Some(total), ..Default::default() };
    log.append_to::<Aggregate>(order, event);
}

fn paid(log: &Log, order: &str, amount: Money) {
    let payment_id = "payment".to_owned();
    log.append_to::<Aggregate>(
        order,
        OrderPaid { amount: Some(amount), payment_id, paid_time: None },
    );
}

fn shipped(log: &Log, order: &str) {
    let tracking_id = "parcel".to_owned();
    log.append_to::<Aggregate>(order, OrderShipped { tracking_id, shipped_time: None });
}

fn cancelled(log: &Log, order: &str) {
    let reason = "too late".to_owned();
    log.append_to::<Aggregate>(order, OrderCancelled { reason, cancelled_time: None });
}

#[tokio::test]
async fn an_order_shows_its_items_its_total_and_how_far_it_has_come() {
    let log = Log::new();
    created(&log, "first", "ada");
    // Ten items, so that an order by text would show: 1, 10, 2.
    for line in 1..=10 {
        added(&log, "first", item(&line.to_string(), "teapot", line, usd(19_99)));
    }
    removed(&log, "first", "3");
    submitted(&log, "first", usd(52 * 19_99));
    paid(&log, "first", usd(52 * 19_99));
    log.pass_seconds(10);
    shipped(&log, "first");
    created(&log, "empty", "bob");
    added(&log, "empty", item("1", "cup", 1, money(500, "JPY")));
    removed(&log, "empty", "1");
    cancelled(&log, "empty");
    let shop = Shop::over(log).await;

    let first = shop.order("first").await.unwrap();
    assert_eq!((first.user_id.as_str(), first.status()), ("ada", OrderStatus::Shipped));
    assert_eq!((first.total, first.item_count), (Some(usd(52 * 19_99)), 9));
    let lines: Vec<_> = first.items.iter().map(|item| item.line_id.as_str()).collect();
    assert_eq!(lines, ["1", "2", "4", "5", "6", "7", "8", "9", "10"]);
    assert_eq!(first.items[1], item("2", "teapot", 2, usd(19_99)));
    let known = (first.account_id.as_str(), first.payment_id.as_str(), first.tracking_id.as_str());
    assert_eq!(known, ("account", "payment", "parcel"));
    let at = |seconds, nanos| Some(Timestamp { seconds: START + seconds, nanos });
    assert_eq!((first.version, first.created_time), (15, at(0, 1)));
    assert_eq!((first.submitted_time, first.paid_time), (at(0, 13), at(0, 14)));
    assert_eq!((first.shipped_time, first.updated_time), (at(10, 15), at(10, 15)));
    assert_eq!((first.cancelled_time, first.cancel_reason.as_str()), (None, ""));

    let empty = shop.order("empty").await.unwrap();
    assert_eq!((empty.status(), empty.total, empty.item_count), (OrderStatus::Cancelled, None, 0));
    assert_eq!((empty.cancel_reason.as_str(), empty.cancelled_time), ("too late", at(10, 19)));
    assert!(empty.items.is_empty());
    shop.host.shutdown().await;
}

#[tokio::test]
async fn an_unknown_order_is_not_found() {
    let shop = Shop::over(Log::new()).await;
    let error = shop.order("nothing").await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::NotFound, "ORDER_NOT_FOUND"));
    assert_eq!(error.details().resource_info().unwrap().resource_name, "nothing");
    shop.host.shutdown().await;
}

/// Orders of two users on three days: 0 to 8, every third one submitted, every third one cancelled.
fn nine_orders() -> Log {
    let log = Log::new();
    for number in 0..9 {
        let order = format!("order-{number}");
        created(&log, &order, if number % 2 == 0 { "ada" } else { "bob" });
        added(&log, &order, item("1", "teapot", 1, usd(5)));
        match number % 3 {
            1 => submitted(&log, &order, usd(5)),
            2 => cancelled(&log, &order),
            _ => {}
        }
        if number % 3 == 2 {
            log.pass_seconds(86_400);
        }
    }
    log
}

fn ids(numbers: &[u32]) -> Vec<String> {
    numbers.iter().map(|number| format!("order-{number}")).collect()
}

#[tokio::test]
async fn orders_are_listed_newest_first_and_filtered() {
    let shop = Shop::over(nine_orders()).await;
    let all = ListOrdersRequest::default;
    let day = |day: i64| Some(Timestamp { seconds: START + day * 86_400, nanos: 0 });
    let of = |user: &str| ListOrdersRequest { user_id: user.to_owned(), ..all() };
    let submitted = OrderStatus::Submitted.into();
    for page_size in [0, 1, 2, 4, 9] {
        let list = async |request: ListOrdersRequest| {
            shop.orders(ListOrdersRequest { page_size, ..request }).await
        };
        assert_eq!(list(all()).await, ids(&[8, 7, 6, 5, 4, 3, 2, 1, 0]));
        assert_eq!(list(of("ada")).await, ids(&[8, 6, 4, 2, 0]));
        assert_eq!(list(of("nobody")).await, ids(&[]));
        let status = ListOrdersRequest { status: submitted, ..all() };
        assert_eq!(list(status).await, ids(&[7, 4, 1]));
        let both = ListOrdersRequest { status: submitted, ..of("bob") };
        assert_eq!(list(both).await, ids(&[7, 1]));
        let second_day = ListOrdersRequest { start_time: day(1), end_time: day(2), ..all() };
        assert_eq!(list(second_day.clone()).await, ids(&[5, 4, 3]));
        let three = ListOrdersRequest { status: submitted, ..second_day };
        assert_eq!(list(three).await, ids(&[4]));
        let since = ListOrdersRequest { start_time: day(1), ..of("ada") };
        assert_eq!(list(since).await, ids(&[8, 6, 4]));
        let until = ListOrdersRequest { end_time: day(1), ..of("ada") };
        assert_eq!(list(until).await, ids(&[2, 0]));
    }
    shop.host.shutdown().await;
}

#[tokio::test]
async fn an_order_of_a_product_is_found_until_its_item_is_removed() {
    let log = nine_orders();
    added(&log, "order-0", item("2", "cup", 3, usd(2)));
    added(&log, "order-3", item("2", "cup", 1, usd(2)));
    added(&log, "order-3", item("3", "cup", 9, usd(1)));
    added(&log, "order-6", item("2", "cup", 4, usd(2)));
    removed(&log, "order-6", "2");
    submitted(&log, "order-3", usd(16));
    let shop = Shop::over(log).await;
    for page_size in [0, 1, 2, 3] {
        assert_eq!(
            shop.of_product("cup", page_size).await,
            ["order-3 3 9 bob SUBMITTED", "order-3 2 1 bob SUBMITTED", "order-0 2 3 ada OPEN"]
        );
        assert_eq!(shop.of_product("teapot", page_size).await.len(), 9);
        assert!(shop.of_product("saucer", page_size).await.is_empty());
    }
    shop.host.shutdown().await;
}

#[tokio::test]
async fn days_are_summed_up_for_each_currency() {
    let log = Log::new();
    let order = |order: &str, total: Money| {
        created(&log, order, "ada");
        submitted(&log, order, total);
    };
    order("a", usd(10_00));
    order("b", usd(5_01));
    order("c", money(700, "JPY"));
    paid(&log, "a", usd(10_00));
    log.pass_seconds(86_400);
    paid(&log, "b", usd(5_01));
    order("d", usd(5_00));
    paid(&log, "d", usd(5_00));
    order("e", usd(1_00));
    cancelled(&log, "e");
    shipped(&log, "b");
    // One that was never submitted counts nowhere.
    created(&log, "f", "ada");
    cancelled(&log, "f");
    let shop = Shop::over(log).await;
    let request = |currency: &str| GetDailyStatisticsRequest {
        start_date: "2026-11-21".to_owned(),
        end_date: "2026-11-30".to_owned(),
        currency_code: currency.to_owned(),
        read: None,
    };
    let days = [
        "2026-11-21 JPY [1, 0, 0] 0 0",
        "2026-11-21 USD [2, 1, 0] 1000 1000",
        "2026-11-22 USD [2, 2, 1] 1001 500",
    ];
    assert_eq!(shop.days(request("")).await, days);
    assert_eq!(shop.days(request("USD")).await, days[1..]);
    let first = GetDailyStatisticsRequest { end_date: String::new(), ..request("") };
    assert_eq!(shop.days(first).await, days[..2]);
    // Only the order that is still to be paid is remembered.
    assert_eq!(dump(&shop.dir, "order_statistics", "submitted").await, ["'c' 'JPY'"]);
    shop.host.shutdown().await;
}

#[tokio::test]
async fn every_malformed_field_is_refused() {
    let shop = Shop::over(Log::new()).await;
    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    let request = ListOrdersRequest {
        page_size: -1,
        status: 99,
        user_id: "a b".to_owned(),
        start_time: time(3),
        end_time: time(2),
        ..Default::default()
    };
    let error = answer(shop.queries.list_orders(Request::new(request)).await).unwrap_err();
    assert_eq!(violations(&error), ["status", "user_id", "page_size", "end_time"]);
    let request = ListOrdersByProductRequest { page_size: -1, ..Default::default() };
    let found = shop.queries.list_orders_by_product(Request::new(request)).await;
    assert_eq!(violations(&answer(found).unwrap_err()), ["product_id", "page_size"]);
    let request = GetDailyStatisticsRequest {
        start_date: "2026-11-31".to_owned(),
        end_date: "yesterday".to_owned(),
        currency_code: "XQZ".to_owned(),
        read: None,
    };
    let error = answer(shop.queries.get_daily_statistics(Request::new(request)).await).unwrap_err();
    assert_eq!(violations(&error), ["start_date", "end_date", "currency_code"]);
    let request = ListOrdersRequest { page_token: "zz".to_owned(), ..Default::default() };
    let error = answer(shop.queries.list_orders(Request::new(request)).await).unwrap_err();
    assert_eq!(error.reason(), "INVALID_PAGE_TOKEN");
    shop.host.shutdown().await;
}
