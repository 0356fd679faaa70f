//! If one bit of a header is damaged, the file must not give other weights without an error.

#[path = "../../examples/bit_flips/survey.rs"]
mod survey;

use crate::support::TestFile;
use gguf_format::GgmlType;
use model_phi3::preset::{Layout, Preset, TypeMix};
use survey::{Outcome, survey};

#[test]
fn no_flipped_bit_gives_other_weights() {
    for (layout, mix) in [(Layout::Fused, TypeMix::Q4_K_M), (Layout::Split, TypeMix::F16)] {
        let mut bytes = TestFile::new(Preset::Tiny, layout, mix)
            .writer()
            .to_bytes(|index, data| data.fill(index as u8 | 1))
            .unwrap();
        let found = survey(&mut bytes).unwrap();
        assert!(found.iter().zip(0..).all(|(flip, at)| flip.byte * 8 + flip.bit as usize == at));
        let is_code = |what: &str| what.starts_with("GGUF_") || what.starts_with("PHI3_");
        assert!(found.iter().all(|f| f.outcome != Outcome::Refused || is_code(&f.what)));
        let named = |outcome| found.iter().filter(move |flip| flip.outcome == outcome);
        assert!(named(Outcome::Refused).count() > 5_000);
        assert!(named(Outcome::SameWeights).count() > 1_000, "names and numbers of no weight");
        let others: Vec<_> = named(Outcome::OtherWeights).collect();
        assert!(others.is_empty(), "{others:?}");
    }
}

/// The one exception: no tensor follows the last one, so none is in the wrong place.
#[test]
fn a_wrong_type_of_the_last_tensor_gives_only_a_warning() {
    let mut file = TestFile::tiny();
    file.tensor("output_norm.weight").ggml_type = GgmlType::F32;
    let last = file.tensors.iter().position(|tensor| tensor.name == "output_norm.weight").unwrap();
    file.tensors[last..].rotate_left(1);
    let mut bytes = file.writer().to_bytes(|_, data| data.fill(1)).unwrap();
    let found = survey(&mut bytes).unwrap();
    assert!(found.iter().any(|flip| flip.outcome == Outcome::Warned));
    assert!(found.iter().all(|flip| flip.outcome != Outcome::OtherWeights));
}
