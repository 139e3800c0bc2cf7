//! A schema as a document: where its subschemas stand, and what its references point at.
//!
//! The compiler's checks, the comparison of versions and the generators walk a schema through
//! this, so that none of them can reach a place that another has not looked at.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

/// How a keyword holds subschemas.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// One.
    One,
    /// A list of them.
    List,
    /// An object whose members are schemas.
    Named,
}

/// The keywords of draft 2020-12 that hold subschemas.
const HOLDERS: &[(&str, Holds)] = &[
    ("$defs", Holds::Named),
    ("additionalProperties", Holds::One),
    ("allOf", Holds::List),
    ("anyOf", Holds::List),
    ("contains", Holds::One),
    ("contentSchema", Holds::One),
    ("definitions", Holds::Named),
    ("dependentSchemas", Holds::Named),
    ("else", Holds::One),
    ("if", Holds::One),
    ("items", Holds::One),
    ("not", Holds::One),
    ("oneOf", Holds::List),
    ("patternProperties", Holds::Named),
    ("prefixItems", Holds::List),
    ("properties", Holds::Named),
    ("propertyNames", Holds::One),
    ("then", Holds::One),
    ("unevaluatedItems", Holds::One),
    ("unevaluatedProperties", Holds::One),
];

/// Keywords whose subschemas judge the same value as the schema that they stand in.
const IN_PLACE: &[&str] =
    &["allOf", "anyOf", "dependentSchemas", "else", "if", "not", "oneOf", "then"];

/// Keywords that name another schema.
pub(super) const REFERENCES: &[&str] = &["$ref", "$dynamicRef"];

/// Keywords that give a schema a name.
const ANCHORS: &[&str] = &["$anchor", "$dynamicAnchor"];

/// Keywords that say something about a schema and refuse no value.
pub(super) const ANNOTATIONS: &[&str] = &[
    "$anchor",
    "$comment",
    "$defs",
    "$dynamicAnchor",
    "$id",
    "$schema",
    "$vocabulary",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "default",
    "definitions",
    "deprecated",
    "description",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
];

/// A schema with its subschemas by JSON pointer and its anchors by name.
pub(super) struct Document<'a> {
    places: HashMap<String, &'a Value>,
    anchors: HashMap<&'a str, &'a Value>,
}

impl<'a> Document<'a> {
    pub(super) fn new(root: &'a Value) -> Self {
        let mut places = HashMap::new();
        let mut anchors = HashMap::new();
        for (pointer, schema) in walk(root) {
            for keyword in ANCHORS {
                if let Some(name) = schema.get(*keyword).and_then(Value::as_str) {
                    anchors.entry(name).or_insert(schema);
                }
            }
            places.insert(pointer, schema);
        }
        Self { places, anchors }
    }

    /// Whether `schema` is what its anchors name.
    pub(super) fn owns_its_anchors(&self, schema: &Value) -> bool {
        ANCHORS
            .iter()
            .filter_map(|keyword| schema.get(*keyword)?.as_str())
            .all(|name| self.anchors.get(name).is_some_and(|named| std::ptr::eq(*named, schema)))
    }

