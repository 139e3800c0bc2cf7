//! What is said of two versions, against what values show.

use posthaste_core::contract::{Compatibility, Contract, differences};
use serde_json::{Map, Value, json};

fn contract(schema: &Value) -> Contract {
    Contract::new("t", 1, schema.clone()).unwrap_or_else(|error| panic!("{error}: {schema}"))
}

fn found(written: &Value, read: &Value) -> Vec<String> {
    let found = differences(&contract(written), &contract(read));
    found.iter().map(ToString::to_string).collect()
}

/// Pairs of schemas of which the second reads what the first writes: of single values.
fn readable_values() -> Vec<(Value, Value)> {
    let of = |a, b| (a, b);
    vec![
        of(json!(false), json!({ "type": "string" })),
        of(json!({ "type": "integer" }), json!({ "type": "number" })),
        of(json!({ "type": "string" }), json!({ "type": ["null", "string"] })),
        of(
            json!({ "type": ["null", "string"] }),
            json!({ "anyOf": [{ "type": "null" }, { "type": "string" }] }),
        ),
        of(
            json!({ "anyOf": [{ "type": "null" }, { "type": "string" }] }),
            json!({ "type": ["null", "string"] }),
        ),
        of(json!({ "const": 2 }), json!({ "type": "integer", "minimum": 1 })),
        of(json!({ "const": 2 }), json!({ "enum": [2.0, 3] })),
        of(
            json!({ "enum": ["a", 1] }),
            json!({ "anyOf": [{ "type": "string", "pattern": "^a$" }, { "maximum": 1 }] }),
        ),
        of(json!({ "type": "boolean" }), json!({ "enum": [true, false] })),
        of(json!({ "minimum": 2 }), json!({ "exclusiveMinimum": 1 })),
        of(json!({ "type": "integer", "exclusiveMinimum": 0 }), json!({ "minimum": 1 })),
        of(json!({ "multipleOf": 6 }), json!({ "multipleOf": 3 })),
        of(json!({ "minLength": 2, "maxLength": 3 }), json!({ "minLength": 1, "maxLength": 3 })),
    ]
}

/// The same of objects and arrays.
fn readable_containers() -> Vec<(Value, Value)> {
    let of = |a, b| (a, b);
    let property = |rules: Value| json!({ "properties": { "a": rules } });
    vec![
        of(
            json!({ "required": ["a", "b"] }),
            json!({ "required": ["a"], "minProperties": 2, "type": ["object", "array", "null", "number", "string", "boolean"] }),
        ),
        of(
            json!({ "properties": { "a": { "type": "string" } }, "additionalProperties": false }),
            json!({ "properties": { "a": { "type": "string" }, "b": { "type": "string" } } }),
        ),
        of(
            json!({ "properties": { "a": true }, "additionalProperties": false }),
            json!({ "maxProperties": 1, "patternProperties": { "^a$": true }, "additionalProperties": false }),
        ),
        of(json!({ "additionalProperties": { "minimum": 3 } }), property(json!({ "minimum": 2 }))),
        of(
            json!({ "patternProperties": { "^a": { "minimum": 3 } } }),
            property(json!({ "minimum": 2 })),
        ),
        of(
            json!({ "items": { "minimum": 3 }, "maxItems": 2 }),
            json!({ "items": { "minimum": 2 }, "maxItems": 3 }),
        ),
        of(
            json!({ "prefixItems": [{ "type": "string" }], "items": false }),
            json!({ "items": { "type": "string" }, "maxItems": 1, "uniqueItems": true }),
        ),
        of(
            json!({ "contains": { "minimum": 3 }, "minContains": 2 }),
            json!({ "contains": { "minimum": 2 } }),
        ),
    ]
}

