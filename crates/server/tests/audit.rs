//! Everything that is done by hand over HTTP stands in the audit trail: once, under the token's name.

use std::collections::BTreeSet;

use posthaste_server::{Access, Scope, routes};
use posthaste_testkit::eventually_async;
use serde_json::{Value, json};

use crate::support::{Answer, LIMIT, Place, on_both_stores, world::World};

on_both_stores! {
    every_route_that_operates_leaves_one_row_of_its_caller_and_none_where_it_changes_nothing,
}

/// Path, body, and the problem that it is answered with.
type Refused = (String, Value, u16, &'static str);

/// What a route does.
struct Act {
    route: &'static str,
    /// What its rows say it did.
    actions: &'static [&'static str],
    /// Whom they name.
    about: String,
    /// Requests of its own that it refuses.
    refused: Vec<Refused>,
}

const CANCEL: &str = "/api/v1/operations/{id}/cancel";
const RETRY: &str = "/api/v1/jobs/{id}/retry";
const TRANSITION: &str = "/api/v1/machines/{name}/entities/{id}/transition";

/// All of them, in an order in which none is in another's way.
fn acts(world: &World) -> Vec<Act> {
    let World { job, over, message, operation, dead, .. } = world;
    let (all_of_it, one) = (dead.ids[0].to_string(), dead.ids[1].to_string());
    let acts: [(_, &[_], _); 13] = [
        ("/api/v1/jobs/{id}/cancel", &["cancel-job"], job.as_str()),
        (RETRY, &["retry-job"], over),
        ("/api/v1/messages/{id}/cancel", &["cancel"], message),
        ("/api/v1/subscriptions/{name}/pause", &["pause"], "orders"),
        ("/api/v1/subscriptions/{name}/resume", &["resume"], "orders"),
        ("/api/v1/subscriptions/{name}/replay", &["replay"; 2], "orders"),
        ("/api/v1/dead-letters/replay", &["replay dead letters"; 2], &all_of_it),
        ("/api/v1/dead-letters/discard", &["discard dead letters"; 2], &one),
        ("/api/v1/dead-letters/{subscription}/{id}/replay", &["replay dead letters"], "orders"),
        ("/api/v1/dead-letters/{subscription}/{id}/discard", &["discard dead letters"], "orders"),
        // It ends the operation, which says so itself.
        (CANCEL, &["cancel operation", "replay dead letters"], operation),
        (TRANSITION, &["transition"], "o/1"),
        // What is behind its place is published again: the last one.
        ("/api/v1/subscriptions/{name}/rewind", &["rewind"], "orders"),
    ];
    let act = |(route, actions, about): (_, _, &str)| Act {
        route,
        actions,
        about: about.to_owned(),
        refused: refused(world, route),
    };
    acts.into_iter().map(act).collect()
}

fn refused(world: &World, route: &str) -> Vec<Refused> {
    let unknown = |code| (World::nowhere(route), world.body(route), 404, code);
    let of = |id: &str| route.replace("{id}", id);
    let own = |body| (world.path(route), body, 422, "invalid-field");
    let nothing = json!({});
    match route {
        "/api/v1/jobs/{id}/cancel" => {
            vec![unknown("no-job"), (of(&world.over), nothing, 409, "job-state")]
        }
        RETRY => vec![
            unknown("no-job"),
            own(json!({ "attempts": 0 })),
            (of(&world.waiting), nothing, 409, "job-state"),
        ],
        "/api/v1/messages/{id}/cancel" => {
            vec![unknown("no-message"), (of(&world.logged), nothing, 409, "message-state")]
        }
        CANCEL => vec![unknown("no-operation"), (of(&world.done), nothing, 409, "operation-state")],
        TRANSITION => {
            let illegal = (world.path(route), json!({ "to": "sent" }), 409, "illegal-step");
            vec![unknown("no-machine"), illegal, own(json!({ "to": "" }))]
        }
        "/api/v1/subscriptions/{name}/replay" => {
            vec![unknown("no-subscription"), own(json!({ "all": true, "to": "nobody" }))]
        }
        "/api/v1/subscriptions/{name}/rewind" => {
            vec![unknown("no-subscription"), own(json!({ "to": "nowhere" }))]
        }
        path if path.starts_with("/api/v1/subscriptions") => vec![unknown("no-subscription")],
        path if path.contains("{id}") => vec![unknown("no-dead-letter")],
        _ => vec![own(nothing), own(json!({ "ids": [] }))],
    }
}

