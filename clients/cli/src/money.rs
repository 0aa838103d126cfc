//! Amounts of money as people write and read them: `12.34 USD`. No floats, no rounding.

use daybook_client::Money;
use daybook_contract::money::{exponent, problems};

/// The most digits after the point that the contract can carry.
const NANO_DIGITS: usize = 9;

/// The amount of a currency. Refuses what is finer than the smallest unit of the currency.
pub(crate) fn parse(amount: &str, currency: &str) -> Result<Money, String> {
    let currency_code = currency.to_ascii_uppercase();
    let malformed = || {
        format!("{amount:?} is not an amount; an amount is like 12.34, without signs for thousands")
    };
    let (negative, digits) = match amount.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, amount),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return Err(malformed());
    }
    let significant = fraction.trim_end_matches('0');
    if significant.len() > NANO_DIGITS {
        return Err(too_fine(amount, &currency_code));
    }
    let units: i64 = whole.parse().map_err(|_| format!("{amount} is too large"))?;
    let nanos: i32 =
        format!("{significant:0<NANO_DIGITS$}").parse().expect("nine digits fit into 32 bits");
    let sign = if negative { -1 } else { 1 };
    let money = Money { currency_code, units: sign * units, nanos: sign as i32 * nanos };
    match problems(&money).into_iter().next() {
        None => Ok(money),
        Some(daybook_contract::money::MoneyError::TooFine { .. }) => {
            Err(too_fine(amount, &money.currency_code))
        }
        Some(other) => Err(other.to_string()),
    }
}

fn too_fine(amount: &str, currency: &str) -> String {
    let smallest = match exponent(currency) {
        Some(0) | None => "1".to_owned(),
        Some(places) => format!("0.{:0>width$}", 1, width = places as usize),
    };
    format!("{amount} {currency} is finer than the smallest amount, {smallest} {currency}")
}

/// Amounts of several currencies, such as `12.34 USD, 5 JPY`.
pub(crate) fn show_all(amounts: &[Money]) -> String {
    let amounts: Vec<_> = amounts.iter().map(|amount| show(Some(amount))).collect();
    amounts.join(", ")
}

/// The amount for people. Empty when there is none.
pub(crate) fn show(money: Option<&Money>) -> String {
    let Some(Money { currency_code, units, nanos }) = money else { return String::new() };
    let sign = if *units < 0 || *nanos < 0 { "-" } else { "" };
    let nanos = format!("{:0NANO_DIGITS$}", nanos.unsigned_abs());
    let places = exponent(currency_code).map_or(0, |places| places as usize);
    // What is finer than the currency allows is shown rather than hidden.
    let shown = nanos.trim_end_matches('0').len().max(places);
    let point = if shown == 0 { "" } else { "." };
    format!("{sign}{}{point}{} {currency_code}", units.unsigned_abs(), &nanos[..shown])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_shown() {
        for (amount, currency, units, nanos, shown) in [
            ("12.34", "USD", 12, 340_000_000, "12.34 USD"),
            ("12", "usd", 12, 0, "12.00 USD"),
            ("0.05", "EUR", 0, 50_000_000, "0.05 EUR"),
            ("-0.05", "EUR", 0, -50_000_000, "-0.05 EUR"),
            ("-7.5", "USD", -7, -500_000_000, "-7.50 USD"),
            ("1500", "JPY", 1500, 0, "1500 JPY"),
            ("1.2500", "BHD", 1, 250_000_000, "1.250 BHD"),
            ("9223372036854775807", "JPY", i64::MAX, 0, "9223372036854775807 JPY"),
        ] {
            let money = parse(amount, currency).unwrap();
            assert_eq!((money.units, money.nanos), (units, nanos), "{amount}");
            assert_eq!(show(Some(&money)), shown);
        }
    }

    #[test]
    fn what_is_finer_than_the_currency_is_refused_with_the_smallest_amount() {
        let cases = [
            ("12.345", "USD", "0.01 USD"),
            ("0.5", "JPY", "1 JPY"),
            ("1.2345", "BHD", "0.001 BHD"),
            ("0.0000000001", "USD", "0.01 USD"),
        ];
        for (amount, currency, smallest) in cases {
            let problem = parse(amount, currency).unwrap_err();
            assert!(problem.ends_with(&format!("the smallest amount, {smallest}")), "{problem}");
        }
    }

    #[test]
    fn what_is_not_an_amount_is_refused() {
        for amount in ["", "-", ".", "12.", ".5", "1,000", "1e3", "12.3.4", "+5", "ten", "１２"] {
            assert!(parse(amount, "USD").is_err(), "{amount}");
        }
        assert!(parse("99999999999999999999", "USD").unwrap_err().contains("too large"));
        assert!(parse("5", "US").unwrap_err().contains("three capital letters"));
        assert!(parse("5", "XQQ").unwrap_err().contains("not in ISO 4217"));
    }
}
