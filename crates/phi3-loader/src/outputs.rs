//! Checks the files that a command reads, writes and prints to: an output must not be the same file as
//! another one of them.

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
use std::path::{Path, PathBuf};

/// The identity of a file, independent of the path.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    File {
        device: u64,
        inode: u64,
    },
    /// A file that does not exist yet: its folder, and its name in the folder.
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

/// A file, and its name in messages.
#[derive(Debug)]
pub(super) struct Named {
    name: String,
    place: Place,
}

impl Named {
    /// Returns a file that the command reads; `None` if it does not exist.
    pub(super) fn input(what: &str, path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Self::of(what, path, Place::of(&metadata)))
    }

    /// Returns all files of a model.
    pub(super) fn shards(gguf: &GgufFile) -> impl Iterator<Item = Self> {
        let shards = gguf.shards().iter();
        shards.map(|shard| Self::of("the model", shard.path(), Place::of(shard.opened_as())))
    }

    fn of(what: &str, path: &Path, place: Place) -> Self {
        Self { name: format!("{what} {}", path_text(path)), place }
    }

    /// Returns the file behind a stream. `None` for a terminal, a pipe or a device: printing to them changes no
    /// file.
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

/// An output file from the command line.
#[derive(Debug)]
pub(super) struct Output {
    named: Named,
    pub(super) file: OutputFile,
}

impl Output {
    /// Finds the output file for the value of an option; `-` is standard output.
    pub(super) fn find(option: &str, path: &Path) -> Result<Self, Error> {
        let file = match path.to_str() {
            Some("-") => OutputFile::standard_output()?,
            _ => OutputFile::find(path)?,
        };
        let place = Place::of_output(&file).map_err(|error| file.failed(error))?;
        Ok(Self { named: Named::of(option, path, place), file })
    }
}

/// The kind of output that a command prints to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prints {
    /// The JSON that `--json` requests.
    Json,
    Report,
    /// A report that is omitted if standard output is an output file.
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

/// Fails if two outputs are the same file, or if messages or results would be printed to an output file.
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
                Prints::Json => apart("; --json prints there")?,
                Prints::Report => apart("; use --quiet to print nothing else there")?,
                Prints::QuietReport => printed &= apart("").is_ok(),
            }
        }
    }
    Ok(printed)
}

/// Fails if standard error is a file of the model. Call this before anything can print a message, because the
/// message would be written into that file.
pub(super) fn check_standard_error(model: &Path) -> Result<(), Failure> {
    if standard_error().is_none() {
        return Ok(());
    }
    keep_messages_from(&Named::input("the model", model))?;
    // If the model cannot be opened, the command itself reports why.
    let gguf = Loader::new(LoadOptions::new()).inspect(model).ok();
    gguf.map_or(Ok(()), |gguf| keep_messages_from(&Named::shards(&gguf).collect::<Vec<_>>()))
}

/// Fails if standard error is one of these files.
fn keep_messages_from<'a>(inputs: impl IntoIterator<Item = &'a Named>) -> Result<(), Failure> {
    let Some(stream) = standard_error() else { return Ok(()) };
    let is_read = inputs.into_iter().any(|input| input.place == stream.place);
    if is_read { Err(Failure::StandardErrorIsRead) } else { Ok(()) }
}

/// Fails if an output, standard output or standard error is a file that the command reads.
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

/// Checks like [`check_inputs`] the files of a model that is not open yet.
pub(super) fn check_model(model: &Path, outputs: &[&Output]) -> Result<(), Failure> {
    if outputs.is_empty() && standard_output().is_none() {
        return Ok(());
    }
    // Check the file before reading its header: a file whose header cannot be read must not be replaced either.
    check_inputs(Named::input("the model", model), outputs)?;
    let gguf = Loader::new(LoadOptions::new()).inspect(model)?;
    check_inputs(Named::shards(&gguf), outputs)
}

/// Checks like [`check_inputs`] that standard output is not a file of one of these models. If a model cannot be
/// opened, the command itself reports why.
pub(super) fn check_models(models: &[PathBuf]) -> Result<(), Failure> {
    let checks = models.iter().map(|model| check_model(model, &[]));
    checks.filter(|result| !matches!(result, Err(Failure::Load(_)))).collect()
}
