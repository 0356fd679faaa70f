//! The command line: commands, options and their values.

use crate::color;
use crate::completions::{
    command_name, device_list, gguf_file, gpu_list, resident_key, socket, store,
};
use crate::device_list::DeviceList;
use crate::dump::Names;
use crate::failure::Failure;
use crate::placement::{self, PlacementRequest};
use crate::version;
use anstream::ColorChoice;
use clap::builder::{
    BoolishValueParser, NonEmptyStringValueParser, PathBufValueParser, PossibleValue,
    PossibleValuesParser, Resettable, TypedValueParser,
};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgGroup, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use cuda_sys::EngineConfig;
use gguf_format::escape;
use globset::{Glob, GlobMatcher};
use loader::{Io, LoadOptions};
use model_phi3::preset::{Layout, Preset, TypeMix};
use model_phi3::{KvDtype, SplitMode, Storage};
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::slice;
use std::str::FromStr;

const EXAMPLES: &str = "\
Examples:
  phi3-loader inspect Phi-3-mini-4k-instruct-q4.gguf
  phi3-loader inspect model.gguf --tensors 'blk.0.*'
  phi3-loader inspect model.gguf --key tokenizer.chat_template > template.jinja
  phi3-loader plan Phi-3-mini-4k-instruct-q4.gguf --storage native
  phi3-loader load Phi-3-mini-4k-instruct-fp16.gguf --device cuda:0
  phi3-loader load model.gguf --device host --dump weights.safetensors
  phi3-loader verify model.gguf
  phi3-loader load model.gguf --device cuda:0,cuda:1 --split-mode tensor
  phi3-loader synth big.gguf --preset mini-4k --type f16
  phi3-loader bench big.gguf --cold --kernels --svg bench.svg
  phi3-loader hold --socket run/keeper.sock
  phi3-loader load model.gguf --resident run/keeper.sock
  phi3-loader resident list --socket run/keeper.sock

Exit codes:
  0 success, 1 internal error, 2 usage, 3 malformed file, 4 unsupported, 5 device unavailable,
  6 insufficient memory, 7 I/O, 8 device failure, 9 verification failed,
  130 cancelled by Ctrl-C (SIGINT), 143 cancelled by SIGTERM
  The first of these signals cancels the command and cleans up. A second signal, at least 0.5 s
  later, ends the program immediately.";

const COMPLETIONS: &str = "\
To complete in every new shell:
  bash  source <(phi3-loader completions bash)                in ~/.bashrc
  zsh   source <(phi3-loader completions zsh)                 in ~/.zshrc, after compinit
  fish  phi3-loader completions fish > ~/.config/fish/completions/phi3-loader.fish";

/// Loads Phi-3 models from GGUF files into device memory.
#[derive(Debug, Parser)]
// Without `bin_name`, messages would contain the name under which the program was started.
#[command(name = "phi3-loader", bin_name = "phi3-loader", version, about, after_long_help = EXAMPLES, propagate_version = true)]
pub(super) struct Arguments {
    /// Log each step to standard error; give it twice for more detail. RUST_LOG overrides it
    #[arg(short, long, global = true, help_heading = "Options of all commands", action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Print only errors and results
    #[arg(
        short,
        long,
        global = true,
        help_heading = "Options of all commands",
        conflicts_with = "verbose"
    )]
    pub(super) quiet: bool,
    /// When to use colours. `auto`: on terminals, unless NO_COLOR is set
    #[arg(long, global = true, help_heading = "Options of all commands", value_name = "WHEN", default_value = "auto", value_parser = parse_color())]
    pub(super) color: ColorChoice,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Parses the command line of this process. An empty environment variable counts as absent, because shell
/// scripts often set all of them.
pub(super) fn parse() -> Result<Arguments, clap::Error> {
    parse_without(None).map_err(|error| with_escapes(with_variable(error)))
}