async fn every_route_that_operates_leaves_one_row_of_its_caller_and_none_where_it_changes_nothing(
    place: Place,
) {
    let world = World::on(&place).await;
    let acts = acts(&world);
    let is_of_operators = |access| {
        matches!(
            access,
            Access::Scope(Scope::Operate)
                | Access::Whole(Scope::Operate)
                | Access::Entities(Scope::Operate)
        )
    };
    let table = routes().into_iter().filter(|route| is_of_operators(route.access));
    let table: BTreeSet<String> = table.map(|route| route.path).collect();
    let covered: BTreeSet<String> = acts.iter().map(|act| act.route.to_owned()).collect();
    assert_eq!(table, covered, "each route that operates has an act here");
    for act in acts {
        leaves_its_rows(&world, &act).await;
    }
    world.ends().await;
}

/// Sends a request, and answers the rows that it has left as well.
async fn sent(world: &World, secret: &str, path: &str, body: &Value) -> (Answer, Vec<Value>) {
    let before = world.trail().await;
    let answer = world.post_as(secret, path, body.to_string().as_bytes()).await;
    // What runs in the background says when it is over.
    let running = match answer.status {
        202 => answer.json()["id"].as_str().map(str::to_owned),
        200 if path.contains("/operations/") => Some(world.operation.clone()),
        _ => None,
    };
    if let Some(id) = running.filter(|_| !body["dry_run"].as_bool().unwrap_or_default()) {
        let is_over = async || world.is_over(&id).await;
        eventually_async("the operation to be over", LIMIT, is_over).await;
    }
    let mut trail = world.trail().await;
    let rows = trail.split_off(before.len());
    assert_eq!(trail, before, "{path}: what is older stays as it was");
    (answer, rows)
}

async fn leaves_its_rows(world: &World, act: &Act) {
    let Act { route, actions, about, refused } = act;
    let (path, body) = (world.path(route), world.body(route));
    let mut dry = body.clone();
    dry["dry_run"] = true.into();
    let (answer, rows) = sent(world, &world.secret, &path, &dry).await;
    assert_eq!((answer.status, &answer.json()["dry_run"]), (200, &json!(true)), "{answer:?}");
    assert!(rows.is_empty(), "a dry run: {rows:?}");
    let (answer, rows) = sent(world, &world.onlooker, &path, &body).await;
    answer.is_problem(403, "scope-missing");
    assert!(rows.is_empty(), "a token without the scope: {rows:?}");
    for (path, body, status, code) in refused {
        let (answer, rows) = sent(world, &world.secret, path, body).await;
        answer.is_problem(*status, code);
        assert!(rows.is_empty(), "{code} of {path}: {rows:?}");
    }
    let (answer, rows) = sent(world, &world.secret, &path, &body).await;
    assert!([200, 202].contains(&answer.status), "{answer:?}");
    let done: Vec<&Value> = rows.iter().map(|row| &row["action"]).collect();
    assert_eq!(done, *actions, "{route}: {rows:#?}");
    assert!(rows.iter().all(|row| row["actor"] == "operator"), "{route}: {rows:#?}");
    assert!(rows[0].to_string().contains(about), "{route}: {about} is not in {}", rows[0]);
    if answer.status == 202 {
        let of = |row: &Value| (row["detail"]["state"].clone(), row["detail"]["operation"].clone());
        let id = &answer.json()["id"];
        let told: Vec<_> = rows.iter().map(of).collect();
        assert_eq!(told, [(json!("begun"), id.clone()), (json!("done"), id.clone())], "{route}");
    }
}
