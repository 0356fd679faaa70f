//! Weights that outlive the process: handing them over, and attaching to them.

use crate::cancel::{CancelToken, Cancellable};
use crate::codes::{MANIFEST_INVALID, RESIDENT_REFUSED, VERIFICATION_FAILED};
use crate::devices::Devices;
use crate::error::Error;
use crate::event::{LoadEvent, Observer};
use crate::fingerprint::Fingerprint;
use crate::input::Input;
use crate::loader::{
    EarlyTimes, Load, Loader, Planned, announce, announce_memory, emit, finish, log_failure,
    part_stats, timed,
};
use crate::memory_account::MemoryAccount;
use crate::model::{LoadedModel, ModelFile};
use crate::options::Verify;
use crate::part::PartsOf;
use crate::readback;
use crate::residency::{self, Residency};
use crate::stats::{LoadStats, Phases, Proof, Resident, TransferFigures};
use crate::stored_model::{self, StoredModel, refused};
use cuda_sys::{Access, Device, DeviceKind, ErrorCode, MemoryInfo};
use gguf_format::GgufHeader;
use keeper::{Entry, Found, Key, Manifest, Store, StoredPart};
use std::borrow::Cow;
use std::os::fd::AsFd;
use std::sync::Once;
use std::time::Instant;

/// What [`Loader::load_resident`] does if resident weights are not those of their manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mismatch {
    /// It fails. The entry stays, so that the cause can be found.
    #[default]
    Fail,
    /// It drops the entry, loads the file and publishes it.
    Reload,
}

/// The number of entries of other files, or of wrong weights, that a load drops before it loads the file without a claim.
const ATTEMPTS: usize = 3;

impl LoadedModel {
    /// Makes the weights read-only, and returns descriptors of their memory with a manifest. As long as any process has
    /// the descriptors open, the weights exist, with or without this process; it needs no GPU for that.
    /// [`Loader::attach`] uses them. The manifest has digests of all weights as they are now.
    ///
    /// # Errors
    ///
    /// An error with the code `INVALID_OPTION` if the model was loaded without
    /// [`LoadOptions::shareable`](crate::LoadOptions::shareable). [`Error::Engine`] if a device fails.
    pub fn hand_over(&mut self) -> Result<Entry, Error> {
        if !self.parts.iter().all(|part| part.buffer.is_shareable()) {
            return Err(Error::NotShareable);
        }
        let mut descriptors = Vec::new();
        let mut sizes = Vec::new();
        for part in &mut self.parts {
            part.buffer.protect()?;
            let shares = part.buffer.share()?;
            sizes.push(shares.iter().map(|share| share.bytes).collect());
            descriptors.extend(shares.into_iter().map(|share| share.descriptor));
        }
        let manifest = stored_model::manifest(self, sizes)?;
        Ok(Entry::new(manifest, descriptors).map_err(keeper::Error::from)?)
    }
}

impl Loader {
    /// Loads the model, or attaches to its weights if `store` has them.
    ///
    /// If there is an entry of the same file with this storage, on these devices, its memory is mapped read-only, and its
    /// content is proven: the devices compute the digests of all weights, and compare them with those of the manifest.
    /// Otherwise the file is loaded, its weights become read-only, and are published. If they cannot be published, the
    /// load succeeds all the same; a warning is logged, and [`LoadStats::resident`](crate::LoadStats::resident) is
    /// [`Resident::Off`].
    ///
    /// The options of the load hold for both. If they ask for [`Verify::Readback`], attached weights are compared with the
    /// file, too.
    ///
    /// While another process loads the same weights, this waits for it, so that both need the memory only once.
    ///
    /// Keep a [`keeper::Connection`] open as long as you use the weights: it tells the keeper that they are in use.
    ///
    /// # Errors
    ///
    /// Every variant of [`Error`]. [`Error::Verification`] if the weights are not those of the manifest, with the name of
    /// the tensor, and [`Error::Resident`] if they cannot be used, unless `mismatch` is [`Mismatch::Reload`].
    pub fn load_resident(
        &mut self,
        input: impl Into<Input>,
        store: &mut dyn Store,
        mismatch: Mismatch,
        observer: &mut dyn Observer,
        token: &CancelToken,
    ) -> Result<LoadedModel, Error> {
        self.run(&input.into(), observer, token, |loader, load| {
            loader.attach_or_publish(load, store, mismatch)
        })
    }

