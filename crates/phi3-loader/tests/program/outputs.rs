//! Tests of output files: the files that they may replace, and the files that remain after a failure.

use crate::common::model_path;
use crate::program::{Ran, below_shell, program, run};
use crate::small_model::{TENSORS, phi3_keys};
use gguf_format::write::GgufWriter;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A folder with a model in one file, and another in three shards.
struct Models {
    dir: TempDir,
}

impl Models {
    fn new() -> Self {
        let models = Self { dir: tempfile::tempdir().unwrap() };
        fs::copy(model_path("fused-f16.gguf"), models.path("model.gguf")).unwrap();
        for no in 0..3 {
            let mut writer = if no == 0 { phi3_keys() } else { GgufWriter::new() };
            writer.split(no as u16, 3, TENSORS.len() as i32);
            for (name, dims, ggml_type) in &TENSORS[no * 3..(no + 1) * 3] {
                writer.tensor(*name, dims, *ggml_type);
            }
            let bytes = writer.to_bytes(|_, data| data.fill(0x11)).unwrap();
            fs::write(models.path(&format!("m-{:05}-of-00003.gguf", no + 1)), bytes).unwrap();
        }
        models
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns the name and content of every file in the folder.
    fn contents(&self) -> Vec<(OsString, Vec<u8>)> {
        let entries = fs::read_dir(self.dir.path()).unwrap().map(Result::unwrap);
        let mut contents: Vec<_> = entries
            .filter(|entry| entry.path().is_file())
            .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
            .collect();
        contents.sort();
        contents
    }

    /// Runs a command in this folder. Checks that it fails with a usage error and changes no file.
    #[track_caller]
    fn refuses(&self, command: &mut Command) {
        let before = self.contents();
        let ran = Ran::of(command.current_dir(self.dir.path()));
        assert_eq!(ran.code(), 2, "{command:?}: {}", ran.stderr());
        assert!(ran.stderr().starts_with("error: "), "{}", ran.stderr());
        assert!(ran.stderr().contains("are the same file"), "{}", ran.stderr());
        assert_eq!(ran.stdout(), "", "{command:?}");
        assert!(self.contents() == before, "{command:?} changed a file");
    }
}

/// Returns command lines that read `model` and write `output`.
fn writers(model: &str, output: &str) -> [Command; 5] {
    [
        program(["load", model, "--device=host", "--dump", output]),
        program(["load", model, "--device=host", "--json", "--dump", output]),
        program(["load", model, "--device=host", "--quiet", "--timeline", output]),
        program(["bench", model, "--device=host", "--repeat=1", "--svg", output]),
        program(["bench", model, "--device=host", "--repeat=1", "--markdown", output]),
    ]
}

#[test]
fn no_output_replaces_the_model_that_is_read() {
    let models = Models::new();
    let folder = models.path("folder");
    fs::create_dir(&folder).unwrap();
    fs::hard_link(models.path("model.gguf"), folder.join("hard")).unwrap();
    symlink("model.gguf", models.path("link")).unwrap();
    symlink("../link", folder.join("link-to-link")).unwrap();
    symlink(models.dir.path(), models.path("other-folder")).unwrap();
    let absolute = models.path("model.gguf");
    for output in [
        "model.gguf",
        "./model.gguf",
        "folder/../model.gguf",
        absolute.to_str().unwrap(),
        "folder/hard",
        "link",
        "folder/link-to-link",
        "other-folder/model.gguf",
    ] {
        for mut command in writers("model.gguf", output) {
            models.refuses(&mut command);
        }
    }
    for mut command in writers("link", "model.gguf") {
        models.refuses(&mut command);
    }
}

#[test]
fn no_output_replaces_any_shard_of_the_model() {
    let models = Models::new();
    symlink("m-00003-of-00003.gguf", models.path("link")).unwrap();
    for named in ["m-00001-of-00003.gguf", "m-00003-of-00003.gguf"] {
        for output in ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "link"] {
            for mut command in writers(named, output) {
                models.refuses(&mut command);
            }
        }
    }
}

#[test]
fn a_model_whose_header_cannot_be_read_is_not_replaced() {
    let models = Models::new();
    fs::write(models.path("model.gguf"), "this is no model").unwrap();
    for mut command in writers("model.gguf", "model.gguf") {
        models.refuses(&mut command);
    }
}