/// Parses the command line as if this environment variable were absent.
fn parse_without(variable: Option<&OsStr>) -> Result<Arguments, clap::Error> {
    let is_absent = |name: &OsStr| {
        variable == Some(name) || std::env::var_os(name).is_some_and(|value| value.is_empty())
    };
    let with_variables = |arg: Arg| match arg.get_env() {
        Some(name) if is_absent(name) => arg.env(Resettable::Reset),
        // Without this, the help would print the values unescaped.
        Some(_) => arg.hide_env_values(true),
        None => arg,
    };
    // The display name is for `-V`, which would print `phi3-loader-load`.
    let of_subcommand =
        |command: clap::Command| command.mut_args(with_variables).display_name("phi3-loader");
    let mut command = Arguments::command()
        .long_version(version::text())
        .mut_subcommands(|command| of_subcommand(command).mut_subcommands(of_subcommand));
    command
        .try_get_matches_from_mut(std::env::args_os())
        .and_then(|matches| Arguments::from_arg_matches(&matches))
        .map_err(|error| error.format(&mut command))
}

/// If the value of an environment variable causes the error, names the variable in it.
fn with_variable(mut error: clap::Error) -> clap::Error {
    let text = error.to_string();
    let is_cause = |name: &OsString| {
        !parse_without(Some(name)).is_err_and(|without| without.to_string() == text)
    };
    let Some(name) = variables().find(is_cause) else { return error };
    let name = name.display();
    if error.kind() == ErrorKind::InvalidUtf8 {
        return wrong_use(format!("the value of {name} is not valid UTF-8"));
    }
    if let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) {
        let place = ContextValue::String(format!("{name} ({option})"));
        error.insert(ContextKind::InvalidArg, place);
    }
    error
}

/// Returns the names of the environment variables for options of this program.
pub(super) fn variables() -> impl Iterator<Item = OsString> {
    let names = std::env::vars_os().map(|(name, _)| name);
    names.filter(|name| name.as_encoded_bytes().starts_with(b"PHI3_LOADER_"))
}

/// Escapes the arguments in an error, because clap prints them unescaped. If an argument needed escapes,
/// removes the tips, because a user cannot type the escaped form.
fn with_escapes(mut error: clap::Error) -> clap::Error {
    let escaped = |text: &String| escape(text).to_string();
    let values: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(text) => Some((kind, ContextValue::String(escaped(text)))),
            ContextValue::Strings(texts) => {
                Some((kind, ContextValue::Strings(texts.iter().map(escaped).collect())))
            }
            _ => None,
        })
        .collect();
    for (kind, value) in values {
        if error.get(kind) != Some(&value) {
            error.insert(kind, value);
            error.remove(ContextKind::Suggested);
        }
    }
    error
}

/// Returns the error for options that cannot be used together.
pub(super) fn wrong_use(message: String) -> clap::Error {
    // The usage of the whole program would not help: its options were right, each for itself.
    let text = message + "\n\nFor more information, try '--help'.\n";
    clap::Error::raw(ErrorKind::ArgumentConflict, text)
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the header, configuration and tensors of a GGUF file
    Inspect(Inspect),
    /// Print the offset and size of each weight on the device, to the byte; needs no GPU
    Plan(Plan),
    /// Load a model into device memory, verify it, and report; its memory is freed at the end, unless --resident keeps it
    Load(Load),
    /// Read a GGUF file of any model once, and say whether it is whole; loads nothing
    Verify(Verify),
    /// Keep weights in device memory after the processes that loaded them have ended; runs until a signal ends it
    Hold(Hold),
    /// List, verify and drop the weights that a keeper (`phi3-loader hold`) has
    Resident(Resident),
    /// Measure loads and compare them with the limits of this machine
    Bench(Bench),
    /// List the devices that can hold a model
    Devices(Devices),
    /// Write a valid file with the tensor shapes of a real model and random weights
    Synth(Synth),
    /// Print a completion script for a shell
    #[command(after_long_help = COMPLETIONS)]
    Completions(Completions),
    /// Show the man page of the program or of a command, or write all of them
    Man(Man),
}

impl Command {
    /// Returns the model files that the command reads.
    pub(super) fn models(&self) -> &[PathBuf] {
        match self {
            Self::Inspect(command) => &command.files,
            Self::Plan(command) => slice::from_ref(&command.file),
            Self::Load(command) => slice::from_ref(&command.file),
            Self::Verify(command) => slice::from_ref(&command.file),
            Self::Bench(command) => slice::from_ref(&command.file),
            Self::Hold(_)
            | Self::Resident(_)
            | Self::Devices(_)
            | Self::Synth(_)
            | Self::Completions(_)
            | Self::Man(_) => &[],
        }
    }

