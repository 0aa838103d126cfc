//! Page tokens: opaque texts that say where a page ended. A token is bound to its query, and a
//! damaged one is recognised. It is no secret: it holds nothing that the page did not show.

use daybook_contract::daybook::v1::ErrorReason;
use daybook_contract::error::Error;
use prost::Message;
use sha2::{Digest, Sha256};

/// The most rows of a page.
pub const LARGEST_PAGE: u32 = 500;

/// Marks the layout of the tokens.
const LAYOUT: u8 = 1;

const QUERY_BYTES: usize = 8;
const CHECK_BYTES: usize = 8;

/// The statement of a page, newest first, of the rows that are in one of these ranges. A range is a
/// condition that names all columns of an index but the last, which is the position: so each is read
/// in the order of that index, and no further than a page. The first parameter is the position before
/// which the page begins, the second how many rows it has.
pub fn newest(table: &str, ranges: impl IntoIterator<Item = String>) -> String {
    let ranges = ranges.into_iter().map(|range| {
        format!(
            "SELECT * FROM (SELECT position, rowid AS row FROM {table}
             WHERE {range} AND position < ?1 ORDER BY position DESC LIMIT ?2)"
        )
    });
    format!(
        "SELECT * FROM {table} WHERE rowid IN (SELECT row FROM ({})
         ORDER BY position DESC LIMIT ?2) ORDER BY position DESC",
        ranges.collect::<Vec<_>>().join(" UNION ALL ")
    )
}

/// A query whose answer comes in pages.
pub struct Pages {
    query: [u8; QUERY_BYTES],
}

impl Pages {
    /// The pages of a query: its name, and the request without what may differ from page to page.
    pub fn of(name: &str, filters: &impl Message) -> Self {
        let mut hash = Sha256::new();
        hash.update(name);
        hash.update([0]);
        hash.update(filters.encode_to_vec());
        Self { query: first(hash) }
    }

    /// The token of the page after the row with this key.
    pub fn token(&self, last: &str) -> String {
        let mut bytes = vec![LAYOUT];
        bytes.extend(self.query);
        bytes.extend(last.as_bytes());
        bytes.extend(check(&bytes));
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The key of the row after which the page begins; `None` for the first page.
    pub fn after(&self, token: &str) -> Result<Option<String>, Error> {
        if token.is_empty() {
            return Ok(None);
        }
        self.read(token).map(Some).ok_or_else(|| {
            let text = "the page token is damaged or of another query; begin without a token";
            Error::new(ErrorReason::InvalidPageToken, text).with_violation("page_token", text)
        })
    }

    /// Cuts rows, of which one more was read than a page has, to a page. Answers with the token of
    /// the next page; empty when this is the last.
    pub fn cut<R>(&self, rows: &mut Vec<R>, size: u32, key: impl Fn(&R) -> String) -> String {
        let more = rows.len() > size as usize;
        rows.truncate(size as usize);
        let last = rows.last().filter(|_| more);
        last.map(|row| self.token(&key(row))).unwrap_or_default()
    }

    fn read(&self, token: &str) -> Option<String> {
        let digits = token.as_bytes();
        if !digits.len().is_multiple_of(2) {
            return None;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let bytes: Option<Vec<u8>> = digits
            .chunks_exact(2)
            .map(|pair| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8))
            .collect();
        let bytes = bytes?;
        let (content, sum) = bytes.split_at(bytes.len().checked_sub(CHECK_BYTES)?);
        let (layout, rest) = content.split_first()?;
        let (query, last) = rest.split_at_checked(QUERY_BYTES)?;
        if sum != check(content) || *layout != LAYOUT || query != self.query {
            return None;
        }
        String::from_utf8(last.to_vec()).ok()
    }
}

/// The number of rows of a page; a larger one than there is is not an error.
pub fn page_size(asked: i32, default: u32) -> u32 {
    match u32::try_from(asked) {
        Ok(0) | Err(_) => default,
        Ok(size) => size.min(LARGEST_PAGE),
    }
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    first(Sha256::new_with_prefix(bytes))
}

fn first<const N: usize>(hash: Sha256) -> [u8; N] {
    let digest = hash.finalize();
    std::array::from_fn(|at| digest[at])
}

#[cfg(test)]
mod tests {
    use daybook_contract::bank::v1::ListAccountsRequest;

    use super::*;

    fn accounts(prefix: &str) -> Pages {
        let request = ListAccountsRequest { owner_prefix: prefix.to_owned(), ..Default::default() };
        Pages::of("ListAccounts", &request)
    }

    #[test]
    fn a_token_brings_back_the_key_of_its_own_query_only() {
        for key in ["", "a", "0192-αβγ", &"x".repeat(64)] {
            let token = accounts("A").token(key);
            assert_eq!(accounts("A").after(&token).unwrap().as_deref(), Some(key));
            assert!(accounts("B").after(&token).is_err());
            let other = Pages::of("ListOthers", &ListAccountsRequest::default());
            assert!(other.after(&token).is_err());
        }
        assert_eq!(accounts("A").after("").unwrap(), None);
    }

    #[test]
    fn a_damaged_token_is_refused() {
        let token = accounts("A").token("alice");
        for at in 0..token.len() {
            let mut damaged = token.clone().into_bytes();
            damaged[at] = if damaged[at] == b'0' { b'1' } else { b'0' };
            let damaged = String::from_utf8(damaged).unwrap();
            let error = accounts("A").after(&damaged).unwrap_err();
            assert_eq!(error.reason(), "INVALID_PAGE_TOKEN", "{damaged}");
        }
        for wrong in ["0", "00", "zz", "ä", &token[2..], &token[..token.len() - 2]] {
            assert!(accounts("A").after(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_page_has_a_size_within_the_limit() {
        assert_eq!([0, 1, 500, 501, i32::MAX].map(|n| page_size(n, 50)), [50, 1, 500, 500, 500]);
    }
}