#[test]
fn two_outputs_that_are_the_same_file_are_refused() {
    let models = Models::new();
    fs::create_dir(models.path("folder")).unwrap();
    symlink("folder", models.path("other")).unwrap();
    symlink("other/new", models.path("dangling")).unwrap();
    fs::write(models.path("old"), "old content").unwrap();
    fs::hard_link(models.path("old"), models.path("hard")).unwrap();
    for (dump, timeline) in [
        ("new", "new"),
        ("new", "./folder/../new"),
        ("folder/new", "other/new"),
        ("dangling", "folder/new"),
        ("old", "old"),
        ("old", "hard"),
    ] {
        let load = ["load", "model.gguf", "--device=host", "--dump", dump, "--timeline", timeline];
        models.refuses(&mut program(load));
        let bench = ["bench", "model.gguf", "--device=host", "--svg", dump, "--markdown", timeline];
        models.refuses(&mut program(bench));
    }
    let load = ["load", "model.gguf", "--device=host", "--dump", "old", "--timeline", "new"];
    let ran = Ran::of(program(load).current_dir(models.dir.path()));
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
}

#[test]
fn no_chart_replaces_an_input_of_the_run() {
    let models = Models::new();
    fs::write(models.path("weights"), "weights").unwrap();
    fs::write(models.path("peer"), "#!/bin/sh\n").unwrap();
    let bench = ["bench", "model.gguf", "--device=host", "--repeat=1", "--peers"];
    models.refuses(program(bench).args(["--safetensors=weights", "--svg=./weights"]));
    models.refuses(program(bench).args(["--llama-bench=./peer", "--svg=peer"]));
    models.refuses(program(bench).args(["--python=./peer", "--svg=peer"]));
}

#[test]
fn standard_output_must_not_be_a_file_that_is_read_or_written() {
    let models = Models::new();
    let in_shell = |redirection: &str, arguments: &[&str]| {
        below_shell(&format!("exec {redirection}"), arguments)
    };
    fs::write(models.path("out"), "").unwrap();
    let load = ["load", "model.gguf", "--device=host"];
    for arguments in [&load[..], &["inspect", "model.gguf"], &["plan", "model.gguf", "--json"]] {
        models.refuses(&mut in_shell(">>model.gguf", arguments));
    }
    models.refuses(&mut in_shell(">>m-00003-of-00003.gguf", &["plan", "m-00001-of-00003.gguf"]));
    for stdout in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "-", "out"] {
        for option in ["--dump", "--timeline"] {
            for more in [&[][..], &["--json"], &["--json", "--quiet"]] {
                let load = [&load[..], &[option, stdout], more].concat();
                models.refuses(&mut in_shell(">out", &load));
            }
        }
        models.refuses(&mut in_shell(">out", &["synth", stdout]));
        models.refuses(&mut in_shell(">out", &["bench", "model.gguf", "--svg", stdout]));
    }
    models.refuses(&mut in_shell(">out", &[&load[..], &["--dump=-", "--timeline=-"]].concat()));
    let to_stderr = [&load[..], &["--quiet", "--dump", "/proc/self/fd/2"]].concat();
    let ran = Ran::of(in_shell("2>err", &to_stderr).current_dir(models.dir.path()));
    assert_eq!(ran.output.status.code(), Some(2));
    assert!(fs::read_to_string(models.path("err")).unwrap().contains("are the same file"));
}

#[test]
fn no_message_is_written_into_a_file_that_is_read() {
    let models = Models::new();
    let before = models.contents();
    let shard = ["m-00001-of-00003.gguf", "m-00003-of-00003.gguf"];
    for (named, read) in
        [("model.gguf", "model.gguf"), ("./model.gguf", "model.gguf"), shard.into()]
    {
        for command in
            [&["inspect"][..], &["plan", "-vv"], &["load", "--dump=."], &["load"], &["bench"]]
        {
            let arguments = [command, &[named]].concat();
            let mut below = below_shell(&format!("exec 2>>{read}"), arguments);
            let ran = Ran::of(below.current_dir(models.dir.path()));
            assert_eq!((ran.code(), ran.stdout()), (2, ""), "{command:?} {read}");
            assert!(models.contents() == before, "{command:?} changed a file");
        }
    }
}