    /// Returns whether the command prints its progress as JSON events.
    pub(super) fn prints_events(&self) -> bool {
        matches!(self, Self::Load(Load { json: true, .. }))
    }

    /// Returns the ordinal of the GPU, if the command uses at most this one.
    pub(super) fn only_gpu(&self) -> Option<i32> {
        match self {
            Self::Load(Load { placement, via: None, choices, .. }) if !placement.fit => {
                choices.device.only_gpu()
            }
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Args)]
pub(super) struct Inspect {
    /// GGUF files; for a split file, any shard
    #[arg(value_name = "FILE", required = true, add = gguf_file())]
    pub(super) files: Vec<PathBuf>,
    /// Show only tensors whose names match this pattern, such as 'blk.0.*'; can be repeated
    #[arg(long, value_name = "GLOB", value_parser = parse_glob)]
    pub(super) tensors: Vec<GlobMatcher>,
    /// Show no list of tensors
    #[arg(long, conflicts_with = "tensors")]
    pub(super) no_tensors: bool,
    /// Print only the value of this key, such as tokenizer.chat_template; of an array, one element a line; can be
    /// repeated
    #[arg(long = "key", value_name = "NAME", conflicts_with_all = ["tensors", "no_tensors"])]
    pub(super) keys: Vec<String>,
    /// Print one JSON document a file
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(super) struct Plan {
    /// GGUF file; for a split file, any shard
    #[arg(add = gguf_file())]
    pub(super) file: PathBuf,
    /// Format of the weights on the device
    #[arg(long, default_value = "f16", value_parser = word_of::<Storage>(STORAGES), env = "PHI3_LOADER_STORAGE")]
    pub(super) storage: Storage,
    /// Tokens in each sequence of the key-value cache [default: the model's context length]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(1..=u32::MAX))]
    pub(super) context: Option<u32>,
    /// Number of sequences in the key-value cache
    #[arg(long, value_name = "N", allow_hyphen_values = true, default_value_t = 1, value_parser = whole(1..=u32::MAX))]
    pub(super) batch: u32,
    /// Element type of the key-value cache
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = one_of::<KvDtype>(KvDtype::ALL.iter().map(|dtype| dtype.name())))]
    pub(super) kv_type: KvDtype,
    /// Device memory to keep for other uses, such as 500MB; it is part of the total
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = parse_size, default_value = "0", hide_default_value = true, env = "PHI3_LOADER_RESERVE")]
    pub(super) reserve: u64,
    /// Devices to divide the model among: auto, or a list such as cuda:0,cuda:1 or host,cuda:0; cuda:all is every GPU,
    /// a number is a GPU
    #[arg(long, value_name = "LIST", default_value = "auto", value_parser = DeviceList::from_str, add = device_list())]
    pub(super) device: DeviceList,
    #[command(flatten)]
    pub(super) placement: PlacementArgs,
    /// Memory of each device, such as 24GB,24GB; without --device, each is a GPU that need not be here [default: the
    /// free memory of devices that are here]
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',', allow_hyphen_values = true, value_parser = parse_size)]
    pub(super) memory: Vec<u64>,
    /// Print only the summary, without the list of weights
    #[arg(long, conflicts_with = "json")]
    pub(super) summary: bool,
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

impl Plan {
    pub(super) fn placement_request(&self) -> PlacementRequest<'_> {
        PlacementRequest {
            devices: &self.device,
            arguments: &self.placement,
            memory: &self.memory,
            storage: self.storage,
            reserve: self.reserve,
            limit: None,
        }
    }
}

/// Options that divide a model among devices.
#[derive(Clone, Debug, Args)]
pub(super) struct PlacementArgs {
    /// How to divide the model [default: layer if there are several devices]
    #[arg(long, value_name = "MODE", value_parser = word_of::<SplitMode>(SPLIT_MODES))]
    pub(super) split_mode: Option<SplitMode>,
    /// Proportions of the devices, such as 3,1
    #[arg(long, value_name = "P,P,...", value_delimiter = ',', allow_hyphen_values = true, value_parser = parse_proportion)]
    pub(super) tensor_split: Vec<f64>,
    /// Put the last N layers and the output on the GPUs, the rest into host memory
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(0..=u32::MAX))]
    pub(super) n_gpu_layers: Option<u32>,
    /// Choose how to divide the model, by the free memory of the devices
    #[arg(long, conflicts_with_all = ["split_mode", "tensor_split", "n_gpu_layers"])]
    pub(super) fit: bool,
}

