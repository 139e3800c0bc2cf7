//! What a contract says of payloads.

use std::time::{Duration, Instant};

use posthaste_core::contract::{Contract, PATH_BYTES_MAX};
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

fn contract(schema: Value) -> Contract {
    Contract::new("jobs.submitted", 1, schema).expect("the schema must compile")
}

fn violation(schema: Value, payload: &Value) -> String {
    let found = contract(schema).check(payload.to_string().as_bytes());
    found.expect_err("the payload must be refused").to_string()
}

#[test]
fn r31_each_rule_is_named_with_its_place_and_limit() {
    let object = |name: &str, rules: Value| json!({ "properties": { name: rules } });
    for (schema, payload, expected) in [
        (object("a", json!({ "minimum": 1 })), json!({ "a": 0 }), "/a: less than the minimum of 1"),
        (
            object("a", json!({ "maximum": 1.5 })),
            json!({ "a": 2 }),
            "/a: greater than the maximum of 1.5",
        ),
        (
            object("a", json!({ "exclusiveMinimum": 0 })),
            json!({ "a": 0 }),
            "/a: not greater than 0",
        ),
        (object("a", json!({ "exclusiveMaximum": 0 })), json!({ "a": 0 }), "/a: not less than 0"),
        (object("a", json!({ "multipleOf": 3 })), json!({ "a": 4 }), "/a: not a multiple of 3"),
        (object("a", json!({ "type": "integer" })), json!({ "a": 1.5 }), "/a: not of type integer"),
        (
            object("a", json!({ "type": ["string", "null"] })),
            json!({ "a": 1 }),
            "/a: of none of the types null, string",
        ),
        (
            object("a", json!({ "minLength": 1 })),
            json!({ "a": "" }),
            "/a: shorter than 1 character",
        ),
        (
            object("a", json!({ "pattern": "^x" })),
            json!({ "a": "y" }),
            "/a: does not match the pattern \"^x\"",
        ),
        (
            object("a", json!({ "format": "uuid" })),
            json!({ "a": "y" }),
            "/a: not of format \"uuid\"",
        ),
        (
            object("a", json!({ "format": "date-time" })),
            json!({ "a": "y" }),
            "/a: not of format \"date-time\"",
        ),
        (
            object("a", json!({ "format": "email" })),
            json!({ "a": "y" }),
            "/a: not of format \"email\"",
        ),
        (object("a", json!({ "enum": ["x", 1] })), json!({ "a": "y" }), "/a: not one of [\"x\",1]"),
        (object("a", json!({ "const": { "b": 1 } })), json!({ "a": "y" }), "/a: not {\"b\":1}"),
        (
            object("a", json!({ "items": { "type": "string" } })),
            json!({ "a": ["x", 1] }),
            "/a/1: not of type string",
        ),
        (
            object("a", json!({ "uniqueItems": true })),
            json!({ "a": [1, 1] }),
            "/a: has an item twice",
        ),
        (object("a/b~c", json!(false)), json!({ "a/b~c": 1 }), "/a~1b~0c: not allowed here"),
    ] {
        let text = schema.to_string();
        assert_eq!(violation(schema, &payload), expected, "{text}");
    }
}

#[test]
fn r31_rules_of_objects_and_alternatives_are_named_at_their_place() {
    let object = |name: &str, rules: Value| json!({ "properties": { name: rules } });
    for (schema, payload, expected) in [
        (json!({ "required": ["a"] }), json!({}), "payload: lacks \"a\""),
        (
            json!({ "additionalProperties": false }),
            json!({ "b": 1 }),
            "payload: holds a property, and may hold none",
        ),
        (
            json!({ "properties": { "a": true }, "additionalProperties": false }),
            json!({ "b": 1 }),
            "payload: holds \"b\", which the contract does not know",
        ),
        (
            json!({ "not": { "type": "object" } }),
            json!({}),
            "payload: valid under what the contract excludes (not)",
        ),
        (
            json!({ "propertyNames": { "maxLength": 1 } }),
            json!({ "ab": 1 }),
            "payload: has a property whose name is longer than 1 character",
        ),
        (
            object("a", json!({ "oneOf": [{ "type": "string" }, { "required": ["b"] }] })),
            json!({ "a": {} }),
            "/a: valid under none or several of the 2 in oneOf: number 1 not of type string, number 2 lacks \"b\"",
        ),
        (
            object("a", json!({ "anyOf": [{ "type": "string" }, { "minimum": 5 }] })),
            json!({ "a": 1 }),
            "/a: valid under none of the 2 in anyOf: number 1 not of type string",
        ),
    ] {
        let text = schema.to_string();
        assert_eq!(violation(schema, &payload), expected, "{text}");
    }
}

#[test]
fn r3_malformed_payload_is_refused_and_an_empty_one_where_a_body_is_required() {
    let demanding = contract(json!({ "type": "object" }));
    for (payload, expected) in [
        (&b""[..], "payload: is empty, and the contract requires a body"),
        (b"{\"a\" 1}", "payload: is not JSON (line 1, column 6)"),
        (b"{}{}", "payload: is not JSON (line 1, column 3)"),
        (b"\xff", "payload: is not JSON (line 1, column 1)"),
        (b"null", "payload: not of type object"),
    ] {
        assert_eq!(demanding.check(payload).unwrap_err().to_string(), expected);
    }
    for schema in [json!(true), json!({}), json!({ "title": "Anything", "description": "at all" })]
    {
        assert_eq!(contract(schema).check(b""), Ok(()));
    }
    for schema in [json!(false), json!({ "minProperties": 0 })] {
        assert!(contract(schema).check(b"").is_err());
    }
}

