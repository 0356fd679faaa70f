//! Manifests: generated ones are read as they were written, and no bytes do harm.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../fuzz/promises.rs"]
mod promises;

use std::path::Path;

use keeper::{
    Manifest, ManifestError, StoredDigest, StoredFile, StoredFinding, StoredIdentity, StoredPart,
    StoredPlacement,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

fn part() -> impl Strategy<Value = StoredPart> {
    let digest = (any::<[u8; 16]>(), any::<u64>())
        .prop_map(|(digest, bytes)| StoredDigest { digest, bytes });
    let texts = ("[ -~]{1,256}", "\\PC{0,64}");
    (texts, vec(0..1_u64 << 40, 0..5), 0..1_u64 << 40, vec(digest, 0..9)).prop_map(
        |((device, device_name), descriptors, spare, digests)| {
            let bytes = descriptors.iter().sum::<u64>().saturating_sub(spare);
            StoredPart { device, device_name, bytes, descriptors, digests }
        },
    )
}

fn file() -> impl Strategy<Value = StoredFile> {
    let identity = (any::<(u64, u64)>(), any::<(i64, i64)>(), any::<(i64, i64)>()).prop_map(
        |((device, inode), modified, changed)| StoredIdentity { device, inode, modified, changed },
    );
    (vec(any::<u8>(), 1..99), any::<u64>(), identity, vec(any::<u8>(), 0..999))
        .prop_map(|(path, bytes, identity, header)| StoredFile { path, bytes, identity, header })
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let placement = ("[ -~]{1,64}", vec(0.0..f64::MAX, 0..5), option::of(any::<u32>())).prop_map(
        |(mode, proportions, offloaded_layers)| StoredPlacement {
            mode,
            proportions,
            offloaded_layers,
        },
    );
    let finding = ("[a-z.0-9]{1,64}", option::of(any::<u32>()), any::<[u64; 3]>()).prop_map(
        |(tensor, part, [infinite, nan, zero_bytes])| StoredFinding {
            tensor,
            part,
            infinite,
            nan,
            zero_bytes,
        },
    );
    let texts = ("[A-Za-z0-9._-]{1,150}", "[ -~]{1,64}", "[ -~]{1,64}");
    let plan = (any::<[u8; 16]>(), any::<u64>(), vec(finding, 0..4));
    (texts, placement, vec(part(), 1..9), vec(file(), 1..5), plan).prop_map(
        |((key, storage, writer), placement, parts, files, plan)| Manifest {
            key: key.parse().unwrap(),
            storage,
            placement,
            parts,
            files,
            plan_digest: plan.0,
            created: plan.1,
            writer,
            findings: plan.2,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_manifest_is_read_as_it_was_written(manifest in manifest()) {
        let bytes = manifest.encode().unwrap();
        prop_assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
        prop_assert_eq!(promises::check(&bytes), None);
    }

    #[test]
    fn a_changed_manifest_keeps_the_promises(
        manifest in manifest(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = manifest.encode().unwrap();
        for (at, byte) in changes {
            *at.get_mut(&mut bytes) = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        promises::check(&bytes);
    }
}

/// The seed corpus of the fuzzers: the name of each file says the result. Inputs that a fuzzer finds are added
/// here under such names.
#[test]
fn every_file_of_the_corpus_gives_the_result_in_its_name() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/manifest");
    let mut outcomes = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let outcome = promises::check(&std::fs::read(&path).unwrap()).unwrap_or("valid");
        assert_eq!(name.split('.').next(), Some(outcome), "{name}");
        outcomes.push(outcome);
    }
    assert!(outcomes.contains(&"valid") && outcomes.len() >= 10);
}

/// Returns a small manifest.
fn small() -> Manifest {
    Manifest {
        key: "a".parse().unwrap(),
        storage: "f16".to_owned(),
        placement: StoredPlacement {
            mode: "none".to_owned(),
            proportions: vec![],
            offloaded_layers: None,
        },
        parts: vec![part_of(&[4096])],
        files: vec![file_of(b"header")],
        plan_digest: [0; 16],
        created: 0,
        writer: "a test".to_owned(),
        findings: Vec::new(),
    }
}

fn part_of(descriptors: &[u64]) -> StoredPart {
    StoredPart {
        device: "host".to_owned(),
        device_name: String::new(),
        bytes: 0,
        descriptors: descriptors.to_vec(),
        digests: vec![],
    }
}

fn finding_of(tensor: &str) -> StoredFinding {
    let tensor = tensor.to_owned();
    StoredFinding { tensor, part: None, infinite: 0, nan: 1, zero_bytes: 0 }
}

fn file_of(header: &[u8]) -> StoredFile {
    let identity = StoredIdentity { device: 0, inode: 0, modified: (0, 0), changed: (0, 0) };
    StoredFile { path: b"a.gguf".to_vec(), bytes: 0, identity, header: header.to_vec() }
}

/// Changes a small manifest and returns the field that is out of bounds, if one is.
fn refused(change: impl FnOnce(&mut Manifest)) -> Option<&'static str> {
    let mut manifest = small();
    change(&mut manifest);
    match manifest.encode() {
        Ok(_) => None,
        Err(ManifestError::OutOfBounds { field, .. }) => Some(field),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_bound_is_exact() {
    type Change = fn(&mut Manifest);
    let fit: [Change; 9] = [
        |m| m.storage = "s".repeat(64),
        |m| m.writer = "w".repeat(64),
        |m| m.placement.proportions = vec![0.0; 256],
        |m| m.parts = vec![part_of(&[]); 256],
        |m| m.parts = vec![part_of(&[1; 126]); 2],
        |m| m.parts[0].descriptors = vec![u64::MAX],
        |m| m.parts[0].bytes = 4096,
        |m| m.files = vec![file_of(b""); 1024],
        |m| m.files[0].path = vec![0; 4096],
    ];
    for (index, change) in fit.into_iter().enumerate() {
        assert_eq!(refused(change), None, "{index}");
    }
    let exceed: [(&str, Change); 26] = [
        ("storage", |m| m.storage.clear()),
        ("storage", |m| m.storage = "s".repeat(65)),
        ("storage", |m| m.storage = "a\nb".to_owned()),
        ("storage", |m| m.storage = "\u{85}".to_owned()),
        ("writer", |m| m.writer.clear()),
        ("tensor", |m| m.findings = vec![finding_of("")]),
        ("tensor", |m| m.findings = vec![finding_of(&"t".repeat(1025))]),
        ("findings", |m| m.findings = vec![finding_of("t"); 65_537]),
        ("writer", |m| m.writer = "w".repeat(65)),
        ("mode", |m| m.placement.mode.clear()),
        ("proportions", |m| m.placement.proportions = vec![0.0; 257]),
        ("proportions", |m| m.placement.proportions = vec![f64::NAN]),
        ("proportions", |m| m.placement.proportions = vec![f64::INFINITY]),
        ("proportions", |m| m.placement.proportions = vec![-1.0]),
        ("parts", |m| m.parts.clear()),
        ("parts", |m| m.parts = vec![part_of(&[]); 257]),
        ("device", |m| m.parts[0].device.clear()),
        ("device_name", |m| m.parts[0].device_name = "n".repeat(257)),
        ("descriptors", |m| m.parts = vec![part_of(&[1; 127]); 2]),
        ("descriptors", |m| m.parts = vec![part_of(&[1 << 63]); 2]),
        ("descriptors", |m| m.parts[0].descriptors = vec![u64::MAX, 1]),
        ("descriptors", |m| m.parts[0].bytes = 4097),
        ("files", |m| m.files.clear()),
        ("files", |m| m.files = vec![file_of(b""); 1025]),
        ("path", |m| m.files[0].path.clear()),
        ("path", |m| m.files[0].path = vec![0; 4097]),
    ];
    for (index, (field, change)) in exceed.into_iter().enumerate() {
        assert_eq!(refused(change), Some(field), "{index}");
    }
    let digest = StoredDigest { digest: [0; 16], bytes: 0 };
    assert_eq!(refused(|m| m.parts[0].digests = vec![digest; 1 << 20]), None);
    assert_eq!(refused(|m| m.parts[0].digests = vec![digest; (1 << 20) + 1]), Some("digests"));
    assert_eq!(refused(|m| m.files[0].header = vec![0; (256 << 20) + 1]), Some("header"));
}

#[test]
fn fields_of_later_versions_are_skipped() {
    let bytes = small().encode().unwrap();
    let (prefix, fields) = bytes.split_at(10);
    assert_eq!(fields[0], 0x89, "an array of nine");
    // An array of eleven whose last elements are a map in an array and a text.
    let later = [prefix, &[0x8b], &fields[1..], &[0x81, 0xa1, 1, 2, 0x61, b'x']].concat();
    assert_eq!(Manifest::decode(&later).unwrap(), small());
    // Another version may mean anything.
    let version = [&bytes[..8], &[2, 0], fields].concat();
    assert!(matches!(Manifest::decode(&version), Err(ManifestError::Version { found: 2 })));
}
