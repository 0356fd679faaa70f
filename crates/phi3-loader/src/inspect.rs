//! The command `inspect`.

use super::args::Inspect;
use super::config_report::write_config;
use super::failure::Failure;
use super::json::{self, FileNames, InspectDocument, TensorDocument};
use super::outputs::{self, Named};
use super::stdout;
use super::text::write_warnings;
use super::text::{bytes, shape};
use gguf_format::{GgufFile, Metadata, TensorInfo, Text, Value, escape, path_text};
use loader::{Error, FileName, LoadOptions, Loader, Warning};
use model_phi3::{Phi3Config, TensorMap};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

/// The number of array elements shown in text. JSON contains no elements of arrays.
const SHOWN_ELEMENTS: usize = 4;

/// The number of characters of a string shown in text. A single string can be most of a header.
const SHOWN_CHARS: usize = 200;

/// JSON contains the whole string if it has at most this number of bytes.
const WHOLE_BYTES: usize = 64 << 10;

pub(super) fn run(arguments: &Inspect) -> Result<(), Failure> {
    let gguf = Loader::new(LoadOptions::new()).inspect(&arguments.file)?;
    outputs::check_inputs(Named::shards(&gguf), &[])?;
    let model = match read_model(&gguf) {
        Ok(config) => Ok(config),
        // The file contradicts itself, so this is an error even if the model is not supported.
        Err(error) if contradicts_itself(&error) => {
            return Err(Error::of_model(&arguments.file, error).into());
        }
        Err(error) => Err(error.to_string()),
    };
    Ok(stdout::print(|out| {
        if arguments.json {
            // Serialise while writing: the whole document of a large header would take several times the
            // memory of the header.
            json::write_line(out, &document(&arguments.file, &gguf, model))
        } else {
            write_text(out, &arguments.file, &gguf, model)
        }
    })?)
}

/// Returns whether keys are present but wrong. In a file of another kind, for example a vocabulary, keys and
/// tensors are missing instead.
fn contradicts_itself(error: &model_phi3::Error) -> bool {
    match error {
        model_phi3::Error::InvalidValue { .. } => true,
        model_phi3::Error::Metadata(error) => {
            !matches!(error.without_path(), gguf_format::Error::Missing { .. })
        }
        _ => false,
    }
}

fn read_model(gguf: &GgufFile) -> Result<Phi3Config, model_phi3::Error> {
    let config = Phi3Config::from_gguf(gguf.metadata(), gguf.tensors())?;
    TensorMap::bind(&config, gguf.tensors())?;
    Ok(config)
}

fn document<'a>(
    file: &Path,
    gguf: &'a GgufFile,
    model: Result<Phi3Config, String>,
) -> InspectDocument<'a> {
    let warnings = Warning::of(gguf, model.as_ref().ok());
    let (config, model_note) = match model {
        Ok(config) => (Some(config), None),
        Err(note) => (None, Some(note)),
    };
    InspectDocument {
        schema_version: json::SCHEMA_VERSION,
        file: FileName::new(file),
        gguf_version: gguf.version(),
        alignment: gguf.alignment(),
        data_offset: gguf.shards().first().map_or(0, gguf_format::Shard::data_offset),
        file_bytes: gguf.shards().iter().map(gguf_format::Shard::len).sum(),
        shards: FileNames::new(gguf.shards().iter().map(gguf_format::Shard::path)),
        architecture: architecture(gguf),
        config,
        model_note,
        warnings,
        tensor_count: gguf.tensors().len(),
        tensors: gguf.tensors(),
        metadata: gguf.metadata(),
    }
}

pub(super) fn serialize_tensors<S: Serializer>(
    tensors: &[TensorInfo<'_>],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(tensors.iter().map(|tensor| {
        let range = tensor.range();
        TensorDocument {
            name: tensor.name(),
            dims: tensor.shape().dims(),
            ggml_type: tensor.ggml_type().name(),
            shard: tensor.shard(),
            offset: range.start,
            bytes: range.end - range.start,
        }
    }))
}

pub(super) fn serialize_metadata<S: Serializer>(
    metadata: &Metadata<'_>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer
        .collect_map(metadata.iter().map(|(key, value)| (document_text(key), ValueDocument(value))))
}

