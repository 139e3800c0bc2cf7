//! How a machine is written down, and what must hold before it is one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Machine, Rule, STATES_MAX, STEPS_MAX};
use crate::{Limits, Message};

const NAME_BYTES_MAX: usize = 64;
/// Every state that is not terminal.
const ANY: &str = "*";

/// A machine as people write it.
///
/// # Examples
/// ```
/// use posthaste_core::machine::{Definition, Machine, TransitionDefinition};
///
/// let step = |from: &str, to: &str| TransitionDefinition::new([from], to);
/// let definition = Definition {
///     states: ["draft", "paid", "sent"].map(str::to_owned).to_vec(),
///     initial: vec!["draft".to_owned()],
///     terminal: vec!["sent".to_owned()],
///     transitions: vec![step("draft", "paid"), step("paid", "sent")],
///     ..Definition::new("order")
/// };
/// let machine = Machine::try_from(definition)?;
/// assert!(machine.steps("draft").any(|(to, _)| to == "paid"));
/// # Ok::<_, posthaste_core::machine::InvalidMachine>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// 1 to 64 lower-case letters, digits, `_` and `-`, beginning with a letter.
    pub name: String,
    /// What it is for, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The application's table that holds the entities. An entity must then have a row there, and
    /// what the machine knows of it goes when the row is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<EntityTable>,
    /// All states: 1 to 64 letters, digits, `.`, `_` and `-`, beginning with a letter or digit.
    pub states: Vec<String>,
    /// Where an entity may begin.
    pub initial: Vec<String>,
    /// Where it may end; nothing leads on from there.
    #[serde(default)]
    pub terminal: Vec<String>,
    /// What may follow what.
    #[serde(default)]
    pub transitions: Vec<TransitionDefinition>,
}

/// The application's table that holds a machine's entities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntityTable {
    /// `schema.table`.
    pub table: String,
    /// The column with the entity's id, which must be unique.
    pub key: String,
    /// The column with the id of the organisation that the entity belongs to. Requests of another
    /// one do not find it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
}

/// Steps to one state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransitionDefinition {
    /// States that it leads from; `*` stands for every state that is not terminal and has no
    /// transition of its own to `to`.
    pub from: OneOrMany,
    /// The state that it leads to.
    pub to: String,
    /// Who may take it; anybody if empty.
    #[serde(default)]
    pub by: Vec<String>,
    /// Members that the request's metadata must have, and not as null.
    #[serde(default)]
    pub requires: Vec<String>,
    /// Members that the metadata must have with these values: strings, booleans or whole numbers.
    #[serde(default)]
    pub equals: BTreeMap<String, Value>,
    /// Topics to which the step is written.
    #[serde(default)]
    pub messages: Vec<String>,
}

/// One name, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// A list.
    Many(Vec<String>),
}

/// What is wrong with a definition, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {place}: {fault}", if machine.is_empty() { "machine" } else { machine })]
pub struct InvalidMachine {
    /// The machine's name.
    pub machine: String,
    /// The part of the definition, such as `transitions[2].to`.
    pub place: String,
    /// What it must be, and what it is.
    pub fault: String,
}

impl Definition {
    /// A machine without states.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

impl TransitionDefinition {
    /// A step that anybody may take and that says nothing.
    pub fn new<S: Into<String>>(from: impl IntoIterator<Item = S>, to: impl Into<String>) -> Self {
        let from = OneOrMany::Many(from.into_iter().map(Into::into).collect());
        Self { from, to: to.into(), ..Self::default() }
    }
}

impl OneOrMany {
    fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl TryFrom<Definition> for Machine {
    type Error = InvalidMachine;

    /// # Errors
    /// Names the first part that is wrong, with the remedy.
    fn try_from(definition: Definition) -> Result<Self, InvalidMachine> {
        let check = Check(&definition);
        check.names()?;
        check.states()?;
        check.entity()?;
        let steps = check.steps()?;
        let Definition { name, description, entity, states, initial, terminal, .. } = definition;
        let (initial, terminal) = (initial.into_iter().collect(), terminal.into_iter().collect());
        Ok(Self { name, description, entity, states, initial, terminal, steps })
    }
}

/// A definition that is being checked.
struct Check<'a>(&'a Definition);

type Steps = BTreeMap<String, BTreeMap<String, Rule>>;

impl Check<'_> {
    fn fault(&self, place: impl fmt::Display, fault: impl Into<String>) -> InvalidMachine {
        let machine = self.0.name.clone();
        InvalidMachine { machine, place: place.to_string(), fault: fault.into() }
    }

