//! The documents and events that `--json` prints. Fields are append-only.

use super::failure::Failure;
use super::inspect::Shown;
use super::stdout;
use gguf_format::{Metadata, Text, Value};
use keeper::{Key, Listed, StoredPart};
use loader::{Error, FileName, FileReport, LoadStats, Phi3Config, TensorReport, Warning};
use model_phi3::{PlacedPart, PlanOp, PlannedSlot};
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The `schema_version` of every document and event.
pub(super) const SCHEMA_VERSION: u32 = 1;

/// Prints a value as one line of JSON on standard output.
pub(super) fn print(value: &impl Serialize) -> Result<(), Failure> {
    Ok(stdout::print(|out| write_line(out, value))?)
}

pub(super) fn write_line(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    write(out, value)?;
    out.write_all(b"\n")
}

/// Writes JSON. Escapes all characters that a terminal interprets or does not display.
pub(super) fn write(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    Ok(value.serialize(&mut Serializer::with_formatter(out, Printable))?)
}

/// The compact format of `serde_json`, with more escapes. By default it escapes only what JSON requires.
struct Printable;

impl Formatter for Printable {
    fn write_string_fragment<W: Write + ?Sized>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(gguf_format::is_unprintable) {
            let (shown, hidden) = rest.split_at(at);
            out.write_all(shown.as_bytes())?;
            let mut chars = hidden.chars();
            if let Some(c) = chars.next() {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
            rest = chars.as_str();
        }
        out.write_all(rest.as_bytes())
    }
}

/// The paths of a model's files. If any of them is not UTF-8, all paths are also given as bytes.
#[derive(Serialize)]
pub(super) struct FileNames {
    shards: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shards_hex: Option<Vec<String>>,
}

impl FileNames {
    pub(super) fn new<'a>(paths: impl Iterator<Item = &'a Path>) -> Self {
        let mut names: Vec<_> = paths.map(FileName::new).collect();
        let all_utf8 = names.iter().all(|name| name.file_hex.is_none());
        let hex = |name: &mut FileName| {
            name.file_hex.take().unwrap_or_else(|| hex_digits(name.file.as_bytes()))
        };
        let shards_hex = (!all_utf8).then(|| names.iter_mut().map(hex).collect());
        Self { shards: names.into_iter().map(|name| name.file).collect(), shards_hex }
    }
}

fn hex_digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Serialize)]
pub(super) struct InspectDocument<'a> {
    pub(super) schema_version: u32,
    #[serde(flatten)]
    pub(super) file: FileName,
    pub(super) gguf_version: u32,
    pub(super) alignment: u64,
    pub(super) data_offset: u64,
    pub(super) file_bytes: u64,
    #[serde(flatten)]
    pub(super) shards: FileNames,
    pub(super) architecture: Option<&'a str>,
    /// `general.file_type`: llama.cpp's number of the mix of tensor types.
    pub(super) file_type: Option<u32>,
    /// The name that llama.cpp prints for it; `None` if it has none.
    pub(super) file_type_name: Option<String>,
    /// The elements of all tensors, as llama.cpp counts them.
    pub(super) parameters: u128,
    /// The bits of all tensors divided by `parameters`; `None` without parameters.
    pub(super) bits_per_weight: Option<f64>,
    /// The type with most bytes is first.
    pub(super) bytes_by_type: &'a [TypeDocument],
    /// `None` if the file holds no Phi-3 model; `model_note` then gives the reason.
    pub(super) config: Option<&'a Phi3Config>,
    pub(super) model_note: Option<&'a String>,
    pub(super) warnings: &'a [Warning],
    /// All tensors of the file.
    pub(super) tensor_count: usize,
    /// [`TensorDocument`]s in file order, without those that `--tensors` and `--no-tensors` leave out.
    pub(super) tensors: Shown<'a>,
    /// Keys in file order.
    #[serde(serialize_with = "super::inspect::serialize_metadata")]
    pub(super) metadata: &'a Metadata<'a>,
}

/// The tensors of one type.
#[derive(Default, Serialize)]
pub(super) struct TypeDocument {
    #[serde(rename = "type")]
    pub(super) ggml_type: &'static str,
    pub(super) tensors: usize,
    /// Their elements.
    pub(super) parameters: u128,
    pub(super) bytes: u64,
}

