//! Files that a command reads, writes and prints to: no output may be another of them.

use super::args;
use super::failure::Failure;
use gguf_format::{GgufFile, path_text};
use loader::{Error, LoadOptions, Loader, OutputFile};
use rustix::fs::FileType;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What tells a file from all others, whatever paths lead to it.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    File {
        device: u64,
        inode: u64,
    },
    /// No file yet: the folder, and the name in it.
    New {
        device: u64,
        inode: u64,
        name: OsString,
    },
}

impl Place {
    fn of(metadata: &Metadata) -> Self {
        Self::File { device: metadata.dev(), inode: metadata.ino() }
    }

    fn of_output(file: &OutputFile) -> io::Result<Self> {
        if let Ok(metadata) = fs::metadata(file.path()) {
            return Ok(Self::of(&metadata));
        }
        let folder = fs::metadata(file.folder())?;
        let name = file.path().file_name().unwrap_or_default().to_owned();
        Ok(Self::New { device: folder.dev(), inode: folder.ino(), name })
    }
}

/// A file, and what messages call it.
#[derive(Debug)]
pub(super) struct Named {
    name: String,
    place: Place,
}

impl Named {
    /// A file that is read; `None` where there is none.
    pub(super) fn input(what: &str, path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Self::of(what, path, Place::of(&metadata)))
    }

    /// All files of a model.
    pub(super) fn shards(gguf: &GgufFile) -> impl Iterator<Item = Self> {
        let shards = gguf.shards().iter();
        shards.map(|shard| Self::of("the model", shard.path(), Place::of(shard.opened_as())))
    }

    fn of(what: &str, path: &Path, place: Place) -> Self {
        Self { name: format!("{what} {}", path_text(path)), place }
    }

    /// `None` for a terminal, a pipe or a device: what is printed there changes no file.
    fn stream(name: &str, stream: impl AsFd) -> Option<Self> {
        let stat = rustix::fs::fstat(stream).ok()?;
        let place = Place::File { device: stat.st_dev, inode: stat.st_ino };
        (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
            .then(|| Self { name: name.to_owned(), place })
    }

    fn apart_from(&self, other: &Self, cure: &str) -> Result<(), Failure> {
        if self.place != other.place {
            return Ok(());
        }
        let message = format!("{} and {} are the same file{cure}", self.name, other.name);
        Err(Failure::Usage(args::wrong_use(message)))
    }
}

fn standard_output() -> Option<Named> {
    Named::stream("standard output", io::stdout())
}

fn standard_error() -> Option<Named> {
    Named::stream("standard error", io::stderr())
}

/// An output file that the command line names.
#[derive(Debug)]
pub(super) struct Output {
    named: Named,
    pub(super) file: OutputFile,
}

impl Output {
    /// The value of an option; `-` is standard output.
    pub(super) fn find(option: &str, path: &Path) -> Result<Self, Error> {
        let file = match path.to_str() {
            Some("-") => OutputFile::standard_output()?,
            _ => OutputFile::find(path)?,
        };
        let place = Place::of_output(&file).map_err(|error| file.failed(error))?;
        Ok(Self { named: Named::of(option, path, place), file })
    }
}

/// What a command prints to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prints {
    /// What `--json` asks for.
    Json,
    Report,
    /// A report, unless standard output is an output file.
    QuietReport,
}

impl Prints {
    pub(super) fn new(json: bool, quiet: bool) -> Self {
        match (json, quiet) {
            (true, _) => Self::Json,
            (false, true) => Self::QuietReport,
            (false, false) => Self::Report,
        }
    }
}

/// Refuses outputs that are the same file, or one that messages or results are printed to as well.
/// Returns whether results are printed.
pub(super) fn check(outputs: &[&Output], prints: Prints) -> Result<bool, Failure> {
    let mut printed = true;
    for (index, output) in outputs.iter().enumerate() {
        for other in &outputs[index + 1..] {
            output.named.apart_from(&other.named, "")?;
        }
        if let Some(stream) = standard_error() {
            output.named.apart_from(&stream, "")?;
        }
        if let Some(stream) = standard_output() {
            let apart = |cure| output.named.apart_from(&stream, cure);
            match prints {
                Prints::Json => apart(", to which --json prints")?,
                Prints::Report => apart("; with --quiet nothing else is printed there")?,
                Prints::QuietReport => printed &= apart("").is_ok(),
            }
        }
    }
    Ok(printed)
}

/// Refuses a standard error that is a file of the model. This comes before anything that may print a
/// message, which would be written into that file.
pub(super) fn check_standard_error(model: &Path) -> Result<(), Failure> {
    if standard_error().is_none() {
        return Ok(());
    }
    keep_messages_from(&Named::input("the model", model))?;
    // The command itself reports why a model cannot be opened.
    let gguf = Loader::new(LoadOptions::new()).inspect(model).ok();
    gguf.map_or(Ok(()), |gguf| keep_messages_from(&Named::shards(&gguf).collect::<Vec<_>>()))
}

/// Refuses a standard error that is one of these files.
fn keep_messages_from<'a>(inputs: impl IntoIterator<Item = &'a Named>) -> Result<(), Failure> {
    let Some(stream) = standard_error() else { return Ok(()) };
    let is_read = inputs.into_iter().any(|input| input.place == stream.place);
    if is_read { Err(Failure::StandardErrorIsRead) } else { Ok(()) }
}

/// Refuses outputs, and standard output and error, that are a file which is read.
pub(super) fn check_inputs(
    inputs: impl IntoIterator<Item = Named>,
    outputs: &[&Output],
) -> Result<(), Failure> {
    let inputs: Vec<_> = inputs.into_iter().collect();
    keep_messages_from(&inputs)?;
    let stream = standard_output();
    for input in &inputs {
        for written in outputs.iter().map(|output| &output.named).chain(&stream) {
            written.apart_from(input, "")?;
        }
    }
    Ok(())
}

/// Refuses the same of a model that is not open yet.
pub(super) fn check_model(model: &Path, outputs: &[&Output]) -> Result<(), Failure> {
    if outputs.is_empty() && standard_output().is_none() {
        return Ok(());
    }
    // Before the header is read: a file that cannot be is no reason to replace it.
    check_inputs(Named::input("the model", model), outputs)?;
    let gguf = Loader::new(LoadOptions::new()).inspect(model)?;
    check_inputs(Named::shards(&gguf), outputs)
}
