//! Money between the wire and the inside: [`Money`] has units and billionths, Daybook computes in
//! the smallest unit of the currency, an integer. There are no floats and no rounding: an amount
//! that does not fit is an error.

use crate::daybook::v1::Money;

/// Currencies of ISO 4217 by the number of decimals of their smallest unit. Those in use in 2026,
/// funds included; metals and test codes, which have no smallest unit, are left out. In order,
/// with a blank between them.
const CURRENCIES: [(u8, &str); 4] = [
    (0, "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"),
    (
        2,
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD \
         CAD CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP \
         GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK \
         LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO \
         NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS \
         SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST \
         XAD XCD XCG YER ZAR ZMW ZWG",
    ),
    (3, "BHD IQD JOD KWD LYD OMR TND"),
    (4, "CLF UYW"),
];

const NANOS_PER_UNIT: i32 = 1_000_000_000;

/// What is wrong with an amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The currency is not three capital letters.
    #[error("currency {0:?} is not three capital letters, such as USD")]
    MalformedCurrency(String),
    /// The currency is not in ISO 4217.
    #[error("currency {0} is not in ISO 4217")]
    UnknownCurrency(String),
    /// The fraction is a whole unit or more.
    #[error("nanos {0} is not from -999,999,999 to 999,999,999")]
    NanosOutOfRange(i32),
    /// Units and fraction have different signs.
    #[error("units {units} and nanos {nanos} have different signs")]
    SignMismatch {
        /// The whole units.
        units: i64,
        /// The fraction.
        nanos: i32,
    },
    /// The fraction is not a multiple of the smallest unit.
    #[error("nanos {nanos} is finer than the smallest unit of {currency}, {smallest} nanos")]
    TooFine {
        /// The fraction.
        nanos: i32,
        /// The currency.
        currency: String,
        /// The smallest unit of the currency, in nanos.
        smallest: i32,
    },
    /// The amount in smallest units does not fit into 64 bits.
    #[error("{units} {currency} is too much to be counted in its smallest unit")]
    Overflow {
        /// The whole units.
        units: i64,
        /// The currency.
        currency: String,
    },
}

/// How many decimals the smallest unit of a currency has: 2 for `USD`, 0 for `JPY`. `None` when
/// the code is not in ISO 4217.
pub fn exponent(code: &str) -> Option<u32> {
    let exponent = EXPONENTS[place(code.as_bytes())?];
    (exponent != NO_CURRENCY).then_some(exponent.into())
}

/// [`CURRENCIES`] by the [`place`] of their codes: every amount is looked up several times on its
/// way.
static EXPONENTS: [u8; PLACES] = {
    let mut exponents = [NO_CURRENCY; PLACES];
    let mut list = 0;
    while list < CURRENCIES.len() {
        let (exponent, codes) = CURRENCIES[list];
        let mut rest = codes.as_bytes();
        while let Some((code, more)) = rest.split_first_chunk::<3>() {
            let Some(place) = place(code) else { panic!("a code has three capital letters") };
            exponents[place] = exponent;
            rest = match more {
                [_blank, more @ ..] => more,
                [] => more,
            };
        }
        list += 1;
    }
    exponents
};

/// How many codes of three capital letters there are.
const PLACES: usize = 26 * 26 * 26;

/// Stands for no currency in [`EXPONENTS`].
const NO_CURRENCY: u8 = u8::MAX;

/// The place of a code among all of three capital letters, in their order.
const fn place(code: &[u8]) -> Option<usize> {
    match code {
        [a @ b'A'..=b'Z', b @ b'A'..=b'Z', c @ b'A'..=b'Z'] => {
            let [a, b, c] = [*a - b'A', *b - b'A', *c - b'A'];
            Some((a as usize * 26 + b as usize) * 26 + c as usize)
        }
        _ => None,
    }
}

/// The amount in smallest units of its currency: 1234 for 12.34 USD.
pub fn to_minor(money: &Money) -> Result<i64, MoneyError> {
    if let Some(error) = problems(money).into_iter().next() {
        return Err(error);
    }
    let exponent = currency_exponent(&money.currency_code)?;
    let whole = i128::from(money.units) * 10_i128.pow(exponent);
    let fraction = i128::from(money.nanos / smallest_nanos(exponent));
    i64::try_from(whole + fraction).map_err(|_| MoneyError::Overflow {
        units: money.units,
        currency: money.currency_code.clone(),
    })
}

/// The amount on the wire of so many smallest units: 12.34 USD for 1234.
pub fn from_minor(minor: i64, code: &str) -> Result<Money, MoneyError> {
    let exponent = currency_exponent(code)?;
    let per_unit = 10_i64.pow(exponent);
    let fraction = i32::try_from(minor % per_unit).expect("below 10^4");
    Ok(Money {
        currency_code: code.to_owned(),
        units: minor / per_unit,
        nanos: fraction * smallest_nanos(exponent),
    })
}

