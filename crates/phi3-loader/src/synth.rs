//! The command `synth`.

use super::args::{Synth, wrong_use};
use super::failure::Failure;
use super::outputs::{self, Output, Prints};
use super::progress::Bar;
use super::stdout;
use super::text::bytes;
use gguf_format::path_text;
use indicatif::MultiProgress;
use loader::CancelToken;
use loader::synth::{self, SynthOptions};
use std::fs;

pub(super) fn run(
    arguments: &Synth,
    quiet: bool,
    bars: &MultiProgress,
    token: &CancelToken,
) -> Result<(), Failure> {
    let out = Output::find("OUT", &arguments.out)?;
    let reports = outputs::check(&[&out], Prints::new(false, quiet))?;
    // If nothing is reported, the file is standard output: the shell has opened it, and perhaps made or emptied it.
    let exists = |old: fs::Metadata| reports || old.len() > 0;
    if !arguments.force && fs::metadata(out.file.path()).is_ok_and(exists) {
        let path = path_text(&arguments.out).to_string();
        let what =
            if reports { path + " exists" } else { "standard output has content".to_owned() };
        return Err(Failure::Usage(wrong_use(what + "; --force replaces it")));
    }
    let bar = Bar::new(bars);
    let options =
        SynthOptions::new(arguments.preset, arguments.layout, arguments.type_mix, arguments.seed);
    let written = synth::write_to(&out.file, &options, &mut |done, bytes| {
        bar.report("writing", done, bytes);
        token.flow()
    });
    drop(bar);
    let len = written?;
    if reports {
        stdout::print(|text| {
            writeln!(text, "wrote     {}, {}", path_text(&arguments.out), bytes(len))
        })?;
    }
    Ok(())
}
