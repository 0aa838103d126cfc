//! Rows of a projection as Rust structs, and the tables of rows that a batch works on in memory.
//! *Not* here: when they are loaded and written, which is the engine's business.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hash;
use std::ops::Range;
use std::sync::Arc;

use foldhash::HashMap;
use indexmap::map::Entry;
use rusqlite::{Connection, Statement, ToSql};

use super::IndexMap;

/// How many rows one statement handles, largest first. A number of rows is cut into these, so
/// that the few statements there are stay prepared. 256 rows of at most 100 columns stay below
/// SQLite's limit of 32,766 parameters.
const CHUNKS: [usize; 5] = [256, 64, 16, 4, 1];

/// How many rows of a table stay in memory from one batch to the next; a few hundred bytes each.
const KEPT_ROWS: usize = 16_384;

/// A row of a projection: plain data with a key. Made with [`rows!`](crate::rows).
pub trait Row: Clone + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// The primary key: one value or a tuple.
    type Key: Clone + Eq + Hash + Ord + fmt::Debug + Send + Sync + 'static;
    /// The name of the table.
    const TABLE: &'static str;
    /// All columns, those of the key first.
    const COLUMNS: &'static [&'static str];
    /// How many of them are the key.
    const KEY_COLUMNS: usize;

    /// The key of this row.
    fn key(&self) -> Self::Key;
    /// Which of the columns that are no key differ: the first is the lowest bit.
    fn differs(&self, other: &Self) -> u64;
    /// Binds all columns, in order.
    fn bind(&self, to: &mut Binds<'_, '_>) -> rusqlite::Result<()>;
    /// Binds the columns of a key, in order.
    fn bind_key(key: &Self::Key, to: &mut Binds<'_, '_>) -> rusqlite::Result<()>;
    /// Reads a row whose columns begin at an index.
    fn read(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Self>;
}

/// The values of a statement, bound one after the other.
pub struct Binds<'s, 'c> {
    statement: &'s mut Statement<'c>,
    bound: usize,
}

impl<'s, 'c> Binds<'s, 'c> {
    /// None so far.
    pub(crate) fn new(statement: &'s mut Statement<'c>) -> Self {
        Self { statement, bound: 0 }
    }

    /// Binds the next value.
    pub fn add(&mut self, value: &(impl ToSql + ?Sized)) -> rusqlite::Result<()> {
        self.bound += 1;
        self.statement.raw_bind_parameter(self.bound, value)
    }
}

/// Runs a statement that returns nothing; the values are bound by a function.
pub(crate) fn execute(
    connection: &Connection,
    sql: &str,
    bind: impl FnOnce(&mut Binds<'_, '_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(sql)?;
    bind(&mut Binds::new(&mut statement))?;
    statement.raw_execute().map(drop)
}

/// What a statement finds, each row read by a function. Values beyond those that the statement names
/// are left out.
pub fn select<T>(
    connection: &Connection,
    sql: &str,
    values: &[&dyn ToSql],
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    bind_all(&mut statement, values)?;
    statement.raw_query().mapped(read).collect()
}

/// The rows of a `SELECT *`.
pub fn rows<R: Row>(
    connection: &Connection,
    sql: &str,
    values: &[&dyn ToSql],
) -> rusqlite::Result<Vec<R>> {
    select(connection, sql, values, |row| R::read(row, 0))
}

/// The first row of a `SELECT *`, if there is one.
pub fn first<R: Row>(
    connection: &Connection,
    sql: &str,
    values: &[&dyn ToSql],
) -> rusqlite::Result<Option<R>> {
    let mut statement = connection.prepare_cached(sql)?;
    bind_all(&mut statement, values)?;
    statement.raw_query().next()?.map(|row| R::read(row, 0)).transpose()
}

fn bind_all(statement: &mut Statement<'_>, values: &[&dyn ToSql]) -> rusqlite::Result<()> {
    let named = statement.parameter_count();
    let mut binds = Binds::new(statement);
    values.iter().take(named).try_for_each(|value| binds.add(value))
}

/// Why an event was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It needs a row that is not loaded yet. The runtime loads the row and applies the event
    /// again; a projection only passes this on.
    #[error("a row is not loaded yet")]
    NotLoaded,
    /// It does not fit what is there.
    #[error("{0}")]
    Failed(String),
}

