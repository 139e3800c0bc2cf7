//! What is known of a value: all schemas that it is valid under.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::kinds::Kinds;
use super::numbers::{Bound, compare, count};
use super::side::Side;

/// Schemas that hold together for one value, with those that they hold in place.
#[derive(Clone)]
pub(super) struct Facts<'a> {
    /// As they were given, sorted by address, each once.
    schemas: Vec<&'a Value>,
    /// Their keywords, and those of what their `allOf` and references name.
    objects: Vec<&'a Map<String, Value>>,
    /// The types that one case of the value is about.
    case: Kinds,
    /// Lists of alternatives that a case was made of.
    split: Vec<*const Value>,
    is_impossible: bool,
}

/// The alternatives of a value: one of them holds.
pub(super) type Cases<'a> = Vec<Facts<'a>>;

impl<'a> Facts<'a> {
    pub(super) fn new(side: &Side<'a>, schemas: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut facts = Self {
            schemas: Vec::new(),
            objects: Vec::new(),
            case: Kinds::ALL,
            split: Vec::new(),
            is_impossible: false,
        };
        for schema in schemas {
            facts.add(side, schema);
        }
        facts
    }

    fn add(&mut self, side: &Side<'a>, schema: &'a Value) {
        let address = |schema: &&Value| std::ptr::from_ref::<Value>(schema);
        if let Err(place) = self.schemas.binary_search_by_key(&address(&schema), address) {
            self.schemas.insert(place, schema);
            self.flatten(side, schema);
        }
    }

    fn flatten(&mut self, side: &Side<'a>, schema: &'a Value) {
        match schema {
            Value::Bool(allowed) => self.is_impossible |= !allowed,
            Value::Object(object) if !self.objects.iter().any(|o| std::ptr::eq(*o, object)) => {
                self.objects.push(object);
                for inner in listed(object, "allOf") {
                    self.flatten(side, inner);
                }
                for inner in side.document.referenced(object) {
                    self.flatten(side, inner);
                }
            }
            _ => {}
        }
    }

    /// The same of strings only.
    pub(super) fn of_strings(self) -> Self {
        Self { case: self.case.and(Kinds::STRING), ..self }
    }

    pub(super) fn schemas(&self) -> &[&'a Value] {
        &self.schemas
    }

    pub(super) fn objects(&self) -> &[&'a Map<String, Value>] {
        &self.objects
    }

    /// What tells these facts from others.
    pub(super) fn key(&self) -> (Vec<*const Value>, Kinds) {
        (self.schemas.iter().map(|schema| std::ptr::from_ref(*schema)).collect(), self.case)
    }

    /// The values of a keyword, one for each schema that has it.
    pub(super) fn all(&self, keyword: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter_map(move |object| object.get(keyword))
    }

    /// Whether no value fits.
    pub(super) fn is_impossible(&self) -> bool {
        self.is_impossible || self.kinds().is_empty()
    }

    pub(super) fn kinds(&self) -> Kinds {
        let mut kinds = self.case;
        for value in self.all("type") {
            kinds = kinds.and(Kinds::of_keyword(value));
        }
        for value in self.all("const") {
            kinds = kinds.and(Kinds::of_value(value));
        }
        for value in self.all("enum").filter_map(Value::as_array) {
            let listed = value.iter().map(Kinds::of_value).fold(Kinds::NONE, Kinds::or);
            kinds = kinds.and(listed);
        }
        kinds
    }

    /// All values that may fit, where they can be counted.
    pub(super) fn values(&self) -> Option<Vec<Value>> {
        if let Some(only) = self.all("const").next() {
            return Some(vec![only.clone()]);
        }
        if let Some(Value::Array(few)) = self.all("enum").next() {
            return Some(few.clone());
        }
        let kinds = self.kinds();
        if !kinds.within(Kinds::NULL.or(Kinds::BOOLEAN)) {
            return None;
        }
        let all = [Value::Null, Value::Bool(false), Value::Bool(true)];
        Some(all.into_iter().filter(|value| Kinds::of_value(value).within(kinds)).collect())
    }

    /// The cases of the first alternatives that are not taken apart yet.
    pub(super) fn cases(&self, side: &Side<'a>) -> Option<Cases<'a>> {
        let (list, alternatives) = self.objects.iter().find_map(|object| {
            ["anyOf", "oneOf"].into_iter().find_map(|keyword| {
                let list = object.get(keyword)?;
                let is_new = !self.split.contains(&std::ptr::from_ref(list));
                Some((list, list.as_array()?)).filter(|_| is_new)
            })
        })?;
        let case = |alternative| {
            let mut case = self.clone();
            case.split.push(std::ptr::from_ref(list));
            case.add(side, alternative);
            case
        };
        Some(alternatives.iter().map(case).collect())
    }

    /// One case for each type, when there are several.
    pub(super) fn cases_by_type(&self) -> Option<Cases<'a>> {
        let kinds = self.kinds();
        let cases: Cases<'_> =
            kinds.each().map(|kind| Self { case: kind, ..self.clone() }).collect();
        (cases.len() > 1).then_some(cases)
    }

    /// The closest lower bound of the numbers.
    pub(super) fn lower(&self) -> Option<Bound> {
        let bound = self.bound("minimum", "exclusiveMinimum", Ordering::Greater)?;
        Some(if self.has_fractions() { bound } else { bound.of_whole(1) })
    }

    /// The closest upper bound of the numbers.
    pub(super) fn upper(&self) -> Option<Bound> {
        let bound = self.bound("maximum", "exclusiveMaximum", Ordering::Less)?;
        Some(if self.has_fractions() { bound } else { bound.of_whole(-1) })
    }

    fn has_fractions(&self) -> bool {
        !self.kinds().and(Kinds::NUMBER).within(Kinds::WHOLE)
    }

    fn bound(&self, open: &'a str, exclusive: &'a str, closer: Ordering) -> Option<Bound> {
        let bounds = [(open, false), (exclusive, true)].into_iter().flat_map(|(keyword, is)| {
            let limits = self.all(keyword).filter_map(Value::as_number);
            limits.map(move |limit| Bound { limit: limit.clone(), is_exclusive: is })
        });
        bounds.reduce(|best, other| {
            let order = compare(&other.limit, &best.limit);
            let is_closer =
                order == Some(closer) || (order == Some(Ordering::Equal) && other.is_exclusive);
            if is_closer { other } else { best }
        })
    }

    /// The greatest value of a keyword that counts, such as `minLength`.
    pub(super) fn at_least(&self, keyword: &'a str) -> Option<u64> {
        self.all(keyword).filter_map(count).max()
    }

    /// The smallest value of a keyword that counts, such as `maxLength`.
    pub(super) fn at_most(&self, keyword: &'a str) -> Option<u64> {
        self.all(keyword).filter_map(count).min()
    }
}

/// The members of a keyword that holds a list.
pub(super) fn listed<'a>(object: &'a Map<String, Value>, keyword: &str) -> &'a [Value] {
    object.get(keyword).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The members of a keyword that holds names.
pub(super) fn named<'a>(
    object: &'a Map<String, Value>,
    keyword: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.get(keyword).and_then(Value::as_object).into_iter().flatten()
}