/// Options of a load that `load` and `bench` share.
#[derive(Clone, Debug, Args)]
pub(super) struct Choices {
    /// Devices to load to: auto, or a list such as cuda:0,cuda:1 or host,cuda:0; cuda:all is every GPU, a number is a GPU
    #[arg(long, value_name = "LIST", default_value = "auto", value_parser = DeviceList::from_str, add = device_list(), env = "PHI3_LOADER_DEVICE")]
    pub(super) device: DeviceList,
    /// Format of the weights on the device
    #[arg(long, default_value = "f16", value_parser = word_of::<Storage>(STORAGES), env = "PHI3_LOADER_STORAGE")]
    pub(super) storage: Storage,
    /// Method of reading the file
    #[arg(long, default_value = "auto", value_parser = word_of::<Io>(IO_CHOICES), env = "PHI3_LOADER_IO")]
    pub(super) io: Io,
    /// Largest single copy to the device, such as 16MiB; at most 1GiB; raised if the model needs larger ones [default:
    /// chosen by device]
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = parse_chunk, env = "PHI3_LOADER_CHUNK")]
    pub(super) chunk: Option<u64>,
    /// Reader threads, 1 to 256 [default: depends on the device, the cores and the page cache]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(1..=EngineConfig::MAX_READERS), env = "PHI3_LOADER_THREADS")]
    pub(super) threads: Option<u32>,
    /// Copies that can run at the same time, 1 to 1024, each with its own staging memory [default: chosen by
    /// device]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(1..=EngineConfig::MAX_DEPTH), env = "PHI3_LOADER_DEPTH")]
    pub(super) depth: Option<u32>,
    /// Largest single read of one thread; a copy consists of several reads [default: 512KiB, at most one
    /// copy]
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = parse_chunk, env = "PHI3_LOADER_READ_SIZE")]
    pub(super) read_size: Option<u64>,
    /// Checks at the end of the load
    #[arg(long, default_value = "residency", value_parser = word_of::<loader::Verify>(VERIFY_LEVELS), env = "PHI3_LOADER_VERIFY")]
    pub(super) verify: loader::Verify,
}

impl Choices {
    /// Returns the options of a load to one device. For several, the caller sets devices and placement.
    pub(super) fn options(&self) -> LoadOptions {
        let mut options = LoadOptions::new()
            .device(self.device.single().unwrap_or_default())
            .storage(self.storage)
            .io(self.io)
            .verify(self.verify);
        options.chunk_bytes = self.chunk;
        options.threads = self.threads;
        options.depth = self.depth;
        options.read_bytes = self.read_size;
        options
    }

    /// Returns the same choices as arguments of `load`.
    pub(super) fn to_arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--device={}", self.device),
            format!("--storage={}", self.storage),
            format!("--io={}", self.io),
            format!("--verify={}", self.verify),
        ];
        arguments.extend(self.chunk.map(|bytes| format!("--chunk={bytes}")));
        arguments.extend(self.threads.map(|threads| format!("--threads={threads}")));
        arguments.extend(self.depth.map(|depth| format!("--depth={depth}")));
        arguments.extend(self.read_size.map(|bytes| format!("--read-size={bytes}")));
        arguments
    }
}

