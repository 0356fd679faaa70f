//! The command `bench`: measures loads and the limits of the machine in one run.

mod chart;
mod child;
mod document;
mod health;
mod kernels;
mod limits;
mod loads;
mod machine;
mod markdown;
mod page_cache;
mod peers;
mod reading;
mod report;
mod several;
mod shapes;
mod small_tensors;
mod steps;
mod storage_reads;
mod table;

use super::args::{self, Bench};
use super::color::Palette;
use super::device_list::DeviceList;
use super::failure::Failure;
use super::json;
use super::outputs::{self, Named, Output, Prints};
use super::placement;
use super::stdout;
use cuda_sys::{Device, DeviceKind};
use document::{BenchDocument, FileFacts, Limit, LoadFigures, Settings};
use gguf_format::path_text;
use indicatif::MultiProgress;
use loader::{CancelToken, Error, Loader};
use reading::Unread;
use report::Report;
use several::Several;
use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use steps::{Step, Steps};
use storage_reads::StorageReads;

pub(super) fn run(
    mut arguments: Bench,
    quiet: bool,
    bars: &MultiProgress,
    token: &CancelToken,
) -> Result<(), Failure> {
    // Only some measurements are of all devices. The others are of the first one.
    let list = arguments.choices.device.clone();
    arguments.choices.device = list.first();
    let arguments = &arguments;
    let find = |option, path: &Option<PathBuf>| {
        path.as_deref().map(|path| Output::find(option, path)).transpose()
    };
    let svg = find("--svg", &arguments.svg)?;
    let markdown = find("--markdown", &arguments.markdown)?;
    let outputs: Vec<_> = svg.iter().chain(&markdown).collect();
    let reports = outputs::check(&outputs, Prints::new(arguments.json, quiet))?;
    let programs = [
        ("--python", arguments.python.as_ref()),
        ("--safetensors", arguments.safetensors.as_ref()),
        ("--llama-bench", arguments.llama_bench.as_ref()),
    ];
    let inputs = programs.into_iter().filter_map(|(option, path)| Named::input(option, path?));
    outputs::check_inputs(inputs, &outputs)?;
    outputs::check_model(&arguments.file, &outputs)?;
    peers::check(arguments, token)?;

    if let Some(via) = &arguments.via {
        placement::helpers(&arguments.choices.device, via)?;
    }
    let document = measure(arguments, &list, &Steps::new(arguments, bars), token)?;
    let report = Report::new(&arguments.file, &document);
    // Print the results before writing files, so that they are not lost if a file cannot be written.
    let printed = if arguments.json {
        json::print(&document)
    } else if reports {
        stdout::print(|out| table::write(out, &report, columns(), Palette::stdout()))
            .map_err(Failure::from)
    } else {
        Ok(())
    };
    let write = |output: &Output, text: io::Result<String>| -> Result<(), Failure> {
        let failed = |error| output.file.failed(error);
        let text = text.map_err(failed)?;
        let write = |mut out: &File| out.write_all(text.as_bytes()).map_err(failed);
        Ok(output.file.write(text.len() as u64, write)?)
    };
    let drawn = svg.map_or(Ok(()), |out| write(&out, chart::draw(&arguments.file, &document)));
    let listed = markdown.map_or(Ok(()), |out| {
        write(&out, markdown::write(&document.command, &report).map_err(io::Error::other))
    });
    printed.and(drawn).and(listed)
}

/// Returns the width of the terminal to which results are printed, in columns.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    size.ok().map(|size| size.ws_col.into()).filter(|&columns| columns > 0).unwrap_or(usize::MAX)
}

