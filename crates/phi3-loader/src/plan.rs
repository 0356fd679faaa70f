//! The command `plan`.

use super::args::Plan;
use super::color::Palette;
use super::config_report::write_config;
use super::failure::Failure;
use super::json::{self, KvCacheDocument, PartDocument, PlanDocument};
use super::outputs;
use super::placement::{Placed, PlannedDevice};
use super::stdout;
use super::table::{self, Column::Left, Column::Right};
use super::text::{bytes, held, memory_bytes, memory_size, memory_word, shape, write_warnings};
use anstyle::Style;
use gguf_format::{escape, path_text};
use indicatif::DecimalBytes;
use loader::{FileName, LoadOptions, Loader, Warning};
use model_phi3::{LoadPlan, Phi3Config, PlacedPart, PlacedSlot, PlannedSlot, Slot, SplitMode};
use std::io::{self, Write};
use std::path::Path;

pub(super) fn run(arguments: &Plan) -> Result<(), Failure> {
    outputs::check_model(&arguments.file, &[])?;
    let gguf = Loader::new(LoadOptions::new()).inspect(&arguments.file)?;
    let placed = arguments.placement_request().plan(&arguments.file, &gguf)?;
    let warnings = Warning::of(&gguf, Some(&placed.config));
    let report = Report {
        file: &arguments.file,
        needs: Needs::new(arguments, &placed),
        placed: &placed,
        warnings: &warnings,
        summary: arguments.summary,
    };
    if arguments.json {
        return json::print(&report.document());
    }
    Ok(stdout::print(|out| report.write_text(out))?)
}

/// The content of the printed report.
struct Report<'a> {
    file: &'a Path,
    needs: Needs,
    placed: &'a Placed,
    warnings: &'a [Warning],
    /// Whether the list of weights is left out.
    summary: bool,
}

/// The device memory that a working model needs. The sum of the requested sizes may not fit into 64 bits.
struct Needs {
    kv_cache: KvCacheDocument,
    reserve: u64,
    /// One for each device.
    devices: Vec<DeviceNeeds>,
}

/// The memory that one device needs.
struct DeviceNeeds {
    kv_cache: Option<u64>,
    total: Option<u64>,
    /// Bytes that are missing for weights and reserve; `None` if the memory of the device is unknown.
    short_by: Option<u64>,
    /// Bytes that are missing for the total.
    total_short_by: Option<u64>,
}

impl Needs {
    fn new(arguments: &Plan, placed: &Placed) -> Self {
        let Placed { config, plan, devices } = placed;
        let context = u64::from(arguments.context.unwrap_or(config.context_length));
        let batch = u64::from(arguments.batch);
        let bytes = config.kv_cache_bytes(context, batch, arguments.kv_type);
        let dtype = arguments.kv_type.name();
        let loaded = |(part, device): (&PlacedPart, &PlannedDevice)| {
            part.device_bytes().checked_add(placed.reserve(device, arguments.reserve))
        };
        let loaded: Vec<_> = plan.parts().iter().zip(devices).map(loaded).collect();
        let caches: Vec<_> =
            plan.parts().iter().map(|part| kv_cache_of(part, config, bytes)).collect();
        let total =
            |(loaded, cache): (&Option<u64>, &Option<u64>)| (*loaded)?.checked_add((*cache)?);
        let totals: Vec<_> = loaded.iter().zip(&caches).map(total).collect();
        let (short_by, total_short_by) = (missing(devices, &loaded), missing(devices, &totals));
        let needs = |at: usize| DeviceNeeds {
            kv_cache: caches[at],
            total: totals[at],
            short_by: short_by[at],
            total_short_by: total_short_by[at],
        };
        Self {
            kv_cache: KvCacheDocument { context, batch, dtype, bytes },
            reserve: arguments.reserve,
            devices: (0..devices.len()).map(needs).collect(),
        }
    }

    fn total(&self) -> Option<u64> {
        self.devices.iter().try_fold(0_u64, |sum, device| sum.checked_add(device.total?))
    }

    /// Returns the bytes that are missing on all devices together; `None` if the memory of one is unknown and
    /// nothing is known to be missing.
    fn sum(&self, missing: fn(&DeviceNeeds) -> Option<u64>) -> Option<u64> {
        let known = self.devices.iter().filter_map(missing);
        let sum = known.fold(0, u64::saturating_add);
        (sum > 0 || self.devices.iter().all(|device| missing(device).is_some())).then_some(sum)
    }

    fn short_by(&self) -> Option<u64> {
        self.sum(|device| device.short_by)
    }

    fn total_short_by(&self) -> Option<u64> {
        self.sum(|device| device.total_short_by)
    }
}

