//! Times as projections keep them: nanoseconds since 1970, which an i64 holds until 2262.

use std::time::{SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// The nanoseconds of a timestamp; `None` when an i64 does not hold them.
pub fn nanos(time: &Timestamp) -> Option<i64> {
    time.seconds.checked_mul(NANOS_PER_SECOND)?.checked_add(time.nanos.into())
}

/// The nearest nanoseconds that an i64 holds; for limits in queries.
pub fn saturating_nanos(time: &Timestamp) -> i64 {
    nanos(time).unwrap_or(if time.seconds < 0 { i64::MIN } else { i64::MAX })
}

/// The timestamp of some nanoseconds.
pub fn timestamp(nanos: i64) -> Timestamp {
    Timestamp {
        seconds: nanos.div_euclid(NANOS_PER_SECOND),
        nanos: nanos.rem_euclid(NANOS_PER_SECOND) as i32,
    }
}

/// The time now.
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The day in UTC, as `2026-11-21`.
pub fn day(nanos: i64) -> String {
    let time = jiff::Timestamp::from_nanosecond(nanos.into())
        .expect("the nanoseconds of an i64 are within the years that jiff knows");
    jiff::tz::Offset::UTC.to_datetime(time).date().to_string()
}
