//! Tables as kubectl prints them: columns apart by two spaces, no borders, nothing wrapped.
//!
//! Decides widths and shortens; knows nothing of what the cells mean.

use comfy_table::{CellAlignment, Color, ContentArrangement, presets};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The width that every table fits where it is not known better.
pub const DEFAULT_WIDTH: usize = 100;
const GAP: usize = 2;
const SHORTEST: usize = 8;

/// Where a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers and sizes.
    Right,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    header: String,
    align: Align,
    fixed: bool,
}

impl Column {
    /// A column of text, which is shortened where the table would get too wide.
    pub fn text(header: &str) -> Self {
        Self { header: header.to_uppercase(), align: Align::Left, fixed: false }
    }

    /// A column that is always shown in full: identifiers, states, times.
    pub fn fixed(header: &str) -> Self {
        Self { fixed: true, ..Self::text(header) }
    }

    /// A column of numbers, to the right and in full.
    pub fn number(header: &str) -> Self {
        Self { align: Align::Right, ..Self::fixed(header) }
    }
}

/// What a cell says about the state of things; shown as a colour on terminals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing in particular.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Somebody should look.
    Warning,
    /// Broken.
    Bad,
}

/// One cell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell with a colour on terminals.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: printable(&text.into()), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// Rows that can be shown as a table.
pub trait TableView {
    /// The columns, from left to right; the ones worth most first.
    fn columns() -> Vec<Column>;
    /// One cell for each column.
    fn cells(&self, moment: &super::Moment) -> Vec<Cell>;
    /// What is said where there are no rows: `No backups yet; take one with …`.
    fn when_empty() -> &'static str;
}

/// A table ready to be laid out.
#[derive(Debug, Clone, Default)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: Vec<Column>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty, surplus ones are dropped.
    pub fn push(&mut self, mut cells: Vec<Cell>) {
        cells.resize(self.columns.len(), Cell::default());
        self.rows.push(cells);
    }

    /// The text, each line ended, at most `width` columns wide as far as fixed columns allow.
    pub fn render(&self, width: usize, color: bool) -> String {
        let widths = self.fit(width);
        let mut table = comfy_table::Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(self.columns.iter().map(|column| &column.header));
        for row in &self.rows {
            table.add_row(row.iter().zip(&widths).map(|(cell, width)| {
                let shown = comfy_table::Cell::new(shorten(&cell.text, *width));
                match cell.tone {
                    Tone::Plain => shown,
                    Tone::Good => shown.fg(Color::Green),
                    Tone::Warning => shown.fg(Color::Yellow),
                    Tone::Bad => shown.fg(Color::Red),
                }
            }));
        }
        let last = self.columns.len().saturating_sub(1);
        for (index, column) in self.columns.iter().enumerate() {
            if let Some(styled) = table.column_mut(index) {
                let gap = if index == last { 0 } else { u16::try_from(GAP).unwrap_or(0) };
                styled.set_padding((0, gap));
                if column.align == Align::Right {
                    styled.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// The width of each column: natural, then taken away from the right until the table fits.
    fn fit(&self, width: usize) -> Vec<usize> {
        let mut widths: Vec<usize> =
            self.columns.iter().map(|column| column.header.width()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        let gaps = GAP * self.columns.len().saturating_sub(1);
        let mut surplus = (widths.iter().sum::<usize>() + gaps).saturating_sub(width);
        for (column, width) in self.columns.iter().zip(&mut widths).rev() {
            if !column.fixed {
                let least = SHORTEST.max(column.header.width());
                let taken = width.saturating_sub(least).min(surplus);
                *width -= taken;
                surplus -= taken;
            }
        }
        widths
    }
}

/// `text` in at most `width` terminal columns, ended by `…` if something is left out.
pub fn shorten(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut room = width.saturating_sub(1);
    let mut short = String::new();
    for character in text.chars() {
        let taken = character.width().unwrap_or(0);
        if taken > room {
            break;
        }
        room -= taken;
        short.push(character);
    }
    short.truncate(short.trim_end().len());
    short.push('…');
    short
}

/// `text` without control characters: a file name must not move the cursor or break the line.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\n' | '\t' | '\r' => ' ',
            control if control.is_control() => '\u{fffd}',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(vec![
            Column::fixed("id"),
            Column::text("name"),
            Column::number("size"),
            Column::text("message"),
        ]);
        table.push(vec!["1".into(), "before-release".into(), "482.1 MiB".into(), "".into()]);
        table.push(vec!["12".into(), "nightly".into(), "0 B".into(), "x".repeat(120).into()]);
        table
    }

    #[test]
    fn columns_stand_under_their_headers_and_the_right_one_is_shortened() {
        let text = table().render(60, false);
        assert_eq!(
            text,
            format!(
                "ID  NAME                 SIZE  MESSAGE\n\
                 1   before-release  482.1 MiB\n\
                 12  nightly               0 B  {}…\n",
                "x".repeat(28)
            )
        );
    }

    #[test]
    fn every_line_fits_and_ends_without_spaces() {
        for width in [40, 60, 100] {
            for line in table().render(width, false).lines() {
                assert!(line.width() <= width && !line.ends_with(' '), "{width}: {line:?}");
            }
        }
    }

    #[test]
    fn wide_characters_count_twice_and_are_never_cut_in_half() {
        assert_eq!(shorten("データベース", 7), "データ…");
        assert_eq!(shorten("データベース", 6), "デー…");
        assert_eq!(shorten("db", 2), "db");
        let mut table = Table::new(vec![Column::text("name"), Column::text("state")]);
        table.push(vec!["データ".into(), "ok".into()]);
        assert_eq!(table.render(100, false), "NAME    STATE\nデータ  ok\n");
    }

    #[test]
    fn a_hostile_name_cannot_move_the_cursor() {
        let mut table = Table::new(vec![Column::text("name")]);
        table.push(vec!["a\u{1b}[2Jb\nc".into()]);
        assert_eq!(table.render(100, false), "NAME\na\u{fffd}[2Jb c\n");
    }

    #[test]
    fn colour_is_there_only_when_asked_for() {
        let mut table = Table::new(vec![Column::fixed("status")]);
        table.push(vec![Cell::toned("Failed", Tone::Bad)]);
        assert!(!table.render(100, false).contains('\u{1b}'));
        assert!(table.render(100, true).contains("\u{1b}["));
    }
}
