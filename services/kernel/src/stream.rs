//! Names of streams: `<category>-<id>`. The category is the name of an aggregate.

use std::fmt;

/// The name of a stream, split into its two parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName {
    category: String,
    id: String,
}

/// What is wrong with the name of a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the name of a stream: it must be <category>-<id>, the category 1 to 63 lower \
     case letters, digits, dots and underscores, the id 1 to 64 letters, digits, '.', '_', '~' \
     and '-'"
)]
pub struct InvalidStreamName(pub String);

impl StreamName {
    /// The name with these parts.
    pub fn new(category: &str, id: &str) -> Result<Self, InvalidStreamName> {
        let category_ok = (1..=63).contains(&category.len())
            && category
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_'));
        if !category_ok || !is_id(id) {
            return Err(InvalidStreamName(format!("{category}-{id}")));
        }
        Ok(Self { category: category.to_owned(), id: id.to_owned() })
    }

    /// Splits a whole name at its first hyphen.
    pub fn parse(name: &str) -> Result<Self, InvalidStreamName> {
        let (category, id) =
            name.split_once('-').ok_or_else(|| InvalidStreamName(name.to_owned()))?;
        Self::new(category, id).map_err(|_| InvalidStreamName(name.to_owned()))
    }

    /// The part before the first hyphen: the name of the aggregate.
    pub fn category(&self) -> &str {
        &self.category
    }

    /// The part after the first hyphen: the id of the aggregate.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.category, self.id)
    }
}

/// Whether a text can be the id of an aggregate: 1 to 64 unreserved characters of RFC 3986.
pub fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'-'))
}