impl ApplyError {
    /// The event does not fit, for this reason.
    pub fn failed(problem: impl Into<String>) -> Self {
        Self::Failed(problem.into())
    }
}

/// The rows of one table that a batch works on.
///
/// A row is `want`ed before it is used, so that the rows of a whole batch are loaded at once. One
/// that was forgotten costs time, not correctness: see [`ApplyError::NotLoaded`]. The rows of the
/// last batches stay, as far as there are not too many of them: nobody else writes to the file.
pub struct Table<R: Row> {
    slots: IndexMap<R::Key, Slot<R>>,
    /// The slots that are changed, and maybe some that are not.
    changed: Vec<usize>,
    /// The keys to load, some of them several times.
    wanted: Vec<R::Key>,
    /// The slots that the event at hand has changed, so that they can be changed back.
    journal: Vec<(usize, Before<R>)>,
    /// The rows that are new and not read again.
    added: Vec<R>,
    /// How many of them are not of the event at hand.
    kept: usize,
    sql: HashMap<(Kind, usize), Arc<str>>,
}

struct Slot<R> {
    row: Option<R>,
    changed: bool,
    /// What is in the file, as far as it is known, while that is something else.
    stored: Option<R>,
}

/// What a slot was before an event.
enum Before<R> {
    Absent,
    /// As it is in the file.
    Unchanged,
    Changed(Option<R>),
}

impl<R: Row> Slot<R> {
    /// What is in the file.
    fn unchanged(row: Option<R>) -> Self {
        Self { row, changed: false, stored: None }
    }

    /// Gives it another row, and says what it was before.
    fn change(&mut self, row: Option<R>) -> Before<R> {
        let before = std::mem::replace(&mut self.row, row);
        if self.changed {
            return Before::Changed(before);
        }
        (self.stored, self.changed) = (before, true);
        Before::Unchanged
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Select,
    /// Rows that are new; what is there already stays. There is no way back from the middle of the
    /// statement, for which SQLite would copy each page: an error ends the transaction.
    Insert,
    /// With these columns when the row is there; an index over the others is not touched.
    Upsert(u64),
    Delete,
}

/// All columns: nothing is known of what is in the file.
const ALL: u64 = u64::MAX;

impl<R: Row> Default for Table<R> {
    fn default() -> Self {
        Self {
            slots: IndexMap::default(),
            changed: Vec::new(),
            wanted: Vec::new(),
            journal: Vec::new(),
            added: Vec::new(),
            kept: 0,
            sql: HashMap::default(),
        }
    }
}

impl<R: Row> Table<R> {
    /// Says that the row with this key will be needed.
    pub fn want(&mut self, key: impl Borrow<R::Key>) {
        let key = key.borrow();
        if !self.slots.contains_key(key) {
            self.wanted.push(key.clone());
        }
    }

    /// The row with this key, if there is one.
    pub fn get(&mut self, key: &R::Key) -> Result<Option<&R>, ApplyError> {
        let Some(slot) = self.slots.get(key) else {
            self.wanted.push(key.clone());
            return Err(ApplyError::NotLoaded);
        };
        Ok(slot.row.as_ref())
    }

    /// The row with this key, to be changed, made or (with `None`) removed.
    pub fn edit(&mut self, key: &R::Key) -> Result<&mut Option<R>, ApplyError> {
        let Some((at, _, slot)) = self.slots.get_full_mut(key) else {
            self.wanted.push(key.clone());
            return Err(ApplyError::NotLoaded);
        };
        if !slot.changed {
            self.changed.push(at);
        }
        let before = slot.change(slot.row.clone());
        self.journal.push((at, before));
        Ok(&mut slot.row)
    }

    /// Puts a row, whatever was there. The row need not be loaded before.
    pub fn put(&mut self, row: R) {
        let (at, before) = match self.slots.entry(row.key()) {
            Entry::Occupied(mut slot) => (slot.index(), slot.get_mut().change(Some(row))),
            Entry::Vacant(none) => {
                let at = none.index();
                none.insert(Slot { row: Some(row), changed: true, stored: None });
                (at, Before::Absent)
            }
        };
        if !matches!(before, Before::Changed(_)) {
            self.changed.push(at);
        }
        self.journal.push((at, before));
    }

