//! The command `verify`.

use super::args::Verify;
use super::color::Palette;
use super::failure::Failure;
use super::json::{self, VerifyFileDocument};
use super::outputs;
use super::progress::Bar;
use super::stdout;
use super::text::{bytes, counted, write_warnings};
use gguf_format::path_text;
use indicatif::MultiProgress;
use loader::{CancelToken, FileReport, VerifyFileOptions, Warning, verify_file};
use std::io::Write;
use std::time::Instant;

/// The largest number of problems that the text shows.
const SHOWN_PROBLEMS: usize = 10;

pub(super) fn run(
    arguments: &Verify,
    bars: &MultiProgress,
    token: &CancelToken,
) -> Result<(), Failure> {
    outputs::check_model(&arguments.file, &[])?;
    let mut options = VerifyFileOptions::default();
    options.digests = arguments.json;
    options.sha256.clone_from(&arguments.sha256);
    let start = Instant::now();
    let bar = Bar::new(bars);
    let progress = |done, bytes| bar.report("verifying", done, bytes);
    let verified = verify_file(&arguments.file, &options, &progress, token);
    drop(bar);
    let (report, seconds) = (verified?, start.elapsed().as_secs_f64());
    let error = report.error();
    if arguments.json {
        json::print(&VerifyFileDocument::new(&arguments.file, &report, error.as_ref(), seconds))?;
    } else {
        stdout::print(|out| write_report(out, arguments, &report, seconds))?;
    }
    error.map_or(Ok(()), |error| Err(error.into()))
}

fn write_report(
    out: &mut dyn Write,
    arguments: &Verify,
    report: &FileReport,
    seconds: f64,
) -> std::io::Result<()> {
    let Palette { good, warning, error, .. } = Palette::stdout();
    let read = report.files.iter().map(|file| file.bytes).sum();
    writeln!(out, "file      {}", path_text(&arguments.file))?;
    if let files @ 2.. = report.files.len() {
        writeln!(out, "shards    {files}")?;
    }
    writeln!(
        out,
        "read      {}, {}, in {seconds:.3} s",
        bytes(read),
        counted(report.tensors.len(), "tensor")
    )?;
    for file in &report.files {
        if let Some(digest) = &file.sha256 {
            writeln!(out, "sha256    {digest}  {}", path_text(&file.path))?;
        }
    }
    write_warnings(out, &report.warnings)?;
    let problems = report.problems();
    for problem in problems.iter().take(SHOWN_PROBLEMS) {
        writeln!(out, "{error}wrong{error:#}     {problem}")?;
    }
    if let more @ 1.. = problems.len().saturating_sub(SHOWN_PROBLEMS) {
        writeln!(out, "          and {more} more; --json lists all")?;
    }
    let is_doubtful = report.warnings.iter().any(|of| matches!(of, Warning::ZeroPart { .. }));
    let (style, result) = match (report.is_ok(), &arguments.sha256) {
        (false, _) => (error, "the file is damaged"),
        (true, Some(_)) => (good, "the file is whole, and has the given sha256"),
        (true, None) if is_doubtful => {
            (warning, "the file may be incomplete; --sha256 proves whether it is")
        }
        (true, None) => {
            (good, "the file is whole; --sha256 also compares it with a published digest")
        }
    };
    writeln!(out, "result    {style}{result}{style:#}")
}
