//! Whether a schema may be a contract, and its compilation.
//!
//! What is refused here is what the validator would fetch, take time or stack for without a bound,
//! or read in another way than the comparison of versions and the generators do.

use std::fmt;

use jsonschema::{Draft, PatternOptions, ValidationOptions};
use serde_json::{Map, Value};

use super::document::{ANNOTATIONS, Document, REFERENCES, in_place_depth};
use super::explain::{Explainer, rule};
use super::violation::{NAME_CHARS_MAX, quoted, shown};
use super::{Contract, SCHEMA_BYTES_MAX, SCHEMA_DEPTH_MAX};
use crate::limits::{Limits, check_topic};

/// The name of the one draft that contracts are written in.
pub(super) const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Most schemas that may judge one value through `allOf`, `$ref` and the like. A recursive schema
/// takes this chain of calls once per level of the payload, of which there are 127.
const IN_PLACE_DEPTH_MAX: usize = 16;

/// Keywords of earlier drafts that the validator still knows, and what replaces them.
const OUTDATED: &[(&str, &str)] = &[
    ("$recursiveAnchor", "$dynamicAnchor"),
    ("$recursiveRef", "$dynamicRef"),
    ("additionalItems", "items, with prefixItems"),
    ("dependencies", "dependentRequired or dependentSchemas"),
];

/// Largest automaton of one pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 1024 * 1024;

/// A schema that may not be a contract: where, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidContract {
    /// The topic, shortened.
    pub topic: String,
    /// The version.
    pub version: u32,
    /// A JSON pointer (RFC 6901) into the schema, empty for the whole.
    pub pointer: String,
    /// What is wrong there.
    pub fault: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for InvalidContract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, version, pointer, fault, remedy } = self;
        let place = if pointer.is_empty() { "its root" } else { pointer };
        write!(f, "contract {topic:?} version {version} is refused at {place}: {fault}; {remedy}")
    }
}

/// A fault at a place, before it is known of which contract.
struct Fault {
    pointer: String,
    what: String,
    remedy: String,
}

impl Fault {
    fn new(pointer: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { pointer: pointer.to_owned(), what: what.into(), remedy: remedy.into() }
    }
}

pub(super) fn compile(
    topic: String,
    version: u32,
    schema: Value,
) -> Result<Contract, InvalidContract> {
    let refused = |Fault { pointer, what, remedy }| InvalidContract {
        topic: shown(&topic, NAME_CHARS_MAX),
        version,
        pointer,
        fault: what,
        remedy,
    };
    check_name(&topic, version).map_err(refused)?;
    check_size(&schema).map_err(refused)?;
    check_document(&schema).map_err(refused)?;
    let validator = options().build(&schema).map_err(|error| refused(not_a_schema(&error)))?;
    let explainer = Explainer::new(&schema);
    let needs_body = demands_something(&schema);
    Ok(Contract { topic, version, schema, validator, explainer, needs_body })
}

/// How every schema here is compiled.
pub(super) fn options() -> ValidationOptions<'static> {
    let patterns =
        PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX);
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .offline()
        .should_validate_formats(true)
        .with_pattern_options(patterns)
}

fn check_name(topic: &str, version: u32) -> Result<(), Fault> {
    if let Err(error) = check_topic(topic, Limits::DEFAULT.topic_bytes) {
        return Err(Fault::new("", "its topic is not valid", format!("use {}", error.limit)));
    }
    if version == 0 {
        return Err(Fault::new("", "its version is 0", "count versions from 1"));
    }
    Ok(())
}

fn check_size(schema: &Value) -> Result<(), Fault> {
    if is_deeper(schema, SCHEMA_DEPTH_MAX) {
        let fault = format!("it nests deeper than {SCHEMA_DEPTH_MAX} levels");
        return Err(Fault::new("", fault, "move inner parts to $defs and refer to them"));
    }
    let mut size = ByteCount(0);
    // Cannot fail: the count takes everything.
    let _ = serde_json::to_writer(&mut size, schema);
    if size.0 > SCHEMA_BYTES_MAX {
        let fault = format!("it has {} bytes, more than {SCHEMA_BYTES_MAX}", size.0);
        return Err(Fault::new("", fault, "split the message, or check long lists elsewhere"));
    }
    Ok(())
}