#[derive(Debug, Args)]
pub(super) struct Bench {
    /// GGUF file; for a split file, any shard
    #[arg(add = gguf_file())]
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) choices: Choices,
    /// Number of loads of each kind, and of runs of each other measurement
    #[arg(long, value_name = "N", allow_hyphen_values = true, default_value_t = 5, value_parser = whole(1..=1000_u32))]
    pub(super) repeat: u32,
    /// Also load with --verify checksum and with --storage native, in turn with the other loads
    #[arg(long)]
    pub(super) variants: bool,
    /// Also load with the file dropped from the page cache, so that it comes from its drive
    #[arg(long)]
    pub(super) cold: bool,
    /// Also load over the links of these GPUs, as `load --via` does
    #[arg(long, value_name = "LIST", value_parser = DeviceList::from_str, add = gpu_list())]
    pub(super) via: Option<DeviceList>,
    /// Also attach to weights that another process keeps on the device, as `load --resident` does
    #[arg(long)]
    pub(super) resident: bool,
    /// Also measure every decoder
    #[arg(long)]
    pub(super) kernels: bool,
    /// Also move the weights with these engine settings, in turn in one process. Each is
    /// THREADS:DEPTH:CHUNK:READ, such as 12:4:8MiB:256KiB,12:4:16MiB:512KiB
    #[arg(long, value_name = "LIST", allow_hyphen_values = true, value_delimiter = ',', value_parser = parse_shape)]
    pub(super) shapes: Vec<EngineConfig>,
    /// Also measure other loaders, if they are installed
    #[arg(long)]
    pub(super) peers: bool,
    /// Python interpreter that has PyTorch and safetensors [default: python3]
    #[arg(long, value_name = "PROGRAM", requires = "peers")]
    pub(super) python: Option<PathBuf>,
    /// The same weights as a safetensors file, as `load --dump` writes it [default: written for the run]
    #[arg(long, value_name = "FILE", requires = "peers")]
    pub(super) safetensors: Option<PathBuf>,
    /// The benchmark program of llama.cpp
    #[arg(long, value_name = "PROGRAM", requires = "peers")]
    pub(super) llama_bench: Option<PathBuf>,
    /// Draw a chart of the rates into this file
    #[arg(long, value_name = "OUT.svg")]
    pub(super) svg: Option<PathBuf>,
    /// Write the results as Markdown tables into this file
    #[arg(long, value_name = "OUT.md")]
    pub(super) markdown: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Load {
    /// GGUF file; for a split file, any shard
    #[arg(add = gguf_file())]
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) choices: Choices,
    #[command(flatten)]
    pub(super) placement: PlacementArgs,
    /// Other GPUs whose PCIe links help to load one GPU, as in `--device cuda:0 --via cuda:1`
    #[arg(long, value_name = "LIST", value_parser = DeviceList::from_str, add = gpu_list(), conflicts_with_all = ["fit", "n_gpu_layers"])]
    pub(super) via: Option<DeviceList>,
    /// Memory of each GPU that the weights can use, such as 8GB [default: all free memory]
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = parse_size, env = "PHI3_LOADER_VRAM_LIMIT")]
    pub(super) vram_limit: Option<u64>,
    /// Memory of each GPU that must stay free beside the weights, such as 2GiB for a key-value cache
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true, value_parser = parse_size, default_value = "0", hide_default_value = true, env = "PHI3_LOADER_RESERVE")]
    pub(super) reserve: u64,
    /// Fail if a loaded weight is infinite or NaN, instead of warning
    #[arg(long, value_parser = parse_switch, env = "PHI3_LOADER_DENY_OVERFLOW")]
    pub(super) deny_overflow: bool,
    /// Make the weights read-only when they are loaded and verified
    #[arg(long)]
    pub(super) protect: bool,
    /// Attach to the weights of this file that the keeper at this socket has. If it has none, load them and publish
    /// them there. `systemd` is the descriptor store of the unit that runs this command
    #[arg(long, value_name = "SOCKET", value_parser = socket_path(), conflicts_with = "fit", add = store())]
    pub(super) resident: Option<PathBuf>,
    /// If the kept weights have changed since they were loaded, load the file. Without this option, the command fails
    #[arg(long, requires = "resident")]
    pub(super) resident_reload: bool,
    /// Read the weights back from the device into a safetensors file; an existing file is replaced. `-` is standard
    /// output, which must be a file: `--quiet --dump - > OUT.safetensors`. It is replaced even with `>>`
    #[arg(long, value_name = "OUT.safetensors")]
    pub(super) dump: Option<PathBuf>,
    /// Names and layout of the tensors in the dump
    #[arg(long, value_enum, value_name = "LAYOUT", default_value_t = Names::Slots, requires = "dump")]
    pub(super) names: Names,
    /// Write the times of reads, decoding, copies and kernels as a trace for Perfetto, with the names of tensors
    #[arg(long, value_name = "OUT.json")]
    pub(super) timeline: Option<PathBuf>,
    /// Print one JSON event per line
    #[arg(long)]
    pub(super) json: bool,
}

