//! Python 3.9 and later: a `TypedDict` for each object, an alias for everything else.
//!
//! `TypedDict` because that is what `json.loads` returns and type checkers follow, while a dataclass
//! would need code that converts. `NotRequired` came with 3.11, so optional properties stand in a
//! class of their own with `total=False`, which inherits the required ones. Properties whose
//! names are no identifiers take the functional form.

use serde_json::Value;

use super::model::{Body, Declaration, Field, Model, Shape};
use super::names::{is_identifier, string};
use super::text::{Text, lines};

/// Reserved words (the language reference, section 2.3.1).
const RESERVED: &[&str] = &[
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue",
    "def", "del", "elif", "else", "except", "finally", "for", "from", "global", "if", "import",
    "in", "is", "lambda", "nonlocal", "not", "or", "pass", "raise", "return", "try", "while",
    "with", "yield",
];

/// Names that the types themselves use: a property of that name would hide them in its class.
const USED: &[&str] =
    &["Any", "Dict", "List", "Literal", "TypedDict", "Union", "bool", "float", "int", "str"];

pub(super) fn write(model: &Model) -> String {
    let Model { topic, version, declarations } = model;
    // Two lines, so that no comment of the schema's stands where an encoding may be declared.
    let mut text = Text::default();
    text.add(format_args!(
        "# Types of contract {topic} version {version}, written by posthaste.\n\
         # For Python 3.9 and later.\n\
         from typing import Any, Dict, List, Literal, TypedDict, Union\n"
    ));
    for declaration in declarations {
        text.add(format_args!("\n\n{}", declared(declaration)));
    }
    text.done()
}

fn declared(declaration: &Declaration) -> String {
    let Declaration { name, notes, body } = declaration;
    let about = comment("", notes);
    let fields = match body {
        Body::Record(fields) => fields,
        Body::Alias(aliased) => return format!("{about}{name} = Union[{}]\n", shape(aliased)),
    };
    let (required, optional): (Vec<&Field>, Vec<&Field>) =
        fields.iter().partition(|field| field.is_required);
    match (required.is_empty(), optional.is_empty()) {
        (_, true) => dictionary(name, &about, &required, None, true),
        (true, false) => dictionary(name, &about, &optional, None, false),
        (false, false) => {
            let base = format!("_{name}Required");
            let first = dictionary(&base, "", &required, None, true);
            let second = dictionary(name, &about, &optional, Some(&base), false);
            format!("{first}\n\n{second}")
        }
    }
}

/// One class, in the form that its names allow.
fn dictionary(
    name: &str,
    about: &str,
    fields: &[&Field],
    base: Option<&str>,
    is_total: bool,
) -> String {
    let total = if is_total { "" } else { ", total=False" };
    if !fields.iter().all(|field| fits_a_class(&field.name)) {
        let Some(base) = base else {
            return format!("{about}{}", functional(name, fields, is_total));
        };
        let part = format!("_{name}Optional");
        let optional = functional(&part, fields, is_total);
        return format!("{optional}\n\n{about}class {name}({base}, {part}):\n    pass\n");
    }
    let mut text = Text::default();
    text.add(format_args!("{about}class {name}({}{total}):\n", base.unwrap_or("TypedDict")));
    for field in fields {
        let about = comment("    ", &field.notes);
        text.add(format_args!("{about}    {}: {}\n", field.name, shape(&field.shape)));
    }
    text.done()
}

/// Whether a property can stand in a class. Two leading underscores would be mangled.
fn fits_a_class(name: &str) -> bool {
    let is_taken = RESERVED.contains(&name) || USED.contains(&name);
    is_identifier(name) && !name.starts_with("__") && !is_taken
}

fn functional(name: &str, fields: &[&Field], is_total: bool) -> String {
    let mut text = Text::default();
    text.add(format_args!("{name} = TypedDict(\n    \"{name}\",\n    {{\n"));
    for field in fields {
        let about = comment("        ", &field.notes);
        let (name, kind) = (string(&field.name), shape(&field.shape));
        text.add(format_args!("{about}        {name}: {kind},\n"));
    }
    let total = if is_total { "" } else { "    total=False,\n" };
    text.add(format_args!("    }},\n{total})\n"));
    text.done()
}

/// Behind `#:`, a comment of the schema's is no directive to a type checker.
fn comment(indent: &str, notes: &[String]) -> String {
    lines(&format!("{indent}#: "), notes)
}

fn shape(of: &Shape) -> String {
    match of {
        Shape::Unknown => "Any".to_owned(),
        Shape::Null => "None".to_owned(),
        Shape::Boolean => "bool".to_owned(),
        Shape::Integer => "int".to_owned(),
        Shape::Number => "float".to_owned(),
        Shape::Text => "str".to_owned(),
        Shape::Literals(values) => literals(values),
        Shape::List(item) => format!("List[{}]", shape(item)),
        Shape::Map(value) => format!("Dict[str, {}]", shape(value)),
        // In quotes: it may be declared further down.
        Shape::Named(name) => format!("\"{name}\""),
        Shape::AnyOf(shapes) => {
            format!("Union[{}]", shapes.iter().map(shape).collect::<Vec<_>>().join(", "))
        }
    }
}

/// `Literal` knows strings, whole numbers, booleans and `None` (PEP 586).
fn literals(values: &[Value]) -> String {
    let literal = |value: &Value| match value {
        Value::Null => Some("None".to_owned()),
        Value::Bool(true) => Some("True".to_owned()),
        Value::Bool(false) => Some("False".to_owned()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        Value::String(text) => Some(string(text)),
        _ => None,
    };
    match values.iter().map(literal).collect::<Option<Vec<_>>>() {
        Some(all) if !all.is_empty() => format!("Literal[{}]", all.join(", ")),
        _ => "Any".to_owned(),
    }
}
