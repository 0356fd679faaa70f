//! `load`.

use super::args::Load;
use super::dump;
use super::failure::Failure;
use super::json::{
    self, AllZeroDocument, Event, EventKind, FileName, MemoryDocument, NonFiniteDocument,
    ResidencyDocument, WarningDocument,
};
use super::out_of_memory;
use super::outputs::{self, Output, Prints};
use super::plan::{config_document, storage_name, write_warnings};
use super::progress::LoadBar;
use super::signals::Interrupt;
use super::stdout;
use super::text::bytes;
use super::timeline;
use crate::cancel::CancelToken;
use crate::codes;
use crate::error::{Error, SHOWN_TENSORS};
use crate::event::LoadEvent;
use crate::loader::Loader;
use crate::model::{LoadStats, LoadedModel};
use crate::path_text::path_text;
use cuda_sys::Io;
use indicatif::MultiProgress;
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
        Ok(Loaded { model, .. }) if arguments.json => events.print(finished(model.stats())),
        Ok(Loaded { model, reports: true }) => {
            stdout::print(|out| write_report(out, &model, arguments))?;
        }
        Ok(_) => {}
        Err(failure) => {
            if let Failure::Load(error) = &failure {
                events.print(failed(error, interrupt.exit_code(&failure)));
            }
            return Err(failure);
        }
    }
    events.printed
}

/// What `--json` prints. After the first failure it prints nothing more and the load goes on: what a
/// load does, and what it fails with, must not depend on who listens.
struct Events {
    printed: Result<(), Failure>,
    wanted: bool,
}

impl Events {
    fn print(&mut self, kind: EventKind<'_>) {
        if self.wanted && self.printed.is_ok() {
            self.printed = json::print(&Event::new(kind));
        }
    }
}

struct Loaded {
    model: LoadedModel,
    /// Whether standard output is for results, and no output file.
    reports: bool,
}

fn load(
    arguments: &Load,
    quiet: bool,
    bars: &MultiProgress,
    token: &CancelToken,
    events: &mut Events,
) -> Result<Loaded, Failure> {
    // What is wrong with the outputs is said before anything is loaded.
    let output = |option, path: &Option<PathBuf>| {
        path.as_deref().map(|path| Output::find(option, path)).transpose()
    };
    let dump = output("--dump", &arguments.dump)?;
    let timeline = output("--timeline", &arguments.timeline)?;
    let outputs: Vec<_> = dump.iter().chain(&timeline).collect();
    let reports = outputs::check(&outputs, Prints::new(arguments.json, quiet))?;
    outputs::check_model(&arguments.file, &outputs)?;

    let bar = LoadBar::new(bars, quiet || arguments.json);
    let mut observer = |event: &LoadEvent<'_>| {
        bar.event(event);
        if let Some(kind) = event_json(event) {
            events.print(kind);
        }
        ControlFlow::Continue(())
    };
    let model =
        Loader::new(arguments.options()).load_cancellable(&arguments.file, &mut observer, token)?;
    if let Some(output) = &dump {
        dump::write(&model, &output.file, token)?;
    }
    if let Some(output) = &timeline {
        timeline::write(&model.stats().timeline, &output.file)?;
    }
    token.check()?;
    Ok(Loaded { model, reports })
}

/// `None` for events that are for drawing a bar, and for the last one, which waits for the dump.
fn event_json<'a>(event: &LoadEvent<'a>) -> Option<EventKind<'a>> {
    Some(match *event {
        LoadEvent::Opened { path, config } => {
            EventKind::Opened { file: FileName::new(path), config: config_document(config) }
        }
        LoadEvent::Warned { warning } => {
            EventKind::Warning { warning: WarningDocument::new(warning) }
        }
        LoadEvent::Planned { plan } => EventKind::Planned {
            storage: storage_name(plan.storage()),
            vram_bytes: plan.device_bytes(),
            source_bytes: plan.source_bytes(),
        },
        LoadEvent::Allocated { device, device_name, bytes } => {
            EventKind::Allocated { device: device.to_string(), device_name, bytes }
        }
        LoadEvent::Progress { unit, of, label, bytes } => {
            EventKind::Progress { unit, of, label, bytes }
        }
        LoadEvent::Verified { residency } => {
            EventKind::Verified { pointers_checked: residency.pointers_checked, ok: true }
        }
        LoadEvent::Transferred { .. } | LoadEvent::Finished { .. } => return None,
    })
}

