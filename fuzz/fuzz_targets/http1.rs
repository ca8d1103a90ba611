//! A request's head and body, in pieces: nothing panics, and what is forwarded reads the same again.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| heddle_proxy::fuzz_http1(input.1, usize::from(input.0)));
