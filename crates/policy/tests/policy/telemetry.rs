//! Latencies: what a histogram keeps of the values recorded in it.

use heddle_policy::telemetry::{BUCKETS, Histogram, bucket, bucket_value};
use proptest::prelude::*;

fn recorded(values: &[u64]) -> Histogram {
    let mut histogram = Histogram::default();
    values.iter().for_each(|&value| histogram.record(value));
    histogram
}

/// Values of every magnitude, up to three years.
fn micros() -> impl Strategy<Value = u64> {
    (0..47u32, any::<u64>()).prop_map(|(bits, value)| value & ((1 << bits) - 1))
}

proptest! {
    #[test]
    fn a_quantile_is_within_two_percent_of_the_true_one(
        mut values in prop::collection::vec(micros(), 1..200),
        quantile in 0.0..=1.0f64,
    ) {
        let estimate = recorded(&values).quantile(quantile).unwrap();
        values.sort_unstable();
        let rank = ((values.len() as f64 * quantile).ceil() as usize).clamp(1, values.len());
        let exact = values[rank - 1];
        prop_assert!(estimate.abs_diff(exact) * 50 <= exact, "{estimate} for {exact}");
    }

    #[test]
    fn merging_is_recording_together(a in prop::collection::vec(micros(), 0..50), b in prop::collection::vec(micros(), 0..50)) {
        let mut merged = recorded(&a);
        merged.merge(&recorded(&b));
        prop_assert_eq!(&merged, &recorded(&[a.clone(), b.clone()].concat()));
        prop_assert_eq!(merged.since(&recorded(&a)), recorded(&b));
    }

    #[test]
    fn any_pairs_from_the_wire_become_a_histogram(pairs: Vec<(u16, u64)>) {
        let json = serde_json::to_string(&pairs).unwrap();
        let histogram: Histogram = serde_json::from_str(&json).unwrap();
        prop_assert!(histogram.buckets().is_sorted_by(|a, b| a.0 < b.0));
        prop_assert!(histogram.buckets().iter().all(|&(bucket, count)| usize::from(bucket) < BUCKETS && count > 0));
        let _ = (histogram.count(), histogram.quantile(0.99), bucket_value(u16::MAX));
    }
}

#[test]
fn buckets_follow_each_other_without_gap() {
    for value in 1..=100_000 {
        let step = bucket(value) - bucket(value - 1);
        assert!(step <= 1, "{value}");
    }
    assert_eq!(usize::from(bucket(u64::MAX)), BUCKETS - 1);
    assert!((0..BUCKETS as u16).all(|number| bucket(bucket_value(number)) == number));
}

#[test]
fn an_empty_histogram_has_no_quantile() {
    assert_eq!(Histogram::default().quantile(0.5), None);
}
