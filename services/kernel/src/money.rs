//! Money: a whole number of the smallest units of one currency. Never a float.
//!
//! The pattern is Fowler's *Money* (Patterns of Enterprise Application Architecture): amount and
//! currency are one value, and two currencies do not mix by accident. On the wire it is
//! [`daybook.v1.Money`](wire::Money), whose form is that of google.type.Money (AIP-143); how many
//! smallest units a unit has is the exponent of ISO 4217. *Not* here: rounding, rates, parsing of
//! what people type.

use std::cmp::Ordering;
use std::fmt;

use daybook_contract::daybook::v1 as wire;
use daybook_contract::money;

/// An amount of money in one currency: `Money::new(1234, Currency::USD)` is 12.34 USD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    minor: i64,
    currency: Currency,
}

/// A currency of ISO 4217, by its three capital letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency([u8; 3]);

/// Why there is no such money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Two currencies do not mix.
    #[error("{left} and {right} do not mix")]
    CurrencyMismatch {
        /// The one currency.
        left: Currency,
        /// The other.
        right: Currency,
    },
    /// The result has more smallest units than a 64-bit number can count.
    #[error("the amount in {0} is too large to count in its smallest unit")]
    Overflow(Currency),
    /// The text is not a currency of ISO 4217.
    #[error("{0:?} is not a currency of ISO 4217, such as USD")]
    UnknownCurrency(String),
    /// The message breaks a rule of its form.
    #[error("{0}")]
    Malformed(#[from] money::MoneyError),
}

impl Money {
    /// An amount in the smallest unit of a currency.
    pub const fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    /// Nothing, in a currency.
    pub const fn zero(currency: Currency) -> Self {
        Self::new(0, currency)
    }

    /// The amount, in the smallest unit of the currency.
    pub const fn minor(self) -> i64 {
        self.minor
    }

    /// The currency.
    pub const fn currency(self) -> Currency {
        self.currency
    }

    /// Whether it is nothing.
    pub const fn is_zero(self) -> bool {
        self.minor == 0
    }

    /// Whether it is more than nothing.
    pub const fn is_positive(self) -> bool {
        self.minor > 0
    }

    /// Whether it is less than nothing.
    pub const fn is_negative(self) -> bool {
        self.minor < 0
    }

    /// The sum.
    pub fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        self.combine(other, i64::checked_add)
    }

    /// The difference.
    pub fn checked_sub(self, other: Self) -> Result<Self, MoneyError> {
        self.combine(other, i64::checked_sub)
    }

    /// The same amount with the other sign.
    pub fn checked_neg(self) -> Result<Self, MoneyError> {
        Self::zero(self.currency).checked_sub(self)
    }

    fn combine(
        self,
        other: Self,
        operation: impl FnOnce(i64, i64) -> Option<i64>,
    ) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::CurrencyMismatch {
                left: self.currency,
                right: other.currency,
            });
        }
        let minor =
            operation(self.minor, other.minor).ok_or(MoneyError::Overflow(self.currency))?;
        Ok(Self::new(minor, self.currency))
    }
}

/// Amounts of two currencies have no order.
impl PartialOrd for Money {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self.currency == other.currency).then(|| self.minor.cmp(&other.minor))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.currency.exponent() as usize;
        let sign = if self.is_negative() { "-" } else { "" };
        // At least one digit stands before the point: 5 cents are 005, and so 0.05.
        let digits = format!("{:0width$}", self.minor.unsigned_abs(), width = places + 1);
        let (units, fraction) = digits.split_at(digits.len() - places);
        let point = if places == 0 { "" } else { "." };
        write!(f, "{sign}{units}{point}{fraction} {}", self.currency)
    }
}

impl TryFrom<&wire::Money> for Money {
    type Error = MoneyError;

    fn try_from(money: &wire::Money) -> Result<Self, MoneyError> {
        let minor = money::to_minor(money)?;
        Ok(Self::new(minor, Currency::new(&money.currency_code)?))
    }
}

impl From<Money> for wire::Money {
    fn from(money: Money) -> Self {
        money::from_minor(money.minor, money.currency.code())
            .expect("a Currency is one that the contract knows")
    }
}

impl Currency {
    /// The dollar of the United States: the currency of what came before there were currencies.
    pub const USD: Self = Self(*b"USD");

    /// The currency with this code.
    pub fn new(code: &str) -> Result<Self, MoneyError> {
        let unknown = || MoneyError::UnknownCurrency(code.to_owned());
        money::exponent(code).ok_or_else(unknown)?;
        code.as_bytes().try_into().map(Self).map_err(|_| unknown())
    }

    /// Its three capital letters.
    pub fn code(&self) -> &str {
        str::from_utf8(&self.0).expect("a code is three capital letters")
    }

