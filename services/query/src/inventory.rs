//! `inventory.v1.QueryService`: answers from the projections of the stock.

use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;

use daybook_contract::error::Error;
use daybook_contract::inventory::v1::query_service_server::QueryService;
use daybook_contract::inventory::v1::{
    GetStockRequest, GetStockResponse, ListLowStockRequest, ListLowStockResponse,
    ListMovementsRequest, ListMovementsResponse, Movement, Stock, StockRejection,
    WatchLowStockRequest, WatchLowStockResponse,
};
use futures::Stream;
use rusqlite::Connection;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};

use crate::cache::Cache;
use crate::paging::{Pages, page_size};
use crate::projections::stock_levels::{LevelRow, StockLevels};
use crate::projections::stock_movements::{CountRow, MovementRow, StockMovements};
use crate::runtime::row::{first, rows};
use crate::runtime::{Handle, Host, Projection, store};
use crate::timeline::{self, Wanted};
use crate::{check, read, time};

mod watching;

/// How many movements or products a page has when the request does not say.
const DEFAULT_PAGE: u32 = 50;

/// How many products are remembered, about 200 bytes each.
const CACHED_STOCKS: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");

/// How many lists of each kind are remembered; a full page takes some 100 kB.
const CACHED_LISTS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// The service.
#[derive(Clone)]
pub struct InventoryQueries {
    inner: Arc<Inner>,
}

struct Inner {
    levels: Handle,
    movements: Handle,
    stopping: watch::Receiver<bool>,
    cached_stocks: Cache<Option<LevelRow>>,
    cached_movements: Cache<Option<(CountRow, Vec<MovementRow>)>>,
    cached_lists: Cache<Vec<LevelRow>>,
}

impl InventoryQueries {
    /// The service over the projections of a host, which must contain those of the stock.
    pub fn new(host: &Host) -> Result<Self, Error> {
        let find = |name| crate::runtime::host::find(host.all_handles(), name).cloned();
        Ok(Self {
            inner: Arc::new(Inner {
                levels: find(StockLevels::NAME)?,
                movements: find(StockMovements::NAME)?,
                stopping: host.stopping(),
                cached_stocks: Cache::new(CACHED_STOCKS),
                cached_movements: Cache::new(CACHED_LISTS),
                cached_lists: Cache::new(CACHED_LISTS),
            }),
        })
    }
}

#[tonic::async_trait]
impl QueryService for InventoryQueries {
    async fn get_stock(
        &self,
        request: Request<GetStockRequest>,
    ) -> Result<Response<GetStockResponse>, Status> {
        let mut request = request.into_inner();
        read::check(&request, request.read.as_ref(), |_| {})?;
        let read = request.read.take();
        let id = request.product_id.clone();
        let (row, position) = self
            .inner
            .cached_stocks
            .answer(&self.inner.levels, read.as_ref(), &request, move |connection| {
                select_level(connection, &id)
            })
            .await?;
        let row = row.ok_or_else(|| stock_not_found(&request.product_id, position))?;
        Ok(Response::new(GetStockResponse { stock: Some(stock(row)), position }))
    }

    async fn list_movements(
        &self,
        request: Request<ListMovementsRequest>,
    ) -> Result<Response<ListMovementsResponse>, Status> {
        let mut request = request.into_inner();
        read::check(&request, request.read.as_ref(), |violations| {
            check::page_size(violations, request.page_size);
            check::times(violations, request.start_time.as_ref(), request.end_time.as_ref());
        })?;
        let read = request.read.take();
        let size = page_size(request.page_size, DEFAULT_PAGE);
        let filters =
            ListMovementsRequest { page_size: 0, page_token: String::new(), ..request.clone() };
        let pages = Pages::of("inventory.v1.ListMovements", &filters);
        let before = match pages.after(&request.page_token)? {
            None => i64::MAX,
            Some(version) => version.parse().unwrap_or(i64::MAX),
        };
        let (found, position) = self
            .inner
            .cached_movements
            .answer(&self.inner.movements, read.as_ref(), &request, move |connection| {
                select_movements(connection, &filters, before, size + 1)
            })
            .await?;
        let (product, mut rows) =
            found.ok_or_else(|| stock_not_found(&request.product_id, position))?;
        let next_page_token = pages.cut(&mut rows, size, |row| row.version.to_string());
        let movements = rows.into_iter().map(|row| movement(&product.product_id, row)).collect();
        Ok(Response::new(ListMovementsResponse { movements, next_page_token, position }))
    }

