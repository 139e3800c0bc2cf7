//! Machines: every legal and every illegal step of random machines, and what their graphs say.

use std::collections::{BTreeMap, BTreeSet};

use posthaste_core::machine::{
    Definition, Finding, Machine, Refusal, Request, TransitionDefinition,
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Map, Value, json};

/// A machine of `n` states whose steps are drawn pair by pair, and those pairs.
fn machines() -> impl Strategy<Value = (Machine, BTreeSet<(usize, usize)>)> {
    (1_usize..7).prop_flat_map(|n| {
        let pairs = vec(any::<bool>(), n * n);
        let ends = vec(any::<bool>(), n);
        let begins = vec(any::<bool>(), n);
        (Just(n), pairs, begins, ends)
            .prop_map(|(n, pairs, begins, ends)| built(n, &pairs, &begins, &ends))
    })
}

fn built(
    n: usize,
    pairs: &[bool],
    begins: &[bool],
    ends: &[bool],
) -> (Machine, BTreeSet<(usize, usize)>) {
    let all = (0..n).flat_map(|from| (0..n).map(move |to| (from, to)));
    let legal: BTreeSet<(usize, usize)> =
        all.filter(|(from, to)| pairs[from * n + to] && !ends[*from]).collect();
    let of = |chosen: &[bool]| (0..n).filter(|state| chosen[*state]).map(name).collect::<Vec<_>>();
    let mut initial = of(begins);
    if initial.is_empty() {
        initial.push(name(0));
    }
    let definition = Definition {
        states: (0..n).map(name).collect(),
        initial,
        terminal: of(ends),
        transitions: legal
            .iter()
            .map(|(from, to)| TransitionDefinition::new([name(*from)], name(*to)))
            .collect(),
        ..Definition::new("random")
    };
    (Machine::try_from(definition).unwrap(), legal)
}

fn name(state: usize) -> String {
    format!("s{state}")
}

proptest! {
    #[test]
    fn every_step_is_taken_if_and_only_if_it_was_defined((machine, legal) in machines()) {
        let states: Vec<&str> = machine.states().collect();
        for (from, current) in states.iter().enumerate() {
            let expected: BTreeSet<&str> =
                legal.iter().filter(|step| step.0 == from).map(|step| states[step.1]).collect();
            for (to, wanted) in states.iter().enumerate() {
                let step = machine.step(current, Some(current), wanted, &Request::default());
                match step {
                    Ok(_) => prop_assert!(legal.contains(&(from, to))),
                    Err(Refusal::Illegal { allowed, .. }) => {
                        prop_assert!(!legal.contains(&(from, to)));
                        let allowed: BTreeSet<&str> = allowed.iter().map(String::as_str).collect();
                        prop_assert_eq!(&allowed, &expected);
                    }
                    Err(other) => prop_assert!(false, "{other}"),
                }
                if from != to {
                    let stale = machine.step(current, Some(wanted), wanted, &Request::default());
                    let is_moved = matches!(stale, Err(Refusal::Moved { .. }));
                    prop_assert!(is_moved);
                }
            }
            let unknown = machine.step(current, None, "elsewhere", &Request::default());
            let is_unknown = matches!(unknown, Err(Refusal::UnknownState { .. }));
            prop_assert!(is_unknown);
        }
    }

    /// Against walks through the defined steps, as long as the machine has states.
    #[test]
    fn findings_are_what_walks_find((machine, legal) in machines()) {
        let states: Vec<&str> = machine.states().collect();
        let reach = |begin: &dyn Fn(&str) -> bool| {
            let mut reached: Vec<bool> = states.iter().map(|state| begin(state)).collect();
            for _ in &states {
                for (from, to) in &legal {
                    reached[*to] = reached[*to] || reached[*from];
                }
            }
            reached
        };
        let from_start = reach(&|state| machine.start(state).is_ok());
        let has_terminal = states.iter().any(|state| machine.is_terminal(state));
        let findings: BTreeSet<Finding> = machine.findings().into_iter().collect();
        for (index, state) in states.iter().enumerate() {
            let is_unreachable = findings.contains(&Finding::Unreachable((*state).to_owned()));
            prop_assert_eq!(is_unreachable, !from_start[index], "{}", state);
            let from_here = reach(&|begin| begin == *state);
            let ends = |end: usize| if has_terminal {
                machine.is_terminal(states[end])
            } else {
                legal.iter().any(|step| step.0 == end)
            };
            let has_way_out = (0..states.len()).any(|end| from_here[end] && ends(end));
            let is_dead_end = findings.contains(&Finding::DeadEnd((*state).to_owned()));
            prop_assert_eq!(is_dead_end, !has_way_out, "{}", state);
        }
    }

    #[test]
    fn pictures_show_every_state_and_every_step((machine, legal) in machines()) {
        let (mermaid, svg) = (machine.mermaid(), machine.svg());
        let states = machine.states().count();
        let initial = machine.initial().count();
        let terminal = machine.states().filter(|state| machine.is_terminal(state)).count();
        prop_assert_eq!(mermaid.matches(" as s").count(), states);
        prop_assert_eq!(mermaid.matches(" --> ").count(), legal.len() + initial + terminal);
        prop_assert_eq!(svg.matches("<rect class=\"state").count(), states);
        prop_assert_eq!(svg.matches("marker-end").count(), legal.len());
        prop_assert!(!svg.contains("NaN"));
    }
}

