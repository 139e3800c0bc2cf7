//! The arrows between the workspace's crates point one way.
//!
//! The table says which crates each crate may depend on. ARCHITECTURE.md says why.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Where the code under test may not reach, but its tests and tools may.
const TESTKIT: &str = "posthaste-testkit";

/// Each crate with the crates of this workspace that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("posthaste-core", &[]),
    ("posthaste-store", &["posthaste-core"]),
    ("posthaste", &["posthaste-core", "posthaste-store"]),
    // Of the store its defects alone.
    ("posthaste-redis", &["posthaste-store"]),
    ("posthaste-traces", &["posthaste-core"]),
    (
        "posthaste-relay",
        &["posthaste-core", "posthaste-store", "posthaste-redis", "posthaste-traces"],
    ),
    (
        "posthaste-worker",
        &["posthaste-core", "posthaste-store", "posthaste-redis", "posthaste-traces", "posthaste"],
    ),
    ("posthaste-server", &["posthaste-core", "posthaste-store", "posthaste-traces", "posthaste"]),
    ("posthaste-cli", EVERYTHING),
    (
        "posthaste-bench",
        &[
            "posthaste-core",
            "posthaste-store",
            "posthaste",
            "posthaste-relay",
            "posthaste-worker",
            "posthaste-server",
            "posthaste-cli",
            TESTKIT,
        ],
    ),
    (
        "posthaste-torture",
        &["posthaste-core", "posthaste-store", "posthaste", "posthaste-worker", TESTKIT],
    ),
    ("xtask", &[TESTKIT]),
    // Its optional contract suites name the seams they test.
    (TESTKIT, &["posthaste-core", "posthaste-store", "posthaste-relay", "posthaste-worker"]),
];
const EVERYTHING: &[&str] = &[
    "posthaste-core",
    "posthaste-store",
    "posthaste-redis",
    "posthaste-traces",
    "posthaste",
    "posthaste-relay",
    "posthaste-worker",
    "posthaste-server",
];
/// Examples show what an application can do, so they have what an application has; that includes a relay and a store of
/// its own.
const OF_EXAMPLES: &[&str] = &[
    "posthaste",
    "posthaste-core",
    "posthaste-relay",
    "posthaste-server",
    "posthaste-store",
    "posthaste-traces",
    "posthaste-worker",
];

/// A dependency that is in the built program: not for its tests only.
#[derive(Debug)]
struct Arrow {
    from: String,
    to: String,
    from_is_example: bool,
}

#[test]
fn dependencies_between_crates_point_one_way() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let metadata =
        MetadataCommand::new().manifest_path(manifest).no_deps().exec().expect("cargo metadata");
    let arrows = arrows(&metadata);
    assert!(!arrows.is_empty(), "no dependency between crates of the workspace was found");
    let offences: Vec<String> = arrows.iter().filter_map(offence).collect();
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

fn arrows(metadata: &Metadata) -> Vec<Arrow> {
    let packages = metadata.workspace_packages();
    let mut arrows = Vec::new();
    for package in &packages {
        let from_is_example =
            package.manifest_path.components().any(|part| part.as_str() == "examples");
        for dependency in &package.dependencies {
            let is_ours = packages.iter().any(|package| *package.name == dependency.name);
            if is_ours && dependency.kind != DependencyKind::Development {
                let (from, to) = (package.name.to_string(), dependency.name.clone());
                arrows.push(Arrow { from, to, from_is_example });
            }
        }
    }
    arrows
}

fn offence(arrow: &Arrow) -> Option<String> {
    let Arrow { from, to, from_is_example } = arrow;
    let allowed = if *from_is_example {
        OF_EXAMPLES
    } else {
        match ALLOWED.iter().find(|(name, _)| name == from) {
            Some((_, allowed)) => allowed,
            None => {
                return Some(format!(
                    "{from} is a new crate: give it a row in ALLOWED in xtask/tests/layers.rs"
                ));
            }
        }
    };
    if allowed.contains(&to.as_str()) {
        return None;
    }
    let fix = if to == TESTKIT {
        "move it to [dev-dependencies]".to_owned()
    } else {
        format!(
            "remove it from {from}'s [dependencies], and move what it needs from {to} into a \
             crate that both may know ({})",
            if allowed.is_empty() { "it may know none".to_owned() } else { allowed.join(", ") }
        )
    };
    Some(format!("{from} -> {to} is not allowed: {fix}"))
}

fn arrow(from: &str, to: &str) -> Arrow {
    Arrow { from: from.into(), to: to.into(), from_is_example: false }
}

#[test]
fn an_arrow_against_the_layers_is_named_with_its_fix() {
    let message = offence(&arrow("posthaste-store", "posthaste-relay")).unwrap();
    assert!(message.starts_with("posthaste-store -> posthaste-relay is not allowed: remove it"));
    assert!(offence(&arrow("posthaste-core", "posthaste-store")).unwrap().contains("know none"));
    assert!(offence(&arrow("posthaste-relay", "posthaste-store")).is_none());
}

#[test]
fn the_testkit_is_for_tests_only() {
    let message = offence(&arrow("posthaste-cli", TESTKIT)).unwrap();
    assert!(message.ends_with("move it to [dev-dependencies]"));
    assert!(offence(&arrow("posthaste-bench", TESTKIT)).is_none());
}

#[test]
fn a_crate_without_a_row_is_asked_for_one() {
    assert!(offence(&arrow("posthaste-new", "posthaste")).unwrap().contains("give it a row"));
}

#[test]
fn examples_use_the_public_crates_only() {
    let example = |to: &str| Arrow { from_is_example: true, ..arrow("shop", to) };
    assert!(offence(&example("posthaste")).is_none());
    assert!(offence(&example("posthaste-store")).is_none());
    assert!(offence(&example("posthaste-cli")).is_some());
}
