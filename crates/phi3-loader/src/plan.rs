//! The command `plan`, and the text form of configurations and plans.

use super::args::Plan;
use super::failure::Failure;
use super::json::{
    self, ConfigDocument, FileName, KvCacheDocument, OperationDocument, PlanDocument, SlotDocument,
    WarningDocument,
};
use super::outputs;
use super::stdout;
use super::text::{bytes, shape};
use gguf_format::path_text;
use loader::{LoadOptions, Loader, Planned, Warning};
use model_phi3::{Conversion, Phi3Config, Rope, RopeScaling, SlotFormat};
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
        storage: plan.storage().name(),
        vram_bytes: plan.device_bytes(),
        source_bytes: plan.source_bytes(),
        units: plan.units(),
        kv_cache: needs.kv_cache,
        reserve_bytes: needs.reserve,
        total_bytes: needs.total,
        config: config_document(config),
        warnings: warnings.iter().map(WarningDocument::new).collect(),
        slots: plan
            .slots()
            .iter()
            .map(|slot| SlotDocument {
                slot: slot.slot.to_string(),
                tensor: slot.tensor.to_string(),
                shape: slot.shape.clone(),
                format: format_name(slot.format).to_owned(),
                offset: slot.dest.start,
                bytes: slot.dest.end - slot.dest.start,
                row_bytes: slot.row_bytes,
                block_len: slot.format.ggml_type().block_len(),
                block_bytes: slot.format.ggml_type().block_bytes(),
            })
            .collect(),
        operations: plan
            .ops()
            .iter()
            .map(|op| OperationDocument {
                tensor: &op.tensor,
                shard: op.source.shard,
                source_offset: op.source.range.start,
                source_bytes: op.source.range.end - op.source.range.start,
                dest_offset: op.dest.start,
                dest_bytes: op.dest.end - op.dest.start,
                conversion: conversion_name(op.conversion).to_owned(),
                scale: op.scale.as_ref().map(|scale| &*scale.name),
                unit: op.unit + 1,
            })
            .collect(),
        left_out: plan.left_out().iter().map(|name| &**name).collect(),
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
            format_name(slot.format),
            shape(&slot.shape),
            gguf_format::escape(slot.tensor.as_ref())
        )?;
    }
    Ok(())
}

pub(super) fn write_config(out: &mut dyn Write, config: &Phi3Config) -> std::io::Result<()> {
    let attention = config.attention();
    if let Some(name) = &config.name {
        writeln!(out, "model     {}", gguf_format::escape(name))?;
    }
    writeln!(
        out,
        "layout    {} architecture, {} layers, hidden {}, ffn {}, vocabulary {}{}",
        config.architecture,
        config.layers,
        config.hidden,
        config.ffn,
        config.vocab,
        if config.tied_output { ", tied output" } else { "" }
    )?;
    writeln!(
        out,
        "attention {}, {} query heads, {} key/value heads, head dimension {}",
        attention.kind(),
        config.heads,
        config.kv_heads,
        config.head_dim
    )?;
    writeln!(
        out,
        "rope      {}, {} dimensions, base {}, context {}",
        config.rope.style,
        config.rope.dimension_count,
        config.rope.freq_base,
        config.context_length
    )?;
    writeln!(out, "scaling   {}", scaling_text(&config.rope))
}

/// Describes how positions beyond the original context are mapped.
fn scaling_text(rope: &Rope) -> String {
    let mut parts = vec![rope.scaling.unwrap_or(RopeScaling::None).to_string()];
    parts.extend(rope.scaling_factor.map(|factor| format!("factor {factor}")));
    parts.extend(rope.original_context.map(|tokens| format!("original context {tokens}")));
    parts.extend(rope.attn_factor.map(|factor| format!("attention factor {factor}")));
    parts.push(if rope.factors { "long and short factors" } else { "no factors" }.to_owned());
    parts.join(", ")
}

pub(super) fn write_warnings(out: &mut dyn Write, warnings: &[Warning]) -> std::io::Result<()> {
    for warning in warnings {
        writeln!(out, "warning   {}: {warning}", warning.code())?;
        writeln!(out, "          help: {}", warning.help())?;
    }
    Ok(())
}

pub(super) fn config_document(config: &Phi3Config) -> ConfigDocument {
    let attention = config.attention();
    ConfigDocument {
        architecture: config.architecture.to_string(),
        name: config.name.clone(),
        layers: config.layers,
        hidden: config.hidden,
        ffn: config.ffn,
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        attention: attention.kind().to_string(),
        attention_scale: attention.scale,
        vocab: config.vocab,
        context_length: config.context_length,
        rms_epsilon: config.rms_epsilon,
        rope_style: config.rope.style.to_string(),
        rope_dim: config.rope.dimension_count,
        rope_freq_base: config.rope.freq_base,
        rope_original_context: config.rope.original_context,
        rope_attn_factor: config.rope.attn_factor,
        rope_scaling: config.rope.scaling.map(|scaling| scaling.to_string()),
        rope_scaling_factor: config.rope.scaling_factor,
        rope_factors: config.rope.factors,
        sliding_window: config.sliding_window,
        tied_output: config.tied_output,
        file_type: config.file_type,
    }
}

fn format_name(format: SlotFormat) -> &'static str {
    match format {
        SlotFormat::F16 => "F16",
        SlotFormat::F32 => "F32",
        SlotFormat::Blocks(ggml_type) => ggml_type.name(),
    }
}

fn conversion_name(conversion: Conversion) -> &'static str {
    match conversion {
        Conversion::Copy => "copy",
        Conversion::ToF16(ggml_type) => ggml_type.name(),
    }
}
