//! Schemas that may not be contracts, and what is said of them.

use posthaste_core::contract::{Contract, InvalidContract, SCHEMA_BYTES_MAX, SCHEMA_DEPTH_MAX};
use serde_json::{Value, json};

fn refused(schema: Value) -> InvalidContract {
    Contract::new("jobs.submitted", 3, schema).expect_err("the schema must be refused")
}

#[test]
fn refusal_names_topic_version_place_and_remedy() {
    let error = refused(json!({ "properties": { "a": { "type": "strin" } } }));
    assert_eq!(
        error.to_string(),
        "contract \"jobs.submitted\" version 3 is refused at /properties/a/type: \"strin\" is none \
         of what may stand there; see https://json-schema.org/draft/2020-12 for what \
         stands there"
    );
}

#[test]
fn each_schema_that_is_refused_is_refused_at_its_place() {
    let many: Vec<Value> = (0..20).map(|_| json!(1)).collect();
    let chain = (0..20).fold(json!({ "type": "string" }), |inner, _| json!({ "allOf": [inner] }));
    for (schema, pointer, said) in [
        (json!(3), "", "3 is of none of the types boolean, object"),
        (json!([]), "", "of none of the types"),
        (json!({ "minimum": "one" }), "/minimum", "\"one\" is not of type number"),
        (json!({ "required": many }), "/required", ""),
        (
            json!({ "$schema": "http://json-schema.org/draft-07/schema#" }),
            "/$schema",
            "draft 2020-12",
        ),
        (
            json!({ "$defs": { "a": { "$schema": "http://json-schema.org/draft-04/schema" } } }),
            "/$defs/a/$schema",
            "draft 2020-12",
        ),
        (json!({ "$defs": { "a": { "$id": "a" } } }), "/$defs/a/$id", "remove it"),
        (json!({ "dependencies": { "a": ["b"] } }), "/dependencies", "dependentRequired"),
        (json!({ "not": { "additionalItems": false } }), "/not/additionalItems", "prefixItems"),
        (json!({ "$ref": "https://example.com/a.json" }), "/$ref", "nothing is fetched"),
        (json!({ "items": { "$ref": "file:///etc/passwd" } }), "/items/$ref", "nothing is fetched"),
        (json!({ "$ref": "other.json#/a" }), "/$ref", "nothing is fetched"),
        (json!({ "$dynamicRef": "https://example.com/#a" }), "/$dynamicRef", "nothing is fetched"),
        (json!({ "$ref": "#/$defs/none" }), "/$ref", "names no schema"),
        (json!({ "$ref": "#/x", "x": { "$ref": "http://a/" } }), "/$ref", "names no schema"),
        (json!({ "$ref": "#none" }), "/$ref", "names no schema"),
        (
            json!({ "items": { "$anchor": "a" }, "not": { "$dynamicAnchor": "a" } }),
            "/not",
            "name of its own",
        ),
        (json!({ "$ref": "#" }), "", "leads back to itself"),
        (json!({ "anyOf": [{ "type": "null" }, { "$ref": "#" }] }), "", "leads back to itself"),
        (chain, "", "21 schemas judge one value"),
        (json!({ "pattern": "(" }), "/pattern", "regular expression"),
        (json!({ "pattern": "(?=a)b" }), "/pattern", "look-around"),
        (json!({ "pattern": "(a)\\1" }), "/pattern", "back-references"),
        (json!({ "pattern": "(((a{100}){100}){100}){100}" }), "/pattern", "moderate size"),
        (
            json!({ "patternProperties": { "(": true } }),
            "/patternProperties/(",
            "regular expression",
        ),
    ] {
        let text = schema.to_string();
        let error = refused(schema);
        assert_eq!(error.pointer, pointer, "{text}: {error}");
        assert!(error.to_string().contains(said), "{text}: {error}");
    }
}

#[test]
fn topic_and_version_follow_the_rules_of_messages() {
    for topic in ["", "a b", ".a", &"t".repeat(256)] {
        let error = Contract::new(topic, 1, json!(true)).unwrap_err();
        assert!(error.to_string().contains("its topic is not valid"), "{error}");
        assert!(error.to_string().len() < 400, "{error}");
    }
    let error = Contract::new("a", 0, json!(true)).unwrap_err();
    assert!(error.to_string().contains("count versions from 1"), "{error}");
}

#[test]
fn size_and_depth_have_limits_and_their_limits_pass() {
    let padded = |bytes: usize| json!({ "title": "t".repeat(bytes - r#"{"title":""}"#.len()) });
    assert!(Contract::new("a", 1, padded(SCHEMA_BYTES_MAX)).is_ok());
    assert!(refused(padded(SCHEMA_BYTES_MAX + 1)).fault.contains("1048577 bytes"));
    let nested = |levels: usize| (1..levels).fold(json!({}), |inner, _| json!({ "items": inner }));
    assert!(Contract::new("a", 1, nested(SCHEMA_DEPTH_MAX)).is_ok());
    assert!(refused(nested(SCHEMA_DEPTH_MAX + 1)).fault.contains("deeper than 64"));
}

#[test]
fn references_within_the_document_are_followed() {
    let contract = Contract::new(
        "a",
        1,
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": "https://example.com/tree",
            "type": "object",
            "properties": {
                "by pointer": { "$ref": "#/$defs/a%20b" },
                "by name": { "$ref": "#short" },
                "whole": { "$ref": "#" },
                "dynamic": { "$dynamicRef": "#open" },
            },
            "$defs": {
                "a b": { "type": "string" },
                "c": { "$anchor": "short", "maxLength": 2 },
                "d": { "$dynamicAnchor": "open", "type": "integer" },
            },
        }),
    )
    .unwrap();
    for (payload, expected) in [
        (json!({ "by pointer": "x", "by name": "ab", "whole": {}, "dynamic": 1 }), None),
        (json!({ "by pointer": 1 }), Some("/by pointer: not of type string")),
        (json!({ "by name": "abc" }), Some("/by name: longer than 2 characters")),
        (json!({ "whole": { "whole": 1 } }), Some("/whole/whole: not of type object")),
        (json!({ "dynamic": "1" }), Some("/dynamic: not of type integer")),
    ] {
        let found = contract.check(payload.to_string().as_bytes()).err();
        assert_eq!(found.map(|violation| violation.to_string()).as_deref(), expected, "{payload}");
    }
}
