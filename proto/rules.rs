//! The checks of single fields that the generated [`Validate`](crate::contract::Validate) calls.
//! Each adds what it finds, with what would be right. An empty text passes all but [`required`].

use prost_types::{Duration, Timestamp};
use uuid::Uuid;

use crate::contract::Violations;
use crate::daybook::v1::Money;
use crate::money::{self, MoneyError};

/// The most characters of a text whose field says nothing else.
pub const DEFAULT_MAX_CHARS: usize = 1_000;

/// The most characters of an e-mail address: what a path of RFC 5321 holds.
const MAX_EMAIL_CHARS: usize = 254;

/// How much of a wrong value is repeated to the caller.
const SHOWN_CHARS: usize = 80;

/// The first and the last second of a Timestamp: the years 1 to 9999.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// The most seconds of a Duration: ten thousand years.
const DURATION_SECONDS: i64 = 315_576_000_000;

/// An enum of the contract, and the values that this program knows.
pub trait KnownValues {
    /// Each number with its name in the contract.
    const VALUES: &'static [(i32, &'static str)];
}

/// Whether a text can be the id of an aggregate: 1 to 64 unreserved characters of RFC 3986.
pub fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'-'))
}

/// The field must be set.
pub fn required(violations: &mut Violations, field: &str, is_set: bool) {
    if !is_set {
        violations.add(field, "must be set");
    }
}

/// The number must be set, which it is not when it is 0.
pub fn not_zero(violations: &mut Violations, field: &str, is_set: bool) {
    if !is_set {
        violations.add(field, "must be set, and not to 0");
    }
}

/// Whether a character does something to what is shown beside it, instead of being shown: a control
/// character, or one that turns the direction of writing (Unicode UAX #9).
pub fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text must not be too long, nor do anything to a terminal.
pub fn text(violations: &mut Violations, field: &str, value: &str, max_chars: usize) {
    if let Some(c) = value.chars().find(|c| is_unprintable(*c)) {
        let code = u32::from(c);
        violations.add(field, format!("has the control character U+{code:04X}; leave it out"));
    }
    // No text has more characters than bytes: most need no counting.
    if value.len() <= max_chars {
        return;
    }
    let chars = value.chars().count();
    if chars > max_chars {
        violations.add(field, format!("has {chars} characters; at most {max_chars} are allowed"));
    }
}

/// The text must be an id.
pub fn id(violations: &mut Violations, field: &str, value: &str) {
    if !value.is_empty() && !is_id(value) {
        let shown = shown(value);
        let right = "1 to 64 letters, digits, '.', '_', '~' and '-'";
        violations.add(field, format!("{shown} is not an id; an id has {right}"));
    }
}

/// The text must be a UUID with hyphens.
pub fn uuid(violations: &mut Violations, field: &str, value: &str) {
    // Of the forms that the parser takes only the one with hyphens has 36 characters.
    let is_uuid = value.len() == 36 && Uuid::try_parse(value).is_ok();
    if !value.is_empty() && !is_uuid {
        let shown = shown(value);
        let right = "01939b4e-7c52-7d18-9f5a-3c1f0e6b2a44";
        violations.add(field, format!("{shown} is not a UUID; one looks like {right}"));
    }
}

/// The text must be an e-mail address.
pub fn email(violations: &mut Violations, field: &str, value: &str) {
    if !value.is_empty() && !is_email(value) {
        let shown = shown(value);
        let right = "ada@example.org, with at most 254 characters and no spaces";
        violations.add(field, format!("{shown} is not an e-mail address; one looks like {right}"));
    }
}

