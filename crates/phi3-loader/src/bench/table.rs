//! Prints the results of a run as text tables.

use super::document::{
    BenchDocument, Health, KernelFigures, LoadFigures, ShapeFigures, SmallTensors, Spread,
};
use crate::text::{bytes, memory_bytes, memory_word};
use gguf_format::path_text;
use std::io::{Result, Write};
use std::path::Path;

pub(super) fn write(out: &mut dyn Write, file: &Path, document: &BenchDocument) -> Result<()> {
    print_facts(out, file, document)?;
    print_limits(out, document)?;
    for load in &document.loads {
        print_load(out, load, document)?;
    }
    print_small_tensors(out, &document.small_tensors)?;
    if !document.shapes.is_empty() {
        print_shapes(out, &document.shapes)?;
    }
    print_health(out, &document.health)?;
    if !document.kernels.is_empty() {
        print_kernels(out, &document.kernels)?;
    }
    print_peers(out, document)
}

fn print_facts(out: &mut dyn Write, path: &Path, document: &BenchDocument) -> Result<()> {
    let BenchDocument { machine, file, settings, .. } = document;
    writeln!(out, "date      {}, phi3-loader {}", machine.date, machine.version)?;
    let cpu = machine.cpu.as_deref().unwrap_or("unknown processor");
    let memory = machine.memory_bytes.map_or("unknown memory size".to_owned(), memory_bytes);
    writeln!(out, "machine   {cpu}, {} cores, {memory}", machine.cores)?;
    write!(out, "device    {} ({})", machine.device, machine.device_name)?;
    for (what, fact) in [
        ("driver", &machine.driver),
        ("compute capability", &machine.compute_capability),
        ("PCI", &machine.pci_bus_id),
    ] {
        if let Some(fact) = fact {
            write!(out, ", {what} {fact}")?;
        }
    }
    writeln!(out)?;
    writeln!(out, "file      {}, {} tensors", path_text(path), file.tensors)?;
    writeln!(out, "to read   {}", bytes(file.source_bytes))?;
    writeln!(out, "{:<9} {}", memory_word([&machine.device]), memory_bytes(file.vram_bytes))?;
    writeln!(
        out,
        "options   storage {}, io {}, verify {}, {} runs per measurement; median (minimum to maximum)",
        settings.storage, settings.io, settings.verify, settings.repeat
    )
}

fn print_limits(out: &mut dyn Write, document: &BenchDocument) -> Result<()> {
    writeln!(out, "\n{:<34} {:>28}", "limit", "GB/s")?;
    for limit in &document.limits {
        let rate = limit.gb_per_s.map_or_else(|| "-".to_owned(), |rate| spread(rate, 1));
        let note = limit.note.as_deref().unwrap_or_default();
        writeln!(out, "{:<34} {rate:>28}  {note}", limit.name)?;
    }
    Ok(())
}

fn print_load(out: &mut dyn Write, load: &LoadFigures, document: &BenchDocument) -> Result<()> {
    writeln!(
        out,
        "\n{:<34} {:>28}  {}",
        format!("{} load", load.name),
        "milliseconds",
        load.description
    )?;
    for row in &load.rows {
        writeln!(
            out,
            "  {:<32} {:>28}  {}",
            row.phase,
            spread(row.seconds.map(|s| s * 1e3), 3),
            row.description
        )?;
    }
    write!(out, "  {:<32} {:>28}", "GB/s of the file", spread(load.gb_per_s, 2))?;
    if let (Some(share), Some(reference)) = (load.share_of_reference, &document.reference) {
        let share = spread(share.map(|share| share * 100.0), 1);
        write!(out, "  {share} % of {:.2} ({})", reference.gb_per_s, reference.name)?;
    }
    writeln!(out)?;
    write!(
        out,
        "  {}: {} with {} threads, chunks of {} bytes",
        load.device, load.io, load.threads, load.chunk_bytes
    )?;
    if let Some(cached) = load.cached {
        write!(out, "; {:.0} % of the file cached before the load", cached.median * 100.0)?;
    }
    if let Some(cached) = load.cached_after {
        write!(out, ", {:.0} % after", cached.median * 100.0)?;
    }
    writeln!(out)
}

fn print_small_tensors(out: &mut dyn Write, small: &SmallTensors) -> Result<()> {
    let SmallTensors { tensors, tensor_bytes, seconds, seconds_as_one } = small;
    let milliseconds = |seconds: &Spread| spread(seconds.map(|s| s * 1e3), 3);
    let bytes = tensors * tensor_bytes;
    writeln!(out, "\n{:<34} {:>28}", "small tensors", "milliseconds")?;
    let many = format!("  {tensors} of {tensor_bytes} bytes");
    writeln!(out, "{many:<34} {:>28}", milliseconds(seconds))?;
    writeln!(out, "{:<34} {:>28}", format!("  one of {bytes} bytes"), milliseconds(seconds_as_one))
}

fn print_shapes(out: &mut dyn Write, shapes: &[ShapeFigures]) -> Result<()> {
    writeln!(out, "\n{:<34} {:>28} {:>28}", "engine settings", "milliseconds", "GB/s")?;
    for shape in shapes {
        let ShapeFigures { threads, depth, chunk_bytes, read_bytes, seconds, gb_per_s } = shape;
        writeln!(
            out,
            "{:<34} {:>28} {:>28}",
            format!("  {threads}:{depth}:{}KiB:{}KiB", chunk_bytes >> 10, read_bytes >> 10),
            spread(seconds.map(|s| s * 1e3), 3),
            spread(*gb_per_s, 2)
        )?;
    }
    Ok(())
}

fn print_health(out: &mut dyn Write, health: &Health) -> Result<()> {
    let milliseconds = |seconds: Spread| spread(seconds.map(|s| s * 1e3), 3);
    writeln!(out, "\n{:<34} {:>28}", "health of a resident model", "milliseconds")?;
    writeln!(out, "{:<34} {:>28}", "  residency", milliseconds(health.residency_seconds))?;
    writeln!(out, "{:<34} {:>28}", "  fingerprint", milliseconds(health.fingerprint_seconds))
}

fn print_kernels(out: &mut dyn Write, kernels: &[KernelFigures]) -> Result<()> {
    writeln!(out, "\n{:<22} {:>11} {:>28}  share of copy", "kernel", "threads", "GB/s")?;
    for kernel in kernels {
        let threads = kernel.threads.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let rate = spread(kernel.gb_per_s, if kernel.threads.is_some() { 2 } else { 0 });
        let share = kernel.share_of_copy * 100.0;
        writeln!(out, "{:<22} {threads:>11} {rate:>28}  {share:>11.1} %", kernel.name)?;
    }
    Ok(())
}

fn print_peers(out: &mut dyn Write, document: &BenchDocument) -> Result<()> {
    if document.peers.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{:<34} {:>28}", "peer", "seconds")?;
    for peer in &document.peers {
        let seconds = peer.seconds.map_or_else(|| "-".to_owned(), |seconds| spread(seconds, 3));
        write!(out, "{:<34} {seconds:>28}  ", peer.name)?;
        if let Some(times) = peer.times_of_transfer {
            write!(out, "{times:.1} times the transfer time of this loader; ")?;
        }
        if let Some(version) = &peer.version {
            write!(out, "{version}; ")?;
        }
        writeln!(out, "{}", peer.note)?;
    }
    Ok(())
}

/// Formats `median (minimum to maximum)`.
fn spread(spread: Spread, decimals: usize) -> String {
    let Spread { median, min, max } = spread;
    format!("{median:.decimals$} ({min:.decimals$} to {max:.decimals$})")
}
