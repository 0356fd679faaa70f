//! The command `plan`.

use super::args::Plan;
use super::config_report::write_config;
use super::failure::Failure;
use super::json::{self, KvCacheDocument, PlanDocument};
use super::outputs;
use super::stdout;
use super::text::{bytes, shape, write_warnings};
use gguf_format::path_text;
use loader::{FileName, LoadOptions, Loader, Planned};
use std::io::Write;
use std::path::Path;

pub(super) fn run(arguments: &Plan) -> Result<(), Failure> {
    let loader = Loader::new(LoadOptions::new().storage(arguments.storage));
    outputs::check_model(&arguments.file, &[])?;
    let planned = loader.plan(&arguments.file)?;
    let needs = Needs::new(arguments, &planned);
    if arguments.json {
        print_json(&arguments.file, &planned, needs)
    } else {
        Ok(stdout::print(|out| write_text(out, &arguments.file, &planned, &needs))?)
    }
}

/// The device memory that a working model needs. The sum of the requested sizes may not fit into 64 bits.
struct Needs {
    kv_cache: KvCacheDocument,
    reserve: u64,
    total: Option<u64>,
}

impl Needs {
    fn new(arguments: &Plan, Planned { config, plan, .. }: &Planned) -> Self {
        let context = u64::from(arguments.context.unwrap_or(config.context_length));
        let batch = u64::from(arguments.batch);
        let bytes = config.kv_cache_bytes(context, batch, arguments.kv_type);
        let total = bytes.and_then(|bytes| {
            bytes.checked_add(plan.device_bytes())?.checked_add(arguments.reserve)
        });
        let dtype = arguments.kv_type.name();
        Self {
            kv_cache: KvCacheDocument { context, batch, dtype, bytes },
            reserve: arguments.reserve,
            total,
        }
    }
}

fn print_json(
    file: &Path,
    Planned { config, plan, warnings, .. }: &Planned,
    needs: Needs,
) -> Result<(), Failure> {
    json::print(&PlanDocument {
        schema_version: json::SCHEMA_VERSION,
        file: FileName::new(file),
        config,
        warnings,
        kv_cache: needs.kv_cache,
        reserve_bytes: needs.reserve,
        total_bytes: needs.total,
        plan,
    })
}

fn write_text(
    out: &mut dyn Write,
    file: &Path,
    Planned { config, plan, warnings, .. }: &Planned,
    needs: &Needs,
) -> std::io::Result<()> {
    let or_more = |count: Option<u64>| count.map_or("over 2^64 bytes".to_owned(), bytes);
    let KvCacheDocument { context, batch, dtype, bytes: kv_bytes } = needs.kv_cache;
    writeln!(out, "file      {}", path_text(file))?;
    write_config(out, config)?;
    write_warnings(out, warnings)?;
    writeln!(out, "storage   {}", plan.storage().name())?;
    writeln!(out, "VRAM      {}", bytes(plan.device_bytes()))?;
    writeln!(out, "KV cache  {}: {batch} x {context} tokens, {dtype}", or_more(kv_bytes))?;
    if needs.reserve != 0 {
        writeln!(out, "reserve   {}", bytes(needs.reserve))?;
    }
    writeln!(out, "in all    {}", or_more(needs.total))?;
    writeln!(out, "to read   {}", bytes(plan.source_bytes()))?;
    let folded = plan.ops().iter().filter(|op| op.scale.is_some()).count();
    if folded != 0 || !plan.left_out().is_empty() {
        let left_out = plan.left_out().len();
        writeln!(
            out,
            "scales    {folded} tensor scales become part of the weights, {left_out} input scales \
             are not loaded"
        )?;
    }
    writeln!(out)?;
    let names: Vec<_> = plan.slots().iter().map(|slot| slot.slot.to_string()).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0);
    writeln!(
        out,
        "{:>14} {:>12}  {:<8} {:<width$} {:<18} tensor",
        "offset", "bytes", "format", "slot", "shape"
    )?;
    for (slot, name) in plan.slots().iter().zip(&names) {
        writeln!(
            out,
            "{:>14} {:>12}  {:<8} {name:<width$} {:<18} {}",
            slot.dest.start,
            slot.dest.end - slot.dest.start,
            slot.format.ggml_type().name(),
            shape(&slot.shape),
            gguf_format::escape(slot.tensor.as_ref())
        )?;
    }
    Ok(())
}
