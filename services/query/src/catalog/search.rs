//! Finds products by words, with SQLite's FTS5.

use daybook_contract::catalog::v1::SearchProductsRequest;
use daybook_contract::daybook::v1::Money;
use daybook_contract::money;
use sqlx::sqlite::SqliteConnection;

use crate::projections::product_search::FoundRow;
use crate::runtime::row::read_rows;

/// A word in the name counts as much as ten in the description.
const BY_MATCH: &str = "SELECT products.* FROM words
    JOIN products ON products.product_no = words.rowid
    WHERE words MATCH ?1 AND (?2 = '' OR currency_code = ?2) AND price_minor BETWEEN ?3 AND ?4
    ORDER BY bm25(words, 10.0, 1.0), products.product_no LIMIT ?5 OFFSET ?6";

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
    let sql = match (filters.text.trim().is_empty(), words.is_empty()) {
        (true, _) => BY_NAME,
        // Signs alone are in no product.
        (false, true) => return Ok(Vec::new()),
        (false, false) => BY_MATCH,
    };
    let (min, max) = (filters.min_price.as_ref(), filters.max_price.as_ref());
    let currency = min.or(max).map(|price| price.currency_code.clone()).unwrap_or_default();
    let query = sqlx::query(sql).bind(words).bind(currency);
    let query = query.bind(least(min)).bind(most(max)).bind(limit).bind(skip);
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
    use super::*;

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
