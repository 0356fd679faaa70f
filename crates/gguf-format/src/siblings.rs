//! Opens the other shards of a split model, within limits on all of them together.

use std::io;
use std::path::Path;

use crate::byte_source::ByteSource;
use crate::error::{Error, ShardKind};
use crate::header::BYTES;
use crate::limits::Limits;
use crate::memory::Memory;
use crate::metadata::KEY_COUNT;
use crate::reader::HEADER_SIZE;
use crate::shard::{Opener, Shard};
use crate::split::{self, SplitKeys};
use crate::tensor::TENSOR_COUNT;

/// Number of bytes in the first read of every further shard. Its header contains little except tensor
/// descriptions, and a model may have a thousand shards.
const FIRST_READ: u64 = 16 << 10;

/// The parts of the limits that the headers of the opened shards have used. Keys and tensors are limited in
/// addition to bytes, because a short one takes many times its bytes in memory.
struct HeaderBudget<'l> {
    limits: &'l Limits,
    bytes: u64,
    keys: u64,
    tensors: u64,
    memory: Memory,
}

impl HeaderBudget<'_> {
    /// Opens a further shard within the rest of the limits.
    fn open<S: ByteSource>(
        &mut self,
        name: &Path,
        opener: &Opener<'_, S>,
    ) -> Result<Shard<S>, Error> {
        let limits = self.limits;
        let left = limits
            .clone()
            .with_max_header_bytes(limits.max_header_bytes.saturating_sub(self.bytes))
            .with_max_kv(limits.max_kv.saturating_sub(self.keys))
            .with_max_tensors(limits.max_tensors.saturating_sub(self.tensors))
            .with_max_memory(self.memory.left());
        let shard = opener.open(name, &left, FIRST_READ).map_err(|error| {
            let &Error::Limit { offset, what, value, .. } = error.without_path() else {
                return error;
            };
            let (what, used, limit) = match what {
                HEADER_SIZE => (
                    "the size of the headers of all shards in bytes",
                    self.bytes,
                    limits.max_header_bytes,
                ),
                KEY_COUNT => {
                    ("the number of key-value pairs of all shards", self.keys, limits.max_kv)
                }
                TENSOR_COUNT => {
                    ("the number of tensors of all shards", self.tensors, limits.max_tensors)
                }
                _ => return error,
            };
            let value = value.saturating_add(used);
            Error::Limit { offset, what, value, limit }.in_file(name)
        })?;
        self.take(&shard)?;
        Ok(shard)
    }

    fn take<S: ByteSource>(&mut self, shard: &Shard<S>) -> Result<(), Error> {
        let gguf = shard.gguf();
        self.bytes = self.bytes.saturating_add(gguf.header_end());
        self.keys = self.keys.saturating_add(gguf.metadata().len() as u64);
        self.tensors = self.tensors.saturating_add(gguf.tensors().len() as u64);
        let taken = self.memory.grow(0, shard.header().memory_bytes(), BYTES);
        taken.map_err(|error| error.in_file(shard.path()))
    }
}

/// Opens the other shards of the model that `opened` belongs to. Returns all shards in order, and the rest of
/// the memory for headers.
pub(crate) fn open<S: ByteSource>(
    opened: Shard<S>,
    keys: SplitKeys,
    limits: &Limits,
    opener: &Opener<'_, S>,
) -> Result<(Vec<Shard<S>>, Memory), Error> {
    let name = split::name_of(opened.path(), keys)?;
    if name.count > limits.max_shards {
        let error = Error::Limit {
            offset: 0,
            what: "the number of shards",
            value: name.count,
            limit: limits.max_shards,
        };
        return Err(error.in_file(opened.path()));
    }
    let memory = Memory::new(limits.max_memory);
    let mut budget = HeaderBudget { limits, bytes: 0, keys: 0, tensors: 0, memory };
    budget.take(&opened)?;
    let mut opened = Some(opened);
    let mut all = Vec::new();
    for no in 1..=name.count {
        if no == name.no {
            all.extend(opened.take());
            continue;
        }
        let shard = budget.open(&name.sibling(no), opener).map_err(|error| match error {
            Error::Io { path, source } if source.kind() == io::ErrorKind::NotFound => {
                Error::Shard { path, kind: ShardKind::Missing { no, count: name.count } }
            }
            other => other,
        })?;
        let path = shard.path();
        let found = SplitKeys::of(shard.gguf()).map_err(|error| error.in_file(path))?;
        let Some(found) = found else {
            let kind = ShardKind::Foreign { why: "it has no split.count" };
            return Err(Error::Shard { path: path.to_owned(), kind });
        };
        split::check(path, found, &name, no)?;
        shard.check_not_joined(found)?;
        all.push(shard);
    }
    Ok((all, budget.memory))
}
