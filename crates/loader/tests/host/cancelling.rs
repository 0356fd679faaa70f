//! Cancelled loads.

use crate::common::{go_on, model_path};
use crate::observing::name;
use crate::small_model::write_large_model;
use loader::{CancelToken, DeviceChoice, Error, LoadEvent, LoadOptions, Loader, Verify};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

fn options() -> LoadOptions {
    LoadOptions::new().device(DeviceChoice::Host)
}

/// Checks the error of a cancelled load.
#[track_caller]
fn is_cancelled(error: &Error) {
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert_eq!((error.code(), error.exit_code()), ("CANCELLED", 130));
    assert!(error.retriable());
}

#[test]
fn a_load_with_a_cancelled_token_fails_before_it_opens_the_file() {
    let token = CancelToken::new();
    token.clone().cancel();
    let mut loader = Loader::new(options());
    let mut events = 0;
    let mut count = |_: &LoadEvent<'_>| {
        events += 1;
        ControlFlow::Continue(())
    };
    for path in ["fused-f16.gguf", "absent.gguf"] {
        is_cancelled(&loader.load_cancellable(model_path(path), &mut count, &token).unwrap_err());
    }
    assert_eq!(events, 0);
    loader.load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
}

#[test]
fn another_thread_can_cancel_at_every_event() {
    let mut loader = Loader::new(options());
    for at in ["opened", "planned", "allocated", "progress", "transferred", "verified", "finished"]
    {
        let token = CancelToken::new();
        let (ask, asked) = mpsc::channel::<()>();
        let (answer, answered) = mpsc::channel();
        let mut last = "";
        let error = std::thread::scope(|scope| {
            let token = &token;
            scope.spawn(move || {
                asked.recv().unwrap();
                token.cancel();
                answer.send(()).unwrap();
            });
            loader
                .load_cancellable(
                    model_path("fused-f16.gguf"),
                    &mut |event: &LoadEvent<'_>| {
                        last = name(event);
                        if last == at {
                            ask.send(()).unwrap();
                            answered.recv().unwrap();
                        }
                        ControlFlow::Continue(())
                    },
                    token,
                )
                .unwrap_err()
        });
        is_cancelled(&error);
        assert_eq!(last, at, "no event follows the cancellation");
        loader.load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
    }
}

#[test]
fn a_load_that_is_cancelled_at_any_moment_fails_or_is_complete() {
    let mut loader = Loader::new(options().verify(Verify::Readback));
    let start = Instant::now();
    loader.load(model_path("fused-k-quants.gguf"), &mut go_on).unwrap();
    let whole = start.elapsed();
    let mut cancelled = 0;
    for moment in 0..60 {
        let token = CancelToken::new();
        let (started, start) = mpsc::channel();
        let result = std::thread::scope(|scope| {
            let token = &token;
            scope.spawn(move || {
                let start: Instant = start.recv().unwrap();
                while start.elapsed() < whole * moment / 60 {
                    std::hint::spin_loop();
                }
                token.cancel();
            });
            started.send(Instant::now()).unwrap();
            loader.load_cancellable(model_path("fused-k-quants.gguf"), &mut go_on, token)
        });
        match result {
            Ok(model) => {
                assert_eq!(model.verify_residency().unwrap(), model.stats().proof.residency);
            }
            Err(error) => {
                is_cancelled(&error);
                cancelled += 1;
            }
        }
    }
    assert!(cancelled > 0);
    loader.load(model_path("fused-k-quants.gguf"), &mut go_on).unwrap();
}

/// The documented time limit from the cancellation to the return of the load.
const PROMISED: Duration = Duration::from_millis(100);

/// The number of tries. Only the shortest time counts, because other tests use the same cores.
const TRIES: u32 = 8;

/// Measures the time from the cancellation to the return of a load. The load is cancelled `after` the first
/// event for which `begins` returns true. Returns the shortest time of several tries, and stops after a try
/// within the limit.
fn time_to_return(
    loader: &mut Loader,
    path: &Path,
    after: Duration,
    begins: impl Fn(&LoadEvent<'_>) -> bool,
) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..TRIES {
        let token = CancelToken::new();
        let (begun, begin) = mpsc::channel();
        let (result, returned, cancelled) = std::thread::scope(|scope| {
            let token = &token;
            let canceller = scope.spawn(move || {
                begin.recv().unwrap();
                std::thread::sleep(after);
                let cancelled = Instant::now();
                token.cancel();
                cancelled
            });
            let result = loader.load_cancellable(
                path,
                &mut |event: &LoadEvent<'_>| {
                    if begins(event) {
                        // The receiver takes only the first message; ignore errors for later ones.
                        let _ = begun.send(());
                    }
                    ControlFlow::Continue(())
                },
                token,
            );
            let returned = Instant::now();
            drop(begun);
            (result, returned, canceller.join().unwrap())
        });
        is_cancelled(&result.map(drop).unwrap_err());
        best = best.min(returned.saturating_duration_since(cancelled));
        if best < PROMISED {
            break;
        }
    }
    best
}

#[test]
fn a_cancelled_transfer_returns_within_100_ms() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.gguf");
    write_large_model(&path);
    let mut loader = Loader::new(options().threads(2).chunk_bytes(1 << 20));
    let moving = |event: &LoadEvent<'_>| matches!(event, LoadEvent::Transferred { bytes, of_bytes, .. } if 0 < *bytes && bytes < of_bytes);
    let best = time_to_return(&mut loader, &path, Duration::ZERO, moving);
    assert!(best < PROMISED, "{best:?}");
    loader.load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
}

#[test]
fn a_cancelled_readback_returns_within_100_ms() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.gguf");
    write_large_model(&path);
    let mut loader = Loader::new(options().verify(Verify::Readback));
    let moved =
        |event: &LoadEvent<'_>| matches!(event, LoadEvent::Progress { unit, of, .. } if unit == of);
    let best = time_to_return(&mut loader, &path, Duration::from_millis(20), moved);
    assert!(best < PROMISED, "{best:?}");
    loader.load(model_path("fused-f16.gguf"), &mut go_on).unwrap();
}
