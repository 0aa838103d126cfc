//! The metrics of sagas, from the rows: they go on counting where the process before has stopped.

use daybook_contract::daybook::v1::SagaStatus;
use daybook_query::runtime::row;
use daybook_query::time;
use rusqlite::{Connection, ToSql};

use crate::kind;
use crate::projection::OPEN;

/// How many sagas there are of a kind and status.
pub(crate) struct Count {
    kind: String,
    status: i64,
    sagas: i64,
}

/// When the oldest saga of a kind and one status was started that has not ended, in nanoseconds.
pub(crate) type Oldest = (&'static str, i64);

/// Reads what the metrics say.
pub(crate) fn select(connection: &Connection) -> rusqlite::Result<(Vec<Count>, Vec<Oldest>)> {
    let counts = row::select(connection, "SELECT kind, status, sagas FROM counts", &[], |row| {
        Ok(Count { kind: row.get(0)?, status: row.get(1)?, sagas: row.get(2)? })
    })?;
    let mut oldest: Vec<Oldest> = Vec::new();
    for kind in kind::all().map(|kind| kind.name()) {
        for status in OPEN {
            // The time never goes back from one position to the next.
            let sql = "SELECT started_time FROM sagas WHERE kind = ? AND status = ?
                       ORDER BY position LIMIT 1";
            let values: &[&dyn ToSql] = &[&kind, &i32::from(status)];
            oldest.extend(row::select(connection, sql, values, |row| Ok((kind, row.get(0)?)))?);
        }
    }
    Ok((counts, oldest))
}

/// Sets the metrics.
pub(crate) fn set(counts: &[Count], oldest: &[Oldest], waiting: usize) {
    for kind in crate::kind::all().map(|kind| kind.name()) {
        let of = |status: SagaStatus| {
            let matching =
                counts.iter().filter(|c| c.kind == kind && c.status == i64::from(status as i32));
            matching.map(|count| u64::try_from(count.sagas).unwrap_or_default()).sum::<u64>()
        };
        let [completed, compensated, failed] =
            [SagaStatus::Completed, SagaStatus::Compensated, SagaStatus::Failed].map(of);
        let open = of(SagaStatus::Running) + of(SagaStatus::Compensating);
        let started = open + completed + compensated + failed;
        metrics::counter!("daybook_sagas_started_total", "kind" => kind).absolute(started);
        metrics::counter!("daybook_sagas_completed_total", "kind" => kind).absolute(completed);
        metrics::counter!("daybook_sagas_compensated_total", "kind" => kind).absolute(compensated);
        metrics::counter!("daybook_sagas_failed_total", "kind" => kind).absolute(failed);
        metrics::gauge!("daybook_sagas_open", "kind" => kind).set(open as f64);
        let since = oldest.iter().filter(|(of, _)| *of == kind).map(|(_, since)| *since).min();
        let age_ns = since.map_or(0, |since| time::now_ns().saturating_sub(since).max(0));
        metrics::gauge!("daybook_saga_oldest_seconds", "kind" => kind).set(age_ns as f64 / 1e9);
    }
    metrics::gauge!("daybook_saga_steps_waiting").set(waiting as f64);
}
