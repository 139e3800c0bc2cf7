//! The comparison as a whole: where it stands, what it has found, and why it ends.
//!
//! Recursive schemas come back to a pair that is under way. It is taken to hold there: no circle
//! of references stays at one value (the compiler refuses those), so between the two visits lies a step into a smaller
//! value, and the proof is one by induction over the size of values.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::facts::Facts;
use super::kinds::Kinds;
use super::side::Side;
use super::{DIFFERENCES_MAX, Difference};
use crate::contract::Contract;
use crate::contract::document::{ANNOTATIONS, Holds, REFERENCES, escaped, holds};
use crate::contract::violation::{PATH_BYTES_MAX, json, shown};

/// Most pairs of schemas that are looked at: alternatives of alternatives multiply.
const STEPS_MAX: u32 = 10_000;

/// Facts about what is written, and the schema that they are compared with.
type Pair = ((Vec<*const Value>, Kinds), *const Value);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Open,
    Holds,
    Fails,
}

pub(super) struct Comparison<'a> {
    pub(super) written: Side<'a>,
    pub(super) read: Side<'a>,
    contracts: (&'a Contract, &'a Contract),
    path: Vec<String>,
    found: Vec<Difference>,
    answers: HashMap<Pair, Answer>,
    /// Pairs in the order in which they were found to hold.
    held: Vec<Pair>,
    /// How many attempts are under way whose differences do not count.
    attempts: u32,
    steps: u32,
    same: RefCell<HashMap<(*const Value, *const Value), bool>>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(written: &'a Contract, read: &'a Contract) -> Self {
        Self {
            written: Side::new(written.schema()),
            read: Side::new(read.schema()),
            contracts: (written, read),
            path: Vec::new(),
            found: Vec::new(),
            answers: HashMap::new(),
            held: Vec::new(),
            attempts: 0,
            steps: 0,
            same: RefCell::default(),
        }
    }

    pub(super) fn run(mut self) -> Vec<Difference> {
        let (written, read) = self.contracts;
        if !written.needs_body() && read.needs_body() {
            self.report("body: may be empty when written, required when read");
        }
        let facts = Facts::new(&self.written, [written.schema()]);
        if !self.implies(&facts, read.schema()) && self.found.is_empty() {
            self.report("cannot be compared");
        }
        self.found
    }

    /// Whether every value that keeps `facts` is valid under `schema`. Where that is not certain, what
    /// is missing is reported.
    pub(super) fn implies(&mut self, facts: &Facts<'a>, schema: &'a Value) -> bool {
        let pair = (facts.key(), std::ptr::from_ref(schema));
        match self.answers.get(&pair) {
            Some(Answer::Open | Answer::Holds) => return true,
            Some(Answer::Fails) if self.attempts > 0 => return false,
            _ => {}
        }
        self.steps += 1;
        if self.steps > STEPS_MAX {
            self.report("cannot be compared: there are too many combinations of alternatives");
            return false;
        }
        let held = self.held.len();
        self.answers.insert(pair.clone(), Answer::Open);
        let holds = self.decide(facts, schema);
        if !holds {
            // What was found to hold in between may rest on this pair.
            for pair in self.held.split_off(held) {
                self.answers.remove(&pair);
            }
        }
        self.answers.insert(pair.clone(), if holds { Answer::Holds } else { Answer::Fails });
        if holds {
            self.held.push(pair);
        }
        holds
    }

    fn decide(&mut self, facts: &Facts<'a>, schema: &'a Value) -> bool {
        if facts.is_impossible() {
            return true;
        }
        let Value::Object(object) = schema else {
            if *schema == Value::Bool(false) {
                self.differs("false", "a value is allowed", "none is");
                return false;
            }
            return true;
        };
        if facts.schemas().iter().any(|written| self.is_same(written, schema)) {
            return true;
        }
        if let Some(values) = facts.values()
            && let Some(holds) = self.implies_for_each(facts, &values, schema)
        {
            return holds;
        }
        let mut holds = true;
        for keyword in object.keys() {
            holds &= self.implies_keyword(facts, object, keyword);
        }
        holds
    }

    /// The same for values that can be counted; `None` where the validator cannot be asked.
    fn implies_for_each(
        &mut self,
        facts: &Facts<'a>,
        values: &[Value],
        schema: &'a Value,
    ) -> Option<bool> {
        let mut holds = true;
        for value in values {
            let is_written = |fact: &&'a Value| self.written.is_valid(fact, value) != Some(false);
            if facts.schemas().iter().all(is_written) && !self.read.is_valid(schema, value)? {
                let rules = shown(&json(schema), PATH_BYTES_MAX);
                self.differs("value", &json(value), &format!("not valid under {rules}"));
                holds = false;
            }
        }
        Some(holds)
    }

    /// Whether one keyword follows, for all cases together or for each alone.
    pub(super) fn implies_keyword(
        &mut self,
        facts: &Facts<'a>,
        object: &'a Map<String, Value>,
        keyword: &'a str,
    ) -> bool {
        let before = self.found.len();
        if facts.is_impossible() || self.follows(facts, object, keyword) {
            return true;
        }
        let by_type = || ["anyOf", "oneOf"].contains(&keyword).then(|| facts.cases_by_type());
        let cases = facts.cases(&self.written).or_else(|| by_type().flatten());
        let Some(cases) = cases else { return false };
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return false;
        }
        self.found.truncate(before);
        let mut holds = true;
        for case in cases {
            holds &= self.implies_keyword(&case, object, keyword);
        }
        holds
    }

    /// Tries to prove something; what is missing is not reported.
    pub(super) fn attempt(&mut self, prove: impl FnOnce(&mut Self) -> bool) -> bool {
        let found = self.found.len();
        self.attempts += 1;
        let holds = prove(self);
        self.attempts -= 1;
        self.found.truncate(found);
        holds
    }

    /// The same, of a part of the value.
    pub(super) fn implies_within(
        &mut self,
        token: &str,
        facts: &Facts<'a>,
        schema: &'a Value,
    ) -> bool {
        self.path.push(escaped(token));
        let holds = self.implies(facts, schema);
        self.path.pop();
        holds
    }

    pub(super) fn within<T>(&mut self, token: &str, act: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(escaped(token));
        let result = act(self);
        self.path.pop();
        result
    }

    /// Reports what a keyword says where values are written and where they are read.
    pub(super) fn differs(&mut self, keyword: &str, written: &str, read: &str) {
        self.report(&format!("{keyword}: {written} when written, {read} when read"));
    }

    /// Reports that nothing can be said of a keyword.
    pub(super) fn is_unknown(&mut self, keyword: &str, facts: &Facts<'a>, read: &Value) {
        let written = facts.objects().iter().find_map(|object| object.get(keyword));
        let written = written.map_or("nothing".to_owned(), json);
        let read = json(read);
        self.report(&format!(
            "{keyword}: cannot be compared: {written} when written, {read} when read"
        ));
    }

    fn report(&mut self, what: &str) {
        let path: String = self.path.iter().flat_map(|token| ["/", token.as_str()]).collect();
        let difference = Difference { path, what: what.to_owned() };
        if self.found.len() < DIFFERENCES_MAX && !self.found.contains(&difference) {
            self.found.push(difference);
        }
    }

    /// Whether two schemas say the same in the same words, annotations and the names of their
    /// references aside.
    pub(super) fn is_same(&self, written: &'a Value, read: &'a Value) -> bool {
        let pair = (std::ptr::from_ref(written), std::ptr::from_ref(read));
        if let Some(is_same) = self.same.borrow().get(&pair) {
            return *is_same;
        }
        let is_same = self.is_same_from(written, read, &mut HashSet::new());
        self.same.borrow_mut().insert(pair, is_same);
        is_same
    }

    /// The same of one keyword of the reader's, which must not depend on others beside it.
    pub(super) fn is_written(&self, facts: &Facts<'a>, keyword: &str, read: &'a Value) -> bool {
        let written = facts.objects().iter().filter_map(|object| object.get(keyword));
        written
            .into_iter()
            .any(|value| self.is_same_member(keyword, value, read, &mut HashSet::new()))
    }

    fn is_same_from(
        &self,
        written: &'a Value,
        read: &'a Value,
        seen: &mut HashSet<(*const Value, *const Value)>,
    ) -> bool {
        if !seen.insert((std::ptr::from_ref(written), std::ptr::from_ref(read))) {
            return true;
        }
        let (Value::Object(a), Value::Object(b)) = (written, read) else { return written == read };
        let says = |keyword: &&String| !ANNOTATIONS.contains(&keyword.as_str());
        if !a.keys().filter(says).eq(b.keys().filter(says)) {
            return false;
        }
        a.iter().filter(|(keyword, _)| says(keyword)).all(|(keyword, value)| {
            let other = &b[keyword];
            if REFERENCES.contains(&keyword.as_str()) {
                let named = |side: &Side<'a>, name: &Value| side.document.resolve(name.as_str()?);
                return match (named(&self.written, value), named(&self.read, other)) {
                    (Some(a), Some(b)) => self.is_same_from(a, b, seen),
                    _ => false,
                };
            }
            self.is_same_member(keyword, value, other, seen)
        })
    }

    /// The same of a keyword's value, which may hold schemas.
    fn is_same_member(
        &self,
        keyword: &str,
        written: &'a Value,
        read: &'a Value,
        seen: &mut HashSet<(*const Value, *const Value)>,
    ) -> bool {
        match (holds(keyword), written, read) {
            (Some(Holds::One), a, b) => self.is_same_from(a, b, seen),
            (Some(Holds::List), Value::Array(a), Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.is_same_from(a, b, seen))
            }
            (Some(Holds::Named), Value::Object(a), Value::Object(b)) => {
                a.keys().eq(b.keys())
                    && a.iter().all(|(name, a)| self.is_same_from(a, &b[name], seen))
            }
            (_, a, b) => a == b,
        }
    }
}
