//! Tests of the program on a terminal: progress bars and colours.

use crate::common::model_path;
use crate::environment::without_settings;
use crate::program::{PROGRAM, Ran, program};
use crate::small_model::write_large_model;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command};
use tempfile::TempDir;

const ROWS: u16 = 24;
const WIDTHS: [u16; 3] = [40, 80, 200];

/// A program on a terminal of its own.
struct Session {
    child: Child,
    keyboard: File,
    screen: vt100::Parser,
    /// Everything that the program has written.
    written: String,
}

impl Session {
    fn start(columns: u16, arguments: &[&str]) -> Self {
        Self::with(columns, arguments, |_| ())
    }

    fn with(columns: u16, arguments: &[&str], more: impl FnOnce(&mut Command)) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        resize(&File::from(terminal.try_clone().unwrap()), columns);
        let path = ptsname(&terminal, Vec::new()).unwrap();
        let path = OsStr::from_bytes(path.as_bytes());
        let stdio = || File::options().read(true).write(true).open(path).unwrap();
        // It becomes the controlling terminal, whose keys send signals.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait", PROGRAM]).args(arguments);
        command.stdin(stdio()).stdout(stdio()).stderr(stdio()).env("TERM", "xterm");
        without_settings(&mut command);
        more(&mut command);
        Self {
            child: command.spawn().unwrap(),
            keyboard: File::from(terminal),
            screen: vt100::Parser::new(ROWS, columns, 0),
            written: String::new(),
        }
    }

    /// Reads what the program writes next. Returns false when it has ended.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        // When the last process has closed the terminal, a read fails.
        let count = self.keyboard.read(&mut bytes).unwrap_or(0);
        self.screen.process(&bytes[..count]);
        self.written += &String::from_utf8_lossy(&bytes[..count]);
        count != 0
    }

    /// Returns the lines on the screen.
    fn lines(&self) -> Vec<String> {
        let (_, columns) = self.screen.screen().size();
        let rows = self.screen.screen().rows(0, columns);
        rows.map(|row| row.trim_end().to_owned()).filter(|row| !row.is_empty()).collect()
    }

    /// Waits until this number of lines on the screen contain the text. Returns all lines.
    #[track_caller]
    fn wait_for(&mut self, text: &str, count: usize) -> Vec<String> {
        while self.lines().iter().filter(|line| line.contains(text)).count() != count {
            assert!(self.read(), "{text}: {}", self.written);
        }
        self.lines()
    }

    /// Waits for the end of the program. Returns its exit code.
    fn end(&mut self) -> Option<i32> {
        while self.read() {}
        self.child.wait().unwrap().code()
    }

    /// Presses Ctrl-C, and checks that only the error stays on the screen.
    #[track_caller]
    fn cancel(mut self) {
        self.keyboard.write_all(b"\x03").unwrap();
        assert_eq!(self.end(), Some(130), "{}", self.written);
        assert_eq!(self.lines(), ["error[CANCELLED]: cancelled"], "{}", self.written);
        assert!(!self.screen.screen().hide_cursor());
    }
}

fn resize(terminal: &File, columns: u16) {
    let size = Winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

fn large_model(dir: &TempDir) -> String {
    let path = dir.path().join("large.gguf");
    write_large_model(&path);
    path.to_str().unwrap().to_owned()
}

/// Returns a load that takes several seconds.
fn long_load(path: &str) -> Vec<&str> {
    vec!["load", path, "--device=host", "--threads=1", "--chunk=4096", "--verify=readback"]
}

#[test]
fn bars_fit_the_screen_and_ctrl_c_clears_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_model(&dir);
    let out = dir.path().join("big.gguf");
    for columns in WIDTHS {
        let synth = ["synth", out.to_str().unwrap(), "--preset=mini-4k"];
        let bench = ["bench", &path, "--device=host", "--repeat=1000", "--verify=readback"];
        for (arguments, label, figure) in [
            (&long_load(&path)[..], "loading ", " % ["),
            (&["verify", &path], "verifying ", " % ["),
            (&synth, "writing ", " % ["),
            (&bench, "step 1 of 6: warm loads, ", " of 1000  "),
        ] {
            let mut session = Session::start(columns, arguments);
            let lines = session.wait_for(figure, 1);
            assert!(lines.len() == 1 && lines[0].starts_with(label), "{columns}: {lines:?}");
            if figure == " % [" {
                assert!(lines[0].contains("ETA"), "{lines:?}");
                assert_eq!(lines[0].contains("/s"), columns > 40, "{lines:?}");
            }
            session.cancel();
        }
    }
}