    /// Adds a row whose key no other event has or asks for, such as one that tells of the event.
    /// It goes into the file and nowhere else; a row with this key that is there already stays.
    pub fn add(&mut self, row: R) {
        self.added.push(row);
    }

    fn sql(&mut self, kind: Kind, rows: usize) -> Arc<str> {
        self.sql.entry((kind, rows)).or_insert_with(|| statement::<R>(kind, rows).into()).clone()
    }
}

/// One statement for a number of rows.
fn statement<R: Row>(kind: Kind, rows: usize) -> String {
    let (keys, values) = R::COLUMNS.split_at(R::KEY_COLUMNS);
    let (table, columns, key_list) = (R::TABLE, R::COLUMNS.join(", "), keys.join(", "));
    let tuples = |width: usize| marks(&format!("({})", marks("?", width)), rows);
    match kind {
        Kind::Select => format!(
            "SELECT {columns} FROM {table} WHERE ({key_list}) IN (VALUES {})",
            tuples(keys.len())
        ),
        Kind::Delete => {
            format!("DELETE FROM {table} WHERE ({key_list}) IN (VALUES {})", tuples(keys.len()))
        }
        Kind::Insert => {
            let rows = tuples(R::COLUMNS.len());
            let stays = format!("ON CONFLICT ({key_list}) DO NOTHING");
            format!("INSERT OR FAIL INTO {table} ({columns}) VALUES {rows} {stays}")
        }
        Kind::Upsert(changed) => {
            let is_changed = |at: usize| changed & (1 << at.min(63)) != 0;
            let some = values.iter().enumerate().filter(|(at, _)| is_changed(*at));
            let sets: Vec<_> = some.map(|(_, c)| format!("{c} = excluded.{c}")).collect();
            let action = match sets.is_empty() {
                true => "NOTHING".to_owned(),
                false => format!("UPDATE SET {}", sets.join(", ")),
            };
            format!(
                "INSERT INTO {table} ({columns}) VALUES {} ON CONFLICT ({key_list}) DO {action}",
                tuples(R::COLUMNS.len())
            )
        }
    }
}

/// So many marks, or tuples of them, for the values of a statement.
pub(crate) fn marks(mark: &str, number: usize) -> String {
    vec![mark; number].join(", ")
}

/// Cuts a slice into pieces of the sizes in [`CHUNKS`].
pub(crate) fn chunks<T>(mut rest: &[T]) -> impl Iterator<Item = &[T]> {
    sizes(rest.len()).map(move |size| {
        let (head, tail) = rest.split_at(size);
        rest = tail;
        head
    })
}

/// Cuts a number of rows into pieces of the sizes in [`CHUNKS`].
fn sizes(mut rest: usize) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let size = CHUNKS.into_iter().find(|size| *size <= rest)?;
        rest -= size;
        Some(size)
    })
}

/// What there is to know about a table of rows.
#[derive(Debug, Clone, Copy)]
pub struct TableInfo {
    /// The name.
    pub name: &'static str,
    /// All columns, those of the key first.
    pub columns: &'static [&'static str],
    /// How many of them are the key.
    pub key_columns: usize,
}

