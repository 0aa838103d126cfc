//! Where answers go: tables for people, JSON for programs.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use daybook_contract::rules::is_unprintable;
use serde_json::Value;

/// The spaces between two columns.
const COLUMN_GAP: u16 = 2;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table, for people
    Table,
    /// Proto3 JSON, for programs
    Json,
}

/// Writes to standard output.
pub(crate) fn bytes(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Writes a line to standard output.
pub(crate) fn line(text: &str) -> io::Result<()> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes a hint to standard error, where it does not mix with the answer.
pub(crate) fn hint(text: &str) {
    eprintln!("{text}");
}

/// Says how to see the next page: with the command that was typed, because a token is good for the
/// same filters only.
pub(crate) fn more(token: &str) {
    if !token.is_empty() {
        let typed = without_page_token(std::env::args().skip(1));
        hint(&format!("more: daybook {typed} --page-token {token}    (or all at once: --all)"));
    }
}

/// Arguments as a shell takes them, without the place where a page began.
fn without_page_token(mut args: impl Iterator<Item = String>) -> String {
    let mut words = Vec::new();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--page-token" => drop(args.next()),
            arg if arg.starts_with("--page-token=") => {}
            arg => words.push(quoted(arg)),
        }
    }
    words.join(" ")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Writes one JSON document, indented.
pub(crate) fn document(value: &Value) -> io::Result<()> {
    line(&format!("{value:#}"))
}

/// Writes one JSON document of a stream of them, on a line of its own.
pub(crate) fn stream_document(value: &Value) -> io::Result<()> {
    line(&value.to_string())
}

/// A text that somebody else has written, without power over the terminal.
pub(crate) fn printable(text: &str) -> String {
    let escaped = |c: char| match c {
        '\n' => c.to_string(),
        c if is_unprintable(c) => c.escape_unicode().to_string(),
        c => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// A table with a header. The numbers are the columns to align to the right.
pub(crate) fn table(header: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> io::Result<()> {
    let mut table = plain_table();
    table.set_header(header.iter().map(|name| name.to_uppercase()));
    table.add_rows(
        rows.into_iter().map(|row| row.iter().map(|cell| printable(cell)).collect::<Vec<_>>()),
    );
    for index in right {
        if let Some(column) = table.column_mut(*index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    print(table)
}

/// A table of names and values.
pub(crate) fn fields(rows: &[(&str, String)]) -> io::Result<()> {
    let mut table = plain_table();
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        table.add_row([(*name).to_owned(), printable(value)]);
    }
    print(table)
}

/// Writes a table, from the left edge on.
fn print(mut table: Table) -> io::Result<()> {
    let last = table.column_count().saturating_sub(1);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, COLUMN_GAP));
        // Only the last column is folded on a narrow terminal: the others have ids to copy.
        if index < last {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    line(&table.trim_fmt())
}

/// Columns without lines: easy to read, and easy to cut apart. On a terminal they fit its width.
fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let arrangement = if io::stdout().is_terminal() {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    };
    table.set_content_arrangement(arrangement);
    table
}

/// Whether colour is wanted on a stream: it is a terminal, and nobody objects
/// (<https://no-color.org>).
pub(crate) fn colour(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The text in bold red, when colour is wanted.
pub(crate) fn red(text: &str, colour: bool) -> String {
    paint("1;31", text, colour)
}

/// The text in green, when colour is wanted.
pub(crate) fn green(text: &str, colour: bool) -> String {
    paint("32", text, colour)
}

/// The text in bold, when colour is wanted.
pub(crate) fn bold(text: &str, colour: bool) -> String {
    paint("1", text, colour)
}

fn paint(code: &str, text: &str, colour: bool) -> String {
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_asked_for_with_the_same_words() {
        let typed =
            ["product", "search", "it's tea", "--page-token", "00", "", "--page-token=1", "-o"];
        let words = without_page_token(typed.iter().map(|word| (*word).to_owned()));
        assert_eq!(words, r"product search 'it'\''s tea' '' -o");
    }

    #[test]
    fn a_text_has_no_power_over_the_terminal() {
        assert_eq!(printable("a\x1b[31mred\u{202e}b\u{9b}é"), "a\\u{1b}[31mred\\u{202e}b\\u{9b}é");
    }
}
