//! Computes with loaded weights, and compares the logits with those of an independent forward pass. Only this
//! shows that the slots have the right names, and that the configuration is complete.

use crate::common::{expected, model_path};
use crate::forward::last_logits;
use crate::reference::{self, Reference, TOLERANCE};
use crate::values::{load, values};
use loader::model_phi3::RopeStyle;
use loader::{LayerWeights, Phi3Config, Phi3Weights, Storage};
use std::collections::BTreeMap;
use std::mem::swap;

type Weights = Phi3Weights<Vec<f64>>;

/// A mistake changes the logits by more than this.
const CLEAR: f64 = 1e-3;

fn references() -> BTreeMap<String, Reference> {
    reference::read(&model_path("logits.json")).unwrap()
}

#[test]
fn the_logits_of_every_golden_model_equal_the_reference() {
    let references = references();
    assert!(references.keys().eq(expected().keys()));
    for (name, reference) in references {
        for (storage, difference) in reference.compare(&model_path(&name)).unwrap() {
            assert!(difference <= TOLERANCE, "{name}, {storage}: {difference:e}");
        }
    }
}

/// Makes a mistake with every golden model that it is possible with, and checks that the logits show it.
fn is_found(
    possible: impl Fn(&Phi3Config) -> bool,
    mistake: impl Fn(&mut Phi3Config, &mut Weights),
) {
    let mut tried = 0;
    for (name, reference) in references() {
        let model = load(&model_path(&name), Storage::F16).unwrap();
        if !possible(model.config()) {
            continue;
        }
        let (mut config, mut weights) = (model.config().clone(), values(&model).unwrap());
        let right = last_logits(&config, &weights, &reference.ids);
        mistake(&mut config, &mut weights);
        let wrong = last_logits(&config, &weights, &reference.ids);
        let difference = reference::difference(&wrong, &right);
        assert!(difference > CLEAR, "{name}: {difference:e}");
        tried += 1;
    }
    assert!(tried > 0);
}

fn in_each_layer(
    change: impl Fn(&mut LayerWeights<Vec<f64>>),
) -> impl Fn(&mut Phi3Config, &mut Weights) {
    move |_, weights| weights.layers.iter_mut().for_each(&change)
}

#[test]
fn exchanged_queries_and_keys_are_found() {
    let as_many = |config: &Phi3Config| config.heads == config.kv_heads;
    is_found(as_many, in_each_layer(|layer| swap(&mut layer.attn_q, &mut layer.attn_k)));
}

#[test]
fn exchanged_keys_and_values_are_found() {
    is_found(|_| true, in_each_layer(|layer| swap(&mut layer.attn_k, &mut layer.attn_v)));
}

#[test]
fn exchanged_gate_and_up_are_found() {
    is_found(|_| true, in_each_layer(|layer| swap(&mut layer.ffn_gate, &mut layer.ffn_up)));
}

#[test]
fn exchanged_norms_are_found() {
    is_found(|_| true, in_each_layer(|layer| swap(&mut layer.attn_norm, &mut layer.ffn_norm)));
}

#[test]
fn the_other_rope_style_is_found() {
    is_found(
        |_| true,
        |config, _| {
            config.rope.style = match config.rope.style {
                RopeStyle::Neox => RopeStyle::Adjacent,
                RopeStyle::Adjacent => RopeStyle::Neox,
            };
        },
    );
}

#[test]
fn exchanged_rope_factors_are_found() {
    is_found(
        |config| config.rope.factors,
        |_, weights| swap(&mut weights.rope_factors_long, &mut weights.rope_factors_short),
    );
}

#[test]
fn a_lost_attention_factor_is_found() {
    is_found(
        |config| config.rope.attn_factor.is_some(),
        |config, _| config.rope.attn_factor = None,
    );
}
