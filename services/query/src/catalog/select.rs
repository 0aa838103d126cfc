//! The rows of products.

use std::collections::HashMap;

use rusqlite::{Connection, ToSql};

use crate::projections::product_admin::SalesRow;
use crate::projections::product_details::{PriceRow, ProductRow};
use crate::runtime::Row;
use crate::runtime::row::{first, marks, rows, select};

/// The most prices of a product that are shown.
const SHOWN_PRICES: u32 = 100;

/// A product with its stock and its sales.
#[derive(Clone)]
pub struct AdminRow {
    pub product: ProductRow,
    pub on_hand: i64,
    pub reserved: i64,
    /// For each currency.
    pub sales: Vec<SalesRow>,
}

pub fn product(
    connection: &Connection,
    id: &str,
) -> rusqlite::Result<Option<(ProductRow, Vec<PriceRow>)>> {
    let product = "SELECT * FROM products WHERE product_id = ?";
    let Some(product) = first(connection, product, &[&id])? else { return Ok(None) };
    let prices = "SELECT * FROM prices WHERE product_id = ? ORDER BY version DESC LIMIT ?";
    Ok(Some((product, rows(connection, prices, &[&id, &SHOWN_PRICES])?)))
}

/// Products by id, each with what the other topics have told so far.
pub fn admin(
    connection: &Connection,
    status: i32,
    after: &str,
    limit: u32,
) -> rusqlite::Result<Vec<AdminRow>> {
    let sql = if status == 0 { BY_ID } else { BY_STATUS };
    let mut products = select(connection, sql, &[&after, &limit, &status], |row| {
        let columns = ProductRow::COLUMNS.len();
        Ok(AdminRow {
            product: ProductRow::read(row, 0)?,
            on_hand: row.get(columns)?,
            reserved: row.get(columns + 1)?,
            sales: Vec::new(),
        })
    })?;
    let mut sales = sales(connection, &products)?;
    for row in &mut products {
        row.sales = sales.remove(&row.product.product_id).unwrap_or_default();
    }
    Ok(products)
}

/// Products in the order of one index, after a place in it.
macro_rules! products_by {
    ($index:literal, $condition:literal) => {
        concat!(
            "SELECT products.*, coalesce(on_hand, 0), coalesce(reserved, 0) FROM products ",
            $index,
            " LEFT JOIN stocks USING (product_id) WHERE ",
            $condition,
            "product_id > ?1 ORDER BY product_id LIMIT ?2"
        )
    };
}

const BY_ID: &str = products_by!("", "");
const BY_STATUS: &str = products_by!("INDEXED BY products_by_status", "status = ?3 AND ");

fn sales(
    connection: &Connection,
    products: &[AdminRow],
) -> rusqlite::Result<HashMap<String, Vec<SalesRow>>> {
    let wanted = marks("?", products.len());
    let sql = format!(
        "SELECT * FROM sales WHERE product_id IN ({wanted}) ORDER BY product_id, currency_code"
    );
    let ids: Vec<_> = products.iter().map(|row| &row.product.product_id as &dyn ToSql).collect();
    let mut sales = HashMap::<String, Vec<SalesRow>>::new();
    for row in rows::<SalesRow>(connection, &sql, &ids)? {
        sales.entry(row.product_id.clone()).or_default().push(row);
    }
    Ok(sales)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projections::product_admin::ProductAdmin;
    use crate::runtime::Projection;

    #[test]
    fn every_list_is_read_in_the_order_of_an_index() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(ProductAdmin::SCHEMA).unwrap();
        for (sql, step) in [
            (BY_ID, "PRIMARY KEY (product_id>?)"),
            (BY_STATUS, "products_by_status (status=? AND product_id>?)"),
        ] {
            let sql = format!("EXPLAIN QUERY PLAN {sql}");
            let steps: Vec<String> =
                select(&connection, &sql, &[], |row| row.get("detail")).unwrap();
            assert!(steps[0].contains(step), "{steps:?}");
            assert!(steps.iter().all(|step| !step.contains("TEMP B-TREE")), "{steps:?}");
        }
    }
}
