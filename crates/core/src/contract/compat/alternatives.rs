//! Keywords that join schemas: what follows from one of several, or from none.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::comparison::Comparison;
use super::facts::{Facts, listed};
use super::numbers::{Bound, compare};
use super::objects::{property, required};
use crate::contract::violation::json;

/// Most steps into a value in search of a part that excludes another.
const DISJOINT_DEPTH_MAX: u32 = 4;

impl<'a> Comparison<'a> {
    pub(super) fn alternatives_follow(
        &mut self,
        facts: &Facts<'a>,
        object: &'a Map<String, Value>,
        keyword: &'a str,
    ) -> bool {
        let value = &object[keyword];
        let list = listed(object, keyword);
        let stands_alone = ["anyOf", "oneOf", "not"].contains(&keyword);
        if stands_alone && self.is_written(facts, keyword, value) {
            return true;
        }
        let holds = match keyword {
            "allOf" => {
                let mut holds = true;
                for schema in list {
                    holds &= self.implies(facts, schema);
                }
                return holds;
            }
            "anyOf" => list.iter().any(|one| self.attempt(|this| this.implies(facts, one))),
            "oneOf" => (0..list.len()).any(|chosen| {
                self.attempt(|this| this.implies(facts, &list[chosen]))
                    && list.iter().enumerate().all(|(index, other)| {
                        index == chosen || self.excludes(facts, other, DISJOINT_DEPTH_MAX)
                    })
            }),
            "not" => self.excludes(facts, value, DISJOINT_DEPTH_MAX),
            _ => {
                let branches = ["then", "else"].into_iter().filter_map(|name| object.get(name));
                let branches: Vec<&Value> = branches.collect();
                self.is_known_condition(facts, object)
                    || branches.into_iter().all(|one| self.attempt(|this| this.implies(facts, one)))
            }
        };
        if !holds {
            self.report_alternatives(facts, keyword, value);
        }
        holds
    }

    fn report_alternatives(&mut self, facts: &Facts<'a>, keyword: &str, value: &Value) {
        match keyword {
            "anyOf" | "oneOf" => {
                let written = facts.objects().iter().find_map(|object| object.get(keyword));
                let written = written.map_or_else(|| facts.kinds().to_string(), json);
                let read = json(value);
                self.differs(keyword, &format!("cannot be compared: {written}"), &read);
            }
            _ => self.is_unknown(keyword, facts, value),
        }
    }

    /// Whether the same condition is written, with the same consequences.
    fn is_known_condition(&self, facts: &Facts<'a>, object: &'a Map<String, Value>) -> bool {
        facts.objects().iter().any(|written| {
            ["if", "then", "else"].into_iter().all(|name| {
                match (written.get(name), object.get(name)) {
                    (Some(written), Some(read)) => self.is_same(written, read),
                    // Where nothing follows, more may be written.
                    (_, None) => true,
                    (None, Some(_)) => false,
                }
            })
        })
    }

    /// Whether no value that keeps `facts` is valid under the reader's `schema`.
    fn excludes(&mut self, facts: &Facts<'a>, schema: &'a Value, depth: u32) -> bool {
        let read = Facts::new(&self.read, [schema]);
        self.are_disjoint(facts, &read, depth)
    }

    fn are_disjoint(&mut self, written: &Facts<'a>, read: &Facts<'a>, depth: u32) -> bool {
        if written.is_impossible()
            || read.is_impossible()
            || !written.kinds().meets(read.kinds())
            || self.have_no_value_in_common(written, read)
        {
            return true;
        }
        let kinds = written.kinds().and(read.kinds());
        if kinds.within(super::kinds::Kinds::NUMBER) && are_apart(written, read) {
            return true;
        }
        if depth == 0 {
            return false;
        }
        let is_object = kinds.within(super::kinds::Kinds::OBJECT);
        if is_object && self.have_a_disjoint_property(written, read, depth - 1) {
            return true;
        }
        if let Some(cases) = read.cases(&self.read) {
            return cases.iter().all(|case| self.are_disjoint(written, case, depth - 1));
        }
        if let Some(cases) = written.cases(&self.written) {
            return cases.iter().all(|case| self.are_disjoint(case, read, depth - 1));
        }
        false
    }

    /// Whether one of them lists its values, and none of these is valid under the other.
    fn have_no_value_in_common(&self, written: &Facts<'a>, read: &Facts<'a>) -> bool {
        let is_refused_when_read = |value: &Value| {
            read.schemas().iter().any(|one| self.read.is_valid(one, value) == Some(false))
        };
        let is_refused_when_written = |value: &Value| {
            written.schemas().iter().any(|one| self.written.is_valid(one, value) == Some(false))
        };
        written.values().is_some_and(|values| values.iter().all(is_refused_when_read))
            || read.values().is_some_and(|values| values.iter().all(is_refused_when_written))
    }

    /// Whether a property that must be there excludes them. Values are objects.
    fn have_a_disjoint_property(
        &mut self,
        written: &Facts<'a>,
        read: &Facts<'a>,
        depth: u32,
    ) -> bool {
        let mut names = required(written);
        names.extend(required(read));
        names.into_iter().any(|name| {
            let here = property(&self.written, written, name);
            let there = property(&self.read, read, name);
            self.are_disjoint(&here, &there, depth)
        })
    }
}

/// Whether two ranges of numbers have nothing in common.
fn are_apart(written: &Facts<'_>, read: &Facts<'_>) -> bool {
    let is_below = |upper: Option<Bound>, lower: Option<Bound>| {
        upper.zip(lower).is_some_and(|(upper, lower)| match compare(&upper.limit, &lower.limit) {
            Some(Ordering::Less) => true,
            Some(Ordering::Equal) => upper.is_exclusive || lower.is_exclusive,
            _ => false,
        })
    };
    is_below(written.upper(), read.lower()) || is_below(read.upper(), written.lower())
}
