//! `load --dump`: the weights on the device as a safetensors file.

use crate::cancel::CancelToken;
use crate::error::Error;
use crate::model::LoadedModel;
use model_phi3::{PlannedSlot, SlotFormat, Storage};
use safetensors::{Dtype, SafeTensorError, View};
use std::borrow::Cow;
use std::cell::RefCell;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Symbolic links that are followed from one to the next, as many as Linux follows.
const MAX_LINKS: usize = 40;

/// Reads every slot back from the device and writes it under its name. Holds one slot in host memory
/// at a time, and looks at the token before each. A file that stood at the target is replaced by a
/// whole dump, which takes over its mode, and stays as it was where none can be written.
pub(super) fn write(
    model: &LoadedModel,
    target: &Target<'_>,
    token: &CancelToken,
) -> Result<(), Error> {
    let failed = |source| Error::Write { path: target.named.to_owned(), source };
    // In the same file system, so that the dump can be moved to its place; removed on every way out.
    let folder =
        tempfile::Builder::new().prefix(".dump-").tempdir_in(target.folder()).map_err(failed)?;
    let temporary = folder.path().join("dump");
    // `View` cannot report a failed read; it waits here.
    let failed_read = RefCell::new(None);
    let slots = model
        .plan()
        .slots()
        .iter()
        .map(|slot| (slot.slot.to_string(), SlotView::new(model, slot, token, &failed_read)));
    let written = safetensors::serialize_to_file(slots, None, &temporary);
    if let Some(error) = failed_read.take() {
        return Err(error);
    }
    written.map_err(|error| match error {
        SafeTensorError::IoError(error) => failed(error),
        other => failed(io::Error::other(other)),
    })?;
    let mode = match target.mode {
        Some(mode) => mode,
        None => fresh_mode(folder.path()).map_err(failed)?,
    };
    fs::set_permissions(&temporary, Permissions::from_mode(mode)).map_err(failed)?;
    fs::rename(&temporary, &target.path).map_err(failed)
}

/// Where a dump goes.
pub(super) struct Target<'a> {
    /// As the caller names it.
    named: &'a Path,
    /// No symbolic link.
    path: PathBuf,
    /// Permission bits of the file that stands there, where one does.
    mode: Option<u32>,
}

impl<'a> Target<'a> {
    /// Follows symbolic links, also one to a file that is yet to be made. Renaming a file to a device,
    /// a pipe or a folder would put it in their place, or fail: they are refused.
    pub(super) fn find(named: &'a Path) -> Result<Self, Error> {
        Self::resolve(named).map_err(|source| Error::Write { path: named.to_owned(), source })
    }

    fn resolve(named: &'a Path) -> io::Result<Self> {
        match fs::metadata(named) {
            Ok(metadata) if metadata.is_file() => Ok(Self {
                named,
                path: fs::canonicalize(named)?,
                mode: Some(metadata.permissions().mode() & 0o777),
            }),
            Ok(_) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no regular file, and only such are replaced by a dump",
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut path = named.to_owned();
                for _ in 0..MAX_LINKS {
                    let Ok(link) = fs::read_link(&path) else { break };
                    path = folder_of(&path).join(link);
                }
                // Without a folder nothing can be made in it.
                fs::metadata(folder_of(&path))?;
                Ok(Self { named, path, mode: None })
            }
            Err(error) => Err(error),
        }
    }

    fn folder(&self) -> &Path {
        folder_of(&self.path)
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The permission bits that the umask, or the folder's own rule, leaves to a fresh file. They can
/// only be seen on one: a process cannot ask for its umask without setting it.
fn fresh_mode(folder: &Path) -> io::Result<u32> {
    Ok(File::create(folder.join("fresh"))?.metadata()?.permissions().mode() & 0o777)
}

struct SlotView<'a> {
    model: &'a LoadedModel,
    slot: &'a PlannedSlot,
    token: &'a CancelToken,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: usize,
    failed_read: &'a RefCell<Option<Error>>,
}

