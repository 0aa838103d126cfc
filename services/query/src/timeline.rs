//! Pages of what has happened in one stream, newest first: movements of an account or of a stock,
//! activities of a user. Whatever is asked for, a page is read from one index, so that it costs the
//! same however long the stream is.
//!
//! The times need no index of their own. The recorded time never goes back from one version of a
//! stream to the next, so a time is a version, which is found by halving.

use prost_types::Timestamp;
use rusqlite::Connection;

use crate::runtime::Row;
use crate::runtime::row::rows;
use crate::time;

/// The version with which a time begins is below the double of this.
const LARGEST_STEP: i64 = 1 << 40;

/// Which part of a stream is wanted.
pub(crate) struct Wanted<'a> {
    /// The number of the stream in the projection.
    pub stream_no: i64,
    /// Only this kind; 0 means all.
    pub kind: i32,
    /// Only what was recorded from this moment on.
    pub start_time: Option<&'a Timestamp>,
    /// Only what was recorded before this moment.
    pub end_time: Option<&'a Timestamp>,
    /// Only versions before this one.
    pub before: i64,
    /// The most rows.
    pub limit: u32,
}

/// A page of a table with the columns `version`, `kind` and `recorded_time`, whose primary key is
/// the number of the stream and the version, and which has an index `<table>_by_kind` with the kind
/// between the two.
pub(crate) fn page<R: Row>(
    connection: &Connection,
    wanted: Wanted<'_>,
) -> rusqlite::Result<Vec<R>> {
    let first = match wanted.start_time {
        None => 0,
        Some(start) => version_at::<R>(connection, wanted.stream_no, start)?,
    };
    let end = match wanted.end_time {
        None => wanted.before,
        Some(end) => version_at::<R>(connection, wanted.stream_no, end)?.min(wanted.before),
    };
    let Wanted { stream_no, kind, limit, .. } = wanted;
    rows(connection, &page_sql::<R>(kind), &[&stream_no, &first, &end, &limit, &kind])
}

/// The name of the column with the number of the stream: the first of the key.
fn number<R: Row>() -> &'static str {
    R::COLUMNS[0]
}

fn page_sql<R: Row>(kind: i32) -> String {
    let (table, number) = (R::TABLE, number::<R>());
    let (index, of_kind) = match kind {
        0 => (String::new(), ""),
        _ => (format!("INDEXED BY {table}_by_kind"), "AND kind = ?5"),
    };
    format!(
        "SELECT * FROM {table} {index}
         WHERE {number} = ?1 AND version >= ?2 AND version < ?3 {of_kind}
         ORDER BY version DESC LIMIT ?4"
    )
}

/// The first version from which on everything was recorded at this time or later.
fn version_at<R: Row>(
    connection: &Connection,
    stream_no: i64,
    time: &Timestamp,
) -> rusqlite::Result<i64> {
    let values = (stream_no, time::saturating_nanos(time), LARGEST_STEP);
    connection.prepare_cached(&version_sql::<R>())?.query_row(values, |row| row.get(0))
}

/// Everything below `low` is earlier; it goes up by a step as long as that stays true.
fn version_sql<R: Row>() -> String {
    let (table, number) = (R::TABLE, number::<R>());
    format!(
        "WITH RECURSIVE halves (low, step) AS (
             SELECT 0, ?3
             UNION ALL
             SELECT low + step * coalesce((
                 SELECT recorded_time < ?2 FROM {table}
                 WHERE {number} = ?1 AND version >= low + step - 1 ORDER BY version LIMIT 1
             ), 0), step / 2 FROM halves WHERE step > 0
         )
         SELECT max(low) FROM halves"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projections::account_transactions::{AccountTransactions, TransactionRow};
    use crate::projections::stock_movements::{MovementRow, StockMovements};
    use crate::projections::user_activity::{ActivityRow, UserActivity};
    use crate::runtime::Projection;
    use crate::runtime::row::select;

    /// The steps of a plan.
    fn plan(schema: &str, sql: &str) -> Vec<String> {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(schema).unwrap();
        let sql = format!("EXPLAIN QUERY PLAN {sql}");
        select(&connection, &sql, &[], |row| row.get("detail")).unwrap()
    }

    fn assert_plans<P: Projection, R: Row>() {
        let (table, number) = (R::TABLE, R::COLUMNS[0]);
        let range = "version>? AND version<?";
        let all = plan(P::SCHEMA, &page_sql::<R>(0));
        assert_eq!(all, [format!("SEARCH {table} USING PRIMARY KEY ({number}=? AND {range})")]);
        let kind = plan(P::SCHEMA, &page_sql::<R>(1));
        let index = format!("{table}_by_kind ({number}=? AND kind=? AND {range})");
        assert_eq!(kind, [format!("SEARCH {table} USING INDEX {index}")]);
        let time = plan(P::SCHEMA, &version_sql::<R>());
        let step = format!("SEARCH {table} USING PRIMARY KEY ({number}=? AND version>?)");
        assert!(time.contains(&step), "{time:?}");
    }

    #[test]
    fn every_page_is_read_from_an_index() {
        assert_plans::<AccountTransactions, TransactionRow>();
        assert_plans::<StockMovements, MovementRow>();
        assert_plans::<UserActivity, ActivityRow>();
    }

    #[test]
    fn a_time_is_a_version_whatever_the_gaps_between_versions() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(AccountTransactions::SCHEMA).unwrap();
        // The times of these versions; others are of events that are no movements.
        let rows: [(i64, i64); 7] =
            [(1, 10), (2, 10), (5, 10), (6, 20), (9, 20), (10, 30), (300, 40)];
        for (version, time) in rows {
            let insert = "INSERT INTO transactions VALUES (7, ?, ?, 1, 1, '', 0, ?, ?, '')";
            connection.execute(insert, (version, 1 + version % 2, time, version)).unwrap();
        }
        let moment = |nanos: i64| time::timestamp(nanos);
        for start in [None, Some(i64::MIN), Some(10), Some(11), Some(20), Some(40), Some(41)] {
            for end in [None, Some(9), Some(10), Some(20), Some(21), Some(41), Some(i64::MAX)] {
                for (kind, before) in [(0, i64::MAX), (1, i64::MAX), (2, 10), (0, 300), (0, 1)] {
                    let (start_time, end_time) = (start.map(moment), end.map(moment));
                    let wanted = Wanted {
                        stream_no: 7,
                        kind,
                        start_time: start_time.as_ref(),
                        end_time: end_time.as_ref(),
                        before,
                        limit: 3,
                    };
                    let found: Vec<TransactionRow> = page(&connection, wanted).unwrap();
                    let versions: Vec<i64> = found.iter().map(|row| row.version).collect();
                    let is_wanted = |(version, time): &(i64, i64)| {
                        *version < before
                            && (kind == 0 || 1 + version % 2 == i64::from(kind))
                            && start.is_none_or(|start| *time >= start)
                            && end.is_none_or(|end| *time < end)
                    };
                    let naive = rows.iter().rev().filter(|row| is_wanted(row)).take(3);
                    let naive: Vec<i64> = naive.map(|(version, _)| *version).collect();
                    assert_eq!(versions, naive, "{start:?} {end:?} {kind} {before}");
                }
            }
        }
    }
}
