//! Names and keys of split models, as llama.cpp's `gguf-split` writes them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ShardKind};
use crate::gguf::Gguf;

/// The shard's position, from 0. `u16` in files.
pub(crate) const NO_KEY: &str = "split.no";
/// Number of shards. `u16` in files.
pub(crate) const COUNT_KEY: &str = "split.count";
/// Tensors of all shards together. `i32` in files.
pub(crate) const TENSORS_KEY: &str = "split.tensors.count";

const ARCHITECTURE_KEY: &str = "general.architecture";

/// The position of a shard in its model, from its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SplitKeys {
    /// From 0.
    pub(crate) no: u64,
    pub(crate) count: u64,
}

impl SplitKeys {
    /// Returns the keys of a shard, or `None` if the file is a complete model: without `split.count`, or with a
    /// count of 0 or 1.
    pub(crate) fn of(gguf: &Gguf<'_>) -> Result<Option<Self>, Error> {
        let metadata = gguf.metadata();
        let Some(count) = metadata.optional::<u64>(COUNT_KEY)?.filter(|&count| count > 1) else {
            return Ok(None);
        };
        Ok(Some(Self { no: metadata.require(NO_KEY)?, count }))
    }
}

/// Fails if a file is a complete model by its keys but a shard by its name or number: a damaged
/// `split.count` must not turn a shard into a model.
pub(crate) fn check_whole(path: &Path, gguf: &Gguf<'_>) -> Result<(), Error> {
    let no = gguf.metadata().optional::<u64>(NO_KEY).map_err(|error| error.in_file(path))?;
    let kind = match (no, ShardName::parse(path)) {
        (Some(no @ 1..), _) => ShardKind::Mismatch { key: NO_KEY, expected: 0, found: no },
        (_, Some(ShardName { no, count, .. })) if (no, count) != (1, 1) => {
            ShardKind::Whole { no, count }
        }
        _ => return Ok(()),
    };
    Err(Error::Shard { path: path.to_owned(), kind })
}

/// The parts of a name `PREFIX-00002-of-00003.gguf`. The prefix is any bytes. The numbers are not
/// checked against any file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShardName {
    /// The folder and everything before `-00002-of-`.
    prefix: OsString,
    /// From 1.
    pub(crate) no: u64,
    pub(crate) count: u64,
}

impl ShardName {
    pub(crate) fn parse(path: &Path) -> Option<Self> {
        // Not by the parts of the path: a name of a source that is no file must stay as it is.
        let name = path.as_os_str().as_bytes();
        let (rest, count) = split_number(name.strip_suffix(b".gguf")?)?;
        let (prefix, no) = split_number(rest.strip_suffix(b"-of")?)?;
        Some(Self { prefix: OsStr::from_bytes(prefix).to_owned(), no, count })
    }

    /// Returns the path of another shard, by its number from 1.
    pub(crate) fn sibling(&self, no: u64) -> PathBuf {
        let mut name = self.prefix.clone();
        name.push(format!("-{no:05}-of-{:05}.gguf", self.count));
        name.into()
    }
}

/// Splits `-` and five digits from the end.
fn split_number(name: &[u8]) -> Option<(&[u8], u64)> {
    let (rest, digits) = name.split_last_chunk::<5>()?;
    let digits = digits.iter().all(u8::is_ascii_digit).then_some(digits)?;
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((rest.strip_suffix(b"-")?, number))
}

/// Checks that a file's name matches its keys. Returns the parsed name, from which the names of the other
/// shards follow.
pub(crate) fn name_of(path: &Path, keys: SplitKeys) -> Result<ShardName, Error> {
    let shard_error = |kind| Error::Shard { path: path.to_owned(), kind };
    let SplitKeys { no, count } = keys;
    if no >= count {
        return Err(shard_error(ShardKind::NoBeyondCount { no, count }));
    }
    // Numbers in names start at 1.
    let name = ShardName::parse(path)
        .filter(|name| name.no > 0)
        .ok_or_else(|| shard_error(ShardKind::BadName { no: no.saturating_add(1), count }))?;
    check(path, keys, &name, name.no)?;
    Ok(name)
}

