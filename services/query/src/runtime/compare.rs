//! Compares two generations of a projection, table by table and row by row.

use std::path::Path;

use daybook_contract::daybook::v1::RebuildReport;
use rusqlite::{Connection, Row};

use super::row::{TableInfo, select};
use super::store::{self, from_i64};

/// How many differences a report shows.
const EXAMPLES: usize = 20;

/// What differs between the rows of two files with the same tables.
pub(crate) fn compare(
    old: &Path,
    new: &Path,
    tables: &[TableInfo],
) -> rusqlite::Result<RebuildReport> {
    let connection = store::read_only(new)?;
    connection.execute("ATTACH ? AS old", [old.to_string_lossy()])?;
    let mut report = RebuildReport { compared: true, ..RebuildReport::default() };
    for table in tables {
        add(&connection, table, &mut report)?;
    }
    Ok(report)
}

fn add(
    connection: &Connection,
    table: &TableInfo,
    report: &mut RebuildReport,
) -> rusqlite::Result<()> {
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
    let (in_both, changed_rows) =
        connection.query_row(&sql, [], |row| Ok((from_i64(row.get(0)?), from_i64(row.get(1)?))))?;
    let added_rows = count(connection, &format!("FROM main.{name}"))? - in_both;
    let removed_rows = count(connection, &format!("FROM old.{name}"))? - in_both;
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
        report.examples.extend(select(connection, &sql, &[], |row| example(table, what, row))?);
    }
    Ok(())
}

/// A difference as text: the table, the key, and the columns that differ.
fn example(table: &TableInfo, what: &str, row: &Row<'_>) -> rusqlite::Result<String> {
    let mut key = Vec::new();
    let mut rest = Vec::new();
    for (at, column) in table.columns.iter().enumerate() {
        let value: String = row.get(at)?;
        if at < table.key_columns {
            key.push(format!("{column}={value}"));
        } else if what != "changed" {
            rest.push(format!("{column}={value}"));
        } else {
            let now: String = row.get(table.columns.len() + at)?;
            if now != value {
                rest.push(format!("{column}: {value} -> {now}"));
            }
        }
    }
    Ok(format!("{} {} {}: {}", table.name, key.join(" "), what, rest.join(", ")))
}

fn count(connection: &Connection, from: &str) -> rusqlite::Result<u64> {
    connection.query_row(&format!("SELECT count(*) {from}"), [], |row| row.get(0).map(from_i64))
}

fn all_equal(columns: &[&str]) -> String {
    let equal: Vec<_> = columns.iter().map(|c| format!("n.{c} IS o.{c}")).collect();
    equal.join(" AND ")
}
