//! Keywords of objects.

use serde_json::{Map, Value};

use super::comparison::Comparison;
use super::facts::{Facts, listed, named};
use super::side::Side;
use crate::contract::violation::quoted;

impl<'a> Comparison<'a> {
    pub(super) fn of_object_follows(
        &mut self,
        facts: &Facts<'a>,
        object: &'a Map<String, Value>,
        keyword: &'a str,
    ) -> bool {
        let value = &object[keyword];
        match keyword {
            "properties" => {
                let mut holds = true;
                for (name, schema) in named(object, "properties") {
                    let property = self.property(facts, name);
                    holds &= self.implies_within(name, &property, schema);
                }
                holds
            }
            "patternProperties" => {
                let mut holds = true;
                for (pattern, schema) in named(object, "patternProperties") {
                    holds &= self.pattern_follows(facts, pattern, schema);
                }
                holds
            }
            "additionalProperties" => self.others_follow(facts, object, value),
            "required" => {
                let mut holds = true;
                for name in listed(object, "required").iter().filter_map(Value::as_str) {
                    holds &= self.presence_follows(facts, name);
                }
                holds
            }
            "propertyNames" => {
                let names = Facts::new(&self.written, facts.all("propertyNames"));
                // A name is a string, whatever the schemas say.
                let names = names.of_strings();
                let holds =
                    self.within("*", |this| this.attempt(|this| this.implies(&names, value)));
                if !holds {
                    self.is_unknown(keyword, facts, value);
                }
                holds
            }
            "minProperties" => {
                let required = required(facts).len() as u64;
                let written = facts.at_least(keyword).unwrap_or(0).max(required);
                self.count_follows(keyword, Some(written), value)
            }
            "maxProperties" => {
                let closed = facts.objects().iter().filter_map(|object| closed_to(object)).min();
                let written = facts.at_most(keyword).into_iter().chain(closed).min();
                self.limit_follows(keyword, written, value)
            }
            "dependentRequired" => self.dependents_follow(facts, object),
            _ => {
                let mut holds = true;
                for (name, schema) in named(object, "dependentSchemas") {
                    holds &= self.dependent_schema_follows(facts, name, schema);
                }
                holds
            }
        }
    }