impl Load {
    /// Returns the options. Reads the file only if the devices depend on its model.
    pub(super) fn options(&self) -> Result<LoadOptions, Failure> {
        if self.names == Names::Hf && self.choices.storage != Storage::F16 {
            let message = "--names hf cannot be used with --storage native: a checkpoint has no quantised blocks; \
                 use --storage f16";
            return Err(Failure::Usage(wrong_use(message.to_owned())));
        }
        let via = match &self.via {
            Some(via) => placement::helpers(&self.choices.device, via)?,
            None => Vec::new(),
        };
        let (devices, placement) = self.placement_request().choose(&self.file)?;
        let mut options = self
            .choices
            .options()
            .devices(devices)
            .placement(placement)
            .via(via)
            .deny_overflow(self.deny_overflow)
            .protect(self.protect)
            .timeline(self.timeline.is_some());
        options.vram_limit = self.vram_limit;
        options.reserve = self.reserve;
        Ok(options)
    }

    fn placement_request(&self) -> PlacementRequest<'_> {
        PlacementRequest {
            devices: &self.choices.device,
            arguments: &self.placement,
            memory: &[],
            storage: self.choices.storage,
            reserve: self.reserve,
            limit: self.vram_limit,
        }
    }
}

#[derive(Clone, Debug, Args)]
pub(super) struct Verify {
    /// GGUF file; for a split file, any shard
    #[arg(add = gguf_file())]
    pub(super) file: PathBuf,
    /// The sha256 that the file must have, such as the one that a model hub shows. Of a split file, only the given
    /// shard is compared
    #[arg(long, value_name = "HEX", allow_hyphen_values = true, value_parser = parse_sha256)]
    pub(super) sha256: Option<String>,
    /// Print one JSON document, with the sha256 of every file and tensor
    #[arg(long)]
    pub(super) json: bool,
}

/// The socket of a keeper.
#[derive(Clone, Debug, Args)]
pub(super) struct Socket {
    /// Socket of the keeper [default: phi3-loader/keeper.sock in XDG_RUNTIME_DIR; for root without that, in /run]
    #[arg(long = "socket", value_name = "SOCKET", value_parser = socket_path(), env = "PHI3_LOADER_SOCKET", add = socket())]
    pub(super) path: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Hold {
    #[command(flatten)]
    pub(super) socket: Socket,
    /// Drop weights that no process has used for this time; 0 as soon as they are unused [default: keep them]
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true, value_parser = parse_seconds)]
    pub(super) expire: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct Resident {
    #[command(subcommand)]
    pub(super) action: ResidentAction,
}

#[derive(Debug, Subcommand)]
pub(super) enum ResidentAction {
    /// List the weights that the keeper has
    List(ResidentList),
    /// Drop weights: their memory is free when no process uses it any more
    Drop(ResidentDrop),
    /// Attach to weights, and compare them with the digests of when they were loaded
    Verify(ResidentVerify),
}

#[derive(Clone, Debug, Args)]
pub(super) struct ResidentList {
    #[command(flatten)]
    pub(super) socket: Socket,
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("dropped").args(["key", "all"]).required(true)))]
pub(super) struct ResidentDrop {
    /// Key of the weights, as `resident list` prints it, or the first characters of it
    #[arg(value_parser = NonEmptyStringValueParser::new(), add = resident_key())]
    pub(super) key: Option<String>,
    /// Drop everything that the keeper has
    #[arg(long)]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) socket: Socket,
}

