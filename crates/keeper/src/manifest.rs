//! What is known of an entry without looking at its memory.

use std::ops::RangeInclusive;

use minicbor::{Decode, Decoder, Encode, decode};

use crate::Key;

/// The first bytes of every manifest.
const MAGIC: &[u8; 8] = b"phi3-res";

/// The version that is written. A change that older readers must not ignore takes the next one. A new field needs
/// none: readers skip fields that they do not know.
const VERSION: u16 = 1;

const PREFIX: usize = MAGIC.len() + size_of::<u16>();

/// What a manifest describes: the parts of a loaded model, the memory of each part, and the files they are from.
///
/// [`encode`](Self::encode) and [`decode`](Self::decode) both check the bounds that the fields name. Texts have no
/// control characters.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Manifest {
    /// The name of the entry.
    #[n(0)]
    pub key: Key,
    /// How the weights are stored, such as `f16` or `native`: 1 to 64 bytes.
    #[n(1)]
    pub storage: String,
    /// How the model is divided among the parts.
    #[n(2)]
    pub placement: StoredPlacement,
    /// The part on each device: 1 to 256. All parts together have at most
    /// [`MAX_DESCRIPTORS`](Self::MAX_DESCRIPTORS) descriptors and 1,048,576 digests.
    #[cbor(n(3), decode_with = "at_most::<_, _, MAX_PARTS>")]
    pub parts: Vec<StoredPart>,
    /// The files of the model: 1 to 1,024. All headers together have at most 256 MiB.
    #[cbor(n(4), decode_with = "at_most::<_, _, MAX_FILES>")]
    pub files: Vec<StoredFile>,
    /// The digest of the load plan.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub plan_digest: [u8; 16],
    /// When the entry was made, in seconds since 1970.
    #[n(6)]
    pub created: u64,
    /// The program that made the entry, such as `phi3-loader 0.1.0`: 1 to 64 bytes.
    #[n(7)]
    pub writer: String,
    /// What the load found out about weights that may be wrong: at most 65,536 findings.
    #[cbor(n(8), default, decode_with = "at_most::<_, _, MAX_FINDINGS>")]
    pub findings: Vec<StoredFinding>,
}

/// A tensor whose weights may be wrong.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StoredFinding {
    /// The tensor: 1 to 1,024 bytes.
    #[n(0)]
    pub tensor: String,
    /// The number of the part, if the finding is about one part.
    #[n(1)]
    pub part: Option<u32>,
    /// The number of infinite weights.
    #[n(2)]
    pub infinite: u64,
    /// The number of NaN weights.
    #[n(3)]
    pub nan: u64,
    /// The bytes of the tensor in the file, if all of them are zero; otherwise 0.
    #[n(4)]
    pub zero_bytes: u64,
}

/// How a model is divided among parts.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct StoredPlacement {
    /// The way of dividing, such as `layer`: 1 to 64 bytes.
    #[n(0)]
    pub mode: String,
    /// The wanted proportions, if any: at most 256 finite numbers that are not negative.
    #[cbor(n(1), decode_with = "at_most::<_, _, MAX_PARTS>")]
    pub proportions: Vec<f64>,
    /// The number of layers on GPUs, if it was chosen.
    #[n(2)]
    pub offloaded_layers: Option<u32>,
}

/// The part of a model on one device.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct StoredPart {
    /// The device, such as `host` or `GPU-` and a UUID: 1 to 256 bytes.
    #[n(0)]
    pub device: String,
    /// The device's name for people: at most 256 bytes.
    #[n(1)]
    pub device_name: String,
    /// Bytes of the part's weights.
    #[n(2)]
    pub bytes: u64,
    /// Bytes of memory behind each descriptor, in order: together at least [`bytes`](Self::bytes).
    #[cbor(n(3), decode_with = "at_most::<_, _, { Manifest::MAX_DESCRIPTORS }>")]
    pub descriptors: Vec<u64>,
    /// Digests of the part's tensors, in the order of the plan.
    #[cbor(n(4), decode_with = "at_most::<_, _, MAX_DIGESTS>")]
    pub digests: Vec<StoredDigest>,
}

/// The digest of a range of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StoredDigest {
    /// The digest.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub digest: [u8; 16],
    /// The number of bytes that were digested.
    #[n(1)]
    pub bytes: u64,
}