fn guarded() -> Machine {
    let definition = Definition {
        states: ["asked", "granted"].map(str::to_owned).to_vec(),
        initial: vec!["asked".to_owned()],
        transitions: vec![TransitionDefinition {
            by: vec!["manager".to_owned()],
            requires: vec!["reason".to_owned()],
            equals: BTreeMap::from([
                ("approved".to_owned(), json!(true)),
                ("level".to_owned(), json!(2)),
            ]),
            messages: vec!["grants.given".to_owned()],
            ..TransitionDefinition::new(["asked"], "granted")
        }],
        ..Definition::new("grant")
    };
    Machine::try_from(definition).unwrap()
}

fn ask(by: Option<&str>, metadata: &Value) -> Result<Vec<String>, String> {
    let none = Map::new();
    let metadata = Some(metadata.as_object().unwrap_or(&none));
    let machine = guarded();
    let step = machine.step("asked", None, "granted", &Request { by, metadata });
    step.map(|rule| rule.messages.clone()).map_err(|refusal| refusal.to_string())
}

#[test]
fn step_with_guards_asks_for_who_and_what() {
    let good = json!({"reason": "holidays", "approved": true, "level": 2.0, "more": []});
    assert_eq!(ask(Some("manager"), &good), Ok(vec!["grants.given".to_owned()]));
    for (by, metadata, told) in [
        (Some("clerk"), good.clone(), "for manager"),
        (None, good.clone(), "for manager"),
        (Some("manager"), json!({"approved": true, "level": 2}), "asks for reason"),
        (Some("manager"), json!({"reason": null, "approved": true, "level": 2}), "asks for reason"),
        (
            Some("manager"),
            json!({"reason": "x", "approved": "true", "level": 2}),
            "approved = true",
        ),
        (Some("manager"), json!({"reason": "x", "approved": true, "level": 3}), "level = 2"),
    ] {
        let refusal = ask(by, &metadata).unwrap_err();
        assert!(refusal.contains(told), "{refusal}");
    }
}

#[test]
fn r24_illegal_step_is_refused_and_names_the_allowed_ones() {
    let machine = guarded();
    let refusal = machine.step("granted", None, "asked", &Request::default()).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "machine grant does not go from granted to asked; allowed: nothing"
    );
    let moved = machine.step("asked", Some("granted"), "granted", &Request::default());
    let moved = moved.unwrap_err().to_string();
    assert_eq!(moved, "the entity is in asked, not in granted; allowed from there: granted");
    let start = machine.start("granted").unwrap_err().to_string();
    assert_eq!(start, "machine grant does not begin in granted; allowed: asked");
}
