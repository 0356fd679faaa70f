//! The command `inspect`.

use super::args::{Inspect, wrong_use};
use super::color::Palette;
use super::config_report::write_config;
use super::failure::Failure;
use super::file_type;
use super::json::{self, FileNames, InspectDocument, TensorDocument, TypeDocument, ValuesDocument};
use super::metadata_values::{ShortValue, WholeValue, document_text, short_text, write_whole};
use super::outputs;
use super::stdout;
use super::table::{self, Column::Left, Column::Right};
use super::text::{bytes, counted, parameters, shape, write_warnings};
use gguf_format::{GgmlType, GgufFile, Metadata, TensorInfo, Text, Value, escape, path_text};
use globset::GlobMatcher;
use indicatif::DecimalBytes;
use loader::{Error, FileName, LoadOptions, Loader, Warning};
use model_phi3::{Phi3Config, TensorMap};
use serde::ser::{Serialize, Serializer};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

/// Names of keys are similar if their Jaro similarity is at least this, as in the tips of clap.
const SIMILAR: f64 = 0.7;

/// The largest number of similar keys that a message contains.
const SHOWN_KEYS: usize = 3;

/// Inspects each file. If one of several files fails, prints the error and continues with the next file.
pub(super) fn run(arguments: &Inspect) -> Result<(), Failure> {
    outputs::check_models(&arguments.files)?;
    let mut exit_code = None;
    for (number, file) in arguments.files.iter().enumerate() {
        match inspect(arguments, file, number == 0) {
            Ok(()) => {}
            Err(failure @ Failure::Output(_)) => return Err(failure),
            Err(failure) if arguments.files.len() == 1 => return Err(failure),
            Err(failure) => {
                failure.print();
                exit_code.get_or_insert(failure.exit_code());
            }
        }
    }
    exit_code.map_or(Ok(()), |code| Err(Failure::Printed(code)))
}

fn inspect(arguments: &Inspect, file: &Path, is_first: bool) -> Result<(), Failure> {
    let gguf = Loader::new(LoadOptions::new()).inspect(file)?;
    let separate = |out: &mut dyn Write| if is_first { Ok(()) } else { writeln!(out) };
    if !arguments.keys.is_empty() {
        let values = values(file, gguf.metadata(), &arguments.keys)?;
        return Ok(stdout::print(|out| {
            if arguments.json {
                return json::write_line(out, &ValuesDocument::new(file, &values));
            }
            separate(out)?;
            if arguments.files.len() > 1 {
                writeln!(out, "{}:", path_text(file))?;
            }
            values.iter().try_for_each(|&(_, value)| write_whole(out, value))
        })?);
    }
    let model = match read_model(&gguf) {
        Ok(config) => Ok(config),
        // The file contradicts itself, so this is an error even if the model is not supported.
        Err(error) if contradicts_itself(&error) => {
            return Err(Error::of_model(file, error).into());
        }
        Err(error) => Err(error.to_string()),
    };
    let report = Report {
        file,
        gguf: &gguf,
        warnings: Warning::of(&gguf, model.as_ref().ok()),
        model,
        types: types(gguf.tensors()),
        shown: Shown::new(arguments, file, &gguf),
    };
    Ok(stdout::print(|out| {
        if arguments.json {
            // Serialise while writing: the whole document of a large header would take several times the
            // memory of the header.
            json::write_line(out, &report.document())
        } else {
            separate(out)?;
            report.write_text(out)
        }
    })?)
}

/// Returns the keys of these names, as a report shows them, with their values.
fn values<'a>(
    file: &Path,
    metadata: &Metadata<'a>,
    names: &[String],
) -> Result<Vec<(Text<'a>, Value<'a>)>, Failure> {
    let find = |name: &String| {
        let name = escape(name).to_string();
        let found = metadata.iter().find(|(key, _)| key.to_string() == name);
        found.ok_or_else(|| Failure::Usage(wrong_use(no_key(file, metadata, &name))))
    };
    names.iter().map(find).collect()
}

