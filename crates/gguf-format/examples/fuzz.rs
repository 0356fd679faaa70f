//! Fuzzes the parser with a stable toolchain: `cargo run --profile fuzz --example fuzz -- SECONDS [SEED]`.

use std::process::ExitCode;

use gguf_format::Gguf;

#[path = "../fuzz/driver.rs"]
mod driver;
#[path = "../fuzz/promises.rs"]
mod promises;

use driver::{Random, Target};

/// Values that are special as a length, a count, a type or an offset.
const NUMBERS: [u64; 24] = [
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    12,
    13,
    31,
    32,
    64,
    65,
    256,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 31,
    u64::MAX,
];

fn main() -> ExitCode {
    driver::main(&Target {
        folder: concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz"),
        corpus: "parse",
        extension: "gguf",
        check: promises::check,
        signature,
        at_the_start: &["GGUF_BAD_MAGIC", "GGUF_UNSUPPORTED_VERSION", "GGUF_BIG_ENDIAN"],
        special: number,
    })
}

/// Returns the outcome of a file: the message without numbers and names, or the kinds of keys and tensors.
fn signature(bytes: &[u8]) -> String {
    match Gguf::parse(bytes) {
        Ok(gguf) => {
            let keys = gguf.metadata().iter().map(|(_, value)| value.type_name());
            let tensors = gguf.tensors().iter().map(|tensor| tensor.ggml_type().name());
            keys.chain(tensors).take(4).collect::<Vec<_>>().join(",")
        }
        Err(error) => {
            let text = error.to_string();
            let words = text.split('"').step_by(2).collect::<String>();
            words.chars().filter(|c| !c.is_ascii_digit()).collect()
        }
    }
}

/// Returns a number of 32 or 64 bits.
fn number(random: &mut Random, len: usize) -> Vec<u8> {
    let number = match random.below(3) {
        0 => NUMBERS[random.below(NUMBERS.len())],
        1 => random.below(70) as u64,
        _ => (len + random.below(16)).saturating_sub(8) as u64,
    };
    let width = if random.below(2) == 0 { 4 } else { 8 };
    number.to_le_bytes()[..width].to_vec()
}