#[test]
fn with_quiet_standard_output_can_be_the_output_file() {
    let dir = tempfile::tempdir().unwrap();
    let model = model_path("fused-f16.gguf");
    let load = ["load", model.to_str().unwrap(), "--device=host", "--quiet"];
    let path = dir.path().join("out");
    let plain = dir.path().join("plain");
    assert_eq!(run([&load[..], &["--dump", plain.to_str().unwrap()]].concat()).code(), 0);
    for stdout in ["/dev/stdout", "-"] {
        let dump = [&load[..], &["--dump", stdout]].concat();
        let ran = Ran::with_stdout(&mut program(&dump), File::create(&path).unwrap());
        assert_eq!((ran.code(), ran.stderr()), (0, ""));
        assert!(fs::read(&path).unwrap() == fs::read(&plain).unwrap());
    }
    let synth = ["synth", "-", "--quiet"];
    assert_eq!(Ran::with_stdout(&mut program(synth), File::create(&path).unwrap()).code(), 0);
    assert_eq!(run(["inspect", path.to_str().unwrap()]).code(), 0);
}

#[test]
fn an_output_replaces_a_file_that_was_opened_to_append() {
    let models = Models::new();
    let load = ["load", "model.gguf", "--device=host", "--quiet", "--dump"];
    let plain = Ran::of(program(load).arg("plain").current_dir(models.dir.path()));
    assert_eq!(plain.code(), 0);
    fs::write(models.path("out"), "old content").unwrap();
    let out = File::options().append(true).open(models.path("out")).unwrap();
    let ran = Ran::with_stdout(program(load).arg("-").current_dir(models.dir.path()), out);
    assert_eq!((ran.code(), ran.stderr()), (0, ""));
    assert!(fs::read(models.path("out")).unwrap() == fs::read(models.path("plain")).unwrap());
    let help = run(["load", "--help"]);
    let words: Vec<_> = help.stdout().split_whitespace().collect();
    assert!(words.join(" ").contains("`>>`"));
}

#[test]
fn messages_call_standard_output_by_its_name() {
    let models = Models::new();
    let load = ["load", "model.gguf", "--device=host", "--quiet"];
    let bench = ["bench", "model.gguf", "--device=host", "--repeat=1", "--quiet"];
    let commands = [
        [&load[..], &["--dump=-"]].concat(),
        [&load[..], &["--timeline=-"]].concat(),
        [&bench[..], &["--svg=-"]].concat(),
        vec!["synth", "-", "--quiet"],
    ];
    for command in &commands {
        let in_folder = |mut command: Command, stdout: Stdio| {
            Ran::with_stdout(command.current_dir(models.dir.path()), stdout)
        };
        let ran = in_folder(program(command), Stdio::piped());
        assert_eq!((ran.code(), ran.stdout()), (7, ""), "{command:?}");
        let start = "error[WRITE_FAILED]: standard output: it is not a regular file";
        assert!(ran.stderr().starts_with(start), "{}", ran.stderr());

        let out = File::create(models.path("out")).unwrap();
        let ran = in_folder(below_shell("ulimit -f 0", command), out.into());
        assert_eq!(ran.code(), 7, "{command:?}: {}", ran.stderr());
        let start = "error[WRITE_FAILED]: standard output: File too large";
        assert!(ran.stderr().starts_with(start), "{}", ran.stderr());
    }
    let ran = Ran::of(
        below_shell("exec >out", ["load", "model.gguf", "--device=host", "--dump=-"])
            .current_dir(models.dir.path()),
    );
    let start = "error: --dump - and standard output are the same file; ";
    assert!(ran.stderr().starts_with(start), "{}", ran.stderr());
}

#[test]
fn only_regular_files_are_replaced() {
    let models = Models::new();
    let pipe = models.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let socket = models.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    symlink("pipe", models.path("link")).unwrap();
    let folder = models.dir.path();
    let outputs = [&pipe, &socket, &models.path("link"), folder, Path::new("/dev/null")];
    for output in outputs.map(|path| path.to_str().unwrap()) {
        let mut commands = Vec::from(writers("model.gguf", output));
        commands.push(program(["synth", output]));
        for mut command in commands {
            let ran = Ran::of(command.current_dir(folder));
            assert_eq!(ran.code(), 7, "{command:?}: {}", ran.stderr());
            assert!(ran.stderr().starts_with("error[WRITE_FAILED]: "), "{}", ran.stderr());
            assert!(ran.stderr().contains("not a regular file"), "{}", ran.stderr());
        }
    }
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
}

