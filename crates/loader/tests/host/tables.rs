//! Three crates have their own table of tensor types. The tables must agree.

use gguf_format::GgmlType;
use model_phi3::Conversion;
use std::collections::BTreeSet;

#[test]
fn the_plan_converts_exactly_the_types_that_the_engine_decodes() {
    let decoders = cuda_sys::decoders();
    for decoder in &decoders {
        let ggml_type = GgmlType::from_id(decoder.ggml_type).unwrap();
        assert_eq!(ggml_type.name(), decoder.name);
        assert_eq!(ggml_type.block_len(), u64::from(decoder.block_len), "{ggml_type}");
        assert_eq!(ggml_type.block_bytes(), u64::from(decoder.block_bytes), "{ggml_type}");
    }
    let decoded: BTreeSet<_> = decoders.iter().map(|decoder| decoder.ggml_type).collect();
    let planned: BTreeSet<_> = (0..1000)
        .filter_map(GgmlType::from_id)
        .filter(|&ggml_type| Conversion::to_f16(ggml_type).is_some())
        .map(GgmlType::id)
        .collect();
    assert_eq!(decoded, planned);
}
