//! Checks the magic, and recognises other formats.

use crate::error::{Error, Item, MalformedKind, OtherFormat};
use crate::reader::Reader;

pub(crate) const MAGIC: [u8; 4] = *b"GGUF";

const CONVERT: &str =
    "convert the model with llama.cpp's convert_hf_to_gguf.py, or give a .gguf file";
const CONVERT_AGAIN: &str = "convert the original model again with a current llama.cpp";
const UNPACK: &str = "unpack it first";

/// First bytes of files that users mistake for GGUF files.
const OTHERS: &[(&[u8], OtherFormat)] = &[
    (b"PK\x03\x04", OtherFormat { what: "a zip archive or PyTorch checkpoint", cure: CONVERT }),
    (b"\x80\x02", OtherFormat { what: "a Python pickle or old PyTorch checkpoint", cure: CONVERT }),
    (b"lmgg", OtherFormat { what: "a GGML file from before GGUF", cure: CONVERT_AGAIN }),
    (b"fmgg", OtherFormat { what: "a GGMF file from before GGUF", cure: CONVERT_AGAIN }),
    (b"tjgg", OtherFormat { what: "a GGJT file from before GGUF", cure: CONVERT_AGAIN }),
    (b"algg", OtherFormat { what: "a GGLA adapter from before GGUF", cure: CONVERT_AGAIN }),
    (
        b"FUGG",
        OtherFormat {
            what: "GGUF with its bytes swapped",
            cure: "convert the file with llama.cpp's gguf_convert_endian.py, or fetch the \
                   little-endian one",
        },
    ),
    (b"version https://git-lfs", LFS_POINTER),
    // The name of Git LFS before 2014.
    (b"version https://hawser", LFS_POINTER),
    (b"<", WEB_PAGE),
    // In UTF-16, in both byte orders.
    (b"\xff\xfe<\0", WEB_PAGE),
    (b"\xfe\xff\0<", WEB_PAGE),
    (
        b"{",
        OtherFormat {
            what: "JSON",
            cure: "give the .gguf file; if a server sent JSON instead of the file, read its message",
        },
    ),
    (b"\x1f\x8b", OtherFormat { what: "a gzip archive", cure: UNPACK }),
    (b"\x28\xb5\x2f\xfd", OtherFormat { what: "a zstd archive", cure: UNPACK }),
    (b"\xfd7zXZ", OtherFormat { what: "an xz archive", cure: UNPACK }),
    (b"\x89HDF", OtherFormat { what: "an HDF5 file", cure: CONVERT }),
    (
        b"\0\0\0\0",
        OtherFormat {
            what: "an unfinished download",
            cure: "the download is incomplete: fetch the file again",
        },
    ),
];

const LFS_POINTER: OtherFormat = OtherFormat {
    what: "a Git LFS pointer, whose content was not fetched",
    cure: "run `git lfs pull` in the repository that the file is from",
};

const WEB_PAGE: OtherFormat = OtherFormat {
    what: "a web page",
    cure: "a web page was saved in place of the file: fetch the file by its download link (on Hugging \
           Face `/resolve/` in place of `/blob/`), and log in if the site requires it",
};

const SAFETENSORS: OtherFormat = OtherFormat { what: "a safetensors file", cure: CONVERT };

/// Number of bytes in which another format is recognised. Web pages can begin with blank lines.
const INSPECTED_BYTES: usize = 4096;

/// Reads and checks the magic.
pub(crate) fn check(reader: &mut Reader<'_>) -> Result<(), Error> {
    let start = reader.peek(INSPECTED_BYTES);
    // If the file is shorter than the magic, compare the bytes that it has.
    let available = reader.left_in_file().min(MAGIC.len() as u64);
    let magic = reader.take(available).map_err(|s| s.while_reading(Item::Magic))?;
    if magic == MAGIC {
        return Ok(());
    }
    if MAGIC.starts_with(magic) {
        return Err(Error::Truncated {
            item: Item::Magic,
            offset: 0,
            needed: MAGIC.len() as u64,
            available,
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

fn looks_like(start: &[u8]) -> Option<&'static OtherFormat> {
    // safetensors starts with 8 bytes of length, followed by the brace of a JSON object.
    if start.get(8) == Some(&b'{') {
        return Some(&SAFETENSORS);
    }
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let starts_with =
        |beginning: &[u8]| start.starts_with(beginning) || text.starts_with(beginning);
    OTHERS.iter().find(|(beginning, _)| starts_with(beginning)).map(|(_, format)| format)
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
    fn each_format_has_its_own_cure() {
        for (bytes, cure) in [
            (&b"version https://git-lfs.github.com/spec/v1\n"[..], "git lfs pull"),
            (b"<!DOCTYPE html>", "/resolve/"),
            (b"\n  <html>", "/resolve/"),
            (b"\xef\xbb\xbf<html>", "/resolve/"),
            (&[&[b' '; 500][..], b"<html>"].concat(), "/resolve/"),
            (b"\xff\xfe<\0h\0", "/resolve/"),
            (b"\xfe\xff\0<\0h", "/resolve/"),
            (b"version https://hawser.github.com/spec/v1\n", "git lfs pull"),
            (b"\x48\x01\0\0\0\0\0\0{\"__metadata__\"", "convert_hf_to_gguf.py"),
            (b"FUGG\0\0\0\x03", "gguf_convert_endian.py"),
            (b"\x1f\x8b\x08\0", "unpack"),
            (b"random bytes", "fetched completely"),
        ] {
            let help = refusal(bytes).help().unwrap();
            assert!(help.contains(cure), "{help}");
            assert_eq!(help.contains("convert_hf"), cure.contains("convert_hf"), "{help}");
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
