//! Whether one keyword of a reader follows from what is known of the values.
//!
//! Keywords that nobody knows are annotations. A keyword that cannot be decided is reported as
//! such: its arm ends in `is_unknown`.

use std::cmp::Ordering;

use jsonschema::Draft;
use serde_json::{Map, Value};

use super::comparison::Comparison;
use super::facts::Facts;
use super::kinds::Kinds;
use super::numbers::{Bound, compare, count, divides};
use crate::contract::compile::options;
use crate::contract::violation::json;

impl<'a> Comparison<'a> {
    /// Whether `keyword` of the reader's `object` follows from `facts` without looking at cases.
    pub(super) fn follows(
        &mut self,
        facts: &Facts<'a>,
        object: &'a Map<String, Value>,
        keyword: &'a str,
    ) -> bool {
        let value = &object[keyword];
        let concerned = concerns(keyword);
        if !facts.kinds().meets(concerned) {
            return true;
        }
        match keyword {
            "type" => self.type_follows(facts, value),
            "const" | "enum" => {
                let written = facts.kinds().to_string();
                self.differs(keyword, &written, &json(value));
                false
            }
            "minimum" | "exclusiveMinimum" => {
                self.bound_follows(facts, keyword, value, Ordering::Greater)
            }
            "maximum" | "exclusiveMaximum" => {
                self.bound_follows(facts, keyword, value, Ordering::Less)
            }
            "multipleOf" => self.multiple_follows(facts, value),
            "minLength" => self.count_follows(keyword, facts.at_least(keyword), value),
            "maxLength" => self.limit_follows(keyword, facts.at_most(keyword), value),
            "pattern" => {
                let is_known = facts.all("pattern").any(|written| written == value);
                if !is_known {
                    self.is_unknown(keyword, facts, value);
                }
                is_known
            }
            "format" => self.format_follows(facts, value),
            "$ref" | "$dynamicRef" => {
                match self.read.document.resolve(value.as_str().unwrap_or_default()) {
                    Some(named) => self.implies(facts, named),
                    None => true,
                }
            }
            "allOf" | "anyOf" | "oneOf" | "not" | "if" => {
                self.alternatives_follow(facts, object, keyword)
            }
            "properties"
            | "patternProperties"
            | "additionalProperties"
            | "required"
            | "propertyNames"
            | "minProperties"
            | "maxProperties"
            | "dependentRequired"
            | "dependentSchemas" => self.of_object_follows(facts, object, keyword),
            "items" | "prefixItems" | "contains" | "uniqueItems" | "minItems" | "maxItems" => {
                self.of_array_follows(facts, object, keyword)
            }
            "unevaluatedItems" | "unevaluatedProperties" => {
                let allows_all = *value == Value::Bool(true);
                if !allows_all {
                    self.is_unknown(keyword, facts, value);
                }
                allows_all
            }
            // `then`, `else`, `minContains` and `maxContains` say nothing alone.
            _ => true,
        }
    }

    fn type_follows(&mut self, facts: &Facts<'a>, value: &Value) -> bool {
        let (written, read) = (facts.kinds(), Kinds::of_keyword(value));
        if !written.within(read) {
            self.differs("type", &written.to_string(), &read.to_string());
        }
        written.within(read)
    }

    fn bound_follows(
        &mut self,
        facts: &Facts<'a>,
        keyword: &str,
        value: &Value,
        closer: Ordering,
    ) -> bool {
        let Some(limit) = value.as_number() else { return true };
        let read = Bound { limit: limit.clone(), is_exclusive: keyword.starts_with("exclusive") };
        let written = if closer == Ordering::Greater { facts.lower() } else { facts.upper() };
        if written.as_ref().is_some_and(|written| written.keeps(&read, closer)) {
            return true;
        }
        match written {
            Some(written) if compare(&written.limit, limit).is_none() => {
                self.is_unknown(keyword, facts, value);
            }
            Some(Bound { limit, is_exclusive }) => {
                let end = if is_exclusive { " (excluded)" } else { "" };
                self.differs(keyword, &format!("{limit}{end}"), &json(value));
            }
            None => self.differs(keyword, "no limit", &json(value)),
        }
        false
    }

    fn multiple_follows(&mut self, facts: &Facts<'a>, value: &Value) -> bool {
        let is_whole = facts.kinds().and(Kinds::NUMBER).within(Kinds::WHOLE);
        let is_known = facts.all("multipleOf").any(|written| divides(value, written))
            || is_whole && value.as_u64() == Some(1);
        if !is_known {
            self.is_unknown("multipleOf", facts, value);
        }
        is_known
    }

    /// A keyword that asks for at least so many.
    pub(super) fn count_follows(
        &mut self,
        keyword: &str,
        written: Option<u64>,
        value: &Value,
    ) -> bool {
        let holds = count(value).is_some_and(|read| written.unwrap_or(0) >= read);
        if !holds {
            let written = written.map_or("no limit".to_owned(), |count| count.to_string());
            self.differs(keyword, &written, &json(value));
        }
        holds
    }

    /// A keyword that allows at most so many.
    pub(super) fn limit_follows(
        &mut self,
        keyword: &str,
        written: Option<u64>,
        value: &Value,
    ) -> bool {
        let holds = written.zip(count(value)).is_some_and(|(written, read)| written <= read);
        if !holds {
            let written = written.map_or("no limit".to_owned(), |limit| limit.to_string());
            self.differs(keyword, &written, &json(value));
        }
        holds
    }

    /// Formats that the validator does not know are annotations.
    fn format_follows(&mut self, facts: &Facts<'a>, value: &Value) -> bool {
        let name = value.as_str().unwrap_or_default();
        let is_asserted = options().is_known_format(Draft::Draft202012, name);
        let is_known = !is_asserted || facts.all("format").any(|written| written == value);
        if !is_known {
            self.is_unknown("format", facts, value);
        }
        is_known
    }
}

/// The types that a keyword says something about.
fn concerns(keyword: &str) -> Kinds {
    match keyword {
        "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum" | "multipleOf" => {
            Kinds::NUMBER
        }
        "minLength" | "maxLength" | "pattern" | "format" => Kinds::STRING,
        "properties"
        | "patternProperties"
        | "additionalProperties"
        | "required"
        | "propertyNames"
        | "minProperties"
        | "maxProperties"
        | "dependentRequired"
        | "dependentSchemas"
        | "unevaluatedProperties" => Kinds::OBJECT,
        "items" | "prefixItems" | "contains" | "uniqueItems" | "minItems" | "maxItems"
        | "unevaluatedItems" => Kinds::ARRAY,
        _ => Kinds::ALL,
    }
}