/// The same of schemas that join others.
fn readable_joins() -> Vec<(Value, Value)> {
    let of = |a, b| (a, b);
    vec![
        of(
            json!({ "allOf": [{ "minimum": 3 }, { "type": "integer" }] }),
            json!({ "minimum": 3, "type": "integer" }),
        ),
        of(
            json!({ "$ref": "#/$defs/a", "$defs": { "a": { "minimum": 3 } } }),
            json!({ "$ref": "#b", "$defs": { "x": { "$anchor": "b", "minimum": 2 } } }),
        ),
        of(
            json!({ "oneOf": [{ "type": "string" }, { "type": "null" }] }),
            json!({ "oneOf": [{ "type": "integer" }, { "type": "null" }, { "type": "string" }] }),
        ),
        of(tagged(&["a", "b"]), tagged(&["a", "b", "c"])),
        of(json!({ "type": "string" }), json!({ "not": { "type": "integer" } })),
        of(
            json!({ "dependentRequired": { "a": ["b", "c"] } }),
            json!({ "dependentRequired": { "a": ["c"] } }),
        ),
        of(
            json!({ "propertyNames": { "maxLength": 2 } }),
            json!({ "propertyNames": { "maxLength": 3 } }),
        ),
        of(tree(&json!({ "type": "integer" })), tree(&json!({ "type": "number" }))),
        of(
            json!({ "title": "a", "pattern": "^a" }),
            json!({ "description": "b", "pattern": "^a" }),
        ),
        of(
            json!({ "if": { "required": ["a"] }, "then": { "required": ["b"] }, "minProperties": 2 }),
            json!({ "if": { "required": ["a"] }, "then": { "required": ["b"] } }),
        ),
        of(json!(true), json!({ "format": "int32", "title": "t", "x-of-ours": 1 })),
    ]
}

/// Objects that are told apart by a tag.
fn tagged(tags: &[&str]) -> Value {
    let one = |tag| {
        json!({
            "type": "object", "required": ["tag"], "properties": { "tag": { "const": tag } },
        })
    };
    json!({ "oneOf": tags.iter().map(one).collect::<Vec<_>>() })
}

/// A list that ends in `leaf`.
fn tree(leaf: &Value) -> Value {
    json!({ "$defs": { "node": {
        "type": "object",
        "properties": { "leaf": leaf, "next": { "$ref": "#/$defs/node" } },
        "additionalProperties": false,
    } }, "$ref": "#/$defs/node" })
}

/// Pairs of which the second does not read all of the first, with the place and the words.
fn unreadable() -> Vec<(Value, Value, &'static str)> {
    let within = |rules: Value| json!({ "properties": { "questions": { "items": { "properties": { "id": rules } } } } });
    vec![
        (
            within(json!({ "type": "string" })),
            within(json!({ "type": "integer" })),
            "/questions/*/id: type: string when written, integer when read",
        ),
        (
            within(json!({ "minimum": 1 })),
            within(json!({ "minimum": 2 })),
            "/questions/*/id: minimum: 1 when written, 2 when read",
        ),
        (
            json!({ "type": "number" }),
            json!({ "type": "integer" }),
            "payload: type: number when written, integer when read",
        ),
        (
            json!({ "maximum": 2 }),
            json!({ "exclusiveMaximum": 2 }),
            "payload: exclusiveMaximum: 2 when written, 2 when read",
        ),
        (
            json!({}),
            json!({ "minLength": 1 }),
            "payload: minLength: no limit when written, 1 when read",
        ),
        (
            json!({ "properties": { "a": true } }),
            json!({ "required": ["a"] }),
            "/a: required: optional when written, required when read",
        ),
        (
            json!({ "properties": { "a": true, "b": true }, "additionalProperties": false }),
            json!({ "properties": { "a": true }, "additionalProperties": false }),
            "/b: additionalProperties: allowed when written, not allowed when read",
        ),
        (
            json!({}),
            json!({ "additionalProperties": false }),
            "/*: additionalProperties: allowed when written, not allowed when read",
        ),
        (
            json!({ "enum": ["a", "b"] }),
            json!({ "enum": ["a"] }),
            "payload: value: \"b\" when written, not valid under {\"enum\":[\"a\"]} when read",
        ),
        (
            json!({ "type": "string" }),
            json!({ "const": "a" }),
            "payload: const: string when written, \"a\" when read",
        ),
        (
            json!({ "pattern": "^a" }),
            json!({ "pattern": "^b" }),
            "payload: pattern: cannot be compared: \"^a\" when written, \"^b\" when read",
        ),
        (
            json!({ "format": "date" }),
            json!({ "format": "uuid" }),
            "payload: format: cannot be compared: \"date\" when written, \"uuid\" when read",
        ),
        (
            json!({}),
            json!({ "not": { "type": "string" } }),
            "payload: not: cannot be compared: nothing when written, {\"type\":\"string\"} when read",
        ),
        (
            json!({ "items": true }),
            json!({ "prefixItems": [true, { "type": "null" }] }),
            "/1: type: any when written, null when read",
        ),
        (
            json!({}),
            json!({ "uniqueItems": true }),
            "payload: uniqueItems: false when written, true when read",
        ),
        (
            tree(&json!({ "type": "number" })),
            tree(&json!({ "type": "integer" })),
            "/leaf: type: number when written, integer when read",
        ),
        (
            json!({ "properties": { "a/b": true } }),
            json!({ "properties": { "a/b": false } }),
            "/a~1b: false: a value is allowed when written, none is when read",
        ),
        (
            json!(true),
            json!({ "minProperties": 0 }),
            "payload: body: may be empty when written, required when read",
        ),
    ]
}

