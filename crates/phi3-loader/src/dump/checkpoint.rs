//! `--names hf`: the tensors of the model's Hugging Face checkpoint.
//!
//! That is the checkpoint of `Phi3ForCausalLM`, with fused matrices, also for files of the architecture `llama`:
//! their tensors were split before conversion. A tied output has no tensor there, and RoPE factors are part of the
//! configuration.

use super::{Tensor, to_usize};
use model_phi3::{LoadPlan, Phi3Config, PlannedSlot, RopeStyle, Slot};
use safetensors::Dtype;
use std::io::{self, Write};

pub(super) fn tensors<'a>(config: &Phi3Config, plan: &'a LoadPlan) -> Vec<Tensor<'a>> {
    let tensor = |name: String, slots: &[Slot]| {
        let slots: Vec<_> = slots.iter().filter_map(|slot| plan.slot(*slot)).collect();
        let mut shape = slots.first().map(|slot| slot.shape.clone()).unwrap_or_default();
        if let Some(rows) = shape.first_mut() {
            *rows = slots.iter().filter_map(|slot| slot.shape.first()).sum();
        }
        Tensor { name, dtype: Dtype::F16, shape, slots }
    };
    let mut tensors = vec![
        tensor("model.embed_tokens.weight".to_owned(), &[Slot::TokenEmbedding]),
        tensor("model.norm.weight".to_owned(), &[Slot::OutputNorm]),
    ];
    for layer in 0..config.layers {
        let qkv = [Slot::AttnQ(layer), Slot::AttnK(layer), Slot::AttnV(layer)];
        let gate_up = [Slot::FfnGate(layer), Slot::FfnUp(layer)];
        let of_layer: [(&str, &[Slot]); 6] = [
            ("input_layernorm", &[Slot::AttnNorm(layer)]),
            ("self_attn.qkv_proj", &qkv),
            ("self_attn.o_proj", &[Slot::AttnOutput(layer)]),
            ("post_attention_layernorm", &[Slot::FfnNorm(layer)]),
            ("mlp.gate_up_proj", &gate_up),
            ("mlp.down_proj", &[Slot::FfnDown(layer)]),
        ];
        tensors.extend(
            of_layer
                .map(|(name, slots)| tensor(format!("model.layers.{layer}.{name}.weight"), slots)),
        );
    }
    if !config.tied_output {
        tensors.push(tensor("lm_head.weight".to_owned(), &[Slot::Output]));
    }
    tensors
}

/// Writes the rows of a weight in the order of the checkpoint. `llama` files have those of Q and K in another order.
pub(super) fn write(
    config: &Phi3Config,
    slot: &PlannedSlot,
    bytes: &[u8],
    out: &mut impl Write,
) -> io::Result<()> {
    let is_rotated = matches!(slot.slot, Slot::AttnQ(_) | Slot::AttnK(_));
    if config.rope.style != RopeStyle::Adjacent || !is_rotated {
        return out.write_all(bytes);
    }
    let bytes_of = |rows: u32| to_usize(slot.row_bytes).saturating_mul(to_usize(rows.into()));
    let rotated = bytes_of(config.rope.dimension_count);
    write_unpermuted(bytes, bytes_of(config.head_dim), rotated, bytes_of(1), out)
}

/// Moves rows back that llama.cpp's converter has moved, so that those that RoPE rotates together are neighbours:
/// row `2i` of a head to `i`, and row `2i + 1` to `i` in the second half of the rotated rows. All sizes are in bytes.
fn write_unpermuted(
    bytes: &[u8],
    head: usize,
    rotated: usize,
    row: usize,
    out: &mut impl Write,
) -> io::Result<()> {
    for head in bytes.chunks(head) {
        let (rotated, rest) = head.split_at(rotated);
        for parity in 0..2 {
            let mut rows = rotated.chunks(row).skip(parity).step_by(2);
            rows.try_for_each(|row| out.write_all(row))?;
        }
        out.write_all(rest)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_rows_are_moved_back_in_each_head() {
        let mut out = Vec::new();
        write_unpermuted(b"aA dD bB eE cC fF -- gG jJ hH kK iI lL -- ", 21, 18, 3, &mut out)
            .unwrap();
        assert_eq!(out, b"aA bB cC dD eE fF -- gG hH iI jJ kK lL -- ");
    }
}
