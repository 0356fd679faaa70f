//! Measures llama.cpp with its own `llama-bench`.
//!
//! The program does not print load times. On standard error it prints one line when it starts with a model,
//! and another when it runs the first prompt. The time between the two lines is the time of the load. In
//! addition to the weights it includes an empty context of a few tokens. If the program gets the same path
//! twice in a row, it keeps the model; therefore each path is spelled differently. The first load is not
//! counted, because it also creates the context of the device.

use super::{Measured, run};
use crate::args::Bench;
use cuda_sys::DeviceKind;
use gguf_format::path_text;
use loader::CancelToken;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const NOTE: &str =
    "Loads the model and an empty context; the first load of the process does not count.";

pub(super) fn measure(
    arguments: &Bench,
    device: DeviceKind,
    source_bytes: u64,
    token: &CancelToken,
) -> Result<Measured, String> {
    let program = arguments.llama_bench.as_ref().ok_or("--llama-bench is not given")?;
    let mut command = Command::new(program);
    command.args(["--progress", "-r", "1", "-p", "1", "-n", "0"]);
    match device {
        DeviceKind::Host => command.args(["-ngl", "0"]),
        DeviceKind::Cuda(ordinal) => {
            command.args(["-ngl", "999", "-sm", "none", "-mg", &ordinal.to_string()])
        }
    };
    for spelling in spellings(&arguments.file, arguments.repeat + 1)? {
        command.arg("-m").arg(spelling);
    }
    let seconds = load_times(&mut command, token)?;
    let [_, counted @ ..] = &seconds[..] else {
        return Err(format!("{} printed no load times", path_text(program)));
    };
    Ok(Measured { version: None, seconds: counted.to_vec(), bytes: source_bytes, note: NOTE })
}

/// Returns different paths to the same file: `a/b`, `a/./b`, `a/././b`.
fn spellings(file: &Path, count: u32) -> Result<Vec<PathBuf>, String> {
    let file = file.canonicalize().map_err(|error| error.to_string())?;
    let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
        return Err("the model has no path".to_owned());
    };
    Ok((0..count as usize).map(|index| folder.join("./".repeat(index)).join(name)).collect())
}

fn load_times(command: &mut Command, token: &CancelToken) -> Result<Vec<f64>, String> {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut times = LoadTimes::default();
    let start = Instant::now();
    run(command, token, &mut |_, line| times.line(line, start.elapsed().as_secs_f64()))?;
    Ok(times.seconds)
}

/// Computes load times from lines such as `llama-bench: benchmark 1/6: starting` and `llama-bench: benchmark
/// 1/6: warmup prompt run`.
#[derive(Default)]
struct LoadTimes {
    started: Option<f64>,
    seconds: Vec<f64>,
}

impl LoadTimes {
    fn line(&mut self, line: &str, now: f64) {
        if !line.contains(": benchmark ") {
            return;
        }
        if line.trim_end().ends_with(": starting") {
            self.started = Some(now);
        } else if let Some(started) = self.started.take() {
            self.seconds.push(now - started);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LoadTimes, spellings};
    use std::path::Path;

    #[test]
    fn a_load_lasts_from_its_start_to_the_first_prompt_run() {
        let mut times = LoadTimes::default();
        for (line, now) in [
            ("ggml_cuda_init: found 1 CUDA devices:", 0.5),
            ("llama-bench: benchmark 1/2: starting", 1.0),
            ("llama-bench: benchmark 1/2: warmup prompt run", 3.0),
            ("llama-bench: benchmark 1/2: prompt run 1/1", 4.0),
            ("llama-bench: benchmark 2/2: starting", 5.0),
            ("llama-bench: benchmark 2/2: prompt run 1/1", 5.5),
        ] {
            times.line(line, now);
        }
        assert_eq!(times.seconds, [2.0, 0.5]);
    }

    #[test]
    fn spellings_are_different_paths_to_the_same_file() {
        let paths = spellings(Path::new(env!("CARGO_MANIFEST_DIR")), 3).unwrap();
        let texts: Vec<_> = paths.iter().map(|path| path.as_os_str()).collect();
        assert!(texts[0] != texts[1] && texts[1] != texts[2]);
        for path in &paths {
            assert_eq!(path.canonicalize().unwrap(), paths[0]);
        }
    }
}
