//! Arranges the results of a run in sections of rows. Each row has a sentence that explains it.

use super::document::{
    BenchDocument, Health, KernelFigures, Limit, LimitKind, LoadFigures, Peer, ShapeFigures,
    SmallTensors, Spread,
};
use crate::text::{self, bytes, counted, memory_bytes, memory_word};
use gguf_format::path_text;
use std::path::Path;

pub(super) struct Report {
    /// Names and texts: the machine, the file, the options.
    pub(super) facts: Vec<(&'static str, String)>,
    pub(super) sections: Vec<Section>,
}

pub(super) struct Section {
    pub(super) title: String,
    /// The names of the figures of each row.
    pub(super) heads: Vec<&'static str>,
    pub(super) rows: Vec<Row>,
    /// A remark on the whole section.
    pub(super) note: Option<String>,
}

pub(super) struct Row {
    pub(super) name: String,
    pub(super) figures: Vec<String>,
    pub(super) sentence: String,
}

impl Section {
    fn new(title: impl Into<String>, heads: &[&'static str], rows: Vec<Row>) -> Self {
        Self { title: title.into(), heads: heads.to_vec(), rows, note: None }
    }
}

impl Row {
    fn new<const N: usize>(
        name: impl Into<String>,
        figures: [String; N],
        sentence: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), figures: figures.into(), sentence: sentence.into() }
    }
}

impl Report {
    pub(super) fn new(file: &Path, document: &BenchDocument) -> Self {
        let mut sections = vec![limits(document), loads(document), peers(&document.peers)];
        sections.extend(document.loads.iter().map(phases));
        sections.push(small_tensors(&document.small_tensors));
        sections.push(shapes(&document.shapes));
        sections.push(health(&document.health));
        sections.push(kernels(&document.kernels));
        sections.retain(|section| !section.rows.is_empty());
        Self { facts: facts(file, document), sections }
    }
}

fn facts(path: &Path, document: &BenchDocument) -> Vec<(&'static str, String)> {
    let BenchDocument { machine, file, settings, .. } = document;
    let cpu = machine.cpu.as_deref().unwrap_or("unknown processor");
    let memory = machine.memory_bytes.map_or("unknown memory size".to_owned(), memory_bytes);
    let mut device = format!("{} ({})", machine.device, machine.device_name);
    for (what, fact) in [
        ("driver", &machine.driver),
        ("compute capability", &machine.compute_capability),
        ("PCI", &machine.pci_bus_id),
    ] {
        device.extend(fact.iter().map(|fact| format!(", {what} {fact}")));
    }
    vec![
        ("date", format!("{}, phi3-loader {}", machine.date, machine.version)),
        ("machine", format!("{cpu}, {}, {memory}", counted(machine.cores, "core"))),
        ("device", device),
        ("file", format!("{}, {}", path_text(path), counted(file.tensors, "tensor"))),
        ("to read", bytes(file.source_bytes)),
        (memory_word([&machine.device]), memory_bytes(file.vram_bytes)),
        (
            "options",
            format!(
                "storage {}, io {}, verify {}, runs of each measurement: {}",
                settings.storage, settings.io, settings.verify, settings.repeat
            ),
        ),
        ("figures", "median (minimum to maximum)".to_owned()),
    ]
}

fn limits(document: &BenchDocument) -> Section {
    let row = |limit: &Limit| {
        let mut sentence = limit.description.to_owned();
        if limit.gb_per_s.is_none() {
            sentence.extend(limit.note.iter().map(|why| format!(" Not measured: {why}.")));
        }
        Row::new(&limit.name, [or_dash(limit.gb_per_s.map(rate))], sentence)
    };
    Section::new("Limits of this machine", &["rate"], document.limits.iter().map(row).collect())
}

fn loads(document: &BenchDocument) -> Section {
    let row = |load: &LoadFigures| {
        let share = load.share_of_reference.map(|share| percent(share.median));
        Row::new(
            format!("{} load", load.name),
            [
                milliseconds(load.seconds_of("transfer")),
                or_dash(load.reads().then(|| rate(load.gb_per_s))),
                or_dash(share),
            ],
            load.description,
        )
    };
    let heads = ["transfer", "rate", "of limit"];
    let mut section = Section::new("Loads", &heads, document.loads.iter().map(row).collect());
    section.note = document.reference.as_ref().map(|limit| {
        let of_host = document.limits.iter().any(|limit| limit.kind == LimitKind::MemoryCopyToNew);
        let half = if of_host { "half of " } else { "" };
        let rate = text::rate(limit.gb_per_s);
        format!("Rates are bytes of the file per second of the transfer. The limit is {half}{}: {rate}.", limit.name)
    });
    section
}

fn peers(peers: &[Peer]) -> Section {
    let row = |peer: &Peer| {
        let version = peer.version.iter().map(|version| format!(" ({version})"));
        Row::new(
            &peer.name,
            [
                or_dash(peer.seconds.map(time)),
                or_dash(peer.gb_per_s.map(|rate| text::rate(rate.median))),
                or_dash(peer.times_of_transfer.map(|times| format!("{times:.1}"))),
            ],
            format!("{}{}", peer.note, version.collect::<String>()),
        )
    };
    let heads = ["time", "rate", "transfers"];
    let section = Section::new("Other loaders", &heads, peers.iter().map(row).collect());
    let note = "The last column is the time divided by that of the transfer of the warm load.";
    Section { note: Some(note.to_owned()), ..section }
}

