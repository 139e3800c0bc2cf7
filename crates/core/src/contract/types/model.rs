//! What all languages share: the types that a schema describes, with their names.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::names::{Names, pascal, pascal_part};
use crate::contract::Contract;
use crate::contract::document::{ANNOTATIONS, Document, REFERENCES};

/// The types of a contract, inner ones before those that hold them, the payload's last.
pub(super) struct Model {
    pub(super) topic: String,
    pub(super) version: u32,
    pub(super) declarations: Vec<Declaration>,
}

/// A type with a name.
pub(super) struct Declaration {
    pub(super) name: String,
    /// Lines about it.
    pub(super) notes: Vec<String>,
    pub(super) body: Body,
}

pub(super) enum Body {
    Record(Vec<Field>),
    Alias(Shape),
}

/// A property of a record.
pub(super) struct Field {
    pub(super) name: String,
    pub(super) shape: Shape,
    pub(super) is_required: bool,
    pub(super) notes: Vec<String>,
}

/// A type.
#[derive(Clone, PartialEq)]
pub(super) enum Shape {
    Unknown,
    Null,
    Boolean,
    Integer,
    Number,
    Text,
    Literals(Vec<Value>),
    List(Box<Shape>),
    Map(Box<Shape>),
    Named(String),
    AnyOf(Vec<Shape>),
}

impl Model {
    pub(super) fn new(contract: &Contract) -> Self {
        let schema = contract.schema();
        let title = schema.get("title").and_then(Value::as_str).map(pascal);
        let name =
            title.filter(|name| !name.is_empty()).unwrap_or_else(|| pascal(contract.topic()));
        let name = format!("{name}V{}", contract.version());
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic());
        let name = if starts_well { name } else { format!("T{name}") };
        let mut builder = Builder {
            document: Document::new(schema),
            root: name.clone(),
            names: Names::default(),
            named: HashMap::new(),
            declarations: Vec::new(),
        };
        builder.declare(schema, &name);
        let (topic, version) = (contract.topic().to_owned(), contract.version());
        Self { topic, version, declarations: builder.declarations }
    }
}

struct Builder<'a> {
    document: Document<'a>,
    root: String,
    names: Names,
    /// What references name, declared or under way.
    named: HashMap<*const Value, String>,
    declarations: Vec<Declaration>,
}

impl<'a> Builder<'a> {
    /// Declares a schema under a name of its own.
    fn declare(&mut self, schema: &'a Value, wanted: &str) -> String {
        let address = std::ptr::from_ref(schema);
        if let Some(name) = self.named.get(&address) {
            return name.clone();
        }
        let name = self.names.take(wanted);
        self.named.insert(address, name.clone());
        let mut notes = description(schema);
        let parts = self.parts(schema);
        let body = if is_record(&parts) {
            Body::Record(self.fields(&parts, &name, &mut notes))
        } else {
            Body::Alias(self.shape_of_parts(&parts, &name, &mut notes))
        };
        self.declarations.push(Declaration { name: name.clone(), notes, body });
        name
    }

    /// The type of a schema that stands at `name`; records get a declaration of that name.
    fn shape(&mut self, schema: &'a Value, name: &str, notes: &mut Vec<String>) -> Shape {
        if let Some((named, wanted)) = self.sole_reference(schema) {
            return Shape::Named(self.declare(named, &wanted));
        }
        let parts = self.parts(schema);
        if is_record(&parts) {
            return Shape::Named(self.declare(schema, name));
        }
        self.shape_of_parts(&parts, name, notes)
    }

    /// The schema that `schema` stands for, if it is a reference and nothing else, and its name.
    fn sole_reference(&self, schema: &Value) -> Option<(&'a Value, String)> {
        let says = |keyword: &&String| !ANNOTATIONS.contains(&keyword.as_str());
        let mut keywords = schema.as_object()?.keys().filter(says);
        let keyword = keywords.next().filter(|keyword| REFERENCES.contains(&keyword.as_str()))?;
        let reference = schema.get(keyword)?.as_str().filter(|_| keywords.next().is_none())?;
        let place = reference.trim_start_matches('#').trim_start_matches("/$defs/");
        let wanted = format!("{}{}", self.root, pascal_part(place));
        Some((self.document.resolve(reference)?, wanted))
    }