/// The document of `inspect --key`.
#[derive(Serialize)]
pub(super) struct ValuesDocument<'a> {
    schema_version: u32,
    #[serde(flatten)]
    file: FileName,
    /// The values that the user asked for, with all elements of arrays.
    #[serde(serialize_with = "super::inspect::serialize_values")]
    metadata: &'a [(Text<'a>, Value<'a>)],
}

impl<'a> ValuesDocument<'a> {
    pub(super) fn new(file: &Path, metadata: &'a [(Text<'a>, Value<'a>)]) -> Self {
        Self { schema_version: SCHEMA_VERSION, file: FileName::new(file), metadata }
    }
}

#[derive(Serialize)]
pub(super) struct TensorDocument<'a> {
    pub(super) name: &'a str,
    /// The dimensions in file order: `ne[0]`, the contiguous one, is first.
    pub(super) dims: &'a [u64],
    #[serde(rename = "type")]
    pub(super) ggml_type: &'static str,
    pub(super) shard: usize,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

#[derive(Serialize)]
pub(super) struct PlanDocument<'a> {
    pub(super) schema_version: u32,
    #[serde(flatten)]
    pub(super) file: FileName,
    pub(super) storage: &'static str,
    /// The bytes of all devices.
    pub(super) vram_bytes: u64,
    /// Bytes of the file. Each counts once, whatever the number of devices that take it.
    pub(super) source_bytes: u64,
    pub(super) units: u32,
    pub(super) layers: u32,
    pub(super) split_mode: &'static str,
    /// Whether each part and the reserve fit into the memory of their device; `None` if that is unknown.
    pub(super) fits: Option<bool>,
    /// Missing bytes of all devices.
    pub(super) short_by: Option<u64>,
    /// Whether also the key-value cache fits: the `total_bytes` of each part.
    pub(super) total_fits: Option<bool>,
    /// Missing bytes of all devices for the weights, the key-value cache and the reserve.
    pub(super) total_short_by: Option<u64>,
    pub(super) kv_cache: KvCacheDocument,
    /// Bytes that the user reserved for other uses, on each GPU.
    pub(super) reserve_bytes: u64,
    /// The sum of the `total_bytes` of all parts; `None` if it does not fit into 64 bits.
    pub(super) total_bytes: Option<u64>,
    pub(super) config: &'a Phi3Config,
    pub(super) warnings: &'a [Warning],
    /// The weights of the whole model, as they are on one device.
    pub(super) slots: &'a [PlannedSlot],
    pub(super) operations: &'a [PlanOp],
    /// Tensors of the file that are not loaded.
    pub(super) left_out: Vec<&'a str>,
    /// One for each device.
    pub(super) parts: Vec<PartDocument<'a>>,
}

/// The part of the model that one device holds.
#[derive(Serialize)]
pub(super) struct PartDocument<'a> {
    /// The value for `--device`; `auto` if the user named no device.
    pub(super) device: String,
    /// The memory of the device, if it is known: as the user gave it, or what is free on the device here.
    pub(super) memory_bytes: Option<u64>,
    /// The device here that was asked; `None` if the user gave the memory, or if the device is not here.
    pub(super) memory_of: Option<String>,
    /// Bytes that are missing for the part and the reserve; `None` if the memory is unknown.
    pub(super) short_by: Option<u64>,
    /// Bytes of the key-value cache of the layers and heads of the part; `None` if they do not fit into 64 bits.
    pub(super) kv_cache_bytes: Option<u64>,
    /// Bytes of weights, key-value cache and reserve; `None` if they do not fit into 64 bits.
    pub(super) total_bytes: Option<u64>,
    /// Bytes that are missing for `total_bytes`; `None` if the memory is unknown.
    pub(super) total_short_by: Option<u64>,
    /// Bytes of the file that the device takes.
    pub(super) source_bytes: u64,
    #[serde(flatten)]
    pub(super) part: &'a PlacedPart,
}

#[derive(Serialize)]
pub(super) struct KvCacheDocument {
    /// Tokens in each sequence.
    pub(super) context: u64,
    /// Number of sequences.
    pub(super) batch: u64,
    #[serde(rename = "type")]
    pub(super) dtype: &'static str,
    /// `None` if the size does not fit into 64 bits.
    pub(super) bytes: Option<u64>,
}

#[derive(Serialize)]
pub(super) struct DevicesDocument {
    pub(super) schema_version: u32,
    pub(super) cuda_compiled: bool,
    /// The reason why no GPU is listed, if none is.
    pub(super) cuda_note: Option<String>,
    pub(super) devices: Vec<DeviceDocument>,
}