/// Whether a text can be an e-mail address. Only its parts are looked at: which of the forms of
/// RFC 5322 a mail server takes is for the server to say.
fn is_email(text: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.');
    let Some((local, domain)) = text.split_once('@') else { return false };
    text.chars().count() <= MAX_EMAIL_CHARS
        && is_part(local)
        && is_part(domain)
        && !domain.contains('@')
        && !text.contains("..")
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// The number must not be too large.
pub fn at_most(violations: &mut Violations, field: &str, value: impl Into<i128>, max: u64) {
    let value = value.into();
    if value > i128::from(max) {
        violations.add(field, format!("{value} is too large; at most {max} is allowed"));
    }
}

/// The number must be a known value of the enum.
pub fn known<E: KnownValues>(violations: &mut Violations, field: &str, value: i32) {
    if E::VALUES.iter().any(|(number, _)| *number == value) {
        return;
    }
    let known: Vec<_> =
        E::VALUES.iter().map(|(number, name)| format!("{number} ({name})")).collect();
    violations.add(field, format!("unknown value {value}; known: {}", known.join(", ")));
}

/// The amount must be well-formed: a known currency, one sign, nothing below its smallest unit.
pub fn money(violations: &mut Violations, field: &str, value: &Money) {
    let problems = money::problems(value);
    if problems.is_empty() {
        return;
    }
    violations.within(field, |violations| {
        for problem in problems {
            let part = match problem {
                MoneyError::MalformedCurrency(_) | MoneyError::UnknownCurrency(_) => {
                    "currency_code"
                }
                MoneyError::Overflow { .. } => "units",
                MoneyError::NanosOutOfRange(_)
                | MoneyError::SignMismatch { .. }
                | MoneyError::TooFine { .. } => "nanos",
            };
            violations.add(part, problem.to_string());
        }
    });
}

/// The moment must be one that a Timestamp may have.
pub fn timestamp(violations: &mut Violations, field: &str, value: &Timestamp) {
    let Timestamp { seconds, nanos } = *value;
    if !TIMESTAMP_SECONDS.contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        violations.add(
            field,
            format!(
                "{seconds} s and {nanos} ns is no moment from the years 1 to 9999 with nanos from \
                 0 to 999,999,999"
            ),
        );
    }
}

/// The span must be one that a Duration may have.
pub fn duration(violations: &mut Violations, field: &str, value: &Duration) {
    let Duration { seconds, nanos } = *value;
    let in_range = (-DURATION_SECONDS..=DURATION_SECONDS).contains(&seconds)
        && (-999_999_999..=999_999_999).contains(&nanos);
    if !in_range || seconds.signum() * i64::from(nanos.signum()) < 0 {
        violations.add(
            field,
            format!(
                "{seconds} s and {nanos} ns is no duration: at most {DURATION_SECONDS} s, nanos \
                 from -999,999,999 to 999,999,999 and of the same sign"
            ),
        );
    }
}

