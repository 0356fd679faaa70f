//! The forward pass of a Phi-3 in `f64`, for comparison. It is short rather than fast.

use crate::rotation::Rotation;
use loader::{LayerWeights, Phi3Config, Phi3Weights};
use std::ops::Range;

/// Returns the logits of the last position of a prompt.
///
/// The prompt must fit into the sliding window, because attention here reaches every earlier position.
pub(crate) fn last_logits(
    config: &Phi3Config,
    weights: &Phi3Weights<Vec<f64>>,
    ids: &[u32],
) -> Vec<f64> {
    let window = config.sliding_window.unwrap_or(config.context_length);
    let fits = (1..=window as usize).contains(&ids.len());
    assert!(fits, "a prompt has 1 to {window} tokens, not {}", ids.len());

    let hidden = config.hidden as usize;
    let embedding = |id: u32| weights.token_embedding.chunks_exact(hidden).nth(id as usize);
    let state = |id| embedding(id).expect("a token of the vocabulary").to_vec();
    let mut states: Vec<_> = ids.iter().copied().map(state).collect();
    let rotation = Rotation::new(config, weights, ids.len());
    for layer in &weights.layers {
        let attended = attention(config, layer, &rotation, &states);
        for (state, attended) in states.iter_mut().zip(attended) {
            add(state, &product(&layer.attn_output, &attended));
            let change = feed_forward(config, layer, state);
            add(state, &change);
        }
    }
    product(&weights.output, &norm(config, &weights.output_norm, &states[ids.len() - 1]))
}

/// Returns the results of all heads, for every position.
fn attention(
    config: &Phi3Config,
    layer: &LayerWeights<Vec<f64>>,
    rotation: &Rotation,
    states: &[Vec<f64>],
) -> Vec<Vec<f64>> {
    let head_dim = config.head_dim as usize;
    let rotated = |matrix: &[f64], position: usize, state: &[f64]| {
        let mut heads = product(matrix, state);
        heads.chunks_exact_mut(head_dim).for_each(|head| rotation.rotate(head, position));
        heads
    };
    let normed: Vec<_> = states.iter().map(|state| norm(config, &layer.attn_norm, state)).collect();
    let keys: Vec<_> = (0..).zip(&normed).map(|(at, x)| rotated(&layer.attn_k, at, x)).collect();
    let values: Vec<_> = normed.iter().map(|x| product(&layer.attn_v, x)).collect();
    let attended = |at: usize, x: &[f64]| {
        let mut results = Vec::new();
        for (head, query) in rotated(&layer.attn_q, at, x).chunks_exact(head_dim).enumerate() {
            // Consecutive query heads share a key head and a value head.
            let kv_head = head * config.kv_heads as usize / config.heads as usize;
            let range = kv_head * head_dim..(kv_head + 1) * head_dim;
            results.extend(attend(
                query,
                &parts(&keys[..=at], &range),
                &parts(&values[..=at], &range),
            ));
        }
        results
    };
    (0..).zip(&normed).map(|(at, x)| attended(at, x)).collect()
}

/// Returns the same part of each vector.
fn parts<'a>(vectors: &'a [Vec<f64>], range: &Range<usize>) -> Vec<&'a [f64]> {
    vectors.iter().map(|vector| &vector[range.clone()]).collect()
}

/// Returns the mean of the values, weighted by how well their keys match the query.
fn attend(query: &[f64], keys: &[&[f64]], values: &[&[f64]]) -> Vec<f64> {
    let divisor = (query.len() as f64).sqrt();
    let weights = softmax(keys.iter().map(|key| dot(query, key) / divisor).collect());
    let mut mean = vec![0.0; query.len()];
    for (weight, value) in weights.iter().zip(values) {
        mean.iter_mut().zip(*value).for_each(|(mean, x)| *mean += weight * x);
    }
    mean
}

fn feed_forward(config: &Phi3Config, layer: &LayerWeights<Vec<f64>>, state: &[f64]) -> Vec<f64> {
    let normed = norm(config, &layer.ffn_norm, state);
    let mut inner = product(&layer.ffn_up, &normed);
    for (up, gate) in inner.iter_mut().zip(product(&layer.ffn_gate, &normed)) {
        *up *= gate / (1.0 + (-gate).exp());
    }
    product(&layer.ffn_down, &inner)
}

fn norm(config: &Phi3Config, weights: &[f64], state: &[f64]) -> Vec<f64> {
    let mean_square = dot(state, state) / state.len() as f64;
    let divisor = (mean_square + f64::from(config.rms_epsilon)).sqrt();
    state.iter().zip(weights).map(|(x, weight)| x / divisor * weight).collect()
}

fn softmax(mut scores: Vec<f64>) -> Vec<f64> {
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores.iter_mut().for_each(|score| *score = (*score - most).exp());
    let sum: f64 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
    scores
}

/// Returns the product of a row-major matrix and a vector.
fn product(matrix: &[f64], vector: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(vector.len()).map(|row| dot(row, vector)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(state: &mut [f64], change: &[f64]) {
    state.iter_mut().zip(change).for_each(|(x, change)| *x += change);
}