#[derive(Debug, Args)]
pub(super) struct ResidentVerify {
    /// Key of the weights, as `resident list` prints it, or the first characters of it [default: all weights]
    #[arg(value_parser = NonEmptyStringValueParser::new(), add = resident_key())]
    pub(super) key: Option<String>,
    #[command(flatten)]
    pub(super) socket: Socket,
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(super) struct Devices {
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Synth {
    /// File to write
    pub(super) out: PathBuf,
    /// Model whose tensor shapes the file has
    #[arg(long, default_value = "tiny", value_parser = one_of::<Preset>(Preset::ALL.iter().map(|preset| preset.name())))]
    pub(super) preset: Preset,
    /// Tensor type of the weights
    #[arg(long = "type", default_value = "f16", value_parser = one_of::<TypeMix>(TypeMix::ALL.iter().map(|mix| mix.name())))]
    pub(super) type_mix: TypeMix,
    /// Whether Q, K, V and gate, up are fused into one tensor or split into several
    #[arg(long, default_value = "fused", value_parser = one_of::<Layout>(Layout::ALL.iter().map(|layout| layout.name())))]
    pub(super) layout: Layout,
    /// Replace OUT if it exists
    #[arg(long)]
    pub(super) force: bool,
    /// Seed of the random weights; the same seed gives the same file
    #[arg(long, allow_hyphen_values = true, default_value_t = 0, value_parser = whole(0..=u64::MAX))]
    pub(super) seed: u64,
}

#[derive(Clone, Debug, Args)]
pub(super) struct Completions {
    /// Shell to print the script for
    pub(super) shell: Shell,
}

#[derive(Clone, Debug, Args)]
pub(super) struct Man {
    /// Command whose page to show, such as `load` or `resident list` [default: the page of the program]
    #[arg(add = command_name())]
    pub(super) command: Vec<String>,
    /// Write the pages of the program and of each command into this folder, which is created if it is absent
    #[arg(long, value_name = "FOLDER", conflicts_with = "command", value_hint = ValueHint::DirPath)]
    pub(super) dir: Option<PathBuf>,
}

/// The values of an option, each with its help text.
type Words = &'static [(&'static str, &'static str)];

const STORAGES: Words = &[
    ("f16", "Decode everything to IEEE half precision"),
    ("native", "Keep blocks as they are in the file"),
];
const SPLIT_MODES: Words = &[
    ("none", "One device holds everything"),
    ("layer", "Each device holds consecutive layers"),
    ("tensor", "Each device holds a part of every matrix"),
    ("replicate", "Each device holds everything"),
];
const IO_CHOICES: Words = &[
    ("auto", "Read cached data from the page cache, and bypass it for all other data"),
    ("mmap", "Copy from a memory mapping of the file"),
    ("read", "Read through the page cache"),
    ("direct", "Bypass the page cache with O_DIRECT, if the file system supports it"),
];
const VERIFY_LEVELS: Words = &[
    ("residency", "Check every pointer, its device, and the memory accounting"),
    ("checksum", "Also compare digests of all bytes as read and as copied to the device"),
    ("readback", "Also read all weights back and compare them with the file"),
];

fn word_of<T>(words: Words) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err: std::error::Error + Send + Sync> + Clone + Send + Sync + 'static,
{
    let values = words.iter().map(|(word, help)| PossibleValue::new(*word).help(*help));
    PossibleValuesParser::new(values).try_map(|word| word.parse::<T>())
}

/// Returns a parser that accepts these names. Help and completions list them.
fn one_of<T>(names: impl Iterator<Item = &'static str>) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err: std::error::Error + Send + Sync> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse::<T>())
}

fn parse_color() -> impl TypedValueParser<Value = ColorChoice> {
    PossibleValuesParser::new(color::WORDS).map(|word| color::named(&word).unwrap_or_default())
}

/// The accepted sizes, for error messages.
const SIZES: &str = "expected a size such as 16777216, 512MiB or 1.5GiB; K, M and G are powers of 1000, \
     Ki, Mi and Gi powers of 1024";

fn parse_seconds(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "expected a whole number of seconds, such as 600")
}

fn parse_proportion(text: &str) -> Result<f64, &'static str> {
    text.parse().map_err(|_| "expected a number for each device, such as 3,1")
}

/// Returns a parser of the whole numbers in a range.
fn whole<T>(range: RangeInclusive<T>) -> impl TypedValueParser<Value = T>
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text: &str| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            format!("expected a whole number from {} to {}", range.start(), range.end())
        })
    }
}

fn parse_size(text: &str) -> Result<u64, String> {
    let bytes = parse_size::parse_size(text).map_err(|error| match error {
        parse_size::Error::PosOverflow => format!("more than {} bytes; {SIZES}", u64::MAX),
        _ => SIZES.to_owned(),
    })?;
    let number = text.strip_suffix(['b', 'B']).unwrap_or(text);
    let number = number.strip_suffix(['i', 'I']).unwrap_or(number);
    let has_unit = number.ends_with(|c: char| c.is_ascii_alphabetic());
    // A minus sign is a negative exponent, so the number is a fraction.
    let is_fraction = text.contains(['.', '-']);
    let is_less_than_half = bytes == 0 && text.contains(|c: char| matches!(c, '1'..='9'));
    if is_fraction && (!has_unit || is_less_than_half) {
        return Err(format!("a fraction of a byte; {SIZES}"));
    }
    Ok(bytes)
}

