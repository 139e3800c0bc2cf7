//! The API's description: as it is committed, and true to the table of routes.

use std::{fs, path::Path};

use posthaste_server::{Access, Code, document, routes};
use serde_json::Value;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
const HOW: &str =
    "write it anew: POSTHASTE_WRITE_OPENAPI=1 cargo test -p posthaste-server --test main openapi";

#[test]
fn description_is_committed_as_it_is() {
    let now = document();
    if std::env::var_os("POSTHASTE_WRITE_OPENAPI").is_some() {
        fs::write(FILE, &now).unwrap();
    }
    let committed = fs::read_to_string(FILE).unwrap_or_default();
    assert!(committed == now, "crates/server/openapi.json is not what the code says; {HOW}");
}

#[test]
fn description_names_every_route_with_its_scope_and_every_type_that_it_uses() {
    let api: Value = serde_json::from_str(&document()).unwrap();
    assert_eq!(api["openapi"], "3.1.0");
    for route in routes() {
        let operation = &api["paths"][&route.path][route.method.to_ascii_lowercase()];
        let responses = &operation["responses"];
        assert!(responses["500"].is_object(), "{route:?}: {operation}");
        assert!(
            responses["default"].is_null(),
            "{route:?}: every answer is described by its status"
        );
        let asked = operation["security"].as_array().unwrap();
        let serves_ticket = asked.iter().any(|way| way["ticket"].is_array());
        assert_eq!(serves_ticket, matches!(route.access, Access::Ticket(_)), "{route:?}");
        match route.access {
            Access::Public => assert!(asked.is_empty(), "{route:?}"),
            Access::Scope(scope)
            | Access::Whole(scope)
            | Access::Entities(scope)
            | Access::Ticket(scope) => {
                assert_eq!(asked[0]["token"][0], scope.as_str(), "{route:?}");
            }
        }
    }
    let text = api.to_string();
    for reference in text.split("\"#/components/").skip(1) {
        let path = reference.split('"').next().unwrap();
        assert!(api.pointer(&format!("/components/{path}")).is_some(), "{path} is not described");
    }
}

#[test]
fn every_code_is_explained_to_users() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/server.md");
    let page = fs::read_to_string(page).unwrap();
    for code in Code::ALL {
        let row = format!("| `{}` | {} |", code.as_str(), code.status().as_u16());
        assert!(page.contains(&row), "docs/server.md: add a row that begins with {row}");
    }
}