fn no_key(file: &Path, metadata: &Metadata<'_>, name: &str) -> String {
    let similarity = |key: String| (strsim::jaro(name, &key), key);
    let keys = metadata.iter().map(|(key, _)| similarity(key.to_string()));
    let mut similar: Vec<_> = keys.filter(|(similarity, _)| *similarity >= SIMILAR).collect();
    similar.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    let similar: Vec<_> = similar.into_iter().take(SHOWN_KEYS).map(|(_, key)| key).collect();
    let tip = match similar.join(", ") {
        similar if similar.is_empty() => similar,
        similar => format!("; similar keys: {similar}"),
    };
    format!("{} has no key {name}{tip}", path_text(file))
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

/// Returns the sums of the tensors of each type, the type with most bytes first.
fn types(tensors: &[TensorInfo<'_>]) -> Vec<TypeDocument> {
    let mut sums = BTreeMap::<GgmlType, TypeDocument>::new();
    for tensor in tensors {
        let sum = sums.entry(tensor.ggml_type()).or_default();
        sum.tensors += 1;
        sum.parameters += u128::from(tensor.shape().elements());
        sum.bytes += tensor.byte_len();
    }
    let named =
        |(ggml_type, sum): (GgmlType, _)| TypeDocument { ggml_type: ggml_type.name(), ..sum };
    let mut types: Vec<_> = sums.into_iter().map(named).collect();
    types.sort_by_key(|sum| Reverse(sum.bytes));
    types
}

/// The tensors that the user asked for.
#[derive(Clone, Copy)]
pub(super) struct Shown<'a> {
    tensors: &'a [TensorInfo<'a>],
    globs: &'a [GlobMatcher],
}

impl<'a> Shown<'a> {
    /// Warns if a pattern matches no tensor.
    fn new(arguments: &'a Inspect, file: &Path, gguf: &'a GgufFile) -> Self {
        let (tensors, globs) = (gguf.tensors(), &arguments.tensors[..]);
        for glob in globs {
            if !tensors.iter().any(|tensor| glob.is_match(tensor.name())) {
                let glob = escape(glob.glob().glob());
                tracing::warn!("{}: no tensor matches {glob}", path_text(file));
            }
        }
        Self { tensors: if arguments.no_tensors { &[] } else { tensors }, globs }
    }

    fn iter(self) -> impl Iterator<Item = &'a TensorInfo<'a>> {
        let matches = move |tensor: &TensorInfo<'_>| {
            self.globs.is_empty() || self.globs.iter().any(|glob| glob.is_match(tensor.name()))
        };
        self.tensors.iter().filter(move |tensor| matches(tensor))
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|tensor| TensorDocument {
            name: tensor.name(),
            dims: tensor.shape().dims(),
            ggml_type: tensor.ggml_type().name(),
            shard: tensor.shard(),
            offset: tensor.range().start,
            bytes: tensor.byte_len(),
        }))
    }
}

pub(super) fn serialize_metadata<S: Serializer>(
    metadata: &Metadata<'_>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let pairs = metadata.iter().map(|(key, value)| (document_text(key), ShortValue(value)));
    serializer.collect_map(pairs)
}

pub(super) fn serialize_values<S: Serializer>(
    values: &[(Text<'_>, Value<'_>)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let pairs = values.iter().map(|&(key, value)| (document_text(key), WholeValue(value)));
    serializer.collect_map(pairs)
}

/// The content of the printed report.
struct Report<'a> {
    file: &'a Path,
    gguf: &'a GgufFile,
    /// The configuration, or the reason why the file holds no model that can be loaded.
    model: Result<Phi3Config, String>,
    warnings: Vec<Warning>,
    types: Vec<TypeDocument>,
    shown: Shown<'a>,
}

