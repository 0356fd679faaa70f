//! Tests of the spans and events that a load gives to `tracing`. They have a process of their own, and run one after
//! the other: `tracing` may lose events while another thread adds or removes a subscriber.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use loader::{CancelToken, DeviceChoice, LoadOptions, Loader, Unobserved};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tracing_subscriber::fmt::MakeWriter;

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Returns the lines that the work logs on this thread.
fn logged(filter: &str, work: impl FnOnce()) -> Vec<String> {
    static ONE_SUBSCRIBER: Mutex<()> = Mutex::new(());
    let _one = ONE_SUBSCRIBER.lock().unwrap_or_else(PoisonError::into_inner);
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_env_filter(filter)
        .with_ansi(false)
        .without_time()
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn model_path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models")).join(name)
}

fn loader() -> Loader {
    Loader::new(LoadOptions::new().device(DeviceChoice::Host))
}

#[test]
fn every_event_of_a_load_is_in_one_span_whatever_the_method() {
    let path = model_path("fused-f16.gguf");
    let file = || std::fs::File::open(&path).unwrap();
    let loads: [&dyn Fn(&mut Loader); 3] = [
        &|loader| drop(loader.load(&path, &mut Unobserved).unwrap()),
        &|loader| drop(loader.load_file(file(), &mut Unobserved).unwrap()),
        &|loader| {
            let token = CancelToken::new();
            drop(loader.load_cancellable(&path, &mut Unobserved, &token).unwrap());
        },
    ];
    for load in loads {
        let lines = logged("debug", || load(&mut loader()));
        assert!(lines.iter().all(|line| line.contains(" load{path=")), "{lines:#?}");
        let last = lines.last().unwrap();
        assert!(last.contains("model resident") && last.contains("device=host"), "{last}");
        for line in &lines {
            for field in ["path=", "storage=", "verify="] {
                assert_eq!(line.matches(field).count(), 1, "{line}");
            }
        }
    }
}

#[test]
fn units_are_logged_at_debug_and_a_few_of_them_at_info() {
    let load = || drop(loader().load(model_path("fused-f16.gguf"), &mut Unobserved).unwrap());
    let units = |lines: &[String]| lines.iter().filter(|line| line.contains(" loaded ")).count();
    let debug = logged("debug", load);
    assert_eq!(units(&debug), 5, "{debug:#?}");
    let info = logged("info", load);
    assert_eq!(units(&info), 0, "{info:#?}");
    let progress: Vec<_> = info.iter().filter(|line| line.contains(": loading unit=")).collect();
    // 5 units: after 2, 3 and 4 of them a quarter, a half and three quarters are complete.
    assert_eq!(progress.len(), 3, "{info:#?}");
    assert!(progress[0].contains("unit=2 of=5 "), "{progress:#?}");
}

#[test]
fn a_failed_load_is_logged_with_code_and_class() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent.gguf");
    let lines = logged("info", || drop(loader().load(&path, &mut Unobserved).unwrap_err()));
    let [line] = &lines[..] else { panic!("{lines:#?}") };
    assert!(line.contains("ERROR load{path="), "{line}");
    assert!(line.contains("load failed: cannot read "), "{line}");
    for field in
        ["code=\"FILE_NOT_FOUND\"", "class=\"MODEL_LOAD_FAILED\"", "retriable=false", "absent.gguf"]
    {
        assert!(line.contains(field), "{field}: {line}");
    }

    let token = CancelToken::new();
    token.cancel();
    let cancelled = || {
        let model = model_path("fused-f16.gguf");
        drop(loader().load_cancellable(model, &mut Unobserved, &token).unwrap_err());
    };
    let lines = logged("info", cancelled);
    let [line] = &lines[..] else { panic!("{lines:#?}") };
    assert!(line.contains(" INFO ") && line.contains("code=\"CANCELLED\""), "{line}");
}
