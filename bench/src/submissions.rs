//! `submissions`: jobs over HTTP. wrk posts them to `posthaste serve` as fast as they are answered, while the server's own
//! relay publishes them; then every one of them is looked for. The same on a SQLite file.

mod check;
mod wrk;

use posthaste_store::sqlite::SqliteOptions;
use posthaste_testkit::{
    failure::{During, Failure, Result},
    install::{self, Tool},
};
use serde_json::Map;
use uuid::Uuid;

use self::{
    check::Tables,
    wrk::{CONNECTIONS, Run, Wrk},
};
use crate::{
    Options, process, progress,
    report::{Report, Spread, rounded},
    serve::Server,
    servers::{Log, Servers},
};

const STREAM: &str = "jobs";
const SECONDS: u64 = 15;
const WARM_UP_SECONDS: u64 = 5;

/// What a figure is held to, and whether more of it is better: the median, but of what must not happen the most of any run.
const BARS: [(&str, f64, bool); 4] = [
    ("rate", 1_500.0, true),
    ("p99_ms", 100.0, false),
    ("refused", 0.0, false),
    ("socket_errors", 0.0, false),
];

/// A run, and the processor time that a request of it took.
#[derive(Clone, Copy, Debug)]
struct Measured {
    run: Run,
    server_us: f64,
    postgres_us: f64,
}

/// Key, name and unit of a figure, and where it is found.
type Figure = (&'static str, &'static str, &'static str, fn(&Measured) -> f64);

/// What the runs on one store have found.
#[derive(Debug)]
struct Found {
    runs: Vec<Measured>,
    /// The server's memory at its highest.
    rss_mib_peak: f64,
    /// Jobs of all runs.
    jobs: u64,
}

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    install::ensure(&[Tool::Wrk]).during("install wrk")?;
    let log = servers.log().await?;
    let tables = Tables::Postgres(log.url.clone());
    let postgres = load(options, servers, "PostgreSQL", (&log.url, &tables)).await?;
    servers.flush_redis()?;
    let directory = tempfile::tempdir().during("make a directory for the log")?;
    let file = directory.path().join("log.db");
    let log = Log::in_file(&file, &SqliteOptions::default()).await?;
    let tables = Tables::Sqlite(file);
    let sqlite = load(options, servers, "SQLite", (&log.url, &tables)).await?;
    Ok(report(options, &postgres, &sqlite))
}

/// All runs on one server, which are counted and checked.
async fn load(
    options: &Options,
    servers: &Servers,
    name: &str,
    (url, tables): (&str, &Tables),
) -> Result<Found> {
    let sink = format!(
        "[subscriptions.jobs]\ntopics = [\"mail\"]\n[subscriptions.jobs.sink]\nkind = \"redis-stream\"\n\
         url = {:?}\nstream = {STREAM:?}\n",
        servers.redis.url()
    );
    let server = Server::start(&options.posthaste, url, &sink).await?;
    let mut wrk = Wrk::new(server.address())?;
    // Warms the caches, and says of each job that it was accepted.
    let (warm_up, ids) = wrk.run_collecting(WARM_UP_SECONDS).await?;
    let mut accepted = warm_up.accepted();
    expect_all(&ids, accepted)?;
    let mut jobs = tables.settled(servers, accepted).await?;
    let mut runs = Vec::new();
    for number in 1..=options.runs {
        let one = measured(servers, &server, &mut wrk, options.seconds.unwrap_or(SECONDS)).await?;
        let Measured { run, server_us, postgres_us } = one;
        progress(format_args!(
            "{name}, run {number} of {}: {:.0}/s, p99 {:.1} ms, max {:.1} ms, {} refused, {} socket errors; \
             a request takes the server {server_us:.0} µs, PostgreSQL {postgres_us:.0} µs",
            options.runs,
            run.rate(),
            run.p99_ms,
            run.max_ms,
            run.refused,
            run.socket_errors
        ));
        accepted += run.accepted();
        jobs = tables.settled(servers, accepted).await?;
        runs.push(one);
    }
    // wrk does not wait for what is under way at the end of a run.
    let most = accepted + CONNECTIONS * u64::from(options.runs + 1);
    let refused: u64 = runs.iter().map(|one| one.run.refused + one.run.socket_errors).sum();
    if jobs > most + refused {
        return Err(Failure::new(format!("{accepted} jobs were accepted and {jobs} are there")));
    }
    let rss_mib_peak = process::rss_peak_mib(server.pid()).unwrap_or(0.0);
    server.stop().await?;
    tables.check(servers, &ids).await?;
    progress(format_args!("{name}: {jobs} jobs, each in the stream once and in order"));
    Ok(Found { runs, rss_mib_peak, jobs })
}

