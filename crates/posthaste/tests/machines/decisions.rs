//! The database decides as `posthaste::machine` does: every legal and every illegal step of random
//! machines, on both, with the same words.

use posthaste::machine::{Definition, Machine, Request, TransitionDefinition};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::{push, refused};
use crate::support;

const MACHINES: u64 = 25;
const WHO: [Option<&str>; 3] = [None, Some("api"), Some("worker")];

fn machine(random: &mut SmallRng, nth: u64) -> Machine {
    let n = random.random_range(1..6);
    let states: Vec<String> = (0..n).map(|state| format!("s{state}")).collect();
    let mut transitions = Vec::new();
    for from in &states {
        for to in &states {
            if random.random_bool(0.5) {
                let mut transition = TransitionDefinition::new([from.as_str()], to.as_str());
                if random.random_bool(0.3) {
                    transition.by = vec!["worker".to_owned()];
                }
                if random.random_bool(0.3) {
                    transition.requires = vec!["b".to_owned(), "a".to_owned()];
                }
                if random.random_bool(0.3) {
                    transition.equals.insert("level".to_owned(), json!(2));
                }
                transitions.push(transition);
            }
        }
    }
    let initial = states.iter().filter(|_| random.random_bool(0.6)).cloned().collect::<Vec<_>>();
    let initial = if initial.is_empty() { vec!["s0".to_owned()] } else { initial };
    let name = format!("random-{nth}");
    Machine::try_from(Definition { states, initial, transitions, ..Definition::new(name) }).unwrap()
}

fn metadata(random: &mut SmallRng) -> Value {
    let mut metadata = json!({});
    for (name, value) in [
        ("a", json!("x")),
        ("b", json!(null)),
        ("b", json!(0)),
        ("level", json!(2.0)),
        ("level", json!("2")),
    ] {
        if random.random_bool(0.5) {
            metadata[name] = value;
        }
    }
    metadata
}

/// What the database says, without changing anything.
async fn asked(
    client: &mut Client,
    call: &str,
    arguments: &[Option<String>],
) -> Result<Value, String> {
    let transaction = client.transaction().await.unwrap();
    let parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
        arguments.iter().map(|argument| argument as _).collect();
    let outcome = super::answer(transaction.client(), call, &parameters).await;
    transaction.rollback().await.unwrap();
    match outcome {
        Ok(answer) => Ok(answer["fsmState"].clone()),
        error => Err(refused(error).1),
    }
}

#[tokio::test]
async fn r24_database_and_library_decide_alike_about_every_step_of_random_machines() {
    let database = support::postgres().await;
    let mut client = database.connect().await;
    let mut random = SmallRng::seed_from_u64(24);
    let (mut legal, mut illegal) = (0, 0);
    for nth in 0..MACHINES {
        let machine = machine(&mut random, nth);
        push(&client, &machine).await.unwrap();
        let states: Vec<String> = machine.states().map(str::to_owned).collect();
        for from in states.iter().map(String::as_str).chain(["elsewhere"]) {
            let call = "select posthaste.start_machine($1::text, 'e', $2::text)::text";
            let arguments = [Some(machine.name().to_owned()), Some(from.to_owned())];
            let started = asked(&mut client, call, &arguments).await;
            let expected = machine.start(from).map(|()| json!(from)).map_err(|it| it.to_string());
            assert_eq!(started, expected);
            for to in states.iter().map(String::as_str).chain(["elsewhere"]) {
                let (by, metadata) = (WHO[random.random_range(0..3)], metadata(&mut random));
                let expects = random.random_bool(0.3).then(|| states[0].clone());
                let request = Request { by, metadata: metadata.as_object() };
                let rule = machine.step(from, expects.as_deref(), to, &request);
                let expected = rule.map(|_| json!(to)).map_err(|it| it.to_string());
                if from == "elsewhere" {
                    continue;
                }
                let place = "insert into posthaste.entity (machine, entity_id, state) values ($1, 'e', $2) \
                             on conflict (machine, entity_id) do update set state = excluded.state";
                client.execute(place, &[&machine.name(), &from]).await.unwrap();
                let call = "select posthaste.transition($1::text, 'e', $2::text, $3::text, \
                            initiated_by => $4::text, metadata => $5::text::jsonb)::text";
                let arguments = [
                    Some(machine.name().to_owned()),
                    Some(to.to_owned()),
                    expects,
                    by.map(str::to_owned),
                    Some(metadata.to_string()),
                ];
                let stepped = asked(&mut client, call, &arguments).await;
                assert_eq!(
                    stepped, expected,
                    "{machine:?} from {from} to {to} by {by:?} with {metadata}"
                );
                if stepped.is_ok() { legal += 1 } else { illegal += 1 }
            }
            client.execute("delete from posthaste.entity", &[]).await.unwrap();
        }
    }
    assert!(legal > 50 && illegal > 50, "{legal} legal and {illegal} illegal steps");
}
