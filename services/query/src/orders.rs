//! `orders.v1.QueryService`: answers from the projections of the orders.

use std::num::NonZeroUsize;
use std::sync::Arc;

use daybook_contract::error::Error;
use daybook_contract::orders::v1::query_service_server::QueryService;
use daybook_contract::orders::v1::{
    DailyStatistics, GetDailyStatisticsRequest, GetDailyStatisticsResponse, GetOrderRequest,
    GetOrderResponse, ListOrdersByProductRequest, ListOrdersByProductResponse, ListOrdersRequest,
    ListOrdersResponse, Order, OrderItem, OrderRejection, ProductOrder,
};
use tonic::{Code, Request, Response, Status};

use crate::cache::Cache;
use crate::paging::{Pages, page_size};
use crate::projections::order_statistics::{DayRow, OrderStatistics};
use crate::projections::orders::{ItemRow, OrderRow, Orders};
use crate::runtime::{Handle, Projection, store};
use crate::{amount, check, read, time};

mod select;

/// How many orders a page has when the request does not say.
const DEFAULT_PAGE: u32 = 50;

/// How many orders are remembered, about 1 kB each.
const CACHED_ORDERS: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// How many lists of each kind are remembered; a full page takes some 200 kB.
const CACHED_LISTS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// The service.
#[derive(Clone)]
pub struct OrderQueries {
    inner: Arc<Inner>,
}

struct Inner {
    orders: Handle,
    statistics: Handle,
    cached_orders: Cache<Option<(OrderRow, Vec<ItemRow>)>>,
    cached_lists: Cache<Vec<OrderRow>>,
    cached_products: Cache<Vec<(ItemRow, OrderRow)>>,
    cached_days: Cache<Vec<DayRow>>,
}

impl OrderQueries {
    /// The service over these projections, which must contain those of the orders.
    pub fn new(handles: &[Handle]) -> Result<Self, Error> {
        let find = |name| crate::runtime::host::find(handles, name).cloned();
        Ok(Self {
            inner: Arc::new(Inner {
                orders: find(Orders::NAME)?,
                statistics: find(OrderStatistics::NAME)?,
                cached_orders: Cache::new(CACHED_ORDERS),
                cached_lists: Cache::new(CACHED_LISTS),
                cached_products: Cache::new(CACHED_LISTS),
                cached_days: Cache::new(CACHED_LISTS),
            }),
        })
    }
}

#[tonic::async_trait]
impl QueryService for OrderQueries {
    async fn get_order(
        &self,
        request: Request<GetOrderRequest>,
    ) -> Result<Response<GetOrderResponse>, Status> {
        let mut request = request.into_inner();
        read::check(&request, request.read.as_ref(), |_| {})?;
        let read = request.read.take();
        let id = request.order_id.clone();
        let (found, position) = self
            .inner
            .cached_orders
            .answer(&self.inner.orders, read.as_ref(), &request, move |connection| {
                select::order(connection, &id)
            })
            .await?;
        let (row, items) = found.ok_or_else(|| order_not_found(&request.order_id, position))?;
        let items = items.into_iter().map(item).collect::<Result<_, _>>()?;
        let order = Some(Order { items, ..order(row)? });
        Ok(Response::new(GetOrderResponse { order, position }))
    }

    async fn list_orders(
        &self,
        request: Request<ListOrdersRequest>,
    ) -> Result<Response<ListOrdersResponse>, Status> {
        let mut request = request.into_inner();
        read::check(&request, request.read.as_ref(), |violations| {
            check::page_size(violations, request.page_size);
            check::times(violations, request.start_time.as_ref(), request.end_time.as_ref());
        })?;
        let read = request.read.take();
        let size = page_size(request.page_size, DEFAULT_PAGE);
        let filters =
            ListOrdersRequest { page_size: 0, page_token: String::new(), ..request.clone() };
        let pages = Pages::of("orders.v1.ListOrders", &filters);
        let before = place(pages.after(&request.page_token)?);
        let (mut rows, position) = self
            .inner
            .cached_lists
            .answer(&self.inner.orders, read.as_ref(), &request, move |connection| {
                select::orders(connection, &filters, before, size + 1)
            })
            .await?;
        let next_page_token =
            pages.cut(&mut rows, size, |row| format!("{} {}", row.created_time, row.order_no));
        let orders = rows.into_iter().map(order).collect::<Result<_, _>>()?;
        Ok(Response::new(ListOrdersResponse { orders, next_page_token, position }))
    }

