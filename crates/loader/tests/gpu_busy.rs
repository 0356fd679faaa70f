//! Loads while the same process runs other work on the same GPU. If there is no GPU, the test fails. It is a
//! separate program, because a call of another test that waits for the whole device would wait for that work.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[expect(dead_code, reason = "other targets use the rest")]
mod common;
#[path = "common/driver.rs"]
#[expect(dead_code, reason = "other targets use the rest")]
mod driver;

use common::{go_on, model_path};
use driver::Driver;
use loader::{DeviceChoice, LoadOptions, Loader, Storage, Verify};
use std::ffi::c_void;
use std::sync::mpsc;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

const MODEL: &str = "fused-k-quants.gguf";

/// Much longer than the load of a small model. A load that takes longer is blocked.
const FOREVER: Duration = Duration::from_secs(60);

struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

static GATE: Gate = Gate { is_open: Mutex::new(false), opened: Condvar::new() };

unsafe extern "C" fn wait_at_gate(gate: *mut c_void) {
    // SAFETY: the test below passes this object, which lives as long as the process.
    let gate = unsafe { &*gate.cast::<Gate>() };
    let is_open = gate.is_open.lock().unwrap();
    drop(gate.opened.wait_while(is_open, |is_open| !*is_open).unwrap());
}

#[test]
fn a_load_does_not_wait_for_other_streams_of_the_gpu() {
    let options = LoadOptions::new().device(DeviceChoice::Cuda(0)).verify(Verify::Checksum);
    let mut loaders = [Storage::F16, Storage::Native]
        .map(|storage| Loader::new(options.clone().storage(storage)));
    // The first load in a process may wait, because the driver loads code. Do it before the gate closes.
    let first =
        loaders.each_mut().map(|loader| loader.load(model_path(MODEL), &mut go_on).unwrap());

    let driver = Driver::open();
    // SAFETY: the argument is the one for this function, and it lives as long as the process.
    unsafe {
        driver.call_in_stream(0, wait_at_gate, (&raw const GATE).cast_mut().cast());
    }
    let (sender, loaded) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let models =
            loaders.each_mut().map(|loader| loader.load(model_path(MODEL), &mut go_on).unwrap());
        sender.send(models).unwrap();
    });
    let models = loaded.recv_timeout(FOREVER);
    *GATE.is_open.lock().unwrap() = true;
    GATE.opened.notify_all();
    let models = models.expect("the loads waited for a stream of other work");
    thread.join().unwrap();
    for (before, beside) in first.iter().zip(&models) {
        assert!(before.fingerprint().unwrap() == beside.fingerprint().unwrap());
    }
}
