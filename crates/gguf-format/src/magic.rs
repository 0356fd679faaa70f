//! The first four bytes, and what a file is that has others.

use crate::error::{Error, Item, MalformedKind};
use crate::reader::Reader;

const MAGIC: [u8; 4] = *b"GGUF";

/// Beginnings of files that people take for GGUF files.
const OTHERS: &[(&[u8], &str)] = &[
    (b"PK\x03\x04", "a zip archive or PyTorch checkpoint"),
    (b"\x80\x02", "a Python pickle or old PyTorch checkpoint"),
    (b"lmgg", "a GGML file from before GGUF"),
    (b"fmgg", "a GGMF file from before GGUF"),
    (b"tjgg", "a GGJT file from before GGUF"),
    (b"algg", "a GGLA adapter from before GGUF"),
    (b"FUGG", "GGUF with its bytes swapped"),
    (b"version https://git-lfs", "a Git LFS pointer, whose content was not fetched"),
    (b"<", "a web page"),
    (b"{", "JSON"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\0\0\0\0", "an unfinished download"),
];

/// Reads and checks the magic.
pub(crate) fn check(reader: &mut Reader<'_>) -> Result<(), Error> {
    let start = reader.peek(32);
    // As much of the magic as there is: what is shorter is no GGUF file either, but says what.
    let there = reader.left_in_file().min(MAGIC.len() as u64);
    let magic = reader.take(there).map_err(|s| s.while_reading(Item::Magic))?;
    if magic == MAGIC {
        return Ok(());
    }
    if MAGIC.starts_with(magic) {
        return Err(Error::Truncated {
            item: Item::Magic,
            offset: 0,
            needed: MAGIC.len() as u64,
            available: there,
        });
    }
    let mut found = [0; 4];
    for (to, from) in found.iter_mut().zip(magic) {
        *to = *from;
    }
    Err(Error::Malformed {
        offset: 0,
        kind: MalformedKind::BadMagic { found, looks_like: looks_like(start) },
    })
}

fn looks_like(start: &[u8]) -> Option<&'static str> {
    // safetensors starts with the length of a JSON object, whose brace follows.
    if start.get(8) == Some(&b'{') {
        return Some("a safetensors file");
    }
    OTHERS.iter().find(|(beginning, _)| start.starts_with(beginning)).map(|&(_, what)| what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;

    fn refusal(bytes: &[u8]) -> Error {
        check(&mut Reader::new(bytes, bytes.len() as u64, &Limits::default())).unwrap_err()
    }

    #[test]
    fn other_formats_are_named() {
        for (bytes, what) in [
            (&b"PK\x03\x04rest"[..], "zip"),
            (b"\x80\x02}q\x00", "pickle"),
            (b"\x48\x01\0\0\0\0\0\0{\"__metadata__\"", "safetensors"),
            (b"lmgg\x01\0\0\0", "GGML"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
            (b"<!DOCTYPE html>", "web page"),
            (b"\0\0\0\0\0\0\0\0", "unfinished"),
        ] {
            let message = refusal(bytes).to_string();
            assert!(message.contains("not a GGUF file") && message.contains(what), "{message}");
        }
    }

    #[test]
    fn unknown_bytes_are_shown_escaped() {
        assert_eq!(
            refusal(b"\x1b[2Jxxxx").to_string(),
            "malformed at byte 0: not a GGUF file: it starts with \"\\u{1b}[2J\""
        );
    }

    #[test]
    fn a_file_that_ends_inside_the_magic_is_truncated() {
        for n in 0..4 {
            assert!(matches!(
                refusal(&b"GGUF"[..n]),
                Error::Truncated { item: Item::Magic, offset: 0, needed: 4, .. }
            ));
        }
        assert!(matches!(refusal(b"GX"), Error::Malformed { .. }));
    }
}
