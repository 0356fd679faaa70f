//! The command `plan`.

use super::args::Plan;
use super::config_report::write_config;
use super::failure::Failure;
use super::json::{self, KvCacheDocument, PartDocument, PlanDocument};
use super::outputs;
use super::placement::Placed;
use super::stdout;
use super::text::{bytes, held, shape, write_warnings};
use gguf_format::path_text;
use loader::{FileName, LoadOptions, Loader, Warning};
use model_phi3::{LoadPlan, PlacedPart, PlacedSlot};
use std::io::Write;
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
}

/// The device memory that a working model needs. The sum of the requested sizes may not fit into 64 bits.
struct Needs {
    kv_cache: KvCacheDocument,
    reserve: u64,
    total: Option<u64>,
    /// Bytes that are missing on each device; `None` if its memory is unknown.
    short_by: Vec<Option<u64>>,
}

impl Needs {
    fn new(arguments: &Plan, placed: &Placed) -> Self {
        let Placed { config, plan, devices } = placed;
        let context = u64::from(arguments.context.unwrap_or(config.context_length));
        let batch = u64::from(arguments.batch);
        let bytes = config.kv_cache_bytes(context, batch, arguments.kv_type);
        let reserves = arguments.reserve.checked_mul(placed.reserves() as u64);
        let total =
            bytes.and_then(|bytes| bytes.checked_add(plan.device_bytes())?.checked_add(reserves?));
        let dtype = arguments.kv_type.name();
        Self {
            kv_cache: KvCacheDocument { context, batch, dtype, bytes },
            reserve: arguments.reserve,
            total,
            short_by: (0..devices.len())
                .map(|device| placed.short_by(device, arguments.reserve))
                .collect(),
        }
    }

    /// Returns the bytes that are missing on all devices together; `None` if the memory of one is unknown and
    /// nothing is known to be missing.
    fn all_short_by(&self) -> Option<u64> {
        let known = self.short_by.iter().flatten();
        let sum = known.fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        (sum > 0 || self.short_by.iter().all(Option::is_some)).then_some(sum)
    }
}

impl Report<'_> {
    fn document(&self) -> PlanDocument<'_> {
        let Placed { config, plan, devices } = self.placed;
        let parts = plan.parts().iter().zip(devices.iter().zip(&self.needs.short_by));
        let short_by = self.needs.all_short_by();
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
            kv_cache: KvCacheDocument { context, batch, dtype, bytes },
            reserve_bytes: self.needs.reserve,
            total_bytes: self.needs.total,
            config,
            warnings: self.warnings,
            slots: plan.whole().slots(),
            operations: plan.whole().ops(),
            left_out: plan.left_out().iter().map(|name| &**name).collect(),
            parts: parts
                .map(|(part, (device, short_by))| PartDocument {
                    device: device.to_string(),
                    memory_bytes: device.memory,
                    short_by: *short_by,
                    source_bytes: part.source_bytes(),
                    part,
                })
                .collect(),
        }
    }

    fn write_text(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let Placed { config, plan, .. } = self.placed;
        let or_more = |count: Option<u64>| count.map_or("over 2^64 bytes".to_owned(), bytes);
        let KvCacheDocument { context, batch, dtype, bytes: kv_bytes } = self.needs.kv_cache;
        writeln!(out, "file      {}", path_text(self.file))?;
        write_config(out, config)?;
        write_warnings(out, self.warnings)?;
        writeln!(out, "storage   {}", plan.storage().name())?;
        writeln!(out, "VRAM      {}", bytes(plan.device_bytes()))?;
        writeln!(out, "KV cache  {}: {batch} x {context} tokens, {dtype}", or_more(kv_bytes))?;
        if self.needs.reserve != 0 {
            let each = if self.placed.reserves() > 1 { " on each GPU" } else { "" };
            writeln!(out, "reserve   {}{each}", bytes(self.needs.reserve))?;
        }
        writeln!(out, "in all    {}", or_more(self.needs.total))?;
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
        self.write_devices(out)?;
        self.write_slots(out)
    }

    /// Writes a line for each device, if there are several or the memory of one is known.
    fn write_devices(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let Placed { plan, devices, .. } = self.placed;
        if let ([_], [None]) = (&devices[..], &self.needs.short_by[..]) {
            return Ok(());
        }
        let mode = plan.placement().mode();
        writeln!(out, "split     {mode}")?;
        let parts = plan.parts().iter().zip(devices.iter().zip(&self.needs.short_by));
        for (part, (device, short_by)) in parts {
            let fits = match (short_by, device.memory) {
                (Some(0), Some(memory)) => format!(", fits into {}", bytes(memory)),
                (Some(missing), _) => format!(", short by {}", bytes(*missing)),
                (None, _) => String::new(),
            };
            let (size, content) = (bytes(part.device_bytes()), held(part.slots(), mode));
            writeln!(out, "{:<9} {size}{fits}: {content}", device.to_string())?;
        }
        Ok(())
    }

    /// Writes a line for each weight of each device.
    fn write_slots(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let Placed { plan, devices, .. } = self.placed;
        let all = || plan.parts().iter().flat_map(PlacedPart::slots);
        let width = all().map(|slot| slot.planned.slot.to_string().len()).max().unwrap_or(0);
        for (part, device) in plan.parts().iter().zip(devices) {
            writeln!(out)?;
            if devices.len() > 1 {
                writeln!(out, "{device}")?;
            }
            writeln!(
                out,
                "{:>14} {:>12}  {:<8} {:<width$} {:<18} tensor",
                "offset", "bytes", "format", "slot", "shape"
            )?;
            for slot in part.slots() {
                writeln!(
                    out,
                    "{:>14} {:>12}  {:<8} {:<width$} {:<18} {}{}",
                    slot.planned.dest.start,
                    slot.planned.dest.end - slot.planned.dest.start,
                    slot.planned.format.ggml_type().name(),
                    slot.planned.slot.to_string(),
                    shape(&slot.planned.shape),
                    gguf_format::escape(slot.planned.tensor.as_ref()),
                    part_text(plan.whole(), slot)
                )?;
            }
        }
        Ok(())
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
