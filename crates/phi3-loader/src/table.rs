//! Tables of text: columns without lines between them.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use std::io::{self, Write};

/// The number of rows that are in memory at a time. The crate needs about 1 kB for a row, and a file can have 262,144
/// tensors. A longer table repeats its headings, because its columns can change their width there.
const ROWS: usize = 2048;

/// The number of spaces before each column.
const GAP: u16 = 2;

/// The smallest width of a last column whose text is divided into lines.
const NARROWEST: u16 = 10;

/// A column with its heading.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    /// Text.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

impl Column {
    const fn heading(self) -> &'static str {
        match self {
            Self::Left(heading) | Self::Right(heading) => heading,
        }
    }
}

/// Writes a table, indented by two spaces. If a terminal is too narrow for it, divides the text of the last column into
/// lines. Without space for that, the terminal continues each row on its next line. Elsewhere a row is always one line.
pub(super) fn write<const N: usize>(
    out: &mut dyn Write,
    columns: [Column; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> io::Result<()> {
    let terminal = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col);
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(columns.map(Column::heading));
        table.add_rows(rows.by_ref().take(ROWS));
        for (column, shown) in columns.iter().zip(table.column_iter_mut()) {
            shown.set_padding((GAP, 0));
            if matches!(column, Column::Right(_)) {
                shown.set_cell_alignment(CellAlignment::Right);
            }
        }
        if let (Some(Column::Left(_)), Some(width)) = (columns.last(), terminal) {
            fit_last_column(&mut table, width);
        }
        for line in table.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    Ok(())
}

fn fit_last_column(table: &mut Table, width: u16) {
    let widths = table.column_max_content_widths();
    let Some((_, others)) = widths.split_last() else { return };
    let taken: usize = others.iter().map(|&width| usize::from(width) + usize::from(GAP)).sum();
    if taken + usize::from(GAP + NARROWEST) <= usize::from(width) {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        table.set_constraints(others.iter().map(|_| ColumnConstraint::ContentWidth));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(rows: usize) -> String {
        let mut out = Vec::new();
        let rows = (0..rows).map(|row| [format!("name {row} 模型"), (row * 1000).to_string()]);
        write(&mut out, [Column::Left("name"), Column::Right("bytes")], rows).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_aligned_left_and_numbers_right() {
        let expected = "  name         bytes\n  name 0 模型      0\n  name 1 模型   1000\n";
        assert_eq!(written(2), expected);
        assert_eq!(written(0), "");
    }

    #[test]
    fn text_in_the_last_column_is_divided_if_there_is_space() {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).add_row(["cuda:0", "embedding, layers 0 to 15"]);
        for column in table.column_iter_mut() {
            column.set_padding((GAP, 0));
        }
        fit_last_column(&mut table, 19);
        assert_eq!(table.to_string(), "  cuda:0  embedding, layers 0 to 15");
        fit_last_column(&mut table, 24);
        assert_eq!(table.trim_fmt(), "  cuda:0  embedding,\n          layers 0 to 15");
    }

    #[test]
    fn a_long_table_has_every_row_once() {
        let text = written(ROWS + 1);
        let (headings, rows): (Vec<_>, Vec<_>) =
            text.lines().partition(|line| line.trim_start().starts_with("name  "));
        assert_eq!((headings.len(), rows.len()), (2, ROWS + 1));
        assert!(rows.last().unwrap().ends_with(&format!(" {}", ROWS * 1000)), "{rows:?}");
    }
}
