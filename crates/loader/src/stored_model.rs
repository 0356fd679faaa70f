//! The manifest of a model whose weights other processes can use.

use crate::error::{Error, NonFiniteTensor};
use crate::file_identity::Facts;
use crate::fingerprint::Fingerprint;
use crate::loader::{Planned, timed};
use crate::model::{LoadedModel, ModelFile};
use crate::stats::{AllZeroTensor, Proof};
use cuda_sys::DeviceKind;
use gguf_format::{ByteSource, GgufFile, GgufHeader, Limits};
use keeper::{
    Key, Manifest, StoredDigest, StoredFile, StoredFinding, StoredIdentity, StoredPart,
    StoredPlacement,
};
use model_phi3::{Conversion, PlacedPart, PlacedPlan, Placement};
use sha2::{Digest as _, Sha256};
use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The longest list of devices in a key. A longer one is replaced by its digest.
const LONGEST_DEVICES: usize = 64;

/// Digests the text that is written to it.
#[derive(Default)]
struct TextDigest(Sha256);

impl Write for TextDigest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text);
        Ok(())
    }
}

impl TextDigest {
    fn of(write: impl FnOnce(&mut Self) -> fmt::Result) -> [u8; 16] {
        let mut digest = Self::default();
        // Digesting cannot fail.
        let _ = write(&mut digest);
        first_16(digest.0)
    }
}

fn first_16(digest: Sha256) -> [u8; 16] {
    let mut first = [0; 16];
    first.iter_mut().zip(digest.finalize()).for_each(|(to, from)| *to = from);
    first
}

/// Returns the first digits of a digest.
fn hex(digest: [u8; 16], digits: usize) -> String {
    let mut text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(digits);
    text
}

/// Returns a digest of what is where in the arenas. Two programs with the same digest agree about every address.
fn plan_digest(plan: &PlacedPlan) -> [u8; 16] {
    TextDigest::of(|out| {
        for part in plan.parts() {
            writeln!(out, "part {}", part.device_bytes())?;
            for slot in part.slots() {
                let planned = &slot.planned;
                let (rows, cols) = (&slot.rows, &slot.cols);
                writeln!(
                    out,
                    "{} {:?} {:?} {} {rows:?} {cols:?}",
                    planned.slot,
                    planned.dest,
                    planned.shape,
                    planned.format.ggml_type().name()
                )?;
            }
            for op in part.ops() {
                let source = (&op.rows, &op.row_range, op.skip, op.keep);
                let converted = op.conversion != Conversion::Copy;
                writeln!(out, "{} {source:?} {:?} {converted}", op.tensor, op.dest)?;
            }
        }
        Ok(())
    })
}

/// Returns the name of a model's weights: digest of the headers of its files, storage, devices and part.
pub(crate) fn key<'a>(
    plan: &PlacedPlan,
    files: impl IntoIterator<Item = (u64, &'a GgufHeader)>,
    identities: &[String],
) -> Result<Key, Error> {
    let mut model = Sha256::new();
    for (bytes, header) in files {
        let end = usize::try_from(header.gguf().data_offset()).unwrap_or(usize::MAX);
        let header = header.bytes();
        model.update(bytes.to_le_bytes());
        model.update((header.len().min(end) as u64).to_le_bytes());
        model.update(header.get(..end).unwrap_or(header));
    }
    let devices = identities.iter().map(|identity| short(identity)).collect::<Vec<_>>().join(".");
    let devices = match devices.len() {
        0..=LONGEST_DEVICES => devices,
        _ => hex(TextDigest::of(|out| out.write_str(&devices)), 16),
    };
    let part = match plan.parts() {
        [_] => "whole".to_owned(),
        parts => {
            let mode = plan.placement().mode();
            format!("{mode}{}.{}", parts.len(), hex(plan_digest(plan), 8))
        }
    };
    let (model, storage) = (hex(first_16(model), 16), plan.storage());
    let text = format!("{model}-{storage}-{devices}-{part}");
    text.parse().map_err(|error| refused(format!("the model has no key: {error}")))
}

/// Shortens the UUID of a GPU to its first 12 digits.
fn short(identity: &str) -> String {
    match identity.strip_prefix("GPU-") {
        Some(uuid) => format!("gpu{}", uuid.replace('-', "").get(..12).unwrap_or(uuid)),
        None => identity.to_owned(),
    }
}

pub(crate) fn refused(what: String) -> Error {
    Error::Resident { what }
}

impl From<Facts> for StoredIdentity {
    fn from(Facts { device, inode, modified, changed, .. }: Facts) -> Self {
        Self { device, inode, modified, changed }
    }
}

