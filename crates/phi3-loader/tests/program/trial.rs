//! Runs the program under limits and faults, and checks the result of each run.

use crate::environment::without_settings;
use loader::FailureCode;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The name of the copied program.
pub(crate) const PROGRAM_NAME: &str = "program";

/// The time limit of a run in seconds. A run that takes longer is killed and fails the test.
const SECONDS: &str = "60";

/// The exit codes that are allowed under a limit or fault: success, insufficient memory, or an I/O error.
const EXIT_CODES: [u8; 3] = [0, 6, 7];

/// A command line. `{model}` and `{synthetic}` are files that exist for every run. `{out}` is the output
/// folder of the run.
pub(crate) struct Trial {
    arguments: &'static [&'static str],
    prints: Prints,
    /// The names of files in `{out}`, and how to check that they are complete.
    outputs: &'static [(&'static str, Whole)],
}

/// The expected content of standard output.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prints {
    Text,
    /// One document.
    Document,
    /// Events. The last one is the result of the load.
    Events,
}

/// The check that an output file is complete.
#[derive(Clone, Copy)]
enum Whole {
    /// The same bytes in every run.
    Same,
    Json,
    Svg,
}

const fn trial(
    arguments: &'static [&'static str],
    prints: Prints,
    outputs: &'static [(&'static str, Whole)],
) -> Trial {
    Trial { arguments, prints, outputs }
}

pub(crate) static TRIALS: [Trial; 19] = {
    use Prints::{Document, Events, Text};
    use Whole::{Json, Same, Svg};
    [
        trial(&["inspect", "{synthetic}"], Text, &[]),
        trial(&["inspect", "{model}", "--json"], Document, &[]),
        trial(&["plan", "{synthetic}"], Text, &[]),
        trial(&["plan", "{model}", "--json"], Document, &[]),
        trial(&["load", "{model}"], Text, &[]),
        trial(&["load", "{synthetic}", "--io=read", "--json"], Events, &[]),
        trial(&["load", "{synthetic}", "--io=mmap", "--verify=checksum", "--json"], Events, &[]),
        trial(&["load", "{synthetic}", "--io=direct", "--json"], Events, &[]),
        trial(&["load", "{model}", "--verify=readback", "--json", "--deny-overflow"], Events, &[]),
        trial(
            &["load", "{synthetic}", "--verify=readback", "--dump={out}/dump", "--json"],
            Events,
            &[("dump", Same)],
        ),
        trial(
            &[
                "load",
                "{synthetic}",
                "--device=host,host",
                "--split-mode=tensor",
                "--dump={out}/dump",
            ],
            Text,
            &[("dump", Same)],
        ),
        trial(
            &["load", "{model}", "--storage=native", "--dump={out}/dump", "--timeline={out}/line"],
            Text,
            &[("dump", Same), ("line", Json)],
        ),
        trial(
            &["load", "{synthetic}", "--threads=64", "--chunk=4MiB", "--depth=16", "--json"],
            Events,
            &[],
        ),
        trial(&["synth", "{out}/model", "--seed=3"], Text, &[("model", Same)]),
        trial(&["synth", "{out}/model", "--type=q8_0", "--quiet"], Text, &[("model", Same)]),
        trial(&["bench", "{model}", "--repeat=1", "--json"], Document, &[]),
        trial(
            &["bench", "{model}", "--repeat=1", "--cold", "--svg={out}/chart"],
            Text,
            &[("chart", Svg)],
        ),
        trial(&["devices", "--json"], Document, &[]),
        trial(&["completions", "bash"], Text, &[]),
    ]
};

impl std::fmt::Display for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.arguments.join(" "))
    }
}

