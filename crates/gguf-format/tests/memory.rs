//! Memory that parsing takes: a small multiple of the bytes that are there, whatever they announce.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod raw;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use gguf_format::Gguf;
use raw::{ARRAY, Raw, STRING, U8, array, info, kv, valid};

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // A thread that is ending has no counters any more, and nothing to count.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + change);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
}

// SAFETY: every call is passed on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size as isize - layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(memory, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that was allocated at once while `work` ran, in bytes.
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
