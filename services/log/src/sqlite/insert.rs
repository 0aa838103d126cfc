//! Rows inserted several with one statement: most of what a small row costs is to begin a statement
//! and to end it.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement};

/// How many rows go with one statement, as long as there are so many. The first few save most, and
/// groups are often small.
const AT_ONCE: usize = 8;

/// An INSERT of rows of so many columns.
pub(super) struct Insert<const COLUMNS: usize> {
    one: String,
    several: String,
}

impl<const COLUMNS: usize> Insert<COLUMNS> {
    /// What stands before `VALUES`.
    pub fn new(head: &str) -> Self {
        let row = format!("({})", ["?"; COLUMNS].join(", "));
        let values = |rows: usize| format!("{head} VALUES {}", vec![&*row; rows].join(", "));
        Self { one: values(1), several: values(AT_ONCE) }
    }

    /// Inserts rows in their order.
    pub fn all<'a>(
        &self,
        connection: &Connection,
        mut rows: impl Iterator<Item = [ValueRef<'a>; COLUMNS]>,
    ) -> rusqlite::Result<()> {
        let mut chunk: Vec<_> = rows.by_ref().take(AT_ONCE).collect();
        if chunk.len() == AT_ONCE {
            let mut several = connection.prepare_cached(&self.several)?;
            while chunk.len() == AT_ONCE {
                execute(&mut several, chunk.as_flattened())?;
                chunk.clear();
                chunk.extend(rows.by_ref().take(AT_ONCE));
            }
        }
        let mut one = connection.prepare_cached(&self.one)?;
        chunk.iter().try_for_each(|row| execute(&mut one, row))
    }
}

fn execute(statement: &mut Statement<'_>, values: &[ValueRef<'_>]) -> rusqlite::Result<()> {
    for (parameter, value) in (1..).zip(values) {
        statement.raw_bind_parameter(parameter, ToSqlOutput::Borrowed(*value))?;
    }
    statement.raw_execute().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rows_are_inserted_whatever_their_number() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE rows (number INTEGER, text BLOB)").unwrap();
        let insert = Insert::<2>::new("INSERT INTO rows (number, text)");
        for count in [0, 1, AT_ONCE as i64 - 1, AT_ONCE as i64, 3 * AT_ONCE as i64 + 2] {
            connection.execute("DELETE FROM rows", []).unwrap();
            let rows = (0..count).map(|n| [ValueRef::Integer(n), ValueRef::Blob(b"text")]);
            insert.all(&connection, rows).unwrap();
            let sql =
                "SELECT count(*), coalesce(sum(number), 0) FROM rows WHERE text = x'74657874'";
            let found = connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)));
            assert_eq!(found, Ok((count, count * (count - 1) / 2)));
        }
    }
}