    /// What is known of a property, when it is there.
    pub(super) fn property(&self, facts: &Facts<'a>, name: &str) -> Facts<'a> {
        property(&self.written, facts, name)
    }

    fn presence_follows(&mut self, facts: &Facts<'a>, name: &str) -> bool {
        let holds = required(facts).contains(&name);
        if !holds {
            self.within(name, |this| this.differs("required", "optional", "required"));
        }
        holds
    }

    /// Properties that neither `properties` nor `patternProperties` of the reader name.
    fn others_follow(
        &mut self,
        facts: &Facts<'a>,
        object: &'a Map<String, Value>,
        schema: &'a Value,
    ) -> bool {
        let mut holds = true;
        let is_named = |this: &Self, name: &str| {
            named(object, "properties").any(|(other, _)| other == name)
                || named(object, "patternProperties")
                    .any(|(pattern, _)| this.read.matches(pattern, name) == Some(true))
        };
        for written in facts.objects().to_vec() {
            for (name, _) in named(written, "properties") {
                if !is_named(self, name) {
                    let property = self.property(facts, name);
                    holds &= self.implies_other(name, &property, schema);
                }
            }
            for (pattern, _) in named(written, "patternProperties") {
                if !named(object, "patternProperties").any(|(other, _)| other == pattern) {
                    let property = self.unnamed(facts, Some(pattern));
                    holds &= self.implies_other("*", &property, schema);
                }
            }
        }
        let property = self.unnamed(facts, None);
        holds & self.implies_other("*", &property, schema)
    }

    fn implies_other(&mut self, name: &str, property: &Facts<'a>, schema: &'a Value) -> bool {
        if *schema == Value::Bool(false) && !property.is_impossible() {
            self.within(name, |this| {
                this.differs("additionalProperties", "allowed", "not allowed");
            });
            return false;
        }
        self.implies_within(name, property, schema)
    }

    fn pattern_follows(&mut self, facts: &Facts<'a>, pattern: &str, schema: &'a Value) -> bool {
        let mut holds = true;
        for written in facts.objects().to_vec() {
            for (name, _) in named(written, "properties") {
                if self.read.matches(pattern, name) != Some(false) {
                    let property = self.property(facts, name);
                    holds &= self.implies_within(name, &property, schema);
                }
            }
        }
        let property = self.unnamed(facts, Some(pattern));
        holds & self.implies_within("*", &property, schema)
    }

    /// What is known of a property that no `properties` names: one that matches `pattern`, or
    /// none of the patterns that are written.
    fn unnamed(&self, facts: &Facts<'a>, pattern: Option<&str>) -> Facts<'a> {
        let mut schemas = Vec::new();
        for object in facts.objects() {
            let of_pattern = pattern.and_then(|pattern| {
                named(object, "patternProperties").find(|(other, _)| *other == pattern)
            });
            let may_match =
                pattern.is_some() && named(object, "patternProperties").next().is_some();
            if let Some((_, schema)) = of_pattern {
                schemas.push(schema);
            } else if !may_match {
                schemas.extend(object.get("additionalProperties"));
            }
        }
        Facts::new(&self.written, schemas)
    }

    fn dependents_follow(&mut self, facts: &Facts<'a>, object: &'a Map<String, Value>) -> bool {
        let mut holds = true;
        for (name, needed) in named(object, "dependentRequired") {
            if self.property(facts, name).is_impossible() {
                continue;
            }
            for needed in needed.as_array().into_iter().flatten().filter_map(Value::as_str) {
                let is_known = needed == name
                    || required(facts).contains(&needed)
                    || facts.objects().iter().any(|written| {
                        named(written, "dependentRequired").filter(|(other, _)| *other == name).any(
                            |(_, list)| {
                                list.as_array().is_some_and(|list| list.iter().any(|n| n == needed))
                            },
                        )
                    });
                if !is_known {
                    let read = format!("required beside {}", quoted(name));
                    self.within(needed, |this| {
                        this.differs("dependentRequired", "optional", &read);
                    });
                    holds = false;
                }
            }
        }
        holds
    }

    fn dependent_schema_follows(
        &mut self,
        facts: &Facts<'a>,
        name: &str,
        schema: &'a Value,
    ) -> bool {
        let is_known = self.property(facts, name).is_impossible()
            || facts.objects().iter().any(|written| {
                named(written, "dependentSchemas")
                    .any(|(other, written)| other == name && self.is_same(written, schema))
            })
            || self.attempt(|this| this.implies(facts, schema));
        if !is_known {
            self.within(name, |this| this.is_unknown("dependentSchemas", facts, schema));
        }
        is_known
    }
}

/// What `facts` say of a property, when it is there.
pub(super) fn property<'a>(side: &Side<'a>, facts: &Facts<'a>, name: &str) -> Facts<'a> {
    let mut schemas = Vec::new();
    for object in facts.objects() {
        let before = schemas.len();
        let is_named = |(other, schema): (&'a String, &'a Value)| (other == name).then_some(schema);
        schemas.extend(named(object, "properties").find_map(is_named));
        let mut may_match = false;
        for (pattern, schema) in named(object, "patternProperties") {
            match side.matches(pattern, name) {
                Some(true) => schemas.push(schema),
                Some(false) => {}
                None => may_match = true,
            }
        }
        if schemas.len() == before && !may_match {
            schemas.extend(object.get("additionalProperties"));
        }
    }
    Facts::new(side, schemas)
}

/// Names of properties that are there.
pub(super) fn required<'a>(facts: &Facts<'a>) -> Vec<&'a str> {
    let lists = facts.objects().iter().flat_map(|object| listed(object, "required"));
    let mut names: Vec<&str> = lists.filter_map(Value::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// How many properties an object has at most, when it names them all.
fn closed_to(object: &Map<String, Value>) -> Option<u64> {
    let is_closed = object.get("additionalProperties") == Some(&Value::Bool(false))
        && named(object, "patternProperties").next().is_none();
    is_closed.then(|| named(object, "properties").count() as u64)
}
