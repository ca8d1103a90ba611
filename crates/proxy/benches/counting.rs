//! What metrics cost a request: `cargo bench -p heddle-proxy --bench counting`. Twice that, as both proxies count, beside
//! the CPU time of a request in `benches/chain/run` is the share of metrics.

use std::hint::black_box;
use std::time::Instant;

fn main() {
    const TIMES: u64 = 5_000_000;
    for _ in 0..3 {
        let begun = Instant::now();
        assert_eq!(heddle_proxy::count_requests(black_box(TIMES)), TIMES);
        println!("{:.1} ns for all that is counted of a request", begun.elapsed().as_secs_f64() * 1e9 / TIMES as f64);
    }
}