fn shown(value: &str) -> String {
    let mut start: String = value.chars().take(SHOWN_CHARS).collect();
    if start.len() < value.len() {
        start.push('\u{2026}');
    }
    format!("{start:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(run: impl FnOnce(&mut Violations), expected: &[&str]) {
        let mut violations = Violations::default();
        run(&mut violations);
        let found: Vec<_> = violations
            .into_vec()
            .into_iter()
            .map(|violation| format!("{}: {}", violation.field, violation.description))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn who_sends_a_zero_is_told_that_it_is_none() {
        check(|v| not_zero(v, "quantity", true), &[]);
        check(|v| not_zero(v, "quantity", false), &["quantity: must be set, and not to 0"]);
    }

    #[test]
    fn a_text_is_measured_in_characters() {
        check(|v| text(v, "name", "\u{e4}\u{f6}\u{fc}", 3), &[]);
        check(
            |v| text(v, "name", "\u{e4}\u{f6}\u{fc}s", 3),
            &["name: has 4 characters; at most 3 are allowed"],
        );
    }

    #[test]
    fn a_text_does_nothing_to_a_terminal() {
        for (text, code) in [("a\x1b[31m", "U+001B"), ("a\nb", "U+000A"), ("\u{202e}a", "U+202E")] {
            let expected = format!("f: has the control character {code}; leave it out");
            check(|found| super::text(found, "f", text, 20), &[&expected]);
        }
        check(|found| super::text(found, "f", "naïve — ok ✓", 20), &[]);
    }

    #[test]
    fn an_id_has_1_to_64_unreserved_characters() {
        for right in ["", "a", "A-b_c.d~9", &"x".repeat(64)] {
            check(|v| id(v, "id", right), &[]);
        }
        check(
            |v| id(v, "id", "a b"),
            &["id: \"a b\" is not an id; an id has 1 to 64 letters, digits, '.', '_', '~' and '-'"],
        );
        for wrong in ["\u{e4}", "a/b", "a\n", &"x".repeat(65)] {
            let mut violations = Violations::default();
            id(&mut violations, "id", wrong);
            assert!(!violations.is_empty(), "{wrong:?}");
        }
    }

    #[test]
    fn a_uuid_has_its_hyphens() {
        check(|v| uuid(v, "request_id", "01939b4e-7c52-7d18-9f5a-3c1f0e6b2a44"), &[]);
        check(|v| uuid(v, "request_id", ""), &[]);
        for wrong in
            ["1", "01939b4e7c527d189f5a3c1f0e6b2a44", "01939b4e-7c52-7d18-9f5a-3c1f0e6b2a4g"]
        {
            check(
                |v| uuid(v, "request_id", wrong),
                &[&format!(
                    "request_id: {wrong:?} is not a UUID; one looks like \
                     01939b4e-7c52-7d18-9f5a-3c1f0e6b2a44"
                )],
            );
        }
    }

    #[test]
    fn an_email_address_has_two_parts_and_no_spaces() {
        for right in ["", "a@b", "ada+list@example.org", "ädä@bücher.example", "o'hara@x.org"] {
            check(|v| email(v, "email", right), &[]);
        }
        let long = format!("{}@x.org", "a".repeat(249));
        for wrong in [
            "ada",
            "@",
            "ada@",
            "@x.org",
            "a@b@c",
            "a b@x.org",
            "a@x.org\n",
            " a@x.org",
            "a@.org",
            "a@x.",
            ".a@x.org",
            "a.@x.org",
            "a..b@x.org",
            "a\u{0}@x.org",
            &long,
        ] {
            let mut violations = Violations::default();
            email(&mut violations, "email", wrong);
            assert!(!violations.is_empty(), "{wrong:?}");
        }
    }

    #[test]
    fn a_long_wrong_value_is_shown_in_part() {
        let mut violations = Violations::default();
        id(&mut violations, "id", &"!".repeat(10_000));
        assert!(violations.into_vec()[0].description.chars().count() < 200);
    }

    #[test]
    fn every_fault_of_an_amount_has_its_field() {
        let wrong = Money { currency_code: "usd".to_owned(), units: 1, nanos: -1 };
        check(
            |v| money(v, "amount", &wrong),
            &[
                "amount.currency_code: currency \"usd\" is not three capital letters, such as USD",
                "amount.nanos: units 1 and nanos -1 have different signs",
            ],
        );
        // Whether it fits is for the domain to say.
        let large = Money { currency_code: "USD".to_owned(), units: i64::MAX, nanos: 0 };
        check(|v| money(v, "amount", &large), &[]);
    }

    #[test]
    fn times_and_spans_keep_to_their_ranges() {
        check(|v| timestamp(v, "time", &Timestamp { seconds: 0, nanos: 999_999_999 }), &[]);
        check(|v| duration(v, "wait", &Duration { seconds: -1, nanos: -1 }), &[]);
        for (seconds, nanos) in [(0, -1), (0, 1_000_000_000), (i64::MAX, 0), (i64::MIN, 0)] {
            let mut violations = Violations::default();
            timestamp(&mut violations, "time", &Timestamp { seconds, nanos });
            assert!(!violations.is_empty(), "{seconds} {nanos}");
        }
        for (seconds, nanos) in [(1, -1), (-1, 1), (0, i32::MIN), (i64::MIN, 0), (i64::MAX, 0)] {
            let mut violations = Violations::default();
            duration(&mut violations, "wait", &Duration { seconds, nanos });
            assert!(!violations.is_empty(), "{seconds} {nanos}");
        }
    }

    #[test]
    fn a_number_may_not_pass_its_limit() {
        check(|v| at_most(v, "count", u64::MAX, u64::MAX), &[]);
        check(|v| at_most(v, "count", -5_i32, 3), &[]);
        check(|v| at_most(v, "count", 4_u32, 3), &["count: 4 is too large; at most 3 is allowed"]);
    }
}