    /// The subschema at a JSON pointer.
    pub(super) fn at(&self, pointer: &str) -> Option<&'a Value> {
        self.places.get(pointer).copied()
    }

    /// The subschema that a reference names: `#`, `#/pointer` or `#anchor`.
    pub(super) fn resolve(&self, reference: &str) -> Option<&'a Value> {
        let fragment = percent_decoded(reference.strip_prefix('#')?)?;
        if fragment.is_empty() || fragment.starts_with('/') {
            self.at(&fragment)
        } else {
            self.anchors.get(fragment.as_str()).copied()
        }
    }

    /// The subschemas that judge the same value as `schema`, through references too.
    pub(super) fn in_place(&self, schema: &'a Value) -> Vec<&'a Value> {
        let Value::Object(object) = schema else { return Vec::new() };
        let held = held(object)
            .into_iter()
            .filter(|place| IN_PLACE.contains(&place.keyword))
            .map(|place| place.schema);
        held.chain(self.referenced(object)).collect()
    }

    /// What the references of `object` name.
    pub(super) fn referenced(&self, object: &'a Map<String, Value>) -> Vec<&'a Value> {
        let references = REFERENCES.iter().filter_map(|keyword| object.get(*keyword)?.as_str());
        references.filter_map(|reference| self.resolve(reference)).collect()
    }
}

/// How `keyword` holds subschemas, if it does.
pub(super) fn holds(keyword: &str) -> Option<Holds> {
    HOLDERS.iter().find(|(name, _)| *name == keyword).map(|(_, holds)| *holds)
}

/// Where one subschema stands in its parent.
pub(super) struct Held<'a> {
    pub(super) keyword: &'static str,
    /// The JSON pointer from the parent, with a leading slash.
    pub(super) pointer: String,
    pub(super) schema: &'a Value,
}

/// The subschemas that stand directly in `object`.
pub(super) fn held(object: &Map<String, Value>) -> Vec<Held<'_>> {
    let mut all = Vec::new();
    for (keyword, holds) in HOLDERS {
        let Some(value) = object.get(*keyword) else { continue };
        match (holds, value) {
            (Holds::One, schema) => {
                all.push(Held { keyword, pointer: format!("/{keyword}"), schema });
            }
            (Holds::List, Value::Array(list)) => {
                for (index, schema) in list.iter().enumerate() {
                    all.push(Held { keyword, pointer: format!("/{keyword}/{index}"), schema });
                }
            }
            (Holds::Named, Value::Object(named)) => {
                for (name, schema) in named {
                    let pointer = format!("/{keyword}/{}", escaped(name));
                    all.push(Held { keyword, pointer, schema });
                }
            }
            _ => {}
        }
    }
    all
}

/// Every subschema with its JSON pointer, the whole first.
pub(super) fn walk(root: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    let mut waiting = vec![(String::new(), root)];
    while let Some((pointer, schema)) = waiting.pop() {
        if let Value::Object(object) = schema {
            let inner = held(object).into_iter().rev();
            waiting
                .extend(inner.map(|place| (format!("{pointer}{}", place.pointer), place.schema)));
        }
        found.push((pointer, schema));
    }
    found
}

/// The longest chain of schemas that judge one value, or `None` when one leads back to itself.
pub(super) fn in_place_depth(document: &Document<'_>) -> Option<usize> {
    let mut depths: HashMap<*const Value, usize> = HashMap::new();
    let mut open: HashSet<*const Value> = HashSet::new();
    for schema in document.places.values() {
        // Not recursive: a chain may be as long as the document.
        let mut stack = vec![(*schema, document.in_place(schema), 0)];
        while let Some((schema, inner, next)) = stack.last_mut() {
            let address = std::ptr::from_ref::<Value>(schema);
            if depths.contains_key(&address) {
                stack.pop();
                continue;
            }
            open.insert(address);
            if let Some(child) = inner.get(*next).copied() {
                *next += 1;
                let child_address = std::ptr::from_ref(child);
                if open.contains(&child_address) {
                    return None;
                }
                if !depths.contains_key(&child_address) {
                    let inner = document.in_place(child);
                    stack.push((child, inner, 0));
                }
                continue;
            }
            let deepest = inner.iter().map(|child| depths[&std::ptr::from_ref(*child)]).max();
            depths.insert(address, deepest.map_or(1, |depth| depth + 1));
            open.remove(&address);
            stack.pop();
        }
    }
    depths.values().max().copied().or(Some(0))
}

/// A name as a token of a JSON pointer (RFC 6901).
pub(super) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Undoes the escapes of RFC 3986 in a fragment; `None` for one that is not valid.
fn percent_decoded(fragment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}