/// Whether objects and arrays stand in each other more than `levels` times.
fn is_deeper(value: &Value, levels: usize) -> bool {
    let is_too_deep = |value: &Value| is_deeper(value, levels - 1);
    match value {
        Value::Array(_) | Value::Object(_) if levels == 0 => true,
        Value::Array(list) => list.iter().any(is_too_deep),
        Value::Object(object) => object.values().any(is_too_deep),
        _ => false,
    }
}

/// Counts what is written to it.
struct ByteCount(usize);

impl std::io::Write for ByteCount {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn check_document(schema: &Value) -> Result<(), Fault> {
    let document = Document::new(schema);
    for (pointer, place) in super::document::walk(schema) {
        let Value::Object(object) = place else { continue };
        check_dialect(&pointer, object)?;
        check_references(&pointer, object, &document)?;
        if !document.owns_its_anchors(place) {
            let fault = "its anchor names another place too";
            return Err(Fault::new(&pointer, fault, "give each anchor a name of its own"));
        }
    }
    match in_place_depth(&document) {
        None => Err(Fault::new(
            "",
            "a reference leads back to itself without going into a property or an item",
            "break the circle of $ref",
        )),
        Some(depth) if depth > IN_PLACE_DEPTH_MAX => Err(Fault::new(
            "",
            format!("{depth} schemas judge one value through $ref, allOf and the like"),
            format!("use at most {IN_PLACE_DEPTH_MAX}, by merging some"),
        )),
        Some(_) => Ok(()),
    }
}

/// One draft, and one base that references count from.
fn check_dialect(pointer: &str, object: &Map<String, Value>) -> Result<(), Fault> {
    if let Some(draft) = object.get("$schema") {
        let named = draft.as_str().unwrap_or_default();
        if named.strip_suffix('#').unwrap_or(named) != DRAFT {
            let fault = format!("$schema is {}", super::violation::json(draft));
            let remedy = format!("contracts are written in draft 2020-12: use {DRAFT:?}");
            return Err(Fault::new(&format!("{pointer}/$schema"), fault, remedy));
        }
    }
    for (keyword, replacement) in OUTDATED {
        if object.contains_key(*keyword) {
            let place = format!("{pointer}/{keyword}");
            let fault = format!("{keyword} is of an earlier draft");
            return Err(Fault::new(&place, fault, format!("use {replacement}")));
        }
    }
    if !pointer.is_empty() && object.contains_key("$id") {
        return Err(Fault::new(
            &format!("{pointer}/$id"),
            "$id inside a schema changes what references mean",
            "remove it, and refer to the place as #/$defs/…",
        ));
    }
    Ok(())
}

fn check_references(
    pointer: &str,
    object: &Map<String, Value>,
    document: &Document<'_>,
) -> Result<(), Fault> {
    for keyword in REFERENCES {
        let Some(reference) = object.get(*keyword).and_then(Value::as_str) else { continue };
        let place = format!("{pointer}/{keyword}");
        let named = quoted(reference);
        if !reference.starts_with('#') {
            let fault = format!("{named} is outside of this schema, and nothing is fetched");
            let remedy = "copy it into $defs and refer to #/$defs/…";
            return Err(Fault::new(&place, fault, remedy));
        }
        if document.resolve(reference).is_none() {
            let fault = format!("{named} names no schema here");
            return Err(Fault::new(&place, fault, "refer to #, #/$defs/… or an $anchor"));
        }
    }
    Ok(())
}

/// What the meta-schema, or a pattern's compilation, says.
fn not_a_schema(error: &jsonschema::ValidationError<'_>) -> Fault {
    let pointer = error.instance_path().as_str();
    let keyword = pointer.rsplit('/').next().unwrap_or_default();
    let is_pattern = keyword == "pattern" || pointer.contains("/patternProperties/");
    let remedy = if is_pattern {
        "use a regular expression without look-around and back-references, of moderate size"
    } else {
        "see https://json-schema.org/draft/2020-12 for what stands there"
    };
    let fault = match error.instance().as_ref() {
        Value::Object(_) | Value::Array(_) => rule(error),
        value => format!("{} is {}", super::violation::json(value), rule(error)),
    };
    Fault::new(&shown(pointer, super::PATH_BYTES_MAX), fault, remedy)
}

/// Whether some value could violate the schema, as far as its keywords tell.
fn demands_something(schema: &Value) -> bool {
    match schema {
        Value::Object(object) => {
            object.keys().any(|keyword| !ANNOTATIONS.contains(&keyword.as_str()))
        }
        other => *other != Value::Bool(true),
    }
}
