//! Promises that hold for every input. The fuzz target, the fuzzer for stable toolchains and the tests
//! share them.
#![allow(clippy::unwrap_used, reason = "a broken promise is reported by panicking")]

use keeper::{Manifest, ManifestError};

/// Decodes `bytes` and panics if a promise of the library is broken. Returns the kind of the error, or `None`
/// for a valid manifest.
///
/// 1. A decoded manifest is within its bounds, can be encoded, and is decoded from that as it was.
/// 2. Its encoding is the only one of its fields that this version writes: encoding it again gives the same bytes.
/// 3. The sums over its parts do not overflow.
/// 4. The message of an error has one line without control characters.
pub(crate) fn check(bytes: &[u8]) -> Option<&'static str> {
    match Manifest::decode(bytes) {
        Ok(manifest) => {
            let encoded = manifest.encode().unwrap();
            let again = Manifest::decode(&encoded).unwrap();
            assert_eq!(again, manifest);
            assert_eq!(again.encode().unwrap(), encoded);
            assert!((1..=256).contains(&manifest.parts.len()));
            assert!((1..=1024).contains(&manifest.files.len()));
            assert!(manifest.descriptors() <= Manifest::MAX_DESCRIPTORS);
            let bytes: u64 = manifest.parts.iter().map(|part| part.bytes).sum();
            assert!(manifest.memory_bytes() >= bytes);
            None
        }
        Err(error) => {
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
            Some(kind(&error))
        }
    }
}

fn kind(error: &ManifestError) -> &'static str {
    match error {
        ManifestError::NotAManifest => "NOT_A_MANIFEST",
        ManifestError::Version { .. } => "VERSION",
        ManifestError::Malformed(_) => "MALFORMED",
        ManifestError::OutOfBounds { .. } => "OUT_OF_BOUNDS",
        ManifestError::TooLarge { .. } => "TOO_LARGE",
        other => panic!("{other} is not about bytes"),
    }
}
