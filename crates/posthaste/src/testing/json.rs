//! Where one JSON value differs from another. Pure.

use serde_json::Value;

/// What of `actual` has to agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// All of it.
    Whole,
    /// Of objects, at any depth, the members that are expected.
    Members,
}

/// The first difference, with its place as a JSON pointer (RFC 6901).
pub(super) fn difference(expected: &Value, actual: &Value, extent: Extent) -> Option<String> {
    at("", expected, actual, extent)
}

fn at(place: &str, expected: &Value, actual: &Value, extent: Extent) -> Option<String> {
    match (expected, actual) {
        (Value::Object(wanted), Value::Object(found)) => {
            let of_member = |(name, value): (&String, &Value)| {
                let place = format!("{place}/{}", name.replace('~', "~0").replace('/', "~1"));
                match found.get(name) {
                    Some(actual) => at(&place, value, actual, extent),
                    None => Some(format!("{place} is missing, expected {value}")),
                }
            };
            let unexpected = |(name, value): (&String, &Value)| {
                let is_extra = extent == Extent::Whole && !wanted.contains_key(name);
                is_extra.then(|| format!("{place}/{name} is {value}, expected nothing"))
            };
            wanted.iter().find_map(of_member).or_else(|| found.iter().find_map(unexpected))
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            let mut pairs = wanted.iter().zip(found).enumerate();
            pairs.find_map(|(nth, (wanted, found))| {
                at(&format!("{place}/{nth}"), wanted, found, extent)
            })
        }
        _ if expected == actual => None,
        _ => {
            let place = if place.is_empty() { "the payload" } else { place };
            Some(format!("{place} is {actual}, expected {expected}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_difference_is_named_with_its_place() {
        let cases = [
            (json!({"a": {"b": [1, 2]}}), json!({"a": {"b": [1, 3]}}), "/a/b/1 is 3, expected 2"),
            (json!({"a": 1}), json!({}), "/a is missing, expected 1"),
            (json!([1]), json!([1, 2]), "the payload is [1,2], expected [1]"),
            (json!({"x/y~": 1}), json!({"x/y~": null}), "/x~1y~0 is null, expected 1"),
            (json!(1), json!("1"), "the payload is \"1\", expected 1"),
        ];
        for (expected, actual, text) in cases {
            for extent in [Extent::Whole, Extent::Members] {
                assert_eq!(difference(&expected, &actual, extent).as_deref(), Some(text));
                assert_eq!(difference(&actual, &actual, extent), None);
            }
        }
    }

    #[test]
    fn members_beside_the_expected_ones_differ_only_from_the_whole() {
        let (expected, actual) = (json!([{"a": 1}]), json!([{"a": 1, "b": {}}]));
        assert_eq!(difference(&expected, &actual, Extent::Members), None);
        let whole = difference(&expected, &actual, Extent::Whole);
        assert_eq!(whole.as_deref(), Some("/0/b is {}, expected nothing"));
    }
}
