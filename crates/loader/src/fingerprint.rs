//! Detects weights that have changed on a device after they were loaded.

use crate::error::Error;
use crate::event::{LoadEvent, Observer};
use crate::loader::emit;
use crate::part::LoadedPart;
use cuda_sys::Digest;
use model_phi3::{PlacedOp, PlacedPart};
use std::ops::Range;

/// Each digest covers at most this many bytes. A [`Rehash`] step compares at least one such piece. An error
/// names the piece, so a flipped bit is located to 16 MiB. A multiple of 16, because digests start at
/// multiples of 16 bytes.
const PIECE_BYTES: u64 = 16 << 20;

/// The number of pieces after which a comparison reports its progress: at most 2 GiB. Each report costs a GPU some
/// ten microseconds, in which it could compare 100 MB.
const STEP_PIECES: usize = 128;

/// Digests of a model's weights at one moment, one for every 16 MiB of a tensor.
///
/// It can be compared with any load of the same file with the same storage: later, in another process, or on
/// another device. If several devices share the model, they must share it in the same way; a fingerprint of tensors
/// of other sizes is refused. A fingerprint does not say which file it is of, so store it under a name that does.
///
/// With the feature `serde`, it can be stored: an object with the fields `version`, `piece_bytes`, `digests`
/// (32 hexadecimal digits each) and `sizes` (bytes of the piece of each digest). Another version or another size of
/// pieces is refused when it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(Vec<Digested>);

/// A digest, and the number of bytes that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digested {
    digest: Digest,
    bytes: u64,
}

/// Some bytes of a tensor in an arena.
struct Piece<'a> {
    op: &'a PlacedOp,
    range: Range<u64>,
}

impl Piece<'_> {
    fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

fn pieces(plan: &PlacedPart) -> impl Iterator<Item = Piece<'_>> {
    plan.ops().iter().flat_map(|op| {
        let Range { start, end } = op.dest;
        let starts = (start..end).step_by(PIECE_BYTES as usize);
        starts.map(move |start| Piece { op, range: start..end.min(start + PIECE_BYTES) })
    })
}

/// Returns the pieces of all parts.
fn all_pieces(parts: &[LoadedPart]) -> impl Iterator<Item = (&LoadedPart, Piece<'_>)> {
    parts.iter().flat_map(|part| pieces(part.plan()).map(move |piece| (part, piece)))
}

