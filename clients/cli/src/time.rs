//! Times as people write and read them. Always UTC.

use std::time::Duration;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

/// A length of time, such as `5s`, `500ms`, `1m 30s` or a number of seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<u64>().ok().map(Duration::from_secs);
    let parsed =
        || text.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
    match seconds.or_else(parsed) {
        Some(time) if !time.is_zero() => Ok(time),
        _ => Err("must be a length of time such as 5s, 500ms or 2m".to_owned()),
    }
}

/// A moment: `2026-11-21T08:00:00Z`, or a day, which means its beginning in UTC.
pub(crate) fn parse_moment(text: &str) -> Result<prost_types::Timestamp, String> {
    let day = || text.parse::<Date>().ok().and_then(|day| day.at(0, 0, 0, 0).in_tz("UTC").ok());
    let moment = text.parse::<Timestamp>().ok().or_else(|| day().map(|start| start.timestamp()));
    let Some(moment) = moment else {
        return Err(
            "must be a moment such as 2026-11-21T08:00:00Z, or a day such as 2026-11-21".to_owned()
        );
    };
    Ok(prost_types::Timestamp { seconds: moment.as_second(), nanos: moment.subsec_nanosecond() })
}

/// A day such as `2026-11-21`.
pub(crate) fn parse_day(text: &str) -> Result<Date, String> {
    text.parse().map_err(|_| "must be a day such as 2026-11-21".to_owned())
}

/// Today in UTC.
pub(crate) fn today() -> Date {
    jiff::tz::TimeZone::UTC.to_datetime(Timestamp::now()).date()
}

/// A moment for people, to the second; what they can copy into a flag. Empty when there is none.
pub(crate) fn show(time: Option<&prost_types::Timestamp>) -> String {
    let moment = time.and_then(|time| Timestamp::new(time.seconds, 0).ok());
    moment.map(|moment| moment.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_understood() {
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "0", "-5s", "soon"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn moments_and_days_are_understood_and_shown() {
        let moment = parse_moment("2026-11-21T08:30:00+01:00").unwrap();
        assert_eq!(show(Some(&moment)), "2026-11-21T07:30:00Z");
        let day = parse_moment("2026-11-21").unwrap();
        assert_eq!(show(Some(&day)), "2026-11-21T00:00:00Z");
        assert_eq!(show(None), "");
        assert!(parse_moment("yesterday").is_err());
    }
}