#[derive(Serialize)]
pub(super) struct DeviceDocument {
    /// The value for `load --device`.
    pub(super) device: String,
    pub(super) kind: &'static str,
    pub(super) ordinal: i32,
    pub(super) name: String,
    pub(super) free_bytes: Option<u64>,
    pub(super) total_bytes: Option<u64>,
    pub(super) pci_bus_id: Option<String>,
    pub(super) compute_capability: Option<String>,
}

/// What a keeper has.
#[derive(Serialize)]
pub(super) struct ResidentDocument<'a> {
    schema_version: u32,
    entries: Vec<EntryDocument<'a>>,
}

impl<'a> ResidentDocument<'a> {
    pub(super) fn new(entries: &'a [Listed]) -> Self {
        let entries = entries.iter().map(EntryDocument::new).collect();
        Self { schema_version: SCHEMA_VERSION, entries }
    }
}

/// The weights of one model.
#[derive(Serialize)]
struct EntryDocument<'a> {
    key: &'a str,
    storage: &'a str,
    split_mode: &'a str,
    /// The devices, separated by commas: `host`, or the UUID of a GPU.
    device: String,
    device_name: String,
    /// Bytes of weights on all devices.
    vram_bytes: u64,
    /// The paths of the model's files when they were loaded.
    #[serde(flatten)]
    shards: FileNames,
    /// When the weights were loaded, in seconds since 1970.
    created: u64,
    /// The number of connections that use the weights.
    users: u32,
    /// For how long no connection has used them; `None` if one does.
    unused_seconds: Option<u64>,
    parts: Vec<EntryPartDocument<'a>>,
}

/// The weights of one model on one device.
#[derive(Serialize)]
struct EntryPartDocument<'a> {
    device: &'a str,
    device_name: &'a str,
    vram_bytes: u64,
    /// Bytes of memory behind each descriptor.
    descriptors: &'a [u64],
}

impl<'a> EntryDocument<'a> {
    fn new(entry: &'a Listed) -> Self {
        let Listed { manifest, users, unused_seconds, .. } = entry;
        let part = |part: &'a StoredPart| EntryPartDocument {
            device: &part.device,
            device_name: &part.device_name,
            vram_bytes: part.bytes,
            descriptors: &part.descriptors,
        };
        let parts: Vec<_> = manifest.parts.iter().map(part).collect();
        let joined = |field: fn(&EntryPartDocument<'a>) -> &'a str, separator| {
            parts.iter().map(field).collect::<Vec<_>>().join(separator)
        };
        let paths = manifest.files.iter().map(|file| Path::new(OsStr::from_bytes(&file.path)));
        Self {
            key: manifest.key.as_str(),
            storage: &manifest.storage,
            split_mode: &manifest.placement.mode,
            device: joined(|part| part.device, ","),
            device_name: joined(|part| part.device_name, ", "),
            vram_bytes: parts.iter().map(|part| part.vram_bytes).sum(),
            shards: FileNames::new(paths),
            created: manifest.created,
            users: *users,
            unused_seconds: *unused_seconds,
            parts,
        }
    }
}

/// The results of `resident verify`.
#[derive(Serialize)]
pub(super) struct VerifyDocument<'a> {
    schema_version: u32,
    entries: Vec<VerifiedDocument<'a>>,
}

impl<'a> VerifyDocument<'a> {
    pub(super) fn new(results: &'a [(Key, Result<LoadStats, Error>)]) -> Self {
        let entry = |(key, result): &'a (Key, Result<LoadStats, Error>)| VerifiedDocument {
            key: key.as_str(),
            ok: result.is_ok(),
            vram_bytes: result.as_ref().ok().map(|stats| stats.vram_bytes),
            seconds: result.as_ref().ok().map(|stats| stats.phases.transfer_seconds),
            error: result.as_ref().err(),
        };
        Self { schema_version: SCHEMA_VERSION, entries: results.iter().map(entry).collect() }
    }
}

/// The result for one entry of a keeper.
#[derive(Serialize)]
struct VerifiedDocument<'a> {
    key: &'a str,
    ok: bool,
    /// Bytes that were compared; `None` if the weights are not all right.
    vram_bytes: Option<u64>,
    /// The time that attaching and comparing took.
    seconds: Option<f64>,
    error: Option<&'a Error>,
}

