//! Checks of request fields that several queries share. Each adds what it finds.

use daybook_contract::contract::Violations;
use daybook_contract::money;
use jiff::civil::Date;
use prost_types::Timestamp;

/// The most days of one request.
const MOST_DAYS: i32 = 366;

/// The years that can be asked for.
pub(crate) const YEARS: std::ops::RangeInclusive<i32> = 1970..=9999;

/// How much of a wrong text is repeated to the caller.
const SHOWN_CHARS: usize = 20;

/// The size of a page must not be negative.
pub fn page_size(violations: &mut Violations, page_size: i32) {
    if page_size < 0 {
        violations.add("page_size", format!("{page_size} is negative"));
    }
}

/// `end_time` must be after `start_time`, when there are both.
pub fn times(violations: &mut Violations, start: Option<&Timestamp>, end: Option<&Timestamp>) {
    if let (Some(start), Some(end)) = (start, end)
        && (start.seconds, start.nanos) >= (end.seconds, end.nanos)
    {
        violations.add("end_time", "is not after start_time");
    }
}

/// `start_date` and `end_date` must be days, in order, and not too many.
pub fn days(violations: &mut Violations, start_date: &str, end_date: &str) {
    let mut date = |field, text: &str| {
        let parsed = parse_date(text);
        if parsed.is_none() && !text.is_empty() {
            violations.add(field, format!("{:?} is no date such as 2026-11-21", shown(text)));
        }
        parsed
    };
    let (start, end) = (date("start_date", start_date), date("end_date", end_date));
    let (Some(start), Some(end)) = (start, end) else { return };
    let days = (end - start).get_days() + 1;
    if days < 1 {
        violations.add("end_date", "is before start_date");
    } else if days > MOST_DAYS {
        violations.add("end_date", format!("makes {days} days; at most {MOST_DAYS} are allowed"));
    }
}

/// A date in exactly this form, in the years that can be asked for.
fn parse_date(text: &str) -> Option<Date> {
    let date: Date = text.parse().ok()?;
    (date.to_string() == text && YEARS.contains(&date.year().into())).then_some(date)
}

/// `currency_code` must be a currency, when there is one.
pub fn currency(violations: &mut Violations, code: &str) {
    if !code.is_empty() && money::exponent(code).is_none() {
        violations.add("currency_code", format!("{:?} is no currency of ISO 4217", shown(code)));
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_has_one_form() {
        for good in ["2026-11-21", "1970-01-01", "9999-12-31", "2024-02-29"] {
            assert_eq!(parse_date(good).unwrap().to_string(), good);
        }
        for bad in ["", "2026-11-31", "2026-1-1", "20261121", "2026-11-21T00", "1969-12-31", " "] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
    }
}
