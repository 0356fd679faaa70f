//! Tests of the measurements. They check that a rate is plausible, not how high it is.

use cuda_sys::measure::{self, Rate, UploadShape, Work, WorkShape};
use cuda_sys::{Device, DeviceKind, ErrorCode, decoders};

fn assert_is_rate(rate: Rate) {
    assert!(0.0 < rate.min && rate.min <= rate.median && rate.median <= rate.max, "{rate:?}");
    assert!(rate.max.is_finite(), "{rate:?}");
}

pub(crate) fn every_work_has_a_rate(kind: DeviceKind) {
    let device = Device::open(kind).unwrap();
    let shape = WorkShape { elements: 256 << 10, threads: 3 };
    let decode = decoders().into_iter().map(|d| Work::DecodeToF16 { ggml_type: d.ggml_type });
    for work in decode.chain([Work::Copy, Work::CountNonFinite, Work::Digest]) {
        assert_is_rate(measure::work(&device, work, shape, 2).unwrap());
    }
    let to_new = measure::work(&device, Work::CopyToNew, shape, 2);
    match kind {
        DeviceKind::Host => assert_is_rate(to_new.unwrap()),
        DeviceKind::Cuda(_) => {
            assert_eq!(to_new.unwrap_err().code(), ErrorCode::InvalidArgument);
        }
    }
    for (work, elements, threads, runs) in [
        (Work::DecodeToF16 { ggml_type: 4 }, 256, 1, 1),
        (Work::Copy, 0, 1, 1),
        (Work::Copy, 255, 1, 1),
        (Work::Copy, 256, 0, 1),
        (Work::Copy, 256, 1, 0),
        // Here the number of bytes exceeds 64 bits.
        (Work::CountNonFinite, 1 << 63, 1, 1),
        (Work::DecodeToF16 { ggml_type: 0 }, 1 << 61, 1, 1),
    ] {
        let shape = WorkShape { elements, threads };
        let error = measure::work(&device, work, shape, runs).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{work:?} {shape:?}");
    }
    // Only the host uses this number of threads.
    let shape = WorkShape { elements: 1 << 59, threads: 16 };
    let code = measure::work(&device, Work::Copy, shape, 1).unwrap_err().code();
    match kind {
        DeviceKind::Host => assert_eq!(code, ErrorCode::InvalidArgument),
        DeviceKind::Cuda(_) => assert_eq!(code, ErrorCode::OutOfMemory),
    }
}

pub(crate) fn uploads_have_a_rate_on_a_gpu(kind: DeviceKind) {
    let device = Device::open(kind).unwrap();
    // The last copy is smaller than the others.
    let shape = UploadShape { chunk_bytes: 1 << 20, streams: 2, depth: 2, total_bytes: 9_999_999 };
    let rate = measure::upload(&device, shape, 2);
    match kind {
        DeviceKind::Cuda(_) => assert_is_rate(rate.unwrap()),
        DeviceKind::Host => {
            let error = rate.unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
            assert!(error.context().contains("host memory"), "{error}");
        }
    }
    for shape in [
        UploadShape { chunk_bytes: 0, ..shape },
        UploadShape { streams: 0, ..shape },
        UploadShape { depth: 0, ..shape },
        UploadShape { total_bytes: 0, ..shape },
        UploadShape { chunk_bytes: 1 << 62, ..shape },
        UploadShape { streams: u32::MAX, depth: u32::MAX, ..shape },
    ] {
        let error = measure::upload(&device, shape, 1).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{shape:?}");
    }
}
