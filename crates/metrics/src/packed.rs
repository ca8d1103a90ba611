//! Totals at rest: the same numbers in about a quarter of the space.
//!
//! Most numbers are small, and the buckets of a histogram lie near to each other: each number takes seven bits a byte,
//! and a bucket is its distance to the one before, and its count.

use heddle_policy::Reason;
use heddle_policy::telemetry::{Counts, Histogram, Totals};

#[derive(Debug, Default)]
pub(crate) struct Packed {
    /// The counts in their order, then the histogram. Empty when nothing was counted.
    numbers: Box<[u8]>,
    reasons: Box<[(Reason, u64)]>,
}

// === impl Packed ===

impl Packed {
    pub(crate) fn merge(&mut self, added: &Totals) {
        let mut sum = self.totals();
        sum.merge(added);
        *self = Self::from(sum);
    }

    pub(crate) fn sum(pieces: &[&Self]) -> Totals {
        let mut sum = Totals::default();
        pieces.iter().for_each(|piece| sum.merge(&piece.totals()));
        sum
    }

    fn totals(&self) -> Totals {
        let mut numbers = Numbers(&self.numbers);
        let [requests, connections] = [(); 2].map(|()| {
            let [success, failure, denied] = [(); 3].map(|()| numbers.take());
            Counts { success, failure, denied }
        });
        let [would_deny, bytes_received, bytes_sent] = [(); 3].map(|()| numbers.take());
        let mut bucket = 0;
        let pairs = std::iter::from_fn(|| {
            (!numbers.0.is_empty()).then(|| {
                bucket += numbers.take() as u16;
                (bucket, numbers.take())
            })
        });
        let latency = Histogram::from_buckets(pairs);
        Totals {
            requests,
            connections,
            would_deny,
            bytes_received,
            bytes_sent,
            latency,
            reasons: self.reasons.to_vec(),
        }
    }
}

impl From<Totals> for Packed {
    fn from(totals: Totals) -> Self {
        let Totals { requests, connections, would_deny, bytes_received, bytes_sent, latency, reasons } = totals;
        let mut numbers = Vec::with_capacity(16 + 3 * latency.buckets().len());
        for Counts { success, failure, denied } in [requests, connections] {
            [success, failure, denied].into_iter().for_each(|number| put(&mut numbers, number));
        }
        [would_deny, bytes_received, bytes_sent].into_iter().for_each(|number| put(&mut numbers, number));
        let mut before = 0;
        for &(bucket, count) in latency.buckets() {
            put(&mut numbers, u64::from(bucket - before));
            put(&mut numbers, count);
            before = bucket;
        }
        Self { numbers: numbers.into(), reasons: reasons.into() }
    }
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Numbers that [`put`] wrote.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    /// The next number; zero when there is none.
    fn take(&mut self) -> u64 {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let Some((byte, rest)) = self.0.split_first() else { break };
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts() -> impl Strategy<Value = Counts> {
        any::<[u64; 3]>().prop_map(|[success, failure, denied]| Counts { success, failure, denied })
    }

    fn totals() -> impl Strategy<Value = Totals> {
        let latency = proptest::collection::vec((any::<u16>(), 1..=u64::MAX / 64), 0..50);
        let scalars = (counts(), counts(), any::<[u64; 3]>());
        (scalars, latency, proptest::option::of(1..=u64::MAX)).prop_map(|(scalars, latency, reason)| {
            let (requests, connections, [would_deny, bytes_received, bytes_sent]) = scalars;
            let reasons = reason.map(|count| (Reason::NoTarget, count)).into_iter().collect();
            let latency = Histogram::from_buckets(latency);
            Totals { requests, connections, would_deny, bytes_received, bytes_sent, latency, reasons }
        })
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_again(one in totals(), other in totals()) {
            let mut packed = Packed::from(one.clone());
            prop_assert_eq!(packed.totals(), one.clone());
            packed.merge(&other);
            let mut sum = one;
            sum.merge(&other);
            prop_assert_eq!(packed.totals(), sum);
        }
    }
}