impl Report<'_> {
    fn architecture(&self) -> Option<&str> {
        self.gguf.metadata().get("general.architecture").and_then(|value| value.as_str())
    }

    fn file_type(&self) -> Option<u32> {
        let value = self.gguf.metadata().get("general.file_type");
        value.and_then(|value| value.as_integer()?.try_into().ok())
    }

    fn file_bytes(&self) -> u64 {
        self.gguf.shards().iter().map(gguf_format::Shard::len).sum()
    }

    fn parameters(&self) -> u128 {
        self.types.iter().map(|sum| sum.parameters).sum()
    }

    fn tensor_bytes(&self) -> u64 {
        self.types.iter().map(|sum| sum.bytes).sum()
    }

    /// Returns the mean; `None` if there are no parameters.
    fn bits_per_weight(&self) -> Option<f64> {
        let parameters = self.parameters();
        (parameters != 0).then(|| self.tensor_bytes() as f64 * 8.0 / parameters as f64)
    }

    fn document(&self) -> InspectDocument<'_> {
        let gguf = self.gguf;
        InspectDocument {
            schema_version: json::SCHEMA_VERSION,
            file: FileName::new(self.file),
            gguf_version: gguf.version(),
            alignment: gguf.alignment(),
            data_offset: gguf.shards().first().map_or(0, gguf_format::Shard::data_offset),
            file_bytes: self.file_bytes(),
            shards: FileNames::new(gguf.shards().iter().map(gguf_format::Shard::path)),
            architecture: self.architecture(),
            file_type: self.file_type(),
            file_type_name: self.file_type().and_then(file_type::name),
            parameters: self.parameters(),
            bits_per_weight: self.bits_per_weight(),
            bytes_by_type: &self.types,
            config: self.model.as_ref().ok(),
            model_note: self.model.as_ref().err(),
            warnings: &self.warnings,
            tensor_count: gguf.tensors().len(),
            tensors: self.shown,
            metadata: gguf.metadata(),
        }
    }

    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let gguf = self.gguf;
        writeln!(out, "file      {}", path_text(self.file))?;
        writeln!(
            out,
            "format    GGUF v{}, alignment {}, {}, {}",
            gguf.version(),
            gguf.alignment(),
            counted(gguf.tensors().len(), "tensor"),
            bytes(self.file_bytes())
        )?;
        if let [_, _, ..] = gguf.shards() {
            writeln!(out, "shards    {}", gguf.shards().len())?;
        }
        if let Some(number) = self.file_type() {
            let name = file_type::name(number).unwrap_or_else(|| number.to_string());
            writeln!(out, "type      {name}")?;
        }
        if let Some(bits) = self.bits_per_weight() {
            let parameters = parameters(self.parameters());
            writeln!(out, "weights   {parameters}, {bits:.2} bits per weight")?;
        }
        match &self.model {
            Ok(config) => write_config(out, config)?,
            Err(note) => writeln!(out, "model     no Phi-3 model that can be loaded: {note}")?,
        }
        write_warnings(out, &self.warnings)?;
        self.write_types(out)?;
        write_heading(out, "metadata")?;
        for (key, value) in gguf.metadata().iter() {
            writeln!(out, "  {key} = {}", short_text(&value))?;
        }
        self.write_tensors(out)
    }

    fn write_types(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.types.is_empty() {
            return Ok(());
        }
        write_heading(out, "bytes by type")?;
        let all = self.tensor_bytes().max(1) as f64;
        let row = |sum: &TypeDocument| {
            let share = format!("{:.1} %", sum.bytes as f64 * 100.0 / all);
            let size = DecimalBytes(sum.bytes).to_string();
            [sum.ggml_type.to_owned(), sum.tensors.to_string(), size, share]
        };
        let columns = [Left("type"), Right("tensors"), Right("bytes"), Right("share")];
        table::write(out, columns, self.types.iter().map(row))
    }

    fn write_tensors(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.shown.iter().next().is_none() {
            return Ok(());
        }
        write_heading(out, "tensors")?;
        let columns = [Left("name"), Left("type"), Left("shape"), Right("offset"), Right("bytes")];
        let row = |tensor: &TensorInfo<'_>| {
            [
                escape(tensor.name()).to_string(),
                tensor.ggml_type().name().to_owned(),
                shape(tensor.shape().dims()),
                tensor.range().start.to_string(),
                tensor.byte_len().to_string(),
            ]
        };
        table::write(out, columns, self.shown.iter().map(row))
    }
}

fn write_heading(out: &mut dyn Write, text: &str) -> io::Result<()> {
    let Palette { heading, .. } = Palette::stdout();
    writeln!(out, "\n{heading}{text}{heading:#}")
}