/// Returns the bytes that are missing on each device. If a device here is several times in the list, each entry has an equal
/// share of its memory, and can use what the others leave free.
fn missing(devices: &[PlannedDevice], needed: &[Option<u64>]) -> Vec<Option<u64>> {
    let pairs = || devices.iter().zip(needed);
    let memory = |device: &PlannedDevice| device.memory.unwrap_or_default();
    let needed = |bytes: &Option<u64>| bytes.unwrap_or(u64::MAX);
    let mut spare: Vec<_> =
        pairs().map(|(device, bytes)| memory(device).saturating_sub(needed(bytes))).collect();
    let short = |(device, bytes): (&PlannedDevice, &Option<u64>)| {
        let mut missing = needed(bytes).saturating_sub(device.memory?);
        for (other, spare) in devices.iter().zip(&mut spare) {
            if device.asked.is_some() && device.asked == other.asked {
                let used = missing.min(*spare);
                missing -= used;
                *spare -= used;
            }
        }
        Some(missing)
    };
    pairs().map(short).collect()
}

/// Returns the share of a key-value cache that belongs to a part: the keys and values of the heads that it computes.
fn kv_cache_of(part: &PlacedPart, config: &Phi3Config, whole: Option<u64>) -> Option<u64> {
    let keys = part.slots().iter().filter(|slot| matches!(slot.planned.slot, Slot::AttnK(_)));
    let rows: u64 = keys.map(|slot| slot.rows.end - slot.rows.start).sum();
    let rows_of_model =
        u64::from(config.layers) * u64::from(config.kv_heads) * u64::from(config.head_dim);
    if rows == 0 { Some(0) } else { (whole? / rows_of_model).checked_mul(rows) }
}

impl Report<'_> {
    fn document(&self) -> PlanDocument<'_> {
        let Placed { config, plan, devices } = self.placed;
        let parts = plan.parts().iter().zip(devices.iter().zip(&self.needs.devices));
        let (short_by, total_short_by) = (self.needs.short_by(), self.needs.total_short_by());
        let KvCacheDocument { context, batch, dtype, bytes } = self.needs.kv_cache;
        PlanDocument {
            schema_version: json::SCHEMA_VERSION,
            file: FileName::new(self.file),
            storage: plan.storage().name(),
            vram_bytes: plan.device_bytes(),
            source_bytes: plan.source_bytes(),
            units: plan.units(),
            layers: plan.layers(),
            split_mode: plan.placement().mode().name(),
            fits: short_by.map(|bytes| bytes == 0),
            short_by,
            total_fits: total_short_by.map(|bytes| bytes == 0),
            total_short_by,
            kv_cache: KvCacheDocument { context, batch, dtype, bytes },
            reserve_bytes: self.needs.reserve,
            total_bytes: self.needs.total(),
            config,
            warnings: self.warnings,
            slots: plan.whole().slots(),
            operations: plan.whole().ops(),
            left_out: plan.left_out().iter().map(|name| &**name).collect(),
            parts: parts
                .map(|(part, (device, needs))| PartDocument {
                    device: device.to_string(),
                    memory_bytes: device.memory,
                    memory_of: device.asked.map(|asked| asked.to_string()),
                    short_by: needs.short_by,
                    kv_cache_bytes: needs.kv_cache,
                    total_bytes: needs.total,
                    total_short_by: needs.total_short_by,
                    source_bytes: part.source_bytes(),
                    part,
                })
                .collect(),
        }
    }

    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Placed { config, plan, devices } = self.placed;
        let or_more = |count: Option<u64>| count.map_or("over 2^64 bytes".to_owned(), memory_bytes);
        let KvCacheDocument { context, batch, dtype, bytes: kv_bytes } = self.needs.kv_cache;
        writeln!(out, "file      {}", path_text(self.file))?;
        write_config(out, config)?;
        write_warnings(out, self.warnings)?;
        writeln!(out, "storage   {}", plan.storage().name())?;
        let memory = memory_word(devices.iter().map(judged));
        writeln!(out, "{memory:<9} {}", memory_bytes(plan.device_bytes()))?;
        let mode = plan.placement().mode();
        let each = if mode == SplitMode::Replicate { " on each device" } else { "" };
        writeln!(
            out,
            "KV cache  {}{each}: {batch} x {context} tokens, {dtype}",
            or_more(kv_bytes)
        )?;
        if self.needs.reserve != 0 {
            let each = if self.placed.reserves() > 1 { " on each GPU" } else { "" };
            writeln!(out, "reserve   {}{each}", memory_bytes(self.needs.reserve))?;
        }
        writeln!(out, "in all    {}", or_more(self.needs.total()))?;
        let Palette { good, error, .. } = Palette::stdout();
        let style = match self.needs.total_short_by() {
            Some(0) => good,
            Some(_) => error,
            None => Style::new(),
        };
        let fits = self.fits();
        let (word, rest) = fits.split_at(fits.find([':', ',']).unwrap_or(fits.len()));
        writeln!(out, "fits      {style}{word}{style:#}{rest}")?;
        writeln!(out, "to read   {}", bytes(plan.source_bytes()))?;
        let folded = plan.whole().ops().iter().filter(|op| op.scale.is_some()).count();
        if folded != 0 || !plan.left_out().is_empty() {
            let left_out = plan.left_out().len();
            writeln!(
                out,
                "scales    {folded} tensor scales become part of the weights, {left_out} input \
                 scales are not loaded"
            )?;
        }
        if devices.len() > 1 {
            writeln!(out, "split     {mode}")?;
            self.write_devices(out)?;
        }
        if self.summary { Ok(()) } else { self.write_slots(out) }
    }

    /// Says whether weights, key-value cache and reserve fit.
    fn fits(&self) -> String {
        let missing = self.needs.total_short_by();
        let without_cache = match (missing, self.needs.short_by()) {
            (Some(1..), Some(0)) => "; without the KV cache it fits",
            _ => "",
        };
        match (&self.placed.devices[..], &self.needs.devices[..], missing) {
            ([device], [needs], Some(_)) => {
                let memory = DecimalBytes(device.memory.unwrap_or_default());
                let free = if device.asked.is_some() { " free" } else { "" };
                let name = judged(device);
                let auto = if device.to_string() == name { "" } else { " (auto)" };
                let verdict = verdict(device, needs, memory_size);
                format!("{verdict} on {name}{auto} with {memory}{free}{without_cache}")
            }
            (_, _, Some(0)) => "yes, on every device".to_owned(),
            (_, _, Some(missing)) => {
                format!("no: short by {}{without_cache}", memory_size(missing))
            }
            (devices, _, None) => {
                let unknown = devices.iter().filter(|device| device.memory.is_none());
                let names = unknown.map(ToString::to_string).collect::<Vec<_>>().join(", ");
                format!("unknown: the memory of {names} is not known; --memory gives it")
            }
        }
    }

    /// Writes a line for each device.
    fn write_devices(&self, out: &mut dyn Write) -> io::Result<()> {
        let Placed { plan, devices, .. } = self.placed;
        let or_more = |count: Option<u64>| {
            count.map_or("over 2^64".to_owned(), |count| DecimalBytes(count).to_string())
        };
        let row = |((part, device), needs): ((&PlacedPart, &PlannedDevice), &DeviceNeeds)| {
            [
                device.to_string(),
                DecimalBytes(part.device_bytes()).to_string(),
                or_more(needs.kv_cache),
                or_more(needs.total),
                verdict(device, needs, |bytes| DecimalBytes(bytes).to_string()),
                held(part.slots(), plan.placement().mode()),
            ]
        };
        writeln!(out)?;
        let columns = [
            Left("device"),
            Right("weights"),
            Right("KV cache"),
            Right("in all"),
            Left("fits"),
            Left("holds"),
        ];
        table::write(
            out,
            columns,
            plan.parts().iter().zip(devices).zip(&self.needs.devices).map(row),
        )
    }

    /// Writes a line for each weight of each device.
    fn write_slots(&self, out: &mut dyn Write) -> io::Result<()> {
        let Placed { plan, devices, .. } = self.placed;
        let columns = [
            Left("slot"),
            Left("format"),
            Left("shape"),
            Right("offset"),
            Right("bytes"),
            Left("tensor"),
        ];
        for (part, device) in plan.parts().iter().zip(devices) {
            writeln!(out)?;
            if devices.len() > 1 {
                let Palette { heading, .. } = Palette::stdout();
                writeln!(out, "{heading}{device}{heading:#}")?;
            }
            let row = |slot: &PlacedSlot| {
                let PlannedSlot { dest, tensor, .. } = &slot.planned;
                [
                    slot.planned.slot.to_string(),
                    slot.planned.format.ggml_type().name().to_owned(),
                    shape(&slot.planned.shape),
                    dest.start.to_string(),
                    (dest.end - dest.start).to_string(),
                    format!("{}{}", escape(tensor.as_ref()), part_text(plan.whole(), slot)),
                ]
            };
            table::write(out, columns, part.slots().iter().map(row))?;
        }
        Ok(())
    }
}

