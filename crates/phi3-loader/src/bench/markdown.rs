//! Writes a report as Markdown, for an issue or a wiki.

use super::report::{Report, Section};
use std::fmt::{Result, Write};

/// Writes tables with columns as in the text, below the command that repeats the run.
pub(super) fn write(
    command: &str,
    report: &Report,
) -> std::result::Result<String, std::fmt::Error> {
    let mut out = String::new();
    writeln!(out, "```sh\n{command}\n```\n")?;
    row(&mut out, [""; 2])?;
    row(&mut out, ["---"; 2])?;
    report.facts.iter().try_for_each(|(name, fact)| row(&mut out, [name, fact.as_str()]))?;
    report.sections.iter().try_for_each(|section| write_section(&mut out, section))?;
    Ok(out)
}

fn write_section(out: &mut String, section: &Section) -> Result {
    let Section { title, heads, rows, note } = section;
    writeln!(out, "\n### {title}\n")?;
    row(out, [""].iter().chain(heads).chain(&[""]))?;
    row(out, ["---"].iter().chain(heads.iter().map(|_| &"--:")).chain(&["---"]))?;
    for entry in rows {
        let figures = entry.figures.iter().map(String::as_str);
        row(
            out,
            [entry.name.as_str()].into_iter().chain(figures).chain([entry.sentence.as_str()]),
        )?;
    }
    note.iter().try_for_each(|note| writeln!(out, "\n{}", escaped(note)))
}

fn row(out: &mut String, cells: impl IntoIterator<Item: AsRef<str>>) -> Result {
    out.push('|');
    cells.into_iter().try_for_each(|cell| write!(out, " {} |", escaped(cell.as_ref())))?;
    writeln!(out)
}

/// Escapes the ASCII characters that Markdown could interpret within a line.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if r"\`*_[]<>|&~#$".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::report::Row;
    use super::*;

    #[test]
    fn a_report_has_a_table_for_each_section() {
        let report = Report {
            facts: vec![("file", "a|b.gguf".to_owned())],
            sections: vec![Section {
                title: "Loads".to_owned(),
                heads: vec!["rate"],
                rows: vec![Row {
                    name: "warm load".to_owned(),
                    figures: vec!["1.00 GB/s".to_owned()],
                    sentence: "Loads <it>.".to_owned(),
                }],
                note: Some("All of it.".to_owned()),
            }],
        };
        let text = "\
```sh
phi3-loader bench 'a|b.gguf'
```

|  |  |
| --- | --- |
| file | a\\|b.gguf |

### Loads

|  | rate |  |
| --- | --: | --- |
| warm load | 1.00 GB/s | Loads \\<it\\>. |

All of it.
";
        assert_eq!(write("phi3-loader bench 'a|b.gguf'", &report).unwrap(), text);
    }
}
