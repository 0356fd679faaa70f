//! Recognises the names of parts of a file that a tool has cut into pieces.

use std::path::Path;

/// Returns whether the file name is that of a part: `x.gguf.part1of2`, `x.gguf-split-a`, `x.gguf.part-aa`,
/// `x.gguf.001`, `x.gguf.aa`. The extension can also follow, as in `x-split-a.gguf`.
pub(crate) fn is_part_name(path: &Path) -> bool {
    let Some(name) = path.file_name() else { return false };
    let name = name.as_encoded_bytes().to_ascii_lowercase();
    let stem = name.strip_suffix(b".gguf").unwrap_or(&name);
    let after = |marker: &[u8]| {
        let at = stem.windows(marker.len()).rposition(|window| window == marker)?;
        stem.get(at.saturating_add(marker.len())..)
    };
    let is_number = |rest: &[u8]| rest.first().is_some_and(u8::is_ascii_digit);
    let is_label = |rest: &[u8]| {
        let is_letters = (1..=3).contains(&rest.len()) && rest.iter().all(u8::is_ascii_lowercase);
        is_letters || is_number(rest)
    };
    let is_counted = |rest: &[u8]| match rest.split_first() {
        Some((b'.' | b'-' | b'_', label)) => is_label(label),
        _ => is_number(rest),
    };
    let is_gguf_ending = after(b".gguf.").is_some_and(|rest| {
        let is_number = rest.len() >= 2 && rest.iter().all(u8::is_ascii_digit);
        let is_pair = rest.len() == 2 && rest.iter().all(u8::is_ascii_lowercase);
        is_number || is_pair
    });
    is_gguf_ending
        || [&b".part"[..], b"-part", b"_part"].iter().any(|m| after(m).is_some_and(is_counted))
        || [&b"-split-"[..], b".split-"].iter().any(|m| after(m).is_some_and(is_label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_file_are_recognised_by_their_names() {
        for name in [
            "x.gguf.part1of2",
            "x.gguf.part2of2",
            "X.GGUF-split-a",
            "x.gguf-split-b",
            "x.gguf.split-aa",
            "x.gguf.part-aa",
            "x.gguf.part.1",
            "x.gguf.part01",
            "x.part1.gguf",
            "x-part-a.gguf.aa",
            "x.gguf.001",
            "x.gguf.aa",
            "x-split-a.gguf",
            "x-part-a.gguf",
        ] {
            assert!(is_part_name(Path::new(name)), "{name}");
        }
        for name in [
            "x.gguf",
            "x-00001-of-00002.gguf",
            "x.gguf.bak",
            "x.gguf.1",
            "department.gguf",
            "x.particle.gguf",
            "x-split-attention.gguf",
            "x.partial",
            "",
        ] {
            assert!(!is_part_name(Path::new(name)), "{name}");
        }
    }
}
