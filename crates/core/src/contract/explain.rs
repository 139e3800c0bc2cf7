//! Why a payload violates its contract: the place and the rule, never a value.
//!
//! The validator's own report on `anyOf` and `oneOf` collects the faults of all alternatives, which in
//! a recursive schema double with every level of the payload: a sender could stop a process with a
//! kilobyte. So the report comes from a second compilation, in which these keywords stand behind
//! `not` twice. That means the same and fails as one.

use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use jsonschema::{ValidationError, Validator};
use serde_json::{Map, Value, json};

use super::compile::options;
use super::document::walk;
use super::violation::{Violation, json as shown_json, quoted};

/// What tells the first violation of a payload that is known to be invalid.
pub(super) enum Explainer {
    /// The validator itself: no keyword has alternatives.
    Same,
    /// A compilation that means the same and collects nothing.
    Apart(Box<Validator>),
    /// Nothing: `unevaluatedProperties` and `unevaluatedItems` look into alternatives, so these
    /// cannot be set apart.
    Blind,
}

impl Explainer {
    pub(super) fn new(schema: &Value) -> Self {
        let mut has_alternatives = false;
        let mut looks_into_them = false;
        for (_, place) in walk(schema) {
            let has = |keyword| place.get(keyword).is_some();
            has_alternatives |= has("anyOf") || has("oneOf");
            looks_into_them |= has("unevaluatedItems") || has("unevaluatedProperties");
        }
        match (has_alternatives, looks_into_them) {
            (false, _) => Self::Same,
            (true, true) => Self::Blind,
            // Fails only where a reference names an alternative by its place.
            (true, false) => options()
                .build(&set_apart(schema))
                .map_or(Self::Blind, |validator| Self::Apart(Box::new(validator))),
        }
    }

    pub(super) fn explain(
        &self,
        schema: &Value,
        validator: &Validator,
        payload: &Value,
    ) -> Violation {
        let validator = match self {
            Self::Same => validator,
            Self::Apart(apart) => apart,
            Self::Blind => return unplaced(),
        };
        let Err(error) = validator.validate(payload) else { return unplaced() };
        let mut text = rule(&error);
        if let Kind::Not { schema: alternatives } = error.kind() {
            text += &hints(schema, alternatives, &error);
        }
        Violation::new(error.instance_path().as_str(), text)
    }
}

fn unplaced() -> Violation {
    Violation::new("", "not valid under the contract's alternatives (anyOf, oneOf)")
}

pub(super) fn no_body() -> Violation {
    Violation::new("", "is empty, and the contract requires a body")
}

pub(super) fn not_json(fault: &serde_json::Error) -> Violation {
    let (line, column) = (fault.line(), fault.column());
    Violation::new("", format!("is not JSON (line {line}, column {column})"))
}

/// The schema with `anyOf` and `oneOf` behind `not` twice.
fn set_apart(schema: &Value) -> Value {
    let mut apart = schema.clone();
    let mut pointers: Vec<String> = walk(schema).into_iter().map(|(pointer, _)| pointer).collect();
    // The innermost first: afterwards their pointers lead elsewhere.
    pointers.sort_unstable_by_key(|pointer| std::cmp::Reverse(pointer.matches('/').count()));
    for pointer in pointers {
        let Some(Value::Object(object)) = apart.pointer_mut(&pointer) else { continue };
        for keyword in ["anyOf", "oneOf"] {
            let Some(alternatives) = object.remove(keyword) else { continue };
            let behind = json!({ "not": { "not": { keyword: alternatives } } });
            match object.get_mut("allOf") {
                Some(Value::Array(all)) => all.push(behind),
                _ => drop(object.insert("allOf".to_owned(), Value::Array(vec![behind]))),
            }
        }
    }
    apart
}

/// The keyword and the list that [`set_apart`] put behind `not`.
fn alternatives(negated: &Value) -> Option<(&'static str, &Vec<Value>)> {
    let object = negated.get("not")?.as_object()?;
    let keyword = ["anyOf", "oneOf"].into_iter().find(|keyword| object.contains_key(*keyword))?;
    Some((keyword, object.get(keyword)?.as_array()?)).filter(|_| object.len() == 1)
}

/// What the first few alternatives find wrong at the place itself.
fn hints(schema: &Value, negated: &Value, error: &ValidationError<'_>) -> String {
    const SHOWN_MAX: usize = 4;
    let Some((_, list)) = alternatives(negated) else { return String::new() };
    let found = list.iter().enumerate().take(SHOWN_MAX).filter_map(|(index, alternative)| {
        let fault = fault_in_view(schema, alternative, error.instance())?;
        Some(format!("number {} {fault}", index + 1))
    });
    let found: Vec<String> = found.collect();
    if found.is_empty() { String::new() } else { format!(": {}", found.join(", ")) }
}