fn phases(load: &LoadFigures) -> Section {
    let rows =
        load.rows.iter().map(|row| Row::new(row.phase, [time(row.seconds)], row.description));
    let mut note = load.device.clone();
    if load.reads() {
        let LoadFigures { io, threads, chunk_bytes, .. } = load;
        let threads = counted(*threads, "thread");
        note += &format!("; io {io}, {threads}, chunks of {}", size(*chunk_bytes));
    }
    for (cached, when) in [(load.cached, "before"), (load.cached_after, "after")] {
        let percent = cached.map(|cached| cached.median * 100.0);
        note.extend(percent.map(|percent| format!("; {percent:.0} % cached {when}")));
    }
    let title = format!("Phases of the {} load", load.name);
    Section { note: Some(note + "."), ..Section::new(title, &["time"], rows.collect()) }
}

fn small_tensors(small: &SmallTensors) -> Section {
    let SmallTensors { tensors, tensor_bytes, seconds, seconds_as_one } = small;
    let one = tensors * tensor_bytes;
    let rows = vec![
        Row::new(
            format!("{tensors} weights of {tensor_bytes} bytes"),
            [time(*seconds)],
            "Moves many small weights.",
        ),
        Row::new(
            format!("one weight of {one} bytes"),
            [time(*seconds_as_one)],
            "Moves as many bytes as one weight, for comparison.",
        ),
    ];
    Section::new("Small weights", &["time"], rows)
}

fn shapes(shapes: &[ShapeFigures]) -> Section {
    let row = |shape: &ShapeFigures| {
        let ShapeFigures { threads, depth, chunk_bytes, read_bytes, seconds, gb_per_s } = shape;
        let [chunk, read] = [*chunk_bytes, *read_bytes].map(size);
        Row::new(
            format!("{threads}:{depth}:{chunk}:{read}").replace(' ', ""),
            [time(*seconds), text::rate(gb_per_s.median)],
            format!(
                "Reader threads: {threads}; buffers: {depth} of {chunk}; a read: at most {read}."
            ),
        )
    };
    let rows = shapes.iter().map(row).collect();
    Section::new("Engine settings", &["transfer", "rate"], rows)
}

fn health(health: &Health) -> Section {
    let rows = vec![
        Row::new(
            "residency",
            [time(health.residency_seconds)],
            "Checks that all weights are at their addresses on the device.",
        ),
        Row::new(
            "fingerprint",
            [time(health.fingerprint_seconds)],
            "Reads all weights on the device and computes a digest of them.",
        ),
    ];
    Section::new("Checks of a loaded model", &["time"], rows)
}

fn kernels(kernels: &[KernelFigures]) -> Section {
    let row = |kernel: &KernelFigures| {
        let name = &kernel.name;
        let sentence = match name.as_str() {
            "copy" => "Copies f16 values; the others are compared with it.".to_owned(),
            "count non-finite" => "Counts infinite and NaN values.".to_owned(),
            "digest" => "Computes the digest of --verify checksum.".to_owned(),
            _ => format!("Decodes {name} to f16."),
        };
        let threads = kernel.threads.map(|threads| format!(", {}", counted(threads, "thread")));
        Row::new(
            format!("{name}{}", threads.unwrap_or_default()),
            [rate(kernel.gb_per_s), percent(kernel.share_of_copy)],
            sentence,
        )
    };
    let rows = kernels.iter().map(row).collect();
    let section = Section::new("Decoders", &["rate", "of copy"], rows);
    Section {
        note: Some(
            "Rates count the bytes that are read and the bytes that are written.".to_owned(),
        ),
        ..section
    }
}

fn or_dash(figure: Option<String>) -> String {
    figure.unwrap_or_else(|| "-".to_owned())
}

/// Formats a rate, given in GB per second, in the unit that fits its median.
pub(super) fn rate(gb_per_s: Spread) -> String {
    let (unit, gb) = rate_unit(gb_per_s.median);
    spread(gb_per_s.map(|rate| rate / gb), 2, unit)
}

/// Returns a unit for a rate that is given in GB per second, and the size of the unit in GB per second.
pub(super) fn rate_unit(gb_per_s: f64) -> (&'static str, f64) {
    match gb_per_s {
        1.0.. => ("GB/s", 1.0),
        1e-3.. => ("MB/s", 1e-3),
        _ => ("kB/s", 1e-6),
    }
}

fn time(seconds: Spread) -> String {
    spread(seconds.map(|seconds| seconds * 1e3), 3, "ms")
}

/// Formats a size as options take it.
fn size(bytes: u64) -> String {
    match bytes {
        mib if mib.is_multiple_of(1 << 20) => format!("{} MiB", mib >> 20),
        kib if kib.is_multiple_of(1 << 10) => format!("{} KiB", kib >> 10),
        _ => format!("{bytes} B"),
    }
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.3} ms", seconds * 1e3)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn spread(spread: Spread, decimals: usize, unit: &str) -> String {
    let Spread { median, min, max } = spread;
    format!("{median:.decimals$} {unit} ({min:.decimals$} to {max:.decimals$})")
}

#[cfg(test)]
mod tests {
    use super::{rate, size};
    use crate::bench::document::Spread;

    #[test]
    fn rates_have_a_unit_that_fits_the_median() {
        let text = |median| rate(Spread { median, min: median / 2.0, max: median * 2.0 });
        assert_eq!(text(54.5), "54.50 GB/s (27.25 to 109.00)");
        assert_eq!(text(1.0), "1.00 GB/s (0.50 to 2.00)");
        assert_eq!(text(0.0124), "12.40 MB/s (6.20 to 24.80)");
        assert_eq!(text(4e-7), "0.40 kB/s (0.20 to 0.80)");
        assert_eq!(text(0.0), "0.00 kB/s (0.00 to 0.00)");
    }

    #[test]
    fn sizes_are_exact() {
        let sizes = [8 << 20, 4 << 10, (1 << 20) + 1024, 4097].map(size);
        assert_eq!(sizes, ["8 MiB", "4 KiB", "1025 KiB", "4097 B"]);
    }
}