    async fn list_orders_by_product(
        &self,
        request: Request<ListOrdersByProductRequest>,
    ) -> Result<Response<ListOrdersByProductResponse>, Status> {
        let mut request = request.into_inner();
        read::check(&request, request.read.as_ref(), |violations| {
            check::page_size(violations, request.page_size);
        })?;
        let read = request.read.take();
        let size = page_size(request.page_size, DEFAULT_PAGE);
        let filters = ListOrdersByProductRequest {
            page_size: 0,
            page_token: String::new(),
            ..request.clone()
        };
        let pages = Pages::of("orders.v1.ListOrdersByProduct", &filters);
        let before = place(pages.after(&request.page_token)?);
        let (mut rows, position) = self
            .inner
            .cached_products
            .answer(&self.inner.orders, read.as_ref(), &request, move |connection| {
                select::items_of_product(connection, &filters.product_id, before, size + 1)
            })
            .await?;
        let next_page_token =
            pages.cut(&mut rows, size, |(item, _)| format!("{} {}", item.order_no, item.item_no));
        let orders = rows.into_iter().map(product_order).collect::<Result<_, _>>()?;
        Ok(Response::new(ListOrdersByProductResponse { orders, next_page_token, position }))
    }

    async fn get_daily_statistics(
        &self,
        request: Request<GetDailyStatisticsRequest>,
    ) -> Result<Response<GetDailyStatisticsResponse>, Status> {
        let mut request = request.into_inner();
        read::check(&request, request.read.as_ref(), |violations| {
            check::days(violations, &request.start_date, &request.end_date);
            check::currency(violations, &request.currency_code);
        })?;
        let read = request.read.take();
        if request.end_date.is_empty() {
            request.end_date.clone_from(&request.start_date);
        }
        let wanted = request.clone();
        let (rows, position) = self
            .inner
            .cached_days
            .answer(&self.inner.statistics, read.as_ref(), &request, move |connection| {
                select::days(connection, &wanted)
            })
            .await?;
        let days = rows.into_iter().map(day).collect::<Result<_, _>>()?;
        Ok(Response::new(GetDailyStatisticsResponse { days, position }))
    }
}

/// The two numbers of the row after which a page begins; the largest for the first page.
fn place(key: Option<String>) -> (i64, i64) {
    let numbers = key.as_deref().and_then(|key| key.split_once(' '));
    let parsed = numbers.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parsed.unwrap_or((i64::MAX, i64::MAX))
}

fn order_not_found(order_id: &str, position: u64) -> Error {
    let reason = OrderRejection::OrderNotFound.as_str_name();
    let reason = reason.trim_start_matches("ORDER_REJECTION_");
    Error::custom(Code::NotFound, reason, format!("there is no order {order_id}"))
        .with("order_id", order_id)
        .with("position", position)
        .with_resource("orders.order", order_id)
}

// ---- Answers ----------------------------------------------------------------------------------

fn order(row: OrderRow) -> Result<Order, Error> {
    let total = match row.currency_code.as_str() {
        "" => None,
        currency => Some(amount::to_wire(row.total_minor.into(), currency)?),
    };
    Ok(Order {
        order_id: row.order_id,
        user_id: row.user_id,
        status: store::number(row.status),
        total,
        item_count: u32::try_from(row.item_count).unwrap_or_default(),
        items: Vec::new(),
        account_id: row.account_id,
        payment_id: row.payment_id,
        tracking_id: row.tracking_id,
        cancel_reason: row.cancel_reason,
        version: store::from_i64(row.version),
        created_time: Some(time::timestamp(row.created_time)),
        submitted_time: row.submitted_time.map(time::timestamp),
        paid_time: row.paid_time.map(time::timestamp),
        shipped_time: row.shipped_time.map(time::timestamp),
        cancelled_time: row.cancelled_time.map(time::timestamp),
        updated_time: Some(time::timestamp(row.updated_time)),
    })
}

fn item(row: ItemRow) -> Result<OrderItem, Error> {
    Ok(OrderItem {
        line_id: row.line_id,
        product_id: row.product_id,
        quantity: store::from_i64(row.quantity),
        unit_price: Some(amount::to_wire(row.unit_price_minor.into(), &row.currency_code)?),
    })
}

fn product_order((row, order): (ItemRow, OrderRow)) -> Result<ProductOrder, Error> {
    Ok(ProductOrder {
        order_id: order.order_id,
        user_id: order.user_id,
        status: store::number(order.status),
        item: Some(item(row)?),
        created_time: Some(time::timestamp(order.created_time)),
    })
}

fn day(row: DayRow) -> Result<DailyStatistics, Error> {
    let currency = &row.currency_code;
    let average = row.revenue_minor.checked_div(row.orders_paid).unwrap_or_default();
    Ok(DailyStatistics {
        orders_submitted: store::from_i64(row.orders_submitted),
        orders_paid: store::from_i64(row.orders_paid),
        orders_cancelled: store::from_i64(row.orders_cancelled),
        revenue: Some(amount::to_wire(row.revenue_minor.into(), currency)?),
        average_basket: Some(amount::to_wire(average.into(), currency)?),
        date: row.day,
        currency_code: row.currency_code,
    })
}