/// The document of `verify`.
#[derive(Serialize)]
pub(super) struct VerifyFileDocument<'a> {
    schema_version: u32,
    #[serde(flatten)]
    file: FileName,
    ok: bool,
    /// The first faults in one message; `None` if `ok`.
    error: Option<&'a Error>,
    /// All faults, one text for each.
    problems: &'a [String],
    warnings: &'a [Warning],
    /// The sum of all files.
    file_bytes: u64,
    seconds: f64,
    files: Vec<FileDigestDocument<'a>>,
    tensors: &'a [TensorReport],
}

#[derive(Serialize)]
struct FileDigestDocument<'a> {
    #[serde(flatten)]
    file: FileName,
    bytes: u64,
    sha256: Option<&'a str>,
}

impl<'a> VerifyFileDocument<'a> {
    pub(super) fn new(
        file: &Path,
        report: &'a FileReport,
        error: Option<&'a Error>,
        seconds: f64,
    ) -> Self {
        let digest = |file: &'a loader::FileDigest| FileDigestDocument {
            file: FileName::new(&file.path),
            bytes: file.bytes,
            sha256: file.sha256.as_deref(),
        };
        Self {
            schema_version: SCHEMA_VERSION,
            file: FileName::new(file),
            ok: report.is_ok(),
            error,
            problems: report.problems(),
            warnings: &report.warnings,
            file_bytes: report.files.iter().map(|file| file.bytes).sum(),
            seconds,
            files: report.files.iter().map(digest).collect(),
            tensors: &report.tensors,
        }
    }
}

/// One line of `load --json`: a [`LoadEvent`](loader::LoadEvent) or a [`LastEvent`].
#[derive(Serialize)]
pub(super) struct Event<'a, T> {
    schema_version: u32,
    #[serde(flatten)]
    event: &'a T,
}

impl<'a, T> Event<'a, T> {
    pub(super) fn new(event: &'a T) -> Self {
        Self { schema_version: SCHEMA_VERSION, event }
    }
}

/// The last line. It comes after the dump, thus later than the last event of the load.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum LastEvent<'a> {
    Finished {
        #[serde(flatten)]
        stats: &'a LoadStats,
        gb_per_s: f64,
    },
    Failed {
        code: &'static str,
        class: &'static str,
        message: String,
        retriable: bool,
        help: Option<&'static str>,
        exit_code: u8,
    },
}

impl<'a> LastEvent<'a> {
    pub(super) fn finished(stats: &'a LoadStats) -> Self {
        Self::Finished { stats, gb_per_s: stats.gb_per_s() }
    }

    /// `exit_code` is that of the process, which depends on the signal if one cancelled the load.
    pub(super) fn failed(error: &Error, exit_code: u8) -> Self {
        Self::Failed {
            code: error.code(),
            class: error.class().name(),
            message: error.to_string(),
            retriable: error.retriable(),
            help: error.help(),
            exit_code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &impl Serialize) -> String {
        let mut out = Vec::new();
        write(&mut out, value).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn invisible_characters_are_escaped_and_restored() {
        for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            let text = format!("a{c}b");
            let json = written(&text);
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
            assert!(!json.contains(gguf_format::is_unprintable), "{json:?}");
        }
        assert_eq!(
            written(&"\u{9b}2J \u{202e}\u{7f}\u{e0041}"),
            r#""\u009b2J \u202e\u007f\udb40\udc41""#
        );
        assert_eq!(written(&"\"模型\" \\ \n😀"), r#""\"模型\" \\ \n😀""#);
        let key = std::collections::BTreeMap::from([("\u{202e}", 1)]);
        assert_eq!(written(&key), r#"{"\u202e":1}"#);
    }

    #[test]
    fn names_of_shards_that_are_not_utf8_are_also_given_as_bytes() {
        let path = |bytes: &'static [u8]| Path::new(OsStr::from_bytes(bytes));
        let plain = written(&FileNames::new([path(b"a"), path(b"b")].into_iter()));
        assert_eq!(plain, r#"{"shards":["a","b"]}"#);
        let shards = [path(b"a"), path(b"\xfe")];
        let shards = written(&FileNames::new(shards.into_iter()));
        assert_eq!(shards, r#"{"shards":["a","\\xfe"],"shards_hex":["61","fe"]}"#);
    }
}
