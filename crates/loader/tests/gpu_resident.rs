//! Weights that outlive their model and its process, on the first GPU. Fails if there is none. `cargo xtask test-gpu` runs
//! it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stdout, reason = "a child process tells its parent how far it is")]

#[allow(dead_code, reason = "other tests use the rest")]
mod common;
#[path = "common/driver.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod driver;
#[path = "common/resident.rs"]
mod resident;

use common::{go_on, model_path};
use cuda_sys::{Device, DeviceKind};
use driver::Driver;
use keeper::{Connection, Found, Keeper, KeeperOptions, Store};
use loader::{
    CancelToken, DeviceChoice, LoadOptions, LoadedModel, Loader, Mismatch, Replace, Resident, Slot,
};
use resident::{Shelf, assert_equal, attach, load, parts_outlive_their_model, resident_suite};
use std::io::{BufRead, BufReader, Lines, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

const GPU: DeviceChoice = DeviceChoice::Cuda(0);
const MODEL: &str = "fused-k-quants.gguf";
/// Its value is the socket of the keeper.
const SOCKET: &str = "PHI3_TEST_KEEPER";

resident_suite!(GPU);

#[test]
fn parts_are_attached_together() {
    parts_outlive_their_model(&[GPU, DeviceChoice::Host]);
    parts_outlive_their_model(&[GPU, GPU]);
    if cuda_sys::cuda_devices().unwrap().len() > 1 {
        parts_outlive_their_model(&[GPU, DeviceChoice::Cuda(1)]);
        parts_outlive_their_model(&[DeviceChoice::Cuda(1), GPU]);
    }
}

fn free_memory() -> u64 {
    Device::open(DeviceKind::Cuda(0)).unwrap().memory().unwrap().unwrap().free
}

fn plain() -> LoadedModel {
    let options = LoadOptions::new().device(GPU);
    Loader::new(options).load(model_path(MODEL), &mut go_on).unwrap()
}

#[test]
fn attaching_takes_no_memory_and_a_hundred_cycles_leave_none() {
    let options = LoadOptions::new().device(GPU);
    let cycle = || {
        let mut shelf = Shelf::default();
        drop(load(&options, &model_path(MODEL), &mut shelf, Mismatch::Fail).unwrap());
        let published = free_memory();
        let attached = load(&options, &model_path(MODEL), &mut shelf, Mismatch::Fail).unwrap();
        let beside = attach(shelf.only()).unwrap();
        assert_eq!(attached.stats().resident, Resident::Attached);
        // The digests of each model take a block of the driver, whatever the size of the model.
        assert!(published - free_memory() <= 4 << 20, "attaching takes no memory for weights");
        drop((attached, beside));
    };
    cycle();
    let before = free_memory();
    for _ in 0..100 {
        cycle();
    }
    assert_eq!(free_memory(), before);
}

#[test]
fn replaced_models_leave_no_memory() {
    let mut loader = Loader::new(LoadOptions::new().device(GPU).shareable(true));
    let names = ["fused-f16.gguf", "fused-k-quants.gguf", "split-q8_0.gguf"];
    let mut rounds = |count: usize| {
        let mut model = loader.load(model_path(names[0]), &mut go_on).unwrap();
        for name in names.iter().cycle().take(count) {
            let (path, token) = (model_path(name), CancelToken::new());
            let how = Replace::ReuseMemory;
            model = loader.replace(model, path, how, &mut go_on, &token).unwrap();
        }
    };
    rounds(3);
    let before = free_memory();
    rounds(100);
    assert_eq!(free_memory(), before);
}

/// A keeper in this process, which runs while `work` does.
fn with_keeper(work: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("keeper.sock");
    let mut keeper = Keeper::bind(&socket, KeeperOptions::new()).unwrap();
    let (stop, stopper) = std::io::pipe().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || keeper.run(stop.as_fd()).unwrap());
        // The keeper ends also if the work panics.
        let _stopper = stopper;
        work(&socket);
    });
}

/// One test of this program in another process.
struct Other {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(test: &str, socket: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--ignored"])
            .env(SOCKET, socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, output }
    }

