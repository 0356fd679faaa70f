//! `synth`.

use super::args::Synth;
use super::failure::Failure;
use super::progress::style;
use super::signals::cancelled_by_signal;
use super::text::bytes;
use crate::synth::{self, SynthOptions};
use indicatif::{MultiProgress, ProgressBar};
use std::io::Write;

pub(super) fn run(arguments: &Synth, quiet: bool, bars: &MultiProgress) -> Result<(), Failure> {
    let token = cancelled_by_signal();
    let bar = if quiet { ProgressBar::hidden() } else { bars.add(ProgressBar::new(0)) };
    bar.set_style(style("writing {wide_bar} {decimal_bytes}/{decimal_total_bytes} {eta}"));
    let options =
        SynthOptions::new(arguments.preset, arguments.layout, arguments.type_mix, arguments.seed);
    let written = synth::write(&arguments.out, &options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        token.flow()
    });
    bar.finish_and_clear();
    let len = written?;
    writeln!(std::io::stdout(), "wrote     {}, {}", arguments.out.display(), bytes(len))?;
    Ok(())
}
