//! Keys that stand twice in an object of a JSON text, of which readers keep but one.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};

/// The paths of keys that repeat one before them, such as `spec.ports[0].port`. A text that is not JSON has none.
pub(crate) fn duplicate_keys(json: &[u8]) -> Vec<String> {
    let found = RefCell::new(Vec::new());
    let mut text = serde_json::Deserializer::from_slice(json);
    // What is wrong with the text is said by who reads it.
    let _said_elsewhere = Place { path: String::new(), found: &found }.deserialize(&mut text);
    found.into_inner()
}

struct Place<'a> {
    path: String,
    found: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            if !keys.insert(key) {
                self.found.borrow_mut().push(path.clone());
            }
            map.next_value_seed(Place { path, found: self.found })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        for index in 0.. {
            let path = format!("{}[{index}]", self.path);
            if items.next_element_seed(Place { path, found: self.found })?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_repeated_key_is_named_with_its_path() {
        let json =
            br#"{"a": 1, "spec": {"ports": [{"port": 80}, {"port": 1, "port": 2.5}], "x": null, "x": true}, "a": "s"}"#;
        assert_eq!(duplicate_keys(json), ["spec.ports[1].port", "spec.x", "a"]);
        assert!(duplicate_keys(br#"{"a": {"a": {"a": -1}}}"#).is_empty());
        assert!(duplicate_keys(b"{").is_empty());
    }
}
