//! Keywords of arrays.

use serde_json::{Map, Value};

use super::comparison::Comparison;
use super::facts::{Facts, listed};
use super::numbers::count;

impl<'a> Comparison<'a> {
    pub(super) fn of_array_follows(
        &mut self,
        facts: &Facts<'a>,
        object: &'a Map<String, Value>,
        keyword: &'a str,
    ) -> bool {
        let value = &object[keyword];
        match keyword {
            "prefixItems" => {
                let mut holds = true;
                for (index, schema) in listed(object, "prefixItems").iter().enumerate() {
                    let item = self.item(facts, index);
                    holds &= self.implies_item(facts, index, &index.to_string(), &item, schema);
                }
                holds
            }
            "items" => self.items_follow(facts, object, value),
            "contains" => self.contains_follows(facts, object, value),
            "uniqueItems" => {
                let is_known = *value != Value::Bool(true)
                    || facts.all("uniqueItems").any(|written| *written == Value::Bool(true))
                    || longest(facts).is_some_and(|most| most <= 1);
                if !is_known {
                    self.differs("uniqueItems", "false", "true");
                }
                is_known
            }
            "minItems" => self.count_follows(keyword, facts.at_least(keyword), value),
            _ => self.limit_follows(keyword, longest(facts), value),
        }
    }

    /// The items after those that `prefixItems` of the reader judges.
    fn items_follow(
        &mut self,
        facts: &Facts<'a>,
        object: &'a Map<String, Value>,
        schema: &'a Value,
    ) -> bool {
        let first = listed(object, "prefixItems").len();
        let prefixes = facts.objects().iter().map(|object| listed(object, "prefixItems").len());
        let rest = prefixes.max().unwrap_or(0).max(first);
        let mut holds = true;
        for index in first..rest {
            let item = self.item(facts, index);
            holds &= self.implies_item(facts, index, &index.to_string(), &item, schema);
        }
        let item = self.item(facts, rest);
        holds & self.implies_item(facts, rest, "*", &item, schema)
    }

    fn implies_item(
        &mut self,
        facts: &Facts<'a>,
        index: usize,
        token: &str,
        item: &Facts<'a>,
        schema: &'a Value,
    ) -> bool {
        let is_there = longest(facts).is_none_or(|most| most > index as u64);
        if !is_there || item.is_impossible() {
            return true;
        }
        if *schema == Value::Bool(false) {
            self.within(token, |this| this.differs("items", "allowed", "not allowed"));
            return false;
        }
        self.implies_within(token, item, schema)
    }

    /// What is known of the item at `index`, when it is there.
    fn item(&self, facts: &Facts<'a>, index: usize) -> Facts<'a> {
        let schemas = facts.objects().iter().filter_map(|object| {
            listed(object, "prefixItems").get(index).or_else(|| object.get("items"))
        });
        Facts::new(&self.written, schemas)
    }

    fn contains_follows(
        &mut self,
        facts: &Facts<'a>,
        object: &'a Map<String, Value>,
        schema: &'a Value,
    ) -> bool {
        let least = object.get("minContains").map_or(Some(1), count);
        let most = object.get("maxContains");
        let is_enough = least == Some(0)
            || facts.objects().to_vec().into_iter().any(|written| {
                let Some(contained) = written.get("contains") else { return false };
                let contained = Facts::new(&self.written, [contained]);
                let written_least = written.get("minContains").map_or(Some(1), count);
                written_least.zip(least).is_some_and(|(written, read)| written >= read)
                    && self
                        .attempt(|this| this.within("*", |this| this.implies(&contained, schema)))
            });
        let is_few = most.is_none_or(|most| {
            let Some(most) = count(most) else { return false };
            longest(facts).is_some_and(|longest| longest <= most)
                || facts.objects().iter().any(|written| {
                    let is_same =
                        written.get("contains").is_some_and(|other| self.is_same(other, schema));
                    let written = written.get("maxContains").and_then(count);
                    is_same && written.is_some_and(|written| written <= most)
                })
        });
        if !is_enough || !is_few {
            self.is_unknown("contains", facts, schema);
        }
        is_enough && is_few
    }
}

/// The most items that an array has.
fn longest(facts: &Facts<'_>) -> Option<u64> {
    let closed = facts.objects().iter().filter_map(|object| {
        let is_closed = object.get("items") == Some(&Value::Bool(false));
        is_closed.then(|| listed(object, "prefixItems").len() as u64)
    });
    facts.at_most("maxItems").into_iter().chain(closed).min()
}
