//! `machines`: starting an entity with two jobs, as an application does it: state, event,
//! idempotency key and messages in one call, which is a transaction of its own. And repeats of a
//! command, from the database and through the cache before it.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use posthaste::{
    Begun, CacheSettings, Command, CommandCache, Commands,
    machine::{Definition, EntityTable, Machine, TransitionDefinition},
};
use posthaste_store::Request;
use posthaste_testkit::failure::{During, Failure, Result};
use serde_json::json;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::sleep_until,
};
use tokio_postgres::{Client, Statement};

use crate::{
    Options, progress,
    report::{Report, Spread, percentile, rounded},
    servers::{Log, Servers, connect, settle_tables},
};

const CONNECTIONS: u64 = 100;
/// Calls a second of the open loop.
const RATE: u64 = 500;
const SECONDS: u64 = 20;
/// Calls of one client, one after the other.
const ALONE: u64 = 2_000;
/// Calls of each client of the closed loops.
const EACH: u64 = 50;
/// Connections for each core that the clients of the second closed loop share: more processes than
/// that take turns on the cores, and their calls with them.
const POOL_PER_CORE: usize = 2;
/// Commands of one client, each with a repeat from the database and one through the cache.
const COMMANDS: u64 = 2_000;
/// Of the first call, which a command keeps.
const LEASE: Duration = Duration::from_mins(1);
/// Time for all clients to get ready.
const LEAD: Duration = Duration::from_millis(200);
/// Plans, caches and connections are warm after so many calls of each client.
const WARM_UP: u64 = 10;
const JOBS: &str = r#"[{"topic": "document-processing", "payload": {"file": "a.pdf", "pages": 12}},
    {"topic": "document-processing", "payload": {"file": "b.pdf", "pages": 3}}]"#;

/// Milliseconds of one round, sorted.
#[derive(Default)]
struct Round {
    open: Vec<f64>,
    from_due: Vec<f64>,
    alone: Vec<f64>,
    repeat: Vec<f64>,
    closed: Vec<f64>,
    pooled: Vec<f64>,
    from_database: Vec<f64>,
    from_cache: Vec<f64>,
}

/// A figure of a round.
type List = fn(&Round) -> &Vec<f64>;

/// One connection with its statement.
struct Caller {
    client: Client,
    start: Statement,
}

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    let log = servers.log().await?;
    let seconds = options.seconds.unwrap_or(SECONDS);
    let per_round = RATE * seconds + 2 * ALONE + CONNECTIONS * (2 * EACH + 2 * WARM_UP);
    prepare(&log, per_round * u64::from(options.runs + 1)).await?;
    let commands = commands(servers)?;
    let mut entities = 0..;
    let mut rounds = Vec::new();
    for number in 0..=options.runs {
        let mut round = round(&log, seconds, &mut entities).await?;
        repeats(&log, &commands, number, &mut round).await?;
        let (open, closed) = (percentile(&round.open, 0.99), percentile(&round.closed, 0.99));
        if number > 0 {
            let runs = options.runs;
            progress(format_args!(
                "round {number} of {runs}: p99 {open:.2} ms, closed {closed:.1} ms"
            ));
            rounds.push(round);
        }
    }
    Ok(report(&rounds, seconds))
}

/// A machine whose entities stand in a table of the application, and so many of them.
async fn prepare(log: &Log, entities: u64) -> Result<()> {
    progress(format_args!("writing {entities} entities"));
    let client = connect(&log.url).await?;
    let table = format!(
        "create table courses (id bigint primary key, organization_id text not null); \
         insert into courses select n, 'acme' from generate_series(0, {entities}) n"
    );
    client.batch_execute(&table).await.during("write entities")?;
    let machine = Machine::try_from(Definition {
        entity: Some(EntityTable {
            table: "public.courses".to_owned(),
            key: "id".to_owned(),
            organization: Some("organization_id".to_owned()),
        }),
        states: ["begun", "done"].map(str::to_owned).to_vec(),
        initial: vec!["begun".to_owned()],
        terminal: vec!["done".to_owned()],
        transitions: vec![TransitionDefinition::new(["begun"], "done")],
        ..Definition::new("course")
    });
    let request = Request { actor: "bench".to_owned(), is_dry_run: false, is_forced: false };
    let machine = machine.during("define the machine")?;
    log.store.push_machine(&machine, &request).await.during("push the machine")?;
    settle_tables(&log.url).await
}

