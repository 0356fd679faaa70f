//! The files that a command reads, writes and prints to. An output must not be the same file as another
//! of them.

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

/// Identifies a file, whichever path leads to it.
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
    /// A file that is read; `None` if it does not exist.
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

    /// `None` for a terminal, a pipe or a device, because printing to them changes no file.
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
    /// The value of the option; `-` is standard output.
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
    /// The JSON that `--json` requests.
    Json,
    Report,
    /// A report. It is not printed if standard output is an output file.
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

/// Refuses two outputs that are the same file, and an output file that messages or results are also
/// printed to. Returns whether results are printed.
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

/// Refuses a standard error that is a file of the model. Call this before anything that can print a
/// message, because the message would be written into that file.
pub(super) fn check_standard_error(model: &Path) -> Result<(), Failure> {
    if standard_error().is_none() {
        return Ok(());
    }
    keep_messages_from(&Named::input("the model", model))?;
    // If the model cannot be opened, the command itself reports why.
    let gguf = Loader::new(LoadOptions::new()).inspect(model).ok();
    gguf.map_or(Ok(()), |gguf| keep_messages_from(&Named::shards(&gguf).collect::<Vec<_>>()))
}

/// Refuses a standard error that is one of these files.
fn keep_messages_from<'a>(inputs: impl IntoIterator<Item = &'a Named>) -> Result<(), Failure> {
    let Some(stream) = standard_error() else { return Ok(()) };
    let is_read = inputs.into_iter().any(|input| input.place == stream.place);
    if is_read { Err(Failure::StandardErrorIsRead) } else { Ok(()) }
}

/// Refuses outputs, standard output and standard error if one of them is a file that is read.
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

/// The same check for a model that is not open yet.
pub(super) fn check_model(model: &Path, outputs: &[&Output]) -> Result<(), Failure> {
    if outputs.is_empty() && standard_output().is_none() {
        return Ok(());
    }
    // This check comes before the header is read: if the header cannot be read, the file must still not
    // be replaced.
    check_inputs(Named::input("the model", model), outputs)?;
    let gguf = Loader::new(LoadOptions::new()).inspect(model)?;
    check_inputs(Named::shards(&gguf), outputs)
}