fn parse_switch(text: &str) -> Result<bool, &'static str> {
    let switch = BoolishValueParser::new().parse_ref(&clap::Command::new(""), None, text.as_ref());
    switch.map_err(|_| "expected true or false, 1 or 0, yes or no, on or off")
}

/// Returns a parser of paths that can be the address of a socket.
fn socket_path() -> impl TypedValueParser<Value = PathBuf> {
    /// The length of `sun_path` in unix(7), without the final zero.
    const MAX_BYTES: usize = 107;
    PathBufValueParser::new().try_map(|path| match path.as_os_str().len() {
        ..=MAX_BYTES => Ok(path),
        bytes => Err(format!("expected a path of at most {MAX_BYTES} bytes, not of {bytes}")),
    })
}

fn parse_glob(text: &str) -> Result<GlobMatcher, String> {
    // The error itself contains the pattern, unescaped.
    let error = |error: globset::Error| escape(&error.kind().to_string()).to_string();
    Glob::new(text).map(|glob| glob.compile_matcher()).map_err(error)
}

fn parse_sha256(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    let text = text.strip_prefix("sha256:").unwrap_or(text);
    let is_digest = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_digest.then(|| text.to_ascii_lowercase()).ok_or("expected 64 hexadecimal digits")
}

fn parse_chunk(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        bytes @ 1..=EngineConfig::MAX_CHUNK_BYTES => Ok(bytes),
        _ => Err("expected a size from 1 byte to 1GiB".to_owned()),
    }
}

fn parse_shape(text: &str) -> Result<EngineConfig, String> {
    let fields: Vec<_> = text.split(':').collect();
    let [readers, depth, chunk, read] = fields[..] else {
        return Err("expected THREADS:DEPTH:CHUNK:READ, such as 12:4:8MiB:256KiB".to_owned());
    };
    let count = |name: &str, text: &str, most: u32| match text.parse() {
        Ok(count) if (1..=most).contains(&count) => Ok(count),
        _ => Err(format!("{name} must be a number from 1 to {most}")),
    };
    Ok(EngineConfig {
        readers: count("THREADS", readers, EngineConfig::MAX_READERS)?,
        storage_readers: 0,
        depth: count("DEPTH", depth, EngineConfig::MAX_DEPTH)?,
        chunk_bytes: parse_chunk(chunk)?,
        read_bytes: parse_chunk(read)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn sizes_take_decimal_and_binary_suffixes() {
        assert_eq!(parse_size("4MiB"), Ok(4 << 20));
        assert_eq!(parse_size("8GB"), Ok(8_000_000_000));
        assert_eq!(parse_size("123"), Ok(123));
        assert_eq!(parse_size("1.5GiB"), Ok(3 << 29));
        assert_eq!(parse_size("0.5kB"), Ok(500));
        assert_eq!(parse_size("0.0GiB"), Ok(0));
        assert_eq!(parse_size("1.5E"), Ok(1_500_000_000_000_000_000));
        assert_eq!(parse_size("18446744073709551615"), Ok(u64::MAX));
        for wrong in [
            "",
            " ",
            "B",
            "GiB",
            "much",
            "-1",
            "+1",
            "0.5",
            "1.5",
            "1.0",
            "1.",
            ".5",
            "0.3B",
            "1.5 b",
            "5e-1",
            "1e-9KiB",
            "0.0001KiB",
            "-1GiB",
            "0x10",
            "18446744073709551616",
            "16EiB",
            "1e20",
            "99999999999EiB",
        ] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        assert!(parse_chunk("0").is_err());
        assert!(parse_chunk("2GiB").is_err());
    }

    #[test]
    fn a_shape_has_four_fields() {
        let shape = EngineConfig::new(12, 4, 8 << 20, 4096);
        assert_eq!(parse_shape("12:4:8MiB:4KiB"), Ok(shape));
        for wrong in ["", "12:4:8MiB", "0:4:8MiB:4KiB", "12:1025:1:1", "1:1:0:1", "1:1:1:1:1"] {
            assert!(parse_shape(wrong).is_err(), "{wrong}");
        }
    }
}