/// Checks that a shard's keys put it at number `no` (from 1) of the model called `name`.
pub(crate) fn check(path: &Path, keys: SplitKeys, name: &ShardName, no: u64) -> Result<(), Error> {
    let mismatch = |key, expected, found| {
        if expected == found {
            return Ok(());
        }
        let kind = ShardKind::Mismatch { key, expected, found };
        Err(Error::Shard { path: path.to_owned(), kind })
    };
    mismatch(COUNT_KEY, name.count, keys.count)?;
    mismatch(NO_KEY, no.saturating_sub(1), keys.no)
}

/// Checks that shards belong to one model: they have the same architecture, and together the announced number
/// of tensors. They must be in order, with checked numbers.
pub(crate) fn same_model<'n, 'g>(
    shards: impl Iterator<Item = (&'n Path, &'g Gguf<'g>)>,
) -> Result<(), Error> {
    let mut architecture = None;
    let mut announced = None;
    let mut found = 0u64;
    let mut last_path = None;
    for (path, gguf) in shards {
        let shard_error = |kind| Error::Shard { path: path.to_owned(), kind };
        let in_file = |error: Error| error.in_file(path);
        // Only the first shard must have it. Later shards usually have only the split keys.
        let own = gguf.metadata().optional::<&str>(ARCHITECTURE_KEY).map_err(in_file)?;
        if let (Some(own), Some(first)) = (own, architecture)
            && own != first
        {
            let why = "its general.architecture differs";
            return Err(shard_error(ShardKind::Foreign { why }));
        }
        architecture = architecture.or(own);
        let own = gguf.metadata().optional::<u64>(TENSORS_KEY).map_err(in_file)?;
        if let (Some(own), Some(first)) = (own, announced)
            && own != first
        {
            let kind = ShardKind::Mismatch { key: TENSORS_KEY, expected: first, found: own };
            return Err(shard_error(kind));
        }
        announced = announced.or(own);
        found = found.saturating_add(gguf.tensors().len() as u64);
        last_path = Some(path);
    }
    match (announced, last_path) {
        (Some(expected), Some(path)) if expected != found => {
            let kind = ShardKind::TensorCount { expected, found };
            Err(Error::Shard { path: path.to_owned(), kind })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_are_parsed_and_formatted() {
        let name = ShardName::parse(Path::new("/models/phi-3-00002-of-00003.gguf")).unwrap();
        assert_eq!((name.no, name.count), (2, 3));
        assert_eq!(name.sibling(1), Path::new("/models/phi-3-00001-of-00003.gguf"));
        let bytes = Path::new(OsStr::from_bytes(b"/m\xff/\xfe-00001-of-00002.gguf"));
        let sibling = ShardName::parse(bytes).unwrap().sibling(2);
        assert_eq!(sibling.as_os_str().as_bytes(), b"/m\xff/\xfe-00002-of-00002.gguf");
        let nameless = ShardName::parse(Path::new("-00001-of-00002.gguf")).unwrap();
        assert_eq!(nameless.sibling(2), Path::new("-00002-of-00002.gguf"));
        let dotted = ShardName::parse(Path::new("a.b-00010-of-00010.gguf")).unwrap();
        assert_eq!(dotted.sibling(7), Path::new("a.b-00007-of-00010.gguf"));
        // Names of sources that are not files stay as they are but for the number.
        for folder in ["store://", "a/./", "s3://bucket//"] {
            let name = ShardName::parse(Path::new(&format!("{folder}m-00001-of-00002.gguf")));
            let sibling = name.unwrap().sibling(2).into_os_string();
            assert_eq!(sibling, *format!("{folder}m-00002-of-00002.gguf"));
        }
    }

    #[test]
    fn other_names_are_not_parsed_as_shard_names() {
        for name in [
            "phi-3.gguf",
            "phi-00001-of-00003.bin",
            "phi-1-of-3.gguf",
            "phi-00001-of-3.gguf",
            "phi-0001-of-00003.gguf",
            "phi-+0001-of-00003.gguf",
            "phi-00001of-00003.gguf",
            "phi-000001-of-00003.gguf",
            "phi-00001-of-00003.GGUF",
            "00001-of-00003.gguf",
            "phi-00001-of-00003.gguf/",
            "",
        ] {
            assert_eq!(ShardName::parse(Path::new(name)), None, "{name}");
        }
    }
}