async fn round(log: &Log, seconds: u64, entities: &mut impl Iterator<Item = u64>) -> Result<Round> {
    let mut callers = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = connect(&log.url).await?;
        let call = "select posthaste.start_machine('course', $1, 'begun', $2, 'bench', 'user-1', \
                    'acme', $3::text::json, '{\"title\": \"Sales\"}', 'corr-1')::text";
        let start = client.prepare(call).await.during("prepare the call")?;
        callers.push(Caller { client, start });
    }
    for caller in &callers {
        caller.take(entities, WARM_UP).await?;
    }
    let mut round = Round::default();
    let first = &callers[0];
    for entity in entities.take(ALONE as usize) {
        round.alone.push(first.start(entity).await?);
        round.repeat.push(first.start(entity).await?);
    }
    let callers = open_loop(callers, seconds, entities, &mut round).await?;
    let mut callers = closed_loop(callers, entities, &mut round).await?;
    callers
        .truncate(POOL_PER_CORE * thread::available_parallelism().during("count the cores")?.get());
    pooled_loop(callers, entities, &mut round).await?;
    for list in [
        &mut round.open,
        &mut round.from_due,
        &mut round.alone,
        &mut round.repeat,
        &mut round.closed,
        &mut round.pooled,
    ] {
        list.sort_by(f64::total_cmp);
    }
    Ok(round)
}

/// Commands with a cache on the server of this call.
fn commands(servers: &Servers) -> Result<Commands> {
    let client = redis::Client::open(servers.redis.url()).during("read the URL of Redis")?;
    let settings = CacheSettings { timeout: Duration::from_secs(1), ..CacheSettings::default() };
    let cache = CommandCache::new(client, "bench", &settings).during("make the cache")?;
    Ok(Commands::default().with_cache(cache))
}

/// Commands one after the other: executed, repeated from the database, repeated through the cache.
async fn repeats(log: &Log, commands: &Commands, number: u32, round: &mut Round) -> Result<()> {
    let client = connect(&log.url).await?;
    let plain = Commands::default();
    for nth in 0..WARM_UP + COMMANDS {
        let attempt = || Command::new("bench", format!("{number}-{nth}"), JOBS.as_bytes());
        let first = attempt();
        commands.begin(&client, &first, LEASE).await.during("begin a command")?;
        commands.complete(&client, &first, JOBS.as_bytes()).await.during("complete it")?;
        commands.remember(&client, &first, JOBS.as_bytes()).await.during("remember it")?;
        let since = Instant::now();
        let begun = plain.begin(&client, &attempt(), LEASE).await.during("repeat it")?;
        let from_database = since.elapsed();
        let since = Instant::now();
        let cached = commands.answer(&attempt()).await.during("repeat it through the cache")?;
        let from_cache = since.elapsed();
        if !matches!(begun, Begun::Repeat(_)) || cached.as_deref() != Some(JOBS.as_bytes()) {
            return Err(Failure::new("a repeat is without its answer"));
        }
        if nth >= WARM_UP {
            round.from_database.push(from_database.as_secs_f64() * 1_000.0);
            round.from_cache.push(from_cache.as_secs_f64() * 1_000.0);
        }
    }
    round.from_database.sort_by(f64::total_cmp);
    round.from_cache.sort_by(f64::total_cmp);
    Ok(())
}

impl Caller {
    /// Starts one entity and answers the milliseconds that it took.
    async fn start(&self, entity: u64) -> Result<f64> {
        let (entity, key) = (entity.to_string(), format!("key-{entity}"));
        let since = Instant::now();
        self.client
            .query_one(&self.start, &[&entity, &key, &JOBS])
            .await
            .during("start an entity")?;
        Ok(since.elapsed().as_secs_f64() * 1_000.0)
    }

    async fn take(&self, entities: &mut impl Iterator<Item = u64>, count: u64) -> Result<()> {
        for entity in entities.take(count as usize) {
            self.start(entity).await?;
        }
        Ok(())
    }
}

