//! JSON that everybody reads the same way: valid UTF-8, no key twice in an object, at most 127 levels deep, and
//! what a body that is not of the wanted form is told.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Number, Value};

use crate::problem::{Code, Problem};

/// Characters of a key that an error shows.
const SHOWN_CHARS: usize = 60;

/// Reads a body.
///
/// # Errors
/// `bad-json` where it is no JSON of that kind, `invalid-field` where it has another form than `T`. Values are
/// never shown.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let detail = format!("byte {} is not UTF-8: send JSON in UTF-8", error.valid_up_to());
        Problem::new(Code::BadJson, detail)
    })?;
    serde_json::from_str::<Strict>(text).map_err(|error| bad_json(&error))?;
    // Serde would take its items for fields, in the order in which the type has them.
    if text.trim_start().starts_with('[') {
        let detail = "the body must be an object, not an array";
        return Err(Problem::of(Code::InvalidField, "", detail));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        bad_form(text, &path, &error.into_inner())
    })
}

fn bad_json(error: &serde_json::Error) -> Problem {
    let said = error.to_string();
    let known = ["recursion limit exceeded", "trailing characters", "is named twice"];
    let what = known.into_iter().find(|known| said.contains(known));
    let what = match what {
        Some("recursion limit exceeded") => "it nests deeper than 127 levels".to_owned(),
        Some("is named twice") => said.split(" at line").next().unwrap_or_default().to_owned(),
        Some(other) => other.to_owned(),
        None if error.is_eof() => "it ends in the middle".to_owned(),
        None => "it is not valid JSON".to_owned(),
    };
    let detail = format!("{what} (line {}, column {})", error.line(), error.column());
    Problem::new(Code::BadJson, detail)
}

/// A whole number, as JSON may write it: `3`, and `3.0` as well.
pub(crate) fn whole<'de, D: Deserializer<'de>>(source: D) -> Result<Option<u32>, D::Error> {
    let Some(number) = Option::<Number>::deserialize(source)? else { return Ok(None) };
    let exact = number.as_u64().and_then(|number| u32::try_from(number).ok());
    let written = || {
        let number = number.as_f64().filter(|number| number.fract() == 0.0)?;
        (0.0..=f64::from(u32::MAX)).contains(&number).then_some(number as u32)
    };
    let wrong = || D::Error::custom("this is none, expected a whole number");
    exact.or_else(written).map(Some).ok_or_else(wrong)
}

/// What serde says of the wanted form, and what kind of value stands there instead of the value.
fn bad_form(text: &str, path: &str, error: &serde_json::Error) -> Problem {
    let said = error.to_string();
    let said = said.split(" at line ").next().unwrap_or_default();
    let field = if path == "." { "" } else { path };
    if said.starts_with("missing field") {
        let name = said.split('`').nth(1).unwrap_or_default();
        let name = if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") };
        return Problem::of(Code::InvalidField, &name, format!("{name} is missing: add it"));
    }
    if said.starts_with("unknown field") {
        let known = said.split("expected ").nth(1).unwrap_or_default();
        let name = shortened(path);
        let detail = format!("there is no such field; known: {known}");
        return Problem::of(Code::InvalidField, name, detail);
    }
    let wanted = said.rsplit("expected ").next().unwrap_or_default();
    let wanted = if said.contains("expected ") { wanted } else { "another value" };
    let found = kind_at(text, field);
    let name = if field.is_empty() { "the body" } else { field };
    let detail = format!("{} must be {wanted}, not {found}", shortened(name));
    Problem::of(Code::InvalidField, shortened(field), detail)
}

fn shortened(name: &str) -> String {
    let mut shown: String = name.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS).collect();
    if name.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// The kind of the value at a path of fields.