    fn names(&self) -> Result<(), InvalidMachine> {
        let name = &self.0.name;
        let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
        let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase());
        if starts_well && name.len() <= NAME_BYTES_MAX && name.chars().all(is_letter) {
            return Ok(());
        }
        let rule = "must be 1 to 64 lower-case letters, digits, _ and -, beginning with a letter";
        Err(self.fault("name", format!("{rule}, not {name:?}")))
    }

    fn states(&self) -> Result<(), InvalidMachine> {
        let Definition { states, initial, terminal, .. } = self.0;
        if states.is_empty() || states.len() > STATES_MAX {
            let fault = format!("must name 1 to {STATES_MAX} states, not {}", states.len());
            return Err(self.fault("states", fault));
        }
        for (index, state) in states.iter().enumerate() {
            if !is_state_name(state) {
                let rule =
                    "must be 1 to 64 letters, digits, . _ and -, beginning with a letter or digit";
                return Err(
                    self.fault(format_args!("states[{index}]"), format!("{rule}, not {state:?}"))
                );
            }
            if states[..index].contains(state) {
                return Err(self.fault(
                    format_args!("states[{index}]"),
                    format!("{state:?} stands there twice"),
                ));
            }
        }
        if initial.is_empty() {
            return Err(self.fault("initial", "must name a state in which an entity may begin"));
        }
        for (place, names) in [("initial", initial), ("terminal", terminal)] {
            for (index, state) in names.iter().enumerate() {
                self.known(format_args!("{place}[{index}]"), state)?;
            }
        }
        Ok(())
    }

    fn known(&self, place: impl fmt::Display, state: &str) -> Result<(), InvalidMachine> {
        if self.0.states.iter().any(|known| known == state) {
            return Ok(());
        }
        Err(self.fault(place, format!("{state:?} is not one of the states")))
    }

    fn entity(&self) -> Result<(), InvalidMachine> {
        let Some(entity) = &self.0.entity else { return Ok(()) };
        let parts = entity.table.split('.').count();
        if parts != 2 || entity.table.split('.').any(|part| !is_identifier(part)) {
            let fault = format!("must be schema.table, not {:?}", entity.table);
            return Err(self.fault("entity.table", fault));
        }
        let columns = [
            ("entity.key", Some(&entity.key)),
            ("entity.organization", entity.organization.as_ref()),
        ];
        for (place, column) in columns {
            if let Some(column) = column.filter(|column| !is_identifier(column)) {
                return Err(
                    self.fault(place, format!("must be the name of a column, not {column:?}"))
                );
            }
        }
        Ok(())
    }

    fn steps(&self) -> Result<Steps, InvalidMachine> {
        let mut steps = Steps::new();
        let transitions = || self.0.transitions.iter().enumerate();
        for (index, transition) in transitions() {
            let rule = self.rule(index, transition)?;
            for from in transition.from.names().iter().filter(|from| *from != ANY) {
                self.known(format_args!("transitions[{index}].from"), from)?;
                if self.0.terminal.contains(from) {
                    let fault = format!("{from:?} is terminal: nothing leads on from there");
                    return Err(self.fault(format_args!("transitions[{index}].from"), fault));
                }
                let before = steps
                    .entry(from.clone())
                    .or_default()
                    .insert(transition.to.clone(), rule.clone());
                if before.is_some() {
                    let fault = format!(
                        "there is a transition from {from:?} to {:?} already",
                        transition.to
                    );
                    return Err(self.fault(format_args!("transitions[{index}]"), fault));
                }
            }
        }
        // What a transition of its own says goes before what is said of any state.
        for (index, transition) in
            transitions().filter(|(_, it)| it.from.names().iter().any(|from| from == ANY))
        {
            let rule = self.rule(index, transition)?;
            for from in &self.0.states {
                if !self.0.terminal.contains(from) && *from != transition.to {
                    let own = steps.entry(from.clone()).or_default();
                    own.entry(transition.to.clone()).or_insert_with(|| rule.clone());
                }
            }
        }
        let count: usize = steps.values().map(BTreeMap::len).sum();
        if count > STEPS_MAX {
            return Err(self
                .fault("transitions", format!("must be at most {STEPS_MAX} steps, not {count}")));
        }
        Ok(steps)
    }

    fn rule(
        &self,
        index: usize,
        transition: &TransitionDefinition,
    ) -> Result<Rule, InvalidMachine> {
        if transition.from.names().is_empty() {
            let fault = "must name the states that it leads from, or \"*\"";
            return Err(self.fault(format_args!("transitions[{index}].from"), fault));
        }
        self.known(format_args!("transitions[{index}].to"), &transition.to)?;
        for (member, value) in &transition.equals {
            if !(value.is_string() || value.is_boolean() || value.is_i64()) {
                let fault = "must be a string, a boolean or a whole number";
                return Err(self.fault(format_args!("transitions[{index}].equals.{member}"), fault));
            }
        }
        for topic in &transition.messages {
            if let Err(refused) = Limits::DEFAULT.check(&Message::new(topic.as_str())) {
                let fault = format!("must be {}, not {topic:?}", refused.limit);
                return Err(self.fault(format_args!("transitions[{index}].messages"), fault));
            }
        }
        let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
        Ok(Rule {
            by: set(&transition.by),
            requires: set(&transition.requires),
            equals: transition.equals.clone(),
            messages: transition.messages.clone(),
        })
    }
}

