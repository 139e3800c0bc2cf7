//! Headers as the databases take them. Pure; called by the adapters.

#[cfg(feature = "_postgres")]
use posthaste_core::Message;

#[cfg(feature = "_sqlite")]
pub(crate) use sqlite::header_json;

/// `name, value, name, value …`: one `text[]` parameter.
#[cfg(feature = "_postgres")]
pub(crate) fn header_pairs(message: &Message) -> Vec<&str> {
    let pairs = message.header_pairs().iter();
    pairs.flat_map(|(name, value)| [name.as_str(), value.as_str()]).collect()
}

#[cfg(feature = "_sqlite")]
mod sqlite {
    use posthaste_core::Message;
    use serde::{Serialize, Serializer};

    struct Headers<'a>(&'a [(String, String)]);

    impl Serialize for Headers<'_> {
        /// In the order in which they were added, which a map type would lose.
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
        }
    }

    /// A JSON object of strings.
    pub(crate) fn header_json(message: &Message) -> String {
        serde_json::to_string(&Headers(message.header_pairs()))
            .expect("an object of strings always serialises")
    }
}

#[cfg(all(test, feature = "_sqlite"))]
mod tests {
    use posthaste_core::Message;

    use super::header_json;

    #[test]
    fn json_keeps_the_order_of_the_headers() {
        let message = Message::new("t").header("b", "1").header("a", "\"\n");
        assert_eq!(header_json(&message), r#"{"b":"1","a":"\"\n"}"#);
        assert_eq!(header_json(&Message::new("t")), "{}");
    }
}
