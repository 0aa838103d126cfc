//! Amounts in events, as projections add them up: integers in the smallest unit, checked.

use daybook_contract::daybook::v1::{ErrorReason, Money};
use daybook_contract::error::Error;
use daybook_contract::money;

use crate::runtime::ApplyError;

/// The smallest units of an amount, which must be in this currency.
pub(crate) fn minor(amount: Option<&Money>, currency_code: &str) -> Result<i64, ApplyError> {
    let amount = amount.ok_or_else(|| ApplyError::failed("the event has no amount"))?;
    if amount.currency_code != currency_code {
        return Err(ApplyError::failed(format!(
            "the amount is in {}, the account in {currency_code}",
            amount.currency_code
        )));
    }
    money::to_minor(amount).map_err(|error| ApplyError::failed(error.to_string()))
}

/// The currency and the smallest units that an account begins with.
pub(crate) fn initial(amount: Option<&Money>) -> Result<(String, i64), ApplyError> {
    let amount = amount.ok_or_else(|| ApplyError::failed("the event has no initial balance"))?;
    parts(Some(amount))
}

/// The currency and the smallest units of an amount.
pub(crate) fn parts(amount: Option<&Money>) -> Result<(String, i64), ApplyError> {
    let amount = amount.ok_or_else(|| ApplyError::failed("the event has no amount"))?;
    Ok((amount.currency_code.clone(), minor(Some(amount), &amount.currency_code)?))
}

/// The sum, if 64 bits hold it.
pub(crate) fn add(sum: i64, amount: i64) -> Result<i64, ApplyError> {
    sum.checked_add(amount)
        .ok_or_else(|| ApplyError::failed(format!("{sum} and {amount} are more than 64 bits hold")))
}

/// An amount on the wire. More than the wire holds is an error.
pub(crate) fn to_wire(minor: i128, currency_code: &str) -> Result<Money, Error> {
    let Some(exponent) = money::exponent(currency_code) else {
        let text = format!("a row has the unknown currency {currency_code:?}");
        return Err(Error::new(ErrorReason::Internal, text));
    };
    let per_unit = 10_i128.pow(exponent);
    let units = i64::try_from(minor / per_unit).map_err(|_| {
        let text = format!("the sum in {currency_code} is larger than a Money can be");
        Error::new(ErrorReason::LimitExceeded, text)
    })?;
    let nanos = (minor % per_unit) * (1_000_000_000 / per_unit);
    let nanos = i32::try_from(nanos).expect("below a billion");
    Ok(Money { currency_code: currency_code.to_owned(), units, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_go_to_the_wire_as_long_as_it_holds_them() {
        let wire = |minor, code| to_wire(minor, code).map(|m| (m.units, m.nanos));
        assert_eq!(wire(1_234, "USD").unwrap(), (12, 340_000_000));
        assert_eq!(wire(7, "JPY").unwrap(), (7, 0));
        assert_eq!(wire(1_001, "KWD").unwrap(), (1, 1_000_000));
        assert_eq!(wire(i128::from(i64::MAX) * 100, "USD").unwrap(), (i64::MAX, 0));
        assert_eq!(wire(i128::from(i64::MAX) + 1, "JPY").unwrap_err().reason(), "LIMIT_EXCEEDED");
        assert_eq!(wire(1, "ABC").unwrap_err().reason(), "INTERNAL");
    }

    #[test]
    fn amounts_in_events_are_checked() {
        let usd = Money { currency_code: "USD".to_owned(), units: 1, nanos: 0 };
        assert_eq!(minor(Some(&usd), "USD"), Ok(100));
        assert!(minor(Some(&usd), "EUR").is_err());
        assert!(minor(None, "USD").is_err());
        assert!(add(i64::MAX, 1).is_err());
        assert_eq!(add(1, -2), Ok(-1));
    }
}
