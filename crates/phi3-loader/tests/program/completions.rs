//! Tests of completion, in the shells themselves.

use crate::environment::without_settings;
use crate::program::{PROGRAM, program};
use crate::resident::{KeeperProcess, publishes, small_model};
use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

/// Command lines, each with words that complete it.
const CASES: &[(&str, &[&str])] = &[
    ("", &["inspect", "load", "resident", "completions"]),
    ("resident ", &["list", "drop", "verify"]),
    ("resident list --s", &["--socket"]),
    ("load --dev", &["--device"]),
    ("load --device ", &["auto", "host", "cuda", "cuda:0", "cuda:all"]),
    ("load --device cuda:a", &["cuda:all"]),
    ("load --device=ho", &["--device=host"]),
    ("load --device=host,cuda:a", &["--device=host,cuda:all"]),
    ("load --device host,h", &["host,host"]),
    ("load --via ", &["cuda:0"]),
    ("plan x --split-mode ", &["none", "layer", "tensor", "replicate"]),
    ("synth x --preset=mini-1", &["--preset=mini-128k"]),
    ("load ", &["model.gguf", "folder"]),
    ("load spa", &["spa ced.gguf"]),
    ("load ~/mod", &["~/model.gguf"]),
    ("inspect folder/", &["folder/inner.gguf"]),
    ("hold --socket ke", &["keeper.sock"]),
    ("load x --resident ", &["keeper.sock", "systemd"]),
    ("completions z", &["zsh"]),
    ("load --color ", &["auto", "always", "never"]),
    ("man res", &["resident"]),
];

/// Inserts all candidates into each line, and prints the lines.
const BASH: &str = r#"
source <(phi3-loader completions bash)
show() { printf '\n<%s>\n' "$READLINE_LINE"; READLINE_LINE=; }
bind -x '"\C-xs": show'
bind '"\C-xa": insert-completions'
"#;

/// Starts an interactive shell on a terminal, which does the same.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty shell 'PS1=READY zsh -f -i'
await() { local text; zpty -r shell text "*$1*" }
await READY
zpty -w shell 'source ./setup.zsh'
await LOADED
for line; do
    zpty -w -n shell "$line"$'\t\030'
    await SHOWN
done
cat shown
"#;

const ZSH_SETUP: &str = r#"
zstyle ':completion:*' completer _all_matches _complete
zstyle ':completion:*' insert true
show() { print -r -- "<$BUFFER>" >>shown; BUFFER=; print SHOWN }
zle -N show
bindkey '^X' show
print LOADED
"#;

const FISH: &str = r#"
phi3-loader completions fish | source
for line in $argv
    set words (complete -C $line | string replace -r '\t.*' '')
    echo "<$words >"
end
"#;

/// Checks that the output of a shell has the words that complete each line.
#[track_caller]
fn completes(output: &str) {
    let answers: Vec<_> = output.lines().filter_map(|line| line.strip_prefix('<')).collect();
    assert_eq!(answers.len(), CASES.len(), "{output}");
    for (answer, (line, words)) in answers.iter().zip(CASES) {
        // Only some shells insert the slash of a folder.
        let answer = format!(" {}", answer.replace('\\', "").replace("/ ", " "));
        for word in *words {
            assert!(answer.contains(&format!(" {word} ")), "{line}: {word} is not in {answer}");
        }
        assert!(!answer.contains("notes.txt"), "{line}: {answer}");
    }
}

fn lines() -> Vec<String> {
    CASES.iter().map(|(line, _)| format!("phi3-loader {line}")).collect()
}

/// Fills the folder with files to complete, and returns a command that runs a shell in it, for at most a minute. If
/// the shell is not installed, says so and returns `None`.
fn shell(name: &str, folder: &Path) -> Option<Command> {
    if let Err(error) = Command::new(name).arg("--version").stdout(Stdio::null()).status() {
        let _ = writeln!(io::stderr(), "skipped: completion in {name}: {error}");
        return None;
    }
    fs::create_dir(folder.join("folder")).unwrap();
    for file in ["model.gguf", "spa ced.gguf", "folder/inner.gguf", "notes.txt"] {
        fs::write(folder.join(file), "").unwrap();
    }
    UnixListener::bind(folder.join("keeper.sock")).unwrap();
    let programs = Path::new(PROGRAM).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    // In a session of its own, an interactive shell cannot take the terminal of the tests.
    let mut shell = Command::new("timeout");
    shell.args(["60", "setsid", "--wait", name]).current_dir(folder);
    shell.env("PATH", path).env("HOME", folder).env("TERM", "vt100").env("INPUTRC", "/dev/null");
    without_settings(&mut shell);
    Some(shell)
}

fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn bash_completes() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut bash) = shell("bash", folder.path()) else { return };
    let keys: String = lines().iter().map(|line| format!("{line}\x18a\x18s")).collect();
    fs::write(folder.path().join("keys"), format!("{BASH}{keys}\n")).unwrap();
    let keys = fs::File::open(folder.path().join("keys")).unwrap();
    completes(&stdout(bash.args(["--norc", "--noprofile", "-i"]).stdin(keys)));
}

#[test]
fn zsh_completes() {
    let compinit = "autoload -Uz compinit && compinit -u -D";
    for loaded in [
        format!("{compinit}; source <(phi3-loader completions zsh)"),
        format!("phi3-loader completions zsh >_phi3-loader; fpath+=($PWD); {compinit}"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let Some(mut zsh) = shell("zsh", folder.path()) else { return };
        fs::write(folder.path().join("setup.zsh"), loaded + ZSH_SETUP).unwrap();
        completes(&stdout(zsh.args(["-f", "-c", ZSH, "zsh"]).args(lines())));
    }
}

#[test]
fn fish_completes() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut fish) = shell("fish", folder.path()) else { return };
    completes(&stdout(fish.args(["--no-config", "-c", FISH]).args(lines())));
}

#[test]
fn keys_of_resident_weights_are_completed() {
    let keeper = KeeperProcess::start(&[]);
    let key = publishes(&small_model(), &keeper.socket(), &[]);
    for command in ["drop", "verify"] {
        let mut completing = program(["--", "phi3-loader", "resident", command, &key[..4]]);
        completing.env("PHI3_LOADER_COMPLETE", "bash").env("PHI3_LOADER_SOCKET", keeper.socket());
        assert_eq!(stdout(&mut completing), format!("{key}\n"));
    }
}

#[test]
fn scripts_are_printed_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = program(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains("PHI3_LOADER_COMPLETE"), "{script}");
    }
}
