//! Tells dependents where `phi3_weights.h` is.

fn main() {
    let manifest_dir = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::metadata=include={manifest_dir}/include");
    println!("cargo::rerun-if-changed=include");
}
