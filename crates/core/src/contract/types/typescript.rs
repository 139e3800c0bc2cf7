//! TypeScript: an `interface` for each object, a `type` for everything else.

use serde_json::Value;

use super::model::{Body, Declaration, Model, Shape};
use super::names::{is_identifier, string};
use super::text::{Text, lines};

pub(super) fn write(model: &Model) -> String {
    let Model { topic, version, declarations } = model;
    let mut text = Text::default();
    text.add(format_args!(
        "// Types of contract {topic} version {version}, written by posthaste.\n"
    ));
    for declaration in declarations {
        text.add(format_args!("\n{}", declared(declaration)));
    }
    text.done()
}

fn declared(declaration: &Declaration) -> String {
    let Declaration { name, notes, body } = declaration;
    let about = comment("", notes);
    let fields = match body {
        Body::Record(fields) => fields,
        Body::Alias(aliased) => {
            return format!("{about}export type {name} = {};\n", shape(aliased));
        }
    };
    let mut text = Text::default();
    text.add(format_args!("{about}export interface {name} {{\n"));
    for field in fields {
        let name =
            if is_identifier(&field.name) { field.name.clone() } else { string(&field.name) };
        let mark = if field.is_required { "" } else { "?" };
        let about = comment("  ", &field.notes);
        text.add(format_args!("{about}  {name}{mark}: {};\n", shape(&field.shape)));
    }
    text.add(format_args!("}}\n"));
    text.done()
}

fn comment(indent: &str, notes: &[String]) -> String {
    match notes {
        [] => String::new(),
        [note] => format!("{indent}/** {note} */\n"),
        notes => {
            let lines = lines(&format!("{indent} * "), notes);
            format!("{indent}/**\n{lines}{indent} */\n")
        }
    }
}

fn shape(of: &Shape) -> String {
    match of {
        Shape::Unknown => "unknown".to_owned(),
        Shape::Null => "null".to_owned(),
        Shape::Boolean => "boolean".to_owned(),
        Shape::Integer | Shape::Number => "number".to_owned(),
        Shape::Text => "string".to_owned(),
        Shape::Literals(values) => joined(values.iter().map(literal)),
        Shape::List(item) => match item.as_ref() {
            Shape::AnyOf(_) | Shape::Literals(_) => format!("({})[]", shape(item)),
            item => format!("{}[]", shape(item)),
        },
        Shape::Map(value) => format!("{{ [name: string]: {} }}", shape(value)),
        Shape::Named(name) => name.clone(),
        Shape::AnyOf(shapes) => joined(shapes.iter().map(shape)),
    }
}

/// A value as its own type; of objects and lists the type is not told.
fn literal(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        Value::Array(_) | Value::Object(_) => "unknown /* a fixed value */".to_owned(),
        other => other.to_string(),
    }
}

fn joined(shapes: impl Iterator<Item = String>) -> String {
    shapes.collect::<Vec<_>>().join(" | ")
}