fn is_state_name(name: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    starts_well && name.len() <= NAME_BYTES_MAX && name.chars().all(is_letter)
}

/// An SQL identifier as it can be quoted: PostgreSQL cuts longer ones off.
fn is_identifier(name: &str) -> bool {
    !name.is_empty() && name.len() <= 63 && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Definition {
        Definition {
            states: ["draft", "paid", "sent", "cancelled"].map(str::to_owned).to_vec(),
            initial: vec!["draft".to_owned()],
            terminal: ["sent", "cancelled"].map(str::to_owned).to_vec(),
            transitions: vec![
                TransitionDefinition::new(["draft"], "paid"),
                TransitionDefinition::new(["paid"], "sent"),
                TransitionDefinition {
                    by: vec!["clerk".to_owned()],
                    ..TransitionDefinition::new(["paid"], "cancelled")
                },
                TransitionDefinition::new(["*"], "cancelled"),
            ],
            ..Definition::new("order")
        }
    }

    #[test]
    fn any_state_stands_for_those_that_say_nothing_themselves() {
        let machine = Machine::try_from(order()).unwrap();
        let steps =
            |from| machine.steps(from).map(|(to, rule)| (to, rule.by.len())).collect::<Vec<_>>();
        assert_eq!(steps("draft"), [("cancelled", 0), ("paid", 0)]);
        assert_eq!(steps("paid"), [("cancelled", 1), ("sent", 0)]);
        assert!(steps("sent").is_empty() && steps("cancelled").is_empty());
    }

    #[test]
    fn machine_survives_its_own_json() {
        let machine = Machine::try_from(order()).unwrap();
        let json = serde_json::to_string(&machine).unwrap();
        assert_eq!(serde_json::from_str::<Machine>(&json).unwrap(), machine);
    }

    #[test]
    fn each_fault_is_named_with_its_place() {
        type Break = fn(&mut Definition);
        let cases: [(&str, Break); 14] = [
            ("name", |it| it.name = "Order".to_owned()),
            ("states", |it| it.states.clear()),
            ("states[1]", |it| it.states[1] = "a b".to_owned()),
            ("states[1]", |it| it.states[1] = "draft".to_owned()),
            ("initial", |it| it.initial.clear()),
            ("initial[0]", |it| it.initial[0] = "lost".to_owned()),
            ("terminal[1]", |it| it.terminal[1] = "lost".to_owned()),
            ("transitions[0].from", |it| {
                it.transitions[0] = TransitionDefinition::new(["lost"], "paid");
            }),
            ("transitions[0].from", |it| {
                it.transitions[0] = TransitionDefinition::new(["sent"], "paid");
            }),
            ("transitions[0].from", |it| it.transitions[0].from = OneOrMany::default()),
            ("transitions[1].to", |it| it.transitions[1].to = "lost".to_owned()),
            ("transitions[1]", |it| it.transitions[1] = it.transitions[0].clone()),
            ("transitions[2].messages", |it| it.transitions[2].messages = vec!["a b".to_owned()]),
            ("transitions[2].equals.x", |it| {
                it.transitions[2].equals.insert("x".to_owned(), Value::Null);
            }),
        ];
        for (place, breaks) in cases {
            let mut definition = order();
            breaks(&mut definition);
            let error = Machine::try_from(definition).unwrap_err();
            assert_eq!(error.place, place, "{error}");
        }
        let entity = |table: &str, key: &str| EntityTable {
            table: table.to_owned(),
            key: key.to_owned(),
            organization: None,
        };
        for (entity, place) in [
            (entity("courses", "id"), "entity.table"),
            (entity("public.courses", ""), "entity.key"),
        ] {
            let definition = Definition { entity: Some(entity), ..order() };
            assert_eq!(Machine::try_from(definition).unwrap_err().place, place);
        }
    }
}
