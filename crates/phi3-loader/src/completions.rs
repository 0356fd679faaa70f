//! The command `completions`, and the answers to the scripts that it prints.
//!
//! At each press of the completion key, a script runs the program with [`VARIABLE`] set. Thus a script needs no
//! knowledge of the options, and values are those of this machine, such as its GPUs.

use super::args::{Arguments, Completions, Socket};
use super::failure::Failure;
use super::stdout;
use clap::{Command, CommandFactory};
use clap_complete::engine::{
    ArgValueCandidates, ArgValueCompleter, CompletionCandidate, PathCompleter, complete,
};
use clap_complete::env::{Elvish, EnvCompleter, Fish, Powershell, Shells, Zsh};
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Set to the name of a shell, it makes the program complete the words after `--`.
const VARIABLE: &str = "PHI3_LOADER_COMPLETE";

const SHELLS: Shells<'_> = Shells(&[&Bash, &Elvish, &Fish, &Powershell, &Zsh]);

/// The end of the script for zsh. Words with quotes and `~` are left to zsh: the program does not interpret them. If zsh has
/// loaded the script by the name of its file, the script must also answer this first call.
const END_OF_ZSH: &str = r#"function _phi3_loader() {
    if [[ $words[CURRENT] == *[\~\$\\\'\"]* ]]; then
        _files
    else
        _clap_dynamic_completer_phi3_loader
    fi
}
compdef _phi3_loader phi3-loader
[[ $funcstack[1] != _phi3-loader ]] || _phi3_loader "$@""#;

pub(super) fn run(arguments: &Completions) -> Result<(), Failure> {
    let name = arguments.shell.to_string();
    Ok(stdout::print(|out| {
        let shell = shell(&name)?;
        shell.write_registration(VARIABLE, "phi3-loader", "phi3-loader", "phi3-loader", out)?;
        if name == "zsh" { writeln!(out, "{END_OF_ZSH}") } else { Ok(()) }
    })?)
}

fn shell(name: &str) -> io::Result<&'static dyn EnvCompleter> {
    SHELLS.completer(name).ok_or_else(|| io::Error::other(format!("unknown shell {name}")))
}

/// The question of a completion script: the words of its command line up to the cursor.
#[derive(Clone)]
pub(super) struct Request {
    shell: String,
    words: Vec<OsString>,
}

impl Request {
    /// Returns the request, if a script started this process.
    pub(super) fn of_shell() -> Option<Self> {
        let shell = std::env::var(VARIABLE).ok()?;
        let words: Vec<_> = std::env::args_os().skip_while(|word| word != "--").skip(1).collect();
        (!words.is_empty()).then_some(Self { shell, words })
    }

    pub(super) fn answer(&self) -> Result<(), Failure> {
        let folder = std::env::current_dir().ok();
        let (mut command, words) = (Arguments::command(), self.words.clone());
        Ok(stdout::print(|out| {
            shell(&self.shell)?.write_complete(&mut command, words, folder.as_deref(), out)
        })?)
    }
}

/// Bash splits words at `:` and `=`. The script of `clap_complete` gives the program these pieces, so it cannot
/// complete `cuda:0`, nor `--device=host`.
struct Bash;

impl EnvCompleter for Bash {
    fn name(&self) -> &'static str {
        "bash"
    }

    fn is(&self, name: &str) -> bool {
        name == self.name()
    }

    fn write_registration(
        &self,
        _variable: &str,
        _name: &str,
        _program: &str,
        _completer: &str,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        out.write_all(include_bytes!("completions.bash"))
    }

    fn write_complete(
        &self,
        command: &mut Command,
        words: Vec<OsString>,
        folder: Option<&Path>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let last = words.len().saturating_sub(1);
        let is_option = |word: &OsStr| word.as_encoded_bytes().starts_with(b"-");
        let wants_option = words.last().is_some_and(|word| is_option(word));
        let mut candidates = complete(command, words, last, folder)?;
        // Bash lists everything in one order: files would be lost among the options.
        if !wants_option && candidates.iter().any(|one| !is_option(one.get_value())) {
            candidates.retain(|one| !is_option(one.get_value()));
        }
        candidates.iter().try_for_each(|one| writeln!(out, "{}", one.get_value().to_string_lossy()))
    }
}

/// Completes a list of devices.
pub(super) fn device_list() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let mut devices = gpus();
        devices.extend(["host", "cuda", "cuda:all"].map(CompletionCandidate::new));
        let is_first = !current.as_encoded_bytes().contains(&b',');
        devices.extend(is_first.then(|| CompletionCandidate::new("auto")));
        last_of_list(current, devices)
    })
}

/// Completes a list of GPUs.
pub(super) fn gpu_list() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| last_of_list(current, gpus()))
}

/// Returns the GPUs of this machine, and the first one also where there is none: plans need no GPU.
fn gpus() -> Vec<CompletionCandidate> {
    let gpus = cuda_sys::cuda_devices().unwrap_or_default();
    let found = gpus.into_iter().map(|gpu| {
        CompletionCandidate::new(format!("cuda:{}", gpu.ordinal)).help(Some(gpu.name.into()))
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() { vec![CompletionCandidate::new("cuda:0")] } else { found }
}

/// Keeps the entries that continue the last one of a list.
fn last_of_list(current: &OsStr, entries: Vec<CompletionCandidate>) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let (before, start) = current.split_at(current.rfind(',').map_or(0, |comma| comma + 1));
    let continues = |entry: &CompletionCandidate| {
        entry.get_value().as_encoded_bytes().starts_with(start.as_bytes())
    };
    entries.into_iter().filter(continues).map(|entry| entry.add_prefix(before)).collect()
}

/// Completes GGUF files, and folders on the way to them.
pub(super) fn gguf_file() -> ArgValueCompleter {
    let is_gguf =
        |path: &Path| path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
    ArgValueCompleter::new(PathCompleter::any().filter(is_gguf))
}

/// Completes sockets, and folders on the way to them.
pub(super) fn socket() -> ArgValueCompleter {
    let is_socket = |path: &Path| path.metadata().is_ok_and(|file| file.file_type().is_socket());
    ArgValueCompleter::new(PathCompleter::any().filter(is_socket))
}

/// Completes a keeper's socket, and the word for the store of systemd.
pub(super) fn store() -> ArgValueCompleter {
    let sockets = socket();
    ArgValueCompleter::new(move |current: &OsStr| {
        let mut stores = last_of_list(current, vec![CompletionCandidate::new("systemd")]);
        stores.extend(sockets.complete(current));
        stores
    })
}

/// Completes keys of the weights that the keeper at the default socket has.
pub(super) fn resident_key() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let path = std::env::var_os("PHI3_LOADER_SOCKET").map(PathBuf::from);
        let entries = Socket { path }.connect().ok().and_then(|mut keeper| keeper.list().ok());
        let entries = entries.unwrap_or_default();
        entries.iter().map(|entry| CompletionCandidate::new(entry.manifest.key.as_str())).collect()
    })
}

/// Completes the name of a command of this program.
pub(super) fn command_name() -> ArgValueCandidates {
    ArgValueCandidates::new(|| {
        let program = Arguments::command();
        program.get_subcommands().map(|one| CompletionCandidate::new(one.get_name())).collect()
    })
}
