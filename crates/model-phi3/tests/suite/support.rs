//! Test files: a blueprint that a test changes, writes and parses as a header.

use gguf_format::write::WriteValue;
use gguf_format::{GgmlType, Gguf, Limits, write::GgufWriter};
use model_phi3::preset::{Blueprint, Layout, Preset, TypeMix};
use model_phi3::{Error, LoadPlan, Phi3Config, PlacedPlan, Placement, Problem, Storage, TensorMap};

/// The keys and tensors of a file, which tests can change.
#[derive(Debug, Clone, Default)]
pub(crate) struct TestFile {
    pub(crate) metadata: Vec<(String, WriteValue)>,
    pub(crate) tensors: Vec<TestTensor>,
}

#[derive(Debug, Clone)]
pub(crate) struct TestTensor {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    pub(crate) ggml_type: GgmlType,
}

impl TestFile {
    pub(crate) fn new(preset: Preset, layout: Layout, mix: TypeMix) -> Self {
        let blueprint = Blueprint::new(preset, layout, mix);
        let mut file = Self { metadata: blueprint.metadata, tensors: Vec::new() };
        for tensor in &blueprint.tensors {
            file.add(&tensor.name, &tensor.dims, tensor.ggml_type);
        }
        file
    }

    /// Returns the smallest preset, fused: hidden 256, 4 heads, 2 key heads, 3 layers.
    pub(crate) fn tiny() -> Self {
        Self::new(Preset::Tiny, Layout::Fused, TypeMix::F16)
    }

    pub(crate) fn tiny_split() -> Self {
        Self::new(Preset::Tiny, Layout::Split, TypeMix::F16)
    }

    pub(crate) fn set(&mut self, key: &str, value: impl Into<WriteValue>) -> &mut Self {
        self.unset(key);
        self.metadata.push((key.to_owned(), value.into()));
        self
    }

    pub(crate) fn unset(&mut self, key: &str) -> &mut Self {
        self.metadata.retain(|(known, _)| known != key);
        self
    }

    pub(crate) fn add(&mut self, name: &str, dims: &[u64], ggml_type: GgmlType) -> &mut Self {
        let (name, dims) = (name.to_owned(), dims.to_vec());
        self.tensors.push(TestTensor { name, dims, ggml_type });
        self
    }

    pub(crate) fn remove(&mut self, name: &str) -> &mut Self {
        let before = self.tensors.len();
        self.tensors.retain(|tensor| tensor.name != name);
        assert_eq!(self.tensors.len() + 1, before, "no tensor {name}");
        self
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut TestTensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("a tensor of the preset")
    }

    pub(crate) fn writer(&self) -> GgufWriter {
        let mut writer = GgufWriter::new();
        for (key, value) in &self.metadata {
            writer.kv(key, value.clone());
        }
        for TestTensor { name, dims, ggml_type } in &self.tensors {
            writer.tensor(name, dims, *ggml_type);
        }
        writer
    }

    pub(crate) fn with_parsed<R>(&self, f: impl FnOnce(&Gguf<'_>) -> R) -> R {
        let layout = self.writer().layout().unwrap();
        let limits = Limits::default();
        // The parser checks the first 8 bytes of data if no padding precedes them.
        let prefix = [layout.header(), &[0; 8]].concat();
        f(&Gguf::parse_header(&prefix, layout.file_len(), &limits).unwrap())
    }

    pub(crate) fn config(&self) -> Result<Phi3Config, Error> {
        self.with_parsed(|gguf| Phi3Config::from_gguf(gguf.metadata(), gguf.tensors()))
    }

    pub(crate) fn bind(&self) -> Result<TensorMap, Error> {
        self.with_parsed(|gguf| {
            let config = Phi3Config::from_gguf(gguf.metadata(), gguf.tensors())?;
            TensorMap::bind(&config, gguf.tensors())
        })
    }

    pub(crate) fn plan(&self, storage: Storage) -> Result<LoadPlan, Error> {
        LoadPlan::new(&self.config()?, &self.bind()?, storage)
    }

    pub(crate) fn place(
        &self,
        storage: Storage,
        placement: &Placement,
    ) -> Result<PlacedPlan, Error> {
        PlacedPlan::new(&self.config()?, &self.bind()?, storage, placement)
    }

    /// Returns the problems with the tensors, as text.
    pub(crate) fn problems(&self) -> Vec<String> {
        match self.bind() {
            Err(Error::Binding(problems)) => {
                problems.as_slice().iter().map(Problem::to_string).collect()
            }
            other => panic!("expected a binding error, got {other:?}"),
        }
    }
}