/// Returns what was known of the file when its weights were loaded.
pub(crate) fn facts(file: &StoredFile) -> Facts {
    let StoredIdentity { device, inode, modified, changed } = file.identity;
    Facts { device, inode, bytes: file.bytes, modified, changed }
}

/// Describes a model. `descriptors` has the bytes of the memory behind each descriptor, for each part.
pub(crate) fn manifest(model: &LoadedModel, descriptors: Vec<Vec<u64>>) -> Result<Manifest, Error> {
    let plan = &model.of.plan;
    let files = model.files.iter().map(|file| (file.facts.bytes, &file.header));
    let part = |(part, descriptors): (&crate::LoadedPart, Vec<u64>)| {
        let fingerprint = Fingerprint::take(std::slice::from_ref(part))?;
        Ok(StoredPart {
            device: model.of.identities.get(part.index()).cloned().unwrap_or_default(),
            device_name: part.device_name().to_owned(),
            bytes: part.vram_bytes(),
            descriptors,
            digests: fingerprint.stored().collect(),
        })
    };
    let file = |file: &ModelFile| StoredFile {
        // Other processes have other working directories.
        path: std::path::absolute(&file.path)
            .unwrap_or_else(|_| file.path.clone())
            .into_os_string()
            .into_vec(),
        bytes: file.facts.bytes,
        identity: file.facts.into(),
        header: file.header.bytes().to_vec(),
    };
    let placement = plan.placement();
    Ok(Manifest {
        key: key(plan, files, &model.of.identities)?,
        storage: plan.storage().to_string(),
        placement: StoredPlacement {
            mode: placement.mode().to_string(),
            proportions: placement.proportions().to_vec(),
            offloaded_layers: placement.offloaded_layers(),
        },
        parts: model.parts.iter().zip(descriptors).map(part).collect::<Result<_, Error>>()?,
        files: model.files.iter().map(file).collect(),
        plan_digest: plan_digest(plan),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        writer: concat!("loader ", env!("CARGO_PKG_VERSION")).to_owned(),
        findings: findings(model),
    })
}

/// Returns what the load of a model found out about weights that may be wrong.
fn findings(model: &LoadedModel) -> Vec<StoredFinding> {
    let Proof { non_finite, all_zero, .. } = &model.stats.proof;
    let part = |device| (0..).zip(&*model.of.devices).find(|(_, of)| **of == device);
    let non_finite = non_finite.iter().map(|tensor| StoredFinding {
        tensor: tensor.tensor.clone(),
        part: tensor.device.and_then(|device| Some(part(device)?.0)),
        infinite: tensor.infinite,
        nan: tensor.nan,
        zero_bytes: 0,
    });
    let all_zero = all_zero.iter().map(|tensor| StoredFinding {
        tensor: tensor.tensor.clone(),
        part: None,
        infinite: 0,
        nan: 0,
        zero_bytes: tensor.bytes,
    });
    non_finite.chain(all_zero).collect()
}

/// Returns the tensors with infinite or NaN weights that the load of these weights has found. The devices are those of the
/// parts.
pub(crate) fn non_finite(
    manifest: &Manifest,
    plan: &PlacedPlan,
    devices: &[DeviceKind],
) -> Vec<NonFiniteTensor> {
    let found = manifest.findings.iter().filter(|of| of.infinite > 0 || of.nan > 0);
    let tensor = |of: &StoredFinding| {
        let part = of.part.and_then(|part| usize::try_from(part).ok());
        let mut ops = plan.parts().get(part.unwrap_or(0))?.ops().iter();
        Some(NonFiniteTensor {
            tensor: of.tensor.clone(),
            format: ops.find(|op| *op.tensor == *of.tensor)?.format,
            infinite: of.infinite,
            nan: of.nan,
            device: part.and_then(|part| devices.get(part).copied()),
        })
    };
    found.filter_map(tensor).collect()
}

/// Returns the tensors that the load of these weights has found to be all zero.
pub(crate) fn all_zero(manifest: &Manifest) -> Vec<AllZeroTensor> {
    let found = manifest.findings.iter().filter(|of| of.zero_bytes > 0);
    found.map(|of| AllZeroTensor { tensor: of.tensor.clone(), bytes: of.zero_bytes }).collect()
}

/// A file of which only the header is there.
struct HeaderSource<'a> {
    path: &'a Path,
    file: &'a StoredFile,
}

impl<'a> HeaderSource<'a> {
    fn new(file: &'a StoredFile) -> Self {
        Self { path: Path::new(OsStr::from_bytes(&file.path)), file }
    }
}