fn kind_at(text: &str, path: &str) -> &'static str {
    let Ok(whole) = serde_json::from_str::<Value>(text) else { return "something else" };
    let mut at = Some(&whole);
    for part in path.split('.').filter(|part| !part.is_empty()) {
        at = at.and_then(|value| value.get(part));
    }
    match at {
        None => "something else",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "a boolean",
        Some(Value::Number(_)) => "this number",
        Some(Value::String(_)) => "this string",
        Some(Value::Array(_)) => "an array",
        Some(Value::Object(_)) => "an object",
    }
}

/// Any JSON whose objects name each key once.
struct Strict;

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Looks)
    }
}

struct Looks;

impl<'de> Visitor<'de> for Looks {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_str<E>(self, _: &str) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Strict, A::Error> {
        while items.next_element::<Strict>()?.is_some() {}
        Ok(Strict)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Strict, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            if names.contains(&name) {
                fields.next_value::<IgnoredAny>()?;
                return Err(A::Error::custom("a key is named twice in one object"));
            }
            names.insert(name);
            fields.next_value::<Strict>()?;
        }
        Ok(Strict)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Form {
        #[expect(dead_code, reason = "read for its form")]
        name: String,
        #[serde(default)]
        payload: Option<Box<RawValue>>,
        #[serde(default, deserialize_with = "whole")]
        attempts: Option<u32>,
    }

    fn told(body: impl AsRef<[u8]>) -> String {
        format!("{:?}", read::<Form>(body.as_ref()).unwrap_err())
    }

    #[test]
    fn payloads_stay_as_they_were_written() {
        let form: Form = read(br#"{"name":"a","payload": {"b" : 1.0e2}}"#).unwrap();
        assert_eq!(form.payload.unwrap().get(), r#"{"b" : 1.0e2}"#);
    }

    #[test]
    fn whole_numbers_may_be_written_with_a_fraction_of_nothing() {
        for (text, number) in [("3", Some(3)), ("3.0", Some(3)), ("3e2", Some(300)), ("null", None)]
        {
            let form: Form =
                read(format!(r#"{{"name":"a","attempts":{text}}}"#).as_bytes()).unwrap();
            assert_eq!(form.attempts, number, "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_told_without_its_values() {
        for (body, said) in [
            (&b"{\"name\":\"secret"[..], "ends in the middle"),
            (b"{\"name\":\"secret\xff\"}", "byte 15 is not UTF-8"),
            (b"{\"name\":\"a\",\"name\":\"secret\"}", "named twice"),
            (b"{\"payload\":{\"a\":{\"x\":1,\"x\":2}}}", "named twice"),
            (b"{} {}", "trailing characters"),
            (b"{secret}", "not valid JSON"),
            (br#"{"name":"\ud800"}"#, ""),
        ] {
            let told = told(body);
            assert!(told.contains("BadJson") && told.contains(said), "{told}");
            assert!(!told.contains("secret"), "{told}");
        }
        let deep = format!("{{\"payload\":{}1{}}}", "[".repeat(500), "]".repeat(500));
        assert!(told(deep).contains("deeper than 127"));
    }

    #[test]
    fn another_form_names_field_and_kind() {
        for (body, said) in [
            (r#"{"name":5123}"#, "name must be a string, not this number"),
            (
                r#"{"name":"a","attempts":"secret"}"#,
                "attempts must be a JSON number, not this string",
            ),
            (r#"{"name":"a","attempts":-1}"#, "attempts must be a whole number, not this number"),
            (
                r#"{"name":"a","attempts":4294967296}"#,
                "attempts must be a whole number, not this number",
            ),
            (r#"{"name":"a","attempts":1.5}"#, "attempts must be a whole number, not this number"),
            (r#"["secret", null]"#, "the body must be an object, not an array"),
            (r#"{"payload":1}"#, "name is missing: add it"),
            (r#"{"name":"a","nmae":"secret"}"#, "known: one of `name`, `payload`, `attempts`"),
            (r#""secret""#, "the body must be struct Form, not this string"),
        ] {
            let told = told(body);
            assert!(told.contains("InvalidField") && told.contains(said), "{told}");
            assert!(!told.contains("secret") && !told.contains("5123"), "{told}");
        }
    }
}
