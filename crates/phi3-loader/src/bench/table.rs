//! Prints a report as text.

use super::report::{Report, Row, Section};
use crate::color::Palette;
use std::io::{Result, Write};
use textwrap::Options;
use textwrap::core::display_width;

/// Spaces between two columns.
const GAP: usize = 2;

/// Writes the report for a terminal of `columns` columns. Elsewhere, `columns` is `usize::MAX`, and a row has one line.
pub(super) fn write(
    out: &mut dyn Write,
    report: &Report,
    columns: usize,
    palette: Palette,
) -> Result<()> {
    for (name, fact) in &report.facts {
        writeln!(out, "{}", wrapped(&format!("{name:<9} "), fact, columns))?;
    }
    for section in &report.sections {
        writeln!(out)?;
        write_section(out, section, columns, palette)?;
    }
    Ok(())
}

fn write_section(
    out: &mut dyn Write,
    section: &Section,
    columns: usize,
    Palette { heading, .. }: Palette,
) -> Result<()> {
    let Section { title, heads, rows, note } = section;
    let widest = |text: fn(&Row) -> &str| rows.iter().map(|row| display_width(text(row))).max();
    let mut end = GAP + widest(|row| &row.name).unwrap_or(0);
    let mut ends = Vec::new();
    for (index, head) in heads.iter().enumerate() {
        let figures = rows.iter().map(|row| display_width(&row.figures[index]));
        end += GAP + figures.chain([head.len()]).max().unwrap_or(0);
        ends.push(end);
    }
    // Each figure ends at the end of its column.
    let line = |start: String, figures: &mut dyn Iterator<Item = &str>| {
        figures.zip(&ends).fold(start, |line, (figure, end)| {
            let width = end.saturating_sub(display_width(&line)).max(GAP + display_width(figure));
            format!("{line}{figure:>width$}")
        })
    };
    let indent = " ".repeat(GAP);
    let below = " ".repeat(3 * GAP);
    let is_wide = end + GAP + widest(|row| &row.sentence).unwrap_or(0) <= columns;
    if end <= columns {
        let heads = line(title.clone(), &mut heads.iter().copied());
        writeln!(out, "{heading}{heads}{heading:#}")?;
    } else {
        writeln!(out, "{heading}{title}{heading:#}")?;
    }
    for row in rows {
        let name = format!("{indent}{}", row.name);
        let figures = &mut row.figures.iter().map(String::as_str);
        if is_wide {
            writeln!(out, "{}{indent}{}", line(name, figures), row.sentence)?;
            continue;
        }
        if end <= columns {
            writeln!(out, "{}", line(name, figures))?;
        } else {
            writeln!(out, "{name}")?;
            for (head, figure) in heads.iter().zip(figures) {
                writeln!(out, "{}", wrapped(&below, &format!("{head} {figure}"), columns))?;
            }
        }
        writeln!(out, "{}", wrapped(&below, &row.sentence, columns))?;
    }
    note.iter().try_for_each(|note| writeln!(out, "{}", wrapped(&indent, note, columns)))
}

/// Wraps a text. The first line starts with `start`, the others with as many spaces.
fn wrapped(start: &str, text: &str, columns: usize) -> String {
    let indent = " ".repeat(display_width(start));
    textwrap::fill(text, Options::new(columns).initial_indent(start).subsequent_indent(&indent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(columns: usize) -> String {
        let row = |name: &str, rate: &str, sentence: &str| Row {
            name: name.to_owned(),
            figures: vec![rate.to_owned(), "92.0 %".to_owned()],
            sentence: sentence.to_owned(),
        };
        let report = Report {
            facts: vec![("date", "today, phi3-loader 0.1.0".to_owned())],
            sections: vec![Section {
                title: "Loads".to_owned(),
                heads: vec!["rate", "of limit"],
                rows: vec![
                    row("warm load", "50.12 GB/s", "Loads a file that is in memory."),
                    row("cold load", "812.00 MB/s", "Loads a file from its drive."),
                ],
                note: None,
            }],
        };
        let mut out = Vec::new();
        write(&mut out, &report, columns, Palette::default()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_row_has_one_line_if_it_fits_and_always_outside_a_terminal() {
        let lines = "\
date      today, phi3-loader 0.1.0

Loads               rate  of limit
  warm load   50.12 GB/s    92.0 %  Loads a file that is in memory.
  cold load  812.00 MB/s    92.0 %  Loads a file from its drive.
";
        assert_eq!(text(usize::MAX), lines);
        assert_eq!(text(80), lines);
    }

    #[test]
    fn in_a_narrow_terminal_sentences_have_their_own_lines() {
        let lines = "\
date      today, phi3-loader 0.1.0

Loads               rate  of limit
  warm load   50.12 GB/s    92.0 %
      Loads a file that is in memory.
  cold load  812.00 MB/s    92.0 %
      Loads a file from its drive.
";
        assert_eq!(text(40), lines);
        for columns in [20, 30] {
            let lines = text(columns);
            assert!(lines.lines().all(|line| line.len() <= columns), "{lines}");
            assert!(lines.contains("\n  warm load\n      rate 50.12"), "{lines}");
        }
    }
}