/// Returns the command line of this process, quoted for a shell.
fn command_line() -> String {
    let arguments = std::env::args_os().skip(1).map(|argument| {
        let text = path_text(argument.as_ref()).to_string();
        shlex::try_quote(&text).map_or_else(|_| text.clone(), Cow::into_owned)
    });
    std::iter::once("phi3-loader".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// Returns the command that loads the file in a new process. Removes the program's environment variables: a
/// limit in one of them would apply to this load and not to the rest of `bench`.
fn load_command(
    file: &Path,
    arguments: impl IntoIterator<Item: AsRef<OsStr>>,
) -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("load").args(arguments).arg("--").arg(file);
    for name in args::variables() {
        command.env_remove(name);
    }
    Ok(command)
}

/// Runs all measurements. The order matters: the loads run before this process opens the device, so that their
/// processes start in the same state as a user's.
fn measure(
    arguments: &Bench,
    list: &DeviceList,
    steps: &Steps,
    token: &CancelToken,
) -> Result<BenchDocument, Failure> {
    let options = arguments.choices.options();
    // Report a malformed file before the first load.
    let loader = Loader::new(options.clone());
    let planned = loader.plan(&arguments.file)?;
    let gguf = loader.inspect(&arguments.file)?;
    let files: Vec<_> = gguf.shards().iter().map(|shard| shard.path().to_owned()).collect();

    let several = Several::of(list, &gguf, arguments.choices.storage)?;
    let several = several.as_ref();
    let (mut loads, mut limits) = measure_loads(arguments, several, &files, steps, token)?;
    steps.start(Step::Health);
    let health = health::measure(arguments, token)?;
    let unread = |error: Unread| error.of(&arguments.file);
    steps.start(Step::Limits);
    let readers = several.and(loads.iter().map(|load| load.threads).max());
    let readers = readers.and_then(|readers| u32::try_from(readers).ok());
    limits.extend(limits::page_cache(arguments, &files, readers, token).map_err(unread)?);

    let device = Device::open(options.devices[0].resolve()).map_err(Error::from)?;
    limits.extend(limits::device(arguments, &device, token)?);
    if let Some(several) = several {
        limits.extend(several.links(arguments.repeat)?);
    }
    steps.start(Step::SmallTensors);
    let small_tensors = small_tensors::measure(arguments, &device, &files[0], token)?;
    steps.start(Step::Shapes);
    let shapes = shapes::measure(arguments, &device, &planned.plan, token)?;
    steps.start(Step::Kernels);
    let kernels =
        if arguments.kernels { kernels::measure(arguments, &device, token)? } else { Vec::new() };
    let machine = machine::describe(&device)?;
    let kind = device.kind();
    drop(device);

    let reference = limits::best(&limits, kind);
    for load in loads.iter_mut().filter(|load| load.device == kind.to_string()) {
        load.hold_against(reference.as_ref());
    }
    let transfer = loads[0].seconds_of("transfer");
    steps.start(Step::Peers);
    let peers = if arguments.peers {
        peers::measure(arguments, kind, planned.plan.source_bytes(), transfer, token)?
    } else {
        Vec::new()
    };
    Ok(BenchDocument {
        schema_version: json::SCHEMA_VERSION,
        command: command_line(),
        machine,
        file: FileFacts::of(&arguments.file, &gguf, planned.plan.whole()),
        settings: Settings::of(kind, arguments),
        limits,
        reference,
        loads,
        small_tensors,
        shapes,
        health,
        kernels,
        peers,
    })
}

/// Measures loads from the page cache and from storage, and by turns with the latter the limits of the
/// storage. Loads from storage empty the page cache, which is filled again after them.
fn measure_loads(
    arguments: &Bench,
    several: Option<&Several>,
    files: &[PathBuf],
    steps: &Steps,
    token: &CancelToken,
) -> Result<(Vec<LoadFigures>, Vec<Limit>), Failure> {
    let unread = |error: Unread| error.of(&arguments.file);
    steps.start(Step::Warm);
    page_cache::fill(files, token).map_err(unread)?;
    let mut loads = loads::warm(arguments, several, files, steps, token)?;
    let warm = loads.len();
    let mut from_storage = loads::FromStorage::default();
    let mut storage = StorageReads::open(arguments, files).map_err(|error| unread(error.into()))?;
    for run in 0..arguments.repeat {
        steps.start_run(Step::Storage, run as usize + 1, arguments.repeat as usize);
        if arguments.cold {
            from_storage.add(arguments, files, token)?;
        }
        storage.add(run, token).map_err(unread)?;
    }
    if arguments.cold {
        loads.extend(from_storage.figures(&arguments.choices));
    }
    steps.start(Step::Reused);
    page_cache::fill(files, token).map_err(unread)?;
    loads.splice(warm..warm, loads::reused(arguments, files, steps, token)?);
    if arguments.resident {
        loads.push(loads::attached(arguments, files, steps, token)?);
    }
    Ok((loads, storage.limits()))
}

/// Returns the number of cores that this process can use.
fn cores() -> u32 {
    std::thread::available_parallelism()
        .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

fn is_gpu(kind: DeviceKind) -> bool {
    matches!(kind, DeviceKind::Cuda(_))
}
