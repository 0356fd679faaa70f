//! Names and keys of split models, as llama.cpp's `gguf-split` writes them.

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

/// What a shard's metadata say of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SplitKeys {
    /// From 0.
    pub(crate) no: u64,
    pub(crate) count: u64,
}

impl SplitKeys {
    /// The keys of a shard, or `None` where the file is a model of its own: without `split.count`,
    /// or with a count of 0 or 1.
    pub(crate) fn of(gguf: &Gguf<'_>) -> Result<Option<Self>, Error> {
        let metadata = gguf.metadata();
        let Some(count) = metadata.optional::<u64>(COUNT_KEY)?.filter(|&count| count > 1) else {
            return Ok(None);
        };
        Ok(Some(Self { no: metadata.require(NO_KEY)?, count }))
    }
}

/// `PREFIX-00002-of-00003.gguf`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShardName {
    /// The folder and everything before `-00002-of-`.
    prefix: PathBuf,
    /// From 1.
    pub(crate) no: u64,
    pub(crate) count: u64,
}

impl ShardName {
    pub(crate) fn parse(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (rest, count) = split_number(name.strip_suffix(".gguf")?)?;
        let (prefix, no) = split_number(rest.strip_suffix("-of")?)?;
        Some(Self { prefix: path.with_file_name(prefix), no, count })
    }

    /// The path of another shard, by its number from 1.
    pub(crate) fn sibling(&self, no: u64) -> PathBuf {
        let mut name = self.prefix.clone().into_os_string();
        name.push(format!("-{no:05}-of-{:05}.gguf", self.count));
        name.into()
    }
}

/// Cuts `-` and five digits from the end.
fn split_number(text: &str) -> Option<(&str, u64)> {
    let (rest, digits) = text.rsplit_once('-')?;
    let is_number = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
    Some((rest, digits.parse().ok().filter(|_| is_number)?))
}

/// Checks that a file's name says the same as its keys, and finds the names of the others.
pub(crate) fn name_of(path: &Path, keys: SplitKeys) -> Result<ShardName, Error> {
    let shard_error = |kind| Error::Shard { path: path.to_owned(), kind };
    let no = keys.no.saturating_add(1);
    let name = ShardName::parse(path)
        .ok_or_else(|| shard_error(ShardKind::BadName { no, count: keys.count }))?;
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

/// Checks that shards in order, with consistent places already, come from one model: one
/// architecture, and as many tensors as they announce.
pub(crate) fn same_model<'a>(
    shards: impl Iterator<Item = (&'a Path, &'a Gguf<'a>)>,
) -> Result<(), Error> {
    let mut architecture = None;
    let mut announced = None;
    let mut found = 0u64;
    let mut last_path = None;
    for (path, gguf) in shards {
        let shard_error = |kind| Error::Shard { path: path.to_owned(), kind };
        let in_file = |error: Error| error.in_file(path);
        // Only the first shard must have it; later ones usually hold nothing but the split keys.
        let own = gguf.metadata().optional::<&str>(ARCHITECTURE_KEY).map_err(in_file)?;
        if let (Some(own), Some(first)) = (own, architecture)
            && own != first
        {
            let why = "its general.architecture is another one";
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
    fn shard_names_are_taken_apart_and_put_together() {
        let name = ShardName::parse(Path::new("/models/phi-3-00002-of-00003.gguf")).unwrap();
        assert_eq!((name.no, name.count), (2, 3));
        assert_eq!(name.sibling(1), Path::new("/models/phi-3-00001-of-00003.gguf"));
        let dotted = ShardName::parse(Path::new("a.b-00010-of-00010.gguf")).unwrap();
        assert_eq!(dotted.sibling(7), Path::new("a.b-00007-of-00010.gguf"));
    }

    #[test]
    fn other_names_are_no_shard_names() {
        for name in [
            "phi-3.gguf",
            "phi-00001-of-00003.bin",
            "phi-1-of-3.gguf",
            "phi-00001-of-3.gguf",
            "phi-0001-of-00003.gguf",
            "phi-+0001-of-00003.gguf",
            "phi-00001of-00003.gguf",
            "00001-of-00003.gguf",
            "",
        ] {
            assert_eq!(ShardName::parse(Path::new(name)), None, "{name}");
        }
    }
}
