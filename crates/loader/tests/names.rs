//! Checks, by compiling, that the crate re-exports every type in its fields and signatures, so that its users
//! need no other crate.

use loader::{
    AllZeroTensor, CancelToken, CudaDeviceInfo, DeviceChoice, DeviceFit, DeviceKind, Devices,
    EngineError, EngineErrorCode, Error, Fit, Fused, GgufError, GgufFile, HeadRange,
    InsufficientMemory, InvalidPlacement, Io, LayerWeights, Limits, LoadEvent, LoadOptions,
    LoadPlan, LoadStats, LoadedModel, LoadedPart, Loader, MemoryAccount, MemoryBound, MemoryInfo,
    ModelError, NonFiniteTensor, Observer, PartStats, PartView, Phases, Phi3Config, Phi3Weights,
    PlacedPart, PlacedPlan, PlacedSlot, Placement, Planned, Proof, Residency, Resident,
    SharedTensor, Slot, SlotFormat, Span, SpanKind, SplitMode, Storage, TensorView, Tokenizer,
    TransferFigures,
};
use loader::{gguf_format, half, model_phi3};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

const _: fn(&Loader, PathBuf) -> Result<GgufFile, Error> = Loader::inspect;
const _: fn(&Loader, PathBuf) -> Result<Planned, Error> = Loader::plan;
const _: fn(&mut Loader, PathBuf) -> Result<Fit, Error> = Loader::fits;
const _: fn(&mut Loader) -> Result<Devices, Error> = Loader::prepare;
const _: fn() -> Result<Vec<CudaDeviceInfo>, Error> = loader::cuda_devices;
const _: fn(&mut Loader, PathBuf, &mut dyn Observer) -> Result<LoadedModel, Error> = Loader::load;
const _: fn(&mut Loader, File, &mut dyn Observer) -> Result<LoadedModel, Error> = Loader::load_file;
const _: fn(&mut Loader, PathBuf, &mut dyn Observer, &CancelToken) -> Result<LoadedModel, Error> =
    Loader::load_cancellable;

const _: fn(LoadOptions) -> (Vec<DeviceChoice>, Storage, Limits) =
    |options| (options.devices, options.storage, options.limits);
const _: fn(LoadOptions) -> Option<Placement> = |options| options.placement;
const _: fn(SplitMode, usize) -> Result<Placement, InvalidPlacement> = Placement::new;
const _: fn(&Planned) -> (&Phi3Config, &PlacedPlan) = |planned| (&planned.config, &planned.plan);
const _: fn(&Fit) -> (&Devices, &[DeviceFit]) = |fit| (&fit.device, &fit.devices);

const _: fn(&LoadStats) -> (&Phases, &TransferFigures, &Proof) =
    |stats| (&stats.phases, &stats.transfer, &stats.proof);
const _: fn(&LoadStats) -> (&Devices, Io) = |stats| (&stats.device, stats.transfer.io);
const _: fn(&LoadStats) -> (&[PartStats], SplitMode, Resident) =
    |stats| (&stats.parts, stats.split_mode, stats.resident);
const _: fn(&PartStats) -> (DeviceKind, &[PlacedSlot]) = |part| (part.device, &part.slots);
const _: fn(&LoadStats) -> (&[NonFiniteTensor], &[Span]) =
    |stats| (&stats.proof.non_finite, &stats.transfer.timeline);
const _: fn(&LoadStats) -> &[AllZeroTensor] = |stats| &stats.proof.all_zero;
const _: fn(&LoadStats) -> (&Residency, &Option<MemoryAccount>) =
    |stats| (&stats.proof.residency, &stats.proof.memory);
const _: fn(&InsufficientMemory) -> Option<MemoryInfo> = |memory| memory.memory;
const _: fn(&MemoryInfo) -> MemoryBound = |memory| memory.bound;
const _: fn(&Span) -> SpanKind = |span| span.kind;

const _: fn(&LoadedModel) -> Option<&Phi3Weights<TensorView>> = LoadedModel::weights;
const _: fn(&LoadedModel) -> &[LoadedPart] = LoadedModel::parts;
const _: fn(&LoadedPart) -> &PlacedPart = LoadedPart::plan;
const _: fn(&LoadedPart, Slot) -> Option<PartView> = LoadedPart::slot;
const _: fn(&PartView) -> Option<HeadRange> = |view| view.heads;
const _: fn(&LoadedModel, Slot) -> Option<TensorView> = LoadedModel::slot;
const _: fn(&LoadedModel, Fused) -> Option<TensorView> = LoadedModel::fused;
const _: fn(&Arc<LoadedModel>, Slot) -> Option<SharedTensor> = LoadedModel::share;
const _: for<'m> fn(&'m LoadedModel, Slot) -> Option<&'m [half::f16]> = LoadedModel::host_slice;
const _: fn(&LoadedModel) -> Result<Tokenizer<'_>, ModelError> = LoadedModel::tokenizer;
const _: fn(&LoadedModel) -> &gguf_format::Metadata<'_> = LoadedModel::metadata;
const _: fn(&Phi3Weights<TensorView>) -> &[LayerWeights<TensorView>] = |weights| &weights.layers;
const _: fn(&TensorView) -> &SlotFormat = |view| &view.format;

const _: fn(&Error) -> Option<&EngineError> = |error| match error {
    Error::Engine(error) | Error::Read { source: error, .. } => Some(error),
    _ => None,
};
const _: fn(&EngineError) -> EngineErrorCode = EngineError::code;
const _: fn(&Error) -> Option<&GgufError> =
    |error| if let Error::Gguf(error) = error { Some(error) } else { None };
const _: fn(&Error) -> Option<&ModelError> =
    |error| if let Error::Model { source, .. } = error { Some(source) } else { None };
const _: fn(&Error) -> Option<&InsufficientMemory> =
    |error| if let Error::InsufficientMemory(memory) = error { Some(memory) } else { None };

const _: for<'e> fn(&'e LoadEvent<'_>) -> Option<&'e PlacedPlan> =
    |event| if let LoadEvent::Planned { plan, .. } = event { Some(plan) } else { None };
const _: fn(&PlacedPlan) -> &LoadPlan = PlacedPlan::whole;
const _: fn(&LoadPlan) -> &[model_phi3::PlannedSlot] = LoadPlan::slots;
const _: fn(&GgufFile) -> &[gguf_format::Shard] = GgufFile::shards;

#[cfg(feature = "synth")]
const _: fn(
    loader::synth::Preset,
    loader::synth::Layout,
    loader::synth::TypeMix,
    u64,
) -> loader::synth::SynthOptions = loader::synth::SynthOptions::new;

#[cfg(feature = "measure")]
const _: fn(&LoadOptions, loader::DeviceKind, u64) -> loader::measure::cuda_sys::EngineConfig =
    loader::measure::engine_config;