    /// Maps weights that a process has [handed over](LoadedModel::hand_over), and proves their content. Needs no file. The
    /// manifest says which devices have the weights; of the options, only
    /// [`LoadOptions::deny_overflow`](crate::LoadOptions::deny_overflow) and the limits of headers matter.
    ///
    /// The events are those of a load. Instead of the progress of a transfer, that of the proof is reported.
    ///
    /// # Errors
    ///
    /// [`Error::Verification`] if a weight is not what it was, with the name of the tensor. [`Error::Resident`] if the
    /// devices are not here, the descriptors are something else, or the manifest is of a version with another layout.
    /// [`Error::Gguf`], [`Error::Model`], [`Error::Engine`], [`Error::Cancelled`].
    pub fn attach(
        &mut self,
        entry: &Entry,
        observer: &mut dyn Observer,
        token: &CancelToken,
    ) -> Result<LoadedModel, Error> {
        let observer = &mut Cancellable { observer, token };
        let attached = self.attach_without_file(entry, observer, token);
        attached.inspect_err(log_failure)
    }

    fn attach_without_file(
        &mut self,
        entry: &Entry,
        observer: &mut dyn Observer,
        token: &CancelToken,
    ) -> Result<LoadedModel, Error> {
        token.check()?;
        let start = Instant::now();
        let StoredModel { planned, header, files, parse_seconds, plan_seconds } =
            StoredModel::read(&entry.manifest, &self.options.limits)?;
        if let Some(first) = files.first() {
            announce(&first.path, &planned, observer)?;
        }
        let times = EarlyTimes { start, parse_seconds, plan_seconds, driver_seconds: 0.0 };
        let model = self.attach_parts(entry, planned, (header, files), times, observer, token)?;
        announce_verified(&model, observer)?;
        finish(model, observer)
    }

    fn attach_or_publish(
        &mut self,
        load: &mut Load<'_>,
        store: &mut dyn Store,
        mismatch: Mismatch,
    ) -> Result<LoadedModel, Error> {
        // The first question to the driver makes it start, which takes as long as a context.
        let (identities, driver_seconds) =
            timed(|| identities(&Devices::resolve(&self.options.devices)))?;
        load.times.driver_seconds = driver_seconds;
        let files = load.source.model_files();
        let headers = files.iter().map(|file| (file.facts.bytes, &file.header));
        let key = stored_model::key(&load.planned.plan, headers, &identities)?;
        for _ in 0..ATTEMPTS {
            let token = load.token;
            let waiting = Once::new();
            let go_on = &mut || {
                waiting.call_once(|| tracing::warn!(%key, "waiting for another process that loads the same weights"));
                !token.is_cancelled()
            };
            let attached = match store.find(&key, go_on) {
                Ok(Found::Entry(entry)) if is_of_files(&entry.manifest, load) => {
                    self.attach_to_file(&entry, load)
                }
                Ok(Found::Entry(_)) => {
                    tracing::info!(%key, "the file has changed since its weights were loaded");
                    store.remove(&key)?;
                    continue;
                }
                // There may be room when the weights are loaded.
                Ok(Found::Claimed) | Err(keeper::Error::Full { .. }) => {
                    return self.publish(load, store, &key);
                }
                Err(error) => Err(error.into()),
            };
            match attached {
                // The code: it may be the device that refuses a descriptor.
                Err(error)
                    if mismatch == Mismatch::Reload
                        && [VERIFICATION_FAILED, RESIDENT_REFUSED, MANIFEST_INVALID]
                            .iter()
                            .any(|of| of.code == error.code()) =>
                {
                    tracing::warn!(%key, code = error.code(), "resident weights are dropped: {error}");
                    store.remove(&key)?;
                }
                other => return other,
            }
        }
        tracing::warn!(%key, "other processes keep publishing other weights");
        self.publish(load, store, &key)
    }