/// A file that weights were loaded from.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StoredFile {
    /// The path: 1 to 4,096 bytes, not necessarily of UTF-8.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub path: Vec<u8>,
    /// The length of the file.
    #[n(1)]
    pub bytes: u64,
    /// How the file is recognised.
    #[n(2)]
    pub identity: StoredIdentity,
    /// The file's own header, so that the weights can be used without the file.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub header: Vec<u8>,
}

/// What tells a file from others and from other states of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StoredIdentity {
    /// The number of the file system.
    #[n(0)]
    pub device: u64,
    /// The number of the file in its file system.
    #[n(1)]
    pub inode: u64,
    /// The time of the last change of the contents, in seconds and nanoseconds since 1970.
    #[n(2)]
    pub modified: (i64, i64),
    /// The time of the last change of the file's contents or attributes, in seconds and nanoseconds since 1970.
    #[n(3)]
    pub changed: (i64, i64),
}

/// Why bytes are not a manifest, or a manifest cannot be written.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The bytes do not start as every manifest does.
    #[error("this is not a manifest: it does not start with {:?}", MAGIC.escape_ascii().to_string())]
    NotAManifest,
    /// The manifest has a version that this program cannot read.
    #[error("the manifest has version {found}, and this program reads version {VERSION}")]
    Version {
        /// The manifest's version.
        found: u16,
    },
    /// The bytes after the version are not the fields of a manifest.
    #[error("the manifest cannot be decoded: {0}")]
    Malformed(String),
    /// A field exceeds its bounds.
    #[error("the manifest's field `{field}` must have {rule}")]
    OutOfBounds {
        /// The field.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// The manifest is too large.
    #[error("the manifest has {found} bytes; the most are {}", Manifest::MAX_BYTES)]
    TooLarge {
        /// The size of the manifest.
        found: u64,
    },
    /// A manifest came in something other than sealed memory, so that it could change after the check.
    #[error("the manifest is not in sealed memory")]
    NotSealed,
    /// A descriptor of an entry is a socket. A keeper that had it could keep its own connections open.
    #[error("a descriptor of the entry is a socket, which is no memory")]
    Socket,
    /// An entry has another number of descriptors than its manifest.
    #[error("the manifest has {expected} descriptors, and {found} came with it")]
    Descriptors {
        /// The number in the manifest.
        expected: usize,
        /// The number that came.
        found: usize,
    },
    /// The keeper refuses the entry.
    #[error("the keeper refuses the entry: {0}")]
    Refused(String),
    /// An entry came under a name that is not the one in its manifest.
    #[error("the manifest is of {found}, and {expected} was expected")]
    OtherKey {
        /// The key that was asked for.
        expected: Key,
        /// The key in the manifest.
        found: Key,
    },
}

impl Manifest {
    /// The most descriptors of an entry. A message of the socket carries 253: these and the manifest.
    pub const MAX_DESCRIPTORS: usize = 252;

    /// The size of the largest manifest in bytes.
    pub const MAX_BYTES: u64 = MAX_HEADERS + (64 << 20);

