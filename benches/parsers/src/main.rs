//! Times `gguf-format` beside other readers of GGUF, on the same bytes in the same run:
//! `cargo run --release --manifest-path benches/parsers/Cargo.toml`.
//!
//! Prints, for each file and reader, the median, least and most of 51 runs in milliseconds, and
//! the median in multiples of the first. Readers take turns, so that a busy machine is busy for
//! all of them, and each turn starts with a run that does not count, so that no reader pays for
//! what the one before it left in the caches. Each parses the header from memory, and drops what
//! it made; `gguf-format, open` reads the file from disk, or rather from the page cache, too.
//!
//! What they do differs: `gguf-format` proves every range and name; `ggus` refuses duplicate keys
//! and names, proves no range, and borrows as well; `candle` and `gguf-rs` copy every string into a
//! tree of values.

#[path = "../../../crates/gguf-format/benches/model/mod.rs"]
mod model;

use std::hint::black_box;
use std::io::{Cursor, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use gguf_format::{Gguf, GgufFile};

const RUNS: usize = 51;

type Reader<'a> = (&'static str, Box<dyn FnMut() + 'a>);

fn main() -> std::io::Result<()> {
    let path = std::env::temp_dir().join(format!("parsers-{}.gguf", std::process::id()));
    for (name, tokens, merges) in model::FILES {
        // `gguf-rs` takes nothing that borrows.
        let bytes: &'static [u8] = model::file(tokens, merges).leak();
        std::fs::write(&path, bytes)?;
        let times = time(&mut readers(bytes, &path));
        println!("{name}, {} bytes", bytes.len());
        let mut first = None;
        for (reader, mut times) in times {
            times.sort_unstable();
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            let median = ms(times[RUNS / 2]);
            let ratio = median / *first.get_or_insert(median);
            let (least, most) = (ms(times[0]), ms(times[RUNS - 1]));
            println!("  {reader:<18} {median:>9.4} {least:>9.4} {most:>9.4} {ratio:>8.2} x");
        }
    }
    std::fs::remove_file(&path)
}

fn readers<'a>(bytes: &'static [u8], path: &'a Path) -> [Reader<'a>; 5] {
    [
        ("gguf-format", Box::new(|| drop(black_box(Gguf::parse(black_box(bytes)).unwrap())))),
        ("ggus", Box::new(|| drop(black_box(ggus::GGuf::new(black_box(bytes)).unwrap())))),
        ("gguf-rs", Box::new(|| drop(black_box(gguf_rs(black_box(bytes)))))),
        ("candle", Box::new(|| drop(black_box(candle(black_box(bytes)))))),
        ("gguf-format, open", Box::new(move || drop(black_box(GgufFile::open(path).unwrap())))),
    ]
}

fn gguf_rs(bytes: &'static [u8]) -> gguf_rs::GGUFModel {
    let mut cursor = Cursor::new(bytes);
    // It is given what follows the magic, from which it would tell the byte order.
    cursor.seek(SeekFrom::Start(4)).unwrap();
    let order = gguf_rs::ByteOrder::LE;
    gguf_rs::GGUFContainer::new(order, Box::new(cursor), u64::MAX).decode().unwrap()
}

fn candle(bytes: &[u8]) -> candle_core::quantized::gguf_file::Content {
    candle_core::quantized::gguf_file::Content::read(&mut Cursor::new(bytes)).unwrap()
}

/// Each reader's times.
fn time(readers: &mut [Reader<'_>]) -> Vec<(&'static str, Vec<Duration>)> {
    let mut times: Vec<_> = readers.iter().map(|(name, _)| (*name, Vec::new())).collect();
    for _ in 0..RUNS {
        for ((_, read), (_, times)) in readers.iter_mut().zip(&mut times) {
            read();
            let start = Instant::now();
            read();
            times.push(start.elapsed());
        }
    }
    times
}
