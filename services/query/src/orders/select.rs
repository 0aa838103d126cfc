//! The statements behind the queries of orders. Lists are read in the order of an index, so that a
//! page costs the same however many orders there are.

use daybook_contract::orders::v1::{GetDailyStatisticsRequest, ListOrdersRequest};
use rusqlite::Connection;

use crate::projections::order_statistics::DayRow;
use crate::projections::orders::{ItemRow, OrderRow};
use crate::runtime::Row;
use crate::runtime::row::{first, rows, select};
use crate::time;

/// An order with its items, in the order of adding.
pub(super) fn order(
    connection: &Connection,
    order_id: &str,
) -> rusqlite::Result<Option<(OrderRow, Vec<ItemRow>)>> {
    let order = "SELECT * FROM orders WHERE order_id = ?";
    let Some(order) = first(connection, order, &[&order_id])? else { return Ok(None) };
    let items = "SELECT * FROM items WHERE order_id = ? ORDER BY item_no";
    Ok(Some((order, rows(connection, items, &[&order_id])?)))
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
pub(super) fn orders(
    connection: &Connection,
    filters: &ListOrdersRequest,
    before: (i64, i64),
    limit: u32,
) -> rusqlite::Result<Vec<OrderRow>> {
    let sql = match (filters.user_id.is_empty(), filters.status) {
        (false, 0) => BY_USER,
        (false, _) => BY_USER_AND_STATUS,
        (true, 0) => BY_TIME,
        (true, _) => BY_STATUS,
    };
    // The page and the end of the time are one limit, so that the index is entered there.
    let end = filters.end_time.as_ref().map_or(i64::MAX, time::saturating_nanos);
    let before = before.min((end, i64::MIN));
    let start = filters.start_time.as_ref().map_or(i64::MIN, time::saturating_nanos);
    let (user, status) = (&filters.user_id, &filters.status);
    rows(connection, sql, &[user, status, &before.0, &before.1, &start, &limit])
}

const BY_PRODUCT: &str = "SELECT items.*, orders.*
    FROM items INDEXED BY items_by_product CROSS JOIN orders USING (order_id)
    WHERE product_id = ?1 AND (items.order_no, item_no) < (?2, ?3)
    ORDER BY items.order_no DESC, item_no DESC LIMIT ?4";

/// The items of a product, of the newest order first.
pub(super) fn items_of_product(
    connection: &Connection,
    product_id: &str,
    before: (i64, i64),
    limit: u32,
) -> rusqlite::Result<Vec<(ItemRow, OrderRow)>> {
    select(connection, BY_PRODUCT, &[&product_id, &before.0, &before.1, &limit], |row| {
        Ok((ItemRow::read(row, 0)?, OrderRow::read(row, ItemRow::COLUMNS.len())?))
    })
}

/// Days and currencies.
pub(super) fn days(
    connection: &Connection,
    request: &GetDailyStatisticsRequest,
) -> rusqlite::Result<Vec<DayRow>> {
    let sql = "SELECT * FROM days
         WHERE day BETWEEN ?1 AND ?2 AND (?3 = '' OR currency_code = ?3)
         ORDER BY day, currency_code";
    rows(connection, sql, &[&request.start_date, &request.end_date, &request.currency_code])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projections::orders::Orders;
    use crate::runtime::Projection;

    /// No list sorts or walks over orders that it does not show.
    #[test]
    fn every_list_is_read_in_the_order_of_an_index() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(Orders::SCHEMA).unwrap();
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
            let sql = format!("EXPLAIN QUERY PLAN {sql}");
            let steps: Vec<String> =
                select(&connection, &sql, &[], |row| row.get("detail")).unwrap();
            assert!(steps[0].contains(&step), "{steps:?}");
            assert!(steps.iter().all(|step| !step.contains("TEMP B-TREE")), "{steps:?}");
        }
    }
}
