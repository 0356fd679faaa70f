//! The documents and events that `--json` prints. Fields are append-only.

use super::failure::Failure;
use super::stdout;
use gguf_format::{Metadata, TensorInfo, path_text};
use loader::{LoadStats, Warning};
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;
use std::io::{self, Write};
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

/// The path of a file. If it is not UTF-8, a JSON string cannot contain it, so its bytes are given as well.
#[derive(Serialize)]
pub(super) struct FileName {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_hex: Option<String>,
}

impl FileName {
    pub(super) fn new(path: &Path) -> Self {
        Self { file: path_string(path), file_hex: path_hex(path) }
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
    pub(super) fn new<'a>(paths: impl Iterator<Item = &'a Path> + Clone) -> Self {
        let all_utf8 = paths.clone().all(|path| path.to_str().is_some());
        Self {
            shards: paths.clone().map(path_string).collect(),
            shards_hex: (!all_utf8).then(|| paths.map(hex).collect()),
        }
    }
}

/// Returns the path. If it is not UTF-8, returns the escaped form that messages show.
pub(super) fn path_string(path: &Path) -> String {
    path.to_str().map_or_else(|| path_text(path).to_string(), str::to_owned)
}

/// Returns the bytes of a path that is not UTF-8, as two hexadecimal digits each. `None` for other paths.
pub(super) fn path_hex(path: &Path) -> Option<String> {
    path.to_str().is_none().then(|| hex(path))
}

fn hex(path: &Path) -> String {
    path.as_os_str().as_encoded_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
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
    /// `None` if the file holds no Phi-3 model; `model_note` then gives the reason.
    pub(super) config: Option<ConfigDocument>,
    pub(super) model_note: Option<String>,
    pub(super) warnings: Vec<WarningDocument>,
    pub(super) tensor_count: usize,
    /// [`TensorDocument`]s.
    #[serde(serialize_with = "super::inspect::serialize_tensors")]
    pub(super) tensors: &'a [TensorInfo<'a>],
    /// Tensors in file order.
    #[serde(serialize_with = "super::inspect::serialize_metadata")]
    pub(super) metadata: &'a Metadata<'a>,
}

#[derive(Serialize)]
pub(super) struct ConfigDocument {
    pub(super) architecture: String,
    pub(super) name: Option<String>,
    pub(super) layers: u32,
    pub(super) hidden: u64,
    pub(super) ffn: u64,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) head_dim: u32,
    pub(super) attention: String,
    pub(super) attention_scale: f32,
    pub(super) vocab: u64,
    pub(super) context_length: u32,
    pub(super) rms_epsilon: f32,
    pub(super) rope_style: String,
    pub(super) rope_dim: u32,
    pub(super) rope_freq_base: f32,
    pub(super) rope_original_context: Option<u32>,
    pub(super) rope_attn_factor: Option<f32>,
    pub(super) rope_scaling: Option<String>,
    pub(super) rope_scaling_factor: Option<f32>,
    /// Whether the file has long and short RoPE factors.
    pub(super) rope_factors: bool,
    pub(super) sliding_window: Option<u32>,
    pub(super) tied_output: bool,
    pub(super) file_type: Option<u32>,
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
    pub(super) vram_bytes: u64,
    pub(super) source_bytes: u64,
    pub(super) units: u32,
    pub(super) kv_cache: KvCacheDocument,
    /// Bytes that the user reserved for other uses.
    pub(super) reserve_bytes: u64,
    /// Bytes of weights, key-value cache and reserve; `None` if the sum does not fit into 64 bits.
    pub(super) total_bytes: Option<u64>,
    pub(super) config: ConfigDocument,
    pub(super) warnings: Vec<WarningDocument>,
    pub(super) slots: Vec<SlotDocument>,
    pub(super) operations: Vec<OperationDocument<'a>>,
    /// Tensors of the file that are not loaded.
    pub(super) left_out: Vec<&'a str>,
}

/// A possible fault of a file that can be loaded.
#[derive(Serialize)]
pub(super) struct WarningDocument {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) help: &'static str,
}

impl WarningDocument {
    pub(super) fn new(warning: &Warning) -> Self {
        Self { code: warning.code(), message: warning.to_string(), help: warning.help() }
    }
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
pub(super) struct SlotDocument {
    pub(super) slot: String,
    pub(super) tensor: String,
    pub(super) shape: Vec<u64>,
    pub(super) format: String,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    /// The distance between the starts of rows, in bytes. A row is whole blocks of `block_len` values in
    /// `block_bytes`.
    pub(super) row_bytes: u64,
    pub(super) block_len: u64,
    pub(super) block_bytes: u64,
}

#[derive(Serialize)]
pub(super) struct OperationDocument<'a> {
    pub(super) tensor: &'a str,
    pub(super) shard: usize,
    pub(super) source_offset: u64,
    pub(super) source_bytes: u64,
    pub(super) dest_offset: u64,
    pub(super) dest_bytes: u64,
    /// `copy`, or the tensor type that is decoded to f16.
    pub(super) conversion: String,
    /// The tensor that holds a factor for all decoded values.
    pub(super) scale: Option<&'a str>,
    pub(super) unit: u32,
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

/// One line of `load --json`.
#[derive(Serialize)]
pub(super) struct Event<'a> {
    pub(super) schema_version: u32,
    #[serde(flatten)]
    pub(super) kind: EventKind<'a>,
}

impl<'a> Event<'a> {
    pub(super) fn new(kind: EventKind<'a>) -> Self {
        Self { schema_version: SCHEMA_VERSION, kind }
    }
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum EventKind<'a> {
    Opened {
        #[serde(flatten)]
        file: FileName,
        config: ConfigDocument,
    },
    Warning {
        #[serde(flatten)]
        warning: WarningDocument,
    },
    Planned {
        storage: &'static str,
        vram_bytes: u64,
        source_bytes: u64,
    },
    Allocated {
        device: String,
        device_name: &'a str,
        bytes: u64,
    },
    Progress {
        unit: u32,
        of: u32,
        label: &'a str,
        bytes: u64,
    },
    Verified {
        pointers_checked: u32,
        ok: bool,
    },
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

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
    fn a_name_that_is_not_utf8_is_also_given_as_bytes() {
        let path = |bytes: &'static [u8]| Path::new(OsStr::from_bytes(bytes));
        let plain = written(&FileName::new(path(b"a\\xff.gguf")));
        assert_eq!(plain, r#"{"file":"a\\xff.gguf"}"#);
        let bytes = written(&FileName::new(path(b"a\xff.gguf")));
        assert_eq!(bytes, r#"{"file":"a\\xff.gguf","file_hex":"61ff2e67677566"}"#);
        let shards = [path(b"a"), path(b"\xfe")];
        let shards = written(&FileNames::new(shards.into_iter()));
        assert_eq!(shards, r#"{"shards":["a","\\xfe"],"shards_hex":["61","fe"]}"#);
    }
}
