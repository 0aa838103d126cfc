//! Names of streams: `<category>-<id>`. The category is the name of an aggregate.

use std::fmt;
use std::sync::Arc;

/// The name of a stream. Clones share it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName(Arc<str>);

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
        let name = [category, "-", id].concat();
        match is_category(category) && is_id(id) {
            true => Ok(Self(name.into())),
            false => Err(InvalidStreamName(name)),
        }
    }

    /// Splits a whole name at its first hyphen.
    pub fn parse(name: &str) -> Result<Self, InvalidStreamName> {
        match name.split_once('-') {
            Some((category, id)) if is_category(category) && is_id(id) => Ok(Self(name.into())),
            _ => Err(InvalidStreamName(name.to_owned())),
        }
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the first hyphen: the name of the aggregate.
    pub fn category(&self) -> &str {
        self.parts().0
    }

    /// The part after the first hyphen: the id of the aggregate.
    pub fn id(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        let hyphen = self.0.bytes().position(|byte| byte == b'-');
        let hyphen = hyphen.expect("it was checked when it was made");
        (&self.0[..hyphen], &self.0[hyphen + 1..])
    }
}

impl From<StreamName> for Arc<str> {
    fn from(name: StreamName) -> Self {
        name.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_category(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_'))
}

/// Whether a text can be the id of an aggregate: 1 to 64 unreserved characters of RFC 3986.
pub fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'-'))
}
