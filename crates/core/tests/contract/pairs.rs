//! Random pairs of schemas: what is said to be readable is read, whatever the value.

use posthaste_core::contract::{Compatibility, Contract, differences};
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

fn leaf() -> impl Strategy<Value = Value> {
    let small = || -1..3_i64;
    prop_oneof![
        small().prop_map(|n| json!(n)),
        Just(json!(0.5)),
        Just(json!(1.0)),
        select(vec!["", "a", "ab", "b", "2020-01-01"]).prop_map(|text| json!(text)),
        any::<bool>().prop_map(|flag| json!(flag)),
        Just(json!(null)),
    ]
}

fn name() -> impl Strategy<Value = String> {
    select(vec!["a", "b", "ab", "c"]).prop_map(str::to_owned)
}

fn instance() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::Array),
            vec((name(), inner), 0..4).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn type_name() -> impl Strategy<Value = Value> {
    select(vec!["null", "boolean", "integer", "number", "string", "array", "object"])
        .prop_map(|name| json!(name))
}

/// One keyword with its value, of those that hold no schema.
fn simple_keyword() -> impl Strategy<Value = (String, Value)> {
    let count = || (0..4_u32).prop_map(|n| json!(n));
    let limit = || prop_oneof![(-1..3_i64).prop_map(|n| json!(n)), Just(json!(0.5))];
    let keyed = |keyword: &'static str, value: BoxedStrategy<Value>| {
        value.prop_map(move |value| (keyword.to_owned(), value)).boxed()
    };
    let counts = [
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        "minContains",
        "maxContains",
    ];
    let limits = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
    let mut all: Vec<BoxedStrategy<(String, Value)>> = vec![
        keyed("type", type_name().boxed()),
        keyed("type", type_name().boxed()),
        keyed(
            "type",
            vec(type_name(), 2..4)
                .prop_map(|mut names| {
                    names.sort_by_key(ToString::to_string);
                    names.dedup();
                    Value::Array(names)
                })
                .boxed(),
        ),
        keyed("const", instance().boxed()),
        keyed("enum", vec(leaf(), 1..4).prop_map(Value::Array).boxed()),
        keyed("multipleOf", select(vec![json!(1), json!(2), json!(0.5), json!(3)]).boxed()),
        keyed("pattern", select(vec![json!("^a"), json!("b$"), json!("a")]).boxed()),
        keyed("format", select(vec![json!("date"), json!("int32")]).boxed()),
        keyed("uniqueItems", any::<bool>().prop_map(Value::Bool).boxed()),
        keyed(
            "required",
            proptest::sample::subsequence(vec!["a", "b", "c"], 1..3)
                .prop_map(|names| json!(names))
                .boxed(),
        ),
        keyed("dependentRequired", (name(), name()).prop_map(|(a, b)| json!({ a: [b] })).boxed()),
        keyed("title", Just(json!("t")).boxed()),
    ];
    all.extend(counts.map(|keyword| keyed(keyword, count().boxed())));
    all.extend(limits.map(|keyword| keyed(keyword, limit().boxed())));
    proptest::strategy::Union::new(all)
}

/// One keyword that holds schemas.
fn joining_keyword(inner: BoxedStrategy<Value>) -> impl Strategy<Value = (String, Value)> {
    let one = select(vec![
        "additionalProperties",
        "items",
        "contains",
        "not",
        "if",
        "then",
        "else",
        "propertyNames",
        "additionalProperties",
        "items",
        "unevaluatedProperties",
    ]);
    let list = select(vec!["allOf", "anyOf", "oneOf", "prefixItems", "anyOf", "oneOf"]);
    let named = select(vec!["properties", "properties", "properties", "dependentSchemas"]);
    let pattern = select(vec!["^a", "b", "c$"]).prop_map(str::to_owned);
    prop_oneof![
        2 => (one, inner.clone()).prop_map(|(keyword, schema)| (keyword.to_owned(), schema)),
        2 => (list, vec(inner.clone(), 1..4))
            .prop_map(|(keyword, list)| (keyword.to_owned(), Value::Array(list))),
        3 => (named, vec((name(), inner.clone()), 1..4))
            .prop_map(|(keyword, pairs)| (keyword.to_owned(), Value::Object(pairs.into_iter().collect()))),
        1 => vec((pattern, inner), 1..3).prop_map(|pairs| {
            ("patternProperties".to_owned(), Value::Object(pairs.into_iter().collect()))
        }),
    ]
}

