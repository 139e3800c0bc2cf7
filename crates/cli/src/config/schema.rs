//! Reading a JSON Schema as a map of keys: which exist, what type each wants, its default and
//! its documentation. Covers what `schemars` makes of settings types, not the whole standard.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

use super::layers::Key;

/// A node of a schema document.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schema<'a> {
    root: &'a Value,
    node: &'a Value,
}

/// What type a key wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    Integer { low: i128, high: i128 },
    Number,
    Boolean,
    List,
    Table,
    Choice(Vec<String>),
    Any,
}

/// The schema document of a settings type.
pub(super) fn of<T: JsonSchema>() -> Value {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

impl<'a> Schema<'a> {
    /// The root of a document.
    pub(super) fn new(root: &'a Value) -> Self {
        Self { root, node: root }.resolved()
    }

    /// Follows references, and steps into the one real alternative of an optional value.
    fn resolved(mut self) -> Self {
        // A schema of settings nests a few levels; the bound only guards against a cycle.
        for _ in 0..16 {
            let target = self.node.get("$ref").and_then(Value::as_str);
            if let Some(pointer) = target.and_then(|target| target.strip_prefix('#')) {
                let Some(node) = self.root.pointer(pointer) else { break };
                self.node = node;
                continue;
            }
            match self.alternatives().as_slice() {
                [only] => self.node = only,
                _ => break,
            }
        }
        self
    }

    /// The alternatives of the node besides `null`.
    fn alternatives(&self) -> Vec<&'a Value> {
        let lists = ["anyOf", "oneOf", "allOf"].map(|name| self.node.get(name));
        let all = lists.into_iter().flatten().filter_map(Value::as_array).flatten();
        all.filter(|node| node.get("type").and_then(Value::as_str) != Some("null")).collect()
    }

    fn at(self, node: &'a Value) -> Self {
        Self { node, ..self }.resolved()
    }

    /// The node of a key of this table.
    pub(super) fn child(self, key: &str) -> Option<Self> {
        if let Some(node) = self.node.get("properties").and_then(|all| all.get(key)) {
            return Some(self.at(node));
        }
        let below = |node| self.at(node).child(key);
        if let Some(found) = self.alternatives().into_iter().find_map(below) {
            return Some(found);
        }
        match self.node.get("additionalProperties") {
            Some(node) if *node != Value::Bool(false) => Some(self.at(node)),
            // Without any word on keys, the node does not describe a table: anything goes.
            None if self.shape() == Shape::Any => Some(self),
            _ => None,
        }
    }

    /// The documentation of a key, which stands beside a reference rather than behind it.
    pub(super) fn about(self, key: &str) -> Option<&'a str> {
        let node = self.node.get("properties")?.get(key)?;
        let own = node.get("description").and_then(Value::as_str);
        own.or_else(|| self.at(node).node.get("description").and_then(Value::as_str))
    }

    /// The default of a key; `None` for a key without one.
    pub(super) fn default(self, key: &str) -> Option<&'a Value> {
        self.node.get("properties")?.get(key)?.get("default").filter(|value| !value.is_null())
    }

    /// Whether the value is a secret.
    pub(super) fn is_write_only(self) -> bool {
        self.node.get("writeOnly") == Some(&Value::Bool(true))
    }

    /// The keys of this table, in the order of the document.
    pub(super) fn keys(self) -> Vec<&'a str> {
        let own = self.node.get("properties").and_then(Value::as_object);
        let mut keys: Vec<&str> = own.into_iter().flatten().map(|(key, _)| key.as_str()).collect();
        for node in self.alternatives() {
            keys.extend(self.at(node).keys());
        }
        let mut seen = Vec::new();
        keys.retain(|key| {
            !seen.contains(key) && {
                seen.push(*key);
                true
            }
        });
        keys
    }

    /// The keys that must be there.
    pub(super) fn required(self) -> Vec<&'a str> {
        let required = self.node.get("required").and_then(Value::as_array);
        required.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The table of a map's values, whose keys are names that the user chooses.
    pub(super) fn of_each(self) -> Option<Self> {
        self.node.get("additionalProperties").filter(|node| node.is_object()).map(|it| self.at(it))
    }

    /// The choices with what each means.
    pub(super) fn choices(self) -> Vec<(&'a str, &'a str)> {
        let about = |node: &'a Value| node.get("description").and_then(Value::as_str).unwrap_or("");
        let plain = self.node.get("enum").and_then(Value::as_array).into_iter().flatten();
        let mut choices: Vec<_> = plain.filter_map(Value::as_str).map(|it| (it, "")).collect();
        let single = self.node.get("const").and_then(Value::as_str);
        choices.extend(single.map(|it| (it, about(self.node))));
        for node in self.alternatives() {
            choices.extend(self.at(node).choices());
        }
        choices
    }

    /// What type the node wants.
    pub(super) fn shape(self) -> Shape {
        let choices = self.choices();
        if !choices.is_empty() && self.keys().is_empty() {
            return Shape::Choice(choices.into_iter().map(|(name, _)| name.to_owned()).collect());
        }
        match self.type_name() {
            Some("string") => Shape::Text,
            Some("integer") => self.integer(),
            Some("number") => Shape::Number,
            Some("boolean") => Shape::Boolean,
            Some("array") => Shape::List,
            Some("object") => Shape::Table,
            _ if !self.keys().is_empty() => Shape::Table,
            _ => Shape::Any,
        }
    }

    fn type_name(self) -> Option<&'a str> {
        match self.node.get("type")? {
            Value::String(name) => Some(name),
            Value::Array(names) => names.iter().filter_map(Value::as_str).find(|it| *it != "null"),
            _ => None,
        }
    }

    fn integer(self) -> Shape {
        let bound = |name| self.node.get(name).and_then(Value::as_i64).map(i128::from);
        let (low, high) = match self.node.get("format").and_then(Value::as_str).unwrap_or("") {
            "uint8" => (0, i128::from(u8::MAX)),
            "uint16" => (0, i128::from(u16::MAX)),
            "uint32" => (0, i128::from(u32::MAX)),
            "uint" | "uint64" => (0, i128::from(u64::MAX)),
            "int32" => (i128::from(i32::MIN), i128::from(i32::MAX)),
            _ => (i128::from(i64::MIN), i128::from(i64::MAX)),
        };
        let (low, high) = (bound("minimum").unwrap_or(low), bound("maximum").unwrap_or(high));
        Shape::Integer { low, high }
    }

    /// The full keys of every setting that has a fixed name.
    pub(super) fn leaves(self) -> Vec<Key> {
        let mut leaves = Vec::new();
        for name in self.keys() {
            let Some(child) = self.child(name) else { continue };
            let below = child.leaves();
            if below.is_empty() && child.shape() != Shape::Table {
                leaves.push(vec![name.to_owned()]);
            }
            leaves.extend(below.into_iter().map(|rest| [vec![name.to_owned()], rest].concat()));
        }
        leaves
    }
}