#[test]
fn formats_that_nobody_knows_say_nothing() {
    assert_eq!(contract(json!({ "format": "int32" })).check(b"\"x\""), Ok(()));
}

/// Runs on a stack of a known size, as in a worker thread of the async runtime.
fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(test);
    thread.unwrap().join().unwrap();
}

fn nested(levels: usize, open: &str, innermost: &str, close: &str) -> Vec<u8> {
    (open.repeat(levels) + innermost + &close.repeat(levels)).into_bytes()
}

#[test]
fn deeply_nested_payload_is_refused_and_never_overflows_the_stack() {
    // The longest chain of schemas for one value, at every level of the deepest payload.
    let chain = |keyword: &str| {
        let innermost = json!({ "items": { "$ref": "#" }, "type": "array" });
        (0..14).fold(innermost, |inner, _| json!({ keyword: [inner] }))
    };
    for (keyword, told_at) in [("allOf", "/0/0/0"), ("anyOf", ""), ("oneOf", "")] {
        let contract = contract(chain(keyword));
        on_a_small_stack(move || {
            assert_eq!(contract.check(&nested(127, "[", "", "]")), Ok(()));
            let violation = contract.check(&nested(126, "[", "1", "]")).unwrap_err();
            assert!(violation.path.ends_with(told_at), "{violation}");
            for levels in [128, 100_000] {
                let violation = contract.check(&nested(levels, "[", "", "]")).unwrap_err();
                assert!(violation.rule.starts_with("is not JSON"), "{violation}");
            }
        });
    }
}

#[test]
fn hostile_payload_takes_no_exponential_time() {
    let doubled = |keyword: &str| {
        json!({ "$defs": { "node": { keyword: [
            { "properties": { "a": { "$ref": "#/$defs/node" } }, "required": ["b"], "type": "object" },
            { "properties": { "a": { "$ref": "#/$defs/node" } }, "required": ["c"], "type": "object" },
            { "type": "integer" },
        ] } }, "$ref": "#/$defs/node" })
    };
    let both = json!({ "allOf": [
        { "properties": { "a": { "$ref": "#" } } },
        { "properties": { "a": { "$ref": "#" } } },
        { "type": ["object", "integer"] },
    ] });
    on_a_small_stack(move || {
        for schema in [doubled("anyOf"), doubled("oneOf"), both] {
            let contract = contract(schema);
            let started = Instant::now();
            let payload = nested(120, r#"{"b":1,"c":1,"a":"#, "\"x\"", "}");
            assert!(contract.check(&payload).is_err());
            assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        }
        let contract = contract(json!({ "pattern": "^(a+)+$" }));
        let started = Instant::now();
        assert!(contract.check(format!("\"{}b\"", "a".repeat(200_000)).as_bytes()).is_err());
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    });
}

#[test]
fn schema_that_looks_into_its_alternatives_is_judged_though_the_place_is_not_told() {
    let schema = json!({
        "anyOf": [{ "properties": { "a": { "type": "string" } } }],
        "unevaluatedProperties": false,
    });
    assert_eq!(contract(schema.clone()).check(br#"{"a":"x"}"#), Ok(()));
    assert!(violation(schema, &json!({ "b": 1 })).starts_with("payload: not valid"));
}

/// Schemas under which almost everything is a violation of one kind or another.
fn strict_schemas() -> Vec<Value> {
    vec![
        json!({ "type": "object", "properties": { "a": false }, "additionalProperties": false }),
        json!({ "additionalProperties": { "additionalProperties": { "const": 1 } } }),
        json!({ "items": { "pattern": "^$", "maximum": 3, "maxProperties": 0, "maxItems": 0 } }),
        json!({ "propertyNames": { "pattern": "^$" }, "type": ["object", "array"] }),
        json!({ "oneOf": [{ "type": "null" }, { "required": ["b"] }] }),
        json!({ "anyOf": [{ "enum": [1] }], "not": { "type": "array" } }),
        json!({ "contains": { "const": 0 }, "type": "array", "uniqueItems": true }),
        json!({ "items": { "format": "uuid" }, "additionalProperties": { "format": "date" } }),
    ]
}

fn payload_with(secret: &'static str) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(secret)),
        Just(json!(format!("before {secret}"))),
        (0..9_i64).prop_map(|n| json!(77_000 + n)),
        Just(json!(null)),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            vec(("[ab]{1,2}|(\\PC|\n|\u{1b}){0,90}", inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn values_of_a_payload_are_never_told(
        payload in payload_with("secret"), schema in 0..strict_schemas().len(),
    ) {
        let contract = contract(strict_schemas().swap_remove(schema));
        if let Err(violation) = contract.check(payload.to_string().as_bytes()) {
            let told = violation.to_string();
            prop_assert!(!told.contains("secret") && !told.contains("7700"), "{}", told);
            prop_assert!(violation.path.len() <= PATH_BYTES_MAX, "{}", violation.path);
            prop_assert!(!told.chars().any(char::is_control), "{:?}", told);
            prop_assert!(violation.rule.len() <= 1_000, "{}", violation.rule);
        }
    }

    #[test]
    fn any_bytes_are_judged_and_none_panic(payload in vec(any::<u8>(), 0..200)) {
        for schema in strict_schemas() {
            let _ = contract(schema).check(&payload);
        }
    }
}