    fn attach_to_file(&mut self, entry: &Entry, load: &mut Load<'_>) -> Result<LoadedModel, Error> {
        let file = (load.source.gguf().header(), load.source.model_files());
        let planned = load.planned.clone();
        let mut model =
            self.attach_parts(entry, planned, file, load.times, load.observer, load.token)?;
        if self.options.verify >= Verify::Readback {
            let compare =
                || readback::compare(&model.parts, load.source, load.observer, load.token);
            let ((), seconds) = timed(compare)?;
            model.stats.phases.verify_seconds += seconds;
            model.stats.phases.seconds = load.times.start.elapsed().as_secs_f64();
        }
        announce_verified(&model, load.observer)?;
        Ok(model)
    }

    fn publish(
        &mut self,
        load: &mut Load<'_>,
        store: &mut dyn Store,
        key: &Key,
    ) -> Result<LoadedModel, Error> {
        let loaded = self.move_weights(load, true, &mut None).and_then(|mut model| {
            let entry = model.hand_over()?;
            Ok((model, entry))
        });
        let (mut model, entry) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                // The claim ends with the connection in any case.
                let _ = store.give_up(key);
                return Err(error);
            }
        };
        match store.publish(&entry) {
            Ok(()) => {
                model.stats.resident = Resident::Published;
                model.stats.resident_key = Some(key.to_string());
            }
            Err(error) => {
                tracing::warn!(%key, code = error.code(), "the weights are not published: {error}");
                // Others that wait for these weights would wait as long as this process uses them.
                let _ = store.give_up(key);
            }
        }
        model.stats.phases.seconds = load.times.start.elapsed().as_secs_f64();
        Ok(model)
    }

    fn attach_parts(
        &mut self,
        entry: &Entry,
        planned: Planned,
        (header, files): (GgufHeader, Vec<ModelFile>),
        times: EarlyTimes,
        observer: &mut dyn Observer,
        token: &CancelToken,
    ) -> Result<LoadedModel, Error> {
        let Planned { config, plan, warnings } = planned;
        let Entry { manifest, descriptors } = entry;
        stored_model::check_plan(manifest, &plan)?;
        let (devices, driver_seconds) = timed(|| devices_of(&manifest.parts))?;
        let non_finite = stored_model::non_finite(manifest, &plan, &devices);
        if self.options.deny_overflow && !non_finite.is_empty() {
            return Err(Error::NonFinite(non_finite));
        }
        let (opened, open_seconds) = timed(|| self.sessions.open_devices(&devices, token))?;
        tracing::Span::current().record("device", tracing::field::display(&devices));

        let attaching = Instant::now();
        let before = memory_of(&opened)?;
        let mut descriptors = descriptors.iter();
        let mut buffers = Vec::new();
        for (device, part) in opened.iter().zip(&manifest.parts) {
            let sizes = part.descriptors.iter().copied();
            let shares: Vec<_> = descriptors
                .by_ref()
                .map(AsFd::as_fd)
                .zip(sizes)
                .take(part.descriptors.len())
                .collect();
            let imported = device.import(&shares, part.bytes, Access::ReadOnly);
            buffers.push(imported.map_err(|error| match error.code() {
                ErrorCode::ForeignMemory => refused(error.context().to_owned()),
                _ => Error::Engine(error),
            })?);
        }
        let (_, parts) = PartsOf::new(config, plan, &opened, buffers)?;
        announce_memory(&parts, observer)?;
        token.check()?;
        let verifying = Instant::now();
        let residencies = parts.iter().map(residency::check).collect::<Result<Vec<_>, _>>()?;
        Fingerprint::of_manifest(manifest).check_all(&parts, observer)?;
        let verify_seconds = verifying.elapsed().as_secs_f64();
        let residency = Residency::sum(&residencies);

        let after = memory_of(&opened)?;
        let accounts = devices.iter().zip(before.into_iter().zip(after));
        let accounts: Vec<_> = accounts
            .map(|(&device, (before, after))| (device, MemoryAccount::between(before, after)))
            .collect();
        let of = std::sync::Arc::clone(&parts.first().ok_or_else(no_part)?.of);
        let stats = LoadStats {
            device: devices,
            device_name: of.device_names.join(", "),
            vram_bytes: residency.vram_bytes,
            source_bytes: 0,
            split_mode: of.plan.placement().mode(),
            resident: Resident::Attached,
            resident_key: Some(manifest.key.to_string()),
            parts: part_stats(&parts, residencies, &accounts, |_| 0),
            phases: Phases {
                seconds: times.start.elapsed().as_secs_f64(),
                parse_seconds: times.parse_seconds,
                plan_seconds: times.plan_seconds,
                context_seconds: times.driver_seconds + driver_seconds + open_seconds,
                pin_seconds: 0.0,
                allocate_seconds: 0.0,
                prepare_seconds: 0.0,
                transfer_seconds: attaching.elapsed().as_secs_f64(),
                verify_seconds,
            },
            transfer: TransferFigures::none(self.options.io),
            proof: Proof {
                residency,
                memory: MemoryAccount::sum(accounts.iter().map(|(_, account)| *account)),
                non_finite,
                warnings,
                all_zero: stored_model::all_zero(manifest),
            },
        };
        Ok(LoadedModel::new(of, parts, stats, header, files))
    }
}

