//! The command `load`.

use super::args::Load;
use super::color::Palette;
use super::dump;
use super::failure::Failure;
use super::json::{self, Event, LastEvent};
use super::out_of_memory;
use super::outputs::{self, Output, Prints};
use super::progress::LoadBar;
use super::signals::Interrupt;
use super::stdout;
use super::store;
use super::text::{bytes, counted, held, memory_bytes, memory_word, rate, write_warnings};
use super::timeline;
use gguf_format::path_text;
use indicatif::MultiProgress;
use loader::{
    CancelToken, LoadEvent, LoadStats, LoadedModel, LoadedPart, Loader, Mismatch, PartStats,
    Resident, codes,
};
use serde::Serialize;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

pub(super) fn run(
    arguments: &Load,
    quiet: bool,
    bars: &MultiProgress,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    if arguments.json {
        out_of_memory::expect_events();
    }
    let mut events = Events { printed: Ok(()), wanted: arguments.json };
    match load(arguments, quiet, bars, interrupt.token(), &mut events) {
        Ok(Loaded { model, .. }) if arguments.json => {
            events.print(&LastEvent::finished(model.stats()));
        }
        Ok(Loaded { model, reports: true }) => {
            stdout::print(|out| write_report(out, &model, arguments))?;
        }
        Ok(_) => {}
        Err(failure) => {
            if let Failure::Load(error) = &failure {
                events.print(&LastEvent::failed(error, interrupt.exit_code(&failure)));
            }
            return Err(failure);
        }
    }
    events.printed
}

/// Prints the events of `--json`. After the first failed write it prints nothing more, but the load
/// continues: a failed write must change neither the load nor its error.
struct Events {
    printed: Result<(), Failure>,
    wanted: bool,
}

impl Events {
    fn print(&mut self, event: &impl Serialize) {
        if self.wanted && self.printed.is_ok() {
            self.printed = json::print(&Event::new(event));
        }
    }
}

struct Loaded {
    model: LoadedModel,
    /// Whether to print the report: standard output is not an output file.
    reports: bool,
}

fn load(
    arguments: &Load,
    quiet: bool,
    bars: &MultiProgress,
    token: &CancelToken,
    events: &mut Events,
) -> Result<Loaded, Failure> {
    // Check the outputs before the load.
    let output = |option, path: &Option<PathBuf>| {
        path.as_deref().map(|path| Output::find(option, path)).transpose()
    };
    let dump = output("--dump", &arguments.dump)?;
    let timeline = output("--timeline", &arguments.timeline)?;
    let outputs: Vec<_> = dump.iter().chain(&timeline).collect();
    let reports = outputs::check(&outputs, Prints::new(arguments.json, quiet))?;
    outputs::check_model(&arguments.file, &outputs)?;

    let mut bar = LoadBar::new(bars);
    let mut observer = |event: &LoadEvent<'_>| {
        bar.event(event);
        if is_printed(event) {
            events.print(event);
        }
        ControlFlow::Continue(())
    };
    // While the store is open, its keeper knows that the weights are used.
    let mut store = arguments.resident.as_deref().map(store::open).transpose()?;
    let mut loader = Loader::new(arguments.options()?);
    let model = match &mut store {
        Some(store) => {
            let mismatch =
                if arguments.resident_reload { Mismatch::Reload } else { Mismatch::Fail };
            loader.load_resident(&arguments.file, &mut **store, mismatch, &mut observer, token)?
        }
        None => loader.load_cancellable(&arguments.file, &mut observer, token)?,
    };
    if let Some(output) = &dump {
        let mut progress = |done, bytes| bar.dumped(done, bytes);
        dump::write(&model, arguments.names, &arguments.file, &output.file, &mut progress, token)?;
    }
    if let Some(output) = &timeline {
        timeline::write(&model.stats().transfer, &output.file)?;
    }
    token.check()?;
    Ok(Loaded { model, reports })
}

/// Returns whether an event is printed when it occurs. The others only update a progress bar, or are printed after
/// the dump.
fn is_printed(event: &LoadEvent<'_>) -> bool {
    use LoadEvent::{Compared, Finished, Transferred};
    !matches!(event, Transferred { .. } | Compared { .. } | Finished { .. })
}

