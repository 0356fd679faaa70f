//! A byte-level writer that shares no code with the library, so that an error in `gguf_format::write`
//! is found. It also writes files that a correct writer refuses.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) const U8: u32 = 0;
pub(crate) const U32: u32 = 4;
pub(crate) const BOOL: u32 = 7;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;
pub(crate) const U64: u32 = 10;

pub(crate) const F32: u32 = 0;
pub(crate) const Q4_K: u32 = 12;

/// The parts of a file. Counts follow the parts unless they are set.
#[derive(Clone)]
pub(crate) struct Raw {
    pub(crate) magic: Vec<u8>,
    pub(crate) version: u32,
    pub(crate) tensor_count: Option<u64>,
    pub(crate) kv_count: Option<u64>,
    pub(crate) kvs: Vec<Vec<u8>>,
    pub(crate) infos: Vec<Vec<u8>>,
    pub(crate) alignment: usize,
    /// The bytes after the padded header.
    pub(crate) data: Vec<u8>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            magic: b"GGUF".to_vec(),
            version: 3,
            tensor_count: None,
            kv_count: None,
            kvs: Vec::new(),
            infos: Vec::new(),
            alignment: 32,
            data: Vec::new(),
        }
    }
}

impl Raw {
    pub(crate) fn kv(
        mut self,
        key: impl AsRef<[u8]>,
        type_id: u32,
        value: impl AsRef<[u8]>,
    ) -> Self {
        self.kvs.push(kv(key, type_id, value));
        self
    }

    pub(crate) fn tensor(
        mut self,
        name: impl AsRef<[u8]>,
        dims: &[u64],
        type_id: u32,
        at: u64,
    ) -> Self {
        self.infos.push(info(name, dims, type_id, at));
        self
    }

    pub(crate) fn data(mut self, len: usize) -> Self {
        self.data = (0..len).map(|i| (i % 251) as u8).collect();
        self
    }

    /// Everything before the padding.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut out = self.magic.clone();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.infos.len() as u64).to_le_bytes());
        out.extend(self.kv_count.unwrap_or(self.kvs.len() as u64).to_le_bytes());
        out.extend(self.kvs.concat());
        out.extend(self.infos.concat());
        out
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        if !self.data.is_empty() {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&self.data);
        }
        out
    }
}

pub(crate) fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

pub(crate) fn kv(key: impl AsRef<[u8]>, type_id: u32, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&string(key)[..], &type_id.to_le_bytes(), value.as_ref()].concat()
}

/// Returns the value of an array key: element type, announced count and elements.
pub(crate) fn array(element: u32, count: u64, elements: impl AsRef<[u8]>) -> Vec<u8> {
    [&element.to_le_bytes()[..], &count.to_le_bytes(), elements.as_ref()].concat()
}

pub(crate) fn info(name: impl AsRef<[u8]>, dims: &[u64], type_id: u32, at: u64) -> Vec<u8> {
    let mut out = string(name);
    out.extend((dims.len() as u32).to_le_bytes());
    for dim in dims {
        out.extend(dim.to_le_bytes());
    }
    out.extend(type_id.to_le_bytes());
    out.extend(at.to_le_bytes());
    out
}

/// Returns a small file with a key of every type, several tensors and their data.
pub(crate) fn valid() -> Raw {
    Raw::default()
        .kv("general.architecture", STRING, string("phi3"))
        .kv("a.u8", U8, [200])
        .kv("a.i8", 1, [0xff])
        .kv("a.u16", 2, 60_000u16.to_le_bytes())
        .kv("a.i16", 3, (-2i16).to_le_bytes())
        .kv("a.u32", U32, 7u32.to_le_bytes())
        .kv("a.i32", 5, (-7i32).to_le_bytes())
        .kv("a.f32", 6, 1.5f32.to_le_bytes())
        .kv("a.bool", BOOL, [1])
        .kv("a.u64", U64, (1u64 << 40).to_le_bytes())
        .kv("a.i64", 11, (-1i64 << 40).to_le_bytes())
        .kv("a.f64", 12, 2.5f64.to_le_bytes())
        .kv("a.tokens", ARRAY, array(STRING, 3, [string("<s>"), string(""), string("é")].concat()))
        .kv("a.scores", ARRAY, array(6, 2, [0.5f32.to_le_bytes(), (-1f32).to_le_bytes()].concat()))
        .kv(
            "a.nested",
            ARRAY,
            array(ARRAY, 2, [array(U8, 2, [1, 2]), array(STRING, 1, string("x"))].concat()),
        )
        .tensor("token_embd.weight", &[256, 2], Q4_K, 0)
        .tensor("output_norm.weight", &[8], F32, 288)
        .tensor("scale", &[], F32, 320)
        .data(324)
}
