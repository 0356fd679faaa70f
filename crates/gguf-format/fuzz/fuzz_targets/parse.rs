//! Theory: a file from the internet can be refused, but it cannot make the parser panic, hang or
//! prove something false; see `promises.rs` for the exact claims.
#![no_main]

#[path = "../promises.rs"]
mod promises;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    promises::check(bytes);
});
