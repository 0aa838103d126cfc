//! Finds products by words, with SQLite's FTS5.

use daybook_contract::catalog::v1::SearchProductsRequest;
use daybook_contract::daybook::v1::Money;
use daybook_contract::money;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ToSql};

use crate::projections::product_search::FoundRow;
use crate::runtime::Row;
use crate::runtime::row::{rows, select};

/// The most matches that are ranked, the oldest products first: each costs some 2 µs, and whoever
/// finds more than these has to say more words anyway.
const MATCHES: u32 = 1_000;

/// The most matches whose price is looked at, the oldest products first: each costs half a µs, and
/// another 2 µs when its price is right.
const PRICED_MATCHES: u32 = 3_000;

/// Goes through the matches once, the oldest first, one more than are ranked, and reads the products
/// of a page only. A word in the name counts as much as ten in the description. The first column says
/// whether there is one more; it comes even when the page is empty.
macro_rules! ranked {
    ($score:literal) => {
        concat!(
            "WITH matched AS MATERIALIZED (
                SELECT words.rowid AS no, ",
            $score,
            " AS score FROM words WHERE words MATCH ?1 LIMIT ?2 + 1
            ), page AS (
                SELECT no, score FROM (SELECT no, score FROM matched LIMIT ?2)
                WHERE score IS NOT NULL ORDER BY score, no LIMIT ?3 OFFSET ?4
            )
            SELECT (SELECT count(*) FROM matched) > ?2, products.*
            FROM (SELECT 1) LEFT JOIN page LEFT JOIN products ON product_no = no
            ORDER BY score, no"
        )
    };
}

const RANKED: &str = ranked!("bm25(words, 10.0, 1.0)");
/// The price is in the index, which is a hundredth of the table.
const RANKED_WITH_PRICE: &str = ranked!(
    "iif(EXISTS (
        SELECT 1 FROM products INDEXED BY products_by_number
        WHERE product_no = words.rowid AND currency_code = ?5 AND price_minor BETWEEN ?6 AND ?7
    ), bm25(words, 10.0, 1.0), NULL)"
);

const BY_NAME: &str = "SELECT * FROM products INDEXED BY products_by_name
    WHERE (name, product_id) > (?1, ?2) ORDER BY name, product_id LIMIT ?3";

const BY_PRICE: &str = "SELECT * FROM products INDEXED BY products_by_price
    WHERE currency_code = ?4 AND (price_minor, product_id) > (?1, ?2) AND price_minor <= ?5
    ORDER BY price_minor, product_id LIMIT ?3";

/// A page of what was found.
#[derive(Clone, Default)]
pub struct Found {
    pub rows: Vec<FoundRow>,
    /// Whether more match than were ranked.
    pub more_matches: bool,
}

/// In which order products come, and where a page of them begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// By how well they match. That depends on all others, so it is a place in the list.
    Match { skip: u32 },
    /// By name and id, after these.
    Name { name: String, product_id: String },
    /// By price and id, after these.
    Price { price_minor: i64, product_id: String },
}

impl Place {
    /// Where the first page begins, or the one after a key of [`Place::after`].
    pub fn of(filters: &SearchProductsRequest, key: Option<&str>) -> Self {
        let (product_id, rest) = match key.and_then(|key| key.split_once(' ')) {
            Some((id, rest)) => (id.to_owned(), Some(rest)),
            None => (String::new(), None),
        };
        if !filters.text.trim().is_empty() {
            let skip = rest.map_or(Ok(0), str::parse);
            return Self::Match { skip: skip.unwrap_or(u32::MAX) };
        }
        if filters.min_price.is_none() && filters.max_price.is_none() {
            return Self::Name { name: rest.unwrap_or_default().to_owned(), product_id };
        }
        let price_minor = match rest {
            None => least(filters.min_price.as_ref()),
            Some(price) => price.parse().unwrap_or(i64::MAX),
        };
        Self::Price { price_minor, product_id }
    }

    /// The key of the page after this one, which ends with this row.
    pub fn after(&self, last: &FoundRow, size: u32) -> String {
        let rest = match self {
            Self::Match { skip } => (skip + size).to_string(),
            Self::Name { .. } => last.name.clone(),
            Self::Price { .. } => last.price_minor.to_string(),
        };
        format!("{} {rest}", last.product_id)
    }
}

/// The products that match, best first; all of them, by name or price, when the text is empty.
pub fn products(
    connection: &Connection,
    filters: &SearchProductsRequest,
    place: &Place,
    limit: u32,
) -> rusqlite::Result<Found> {
    let rows = match place {
        Place::Match { skip } => return ranked(connection, filters, *skip, limit),
        Place::Name { name, product_id } => rows(connection, BY_NAME, &[name, product_id, &limit])?,
        Place::Price { price_minor, product_id } => {
            let (currency, most) = (currency(filters), most(filters.max_price.as_ref()));
            rows(connection, BY_PRICE, &[price_minor, product_id, &limit, &currency, &most])?
        }
    };
    Ok(Found { rows, more_matches: false })
}

