//! Tests of the program on every GPU of the machine. If there is no GPU, they fail.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../../loader/tests/common/mod.rs"]
#[expect(dead_code, reason = "other targets use the rest")]
mod common;
#[path = "program/environment.rs"]
mod environment;

use common::model_path;
use cuda_sys::{Device, DeviceKind};
use environment::without_settings;
use keeper::Connection;
use serde_json::Value;
use std::process::Command;

/// The variable that hides GPUs.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

fn gpus() -> i32 {
    let gpus = i32::try_from(cuda_sys::cuda_devices().unwrap().len()).unwrap();
    assert!(gpus > 0, "this test needs a GPU");
    gpus
}

fn program() -> Command {
    // The GPU archive names its copy of the program.
    let program = std::env::var_os("PHI3_LOADER_BIN");
    let mut program =
        Command::new(program.unwrap_or_else(|| env!("CARGO_BIN_EXE_phi3-loader").into()));
    without_settings(&mut program);
    program
}

fn load(ordinal: i32, more: &[&str]) -> Command {
    let mut load = program();
    load.arg("load").arg(model_path("fused-f16.gguf")).arg(format!("--device=cuda:{ordinal}"));
    load.args(more);
    load
}

/// Loads a model. Checks the name of the device in all events, and returns its free memory before the load.
#[track_caller]
fn free_on(load: &mut Command, name: &str) -> u64 {
    let output = load.arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = std::str::from_utf8(&output.stdout).unwrap().lines();
    let events: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut devices = events.iter().filter_map(|event| event["device"].as_str());
    assert!(devices.all(|device| device == name), "{events:?}");
    events.last().unwrap()["memory"]["free_before_bytes"].as_u64().unwrap()
}

#[test]
fn a_gpu_keeps_its_ordinal_although_the_others_are_hidden() {
    const OCCUPIED: u64 = 4 << 30;
    let last = gpus() - 1;
    let name = format!("cuda:{last}");
    let free = free_on(&mut load(last, &[]), &name);
    let occupied = Device::open(DeviceKind::Cuda(last)).unwrap().allocate(OCCUPIED).unwrap();
    assert!(free_on(&mut load(last, &[]), &name) < free - OCCUPIED / 2, "another GPU was used");
    let log = load(last, &["-v"]).output().unwrap();
    let log = String::from_utf8(log.stderr).unwrap();
    assert!(log.contains(&format!("device={name}")), "{log}");
    if last > 0 {
        // The order of the user's list counts.
        let list: Vec<_> = (0..=last).rev().map(|gpu| gpu.to_string()).collect();
        let list = list.join(",");
        let others = free_on(load(last, &[]).env(VISIBLE, &list), &name);
        let occupied = free_on(load(0, &[]).env(VISIBLE, &list), "cuda:0");
        assert!(occupied < others - OCCUPIED / 2, "the list {list} has another order");
    }
    drop(occupied);
}

#[test]
fn a_gpu_that_does_not_exist_has_the_same_error_with_and_without_a_list() {
    let gpus = gpus();
    let output = load(gpus, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(&format!("CUDA device {gpus} does not exist: {gpus} visible")), "{text}");
    let output = load(1, &[]).env(VISIBLE, "0,-1,1").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("CUDA device 1 does not exist: 1 visible"), "{text}");
}

#[test]
fn weights_stay_in_a_keeper_without_a_driver() {
    let last = gpus() - 1;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("keeper.sock");
    let mut keeper = program().args(["hold", "--quiet", "--socket"]).arg(&socket).spawn().unwrap();
    while Connection::open(&socket).is_err() {
        assert!(keeper.try_wait().unwrap().is_none(), "the keeper has ended");
    }
    let dump = |resident: &str| {
        let dump = folder.path().join("dump.safetensors");
        let mut load = load(last, &["--json", "--dump", dump.to_str().unwrap()]);
        if resident != "off" {
            load.arg("--resident").arg(&socket);
        }
        let output = load.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let finished: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(finished["resident"], resident, "{finished}");
        std::fs::read(dump).unwrap()
    };
    let plain = dump("off");
    assert!(dump("published") == plain);
    assert!(dump("attached") == plain);
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", keeper.id())).unwrap();
    assert!(!maps.contains("libcuda.so"), "{maps}");
    let verified =
        program().args(["resident", "verify", "--socket"]).arg(&socket).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    keeper.kill().unwrap();
    keeper.wait().unwrap();
}

#[test]
fn a_message_about_memory_names_the_gpu_of_the_user() {
    let last = gpus() - 1;
    let output = load(last, &["--vram-limit=1"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(&format!("cuda:{last} cannot hold the weights")), "{text}");
}