#[test]
fn what_follows_is_seen_to_follow() {
    let all = [readable_values(), readable_containers(), readable_joins()];
    for (written, read) in all.into_iter().flatten() {
        let mut found = found(&written, &read);
        // An empty body is its own question.
        found.retain(|difference| !difference.starts_with("payload: body"));
        assert_eq!(found, Vec::<String>::new(), "{written} -> {read}");
    }
}

#[test]
fn r31_each_difference_is_told_with_its_place_and_both_sides() {
    for (written, read, expected) in unreadable() {
        let found = found(&written, &read);
        assert!(found.contains(&expected.to_owned()), "{written} -> {read}: {found:#?}");
    }
}

#[test]
fn optional_property_is_free_to_add_where_others_were_not_allowed() {
    let base = |extra: Value, open: bool| {
        let mut properties = Map::from_iter([("a".to_owned(), json!({ "type": "string" }))]);
        properties.extend(extra.as_object().unwrap().clone());
        contract(&json!({
            "type": "object", "properties": properties, "additionalProperties": open,
        }))
    };
    let (none, some) = (json!({}), json!({ "b": { "type": "integer" } }));
    let [closed, closed_more, open, open_more] =
        [(&none, false), (&some, false), (&none, true), (&some, true)]
            .map(|(extra, is_open)| base(extra.clone(), is_open));
    assert_eq!(Compatibility::of(&closed, &closed_more), Compatibility::Backward);
    // An open object may have held anything under the new name.
    assert_eq!(Compatibility::of(&open, &open_more), Compatibility::Forward);
    let told = differences(&open, &open_more);
    assert_eq!(told[0].to_string(), "/b: type: any when written, integer when read");
    let free = json!({ "b": true });
    assert_eq!(Compatibility::of(&open, &base(free, true)), Compatibility::Full);
}

#[test]
fn compatibility_is_a_demand_on_one_direction_or_both() {
    let [old, new] =
        [json!({ "type": "integer" }), json!({ "type": "number" })].map(|s| contract(&s));
    assert_eq!(Compatibility::of(&old, &new), Compatibility::Backward);
    assert_eq!(Compatibility::of(&new, &old), Compatibility::Forward);
    assert_eq!(Compatibility::of(&old, &old), Compatibility::Full);
    assert_eq!(Compatibility::of(&old, &contract(&json!({ "type": "null" }))), Compatibility::None);
    let missing = |demand: Compatibility| demand.differences(&old, &new).len();
    assert_eq!(missing(Compatibility::None), 0);
    assert_eq!(missing(Compatibility::Backward), 0);
    assert_eq!(missing(Compatibility::Forward), 1);
    assert_eq!(missing(Compatibility::Full), 1);
}

#[test]
fn comparison_of_alternatives_of_alternatives_ends() {
    let alternatives = |shift: i64| {
        let one = |n: i64| json!({ "anyOf": (0..6).map(|m| json!({ "minimum": n * 6 + m + shift })).collect::<Vec<_>>() });
        json!({ "allOf": (0..12).map(one).collect::<Vec<_>>() })
    };
    let found = found(&alternatives(0), &alternatives(1));
    assert!(!found.is_empty() && found.len() <= 100, "{found:#?}");
}