/// Converts a text to UTF-8 for JSON. If the text is not UTF-8, escapes it: an invalid byte 0xff becomes
/// `\xff`.
fn document_text(text: Text<'_>) -> Cow<'_, str> {
    text.as_str().map_or_else(|_| text.to_string().into(), Cow::Borrowed)
}

fn architecture(gguf: &GgufFile) -> Option<&str> {
    gguf.metadata().get("general.architecture").and_then(|value| value.as_str())
}

/// A value for JSON. For an array it contains only type and length, and for a long string only start and
/// length. Otherwise a vocabulary would be most of the document.
struct ValueDocument<'a>(Value<'a>);

impl Serialize for ValueDocument<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(array) => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("array_of", array.element_type().name())?;
                map.serialize_entry("length", &array.len())?;
                map.end()
            }
            Value::String(text) if text.as_bytes().len() > WHOLE_BYTES => {
                let whole = document_text(text);
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("string_bytes", &text.as_bytes().len())?;
                map.serialize_entry("start", &whole[..whole.floor_char_boundary(SHOWN_CHARS)])?;
                map.end()
            }
            Value::String(text) => serializer.serialize_str(&document_text(text)),
            Value::Bool(flag) => serializer.serialize_bool(flag),
            // JSON cannot represent infinities and NaN, so write them as strings.
            Value::F32(number) if !number.is_finite() => serializer.collect_str(&number),
            Value::F64(number) if !number.is_finite() => serializer.collect_str(&number),
            Value::F32(number) => serializer.serialize_f64(number.into()),
            Value::F64(number) => serializer.serialize_f64(number),
            integer => integer.as_integer().serialize(serializer),
        }
    }
}

fn write_text(
    out: &mut dyn Write,
    file: &Path,
    gguf: &GgufFile,
    model: Result<Phi3Config, String>,
) -> std::io::Result<()> {
    writeln!(out, "file      {}", path_text(file))?;
    writeln!(
        out,
        "format    GGUF v{}, alignment {}, {} tensors, {}",
        gguf.version(),
        gguf.alignment(),
        gguf.tensors().len(),
        bytes(gguf.shards().iter().map(gguf_format::Shard::len).sum())
    )?;
    if let [_, _, ..] = gguf.shards() {
        writeln!(out, "shards    {}", gguf.shards().len())?;
    }
    let warnings = Warning::of(gguf, model.as_ref().ok());
    match model {
        Ok(config) => write_config(out, &config)?,
        Err(note) => writeln!(out, "model     no Phi-3 model that can be loaded: {note}")?,
    }
    write_warnings(out, &warnings)?;
    writeln!(out, "\nmetadata")?;
    for (key, value) in gguf.metadata().iter() {
        writeln!(out, "  {key} = {}", value_text(&value))?;
    }
    writeln!(out, "\ntensors")?;
    for tensor in gguf.tensors() {
        let range = tensor.range();
        writeln!(
            out,
            "  {:<32} {:<8} {:<20} {:>14} {:>14}",
            escape(tensor.name()).to_string(),
            tensor.ggml_type().name(),
            shape(tensor.shape().dims()),
            range.start,
            range.end - range.start
        )?;
    }
    Ok(())
}

fn value_text(value: &Value<'_>) -> String {
    match value {
        Value::String(text) => string_text(text.as_bytes()),
        Value::Bool(flag) => flag.to_string(),
        Value::F32(number) => number.to_string(),
        Value::F64(number) => number.to_string(),
        Value::Array(array) => {
            let mut text = format!("{} x {}", array.len(), array.element_type().name());
            if let Some(strings) = array.as_byte_strings() {
                let shown: Vec<_> = strings.take(SHOWN_ELEMENTS).map(string_text).collect();
                text += &format!(": {}", shown.join(", "));
                if array.len() > SHOWN_ELEMENTS {
                    text += ", ...";
                }
            }
            text
        }
        _ => value.as_integer().map_or_else(|| value.type_name().to_owned(), |n| n.to_string()),
    }
}

/// Formats a string in quotes. If it is long, shows only its start and its length.
fn string_text(string: &[u8]) -> String {
    let shown = escape(string).shortened(SHOWN_CHARS);
    if string.len() > SHOWN_CHARS {
        format!("\"{shown}\" ({} bytes)", string.len())
    } else {
        format!("\"{shown}\"")
    }
}