fn announce_verified(model: &LoadedModel, observer: &mut dyn Observer) -> Result<(), Error> {
    let residency = Cow::Borrowed(&model.stats.proof.residency);
    emit(observer, &LoadEvent::Verified { residency })
}

fn no_part() -> Error {
    refused("its manifest has no part".to_owned())
}

/// Returns whether the weights are of the file in its present state.
fn is_of_files(manifest: &Manifest, load: &Load<'_>) -> bool {
    let now = load.source.identities();
    now.len() == manifest.files.len()
        && now.iter().zip(&manifest.files).all(|(now, then)| now.is_as(stored_model::facts(then)))
}

fn memory_of(devices: &[Device]) -> Result<Vec<Option<MemoryInfo>>, Error> {
    Ok(devices.iter().map(Device::memory).collect::<Result<_, _>>()?)
}

/// Returns the identity of each device. Creates no context.
fn identities(devices: &Devices) -> Result<Vec<String>, Error> {
    let gpus = match devices.iter().all(|device| *device == DeviceKind::Host) {
        true => Vec::new(),
        false => cuda_sys::cuda_devices()?,
    };
    let identity = |device: &DeviceKind| match device {
        DeviceKind::Host => Ok(Device::open(DeviceKind::Host)?.identity()?),
        DeviceKind::Cuda(ordinal) => match gpus.iter().find(|gpu| gpu.ordinal == *ordinal) {
            Some(gpu) => Ok(gpu.identity.clone()),
            // Opening it gives the error.
            None => Ok(Device::open(*device)?.identity()?),
        },
    };
    devices.iter().map(identity).collect()
}

/// Returns the devices that hold the parts of a manifest.
fn devices_of(parts: &[StoredPart]) -> Result<Devices, Error> {
    let host = Device::open(DeviceKind::Host)?.identity()?;
    let gpus = match parts.iter().all(|part| part.device == host) {
        true => Vec::new(),
        false => cuda_sys::cuda_devices()?,
    };
    let device = |part: &StoredPart| {
        if part.device == host {
            return Ok(DeviceKind::Host);
        }
        match gpus.iter().find(|gpu| gpu.identity == part.device) {
            Some(gpu) => Ok(DeviceKind::Cuda(gpu.ordinal)),
            None => Err(refused(format!(
                "they are on {} ({}), which this process does not see",
                gguf_format::escape(&part.device),
                gguf_format::escape(&part.device_name)
            ))),
        }
    };
    Ok(Devices::new(parts.iter().map(device).collect::<Result<Vec<_>, _>>()?))
}