fn expect_all(ids: &[Uuid], accepted: u64) -> Result<()> {
    if ids.len() as u64 == accepted {
        return Ok(());
    }
    Err(Failure::new(format!("{accepted} jobs were accepted, {} answers have an id", ids.len())))
}

async fn measured(
    servers: &Servers,
    server: &Server,
    wrk: &mut Wrk,
    seconds: u64,
) -> Result<Measured> {
    let used = || {
        let postgres = process::cpu_seconds_of_tree(servers.postgres.pid());
        [process::cpu_seconds(server.pid()), postgres]
    };
    let before = used();
    let run = wrk.run(seconds).await?;
    let after = used();
    let [server_us, postgres_us] =
        [0, 1].map(|of| (after[of] - before[of]) * 1e6 / run.requests.max(1) as f64);
    Ok(Measured { run, server_us, postgres_us })
}

fn report(options: &Options, postgres: &Found, sqlite: &Found) -> Report {
    let mut report = Report::new("submissions");
    let figures: [Figure; 8] = [
        ("rate", "jobs accepted", "/s", |one| one.run.rate()),
        ("p50_ms", "p50", "ms", |one| one.run.p50_ms),
        ("p99_ms", "p99", "ms", |one| one.run.p99_ms),
        ("max_ms", "max", "ms", |one| one.run.max_ms),
        ("refused", "refused", "", |one| one.run.refused as f64),
        ("socket_errors", "socket errors", "", |one| one.run.socket_errors as f64),
        ("server_cpu_us", "processor time of the server", "µs/job", |one| one.server_us),
        ("postgres_cpu_us", "processor time of PostgreSQL", "µs/job", |one| one.postgres_us),
    ];
    let mut all = Map::new();
    for (prefix, store, found) in [("", "", postgres), ("sqlite_", "on SQLite: ", sqlite)] {
        for (key, name, unit, of) in figures {
            if !prefix.is_empty() && key == "postgres_cpu_us" {
                continue;
            }
            let (key, name) = (format!("{prefix}{key}"), format!("{store}{name}"));
            let spread = Spread::of(found.runs.iter().map(of));
            let held = if unit.is_empty() { spread.max } else { spread.median };
            all.insert(key.clone(), held.into());
            report.figure(&key, &name, unit, spread);
        }
        let (key, name) = (format!("{prefix}rss_mib_peak"), format!("{store}memory of the server"));
        report.figure(&key, &name, "MiB", Spread::of([found.rss_mib_peak]));
        report.set(&format!("{prefix}jobs"), found.jobs);
    }
    judge(&mut report, &all);
    report.note(format!(
        "{CONNECTIONS} connections that wait for each answer, one thread of wrk, {} s a run; the server publishes \
         meanwhile; every job that was accepted is there, its message in the stream once and in the order of its key",
        options.seconds.unwrap_or(SECONDS)
    ));
    report
}

/// Says of each bar whether it is met.
fn judge(report: &mut Report, figures: &Map<String, serde_json::Value>) {
    let mut met = Map::new();
    for (key, bar, is_more_better) in BARS {
        let found = figures.get(key).and_then(serde_json::Value::as_f64).unwrap_or(f64::NAN);
        let is_met = if is_more_better { found >= bar } else { found <= bar };
        let (sign, word) =
            (if is_more_better { "≥" } else { "≤" }, if is_met { "met" } else { "MISSED" });
        report.note(format!("bar {key} {sign} {bar}: {word} ({})", rounded(found, 1)));
        met.insert(key.to_owned(), is_met.into());
    }
    report.set("bars_met", met);
}
