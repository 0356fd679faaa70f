//! Deals out whole units in proportion to weights.

use std::cmp::Reverse;
use std::ops::Range;

/// Deals out `units` in proportion to `weights`: each share is its exact part, rounded down, and those with the
/// largest remainders get one more. If remainders are equal, the smaller `tie` comes first, then the smaller
/// position.
///
/// The weights are finite, not negative, and not all 0. Shares that are given as weights are dealt out unchanged.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "proportions are approximate; units of models are far below 2^53"
)]
pub(super) fn deal(units: u64, weights: &[f64], tie: impl Fn(usize) -> u64) -> Vec<u64> {
    let total: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|weight| units as f64 * weight / total).collect();
    let mut shares: Vec<u64> = exact.iter().map(|part| part.floor() as u64).collect();
    let dealt = shares.iter().fold(0_u64, |sum, share| sum.saturating_add(*share));
    let mut order: Vec<(usize, f64)> =
        exact.iter().map(|part| part - part.floor()).enumerate().collect();
    order.sort_by(|(a, of_a), (b, of_b)| {
        of_b.total_cmp(of_a).then_with(|| (tie(*a), a).cmp(&(tie(*b), b)))
    });
    let left = usize::try_from(units.saturating_sub(dealt)).unwrap_or(usize::MAX);
    for (position, _) in order.into_iter().cycle().take(left) {
        if let Some(share) = shares.get_mut(position) {
            *share = share.saturating_add(1);
        }
    }
    shares
}

/// Deals out as [`deal`] does, and then takes one unit at a time from the largest share for each share that is
/// empty. There are as many units as shares, or more.
pub(super) fn deal_to_all(units: u64, weights: &[f64], tie: impl Fn(usize) -> u64) -> Vec<u64> {
    let mut shares = deal(units, weights, tie);
    while let Some(empty) = shares.iter().position(|share| *share == 0) {
        let largest = shares.iter().enumerate().max_by_key(|(i, share)| (**share, Reverse(*i)));
        let Some(largest) = largest.filter(|(_, share)| **share > 1).map(|(i, _)| i) else { break };
        for (position, share) in shares.iter_mut().enumerate() {
            if position == largest {
                *share = share.saturating_sub(1);
            } else if position == empty {
                *share = 1;
            }
        }
    }
    shares
}

/// Returns the consecutive ranges of these shares, in units of `unit` elements. The last unit may be smaller,
/// because the elements end at `end`.
pub(super) fn ranges(shares: &[u64], unit: u64, end: u64) -> Vec<Range<u64>> {
    let mut start = 0_u64;
    let mut dealt = 0_u64;
    shares
        .iter()
        .map(|share| {
            dealt = dealt.saturating_add(*share);
            let range = start..dealt.saturating_mul(unit).min(end);
            start = range.end;
            range
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn in_order(_: usize) -> u64 {
        0
    }

    #[test]
    fn equal_weights_give_the_first_one_more() {
        assert_eq!(deal(10, &[1.0; 4], in_order), [3, 3, 2, 2]);
        assert_eq!(deal(2, &[1.0; 4], in_order), [1, 1, 0, 0]);
        assert_eq!(deal(0, &[1.0; 2], in_order), [0, 0]);
    }

    #[test]
    fn ties_go_to_the_smaller_key() {
        assert_eq!(deal(70, &[1.0; 4], |i| [3, 3, 2, 2][i]), [17, 17, 18, 18]);
    }

    #[test]
    fn proportions_are_rounded_to_whole_units() {
        assert_eq!(deal(40, &[3.0, 1.0], in_order), [30, 10]);
        assert_eq!(deal(10, &[3.0, 1.0], in_order), [8, 2]);
        assert_eq!(deal(10, &[0.0, 0.1, 0.2], in_order), [0, 3, 7]);
        assert_eq!(deal(3, &[1.8e19, 1.8e19], in_order), [2, 1]);
    }

    #[test]
    fn no_share_is_empty_if_there_are_enough_units() {
        assert_eq!(deal_to_all(10, &[100.0, 1.0, 1.0], in_order), [8, 1, 1]);
        assert_eq!(deal_to_all(3, &[1e18, 1.0, 1.0], in_order), [1, 1, 1]);
        assert_eq!(deal_to_all(1, &[1.0, 1.0], in_order), [1, 0]);
    }

    #[test]
    fn the_last_unit_can_be_smaller() {
        assert_eq!(ranges(&[2, 1, 1], 32, 100), [0..64, 64..96, 96..100]);
        assert_eq!(ranges(&[1, 0], 1, 1), [0..1, 1..1]);
    }

    proptest! {
        #[test]
        fn everything_is_dealt_out(
            units in 0..1_u64 << 40,
            weights in proptest::collection::vec(0.0..1e19_f64, 1..9),
        ) {
            prop_assume!(weights.iter().any(|weight| *weight > 0.0));
            let shares = deal(units, &weights, in_order);
            prop_assert_eq!(shares.iter().sum::<u64>(), units);
            let shares = deal_to_all(units.max(9), &weights, in_order);
            prop_assert_eq!(shares.iter().sum::<u64>(), units.max(9));
            prop_assert!(shares.iter().all(|share| *share > 0));
        }

        #[test]
        fn shares_as_weights_are_dealt_out_unchanged(
            shares in proptest::collection::vec(0..1024_u32, 1..9),
        ) {
            let units: u64 = shares.iter().map(|share| u64::from(*share)).sum();
            prop_assume!(units > 0);
            let weights: Vec<f64> = shares.iter().map(|share| f64::from(*share)).collect();
            let dealt = deal(units, &weights, in_order);
            prop_assert!(dealt.iter().zip(&shares).all(|(a, b)| *a == u64::from(*b)));
        }
    }
}
