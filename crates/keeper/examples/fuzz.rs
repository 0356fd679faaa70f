//! Fuzzes the decoder of manifests with a stable toolchain: `cargo run --profile fuzz --example fuzz -- SECONDS
//! [SEED]`.

use std::process::ExitCode;

use keeper::Manifest;

#[path = "../fuzz/driver.rs"]
mod driver;
#[path = "../fuzz/promises.rs"]
mod promises;

use driver::{Random, Target};

/// First bytes of items of CBOR: the types, each with numbers of all sizes and of indefinite length.
const TYPES: [u8; 8] = [0x00, 0x20, 0x40, 0x60, 0x80, 0xa0, 0xc0, 0xe0];

/// Numbers that are special as a length, a count, or a value.
const NUMBERS: [u64; 12] = [
    0,
    1,
    23,
    24,
    255,
    256,
    (1 << 16) - 1,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    0x7ff0_0000_0000_0000,
    u64::MAX,
];

fn main() -> ExitCode {
    driver::main(&Target {
        folder: concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz"),
        corpus: "manifest",
        extension: "manifest",
        check: promises::check,
        signature,
        at_the_start: &["NOT_A_MANIFEST", "VERSION"],
        special: item,
    })
}

/// Returns the outcome: the message without numbers, or the counts of what a manifest has.
fn signature(bytes: &[u8]) -> String {
    match Manifest::decode(bytes) {
        Ok(manifest) => {
            let counts = [manifest.parts.len(), manifest.files.len(), manifest.descriptors()];
            format!("{:?}", counts.map(|count| count.min(3)))
        }
        Err(error) => error.to_string().chars().filter(|c| !c.is_ascii_digit()).collect(),
    }
}

/// Returns the start of an item of CBOR: its type with a number.
fn item(random: &mut Random, _: usize) -> Vec<u8> {
    let first = TYPES[random.below(TYPES.len())];
    let number = NUMBERS[random.below(NUMBERS.len())].to_be_bytes();
    match random.below(6) {
        0 => vec![first | 31],
        1 => vec![first | random.below(24) as u8],
        // One, two, four or eight bytes follow.
        size => {
            let width = 1 << (size - 2);
            [&[first | (22 + size) as u8], &number[8 - width..]].concat()
        }
    }
}
