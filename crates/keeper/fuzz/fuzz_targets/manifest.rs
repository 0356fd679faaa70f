//! No bytes can make the decoder of manifests panic, hang or accept something false. `promises.rs` lists the
//! exact claims.
#![no_main]

#[path = "../promises.rs"]
mod promises;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    promises::check(bytes);
});