/// The program, the files that it reads, and its outputs in a run without limits or faults.
pub(crate) struct Bench {
    /// Dropping this removes the folder.
    _folder: tempfile::TempDir,
    program: PathBuf,
    files: BTreeMap<&'static str, PathBuf>,
    /// The expected files, by trial and name.
    references: BTreeMap<(usize, &'static str), Vec<u8>>,
}

impl Bench {
    /// Copies the program and the files to a folder that all users can enter.
    pub(crate) fn new(program: &Path, model: &Path) -> Self {
        let folder = open_to_all();
        let place = |name: &str| folder.path().join(name);
        fs::copy(program, place(PROGRAM_NAME)).unwrap();
        fs::copy(model, place("model.gguf")).unwrap();
        let files = BTreeMap::from([
            ("{model}", place("model.gguf")),
            ("{synthetic}", place("synthetic.gguf")),
        ]);
        let mut bench = Self {
            program: place(PROGRAM_NAME),
            files,
            _folder: folder,
            references: BTreeMap::new(),
        };
        let mut synth = Command::new(&bench.program);
        synth.arg("synth").arg(&bench.files["{synthetic}"]).arg("--type=q4_k_m");
        assert!(synth.output().unwrap().status.success());
        for (index, trial) in TRIALS.iter().enumerate() {
            let ran = bench.run(trial, |command| command);
            assert_eq!(ran.output.status.code(), Some(0), "{trial}: {}", ran.stderr());
            for (name, _) in trial.outputs {
                bench
                    .references
                    .insert((index, name), fs::read(ran.out.path().join(name)).unwrap());
            }
        }
        bench
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Runs the command line that `wrap` makes from the program and its arguments.
    pub(crate) fn run(
        &self,
        trial: &Trial,
        wrap: impl FnOnce(Vec<OsString>) -> Vec<OsString>,
    ) -> Ran {
        let out = open_to_all();
        let words = trial.arguments.iter().map(|argument| {
            let mut argument = argument.replace("{out}", out.path().to_str().unwrap());
            for (name, path) in &self.files {
                argument = argument.replace(name, path.to_str().unwrap());
            }
            OsString::from(argument)
        });
        let line = wrap([self.program.clone().into()].into_iter().chain(words).collect());
        let output = timed(&line).env("PHI3_LOADER_DEVICE", "host").output().unwrap();
        Ran { output, out }
    }

    /// Checks a run. Returns the reason if it is wrong.
    pub(crate) fn judge(&self, trial: &Trial, ran: &Ran) -> Result<(), String> {
        let code = ran.code()?;
        if ran.stderr().contains("panicked") {
            return Err("it panicked".to_owned());
        }
        if code != 0 {
            let stderr = ran.stderr();
            let named = stderr.split_once("error[").and_then(|(_, rest)| rest.split_once(']'));
            let (named, _) = named.ok_or("it names no code")?;
            let facts = FailureCode::all().into_iter().find(|facts| facts.code == named);
            if facts.map(|facts| facts.exit_code) != Some(code) {
                return Err(format!("exit code {code} is not that of {named}"));
            }
        }
        self.judge_printed(trial, ran, code)?;
        self.judge_outputs(trial, ran, code)
    }

    fn judge_printed(&self, trial: &Trial, ran: &Ran, code: u8) -> Result<(), String> {
        let lines = ran.output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let json = |line| serde_json::from_slice(line).map_err(|error| format!("{error}"));
        match trial.prints {
            Prints::Text => Ok(()),
            Prints::Document => {
                let documents: Vec<Value> = lines.map(json).collect::<Result<_, _>>()?;
                let (count, want) = (documents.len(), usize::from(code == 0));
                let printed = || format!("exit code {code}, and {count} documents");
                (count == want).then_some(()).ok_or_else(printed)
            }
            Prints::Events => {
                let events: Vec<Value> = lines.map(json).collect::<Result<_, _>>()?;
                let Some(last) = events.last() else {
                    // Memory can be refused before the command line has been parsed.
                    let early = code != 0 && ran.stderr().contains("the system refused");
                    return early.then_some(()).ok_or("it printed no event".into());
                };
                let want = if code == 0 { "finished" } else { "failed" };
                let is_last = last["event"] == want && (code == 0 || last["exit_code"] == code);
                is_last.then_some(()).ok_or(format!("the last event is {last}"))
            }
        }
    }

    /// Checks that outputs are complete or absent. Temporary files, which have hidden names, are allowed: a
    /// process that ends because memory is refused leaves them.
    fn judge_outputs(&self, trial: &Trial, ran: &Ran, code: u8) -> Result<(), String> {
        let trial_index =
            TRIALS.iter().position(|one| std::ptr::eq(one.arguments, trial.arguments));
        for (name, whole) in trial.outputs {
            let bytes = match fs::read(ran.out.path().join(name)) {
                Ok(bytes) => bytes,
                Err(_) if code != 0 => continue,
                Err(error) => return Err(format!("{name}: {error}")),
            };
            let is_whole = match whole {
                Whole::Same => {
                    trial_index.and_then(|index| self.references.get(&(index, name)))
                        == Some(&bytes)
                }
                Whole::Json => serde_json::from_slice::<Value>(&bytes).is_ok(),
                Whole::Svg => bytes.trim_ascii_end().ends_with(b"</svg>"),
            };
            if !is_whole {
                return Err(format!("{name} has {} bytes and is not whole", bytes.len()));
            }
        }
        for entry in fs::read_dir(ran.out.path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if !name.starts_with('.') && !trial.outputs.iter().any(|(output, _)| *output == name) {
                return Err(format!("it left {name}"));
            }
        }
        Ok(())
    }
}

/// Returns a command that is killed after the time limit.
pub(crate) fn timed(line: &[OsString]) -> Command {
    let mut command = Command::new("timeout");
    without_settings(command.arg("--kill-after=5").arg(SECONDS).args(line));
    command
}

/// The result of a run, and the folder of its outputs.
pub(crate) struct Ran {
    output: Output,
    out: tempfile::TempDir,
}

impl Ran {
    /// Returns the exit code. Fails if it is not an allowed one.
    pub(crate) fn code(&self) -> Result<u8, String> {
        let status = self.output.status;
        match status.code().and_then(|code| u8::try_from(code).ok()) {
            Some(124) => Err(format!("no end in {SECONDS} s")),
            Some(code) if EXIT_CODES.contains(&code) => Ok(code),
            // `timeout` reports a signal with the same number as a shell.
            _ => Err(format!("ended with {status}")),
        }
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }
}

fn open_to_all() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    folder
}