/// A [`Table`] without the type of its rows; what the engine sees.
pub trait AnyTable: Send {
    #[doc(hidden)]
    fn load(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    #[doc(hidden)]
    fn write(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    #[doc(hidden)]
    fn keep(&mut self);
    #[doc(hidden)]
    fn undo(&mut self);
    #[doc(hidden)]
    fn written(&mut self);
    #[doc(hidden)]
    fn rows(&self) -> usize;
}

/// A statement that writes, and the places of the rows that it takes.
struct Write {
    sql: Arc<str>,
    rows: Places,
}

enum Places {
    Slots(Vec<usize>),
    /// Only the keys of these.
    Keys(Vec<usize>),
    Added(Range<usize>),
}

impl<R: Row> Table<R> {
    /// The keys of the wanted rows, in order. From here on they count as loaded; those that are not
    /// found do not exist.
    fn take_wanted(&mut self) -> Vec<R::Key> {
        let mut keys = std::mem::take(&mut self.wanted);
        keys.sort_unstable();
        keys.dedup();
        for key in &keys {
            self.slots.entry(key.clone()).or_insert(Slot::unchanged(None));
        }
        keys
    }

    /// The statements that write the changed rows.
    fn writes(&mut self) -> Vec<Write> {
        // What an event that failed had put there is gone again.
        let slots = &self.slots;
        self.changed.retain(|at| slots.get_index(*at).is_some_and(|(_, slot)| slot.changed));
        // In the order of the key, neighbours in the file are written together.
        self.changed.sort_unstable_by_key(|at| slots.get_index(*at).expect("kept just now").0);
        self.changed.dedup();
        let (mut put, mut removed) = (BTreeMap::<u64, Vec<usize>>::new(), Vec::new());
        for at in &self.changed {
            let slot = &slots[*at];
            let Some(row) = &slot.row else {
                removed.push(*at);
                continue;
            };
            match slot.stored.as_ref().map_or(ALL, |stored| row.differs(stored)) {
                0 => {}
                columns => put.entry(columns).or_default().push(*at),
            }
        }
        self.added.sort_by_cached_key(R::key);
        let mut writes = Vec::new();
        for (columns, places) in put {
            for chunk in chunks(&places) {
                let sql = self.sql(Kind::Upsert(columns), chunk.len());
                writes.push(Write { sql, rows: Places::Slots(chunk.to_vec()) });
            }
        }
        let mut begin = 0;
        for size in sizes(self.added.len()) {
            let sql = self.sql(Kind::Insert, size);
            writes.push(Write { sql, rows: Places::Added(begin..begin + size) });
            begin += size;
        }
        for chunk in chunks(&removed) {
            let sql = self.sql(Kind::Delete, chunk.len());
            writes.push(Write { sql, rows: Places::Keys(chunk.to_vec()) });
        }
        writes
    }

    fn bind(&self, rows: &Places, to: &mut Binds<'_, '_>) -> rusqlite::Result<()> {
        match rows {
            Places::Slots(places) => places
                .iter()
                .filter_map(|at| self.slots[*at].row.as_ref())
                .try_for_each(|row| row.bind(to)),
            Places::Keys(places) => places
                .iter()
                .filter_map(|at| self.slots.get_index(*at))
                .try_for_each(|(key, _)| R::bind_key(key, to)),
            Places::Added(range) => {
                self.added[range.clone()].iter().try_for_each(|row| row.bind(to))
            }
        }
    }
}

impl<R: Row> AnyTable for Table<R> {
    /// Loads the wanted rows.
    fn load(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        for chunk in chunks(&self.take_wanted()) {
            let sql = self.sql(Kind::Select, chunk.len());
            let mut statement = connection.prepare_cached(&sql)?;
            let mut binds = Binds::new(&mut statement);
            chunk.iter().try_for_each(|key| R::bind_key(key, &mut binds))?;
            let mut found = statement.raw_query();
            while let Some(row) = found.next()? {
                let row = R::read(row, 0)?;
                let slot = self.slots.entry(row.key()).or_insert(Slot::unchanged(None));
                if !slot.changed {
                    slot.row = Some(row);
                }
            }
        }
        Ok(())
    }

    /// Writes the changed rows, in the transaction that is open. They stay until it has ended.
    fn write(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        for Write { sql, rows } in self.writes() {
            execute(connection, &sql, |binds| self.bind(&rows, binds))?;
        }
        Ok(())
    }

    fn written(&mut self) {
        if self.slots.len() > KEPT_ROWS {
            self.slots = IndexMap::default();
        }
        for at in self.changed.drain(..) {
            if let Some((_, slot)) = self.slots.get_index_mut(at) {
                slot.changed = false;
                slot.stored = None;
            }
        }
        (self.added, self.kept) = (Vec::new(), 0);
    }

    fn keep(&mut self) {
        self.journal.clear();
        self.kept = self.added.len();
    }

    fn undo(&mut self) {
        while let Some((at, before)) = self.journal.pop() {
            let Some((_, slot)) = self.slots.get_index_mut(at) else { continue };
            match before {
                // It was the last one: the slots made after it are gone already.
                Before::Absent => drop(self.slots.pop()),
                Before::Unchanged => {
                    (slot.row, slot.changed) = (slot.stored.take(), false);
                }
                Before::Changed(row) => slot.row = row,
            }
        }
        self.added.truncate(self.kept);
    }

    fn rows(&self) -> usize {
        self.slots.len() + self.added.len()
    }
}

/// The tables of a projection. Made with [`rows!`](crate::rows).
pub trait Tables: Default + Send + Sync + 'static {
    /// What the tables are.
    const INFO: &'static [TableInfo];

    /// All of them, in the order of [`Tables::INFO`].
    fn all(&mut self) -> impl Iterator<Item = &mut dyn AnyTable>;
}

/// Declares the rows of a projection and the struct of its tables.
///
/// The name and type of each field are those of a column; the fields of `key` are the primary key.
/// Types are `i64`, `String`, `Vec<u8>` and `Option`s of them. Tables whose rows another projection
/// declares, with the same name of the table, come last: `; also { products: ProductRow }`.
///
/// ```
/// daybook_query::rows! {
///     /// The tables of a projection.
///     pub struct Tables {
///         /// How often each word was heard.
///         words: Word in "words",
///     }
///
///     /// A word.
///     pub struct Word {
///         key {
///             /// The word.
///             word: String,
///         }
///         /// How often it was heard.
///         count: i64,
///     }
/// }
/// ```
#[macro_export]
macro_rules! rows {
    (
        $(#[$tables_meta:meta])*
        $tables_vis:vis struct $tables:ident {
            $( $(#[$table_meta:meta])* $table:ident : $table_row:ident in $name:literal ),+ $(,)?
            $(; also { $( $(#[$other_meta:meta])* $other:ident : $other_row:ty ),+ $(,)? } )?
        }
        $(
            $(#[$meta:meta])*
            $vis:vis struct $row:ident {
                key { $( $(#[$key_meta:meta])* $key:ident : $key_type:ty ),+ $(,)? }
                $( $(#[$field_meta:meta])* $field:ident : $field_type:ty ),* $(,)?
            }
        )+
    ) => {
        $(#[$tables_meta])*
        #[derive(Default)]
        $tables_vis struct $tables {
            $( $(#[$table_meta])* $tables_vis $table: $crate::runtime::row::Table<$table_row>, )+
            $($( $(#[$other_meta])* $tables_vis $other: $crate::runtime::row::Table<$other_row>, )+)?
        }

        impl $crate::runtime::row::Tables for $tables {
            const INFO: &'static [$crate::runtime::row::TableInfo] = &[
                $( $crate::runtime::row::TableInfo {
                    name: $name,
                    columns: <$table_row as $crate::runtime::row::Row>::COLUMNS,
                    key_columns: <$table_row as $crate::runtime::row::Row>::KEY_COLUMNS,
                }, )+
                $($( $crate::runtime::row::TableInfo {
                    name: <$other_row as $crate::runtime::row::Row>::TABLE,
                    columns: <$other_row as $crate::runtime::row::Row>::COLUMNS,
                    key_columns: <$other_row as $crate::runtime::row::Row>::KEY_COLUMNS,
                }, )+)?
            ];

            fn all(&mut self) -> impl Iterator<Item = &mut dyn $crate::runtime::row::AnyTable> {
                let all: [&mut dyn $crate::runtime::row::AnyTable; _] =
                    [ $( &mut self.$table, )+ $($( &mut self.$other, )+)? ];
                all.into_iter()
            }
        }

        $( impl $crate::runtime::row::Named for $table_row {
            const TABLE: &'static str = $name;
        } )+

        $(
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq)]
            $vis struct $row {
                $( $(#[$key_meta])* pub $key: $key_type, )+
                $( $(#[$field_meta])* pub $field: $field_type, )*
            }

            #[allow(
                unused_parens,
                unused_mut,
                unused_variables,
                unused_assignments,
                clippy::clone_on_copy
            )]
            impl $crate::runtime::row::Row for $row {
                type Key = ($($key_type),+);
                const TABLE: &'static str = <$row as $crate::runtime::row::Named>::TABLE;
                const COLUMNS: &'static [&'static str] =
                    &[ $( stringify!($key), )+ $( stringify!($field), )* ];
                const KEY_COLUMNS: usize = [ $( stringify!($key) ),+ ].len();

                fn key(&self) -> Self::Key {
                    ($( self.$key.clone() ),+)
                }

                fn differs(&self, other: &Self) -> u64 {
                    let (mut at, mut differs) = (0_u32, 0);
                    $(
                        // Columns beyond the last bit count as that one.
                        differs |= u64::from(self.$field != other.$field) << at.min(63);
                        at += 1;
                    )*
                    differs
                }

                fn bind(
                    &self,
                    to: &mut $crate::runtime::row::Binds<'_, '_>,
                ) -> $crate::runtime::row::rusqlite::Result<()> {
                    $( to.add(&self.$key)?; )+
                    $( to.add(&self.$field)?; )*
                    Ok(())
                }

                fn bind_key(
                    key: &Self::Key,
                    to: &mut $crate::runtime::row::Binds<'_, '_>,
                ) -> $crate::runtime::row::rusqlite::Result<()> {
                    let ($( $key ),+) = key;
                    $( to.add($key)?; )+
                    Ok(())
                }

                fn read(
                    row: &$crate::runtime::row::rusqlite::Row<'_>,
                    at: usize,
                ) -> $crate::runtime::row::rusqlite::Result<Self> {
                    let mut columns = at..;
                    let mut column = || columns.next().expect("a row has few columns");
                    Ok(Self {
                        $( $key: row.get(column())?, )+
                        $( $field: row.get(column())?, )*
                    })
                }
            }
        )+
    };
}

/// The name of the table of a row; made by [`rows!`](crate::rows).
#[doc(hidden)]
pub trait Named {
    /// The name.
    const TABLE: &'static str;
}

#[doc(hidden)]
pub use rusqlite;

#[cfg(test)]
mod tests {
    use super::*;

    crate::rows! {
        /// The tables.
        struct Words {
            words: Word in "words",
            places: Place in "places",
        }

        /// A word.
        struct Word {
            key { word: String, language: String }
            count: i64,
        }

        /// Where a word is.
        struct Place {
            key { word: String }
            line: i64,
            column: i64,
        }
    }

    fn key(word: &str) -> (String, String) {
        (word.to_owned(), "en".to_owned())
    }

    fn word(word: &str, count: i64) -> Word {
        Word { word: word.to_owned(), language: "en".to_owned(), count }
    }

    #[test]
    fn rows_are_cut_into_few_sizes() {
        for (rows, sizes) in [
            (0, vec![]),
            (1, vec![1]),
            (7, vec![4, 1, 1, 1]),
            (256, vec![256]),
            (600, vec![256, 256, 64, 16, 4, 4]),
        ] {
            let all = vec![(); rows];
            assert_eq!(chunks(&all).map(<[()]>::len).collect::<Vec<_>>(), sizes);
        }
    }

    #[test]
    fn a_row_that_was_not_loaded_is_asked_for() {
        let mut tables = Words::default();
        assert_eq!(tables.words.get(&key("a")), Err(ApplyError::NotLoaded));
        assert_eq!(tables.words.edit(&key("b")), Err(ApplyError::NotLoaded));
        assert_eq!(tables.words.take_wanted(), [key("a"), key("b")]);
        assert_eq!(tables.words.get(&key("a")), Ok(None));
        assert!(tables.words.take_wanted().is_empty());
    }

    #[test]
    fn what_a_failed_event_did_is_taken_back() {
        let mut tables = Words::default();
        tables.words.put(word("a", 1));
        tables.words.keep();
        tables.words.put(word("a", 2));
        tables.words.edit(&key("a")).unwrap().as_mut().unwrap().count = 3;
        *tables.words.edit(&key("a")).unwrap() = None;
        tables.words.put(word("b", 1));
        tables.words.undo();
        assert_eq!(tables.words.get(&key("a")), Ok(Some(&word("a", 1))));
        assert_eq!(tables.words.get(&key("b")), Err(ApplyError::NotLoaded));
    }

    #[test]
    fn what_was_changed_before_stays_when_an_event_fails() {
        let mut tables = Words::default();
        let set = |tables: &mut Words, count| {
            tables.words.edit(&key("a")).unwrap().as_mut().unwrap().count = count;
        };
        tables.words.put(word("a", 1));
        tables.words.keep();
        tables.words.written();
        set(&mut tables, 2);
        tables.words.keep();
        set(&mut tables, 3);
        set(&mut tables, 4);
        tables.words.put(word("b", 1));
        tables.words.put(word("c", 1));
        tables.words.undo();
        tables.words.put(word("d", 1));
        tables.words.keep();
        assert_eq!(tables.words.get(&key("a")), Ok(Some(&word("a", 2))));
        for gone in ["b", "c"] {
            assert_eq!(tables.words.get(&key(gone)), Err(ApplyError::NotLoaded));
        }
        assert_eq!(tables.words.get(&key("d")), Ok(Some(&word("d", 1))));
        assert_eq!(tables.words.writes().len(), 2, "one that was there and one that is new");
    }

    #[test]
    fn an_added_row_is_written_once_unless_its_event_fails() {
        let mut tables = Words::default();
        for (count, fails) in [(1, false), (2, true), (3, false)] {
            tables.words.add(word(&count.to_string(), count));
            match fails {
                true => tables.words.undo(),
                false => tables.words.keep(),
            }
        }
        assert_eq!(tables.words.rows(), 2);
        let writes = tables.words.writes();
        assert_eq!(writes.len(), 2, "one statement of each size");
        let sql = "INSERT OR FAIL INTO words (word, language, count) VALUES (?, ?, ?) \
                   ON CONFLICT (word, language) DO NOTHING";
        assert_eq!(writes[0].sql.as_ref(), sql);
        tables.words.written();
        assert!(tables.words.writes().is_empty());
        assert_eq!(tables.words.rows(), 0);
    }

    #[test]
    fn each_changed_row_is_written_once() {
        let mut tables = Words::default();
        for count in 0..5 {
            tables.words.put(word("a", count));
        }
        tables.words.want(key("gone"));
        tables.words.take_wanted();
        *tables.words.edit(&key("gone")).unwrap() = None;
        let writes = tables.words.writes();
        let sql: Vec<_> = writes.iter().map(|write| write.sql.as_ref()).collect();
        assert_eq!(
            sql,
            [
                "INSERT INTO words (word, language, count) VALUES (?, ?, ?) \
                 ON CONFLICT (word, language) DO UPDATE SET count = excluded.count",
                "DELETE FROM words WHERE (word, language) IN (VALUES (?, ?))",
            ]
        );
    }

    #[test]
    fn a_row_that_was_written_stays_and_is_written_again_only_when_it_changes() {
        let mut tables = Words::default();
        tables.words.put(word("a", 1));
        tables.words.keep();
        tables.words.written();
        assert_eq!(tables.words.get(&key("a")), Ok(Some(&word("a", 1))));
        assert!(tables.words.writes().is_empty());
        tables.words.edit(&key("a")).unwrap().as_mut().unwrap().count = 2;
        tables.words.undo();
        assert!(tables.words.writes().is_empty(), "the event that changed it has failed");
        tables.words.edit(&key("a")).unwrap().as_mut().unwrap().count = 2;
        assert_eq!(tables.words.writes().len(), 1);
    }

    #[test]
    fn only_the_columns_that_changed_are_written() {
        let mut tables = Words::default();
        let place = |line, column| Place { word: "a".to_owned(), line, column };
        let mut sets = |row: Place| {
            tables.places.put(row);
            tables.places.keep();
            let sql = tables.places.writes().pop().map(|write| write.sql);
            tables.places.written();
            sql.map(|sql| sql.split_once(" SET ").unwrap().1.to_owned())
        };
        let set = |columns: &[&str]| {
            let sets: Vec<_> = columns.iter().map(|c| format!("{c} = excluded.{c}")).collect();
            Some(sets.join(", "))
        };
        assert_eq!(sets(place(1, 1)), set(&["line", "column"]), "what is there is not known");
        assert_eq!(sets(place(1, 2)), set(&["column"]));
        assert_eq!(sets(place(2, 2)), set(&["line"]));
        assert_eq!(sets(place(2, 2)), None);
        assert_eq!(sets(place(3, 3)), set(&["line", "column"]));
    }

    #[test]
    fn too_many_rows_do_not_stay() {
        let mut tables = Words::default();
        for number in 0..=KEPT_ROWS {
            tables.words.put(word(&number.to_string(), 1));
        }
        tables.words.keep();
        tables.words.written();
        assert_eq!(tables.words.get(&key("1")), Err(ApplyError::NotLoaded));
        assert!(tables.words.writes().is_empty());
    }
}