pub(super) fn finished(stats: &LoadStats) -> EventKind<'_> {
    EventKind::Finished {
        vram_bytes: stats.vram_bytes,
        source_bytes: stats.source_bytes,
        seconds: stats.seconds,
        context_seconds: stats.context_seconds,
        transfer_seconds: stats.transfer_seconds,
        parse_seconds: stats.parse_seconds,
        plan_seconds: stats.plan_seconds,
        pin_seconds: stats.pin_seconds,
        allocate_seconds: stats.allocate_seconds,
        prepare_seconds: stats.prepare_seconds,
        verify_seconds: stats.verify_seconds,
        gb_per_s: stats.gb_per_s(),
        device: stats.device.to_string(),
        device_name: &stats.device_name,
        io: io_name(stats.io),
        threads: stats.threads,
        depth: stats.depth,
        chunk_bytes: stats.chunk_bytes,
        read_bytes: stats.read_bytes,
        pinned: stats.pinned,
        residency: ResidencyDocument {
            pointers_checked: stats.residency.pointers_checked,
            ok: true,
        },
        memory: MemoryDocument {
            free_before_bytes: stats.memory.map(|memory| memory.free_before),
            free_after_bytes: stats.memory.map(|memory| memory.free_after),
            total_bytes: stats.memory.map(|memory| memory.total),
        },
        non_finite: stats
            .non_finite
            .iter()
            .map(|tensor| NonFiniteDocument {
                tensor: &tensor.tensor,
                infinite: tensor.infinite,
                nan: tensor.nan,
                format: tensor.format.ggml_type().name(),
            })
            .collect(),
        warnings: stats.warnings.iter().map(WarningDocument::new).collect(),
        all_zero: stats
            .all_zero
            .iter()
            .map(|tensor| AllZeroDocument { tensor: &tensor.tensor, bytes: tensor.bytes })
            .collect(),
    }
}

fn failed(error: &Error, exit_code: u8) -> EventKind<'_> {
    EventKind::Failed {
        code: error.code(),
        class: error.class().name(),
        message: error.to_string(),
        retriable: error.retriable(),
        help: error.help(),
        exit_code,
    }
}

pub(super) fn io_name(io: Io) -> &'static str {
    match io {
        Io::Read => "read",
        Io::Mapped => "mmap",
        Io::Direct => "direct",
        Io::Auto => "auto",
    }
}

/// What was found out about the weights of single tensors.
fn write_findings(
    out: &mut dyn Write,
    findings: &[impl std::fmt::Display],
    help: &str,
) -> std::io::Result<()> {
    for finding in findings.iter().take(SHOWN_TENSORS) {
        writeln!(out, "warning   {finding}")?;
    }
    match findings.len() {
        0 => return Ok(()),
        found if found > SHOWN_TENSORS => {
            writeln!(out, "          {} more tensors likewise", found - SHOWN_TENSORS)?;
        }
        _ => {}
    }
    writeln!(out, "          help: {help}")
}

fn write_report(out: &mut dyn Write, model: &LoadedModel, arguments: &Load) -> std::io::Result<()> {
    let stats = model.stats();
    writeln!(out, "loaded    {}", path_text(&arguments.file))?;
    writeln!(out, "device    {} ({})", stats.device, stats.device_name)?;
    writeln!(out, "VRAM      {}", bytes(stats.vram_bytes))?;
    writeln!(
        out,
        "read      {} in {} chunks ({}, {} threads)",
        bytes(stats.source_bytes),
        stats.chunks,
        io_name(stats.io),
        stats.threads
    )?;
    writeln!(
        out,
        "time      {:.3} s: {:.3} s opening the device, {:.3} s transfer at {:.2} GB/s",
        stats.seconds,
        stats.context_seconds,
        stats.transfer_seconds,
        stats.gb_per_s()
    )?;
    writeln!(
        out,
        "verified  {} weights resident on {}",
        stats.residency.pointers_checked, stats.device
    )?;
    write_warnings(out, &stats.warnings)?;
    write_findings(out, &stats.all_zero, "the file may be unfinished: fetch it again")?;
    write_findings(out, &stats.non_finite, codes::NON_FINITE_WEIGHTS.cure)?;
    if let Some(path) = &arguments.dump {
        writeln!(out, "dumped    {}", path_text(path))?;
    }
    Ok(())
}
