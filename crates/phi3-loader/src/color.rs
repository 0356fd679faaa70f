//! Colours of the output: the choice of `--color`, and the styles.

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use std::ffi::OsString;
use std::io;

/// The values of `--color`.
pub(super) const WORDS: [&str; 3] = ["auto", "always", "never"];

/// Returns the choice with this name, one of [`WORDS`].
pub(super) fn named(word: &str) -> Option<ColorChoice> {
    let choices = [ColorChoice::Auto, ColorChoice::Always, ColorChoice::Never];
    WORDS.into_iter().zip(choices).find_map(|(name, choice)| (name == word).then_some(choice))
}

/// Finds `--color` in a command line that cannot be parsed, for its error, or that asks for help.
pub(super) fn asked(arguments: impl Iterator<Item = OsString>) -> Option<ColorChoice> {
    let mut words = arguments.map_while(|word| word.into_string().ok().filter(|word| word != "--"));
    let mut value = None;
    while let Some(word) = words.next() {
        match word.strip_prefix("--color") {
            Some("") => value = words.next(),
            Some(of) => value = of.strip_prefix('=').map(str::to_owned).or(value),
            None => {}
        }
    }
    named(&value?)
}

/// Returns whether standard error shows colours.
pub(super) fn on_stderr() -> bool {
    AutoStream::choice(&io::stderr()) != ColorChoice::Never
}

/// The styles of an output stream. If it shows no colours, they print nothing.
#[derive(Clone, Copy, Default)]
pub(super) struct Palette {
    pub(super) heading: Style,
    pub(super) good: Style,
    pub(super) warning: Style,
    pub(super) error: Style,
    pub(super) help: Style,
    pub(super) bar: Style,
}

impl Palette {
    /// Returns the styles of standard output.
    pub(super) fn stdout() -> Self {
        Self::of(AutoStream::choice(&io::stdout()) != ColorChoice::Never)
    }

    /// Returns the styles of standard error.
    pub(super) fn stderr() -> Self {
        Self::of(on_stderr())
    }

    fn of(shows_colors: bool) -> Self {
        if !shows_colors {
            return Self::default();
        }
        let bold = |color: AnsiColor| color.on_default().bold();
        Self {
            heading: Style::new().bold(),
            good: bold(AnsiColor::Green),
            warning: bold(AnsiColor::Yellow),
            error: bold(AnsiColor::Red),
            help: bold(AnsiColor::Cyan),
            bar: AnsiColor::Cyan.on_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_choice_before_the_end_of_options_counts() {
        for (arguments, choice) in [
            ("load --color never --color=always", Some(ColorChoice::Always)),
            ("--color auto x", Some(ColorChoice::Auto)),
            ("--color=never -- --color=always", Some(ColorChoice::Never)),
            ("load --colors=always --color", None),
            ("--color=blue", None),
            ("", None),
        ] {
            assert_eq!(asked(arguments.split(' ').map(OsString::from)), choice, "{arguments}");
        }
    }
}