impl ByteSource for HeaderSource<'_> {
    fn name(&self) -> &Path {
        self.path
    }

    fn byte_len(&self) -> u64 {
        self.file.bytes
    }

    /// Everything after the header is zero.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        buffer.fill(0);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.file.header.get(start..).unwrap_or_default();
        buffer.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        Ok(())
    }
}

/// A model as its manifest describes it.
pub(crate) struct StoredModel {
    pub(crate) planned: Planned,
    pub(crate) header: GgufHeader,
    pub(crate) files: Vec<ModelFile>,
    pub(crate) parse_seconds: f64,
    pub(crate) plan_seconds: f64,
}

impl StoredModel {
    /// Plans the model of the manifest from the headers of its files, as a load plans it from the files.
    pub(crate) fn read(manifest: &Manifest, limits: &Limits) -> Result<Self, Error> {
        let [first, ..] = &manifest.files[..] else {
            return Err(refused("the manifest names no file".to_owned()));
        };
        let first = HeaderSource::new(first).path;
        let sources = || manifest.files.iter().map(HeaderSource::new);
        let open = |path: &Path| {
            sources()
                .find(|source| source.path == path)
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        let (gguf, parse_seconds) =
            timed(|| GgufFile::open_from(first, limits, open).map_err(Error::Gguf))?;
        let (planned, plan_seconds) = timed(|| {
            let placement = placement(manifest)?;
            let storage = manifest.storage.parse();
            let storage = storage.map_err(|_| refused(format!("storage {}", manifest.storage)))?;
            let of_model = |error| Error::of_model(first, error);
            Planned::of(&gguf, storage, &placement).map_err(of_model)
        })?;
        let file = |shard: &gguf_format::Shard<HeaderSource<'_>>| ModelFile {
            path: shard.path().to_owned(),
            facts: facts(shard.source().file),
            header: shard.to_header(),
        };
        let files: Vec<_> = gguf.shards().iter().map(file).collect();
        let model = Self { planned, header: gguf.header(), files, parse_seconds, plan_seconds };
        model.check(manifest)?;
        Ok(model)
    }

    fn check(&self, manifest: &Manifest) -> Result<(), Error> {
        let identities: Vec<_> = manifest.parts.iter().map(|part| part.device.clone()).collect();
        let files = self.files.iter().map(|file| (file.facts.bytes, &file.header));
        let key = key(&self.planned.plan, files, &identities)?;
        if key != manifest.key {
            return Err(refused(format!("its manifest has the key {}, not {key}", manifest.key)));
        }
        Ok(())
    }
}

/// Fails unless the manifest is about weights of this plan, laid out as this program does it.
pub(crate) fn check_plan(manifest: &Manifest, plan: &PlacedPlan) -> Result<(), Error> {
    let sizes = plan.parts().iter().map(PlacedPart::device_bytes);
    if manifest.plan_digest != plan_digest(plan)
        || !manifest.parts.iter().map(|part| part.bytes).eq(sizes)
    {
        return Err(refused(format!(
            "its weights are laid out in another way than by this version ({})",
            manifest.writer
        )));
    }
    Ok(())
}

fn placement(manifest: &Manifest) -> Result<Placement, Error> {
    let StoredPlacement { mode, proportions, offloaded_layers } = &manifest.placement;
    let mode = mode.parse().map_err(|_| refused(format!("split mode {mode}")))?;
    let placement = match offloaded_layers {
        Some(layers) => Placement::last_layers(*layers, manifest.parts.len()),
        None => Placement::new(mode, manifest.parts.len()),
    };
    let placement = match &proportions[..] {
        [] => placement,
        proportions => placement.and_then(|of| of.with_proportions(proportions)),
    };
    placement.map_err(|error| refused(error.to_string()))
}

impl Fingerprint {
    /// Returns the digests in the form of a manifest.
    fn stored(&self) -> impl Iterator<Item = StoredDigest> {
        self.pieces().map(|(digest, bytes)| {
            let mut stored = [0; 16];
            let (sum, mix) = stored.split_at_mut(8);
            sum.copy_from_slice(&digest.sum.to_be_bytes());
            mix.copy_from_slice(&digest.mix.to_be_bytes());
            StoredDigest { digest: stored, bytes }
        })
    }

    /// Returns the fingerprint of a manifest.
    pub(crate) fn of_manifest(manifest: &Manifest) -> Self {
        let digests = manifest.parts.iter().flat_map(|part| &part.digests);
        Self::from_pieces(digests.map(|StoredDigest { digest, bytes }| {
            let number = u128::from_be_bytes(*digest);
            let (sum, mix) = ((number >> 64) as u64, number as u64);
            (cuda_sys::Digest { sum, mix }, *bytes)
        }))
    }
}
