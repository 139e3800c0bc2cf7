//! One of two schemas that are compared: its document, and what its validator says of a value.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;

use jsonschema::{Registry, Resource, Validator};
use serde_json::{Value, json};

use crate::contract::compile::options;
use crate::contract::document::{Document, walk};

/// Where the schema stands in the registry of its own validators.
const URI: &str = "posthaste:///contract";

/// A schema and its validators, which are compiled when they are asked for.
pub(super) struct Side<'a> {
    pub(super) document: Document<'a>,
    pointers: HashMap<*const Value, String>,
    registry: Option<Registry<'static>>,
    validators: RefCell<HashMap<String, Option<Validator>>>,
    patterns: RefCell<HashMap<String, Option<Validator>>>,
}

impl<'a> Side<'a> {
    pub(super) fn new(schema: &'a Value) -> Self {
        let pointers =
            walk(schema).into_iter().map(|(pointer, place)| (std::ptr::from_ref(place), pointer));
        Self {
            document: Document::new(schema),
            pointers: pointers.collect(),
            registry: registry(schema),
            validators: RefCell::default(),
            patterns: RefCell::default(),
        }
    }

    /// Whether `value` is valid under a subschema; `None` where that cannot be told.
    pub(super) fn is_valid(&self, schema: &'a Value, value: &Value) -> Option<bool> {
        let pointer = self.pointers.get(&std::ptr::from_ref(schema))?;
        let mut validators = self.validators.borrow_mut();
        let validator = validators.entry(pointer.clone()).or_insert_with(|| {
            let reference = json!({ "$ref": format!("{URI}#{}", percent_encoded(pointer)) });
            options().with_registry(self.registry.as_ref()?).build(&reference).ok()
        });
        Some(validator.as_ref()?.is_valid(value))
    }

    /// Whether a pattern matches a property's name; `None` where that cannot be told.
    pub(super) fn matches(&self, pattern: &str, name: &str) -> Option<bool> {
        let mut patterns = self.patterns.borrow_mut();
        let validator = patterns
            .entry(pattern.to_owned())
            .or_insert_with(|| options().build(&json!({ "pattern": pattern })).ok());
        Some(validator.as_ref()?.is_valid(&Value::from(name)))
    }
}

/// The schema under [`URI`], whatever it calls itself.
fn registry(schema: &Value) -> Option<Registry<'static>> {
    let mut schema = schema.clone();
    if let Value::Object(object) = &mut schema {
        object.remove("$id");
    }
    let resource = Resource::from_contents(schema);
    Registry::new().add(URI, resource).ok()?.prepare().ok()
}

/// A JSON pointer as the fragment of a URI (RFC 6901, section 6).
fn percent_encoded(pointer: &str) -> String {
    let mut encoded = String::with_capacity(pointer.len());
    for byte in pointer.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            // Cannot fail: a string takes everything.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
