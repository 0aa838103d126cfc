//! The statements behind `daybook.v1.SagaService`. Lists are read in the order of an index, so that
//! a page costs the same however many sagas there are.

use daybook_contract::daybook::v1::{ListSagasRequest, SagaStatus};
use daybook_query::paging::newest;
use daybook_query::runtime::row::{read_row, read_rows};
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

use crate::kind;
use crate::projection::{SagaRow, has_ended};

/// A saga.
pub(crate) async fn saga(
    connection: &mut SqliteConnection,
    stream: String,
) -> Result<Option<SagaRow>, sqlx::Error> {
    let query = sqlx::query("SELECT * FROM sagas WHERE stream = ?").bind(stream);
    query.fetch_optional(connection).await?.as_ref().map(read_row).transpose()
}

/// Sagas of a kind and a status, newest first.
pub(crate) async fn sagas(
    connection: &mut SqliteConnection,
    filters: ListSagasRequest,
    before: i64,
    limit: u32,
) -> Result<Vec<SagaRow>, sqlx::Error> {
    let Some(sql) = statement(&filters) else { return Ok(Vec::new()) };
    let query = sqlx::query(AssertSqlSafe(sql)).bind(before).bind(limit);
    read_rows(&query.fetch_all(connection).await?)
}

/// `None` when no saga can be what the filters ask for.
fn statement(filters: &ListSagasRequest) -> Option<String> {
    let is_kind = |kind: &&str| filters.kind.is_empty() || filters.kind == *kind;
    let is_status = |status: &SagaStatus| {
        (filters.status == 0 || filters.status() == *status)
            && !(filters.open && has_ended(*status))
    };
    let mut ranges = Vec::new();
    for kind in kind::all().map(|kind| kind.name()).filter(is_kind) {
        for status in STATUSES.into_iter().filter(is_status) {
            ranges.push(format!("kind = '{kind}' AND status = {}", i32::from(status)));
        }
    }
    (!ranges.is_empty()).then(|| newest("sagas", ranges))
}

/// Where a saga may stand; also nowhere, when its first event was given up.
const STATUSES: [SagaStatus; 6] = [
    SagaStatus::Unspecified,
    SagaStatus::Running,
    SagaStatus::Compensating,
    SagaStatus::Completed,
    SagaStatus::Compensated,
    SagaStatus::Failed,
];

#[cfg(test)]
mod tests {
    use daybook_query::runtime::Projection;
    use sqlx::{Connection, Executor, Row};

    use super::*;
    use crate::projection::Sagas;

    async fn rows() -> SqliteConnection {
        let mut rows = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        rows.execute(Sagas::SCHEMA).await.unwrap();
        rows
    }

    /// No list sorts or walks over sagas that it does not show.
    #[tokio::test]
    async fn every_list_is_read_in_the_order_of_an_index() {
        let mut rows = rows().await;
        let (kind, status) = ("orders.fulfilment".to_owned(), SagaStatus::Running.into());
        let one = ListSagasRequest { kind, status, ..Default::default() };
        let range = "USING COVERING INDEX sagas_by_kind_and_status";
        let all = STATUSES.len() * kind::all().count();
        for (filters, ranges) in [(ListSagasRequest::default(), all), (one, 1)] {
            let sql = statement(&filters).unwrap();
            let explained = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
            let plan = sqlx::query(explained).fetch_all(&mut rows).await.unwrap();
            let details: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
            let read = details.iter().filter(|step| step.contains(" sagas"));
            let (over_index, others): (Vec<_>, Vec<_>) = read.partition(|s| s.contains(range));
            let is_whole = |step: &&String| step.ends_with("(kind=? AND status=? AND position<?)");
            assert!(over_index.iter().all(is_whole) && over_index.len() == ranges, "{details:?}");
            assert_eq!(others, ["SEARCH sagas USING INTEGER PRIMARY KEY (rowid=?)"], "{details:?}");
            // What is sorted are the pages that were found, not the ranges.
            let sorts =
                |pair: &[String]| pair[0].starts_with("SEARCH") && pair[1].contains("TEMP B-TREE");
            assert!(!details.windows(2).any(sorts), "{details:?}");
        }
    }

    /// Every filter shows what the rows say, whichever index it goes over.
    #[tokio::test]
    async fn every_filter_finds_what_it_says_newest_first() {
        let mut rows = rows().await;
        let kinds = ["bank.transfer", "orders.fulfilment"];
        let mut all = Vec::new();
        for position in 1..=20_i64 {
            let status = STATUSES[usize::try_from(position % 6).unwrap()];
            let kind = kinds[usize::try_from(position / 5 % 2).unwrap()];
            sqlx::query(
                "INSERT INTO sagas VALUES
                 (?1, ?2, ?1, ?3, 1, x'', 0, 0, ?4, NULL, NULL, ?1, NULL, 0, '', 0)",
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