/// A fault that needs no look below the value: its type, or a property that it lacks or should not
/// have.
fn fault_in_view(schema: &Value, alternative: &Value, value: &Value) -> Option<String> {
    let named = |reference: &str| schema.pointer(reference.strip_prefix('#')?);
    let target = alternative.get("$ref").and_then(Value::as_str).and_then(named);
    let rules = target.unwrap_or(alternative).as_object()?;
    let in_view = ["type", "required"];
    let shallow: Map<String, Value> = rules
        .iter()
        .filter(|(keyword, _)| in_view.contains(&keyword.as_str()))
        .map(|(keyword, rule)| (keyword.clone(), rule.clone()))
        .collect();
    let validator = options().build(&Value::Object(shallow)).ok()?;
    let error = validator.validate(value).err()?;
    Some(rule(&error))
}

/// The rule that was broken, with the limit that the schema names.
pub(super) fn rule(error: &ValidationError<'_>) -> String {
    let items = |count: u64| if count == 1 { "item" } else { "items" };
    let characters = |count: u64| if count == 1 { "character" } else { "characters" };
    let properties = |count: u64| if count == 1 { "property" } else { "properties" };
    match error.kind() {
        Kind::Type { kind: TypeKind::Single(wanted) } => format!("not of type {wanted}"),
        Kind::Type { kind: TypeKind::Multiple(wanted) } => {
            let wanted: Vec<String> = wanted.iter().map(|wanted| wanted.to_string()).collect();
            format!("of none of the types {}", wanted.join(", "))
        }
        Kind::Required { property } => match property.as_str() {
            Some(name) => format!("lacks {}", quoted(name)),
            None => "lacks a property".to_owned(),
        },
        Kind::AdditionalProperties { unexpected } => match unexpected.first() {
            Some(name) => format!("holds {}, which the contract does not know", quoted(name)),
            None => "holds a property that the contract does not know".to_owned(),
        },
        Kind::UnevaluatedProperties { .. } => {
            "holds a property that the contract does not know".to_owned()
        }
        Kind::UnevaluatedItems { .. } => "holds an item that the contract does not know".to_owned(),
        Kind::AdditionalItems { limit } => format!("has more than {limit} items"),
        Kind::MinItems { limit } => format!("has fewer than {limit} {}", items(*limit)),
        Kind::MaxItems { limit } => format!("has more than {limit} {}", items(*limit)),
        Kind::UniqueItems => "has an item twice".to_owned(),
        Kind::Contains => "has too few or too many of the items that it must contain".to_owned(),
        Kind::MinLength { limit } => format!("shorter than {limit} {}", characters(*limit)),
        Kind::MaxLength { limit } => format!("longer than {limit} {}", characters(*limit)),
        Kind::MinProperties { limit } => {
            format!("has fewer than {limit} {}", properties(*limit))
        }
        Kind::MaxProperties { limit } => format!("has more than {limit} {}", properties(*limit)),
        Kind::Minimum { limit } => format!("less than the minimum of {}", shown_json(limit)),
        Kind::Maximum { limit } => format!("greater than the maximum of {}", shown_json(limit)),
        Kind::ExclusiveMinimum { limit } => format!("not greater than {}", shown_json(limit)),
        Kind::ExclusiveMaximum { limit } => format!("not less than {}", shown_json(limit)),
        Kind::MultipleOf { multiple_of } => format!("not a multiple of {multiple_of}"),
        Kind::Constant { expected_value } => format!("not {}", shown_json(expected_value)),
        Kind::Enum { options } => format!("not one of {}", shown_json(options)),
        Kind::Pattern { pattern } => format!("does not match the pattern {}", quoted(pattern)),
        Kind::Format { format } => format!("not of format {}", quoted(format)),
        // A closed object without any property of its own is reported as a whole.
        Kind::FalseSchema if error.schema_path().as_str().ends_with("/additionalProperties") => {
            "holds a property, and may hold none".to_owned()
        }
        Kind::FalseSchema => "not allowed here".to_owned(),
        Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } => {
            "none of what may stand there".to_owned()
        }
        Kind::PropertyNames { error } => {
            format!("has a property whose name is {}", rule(error))
        }
        Kind::Not { schema } => match alternatives(schema) {
            Some(("oneOf", list)) => {
                format!("valid under none or several of the {} in oneOf", list.len())
            }
            Some((_, list)) => format!("valid under none of the {} in anyOf", list.len()),
            None => "valid under what the contract excludes (not)".to_owned(),
        },
        kind => format!("not valid under {}", kind.keyword()),
    }
}