/// A schema, with references to `#/$defs/x`, which [`whole`] gives it.
fn part() -> impl Strategy<Value = Value> {
    let object = |pairs: Vec<(String, Value)>| Value::Object(pairs.into_iter().collect());
    let leaf = prop_oneof![
        8 => vec(simple_keyword(), 1..4).prop_map(object),
        1 => any::<bool>().prop_map(Value::Bool),
        1 => Just(json!({ "$ref": "#/$defs/x" })),
    ];
    leaf.prop_recursive(3, 24, 3, move |inner| {
        let joining = vec(joining_keyword(inner.boxed()), 1..4);
        (joining, vec(simple_keyword(), 0..3)).prop_map(move |(mut pairs, simple)| {
            pairs.extend(simple);
            object(pairs)
        })
    })
}

fn whole() -> impl Strategy<Value = Value> {
    (part(), part()).prop_map(|(root, x)| json!({ "$defs": { "x": x }, "allOf": [root] }))
}

/// A schema of a few keywords, whose limits random values meet often.
fn flat() -> impl Strategy<Value = Value> {
    vec(simple_keyword(), 1..3).prop_map(|pairs| Value::Object(pairs.into_iter().collect()))
}

/// What is done to a schema to get another.
#[derive(Clone, Copy, Debug)]
enum Change {
    Add,
    Remove,
    /// An inclusive limit excludes, or the other way.
    Turn,
}

/// Changes a schema in one place, or in none.
fn changed(schema: &Value, place: usize, keyword: (String, Value), change: Change) -> Value {
    let mut places = Vec::new();
    collect_objects(schema, String::new(), &mut places);
    let mut changed = schema.clone();
    let Some(Value::Object(object)) = changed.pointer_mut(&places[place % places.len()]) else {
        return changed;
    };
    match change {
        Change::Add => drop(object.insert(keyword.0, keyword.1)),
        Change::Remove => {
            let name = object.keys().nth(place % object.len().max(1)).cloned();
            name.and_then(|name| object.remove(&name));
        }
        Change::Turn => {
            for (open, exclusive) in
                [("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")]
            {
                for (from, to) in [(open, exclusive), (exclusive, open)] {
                    if let Some(limit) = object.get(from).filter(|limit| limit.is_number()).cloned()
                    {
                        object.remove(from);
                        object.insert(to.to_owned(), limit);
                        return changed;
                    }
                }
            }
        }
    }
    changed
}

fn collect_objects(value: &Value, pointer: String, places: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, inner) in object {
                collect_objects(inner, format!("{pointer}/{name}"), places);
            }
            places.push(pointer);
        }
        Value::Array(list) => {
            for (index, inner) in list.iter().enumerate() {
                collect_objects(inner, format!("{pointer}/{index}"), places);
            }
        }
        _ => {}
    }
}

/// Two schemas: unrelated, or one a change of the other.
fn pair() -> impl Strategy<Value = (Value, Value)> {
    let change = select(vec![Change::Add, Change::Remove, Change::Turn]);
    let first = prop_oneof![2 => whole(), 1 => flat()];
    let related = (first, any::<usize>(), simple_keyword(), change, any::<bool>()).prop_map(
        |(schema, place, keyword, change, swaps)| {
            let other = changed(&schema, place, keyword, change);
            if swaps { (other, schema) } else { (schema, other) }
        },
    );
    prop_oneof![1 => (whole(), whole()), 1 => (flat(), flat()), 4 => related]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn no_value_contradicts_what_is_said_to_be_readable(
        (written, read) in pair(), values in vec(instance(), 64),
    ) {
        let pair = (Contract::new("t", 1, written.clone()), Contract::new("t", 2, read.clone()));
        let (Ok(old), Ok(new)) = pair else { return Ok(()) };
        let told = differences(&old, &new);
        for difference in &told {
            prop_assert!(difference.path.is_empty() || difference.path.starts_with('/'));
            prop_assert!(difference.what.contains(": "), "{}", difference);
        }
        if !told.is_empty() {
            return Ok(());
        }
        for value in values {
            let payload = value.to_string();
            let (was, is) = (old.check(payload.as_bytes()), new.check(payload.as_bytes()));
            prop_assert!(was.is_err() || is.is_ok(), "{written} -> {read} at {payload}: {is:?}");
        }
    }

    #[test]
    fn schema_is_fully_compatible_with_itself(schema in whole()) {
        if let (Ok(one), Ok(two)) = (Contract::new("t", 1, schema.clone()), Contract::new("t", 2, schema)) {
            prop_assert_eq!(Compatibility::of(&one, &two), Compatibility::Full);
        }
    }
}

/// As many as `PROPTEST_CASES` says, for a longer search by hand.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(128)
}