/// Returns the name of the device whose memory is compared.
fn judged(device: &PlannedDevice) -> String {
    device.asked.map_or_else(|| device.to_string(), |asked| asked.to_string())
}

/// Says whether everything fits into the memory of a device.
fn verdict(device: &PlannedDevice, needs: &DeviceNeeds, size: fn(u64) -> String) -> String {
    let free = device.memory.zip(needs.total).and_then(|(memory, total)| memory.checked_sub(total));
    match needs.total_short_by {
        Some(0) => match free {
            Some(free) => format!("yes: {} stays free", size(free)),
            // Another entry of the list is the same device.
            None => "yes, in the shared memory".to_owned(),
        },
        Some(missing) => format!("no: short by {}", size(missing)),
        None => "unknown".to_owned(),
    }
}

/// Says which rows or columns of a weight a device holds. Empty if it holds all of it.
fn part_text(whole: &LoadPlan, held: &PlacedSlot) -> String {
    let [rows, cols] = match whole.slot(held.planned.slot).map(|slot| &slot.shape[..]) {
        Some(&[rows, cols]) => [rows, cols],
        _ => return String::new(),
    };
    let PlacedSlot { rows: held_rows, cols: held_cols, .. } = held;
    if *held_rows != (0..rows) {
        format!(", rows {} to {} of the slot", held_rows.start, held_rows.end - 1)
    } else if *held_cols != (0..cols) {
        format!(", columns {} to {} of the slot", held_cols.start, held_cols.end - 1)
    } else {
        String::new()
    }
}
