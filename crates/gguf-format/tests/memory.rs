//! Checks that parsing takes a small multiple of the file's bytes, independent of the counts in the file.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod raw;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use gguf_format::{ErrorClass, Gguf, GgufFile, Limits};
use raw::{ARRAY, Raw, STRING, U8, array, info, kv, valid};

/// Counts the allocations of this thread.
struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    /// Number of large allocations of this thread that succeed before one fails.
    static LARGE_LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Allocations of this size in bytes or more count as large. Lists are that large; the texts of errors are not.
const LARGE: usize = 4096;

/// Returns whether this allocation must fail.
fn fails(size: usize) -> bool {
    size >= LARGE
        && LARGE_LEFT
            .try_with(|left| {
                let now = left.get();
                left.set(now.checked_sub(1).unwrap_or(usize::MAX));
                now == 0
            })
            .unwrap_or(false)
}

fn count(change: isize) {
    // A thread that is ending no longer has counters. Ignore its allocations.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + change);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
}

// SAFETY: every call is passed on to the system's allocator unchanged, or fails as an allocator may.
// Counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if fails(layout.size()) {
            return std::ptr::null_mut();
        }
        count(layout.size() as isize);
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if fails(new_size) {
            return std::ptr::null_mut();
        }
        count(new_size as isize - layout.size() as isize);
        // SAFETY: the caller's guarantees are passed on.
        unsafe { System.realloc(memory, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work`. Returns the most bytes that were allocated at the same time.
fn peak<T>(work: impl FnOnce() -> T) -> usize {
    let before = NOW.get();
    PEAK.set(before);
    drop(work());
    (PEAK.get() - before) as usize
}

#[test]
fn announced_counts_allocate_nothing() {
    for count in [1 << 20, 1 << 31, 1 << 40, 1 << 63, u64::MAX] {
        let files = [
            Raw { kv_count: Some(count), ..valid() }.bytes(),
            Raw { tensor_count: Some(count), ..valid() }.bytes(),
            Raw::default().kv("k", ARRAY, array(STRING, count, [0; 64])).bytes(),
            Raw::default().kv("k", ARRAY, array(ARRAY, count, [0; 64])).bytes(),
        ];
        for bytes in files {
            assert!(peak(|| Gguf::parse(&bytes).unwrap_err()) < 16 << 10);
        }
    }
}

#[test]
fn a_vocabulary_is_not_copied() {
    let tokens = raw::string("token").repeat(500_000);
    let bytes = Raw::default().kv("tokens", ARRAY, array(STRING, 500_000, tokens)).bytes();
    assert!(peak(|| Gguf::parse(&bytes).unwrap()) < 4 << 10);
}

#[test]
fn inner_arrays_are_not_listed() {
    let inner = array(U8, 0, []).repeat(100_000);
    let bytes = Raw::default().kv("k", ARRAY, array(ARRAY, 100_000, inner)).bytes();
    assert!(peak(|| Gguf::parse(&bytes).unwrap()) < 4 << 10);
}

#[test]
fn the_smallest_keys_and_tensors_take_a_small_multiple_of_their_bytes() {
    let kvs = (0..100_000).map(|i| kv(format!("{i:05x}"), U8, [1])).collect();
    let infos = (0..100_000).map(|i| info(format!("{i:05x}"), &[0], 0, 0)).collect();
    let keys = Raw { kvs, ..Raw::default() };
    let tensors = Raw { infos, ..Raw::default() }.data(32);
    for bytes in [keys.bytes(), tensors.bytes()] {
        let peak = peak(|| Gguf::parse(&bytes).unwrap());
        assert!(peak < 16 * bytes.len(), "{peak} bytes for a file of {}", bytes.len());
    }
}

#[test]
fn lists_do_not_exceed_the_memory_limit() {
    let kvs = (0..10_000).map(|i| kv(format!("{i:05x}"), U8, [1])).collect();
    let infos = (0..10_000).map(|i| info(format!("{i:05x}"), &[0], 0, 0)).collect();
    let keys = Raw { kvs, ..Raw::default() };
    let tensors = Raw { infos, ..Raw::default() }.data(32);
    for bytes in [keys.bytes(), tensors.bytes()] {
        let fits = |limit: u64| {
            let limits = Limits::default().with_max_memory(limit);
            let mut fits = true;
            let peak = peak(|| match Gguf::parse_with(&bytes, &limits) {
                Ok(_) => (),
                Err(error) => {
                    assert_eq!(error.code(), "GGUF_OUT_OF_MEMORY", "{error}");
                    fits = false;
                }
            });
            // The text of the error and the header of the map are not counted.
            assert!(peak as u64 <= limit + 1024, "{peak} bytes with a limit of {limit}");
            fits
        };
        let needed = (0..32).map(|bit| 1 << bit).find(|&limit| fits(limit)).unwrap();
        assert!(needed <= 4 << 20, "{needed}");
        assert!(fits(u64::MAX >> 1));
    }
}

/// Calls `open` again and again, and makes each large allocation in turn fail. Returns the number of these
/// allocations.
fn with_each_allocation_failing<T>(open: impl Fn() -> Result<T, gguf_format::Error>) -> usize {
    for succeed in 0.. {
        LARGE_LEFT.set(succeed);
        let answer = open();
        // After a failure, the countdown starts again from a large number.
        let failed = LARGE_LEFT.replace(usize::MAX) > succeed;
        match answer {
            Ok(_) if !failed => return succeed,
            Ok(_) => panic!("allocation {succeed} failed unnoticed"),
            Err(error) => {
                let found = (error.code(), error.class());
                assert_eq!(found, ("GGUF_OUT_OF_MEMORY", ErrorClass::Memory), "{error}");
            }
        }
    }
    unreachable!("some number of allocations is enough")
}

#[test]
fn each_failed_allocation_gives_an_error() {
    let kvs = (0..3000).map(|i| kv(format!("{i:05x}"), U8, [1])).collect();
    let infos = (0..3000).map(|i| info(format!("{i:05x}"), &[0], 0, 0)).collect();
    let bytes = Raw { kvs, infos, ..Raw::default() }.bytes();
    // Lists and maps of keys and tensors, which grow by doubling.
    assert!(with_each_allocation_failing(|| Gguf::parse(&bytes)) > 20);

    let folder = tempfile::tempdir().unwrap();
    let path = |no: u16| folder.path().join(format!("m-{:05}-of-00002.gguf", no + 1));
    for no in 0..2u16 {
        let infos = (0..2000).map(|i| info(format!("{no}.{i:05x}"), &[0], 0, 0)).collect();
        let shard = Raw { infos, ..Raw::default() }.kv("split.count", 2, 2u16.to_le_bytes()).kv(
            "split.no",
            2,
            no.to_le_bytes(),
        );
        std::fs::write(path(no), shard.bytes()).unwrap();
    }
    // Also the lists of the joined catalogue.
    assert!(with_each_allocation_failing(|| GgufFile::open(path(0))) > 20);
}
