//! The statements behind `daybook.v1.SagaService`. Lists are read in the order of an index, so that
//! a page costs the same however many sagas there are.

use daybook_contract::daybook::v1::{ListSagasRequest, SagaStatus};
use daybook_query::paging::newest;
use daybook_query::runtime::row::{first, rows};
use rusqlite::Connection;

use crate::kind;
use crate::projection::{SagaRow, has_ended};

/// A saga.
pub(crate) fn saga(connection: &Connection, stream: &str) -> rusqlite::Result<Option<SagaRow>> {
    first(connection, "SELECT * FROM sagas WHERE stream = ?", &[&stream])
}

/// Sagas of a kind and a status, newest first.
pub(crate) fn sagas(
    connection: &Connection,
    filters: &ListSagasRequest,
    before: i64,
    limit: u32,
) -> rusqlite::Result<Vec<SagaRow>> {
    let Some(sql) = statement(filters) else { return Ok(Vec::new()) };
    rows(connection, &sql, &[&before, &limit])
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
    use daybook_query::runtime::row::select;

    use super::*;
    use crate::projection::Sagas;

    fn rows() -> Connection {
        let rows = Connection::open_in_memory().unwrap();
        rows.execute_batch(Sagas::SCHEMA).unwrap();
        rows
    }

    /// No list sorts or walks over sagas that it does not show.
    #[test]
    fn every_list_is_read_in_the_order_of_an_index() {
        let rows = rows();
        let (kind, status) = ("orders.fulfilment".to_owned(), SagaStatus::Running.into());
        let one = ListSagasRequest { kind, status, ..Default::default() };
        let range = "USING COVERING INDEX sagas_by_kind_and_status";
        let all = STATUSES.len() * kind::all().count();
        for (filters, ranges) in [(ListSagasRequest::default(), all), (one, 1)] {
            let sql = format!("EXPLAIN QUERY PLAN {}", statement(&filters).unwrap());
            let details: Vec<String> = select(&rows, &sql, &[], |row| row.get("detail")).unwrap();
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
    #[test]
    fn every_filter_finds_what_it_says_newest_first() {
        let rows = rows();
        let kinds = ["bank.transfer", "orders.fulfilment"];
        let mut all = Vec::new();
        for position in 1..=20_i64 {
            let status = STATUSES[usize::try_from(position % 6).unwrap()];
            let kind = kinds[usize::try_from(position / 5 % 2).unwrap()];
            let sql = "INSERT INTO sagas VALUES
                 (?1, ?2, ?1, ?3, 1, x'', 0, 0, ?4, NULL, NULL, ?1, NULL, 0, '', 0)";
            let ended = has_ended(status).then_some(1);
            rows.execute(sql, (position, kind, i32::from(status), ended)).unwrap();
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
                    let found = sagas(&rows, &filters, 18, 9).unwrap();
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
