//! Compares two generations of a projection, table by table and row by row.

use std::path::Path;

use daybook_contract::daybook::v1::RebuildReport;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection, Row as _};

use super::row::TableInfo;
use super::store::{self, from_i64};

/// How many differences a report shows.
const EXAMPLES: usize = 20;

/// What differs between the rows of two files with the same tables.
pub(crate) async fn compare(
    old: &Path,
    new: &Path,
    tables: &[TableInfo],
) -> Result<RebuildReport, sqlx::Error> {
    let mut connection = store::read_only(new).await?;
    sqlx::query("ATTACH ? AS old")
        .bind(old.to_string_lossy().into_owned())
        .execute(&mut connection)
        .await?;
    let mut report = RebuildReport { compared: true, ..RebuildReport::default() };
    for table in tables {
        add(&mut connection, table, &mut report).await?;
    }
    connection.close().await?;
    Ok(report)
}

async fn add(
    connection: &mut SqliteConnection,
    table: &TableInfo,
    report: &mut RebuildReport,
) -> Result<(), sqlx::Error> {
    let keys = &table.columns[..table.key_columns];
    let same_key = all_equal(keys);
    let same_row = all_equal(table.columns);
    let name = table.name;
    let join = format!("FROM main.{name} n JOIN old.{name} o ON {same_key}");
    let only = |in_one: &str, in_other: &str, one: &str| {
        let other = if one == "n" { "o" } else { "n" };
        format!(
            "FROM {in_one}.{name} {one} WHERE NOT EXISTS
             (SELECT 1 FROM {in_other}.{name} {other} WHERE {same_key})"
        )
    };
    let (added, removed) = (only("main", "old", "n"), only("old", "main", "o"));
    let changed = format!("{join} WHERE NOT ({same_row})");
    // One way through both tables: the rows in only one of them are those that are left.
    let sql = format!("SELECT count(*), count(*) FILTER (WHERE NOT ({same_row})) {join}");
    let (in_both, changed_rows): (i64, i64) =
        sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut *connection).await?;
    let (in_both, changed_rows) = (from_i64(in_both), from_i64(changed_rows));
    let added_rows = count(connection, &format!("FROM main.{name}")).await? - in_both;
    let removed_rows = count(connection, &format!("FROM old.{name}")).await? - in_both;
    report.unchanged_rows += in_both - changed_rows;
    report.changed_rows += changed_rows;
    report.added_rows += added_rows;
    report.removed_rows += removed_rows;
    for (what, from, aliases, rows) in [
        ("changed", &changed, "on", changed_rows),
        ("added", &added, "n", added_rows),
        ("removed", &removed, "o", removed_rows),
    ] {
        let room = EXAMPLES.saturating_sub(report.examples.len());
        if room == 0 || rows == 0 {
            continue;
        }
        let columns: Vec<_> = aliases
            .chars()
            .flat_map(|alias| table.columns.iter().map(move |c| format!("quote({alias}.{c})")))
            .collect();
        let sql = format!("SELECT {} {from} LIMIT {room}", columns.join(", "));
        for row in sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut *connection).await? {
            report.examples.push(example(table, what, &row)?);
        }
    }
    Ok(())
}

/// A difference as text: the table, the key, and the columns that differ.
fn example(table: &TableInfo, what: &str, row: &SqliteRow) -> Result<String, sqlx::Error> {
    let mut key = Vec::new();
    let mut rest = Vec::new();
    for (at, column) in table.columns.iter().enumerate() {
        let value: String = row.try_get(at)?;
        if at < table.key_columns {
            key.push(format!("{column}={value}"));
        } else if what != "changed" {
            rest.push(format!("{column}={value}"));
        } else {
            let now: String = row.try_get(table.columns.len() + at)?;
            if now != value {
                rest.push(format!("{column}: {value} -> {now}"));
            }
        }
    }
    Ok(format!("{} {} {}: {}", table.name, key.join(" "), what, rest.join(", ")))
}

async fn count(connection: &mut SqliteConnection, from: &str) -> Result<u64, sqlx::Error> {
    let sql = AssertSqlSafe(format!("SELECT count(*) {from}"));
    Ok(from_i64(sqlx::query_scalar(sql).fetch_one(connection).await?))
}

fn all_equal(columns: &[&str]) -> String {
    let equal: Vec<_> = columns.iter().map(|c| format!("n.{c} IS o.{c}")).collect();
    equal.join(" AND ")
}