/// Computes the digests of these pieces on their devices.
fn digests(pieces: &[(&LoadedPart, Piece<'_>)]) -> Result<Vec<Digest>, Error> {
    let mut digests = Vec::new();
    for of_part in pieces.chunk_by(|(one, _), (other, _)| one.index() == other.index()) {
        let ranges: Vec<_> = of_part.iter().map(|(_, piece)| piece.range.clone()).collect();
        let Some((part, _)) = of_part.first() else { continue };
        digests.extend(part.buffer.digests(&ranges)?);
    }
    Ok(digests)
}

impl Fingerprint {
    pub(crate) fn take(parts: &[LoadedPart]) -> Result<Self, Error> {
        let pieces: Vec<_> = all_pieces(parts).collect();
        let sizes = pieces.iter().map(|(_, piece)| piece.bytes());
        let digested = |(digest, bytes)| Digested { digest, bytes };
        Ok(Self(digests(&pieces)?.into_iter().zip(sizes).map(digested).collect()))
    }

    /// Returns the digest of each piece, and its bytes.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (Digest, u64)> {
        self.0.iter().map(|of| (of.digest, of.bytes))
    }

    pub(crate) fn from_pieces(pieces: impl Iterator<Item = (Digest, u64)>) -> Self {
        Self(pieces.map(|(digest, bytes)| Digested { digest, bytes }).collect())
    }

    /// Digests the pieces again and compares them with the digests from index `first` on.
    fn check(&self, first: usize, pieces: &[(&LoadedPart, Piece<'_>)]) -> Result<(), Error> {
        let now = digests(pieces)?;
        let before = self.0.iter().skip(first).map(|before| before.digest);
        match pieces.iter().zip(before.zip(now)).find(|(_, (before, now))| before != now) {
            None => Ok(()),
            Some(((part, Piece { op, range }), (before, now))) => Err(Error::Verification {
                what: format!(
                    "tensor {} on {} differs from the fingerprint: its bytes {:?} have digest {now}, \
                     expected {before}",
                    gguf_format::escape(op.tensor.as_ref()),
                    part.name(),
                    range.start - op.dest.start..range.end - op.dest.start,
                ),
            }),
        }
    }

    /// Fails if the pieces have other sizes than those of the fingerprint. Their digests could not be compared.
    fn check_sizes(&self, parts: &[LoadedPart]) -> Result<(), Error> {
        let sizes = all_pieces(parts).map(|(_, piece)| piece.bytes());
        if self.0.iter().map(|before| before.bytes).eq(sizes) {
            return Ok(());
        }
        Err(Error::Verification {
            what: "the fingerprint belongs to another model, or to another division of this model \
                   among devices"
                .to_owned(),
        })
    }

    /// Compares all weights with the fingerprint, and reports the progress.
    pub(crate) fn check_all(
        &self,
        parts: &[LoadedPart],
        observer: &mut dyn Observer,
    ) -> Result<(), Error> {
        self.check_sizes(parts)?;
        let pieces: Vec<_> = all_pieces(parts).collect();
        let bytes_of =
            |pieces: &[(_, Piece<'_>)]| pieces.iter().map(|(_, piece)| piece.bytes()).sum::<u64>();
        let (mut bytes, of_bytes) = (0, bytes_of(&pieces));
        for (step, some) in pieces.chunks(STEP_PIECES).enumerate() {
            emit(observer, &LoadEvent::Compared { bytes, of_bytes })?;
            self.check(step * STEP_PIECES, some)?;
            bytes += bytes_of(some);
        }
        emit(observer, &LoadEvent::Compared { bytes, of_bytes })
    }
}

#[cfg(feature = "serde")]
mod stored {
    //! The form in which a fingerprint is stored.

    use super::{Digested, Fingerprint, PIECE_BYTES};
    use cuda_sys::Digest;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::borrow::Cow;

    /// The version of this form and of the digests.
    const VERSION: u32 = 2;

    #[derive(Serialize, Deserialize)]
    #[serde(rename = "Fingerprint")]
    struct Stored<'a> {
        version: u32,
        piece_bytes: u64,
        digests: Vec<Cow<'a, str>>,
        #[serde(default)]
        sizes: Vec<u64>,
    }

    impl Serialize for Fingerprint {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let digests = self.0.iter().map(|of| of.digest.to_string().into()).collect();
            let sizes = self.0.iter().map(|of| of.bytes).collect();
            Stored { version: VERSION, piece_bytes: PIECE_BYTES, digests, sizes }
                .serialize(serializer)
        }
    }

    impl<'de> Deserialize<'de> for Fingerprint {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let Stored { version, piece_bytes, digests, sizes } =
                Stored::deserialize(deserializer)?;
            if (version, piece_bytes) != (VERSION, PIECE_BYTES) {
                return Err(D::Error::custom(format!(
                    "a fingerprint of version {version} with pieces of {piece_bytes} bytes: this \
                     version reads version {VERSION} with pieces of {PIECE_BYTES} bytes"
                )));
            }
            if digests.len() != sizes.len() {
                let (digests, sizes) = (digests.len(), sizes.len());
                let text = format!("a fingerprint with {digests} digests and {sizes} sizes");
                return Err(D::Error::custom(text));
            }
            let digested = |(text, bytes): (&Cow<'_, str>, u64)| {
                let wrong = |_| D::Error::custom(format!("{text:?} is no digest of 32 digits"));
                Ok(Digested { digest: text.parse::<Digest>().map_err(wrong)?, bytes })
            };
            Ok(Self(digests.iter().zip(sizes).map(digested).collect::<Result<_, _>>()?))
        }
    }
}

/// Compares a model with its fingerprint in small steps. After the last tensor it starts a new round. For a
/// worker that checks for flipped bits while it serves requests.
///
/// ```
/// # use loader::{Error, Fingerprint, LoadedModel, Rehash};
/// /// Called from time to time. Digests 100 MB of the weights on the device.
/// fn look(rehash: &mut Rehash, model: &LoadedModel) -> Result<(), Error> {
///     let step = rehash.step(model, 100_000_000)?;
///     if step.round_complete {
///         println!("all weights are as they were, {} rounds so far", rehash.rounds());
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Rehash {
    fingerprint: Fingerprint,
    next: usize,
    rounds: u64,
}

/// The result of a step of a [`Rehash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RehashStep {
    /// Bytes of device memory that this step read.
    pub bytes: u64,
    /// Whether this step was the last of a round. All weights have then been compared once in this round.
    pub round_complete: bool,
}

impl Rehash {
    /// Returns a comparison that starts at the first tensor of the fingerprint's model.
    pub fn new(fingerprint: Fingerprint) -> Self {
        Self { fingerprint, next: 0, rounds: 0 }
    }

    /// Does the work of [`Rehash::step`]. The parts are those of the model.
    pub(crate) fn compare(
        &mut self,
        parts: &[LoadedPart],
        budget_bytes: u64,
    ) -> Result<RehashStep, Error> {
        let all = all_pieces(parts).count();
        self.fingerprint.check_sizes(parts)?;
        let mut bytes = 0_u64;
        let fits = |(_, piece): &(&LoadedPart, Piece<'_>)| {
            let with = bytes + piece.bytes();
            let first = bytes == 0;
            if first || with <= budget_bytes {
                bytes = with;
                return true;
            }
            false
        };
        let some: Vec<_> = all_pieces(parts).skip(self.next).take_while(fits).collect();
        self.fingerprint.check(self.next, &some)?;
        self.next += some.len();
        let round_complete = self.next == all;
        if round_complete {
            self.next = 0;
            self.rounds += 1;
        }
        Ok(RehashStep { bytes, round_complete })
    }

    /// Returns the number of complete rounds.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_plan;

    #[test]
    fn pieces_tile_every_tensor_and_start_where_digests_may() {
        for plan in [test_plan::tiny(), test_plan::mini()] {
            let part = &plan.parts()[0];
            let mut left = pieces(part);
            for op in part.ops() {
                let mut end = op.dest.start;
                while end < op.dest.end {
                    let piece = left.next().unwrap();
                    assert_eq!((&piece.op.tensor, piece.range.start), (&op.tensor, end));
                    assert_eq!(piece.range.start % 16, 0);
                    assert!((1..=PIECE_BYTES).contains(&piece.bytes()));
                    end = piece.range.end;
                }
                assert_eq!(end, op.dest.end);
            }
            assert!(left.next().is_none());
        }
        assert!(pieces(&test_plan::mini().parts()[0]).count() > 7_600_000_000 / (16 << 20));
    }
}