#[test]
fn an_output_that_cannot_be_written_is_reported_before_the_load() {
    let models = Models::new();
    fs::create_dir(models.path("folder")).unwrap();
    // In /proc, not even root can create a file.
    for output in ["no/such/file", "folder", "folder/", "model.gguf/file", "/proc/phi3-loader"] {
        let mut commands = Vec::from(writers("model.gguf", output));
        commands.push(program(["synth", output]));
        for mut command in commands {
            // The load would fail as well, with another exit code.
            command.env("PHI3_LOADER_VRAM_LIMIT", "0").current_dir(models.dir.path());
            let ran = Ran::of(&mut command);
            assert_eq!(ran.code(), 7, "{command:?}: {}", ran.stderr());
            let start = format!("error[WRITE_FAILED]: {output}: ");
            assert!(ran.stderr().starts_with(&start), "{command:?}: {}", ran.stderr());
            let events: Vec<_> =
                ran.json_lines().iter().map(|line| line["event"].clone()).collect();
            assert!(events.iter().all(|event| event == "failed"), "{events:?}");
        }
    }
}

#[test]
fn synth_replaces_a_file_only_with_force() {
    let models = Models::new();
    fs::write(models.path("old"), "old content").unwrap();
    symlink("old", models.path("link")).unwrap();
    symlink("new", models.path("link-to-new")).unwrap();
    let synth = |arguments: &[&str]| {
        let command = [&["synth"], arguments].concat();
        Ran::of(program(command).current_dir(models.dir.path()))
    };
    let before = models.contents();
    for path in ["old", "link", "./old"] {
        let ran = synth(&[path]);
        assert_eq!((ran.code(), ran.stdout()), (2, ""), "{}", ran.stderr());
        let start = format!("error: {path} exists; --force replaces it\n");
        assert!(ran.stderr().starts_with(&start), "{}", ran.stderr());
    }
    let old = fs::OpenOptions::new().append(true).open(models.path("old")).unwrap();
    let ran = Ran::of(program(["synth", "-", "--quiet"]).stdout(old));
    assert_eq!(ran.code(), 2);
    assert!(ran.stderr().starts_with("error: standard output has content; --force"));
    assert!(models.contents() == before);
    for arguments in [&["new"][..], &["link-to-new", "--force"], &["old", "--force"]] {
        let ran = synth(arguments);
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
    }
    assert!(fs::read(models.path("old")).unwrap() == fs::read(models.path("new")).unwrap());
}

#[test]
fn an_output_that_exceeds_the_size_limit_changes_no_file() {
    let models = Models::new();
    for before in [None, Some("old content")] {
        for mut command in [
            below_shell("ulimit -f 1", ["load", "model.gguf", "--device=host", "--dump=out"]),
            below_shell(
                "ulimit -f 1",
                [
                    "load",
                    "model.gguf",
                    "--device=host",
                    "--chunk=4096",
                    "--read-size=4096",
                    "--timeline=out",
                ],
            ),
            below_shell("ulimit -f 1", ["synth", "out", "--force"]),
            below_shell("ulimit -f 1", ["bench", "model.gguf", "--repeat=1", "--svg=out"]),
        ] {
            if let Some(before) = before {
                fs::write(models.path("out"), before).unwrap();
            }
            let contents = models.contents();
            let ran = Ran::of(command.current_dir(models.dir.path()));
            assert_eq!(ran.code(), 7, "{command:?}: {}", ran.stderr());
            assert!(
                ran.stderr().starts_with("error[WRITE_FAILED]: out: File too large"),
                "{}",
                ran.stderr()
            );
            assert!(models.contents() == contents, "{command:?}");
        }
    }
}

#[test]
fn two_programs_that_write_one_file_do_not_mix_their_content() {
    let models = Models::new();
    let alone = ["1", "2"].map(|seed| {
        assert_eq!(run(["synth", models.path(seed).to_str().unwrap(), "--seed", seed]).code(), 0);
        fs::read(models.path(seed)).unwrap()
    });
    for _ in 0..5 {
        let start = |seed| {
            let mut synth = program(["synth", "both", "--force", "--seed", seed]);
            synth.current_dir(models.dir.path()).stdout(Stdio::null()).spawn().unwrap()
        };
        let both = ["1", "2"].map(start);
        for mut synth in both {
            assert!(synth.wait().unwrap().success());
        }
        assert!(alone.contains(&fs::read(models.path("both")).unwrap()));
    }
}
