//! Headers as the databases take them. Pure; called by the adapters.

#[cfg(any(feature = "tokio-postgres", feature = "sqlx-postgres"))]
pub(crate) use postgres::{header_literal, header_pairs};
#[cfg(any(feature = "rusqlite", feature = "sqlx-sqlite"))]
pub(crate) use sqlite::header_json;

#[cfg(any(feature = "tokio-postgres", feature = "sqlx-postgres"))]
mod postgres {
    use posthaste_core::Message;

    /// `name, value, name, value …`: one `text[]` parameter.
    pub(crate) fn header_pairs(message: &Message) -> Vec<&str> {
        let pairs = message.header_pairs().iter();
        pairs.flat_map(|(name, value)| [name.as_str(), value.as_str()]).collect()
    }

    /// The same as an array literal, for a statement that takes the headers of many messages: an
    /// array of arrays cannot be ragged.
    ///
    /// Every element is quoted, so that commas, braces, white space, an empty string and the word
    /// NULL are what they are; inside quotes only the quote and the backslash are special
    /// (PostgreSQL manual, 8.15.6).
    pub(crate) fn header_literal(message: &Message) -> String {
        let mut literal = String::from("{");
        for (name, value) in message.header_pairs() {
            push_quoted(&mut literal, name);
            push_quoted(&mut literal, value);
        }
        literal.push('}');
        literal
    }

    fn push_quoted(literal: &mut String, element: &str) {
        if literal.len() > 1 {
            literal.push(',');
        }
        literal.push('"');
        for character in element.chars() {
            if matches!(character, '"' | '\\') {
                literal.push('\\');
            }
            literal.push(character);
        }
        literal.push('"');
    }
}

#[cfg(any(feature = "rusqlite", feature = "sqlx-sqlite"))]
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

#[cfg(all(test, feature = "tokio-postgres", feature = "rusqlite"))]
mod tests {
    use posthaste_core::Message;

    use super::*;

    #[test]
    fn literal_quotes_every_element_and_escapes_quotes_and_backslashes() {
        let cases = [
            (Message::new("t"), "{}"),
            (Message::new("t").header("a", ""), r#"{"a",""}"#),
            (Message::new("t").header("a", "1").header("b", "2"), r#"{"a","1","b","2"}"#),
            (Message::new("t").header("a", r#"q" b\ "#), r#"{"a","q\" b\\ "}"#),
            (Message::new("t").header("NULL", "}, {\n"), "{\"NULL\",\"}, {\n\"}"),
        ];
        for (message, literal) in cases {
            assert_eq!(header_literal(&message), literal, "{message:?}");
        }
    }

    #[test]
    fn json_keeps_the_order_of_the_headers() {
        let message = Message::new("t").header("b", "1").header("a", "\"\n");
        assert_eq!(header_json(&message), r#"{"b":"1","a":"\"\n"}"#);
        assert_eq!(header_json(&Message::new("t")), "{}");
    }
}
