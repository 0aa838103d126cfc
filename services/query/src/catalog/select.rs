//! The rows of products.

use std::collections::HashMap;

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row as _};

use crate::projections::product_admin::SalesRow;
use crate::projections::product_details::{PriceRow, ProductRow};
use crate::runtime::Row;
use crate::runtime::row::{read_row, read_rows};

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

pub async fn product(
    connection: &mut SqliteConnection,
    id: String,
) -> Result<Option<(ProductRow, Vec<PriceRow>)>, sqlx::Error> {
    let product = sqlx::query("SELECT * FROM products WHERE product_id = ?")
        .bind(&id)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(product) = product else { return Ok(None) };
    let prices = "SELECT * FROM prices WHERE product_id = ? ORDER BY version DESC LIMIT ?";
    let prices = sqlx::query(prices).bind(id).bind(SHOWN_PRICES).fetch_all(connection).await?;
    Ok(Some((read_row(&product)?, read_rows(&prices)?)))
}

/// Products by id, each with what the other topics have told so far.
pub async fn admin(
    connection: &mut SqliteConnection,
    status: i32,
    after: String,
    limit: u32,
) -> Result<Vec<AdminRow>, sqlx::Error> {
    let sql = if status == 0 { BY_ID } else { BY_STATUS };
    let query = sqlx::query(sql).bind(after).bind(limit).bind(status);
    let products = query.fetch_all(&mut *connection).await?;
    let mut rows = Vec::with_capacity(products.len());
    for row in &products {
        let columns = ProductRow::COLUMNS.len();
        rows.push(AdminRow {
            product: read_row(row)?,
            on_hand: row.try_get(columns)?,
            reserved: row.try_get(columns + 1)?,
            sales: Vec::new(),
        });
    }
    let mut sales = sales(connection, &rows).await?;
    for row in &mut rows {
        row.sales = sales.remove(&row.product.product_id).unwrap_or_default();
    }
    Ok(rows)
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

async fn sales(
    connection: &mut SqliteConnection,
    rows: &[AdminRow],
) -> Result<HashMap<String, Vec<SalesRow>>, sqlx::Error> {
    let wanted = vec!["?"; rows.len()].join(", ");
    let sql = format!(
        "SELECT * FROM sales WHERE product_id IN ({wanted}) ORDER BY product_id, currency_code"
    );
    let query = rows.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, row| {
        query.bind(row.product.product_id.clone())
    });
    let mut sales = HashMap::<String, Vec<SalesRow>>::new();
    for row in read_rows::<SalesRow>(&query.fetch_all(connection).await?)? {
        sales.entry(row.product_id.clone()).or_default().push(row);
    }
    Ok(sales)
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection, Executor};

    use super::*;
    use crate::projections::product_admin::ProductAdmin;
    use crate::runtime::Projection;

    #[tokio::test]
    async fn every_list_is_read_in_the_order_of_an_index() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        connection.execute(ProductAdmin::SCHEMA).await.unwrap();
        for (sql, step) in [
            (BY_ID, "PRIMARY KEY (product_id>?)"),
            (BY_STATUS, "products_by_status (status=? AND product_id>?)"),
        ] {
            let explained = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let plan = sqlx::query(explained).fetch_all(&mut connection).await.unwrap();
            let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
            assert!(steps[0].contains(step), "{steps:?}");
            assert!(steps.iter().all(|step| !step.contains("TEMP B-TREE")), "{steps:?}");
        }
    }
}
