//! Any text is read or refused, at places that are in it; and what it holds is parsed or refused.

#![no_main]

use heddle_smi::{Kind, manifest, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let manifest = manifest::parse(text);
    for error in &manifest.errors {
        assert!(text.get(error.place.bytes.clone()).is_some(), "{error:?}");
    }
    for document in &manifest.documents {
        assert!(text.get(document.start.bytes.clone()).is_some());
        let Err(errors) = parse(&document.value) else { continue };
        assert!(!errors.is_empty());
        for invalid in errors {
            let place = document.place(&invalid.field);
            assert!(text.get(place.bytes.clone()).is_some(), "{invalid}");
        }
        let _ = Kind::of(&document.value);
    }
});
