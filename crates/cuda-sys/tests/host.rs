//! The conformance suite on host memory.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod conformance;

use conformance::decoding::{goldens, scaled_halves};
use conformance::{Setup, device_suite, engine_suite};
use cuda_sys::{Decoder, Device, DeviceKind, ErrorCode, HostIsa, decode_to_f16, decode_to_f32};
use half::f16;

device_suite!(DeviceKind::Host);
engine_suite!(Setup::plain(DeviceKind::Host, 1));

mod two_lanes {
    use super::{DeviceKind, Setup, conformance};

    conformance::engine_suite!(Setup::plain(DeviceKind::Host, 2));
}

mod shareable {
    use super::{DeviceKind, Setup, conformance};

    conformance::engine_suite!(Setup::shareable(DeviceKind::Host));
}

/// More lanes than readers, and often more than chunks.
mod five_lanes {
    use super::{DeviceKind, Setup, conformance};

    conformance::engine_suite!(Setup::plain(DeviceKind::Host, 5));
}

#[test]
fn lanes_hand_bytes_on() {
    conformance::lanes_hand_bytes_on([DeviceKind::Host; 2]);
}

#[test]
fn a_build_without_cuda_says_so() {
    if cuda_sys::cuda_compiled() {
        return;
    }
    let error = Device::open(DeviceKind::Cuda(0)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::DeviceUnavailable);
    assert!(error.context().contains("no CUDA"), "{error}");
    assert_eq!(cuda_sys::cuda_devices().unwrap(), []);
}

#[test]
fn every_instruction_set_decodes_like_gguf_py() {
    for golden in goldens() {
        let mut cases = vec![(1.0, golden.halves.clone())];
        if golden.decoder.has_tensor_scale {
            cases.extend(scaled_halves(&golden));
        }
        for (scale, want) in cases {
            let want: Vec<u16> =
                want.as_chunks::<2>().0.iter().map(|half| u16::from_le_bytes(*half)).collect();
            for isa in [HostIsa::Best, HostIsa::Baseline] {
                let mut halves = vec![0; want.len()];
                let Decoder { ggml_type, name, .. } = &golden.decoder;
                decode_to_f16(*ggml_type, &golden.blocks, &mut halves, scale, isa).unwrap();
                let differs = halves.iter().zip(&want).position(|(a, b)| a != b);
                assert_eq!(differs, None, "{name} times {scale} {isa:?}: first differing value");
            }
        }
    }
}

#[test]
fn values_in_f32_round_to_the_halves_of_gguf_py() {
    for golden in goldens() {
        let Decoder { ggml_type, block_len, name, .. } = &golden.decoder;
        let mut values = vec![0.0; golden.halves.len() / 2];
        let decoded = decode_to_f32(*ggml_type, &golden.blocks, &mut values);
        if *block_len == 1 {
            assert_eq!(decoded.unwrap_err().code(), ErrorCode::InvalidArgument, "{name}");
            continue;
        }
        decoded.unwrap();
        for (value, half) in values.iter().zip(golden.halves.as_chunks().0) {
            let half = f16::from_le_bytes(*half);
            let rounded = f16::from_f32(*value);
            assert!(rounded == half || rounded.is_nan() && half.is_nan(), "{name}: {value} {half}");
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let q4_0 = 2;
    for (ggml_type, blocks, halves) in [(q4_0, 17, 32), (q4_0, 18, 31), (q4_0, 36, 32), (4, 18, 32)]
    {
        let error =
            decode_to_f16(ggml_type, &vec![0; blocks], &mut vec![0; halves], 1.0, HostIsa::Best)
                .unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{ggml_type} {blocks} {halves}");
    }
    decode_to_f16(q4_0, &[], &mut [], 1.0, HostIsa::Best).unwrap();
    let error = decode_to_f32(q4_0, &[0; 17], &mut [0.0; 32]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
}
