//! The metrics of sagas, from the rows: they go on counting where the process before has stopped.

use daybook_contract::daybook::v1::SagaStatus;
use daybook_query::time;
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

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
pub(crate) async fn select(
    connection: &mut SqliteConnection,
) -> Result<(Vec<Count>, Vec<Oldest>), sqlx::Error> {
    let counts = sqlx::query("SELECT kind, status, sagas FROM counts")
        .fetch_all(&mut *connection)
        .await?
        .iter()
        .map(|row| {
            Ok(Count { kind: row.try_get(0)?, status: row.try_get(1)?, sagas: row.try_get(2)? })
        })
        .collect::<Result<_, sqlx::Error>>()?;
    let mut oldest = Vec::new();
    for kind in kind::all().map(|kind| kind.name()) {
        for status in OPEN {
            // The time never goes back from one position to the next.
            let sql = "SELECT started_time FROM sagas WHERE kind = ? AND status = ?
                       ORDER BY position LIMIT 1";
            let query = sqlx::query_scalar(sql).bind(kind).bind(i32::from(status));
            let started: Option<i64> = query.fetch_optional(&mut *connection).await?;
            oldest.extend(started.map(|started| (kind, started)));
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