    async fn list_low_stock(
        &self,
        request: Request<ListLowStockRequest>,
    ) -> Result<Response<ListLowStockResponse>, Status> {
        let mut request = request.into_inner();
        read::check(&request, request.read.as_ref(), |violations| {
            check::page_size(violations, request.page_size);
        })?;
        let read = request.read.take();
        let size = page_size(request.page_size, DEFAULT_PAGE);
        let pages = Pages::of("inventory.v1.ListLowStock", &ListLowStockRequest::default());
        let after = pages.after(&request.page_token)?.unwrap_or_default();
        let (mut rows, position) = self
            .inner
            .cached_lists
            .answer(&self.inner.levels, read.as_ref(), &request, move |connection| {
                select_low(connection, &after, size + 1)
            })
            .await?;
        let next_page_token = pages.cut(&mut rows, size, |row| row.product_id.clone());
        let stocks = rows.into_iter().map(stock).collect();
        Ok(Response::new(ListLowStockResponse { stocks, next_page_token, position }))
    }

    type WatchLowStockStream =
        Pin<Box<dyn Stream<Item = Result<WatchLowStockResponse, Status>> + Send>>;

    async fn watch_low_stock(
        &self,
        request: Request<WatchLowStockRequest>,
    ) -> Result<Response<Self::WatchLowStockStream>, Status> {
        let request = request.into_inner();
        read::check(&request, request.read.as_ref(), |_| {})?;
        let (levels, stopping) = (self.inner.levels.clone(), self.inner.stopping.clone());
        let updates = watching::low_stock(levels, request.read, stopping).await?;
        Ok(Response::new(Box::pin(updates)))
    }
}

fn stock_not_found(product_id: &str, position: u64) -> Error {
    let reason = StockRejection::StockNotFound.as_str_name();
    let reason = reason.trim_start_matches("STOCK_REJECTION_");
    let text = format!("there is no stock of product {product_id}");
    Error::custom(Code::NotFound, reason, text)
        .with("product_id", product_id)
        .with("position", position)
        .with_resource("inventory.stock", product_id)
}

// ---- Rows -------------------------------------------------------------------------------------

fn select_level(connection: &Connection, product_id: &str) -> rusqlite::Result<Option<LevelRow>> {
    first(connection, "SELECT * FROM levels WHERE product_id = ?", &[&product_id])
}

fn select_movements(
    connection: &Connection,
    filters: &ListMovementsRequest,
    before: i64,
    limit: u32,
) -> rusqlite::Result<Option<(CountRow, Vec<MovementRow>)>> {
    let product = "SELECT * FROM counts WHERE product_id = ?";
    let product = first::<CountRow>(connection, product, &[&filters.product_id])?;
    let Some(product) = product else { return Ok(None) };
    let wanted = Wanted {
        stream_no: product.product_no,
        kind: filters.kind,
        start_time: filters.start_time.as_ref(),
        end_time: filters.end_time.as_ref(),
        before,
        limit,
    };
    Ok(Some((product, timeline::page(connection, wanted)?)))
}

fn select_low(connection: &Connection, after: &str, limit: u32) -> rusqlite::Result<Vec<LevelRow>> {
    rows(connection, SELECT_LOW, &[&after, &limit])
}

const SELECT_LOW: &str = "SELECT * FROM levels INDEXED BY low_levels
    WHERE low_since_time IS NOT NULL AND product_id > ?1
    ORDER BY product_id LIMIT ?2";

// ---- Answers ----------------------------------------------------------------------------------

fn stock(row: LevelRow) -> Stock {
    Stock {
        product_id: row.product_id,
        on_hand: store::from_i64(row.on_hand),
        reserved: store::from_i64(row.reserved),
        available: store::from_i64(row.on_hand - row.reserved),
        low_stock_threshold: store::from_i64(row.low_stock_threshold),
        low: row.low_since_time.is_some(),
        low_since_time: row.low_since_time.map(time::timestamp),
        version: store::from_i64(row.version),
        updated_time: Some(time::timestamp(row.updated_time)),
    }
}

fn movement(product_id: &str, row: MovementRow) -> Movement {
    Movement {
        product_id: product_id.to_owned(),
        version: store::from_i64(row.version),
        kind: store::number(row.kind),
        quantity: store::from_i64(row.quantity),
        on_hand_after: store::from_i64(row.on_hand),
        reserved_after: store::from_i64(row.reserved),
        order_id: row.order_id,
        line_id: row.line_id,
        description: row.description,
        recorded_time: Some(time::timestamp(row.recorded_time)),
        position: store::from_i64(row.position),
        event_id: row.event_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::row::select;

    #[test]
    fn low_stock_is_found_by_its_index() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(StockLevels::SCHEMA).unwrap();
        for (sql, index) in [
            (SELECT_LOW, "low_levels (product_id>?)"),
            (watching::SELECT_NEWS, "levels_by_alert (low_position>?"),
        ] {
            let sql = format!("EXPLAIN QUERY PLAN {sql}");
            let steps: Vec<String> =
                select(&connection, &sql, &[], |row| row.get("detail")).unwrap();
            assert!(steps[0].contains(index), "{steps:?}");
        }
    }
}
