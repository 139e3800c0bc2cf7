//! The torture of the torture: relays and workers with a defect compiled in
//! (`crates/store/src/defect.rs`), each of which a short run must find.

use posthaste_testkit::failure::{Failure, Result};

use std::time::Duration;

use crate::{
    Options, jobs,
    run::{self, Plan, Scene},
    schedule::Scope,
    stage::{SinkKind, StoreKind},
};

/// Faults of one short run.
const KILLS: u64 = 30;
/// The same of workers.
const WORKER_KILLS: u64 = 12;
const LIMIT: Duration = Duration::from_mins(3);

/// Found only where the database goes back to a backup.
const RESTORED: &str = "reused-position";

/// Found only where hardly anybody else waits for the disk.
const NOT_DURABLE: &str = "tick-after-publish";

/// A defect and the faults that show it.
struct Defect {
    name: &'static str,
    kinds: &'static [&'static str],
    points: &'static [&'static str],
}

const DEFECTS: [Defect; 18] = [
    Defect { name: "settle-before-ack", kinds: &["kill relay"], points: &["publishing"] },
    Defect { name: "ignored-epoch", kinds: &["takeover"], points: &["publishing"] },
    Defect { name: "ignored-calls", kinds: &["wrong type in Redis"], points: &["publishing"] },
    Defect { name: "missing-dropped", kinds: &["kill relay"], points: &["setting-aside"] },
    Defect { name: "retry-behind-followers", kinds: &["pause relay"], points: &["set-aside"] },
    Defect { name: "goes-on-from-memory", kinds: &["Redis: reply lost"], points: &["publishing"] },
    Defect { name: "await-without-timeout", kinds: &["Redis: half-open"], points: &["publishing"] },
    Defect { name: "drop-on-full-queue", kinds: &["pause relay"], points: &["answered"] },
    Defect { name: "id-watermark", kinds: &["pause relay"], points: &["ticked"] },
    Defect { name: "order-by-xid", kinds: &["pause relay"], points: &["ticked"] },
    Defect { name: "look-without-x", kinds: &["pause relay"], points: &["looked"] },
    Defect { name: "stale-settle", kinds: &["takeover"], points: &["settling", "place-moved"] },
    Defect { name: NOT_DURABLE, kinds: &["kill PostgreSQL"], points: &["answered"] },
    Defect {
        name: "swallowed-commit",
        kinds: &["PostgreSQL: reset"],
        points: &["looked", "ticked"],
    },
    Defect {
        name: "lease-on-local-clock",
        kinds: &["clock jumps", "kill relay"],
        points: &["settled"],
    },
    Defect { name: "epoch-after-place", kinds: &["overlap"], points: &["setting-aside"] },
    Defect { name: RESTORED, kinds: &["kill relay"], points: &["settled"] },
    Defect { name: "slot-emptied-early", kinds: &["wrong type in Redis"], points: &[] },
];

/// Defects of workers.
const WORKER_DEFECTS: [Defect; 6] = [
    Defect { name: "stale-attempt", kinds: &["pause worker"], points: &["handling"] },
    Defect { name: "ack-before-commit", kinds: &["kill worker"], points: &["handling", "effect"] },
    Defect { name: "ignored-inbox", kinds: &["kill worker"], points: &["committed", "finished"] },
    Defect { name: "running-republished", kinds: &["kill worker"], points: &["handling"] },
    Defect { name: "ignored-lease", kinds: &["kill worker"], points: &["handling"] },
    Defect { name: "never-republished", kinds: &["flush Redis"], points: &["taken"] },
];

/// Whether a defect needs a restored database to show.
pub(crate) fn is_of_restored(name: &str) -> bool {
    name == RESTORED
}

/// Whether a defect hides behind writers that make the log durable.
pub(crate) fn is_of_asynchronous(name: &str) -> bool {
    name == NOT_DURABLE
}

/// The faults that show a defect.
pub(crate) fn scope_of(name: &str) -> Result<Scope> {
    scope_among(&DEFECTS, name)
}

/// The same of a worker's.
pub(crate) fn scope_of_worker(name: &str) -> Result<Scope> {
    scope_among(&WORKER_DEFECTS, name)
}

fn scope_among(defects: &[Defect], name: &str) -> Result<Scope> {
    let defect = defects.iter().find(|defect| defect.name == name).ok_or_else(|| {
        let names: Vec<&str> = defects.iter().map(|defect| defect.name).collect();
        Failure::new(format!("there is no defect {name:?}; there are {}", names.join(", ")))
    })?;
    let Defect { kinds, points, .. } = defect;
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Ok(Scope { kinds: own(kinds), points: own(points), ..Scope::default() })
}

/// Runs with each defect; true when all were found.
pub(crate) async fn find_all(options: &Options, seed: u64) -> Result<bool> {
    let mut missed = Vec::new();
    for Defect { name, .. } in &DEFECTS {
        let plan = Plan {
            posthaste: &options.posthaste,
            store: StoreKind::Postgres,
            sink: SinkKind::Stream,
            seed,
            scope: scope_of(name)?,
            scene: Scene { is_asynchronous: is_of_asynchronous(name), ..Scene::default() },
            kills: KILLS,
            messages: 0,
            limit: LIMIT,
            restores: is_of_restored(name),
            defect: Some(name),
        };
        let report = run::run(&plan).await?;
        let found = if report.is_clean() { "NOT FOUND" } else { "found" };
        let unrecovered = report.struck.unrecovered.len();
        println!("{name:<24} {found}: {:?}, {unrecovered} unrecovered", report.findings);
        if report.is_clean() {
            missed.push(*name);
        }
    }
    println!("{} of {} defects found, seed {seed}", DEFECTS.len() - missed.len(), DEFECTS.len());
    Ok(missed.is_empty())
}

/// The same of workers.
pub(crate) async fn find_all_of_workers(
    options: &Options,
    seed: u64,
    workers: usize,
) -> Result<bool> {
    let (mut found, all) = (0, WORKER_DEFECTS.len());
    for Defect { name, .. } in &WORKER_DEFECTS {
        let plan = jobs::Plan {
            posthaste: &options.posthaste,
            sink: options.sink,
            workers,
            seed,
            scope: scope_of_worker(name)?,
            kills: WORKER_KILLS,
            limit: LIMIT,
            defect: Some(name),
        };
        let report = jobs::run(&plan).await?;
        let verdict = if report.is_clean() { "NOT FOUND" } else { "found" };
        let unrecovered = report.struck.unrecovered.len();
        println!("{name:<24} {verdict}: {:?}, {unrecovered} unrecovered", report.findings);
        found += usize::from(!report.is_clean());
    }
    println!("{found} of {all} defects found, seed {seed}");
    Ok(found == all)
}