/// Calls that are due by the clock, whatever became of those before them.
async fn open_loop(
    callers: Vec<Caller>,
    seconds: u64,
    entities: &mut impl Iterator<Item = u64>,
    round: &mut Round,
) -> Result<Vec<Caller>> {
    let mut parts: Vec<Vec<(u64, u64)>> = callers.iter().map(|_| Vec::new()).collect();
    for (nth, entity) in (0..RATE * seconds).zip(entities) {
        parts[(nth % CONNECTIONS) as usize].push((nth, entity));
    }
    let begin = Instant::now() + LEAD;
    let mut tasks = JoinSet::new();
    for (caller, part) in callers.into_iter().zip(parts) {
        tasks.spawn(async move {
            let (mut took, mut from_due) = (Vec::new(), Vec::new());
            for (nth, entity) in part {
                let due = begin + Duration::from_secs_f64(nth as f64 / RATE as f64);
                sleep_until(due.into()).await;
                took.push(caller.start(entity).await?);
                from_due.push(due.elapsed().as_secs_f64() * 1_000.0);
            }
            Result::Ok((caller, took, from_due))
        });
    }
    let mut callers = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (caller, took, from_due) = done.during("start entities")??;
        callers.push(caller);
        round.open.extend(took);
        round.from_due.extend(from_due);
    }
    Ok(callers)
}

/// All at once, each as fast as it is answered.
async fn closed_loop(
    callers: Vec<Caller>,
    entities: &mut impl Iterator<Item = u64>,
    round: &mut Round,
) -> Result<Vec<Caller>> {
    let mut tasks = JoinSet::new();
    for caller in callers {
        let part: Vec<u64> = entities.take(EACH as usize).collect();
        tasks.spawn(async move {
            let mut took = Vec::new();
            for entity in part {
                took.push(caller.start(entity).await?);
            }
            Result::Ok((caller, took))
        });
    }
    let mut callers = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (caller, took) = done.during("start entities")??;
        callers.push(caller);
        round.closed.extend(took);
    }
    Ok(callers)
}

/// As many clients, which wait for one of a few connections in the order in which they come; the
/// wait counts.
async fn pooled_loop(
    callers: Vec<Caller>,
    entities: &mut impl Iterator<Item = u64>,
    round: &mut Round,
) -> Result<()> {
    let (give, take) = mpsc::channel(callers.len());
    for caller in callers {
        give.send(caller).await.during("fill the pool")?;
    }
    // Whoever has asked first waits with the lock, and the others wait for that in their order.
    let take = Arc::new(Mutex::new(take));
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let part: Vec<u64> = entities.take(EACH as usize).collect();
        let (give, take) = (give.clone(), Arc::clone(&take));
        tasks.spawn(async move {
            let mut took = Vec::new();
            for entity in part {
                let since = Instant::now();
                let taken = take.lock().await.recv().await;
                let caller = taken.ok_or_else(|| Failure::new("the pool is closed"))?;
                let called = caller.start(entity).await;
                give.send(caller).await.during("give a connection back")?;
                called?;
                took.push(since.elapsed().as_secs_f64() * 1_000.0);
            }
            Result::Ok(took)
        });
    }
    while let Some(took) = tasks.join_next().await {
        round.pooled.extend(took.during("start entities")??);
    }
    Ok(())
}

fn report(rounds: &[Round], seconds: u64) -> Report {
    let mut report = Report::new("machines");
    let lists: [(&str, &str, List); 8] = [
        ("open", "500 a second, call to answer", |round| &round.open),
        ("from_due", "500 a second, due to answer", |round| &round.from_due),
        ("alone", "one at a time", |round| &round.alone),
        ("repeat", "the same key again", |round| &round.repeat),
        ("closed", "100 clients at once, a connection each", |round| &round.closed),
        ("pooled", "100 clients at once, a pool of two a core", |round| &round.pooled),
        ("from_database", "a command's repeat, from the database", |round| &round.from_database),
        ("from_cache", "a command's repeat, through the cache", |round| &round.from_cache),
    ];
    for (key, name, list) in lists {
        for (suffix, part) in [("p50", 0.5), ("p99", 0.99)] {
            let spread = Spread::of(rounds.iter().map(|round| percentile(list(round), part)));
            report.figure(
                &format!("{key}_{suffix}_ms"),
                &format!("{name}, {suffix}"),
                "ms",
                spread,
            );
        }
    }
    let runs = rounds.iter().map(|round| {
        let p99 = |list: &[f64]| rounded(percentile(list, 0.99), 3);
        json!({ "open_p99_ms": p99(&round.open), "alone_p99_ms": p99(&round.alone), "closed_p99_ms": p99(&round.closed), "pooled_p99_ms": p99(&round.pooled) })
    });
    report.set("runs", runs.collect::<Vec<_>>());
    report.note(format!(
        "an entity with state, event, key and two jobs in one transaction; open loop: {RATE} a \
         second for {seconds} s over {CONNECTIONS} connections"
    ));
    report
}