    /// Waits until the process has printed this line.
    fn wait_for(&mut self, line: &str) {
        let mut lines = self.output.by_ref().map(Result::unwrap);
        assert!(lines.any(|found| found == line), "the process ended before {line:?}");
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn load_through(socket: &Path) -> LoadedModel {
    let mut connection = Connection::open(socket).unwrap();
    let mut loader = Loader::new(LoadOptions::new().device(GPU));
    let token = CancelToken::new();
    let path = model_path(MODEL);
    loader.load_resident(path, &mut connection, Mismatch::Fail, &mut go_on, &token).unwrap()
}

fn socket_of_parent() -> PathBuf {
    std::env::var_os(SOCKET).expect("only its parent runs this").into()
}

#[test]
#[ignore = "a process that publishes weights and is killed"]
fn publisher() {
    let model = load_through(&socket_of_parent());
    println!("\nresident {:?}", model.stats().resident);
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn weights_outlive_a_killed_process() {
    let plain = plain();
    with_keeper(|socket| {
        for resident in ["Published", "Attached", "Attached"] {
            let mut other = Other::start("publisher", socket);
            other.wait_for(&format!("resident {resident}"));
            other.kill();
            let attached = load_through(socket);
            assert_eq!(attached.stats().resident, Resident::Attached);
            assert_equal(&attached, &plain);
        }
    });
}

const ILLEGAL_ADDRESS: i32 = 700;

#[test]
#[ignore = "a process whose kernel writes to weights"]
fn stray_kernel() {
    let model = load_through(&socket_of_parent());
    let norm = model.slot(Slot::OutputNorm).unwrap();
    // SAFETY: the GPU refuses to write to protected weights.
    let status = unsafe { Driver::open().store(0, norm.address, 7) };
    println!("\nkernel {status}");
    assert!(model.read_slot(Slot::OutputNorm).is_err(), "the context has ended");
    println!("\nended");
    // Nothing of CUDA can be given back in order any more.
    std::process::abort();
}

#[test]
fn a_kernel_that_writes_to_weights_ends_its_context_and_not_the_weights() {
    // Memory that is not protected can be written.
    let writable = plain();
    let norm = writable.slot(Slot::OutputNorm).unwrap();
    let before = writable.read_slot(Slot::OutputNorm).unwrap().unwrap();
    // SAFETY: no one else uses this model.
    assert_eq!(unsafe { Driver::open().store(0, norm.address, 7) }, 0);
    assert_ne!(writable.read_slot(Slot::OutputNorm).unwrap().unwrap(), before);

    let plain = plain();
    with_keeper(|socket| {
        for _ in ["the publisher's kernel", "that of another process"] {
            let mut stray = Other::start("stray_kernel", socket);
            stray.wait_for(&format!("kernel {ILLEGAL_ADDRESS}"));
            stray.wait_for("ended");
            stray.kill();
            let attached = load_through(socket);
            assert_eq!(attached.stats().resident, Resident::Attached);
            assert_equal(&attached, &plain);
        }
    });
}

#[test]
fn another_gpu_writes_to_memory_that_it_has_access_to() {
    if cuda_sys::cuda_devices().unwrap().len() == 1 {
        return;
    }
    let [first, second] = [0, 1].map(|ordinal| Device::open(DeviceKind::Cuda(ordinal)).unwrap());
    let mut buffer = first.allocate_shareable(4096).unwrap();
    buffer.give_access(&second).unwrap();
    // SAFETY: no one else uses the buffer.
    assert_eq!(unsafe { Driver::open().store(1, buffer.address(), 7) }, 0);
    let mut value = [0; 4];
    buffer.read(0, &mut value).unwrap();
    assert_eq!(u32::from_ne_bytes(value), 7);
}

#[test]
fn a_keeper_gives_the_memory_back() {
    drop(plain());
    let before = free_memory();
    with_keeper(|socket| {
        drop(load_through(socket));
        assert!(free_memory() < before);
        let mut connection = Connection::open(socket).unwrap();
        let listed = connection.list().unwrap();
        let key = &listed[0].manifest.key;
        assert!(matches!(connection.find(key, &mut || true), Ok(Found::Entry(_))));
        assert!(connection.remove(key).unwrap());
        assert_eq!(free_memory(), before);
    });
}
