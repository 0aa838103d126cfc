//! Finds products by words, with SQLite's FTS5.

use daybook_contract::catalog::v1::SearchProductsRequest;
use daybook_contract::daybook::v1::Money;
use daybook_contract::money;
use sqlx::sqlite::SqliteConnection;

use crate::projections::product_search::FoundRow;
use crate::runtime::row::read_rows;

/// The most matches that are ranked, the oldest products first: each costs some 2 µs, and whoever
/// finds more than these has to say more words anyway.
const RANKED_MATCHES: u32 = 2_000;

/// The most products with the words whose price is looked at, the oldest first.
const PRICED_MATCHES: u32 = 20_000;

/// Ranks matches, and reads the products of a page only. A word in the name counts as much as ten
/// in the description.
macro_rules! by_match {
    ($prices:literal) => {
        concat!(
            "SELECT products.* FROM (
                SELECT no, score FROM (
                    SELECT words.rowid AS no, bm25(words, 10.0, 1.0) AS score FROM words ",
            $prices,
            " LIMIT ?7
                ) ORDER BY score, no LIMIT ?5 OFFSET ?6
            ) JOIN products ON product_no = no ORDER BY score, no"
        )
    };
}

const BY_MATCH: &str = by_match!("WHERE words MATCH ?1");

/// The price is in the index, which is a hundredth of the table.
const BY_MATCH_AND_PRICE: &str = by_match!(
    "CROSS JOIN products AS priced INDEXED BY products_by_number
        ON priced.product_no = words.rowid
    WHERE words MATCH ?1 AND words.rowid <= coalesce(
        (SELECT rowid FROM words WHERE words MATCH ?1 LIMIT 1 OFFSET ?8), 9223372036854775807
    ) AND priced.currency_code = ?2 AND priced.price_minor BETWEEN ?3 AND ?4"
);

const BY_NAME: &str = "SELECT * FROM products
    WHERE ?1 = '' AND (?2 = '' OR currency_code = ?2) AND price_minor BETWEEN ?3 AND ?4
    ORDER BY name, product_no LIMIT ?5 OFFSET ?6";

/// The products that match, best first; all of them, by name, when the text is empty.
pub async fn products(
    connection: &mut SqliteConnection,
    filters: SearchProductsRequest,
    skip: u32,
    limit: u32,
) -> Result<Vec<FoundRow>, sqlx::Error> {
    let words = match_all(&filters.text);
    let (min, max) = (filters.min_price.as_ref(), filters.max_price.as_ref());
    let sql = match (filters.text.trim().is_empty(), words.is_empty()) {
        (true, _) => BY_NAME,
        // Signs alone are in no product.
        (false, true) => return Ok(Vec::new()),
        (false, false) if min.or(max).is_some() => BY_MATCH_AND_PRICE,
        (false, false) => BY_MATCH,
    };
    let currency = min.or(max).map(|price| price.currency_code.clone()).unwrap_or_default();
    let query = sqlx::query(sql).bind(words).bind(currency);
    let query = query.bind(least(min)).bind(most(max)).bind(limit).bind(skip).bind(RANKED_MATCHES);
    let query = query.bind(PRICED_MATCHES - 1);
    read_rows(&query.fetch_all(connection).await?)
}

fn least(price: Option<&Money>) -> i64 {
    price.map_or(i64::MIN, saturating_minor)
}

fn most(price: Option<&Money>) -> i64 {
    price.map_or(i64::MAX, saturating_minor)
}

/// The smallest units of a price whose form was checked.
fn saturating_minor(price: &Money) -> i64 {
    money::to_minor(price).unwrap_or(if price.units < 0 { i64::MIN } else { i64::MAX })
}

/// The expression of FTS5 for products with every word, each perhaps the beginning of one. Words
/// are cut out as FTS5 cuts them and put into quotes, so nothing in a text is an operator.
fn match_all(text: &str) -> String {
    let is_accent = |c: char| ('\u{300}'..='\u{36f}').contains(&c);
    let words = text.split(|c: char| !c.is_alphanumeric() && !is_accent(c));
    let words = words.filter(|word| word.contains(char::is_alphanumeric));
    words.map(|word| format!("\"{word}\"*")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Connection, Executor, Row as _};

    use super::*;
    use crate::projections::product_search::ProductSearch;
    use crate::runtime::Projection;

    #[tokio::test]
    async fn of_very_many_matches_the_oldest_are_found() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        connection.execute(ProductSearch::SCHEMA).await.unwrap();
        let insert = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT 20010)
            INSERT INTO products SELECT 'p' || n, n, iif(n = 1999, 'Tea', 'Pot'), 'For tea',
            'USD', n FROM n";
        connection.execute(insert).await.unwrap();
        let tea = SearchProductsRequest { text: "tea".to_owned(), ..Default::default() };
        let page = |skip| (tea.clone(), skip, 3);
        let mut ids = Vec::new();
        for (filters, skip, limit) in [page(0), page(1_998)] {
            let rows = products(&mut connection, filters, skip, limit).await.unwrap();
            ids.push(rows.into_iter().map(|row| row.product_id).collect::<Vec<_>>().join(" "));
        }
        assert_eq!(ids, ["p1999 p1 p2", "p1998 p2000"]);
        // With a price, older ones that cost something else are no hindrance, up to a limit.
        let price = Money { currency_code: "USD".to_owned(), units: 199, nanos: 990_000_000 };
        let dear = SearchProductsRequest { min_price: Some(price), ..tea };
        assert_eq!(products(&mut connection, dear, 0, 50).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn prices_are_looked_up_in_their_index() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        connection.execute(ProductSearch::SCHEMA).await.unwrap();
        let sql = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {BY_MATCH_AND_PRICE}"));
        let plan = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
        let steps: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
        let step = "SEARCH priced USING COVERING INDEX products_by_number";
        assert!(steps.iter().any(|found| found.starts_with(step)), "{steps:?}");
    }

    #[test]
    fn a_text_is_words_and_nothing_else() {
        assert_eq!(match_all("  Red teapot "), "\"Red\"* \"teapot\"*");
        assert_eq!(match_all("a\"b OR c* NEAR(d) name:e -f ^g"), {
            let words = ["a", "b", "OR", "c", "NEAR", "d", "name", "e", "f", "g"];
            words.map(|word| format!("\"{word}\"*")).join(" ")
        });
        for nothing in ["", " ", "\"", "***", "()", "\0", "\u{301}", "-:^+"] {
            assert_eq!(match_all(nothing), "", "{nothing:?}");
        }
    }
}
