//! Metrics for Prometheus.

use crate::status::{Phase, Status};
use loader::{Error, Resident};
use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

pub(crate) use prometheus_text::CONTENT_TYPE;

/// Returns the metrics in the text format. The encoder appends `_total` to the names of counters.
pub(crate) fn text(status: &Status) -> String {
    let Status { phase, progress, rehash, .. } = status;
    let healthy = matches!(phase, Phase::Ready(_));
    let mismatch = matches!(phase, Phase::Failed(Error::Verification { .. }));
    let mut registry = Registry::with_prefix("worker");

    let mut gauge =
        |name, value, help| registry.register(name, help, ConstGauge::<u64>::new(value));
    gauge("load_units_done", progress.unit.into(), "Units of the model that are loaded");
    gauge("load_units", progress.of.into(), "Units of the model");
    gauge("load_done_bytes", progress.bytes, "Bytes of the file that are loaded");
    gauge("load_bytes", progress.of_bytes, "Bytes of the file to load");
    gauge("vram_bytes", progress.vram_bytes, "Device memory allocated for the weights");
    let (attached, outlives) = match progress.resident {
        Some(Resident::Attached) => (true, true),
        resident => (false, resident == Some(Resident::Published)),
    };
    gauge(
        "weights_attached",
        attached.into(),
        "1 if the weights were in device memory before, else 0",
    );
    gauge(
        "weights_resident",
        outlives.into(),
        "1 if the weights were published or attached when the load ended, else 0",
    );
    gauge("healthy", healthy.into(), "1 if the model is loaded and no check has failed, else 0");
    let seconds = ConstGauge::new(progress.seconds);
    registry.register("load_duration_seconds", "Duration of the load, 0 until it ends", seconds);

    let mut counter =
        |name, value, help| registry.register(name, help, ConstCounter::<u64>::new(value));
    counter("rehash_bytes", rehash.bytes, "Bytes compared with the fingerprint");
    counter("rehash_rounds", rehash.rounds, "Complete comparisons of all weights");
    counter("mismatches", mismatch.into(), "Checks that found wrong weights");

    let mut text = String::new();
    // Writing to a `String` does not fail.
    let _ = prometheus_text::encode(&mut text, &registry);
    text
}