impl Shape {
    /// Whether a value has this type, and what to say if it has not.
    pub(super) fn accepts(&self, value: &toml::Value) -> Result<(), String> {
        use toml::Value as V;
        let fits = match (self, value) {
            (Self::Any, _)
            | (Self::Text, V::String(_))
            | (Self::Number, V::Integer(_) | V::Float(_))
            | (Self::Boolean, V::Boolean(_))
            | (Self::List, V::Array(_))
            | (Self::Table, V::Table(_)) => true,
            (Self::Integer { low, high }, V::Integer(n)) => {
                (*low..=*high).contains(&i128::from(*n))
            }
            (Self::Choice(known), V::String(text)) => known.contains(text),
            _ => false,
        };
        if fits { Ok(()) } else { Err(format!("must be {}", self.wanted())) }
    }

    /// The type in words.
    pub(super) fn wanted(&self) -> String {
        match self {
            Self::Any => "any value".to_owned(),
            Self::Text => "text in quotes".to_owned(),
            Self::Integer { low, high } if *high >= i128::from(i64::MAX) && *low == 0 => {
                "a whole number, 0 or more".to_owned()
            }
            Self::Integer { high, .. } if *high >= i128::from(i64::MAX) => {
                "a whole number".to_owned()
            }
            Self::Integer { low, high } => format!("a whole number from {low} to {high}"),
            Self::Number => "a number".to_owned(),
            Self::Boolean => "true or false".to_owned(),
            Self::List => "a list such as [\"a\", \"b\"]".to_owned(),
            Self::Table => "a table with keys of its own".to_owned(),
            Self::Choice(known) => {
                let quoted: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
                match quoted.split_last() {
                    Some((last, rest)) if !rest.is_empty() => {
                        format!("{} or {last}", rest.join(", "))
                    }
                    _ => quoted.concat(),
                }
            }
        }
    }
}