    /// How many decimal places its smallest unit has: 2 for USD, 0 for JPY, 3 for KWD.
    pub fn exponent(self) -> u32 {
        money::exponent(self.code()).expect("a Currency is one that the contract knows")
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One currency for each exponent of ISO 4217.
    const CODES: [&str; 4] = ["JPY", "USD", "KWD", "CLF"];

    fn money(minor: i64, code: &str) -> Money {
        Money::new(minor, Currency::new(code).unwrap())
    }

    #[test]
    fn money_reads_as_people_write_it() {
        for (minor, code, text) in [
            (1234, "USD", "12.34 USD"),
            (5, "USD", "0.05 USD"),
            (-5, "USD", "-0.05 USD"),
            (0, "USD", "0.00 USD"),
            (1200, "JPY", "1200 JPY"),
            (-1, "JPY", "-1 JPY"),
            (1234, "KWD", "1.234 KWD"),
            (-10_001, "CLF", "-1.0001 CLF"),
            (i64::MAX, "USD", "92233720368547758.07 USD"),
            (i64::MIN, "USD", "-92233720368547758.08 USD"),
            (i64::MIN, "JPY", "-9223372036854775808 JPY"),
        ] {
            assert_eq!(money(minor, code).to_string(), text);
        }
    }

    #[test]
    fn two_currencies_do_not_mix() {
        let (dollar, yen) = (money(1, "USD"), money(1, "JPY"));
        let mismatch = MoneyError::CurrencyMismatch { left: Currency::USD, right: yen.currency() };
        assert_eq!(dollar.checked_add(yen), Err(mismatch.clone()));
        assert_eq!(dollar.checked_sub(yen), Err(mismatch));
        assert_eq!(dollar.partial_cmp(&yen), None);
        assert_ne!(dollar, yen);
    }

    #[test]
    fn an_overflow_is_an_error() {
        let most = money(i64::MAX, "USD");
        let least = money(i64::MIN, "USD");
        let cent = money(1, "USD");
        let overflow = Err(MoneyError::Overflow(Currency::USD));
        assert_eq!(most.checked_add(cent), overflow);
        assert_eq!(least.checked_sub(cent), overflow);
        assert_eq!(least.checked_neg(), overflow);
        assert_eq!(most.checked_add(Money::zero(Currency::USD)), Ok(most));
        assert_eq!(most.checked_neg(), Ok(money(-i64::MAX, "USD")));
    }

    #[test]
    fn only_currencies_of_iso_4217_exist() {
        for code in ["", "US", "usd", "USDX", "ABC", "\u{20ac}", "\u{c4}B"] {
            assert_eq!(Currency::new(code), Err(MoneyError::UnknownCurrency(code.to_owned())));
        }
        for (code, exponent) in CODES.into_iter().zip([0, 2, 3, 4]) {
            let currency = Currency::new(code).unwrap();
            assert_eq!((currency.code(), currency.exponent()), (code, exponent));
        }
        assert_eq!(Currency::new("USD"), Ok(Currency::USD));
    }

    #[test]
    fn a_malformed_message_is_no_money() {
        for (units, nanos, code) in [
            (1, 0, ""),
            (1, 0, "dollars"),
            (1, -10_000_000, "USD"),
            (0, 1, "USD"),
            (0, 1_000_000_000, "USD"),
            (0, i32::MIN, "USD"),
            (1, 500_000_000, "JPY"),
            (i64::MAX, 0, "USD"),
            (i64::MIN, 0, "KWD"),
        ] {
            let wire = wire::Money { currency_code: code.to_owned(), units, nanos };
            assert!(Money::try_from(&wire).is_err(), "{wire:?}");
        }
    }

    fn any_minor() -> impl Strategy<Value = i64> {
        prop_oneof![any::<i64>(), -10_000..10_000_i64, Just(i64::MIN), Just(i64::MAX)]
    }

    proptest! {
        #[test]
        fn money_survives_the_wire(minor in any_minor(), code in proptest::sample::select(&CODES)) {
            let here = money(minor, code);
            let wire = wire::Money::from(here);
            prop_assert_eq!(wire.units.signum() * i64::from(wire.nanos.signum()) >= 0, true);
            prop_assert_eq!(Money::try_from(&wire), Ok(here));
        }

        #[test]
        fn what_is_written_is_the_amount(
            minor in any_minor(),
            code in proptest::sample::select(&CODES),
        ) {
            let text = money(minor, code).to_string();
            let (number, suffix) = text.split_once(' ').unwrap();
            prop_assert_eq!(suffix, code);
            let exponent = Currency::new(code).unwrap().exponent() as usize;
            let places = number.split_once('.').map_or(0, |(_, fraction)| fraction.len());
            prop_assert_eq!(places, exponent);
            prop_assert_eq!(number.replace('.', "").parse::<i64>().unwrap(), minor);
        }

        #[test]
        fn sums_are_exact_or_refused(
            left in any_minor(),
            right in any_minor(),
            code in proptest::sample::select(&CODES),
        ) {
            let (a, b) = (money(left, code), money(right, code));
            let exact = |sum: i128| {
                i64::try_from(sum)
                    .map(|minor| money(minor, code))
                    .map_err(|_| MoneyError::Overflow(a.currency()))
            };
            prop_assert_eq!(a.checked_add(b), exact(i128::from(left) + i128::from(right)));
            prop_assert_eq!(a.checked_sub(b), exact(i128::from(left) - i128::from(right)));
            prop_assert_eq!(a.checked_neg(), exact(-i128::from(left)));
            prop_assert_eq!(a.partial_cmp(&b), Some(left.cmp(&right)));
        }

        #[test]
        fn no_message_makes_it_panic(code in "[A-Z]{0,4}|USD|JPY", units: i64, nanos: i32) {
            let wire = wire::Money { currency_code: code, units, nanos };
            if let Ok(here) = Money::try_from(&wire) {
                prop_assert_eq!(wire::Money::from(here), wire);
            }
        }
    }
}
