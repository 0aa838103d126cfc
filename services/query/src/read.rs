//! What all queries check before they read.

use daybook_contract::contract::{Validate, Violations};
use daybook_contract::daybook::v1::{ErrorReason, ReadContext};
use daybook_contract::error::Error;

/// Checks a query: the rules of the contract, its own, and what is not supported yet. All
/// violations are found at once.
pub fn check(
    request: &impl Validate,
    read: Option<&ReadContext>,
    own: impl FnOnce(&mut Violations),
) -> Result<(), Error> {
    let mut violations = Violations::default();
    request.validate(&mut violations);
    own(&mut violations);
    if let Some(wait) = read.and_then(|read| read.max_wait)
        && (wait.seconds < 0 || wait.nanos < 0)
    {
        violations.add("read.max_wait", "is negative");
    }
    if !violations.is_empty() {
        return Err(Error::invalid(violations));
    }
    let Some(read) = read else { return Ok(()) };
    if read.as_of.is_some() {
        return Err(not_supported("read.as_of"));
    }
    if !read.branch_id.is_empty() {
        return Err(not_supported("read.branch_id"));
    }
    Ok(())
}

fn not_supported(field: &str) -> Error {
    let text = format!("{field} is not supported yet; leave it out");
    Error::new(ErrorReason::NotSupported, text).with("field", field)
}