    /// Returns the manifest's encoding: a magic, the version as two bytes in little-endian order, and the fields as
    /// CBOR.
    ///
    /// # Errors
    ///
    /// [`ManifestError::OutOfBounds`] if a field exceeds its bounds.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
        minicbor::encode(self, &mut bytes).map_err(|e| ManifestError::Malformed(e.to_string()))?;
        check_size(bytes.len() as u64)?;
        Ok(bytes)
    }

    /// Reads an encoded manifest.
    ///
    /// # Errors
    ///
    /// A [`ManifestError`] if the bytes are not exactly one manifest, or a field exceeds its bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        check_size(bytes.len() as u64)?;
        let (prefix, fields) = bytes.split_at_checked(PREFIX).ok_or(ManifestError::NotAManifest)?;
        let version = prefix.strip_prefix(MAGIC).ok_or(ManifestError::NotAManifest)?;
        let version = version.iter().rev().fold(0, |value, &byte| value << 8 | u16::from(byte));
        if version != VERSION {
            return Err(ManifestError::Version { found: version });
        }
        let mut decoder = Decoder::new(fields);
        let manifest: Self =
            decoder.decode().map_err(|e| ManifestError::Malformed(e.to_string()))?;
        if decoder.position() != fields.len() {
            return Err(ManifestError::Malformed("it has bytes after its end".to_owned()));
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// Returns the number of descriptors of all parts.
    pub fn descriptors(&self) -> usize {
        self.parts.iter().map(|part| part.descriptors.len()).sum()
    }

    /// Returns the bytes of memory behind all descriptors.
    pub fn memory_bytes(&self) -> u64 {
        // `check` has refused a sum that overflows. Plain data that was not checked saturates.
        let descriptors = self.parts.iter().flat_map(|part| &part.descriptors);
        descriptors.fold(0, |sum, &bytes| sum.saturating_add(bytes))
    }

    fn check(&self) -> Result<(), ManifestError> {
        let StoredPlacement { mode, proportions, .. } = &self.placement;
        for (field, text) in [("storage", &self.storage), ("writer", &self.writer), ("mode", mode)]
        {
            let rule = "1 to 64 bytes, none of a control character";
            ensure(field, is_text(text, 1..=64), rule)?;
        }
        let is_proportion = |number: &f64| number.is_finite() && *number >= 0.0;
        ensure(
            "proportions",
            proportions.len() <= MAX_PARTS && proportions.iter().all(is_proportion),
            "at most 256 finite numbers that are not negative",
        )?;

        let parts = (1..=MAX_PARTS).contains(&self.parts.len());
        ensure("parts", parts, "1 to 256 parts")?;
        let digests: usize = self.parts.iter().map(|part| part.digests.len()).sum();
        ensure("digests", digests <= MAX_DIGESTS, "at most 1,048,576 digests in all parts")?;
        let few = self.descriptors() <= Self::MAX_DESCRIPTORS;
        ensure("descriptors", few, "at most 252 descriptors in all parts")?;
        let mut total = 0_u64;
        for part in &self.parts {
            let rule = "1 to 256 bytes, none of a control character";
            ensure("device", is_text(&part.device, 1..=256), rule)?;
            let rule = "at most 256 bytes, none of a control character";
            ensure("device_name", is_text(&part.device_name, 0..=256), rule)?;
            let sum = part.descriptors.iter().try_fold(0_u64, |sum, &bytes| sum.checked_add(bytes));
            ensure(
                "descriptors",
                sum.is_some_and(|sum| sum >= part.bytes),
                "as much memory as the part has bytes",
            )?;
            let sum = sum.and_then(|sum| total.checked_add(sum));
            ensure("descriptors", sum.is_some(), "fewer than 2^64 bytes in all parts")?;
            total = sum.unwrap_or_default();
        }

        ensure("findings", self.findings.len() <= MAX_FINDINGS, "at most 65,536 findings")?;
        let is_named = |finding: &StoredFinding| is_text(&finding.tensor, 1..=1024);
        let rule = "1 to 1,024 bytes, none of a control character";
        ensure("tensor", self.findings.iter().all(is_named), rule)?;

        let files = (1..=MAX_FILES).contains(&self.files.len());
        ensure("files", files, "1 to 1,024 files")?;
        let path = |file: &StoredFile| (1..=MAX_PATH).contains(&file.path.len());
        ensure("path", self.files.iter().all(path), "1 to 4,096 bytes")?;
        let headers: u64 = self.files.iter().map(|file| file.header.len() as u64).sum();
        ensure("header", headers <= MAX_HEADERS, "at most 256 MiB in all files")
    }
}

const MAX_PARTS: usize = 256;
const MAX_DIGESTS: usize = 1 << 20;
const MAX_FINDINGS: usize = 1 << 16;
const MAX_FILES: usize = 1024;
const MAX_PATH: usize = 4096;
const MAX_HEADERS: u64 = 256 << 20;

/// Decodes elements until there are too many: some need many times the memory of their bytes.
fn at_most<'b, C, T: Decode<'b, C>, const MOST: usize>(
    decoder: &mut Decoder<'b>,
    context: &mut C,
) -> Result<Vec<T>, decode::Error> {
    let mut elements = Vec::new();
    for element in decoder.array_iter_with(context)? {
        if elements.len() == MOST {
            let text = format!("an array has more than {MOST} elements");
            return Err(decode::Error::message(text));
        }
        elements.push(element?);
    }
    Ok(elements)
}

/// Refuses a manifest that is too large, before it is read.
pub(crate) fn check_size(found: u64) -> Result<(), ManifestError> {
    if found > Manifest::MAX_BYTES { Err(ManifestError::TooLarge { found }) } else { Ok(()) }
}

fn ensure(field: &'static str, holds: bool, rule: &'static str) -> Result<(), ManifestError> {
    if holds { Ok(()) } else { Err(ManifestError::OutOfBounds { field, rule }) }
}

fn is_text(text: &str, length: RangeInclusive<usize>) -> bool {
    length.contains(&text.len()) && !text.contains(char::is_control)
}