    /// All schemas that hold together with `schema`, itself first.
    fn parts(&self, schema: &'a Value) -> Vec<&'a Map<String, Value>> {
        let mut parts: Vec<&Map<String, Value>> = Vec::new();
        let mut waiting = vec![schema];
        while let Some(schema) = waiting.pop() {
            let Value::Object(object) = schema else { continue };
            if parts.iter().any(|part| std::ptr::eq(*part, object)) {
                continue;
            }
            parts.push(object);
            let all = object.get("allOf").and_then(Value::as_array).into_iter().flatten();
            let inner: Vec<&Value> =
                self.document.referenced(object).into_iter().chain(all).collect();
            waiting.extend(inner.into_iter().rev());
        }
        parts
    }

    fn fields(
        &mut self,
        parts: &[&'a Map<String, Value>],
        name: &str,
        notes: &mut Vec<String>,
    ) -> Vec<Field> {
        let mut required: Vec<&str> = Vec::new();
        for part in parts {
            let names = part.get("required").and_then(Value::as_array).into_iter().flatten();
            required.extend(names.filter_map(Value::as_str));
            if ["anyOf", "oneOf"].into_iter().any(|keyword| part.contains_key(keyword)) {
                notes.push("Not expressed: alternatives beside the properties.".to_owned());
            }
        }
        let mut fields: Vec<Field> = Vec::new();
        let all = parts.iter().filter_map(|part| part.get("properties")?.as_object()).flatten();
        for (property, schema) in all {
            if fields.iter().any(|field| field.name == *property) {
                continue;
            }
            let mut notes = description(schema);
            let shape = self.shape(schema, &format!("{name}{}", pascal_part(property)), &mut notes);
            let is_required = required.contains(&property.as_str());
            fields.push(Field { name: property.clone(), shape, is_required, notes });
        }
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        fields
    }

    fn shape_of_parts(
        &mut self,
        parts: &[&'a Map<String, Value>],
        name: &str,
        notes: &mut Vec<String>,
    ) -> Shape {
        let first = |keyword: &str| parts.iter().find_map(|part| part.get(keyword));
        if let Some(only) = first("const") {
            return Shape::Literals(vec![only.clone()]);
        }
        if let Some(Value::Array(values)) = first("enum") {
            return Shape::Literals(values.clone());
        }
        if let Some(Value::Array(list)) = first("anyOf").or_else(|| first("oneOf")) {
            let each = list.iter().enumerate();
            let shapes: Vec<Shape> = each
                .map(|(index, one)| self.shape(one, &format!("{name}Option{}", index + 1), notes))
                .collect();
            return any_of(shapes);
        }
        match first("type") {
            Some(Value::Array(types)) => {
                let types: Vec<&str> = types.iter().filter_map(Value::as_str).collect();
                any_of(types.iter().map(|kind| self.typed(kind, parts, name, notes)).collect())
            }
            Some(Value::String(kind)) => self.typed(kind, parts, name, notes),
            _ => {
                notes.push("Not expressed: the schema names no type.".to_owned());
                Shape::Unknown
            }
        }
    }

    /// The type that goes with a value of the keyword `type`.
    fn typed(
        &mut self,
        kind: &str,
        parts: &[&'a Map<String, Value>],
        name: &str,
        notes: &mut Vec<String>,
    ) -> Shape {
        let first = |keyword: &str| parts.iter().find_map(|part| part.get(keyword));
        match kind {
            "null" => Shape::Null,
            "boolean" => Shape::Boolean,
            "integer" => Shape::Integer,
            "number" => Shape::Number,
            "string" => Shape::Text,
            "array" if first("prefixItems").is_some() => {
                notes.push("Not expressed: items that differ by their place.".to_owned());
                Shape::List(Box::new(Shape::Unknown))
            }
            "array" => {
                let item = first("items").filter(|schema| schema.is_object());
                let item = item.map(|schema| self.shape(schema, &format!("{name}Item"), notes));
                Shape::List(Box::new(item.unwrap_or(Shape::Unknown)))
            }
            // A record that may be something else too.
            "object" if parts.iter().any(|part| has_properties(part)) => {
                let wanted = self.names.take(&format!("{name}Object"));
                let mut about = Vec::new();
                let body = Body::Record(self.fields(parts, &wanted, &mut about));
                self.declarations.push(Declaration { name: wanted.clone(), notes: about, body });
                Shape::Named(wanted)
            }
            _ => {
                let value = first("additionalProperties").filter(|schema| schema.is_object());
                let value = value.map(|schema| self.shape(schema, &format!("{name}Value"), notes));
                Shape::Map(Box::new(value.unwrap_or(Shape::Unknown)))
            }
        }
    }
}

/// Whether schemas together describe an object with properties of its own, and nothing else.
fn is_record(parts: &[&Map<String, Value>]) -> bool {
    let is_other = parts.iter().any(|part| match part.get("type") {
        Some(kind) => kind != "object",
        None => part.contains_key("const") || part.contains_key("enum"),
    });
    !is_other && parts.iter().any(|part| has_properties(part))
}

fn has_properties(part: &Map<String, Value>) -> bool {
    part.get("properties").and_then(Value::as_object).is_some_and(|named| !named.is_empty())
}

fn description(schema: &Value) -> Vec<String> {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    super::names::comment_lines(text)
}

/// Each alternative once; what may be anything is not worth a list.
fn any_of(shapes: Vec<Shape>) -> Shape {
    let mut each: Vec<Shape> = Vec::new();
    for shape in shapes {
        let inner = if let Shape::AnyOf(inner) = shape { inner } else { vec![shape] };
        for shape in inner {
            if !each.contains(&shape) {
                each.push(shape);
            }
        }
    }
    if each.contains(&Shape::Unknown) {
        return Shape::Unknown;
    }
    if each.len() == 1 { each.swap_remove(0) } else { Shape::AnyOf(each) }
}