fn ranked(
    connection: &Connection,
    filters: &SearchProductsRequest,
    skip: u32,
    limit: u32,
) -> rusqlite::Result<Found> {
    let words = match_all(&filters.text);
    // Signs alone are in no product.
    if words.is_empty() {
        return Ok(Found::default());
    }
    let (min, max) = (filters.min_price.as_ref(), filters.max_price.as_ref());
    let (sql, matches) = match min.or(max) {
        None => (RANKED, MATCHES),
        Some(_) => (RANKED_WITH_PRICE, PRICED_MATCHES),
    };
    let (currency, least, most) = (currency(filters), least(min), most(max));
    let values: &[&dyn ToSql] = &[&words, &matches, &limit, &skip, &currency, &least, &most];
    let mut found = Found::default();
    select(connection, sql, values, |row| {
        found.more_matches = row.get(0)?;
        if row.get_ref(1)? != ValueRef::Null {
            found.rows.push(FoundRow::read(row, 1)?);
        }
        Ok(())
    })?;
    Ok(found)
}

/// The currency of the prices; both have the same.
fn currency(filters: &SearchProductsRequest) -> String {
    let price = filters.min_price.as_ref().or(filters.max_price.as_ref());
    price.map(|price| price.currency_code.clone()).unwrap_or_default()
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
    use super::*;
    use crate::projections::product_search::ProductSearch;
    use crate::runtime::Projection;

    /// So many products whose description has tea in it, of which one has it in its name. Each
    /// costs as many cents as its number.
    fn teas(number: u32) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(ProductSearch::SCHEMA).unwrap();
        let insert = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT ?)
            INSERT INTO products SELECT 'p' || n, n, iif(n = 999, 'Tea', 'Pot'), 'For tea',
            'USD', n FROM n";
        connection.execute(insert, [number]).unwrap();
        connection
    }

    fn tea() -> SearchProductsRequest {
        SearchProductsRequest { text: "tea".to_owned(), ..Default::default() }
    }

    fn cents(cents: i64) -> Option<Money> {
        Some(money::from_minor(cents, "USD").unwrap())
    }

    /// A page of a search: the ids, and whether more match than are ranked.
    fn page(
        connection: &Connection,
        filters: &SearchProductsRequest,
        skip: u32,
        limit: u32,
    ) -> (Vec<String>, bool) {
        let found = products(connection, filters, &Place::Match { skip }, limit).unwrap();
        (found.rows.into_iter().map(|row| row.product_id).collect(), found.more_matches)
    }

    #[test]
    fn of_very_many_matches_the_oldest_are_found_and_the_answer_says_so() {
        let connection = teas(3_010);
        let (best, more) = page(&connection, &tea(), 0, 3);
        assert_eq!((best.join(" ").as_str(), more), ("p999 p1 p2", true));
        let (last, more) = page(&connection, &tea(), 998, 3);
        assert_eq!((last.join(" ").as_str(), more), ("p998 p1000", true));
        let (beyond, more) = page(&connection, &tea(), 1_000, 3);
        assert_eq!((beyond.len(), more), (0, true));
        // With a price, older ones that cost something else are no hindrance, up to a limit.
        let dear = SearchProductsRequest { min_price: cents(2_999), ..tea() };
        let (ids, more) = page(&connection, &dear, 0, 50);
        assert_eq!((ids.join(" ").as_str(), more), ("p2999 p3000", true), "ten were not looked at");
    }

    #[test]
    fn up_to_the_limits_everything_is_found_and_nothing_else_is_said() {
        let connection = teas(1_000);
        let (last, more) = page(&connection, &tea(), 999, 3);
        assert_eq!((last.join(" ").as_str(), more), ("p1000", false));
        let connection = teas(3_000);
        let dear = SearchProductsRequest { min_price: cents(101), ..tea() };
        let (last, more) = page(&connection, &dear, 2_899, 3);
        assert_eq!((last.join(" ").as_str(), more), ("p3000", false));
    }

    #[test]
    fn every_list_without_words_is_read_in_the_order_of_an_index() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(ProductSearch::SCHEMA).unwrap();
        for (sql, step) in [
            (BY_NAME, "products_by_name ((name,product_id)>(?,?))"),
            (
                BY_PRICE,
                "products_by_price (currency_code=? AND (price_minor,product_id)>(?,?) AND \
                 price_minor<?)",
            ),
        ] {
            let sql = format!("EXPLAIN QUERY PLAN {sql}");
            let steps: Vec<String> =
                select(&connection, &sql, &[], |row| row.get("detail")).unwrap();
            assert!(steps[0].contains(step), "{steps:?}");
            assert_eq!(steps.len(), 1, "{steps:?}");
        }
    }

    #[test]
    fn prices_are_looked_up_in_their_index() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(ProductSearch::SCHEMA).unwrap();
        let sql = format!("EXPLAIN QUERY PLAN {RANKED_WITH_PRICE}");
        let steps: Vec<String> = select(&connection, &sql, &[], |row| row.get("detail")).unwrap();
        let step = "SEARCH products USING COVERING INDEX products_by_number";
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
