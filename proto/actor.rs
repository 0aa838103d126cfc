//! Who sends a request.

use tonic::metadata::MetadataMap;

use crate::daybook::v1::ErrorReason;
use crate::error::Error;

/// The header in which a caller says who it is, as long as no authentication says it for them.
pub const HEADER: &str = "daybook-actor";

/// The longest name of an actor, in characters.
pub const MAX_CHARS: usize = 64;

/// The actor of a request; empty when the caller does not say.
pub fn of(metadata: &MetadataMap) -> Result<String, Error> {
    let Some(value) = metadata.get(HEADER) else { return Ok(String::new()) };
    match value.to_str() {
        Ok(text) if text.len() <= MAX_CHARS => Ok(text.to_owned()),
        _ => {
            let message = format!("header {HEADER} must be at most {MAX_CHARS} ASCII characters");
            Err(Error::new(ErrorReason::InvalidRequest, message.as_str())
                .with_violation(HEADER, message))
        }
    }
}