/// Everything that is wrong with the form of an amount. Whether it fits into 64 bits of smallest
/// units is not a matter of form; [`to_minor`] tells.
pub fn problems(money: &Money) -> Vec<MoneyError> {
    let mut found = Vec::new();
    let exponent = currency_exponent(&money.currency_code);
    let Money { units, nanos, .. } = *money;
    if nanos <= -NANOS_PER_UNIT || nanos >= NANOS_PER_UNIT {
        found.push(MoneyError::NanosOutOfRange(nanos));
    } else if units.signum() * i64::from(nanos.signum()) < 0 {
        found.push(MoneyError::SignMismatch { units, nanos });
    } else if let Ok(exponent) = exponent {
        let smallest = smallest_nanos(exponent);
        if nanos % smallest != 0 {
            let currency = money.currency_code.clone();
            found.push(MoneyError::TooFine { nanos, currency, smallest });
        }
    }
    found.splice(0..0, exponent.err());
    found
}

fn currency_exponent(code: &str) -> Result<u32, MoneyError> {
    if place(code.as_bytes()).is_none() {
        return Err(MoneyError::MalformedCurrency(code.chars().take(16).collect()));
    }
    exponent(code).ok_or_else(|| MoneyError::UnknownCurrency(code.to_owned()))
}

fn smallest_nanos(exponent: u32) -> i32 {
    NANOS_PER_UNIT / 10_i32.pow(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(units: i64, nanos: i32, code: &str) -> Money {
        Money { currency_code: code.to_owned(), units, nanos }
    }

    #[test]
    fn every_listed_code_is_well_formed_and_listed_once() {
        let mut codes: Vec<_> = CURRENCIES.iter().flat_map(|(_, list)| list.split(' ')).collect();
        assert!(codes.iter().all(|code| place(code.as_bytes()).is_some()), "{codes:?}");
        for (exponent, list) in CURRENCIES {
            assert!(list.split(' ').is_sorted(), "{list}");
            assert!(
                list.split(' ').all(|code| super::exponent(code) == Some(exponent.into())),
                "{list}"
            );
        }
        let count = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), count);
    }

    #[test]
    fn exponents_are_those_of_iso_4217() {
        for (code, expected) in
            [("USD", 2), ("EUR", 2), ("JPY", 0), ("ISK", 0), ("KWD", 3), ("CLF", 4), ("ZWG", 2)]
        {
            assert_eq!(exponent(code), Some(expected), "{code}");
        }
        for code in ["", "usd", "US", "USDX", "US ", "ABC", "XAU", "\u{c4}\u{d6}"] {
            assert_eq!(exponent(code), None, "{code}");
        }
    }

    #[test]
    fn amounts_go_to_smallest_units_and_back() {
        for (wire, minor) in [
            (money(12, 340_000_000, "USD"), 1_234),
            (money(-12, -340_000_000, "USD"), -1_234),
            (money(0, -10_000_000, "USD"), -1),
            (money(0, 0, "USD"), 0),
            (money(500, 0, "JPY"), 500),
            (money(1, 1_000_000, "KWD"), 1_001),
            (money(1, 100_000, "CLF"), 10_001),
            (money(92_233_720_368_547_758, 70_000_000, "USD"), i64::MAX),
            (money(-92_233_720_368_547_758, -80_000_000, "USD"), i64::MIN),
            (money(i64::MAX, 0, "JPY"), i64::MAX),
        ] {
            assert_eq!(to_minor(&wire), Ok(minor), "{wire:?}");
            assert_eq!(from_minor(minor, &wire.currency_code), Ok(wire));
        }
    }

    #[test]
    fn an_amount_that_does_not_fit_is_refused() {
        for units in [i64::MAX, i64::MIN, 92_233_720_368_547_759] {
            let error = MoneyError::Overflow { units, currency: "USD".to_owned() };
            assert_eq!(to_minor(&money(units, 0, "USD")), Err(error));
        }
        let just_above = money(92_233_720_368_547_758, 80_000_000, "USD");
        assert!(matches!(to_minor(&just_above), Err(MoneyError::Overflow { .. })));
    }

    #[test]
    fn an_amount_finer_than_the_smallest_unit_is_refused() {
        for (wire, smallest) in [
            (money(0, 1_000_000, "USD"), 10_000_000),
            (money(0, 10_000_000, "JPY"), 1_000_000_000),
            (money(0, -100_000, "KWD"), 1_000_000),
        ] {
            let (nanos, currency) = (wire.nanos, wire.currency_code.clone());
            let error = MoneyError::TooFine { nanos, currency, smallest };
            assert_eq!(to_minor(&wire), Err(error));
        }
    }

    #[test]
    fn signs_and_range_of_the_fraction_are_checked() {
        assert_eq!(
            to_minor(&money(1, -10_000_000, "USD")),
            Err(MoneyError::SignMismatch { units: 1, nanos: -10_000_000 })
        );
        assert_eq!(
            to_minor(&money(i64::MIN, 10_000_000, "USD")),
            Err(MoneyError::SignMismatch { units: i64::MIN, nanos: 10_000_000 })
        );
        for nanos in [1_000_000_000, -1_000_000_000, i32::MAX, i32::MIN] {
            assert_eq!(to_minor(&money(0, nanos, "USD")), Err(MoneyError::NanosOutOfRange(nanos)));
        }
    }

    #[test]
    fn all_that_is_wrong_is_found_the_currency_first() {
        assert_eq!(
            problems(&money(1, -1, "usd")),
            [
                MoneyError::MalformedCurrency("usd".to_owned()),
                MoneyError::SignMismatch { units: 1, nanos: -1 },
            ]
        );
        assert_eq!(
            from_minor(1, "ABC").unwrap_err(),
            MoneyError::UnknownCurrency("ABC".to_owned())
        );
    }
}
