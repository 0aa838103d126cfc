//! The statements behind `daybook.v1.SagaService`. Lists are read in the order of an index, so that
//! a page costs the same however many sagas there are.

use daybook_contract::daybook::v1::ListSagasRequest;
use daybook_query::runtime::row::{read_row, read_rows};
use sqlx::sqlite::SqliteConnection;

use crate::projection::{SagaRow, StepRow, has_ended};

/// A saga with its steps, in their order.
pub(crate) async fn saga(
    connection: &mut SqliteConnection,
    stream: String,
) -> Result<Option<(SagaRow, Vec<StepRow>)>, sqlx::Error> {
    let saga = sqlx::query("SELECT * FROM sagas WHERE stream = ?")
        .bind(&stream)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(saga) = saga else { return Ok(None) };
    let steps = sqlx::query("SELECT * FROM steps WHERE stream = ? ORDER BY version, number")
        .bind(&stream)
        .fetch_all(connection)
        .await?;
    Ok(Some((read_row(&saga)?, read_rows(&steps)?)))
}

/// Sagas in the order of one index, newest first, before a position.
macro_rules! sagas_by {
    ($index:literal, $condition:literal) => {
        concat!(
            "SELECT * FROM sagas INDEXED BY ",
            $index,
            " WHERE ",
            $condition,
            "position < ?3 ORDER BY position DESC LIMIT ?4"
        )
    };
}

const BY_POSITION: &str = sagas_by!("sagas_by_position", "");
const BY_KIND: &str = sagas_by!("sagas_by_kind", "kind = ?1 AND ");
const BY_STATUS: &str = sagas_by!("sagas_by_status", "status = ?2 AND ");
const BY_KIND_AND_STATUS: &str =
    sagas_by!("sagas_by_kind_and_status", "kind = ?1 AND status = ?2 AND ");
const OPEN: &str = sagas_by!("sagas_open", "ended_time IS NULL AND ");
const OPEN_BY_KIND: &str = sagas_by!("sagas_open_by_kind", "kind = ?1 AND ended_time IS NULL AND ");

/// Sagas of a kind and a status, newest first.
pub(crate) async fn sagas(
    connection: &mut SqliteConnection,
    filters: ListSagasRequest,
    before: i64,
    limit: u32,
) -> Result<Vec<SagaRow>, sqlx::Error> {
    if filters.open && has_ended(filters.status()) {
        return Ok(Vec::new());
    }
    // A status says by itself whether a saga is open.
    let sql = match (filters.kind.is_empty(), filters.status, filters.open) {
        (true, 0, false) => BY_POSITION,
        (false, 0, false) => BY_KIND,
        (true, 0, true) => OPEN,
        (false, 0, true) => OPEN_BY_KIND,
        (true, ..) => BY_STATUS,
        (false, ..) => BY_KIND_AND_STATUS,
    };
    let query = sqlx::query(sql).bind(filters.kind).bind(filters.status).bind(before).bind(limit);
    read_rows(&query.fetch_all(connection).await?)
}

#[cfg(test)]
mod tests {
    use daybook_contract::daybook::v1::SagaStatus;
    use daybook_query::runtime::Projection;
    use sqlx::{AssertSqlSafe, Connection, Executor, Row};

    use super::*;
    use crate::projection::Sagas;

    const STATUSES: [SagaStatus; 6] = [
        SagaStatus::Unspecified,
        SagaStatus::Running,
        SagaStatus::Compensating,
        SagaStatus::Completed,
        SagaStatus::Compensated,
        SagaStatus::Failed,
    ];

    async fn rows() -> SqliteConnection {
        let mut rows = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        rows.execute(Sagas::SCHEMA).await.unwrap();
        rows
    }

    /// No list sorts or walks over sagas that it does not show.
    #[tokio::test]
    async fn every_list_is_read_in_the_order_of_an_index() {
        let mut rows = rows().await;
        for (sql, step) in [
            (BY_POSITION, "sagas_by_position (position<?)"),
            (BY_KIND, "sagas_by_kind (kind=? AND position<?)"),
            (BY_STATUS, "sagas_by_status (status=? AND position<?)"),
            (BY_KIND_AND_STATUS, "sagas_by_kind_and_status (kind=? AND status=? AND position<?)"),
            (OPEN, "sagas_open (position<?)"),
            (OPEN_BY_KIND, "sagas_open_by_kind (kind=? AND position<?)"),
        ] {
            let explained = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let plan = sqlx::query(explained).fetch_all(&mut rows).await.unwrap();
            let details: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
            assert!(details.len() == 1 && details[0].ends_with(step), "{details:?}");
        }
    }

    /// Every filter shows what the rows say, whichever index it goes over.
    #[tokio::test]
    async fn every_filter_finds_what_it_says_newest_first() {
        let mut rows = rows().await;
        let kinds = ["bank.transfer", "orders.fulfilment"];
        let mut all = Vec::new();
        for position in 1..=20_i64 {
            let status = STATUSES[usize::try_from(position % 5).unwrap() + 1];
            let kind = kinds[usize::try_from(position / 5 % 2).unwrap()];
            sqlx::query(
                "INSERT INTO sagas VALUES (?1, ?2, ?1, ?3, 1, x'', 0, 0, ?4, NULL, NULL, ?1, 0)",
            )
            .bind(position)
            .bind(kind)
            .bind(i32::from(status))
            .bind(has_ended(status).then_some(1))
            .execute(&mut rows)
            .await
            .unwrap();
            all.push((position, kind, status));
        }
        all.reverse();
        for kind in ["", kinds[0], kinds[1], "other"] {
            for status in STATUSES {
                for open in [false, true] {
                    let filters = ListSagasRequest {
                        kind: kind.to_owned(),
                        status: status.into(),
                        open,
                        ..Default::default()
                    };
                    let found = sagas(&mut rows, filters.clone(), 18, 9).await.unwrap();
                    let found: Vec<_> = found.into_iter().map(|saga| saga.position).collect();
                    let is_shown = |(position, of, has): &&(i64, &str, SagaStatus)| {
                        *position < 18
                            && (kind.is_empty() || *of == kind)
                            && (status == SagaStatus::Unspecified || *has == status)
                            && !(open && has_ended(*has))
                    };
                    let shown = all.iter().filter(is_shown).map(|saga| saga.0).take(9);
                    assert_eq!(found, shown.collect::<Vec<_>>(), "{filters:?}");
                }
            }
        }
    }
}