#[test]
fn a_bar_follows_the_width_of_its_window() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_model(&dir);
    let mut session = Session::start(200, &long_load(&path));
    session.wait_for("/s  ETA", 1);
    // The screen stays wide here: it still has to show what the program wrote before it saw the new width.
    resize(&session.keyboard, 40);
    let lines = session.wait_for("]  ETA", 1);
    assert!(lines.len() == 1 && lines[0].chars().count() <= 40, "{lines:?}");
    session.cancel();
}

#[test]
fn several_devices_have_a_line_each() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_model(&dir);
    for columns in WIDTHS {
        let mut arguments = long_load(&path);
        arguments[2] = "--device=host,host";
        let mut session = Session::start(columns, &arguments);
        let lines = session.wait_for(" % [", 3);
        let starts = ["loading ", "  host ", "  host "];
        assert!(lines.iter().zip(starts).all(|(line, start)| line.starts_with(start)), "{lines:?}");
        assert_eq!(lines.len(), 3, "{lines:?}");
        session.cancel();
    }
}

#[test]
fn each_step_of_a_load_has_a_bar_that_is_cleared_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_model(&dir);
    let dump = format!("--dump={}", dir.path().join("dump.safetensors").to_str().unwrap());
    let load = [&long_load(&path)[..], &[&dump, "-v"]].concat();
    let mut session = Session::start(200, &load);
    assert_eq!(session.end(), Some(0), "{}", session.written);
    for label in ["loading ", "verifying ", "dumping "] {
        assert!(session.written.contains(label), "{label}: {}", session.written);
    }
    let lines = session.lines();
    assert!(!lines.iter().any(|line| line.contains("ETA")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("INFO")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("dumped ")), "{lines:?}");
}

#[test]
fn there_is_no_bar_if_it_is_not_wanted_or_cannot_be_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let path = large_model(&dir);
    for (option, terminal) in [("--quiet", "xterm"), ("--json", "xterm"), ("--verbose", "dumb")] {
        let load = ["load", &path, "--device=host", option];
        let mut session = Session::with(80, &load, |command| {
            command.env("TERM", terminal);
        });
        assert_eq!(session.end(), Some(0));
        assert!(!session.written.contains("\x1b[J"), "{}", session.written);
        assert!(terminal != "dumb" || !session.written.contains('\x1b'), "{}", session.written);
    }
}

#[test]
fn colours_follow_the_option_the_environment_and_the_terminal() {
    let no_file = ["verify", "nowhere.gguf"];
    let wrong_use = ["load", "--no-such-option"];
    let help = ["load", "--help"];
    let model = model_path("fused-f16.gguf");
    let verify = ["verify", model.to_str().unwrap()];
    for arguments in [&no_file[..], &wrong_use, &help, &verify] {
        for (choice, variable, on_terminal, in_pipe) in [
            ("auto", None, true, false),
            ("auto", Some(("NO_COLOR", "1")), false, false),
            ("auto", Some(("NO_COLOR", "")), true, false),
            ("auto", Some(("CLICOLOR_FORCE", "\u{1b}")), true, true),
            ("always", Some(("NO_COLOR", "1")), true, true),
            ("always", None, true, true),
            ("never", Some(("CLICOLOR_FORCE", "1")), false, false),
        ] {
            let what = format!("{arguments:?} {choice} {variable:?}");
            let arguments = [arguments, &["--color", choice]].concat();
            let mut session = Session::with(80, &arguments, |command| {
                command.envs(variable);
            });
            session.end();
            assert_eq!(session.written.contains("\x1b[0m"), on_terminal, "{what}");
            let ran = Ran::of(program(&arguments).envs(variable));
            let text = [ran.stdout(), ran.stderr()].concat();
            assert_eq!(text.contains("\x1b[0m"), in_pipe, "{what}");
        }
    }
    let json = ["load", verify[1], "--device=host", "--json", "--color=always"];
    assert!(!Ran::of(&mut program(json)).stdout().contains('\x1b'));
}