/// The largest number of tensors of one kind that a report names.
const SHOWN_FINDINGS: usize = 5;

/// Writes the tensors whose weights may be wrong.
fn write_findings(
    out: &mut dyn Write,
    findings: &[impl std::fmt::Display],
    help: &str,
) -> std::io::Result<()> {
    let Palette { warning, help: tint, .. } = Palette::stdout();
    for finding in findings.iter().take(SHOWN_FINDINGS) {
        writeln!(out, "{warning}warning{warning:#}   {finding}")?;
    }
    match findings.len() {
        0 => return Ok(()),
        found if found > SHOWN_FINDINGS => {
            writeln!(out, "          and {}", counted(found - SHOWN_FINDINGS, "more tensor"))?;
        }
        _ => {}
    }
    writeln!(out, "          {tint}help{tint:#}: {help}")
}

/// Writes a line for each device.
fn write_devices(out: &mut dyn Write, stats: &LoadStats) -> std::io::Result<()> {
    writeln!(out, "split     {}", stats.split_mode)?;
    for PartStats { device, device_name, vram_bytes, slots, .. } in &stats.parts {
        let (size, content) = (memory_bytes(*vram_bytes), held(slots, stats.split_mode));
        writeln!(out, "{:<9} {size}: {content} ({device_name})", device.to_string())?;
    }
    Ok(())
}

/// Writes where the weights came from, and how long that took.
fn write_source(out: &mut dyn Write, stats: &LoadStats) -> std::io::Result<()> {
    let LoadStats { phases, transfer, .. } = stats;
    let (seconds, context_seconds, transfer_seconds) =
        (phases.seconds, phases.context_seconds, phases.transfer_seconds);
    let key = stats.resident_key.as_deref().unwrap_or_default();
    if stats.resident == Resident::Published {
        writeln!(out, "resident  published as {key}")?;
    }
    if stats.resident == Resident::Attached {
        writeln!(out, "resident  attached to {key}")?;
        writeln!(out, "read      {}: the weights were in memory", bytes(stats.source_bytes))?;
        return writeln!(
            out,
            "time      {seconds:.3} s: {context_seconds:.3} s opening the device, \
             {transfer_seconds:.3} s attaching and verifying"
        );
    }
    writeln!(
        out,
        "read      {} in {} ({}, {})",
        bytes(stats.source_bytes),
        counted(transfer.chunks, "chunk"),
        transfer.io,
        counted(transfer.threads, "thread")
    )?;
    writeln!(
        out,
        "time      {seconds:.3} s: {context_seconds:.3} s opening the device, \
         {transfer_seconds:.3} s transfer at {}",
        rate(stats.gb_per_s())
    )
}

fn write_report(out: &mut dyn Write, model: &LoadedModel, arguments: &Load) -> std::io::Result<()> {
    let stats = model.stats();
    writeln!(out, "loaded    {}", path_text(&arguments.file))?;
    match stats.device.single() {
        Some(device) => writeln!(out, "device    {device} ({})", stats.device_name)?,
        None => write_devices(out, stats)?,
    }
    let memory = memory_word(stats.parts.iter().map(|part| part.device));
    writeln!(out, "{memory:<9} {}", memory_bytes(stats.vram_bytes))?;
    write_source(out, stats)?;
    writeln!(
        out,
        "verified  {} resident on {}",
        counted(stats.proof.residency.pointers_checked, "weight"),
        stats.device
    )?;
    if model.parts().iter().all(LoadedPart::is_protected) {
        writeln!(out, "protected the memory is read-only")?;
    }
    write_warnings(out, &stats.proof.warnings)?;
    write_findings(
        out,
        &stats.proof.all_zero,
        "the file may be incomplete: `phi3-loader verify` checks it; fetch it again",
    )?;
    write_findings(out, &stats.proof.non_finite, codes::NON_FINITE_WEIGHTS.cure)?;
    if let Some(path) = &arguments.dump {
        writeln!(out, "dumped    {}", path_text(path))?;
    }
    if let Some(path) = &arguments.timeline {
        writeln!(out, "timeline  {}, for ui.perfetto.dev", path_text(path))?;
    }
    Ok(())
}
