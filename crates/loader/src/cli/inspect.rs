//! `inspect`.

use super::args::Inspect;
use super::failure::Failure;
use super::json::{self, InspectDocument, TensorDocument};
use super::plan::{config_document, write_config};
use super::text::{bytes, shape};
use crate::error::Error;
use crate::loader::Loader;
use crate::options::LoadOptions;
use gguf_format::{GgufFile, Value, escape};
use model_phi3::{Phi3Config, TensorMap};
use std::io::Write;

/// Array elements shown in text; JSON names lengths only, too.
const SHOWN_ELEMENTS: usize = 4;

pub(super) fn run(arguments: &Inspect) -> Result<(), Failure> {
    let gguf = Loader::new(LoadOptions::new()).inspect(&arguments.file)?;
    let model = match read_model(&gguf) {
        Ok(config) => Ok(config),
        // The file contradicts itself: that is no matter of which models are supported.
        Err(error) if contradicts_itself(&error) => {
            return Err(Error::Model { path: arguments.file.clone(), source: error }.into());
        }
        Err(error) => Err(error.to_string()),
    };
    let file = arguments.file.display().to_string();
    if arguments.json { print_json(file, &gguf, model) } else { print_text(&file, &gguf, model) }
}

/// Keys that are there and wrong, as opposed to keys and tensors that a file of another kind, a
/// vocabulary for one, does not have.
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

fn print_json(
    file: String,
    gguf: &GgufFile,
    model: Result<Phi3Config, String>,
) -> Result<(), Failure> {
    let (config, model_note) = match model {
        Ok(config) => (Some(config_document(&config)), None),
        Err(note) => (None, Some(note)),
    };
    json::print(&InspectDocument {
        schema_version: json::SCHEMA_VERSION,
        file,
        gguf_version: gguf.version(),
        alignment: gguf.alignment(),
        data_offset: gguf.shards().first().map_or(0, gguf_format::Shard::data_offset),
        file_bytes: gguf.shards().iter().map(gguf_format::Shard::len).sum(),
        shards: gguf.shards().iter().map(|shard| shard.path().display().to_string()).collect(),
        architecture: architecture(gguf),
        config,
        model_note,
        tensor_count: gguf.tensors().len(),
        tensors: gguf
            .tensors()
            .iter()
            .map(|tensor| {
                let range = tensor.range();
                TensorDocument {
                    name: tensor.name(),
                    dims: tensor.shape().dims().to_vec(),
                    ggml_type: tensor.ggml_type().name(),
                    shard: tensor.shard(),
                    offset: range.start,
                    bytes: range.end - range.start,
                }
            })
            .collect(),
        metadata: gguf.metadata().iter().map(|(key, value)| (key, value_json(&value))).collect(),
    })
}

fn architecture(gguf: &GgufFile) -> Option<&str> {
    gguf.metadata().get("general.architecture").and_then(|value| value.as_str())
}

/// Arrays are told by type and length: a vocabulary would drown the rest.
fn value_json(value: &Value<'_>) -> serde_json::Value {
    match value {
        Value::Array(array) => serde_json::json!({
            "array_of": array.element_type().name(),
            "length": array.len(),
        }),
        Value::String(text) => (*text).into(),
        Value::Bool(flag) => (*flag).into(),
        Value::F32(number) => number_json(f64::from(*number), number),
        Value::F64(number) => number_json(*number, number),
        _ => match value.as_integer() {
            Some(number) => serde_json::Number::from_i128(number)
                .map_or_else(|| number.to_string().into(), serde_json::Value::Number),
            None => serde_json::Value::Null,
        },
    }
}

/// JSON has no infinities and no NaN: those become text.
fn number_json(number: f64, shown: &impl ToString) -> serde_json::Value {
    serde_json::Number::from_f64(number)
        .map_or_else(|| shown.to_string().into(), serde_json::Value::Number)
}

fn print_text(
    file: &str,
    gguf: &GgufFile,
    model: Result<Phi3Config, String>,
) -> Result<(), Failure> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    writeln!(out, "file      {}", escape(file))?;
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
    match model {
        Ok(config) => write_config(&mut out, &config)?,
        Err(note) => writeln!(out, "model     no Phi-3 model that can be loaded: {note}")?,
    }
    writeln!(out, "\nmetadata")?;
    for (key, value) in gguf.metadata().iter() {
        writeln!(out, "  {} = {}", escape(key), value_text(&value))?;
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
    out.flush()?;
    Ok(())
}

fn value_text(value: &Value<'_>) -> String {
    match value {
        Value::String(text) => format!("\"{}\"", escape(*text)),
        Value::Bool(flag) => flag.to_string(),
        Value::F32(number) => number.to_string(),
        Value::F64(number) => number.to_string(),
        Value::Array(array) => {
            let mut text = format!("{} x {}", array.len(), array.element_type().name());
            if let Some(strings) = array.as_byte_strings() {
                let shown: Vec<_> = strings
                    .take(SHOWN_ELEMENTS)
                    .map(|string| format!("\"{}\"", escape(string)))
                    .collect();
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
