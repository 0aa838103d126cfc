//! The statements behind the queries of orders. Lists are read in the order of an index, so that a
//! page costs the same however many orders there are.

use daybook_contract::orders::v1::{GetDailyStatisticsRequest, ListOrdersRequest};
use sqlx::sqlite::SqliteConnection;

use crate::projections::order_statistics::DayRow;
use crate::projections::orders::{ItemRow, OrderRow};
use crate::runtime::Row;
use crate::runtime::row::{read_row, read_rows};
use crate::time;

/// An order with its items, in the order of adding.
pub(super) async fn order(
    connection: &mut SqliteConnection,
    order_id: String,
) -> Result<Option<(OrderRow, Vec<ItemRow>)>, sqlx::Error> {
    let order = sqlx::query("SELECT * FROM orders WHERE order_id = ?")
        .bind(order_id.clone())
        .fetch_optional(&mut *connection)
        .await?;
    let Some(order) = order else { return Ok(None) };
    let items = sqlx::query("SELECT * FROM items WHERE order_id = ? ORDER BY item_no")
        .bind(order_id)
        .fetch_all(connection)
        .await?;
    Ok(Some((read_row(&order)?, read_rows(&items)?)))
}

/// Orders in the order of one index, newest first, before a place in it.
macro_rules! orders_by {
    ($index:literal, $condition:literal) => {
        concat!(
            "SELECT * FROM orders INDEXED BY ",
            $index,
            " WHERE ",
            $condition,
            "(created_time, order_no) < (?3, ?4) AND created_time >= ?5
              ORDER BY created_time DESC, order_no DESC LIMIT ?6"
        )
    };
}

const BY_TIME: &str = orders_by!("orders_by_time", "");
const BY_USER: &str = orders_by!("orders_by_user", "user_id = ?1 AND ");
const BY_STATUS: &str = orders_by!("orders_by_status", "status = ?2 AND ");
const BY_USER_AND_STATUS: &str =
    orders_by!("orders_by_user_and_status", "user_id = ?1 AND status = ?2 AND ");

/// Orders of a user, a status and a time, newest first.
pub(super) async fn orders(
    connection: &mut SqliteConnection,
    filters: ListOrdersRequest,
    before: (i64, i64),
    limit: u32,
) -> Result<Vec<OrderRow>, sqlx::Error> {
    let sql = match (filters.user_id.is_empty(), filters.status) {
        (false, 0) => BY_USER,
        (false, _) => BY_USER_AND_STATUS,
        (true, 0) => BY_TIME,
        (true, _) => BY_STATUS,
    };
    // The page and the end of the time are one limit, so that the index is entered there.
    let end = filters.end_time.as_ref().map_or(i64::MAX, time::saturating_nanos);
    let before = before.min((end, i64::MIN));
    let query = sqlx::query(sql)
        .bind(filters.user_id)
        .bind(filters.status)
        .bind(before.0)
        .bind(before.1)
        .bind(filters.start_time.as_ref().map_or(i64::MIN, time::saturating_nanos))
        .bind(limit);
    read_rows(&query.fetch_all(connection).await?)
}

const BY_PRODUCT: &str = "SELECT items.*, orders.*
    FROM items INDEXED BY items_by_product CROSS JOIN orders USING (order_id)
    WHERE product_id = ?1 AND (items.order_no, item_no) < (?2, ?3)
    ORDER BY items.order_no DESC, item_no DESC LIMIT ?4";

/// The items of a product, of the newest order first.
pub(super) async fn items_of_product(
    connection: &mut SqliteConnection,
    product_id: String,
    before: (i64, i64),
    limit: u32,
) -> Result<Vec<(ItemRow, OrderRow)>, sqlx::Error> {
    let query = sqlx::query(BY_PRODUCT).bind(product_id).bind(before.0).bind(before.1).bind(limit);
    let rows = query.fetch_all(connection).await?;
    let both = |row| Ok((ItemRow::read(row, 0)?, OrderRow::read(row, ItemRow::COLUMNS.len())?));
    rows.iter().map(both).collect()
}

/// Days and currencies.
pub(super) async fn days(
    connection: &mut SqliteConnection,
    request: GetDailyStatisticsRequest,
) -> Result<Vec<DayRow>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT * FROM days
         WHERE day BETWEEN ?1 AND ?2 AND (?3 = '' OR currency_code = ?3)
         ORDER BY day, currency_code",
    )
    .bind(request.start_date)
    .bind(request.end_date)
    .bind(request.currency_code)
    .fetch_all(connection)
    .await?;
    read_rows(&rows)
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Connection, Executor, Row as _};

    use super::*;
    use crate::projections::orders::Orders;
    use crate::runtime::Projection;

    /// No list sorts or walks over orders that it does not show.
    #[tokio::test]
    async fn every_list_is_read_in_the_order_of_an_index() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        connection.execute(Orders::SCHEMA).await.unwrap();
        let place = "created_time>? AND (created_time,order_no)<(?,?))";
        let by_product = "items_by_product (product_id=? AND (order_no,item_no)<(?,?))";
        for (sql, step) in [
            (BY_TIME, format!("orders_by_time ({place}")),
            (BY_USER, format!("orders_by_user (user_id=? AND {place}")),
            (BY_STATUS, format!("orders_by_status (status=? AND {place}")),
            (
                BY_USER_AND_STATUS,
                format!("orders_by_user_and_status (user_id=? AND status=? AND {place}"),
            ),
            (BY_PRODUCT, by_product.to_owned()),
        ] {
            let explained = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let plan = sqlx::query(explained).fetch_all(&mut connection).await.unwrap();
            let details: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
            assert!(details[0].contains(&step), "{details:?}");
            assert!(details.iter().all(|detail| !detail.contains("TEMP B-TREE")), "{details:?}");
        }
    }
}