impl<'a> SlotView<'a> {
    fn new(
        model: &'a LoadedModel,
        slot: &'a PlannedSlot,
        token: &'a CancelToken,
        failed_read: &'a RefCell<Option<Error>>,
    ) -> Self {
        let bytes = to_usize(slot.dest.end - slot.dest.start);
        let stored = (Dtype::U8, vec![bytes]);
        let shaped = |dtype| (dtype, slot.shape.iter().map(|&dim| to_usize(dim)).collect());
        let (dtype, shape) = match (model.plan().storage(), slot.format) {
            (Storage::F16, SlotFormat::F16) => shaped(Dtype::F16),
            (Storage::F16, SlotFormat::F32) => shaped(Dtype::F32),
            _ => stored,
        };
        Self { model, slot, token, dtype, shape, bytes, failed_read }
    }
}

impl View for SlotView<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self.token.check().and_then(|()| self.model.read_slot(self.slot.slot)) {
            Ok(bytes) => Cow::Owned(bytes.unwrap_or_default()),
            Err(error) => {
                self.failed_read.borrow_mut().get_or_insert(error);
                Cow::Borrowed(&[])
            }
        }
    }

    fn data_len(&self) -> usize {
        self.bytes
    }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Unobserved;
    use crate::loader::Loader;
    use crate::options::{DeviceChoice, LoadOptions};
    use safetensors::SafeTensors;
    use std::os::unix::fs::{FileTypeExt, symlink};

    fn model() -> LoadedModel {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/models/fused-f16.gguf");
        let options = LoadOptions::new().device(DeviceChoice::Host);
        Loader::new(options).load(path, &mut Unobserved).unwrap()
    }

    fn dump(path: &Path) -> Result<(), Error> {
        write(&model(), &Target::find(path)?, &CancelToken::new())
    }

    fn is_dump(path: &Path) -> bool {
        SafeTensors::deserialize(&fs::read(path).unwrap()).is_ok()
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_cancelled_dump_leaves_the_one_before_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.safetensors");
        fs::write(&path, "the one before").unwrap();
        let cancelled = CancelToken::new();
        cancelled.cancel();
        let error = write(&model(), &Target::find(&path).unwrap(), &cancelled).unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"the one before");
        assert_eq!(names(dir.path()), ["dump.safetensors"]);
    }

    #[test]
    fn a_dump_has_the_mode_of_the_file_before_or_of_a_fresh_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.safetensors");
        dump(&path).unwrap();
        assert!(is_dump(&path));
        assert_eq!(names(dir.path()), ["dump.safetensors"]);
        let fresh = dir.path().join("fresh");
        File::create(&fresh).unwrap();
        assert_eq!(mode(&path), mode(&fresh));

        fs::write(&path, "the one before").unwrap();
        for before in [0o640, 0o604] {
            fs::set_permissions(&path, Permissions::from_mode(before)).unwrap();
            dump(&path).unwrap();
            assert!(is_dump(&path));
            assert_eq!(mode(&path), before);
        }
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("old"), "the one before").unwrap();
        for file in ["old", "new"] {
            let (first, second) = (dir.path().join(file), folder.join(format!("to-{file}")));
            symlink(Path::new("folder").join(format!("to-{file}")), &first).unwrap();
            symlink(file, &second).unwrap();
            dump(&first).unwrap();
            assert!(first.is_symlink() && second.is_symlink());
            assert!(!folder.join(file).is_symlink() && is_dump(&folder.join(file)));
        }
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, link) = (dir.path().join("pipe"), dir.path().join("link"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        symlink("pipe", &link).unwrap();
        for path in [&pipe, &link, dir.path()] {
            let error = Target::find(path).err().unwrap();
            assert!(matches!(&error, Error::Write { path: named, .. } if named == path));
            assert!(error.to_string().contains("no regular file"), "{error}");
        }
        let nowhere = dir.path().join("folder").join("dump");
        assert!(matches!(Target::find(&nowhere), Err(Error::Write { .. })));
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        assert_eq!(names(dir.path()), ["link", "pipe"]);
    }
}
