//! Headers on their way between the log's JSON text and the packed form of a page.
//!
//! They are streamed: the order in the text is kept, and nothing is built in between.

use std::fmt;

use posthaste_core::Headers;
use serde::{
    Deserializer,
    de::{DeserializeSeed, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// What most messages hold.
const NONE: &str = "{}";

/// Appends the packed form of `json` to `out`. A value that is not a string (only a writer beside
/// the adapters can store one) is packed as its JSON text.
pub(super) fn pack(json: &str, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    if json == NONE {
        return Ok(());
    }
    let mut source = serde_json::Deserializer::from_str(json);
    source.deserialize_map(Object(out))?;
    source.end()
}

struct Object<'o>(&'o mut Vec<u8>);

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(Text(self.0))?.is_some() {
            let value = map.next_value::<&RawValue>()?.get();
            let packed = self.0.len();
            let text = Text(self.0).deserialize(&mut serde_json::Deserializer::from_str(value));
            if text.is_err() {
                self.0.truncate(packed);
                Headers::pack(self.0, value);
            }
        }
        Ok(())
    }
}

/// Packs one string.
struct Text<'o>(&'o mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_str(self)
    }
}

impl Visitor<'_> for Text<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        Headers::pack(self.0, text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use posthaste_core::HeaderObject;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn read(json: &str) -> Vec<(String, String)> {
        let mut packed = Vec::new();
        pack(json, &mut packed).unwrap();
        Headers::packed(&packed).iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn order_of_the_text_is_kept() {
        let expected = [("z", "1"), ("a", "ö\n\"\\"), ("m", "")];
        let json = r#" { "z": "1", "a": "\u00f6\n\"\\", "m": "" } "#;
        let pairs = read(json);
        assert!(pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).eq(expected), "{pairs:?}");
        assert_eq!(read("{}"), []);
    }

    #[test]
    fn values_that_are_no_strings_are_carried_as_their_text() {
        let pairs = read(r#"{"a":1.50,"b":{"c":[]},"d":null,"e":"\ud800","f":"x"}"#);
        let values: Vec<&str> = pairs.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, ["1.50", r#"{"c":[]}"#, "null", r#""\ud800""#, "x"]);
    }

    #[test]
    fn text_that_is_no_object_is_an_error() {
        for json in ["", "[]", "1", "{\"a\":", "{} {}"] {
            assert!(pack(json, &mut Vec::new()).is_err(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn every_pair_survives(pairs in vec((any::<String>(), any::<String>()), 0..8)) {
            prop_assert_eq!(read(&HeaderObject(&pairs).to_string()), pairs);
        }
    }
}
