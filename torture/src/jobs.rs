//! The torture of workers: jobs and messages go from an application's transactions through a relay and a queue to
//! workers, which are killed and paused at their steps; then every effect is counted against what was
//! submitted, and every step in the life of a job against those that there are.

mod callers;
mod nemesis;
mod queue;
mod report;
mod scenery;
mod truth;
pub(crate) mod work;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use posthaste_testkit::failure::{During, Failure, Result};
use tokio::{task::JoinSet, time::sleep};

use self::{
    callers::{Callers, Pulse},
    nemesis::Nemesis,
    queue::Queue,
    report::Report,
};
use crate::{
    process::Program,
    schedule::{Schedule, Scope},
    stage::{SinkKind, Stage, StoreKind, connect},
};

/// After the last fault something goes on within this, until everything is over; or it is stuck.
const FINISH_LIMIT: Duration = Duration::from_mins(1);
/// What should not happen any more has this long to do so after everything is over.
const SURPLUS_WATCH: Duration = Duration::from_secs(2);
/// What is over leaves its queue within this.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
const KILLS_PER_LINE: u64 = 25;

/// What to run.
pub(crate) struct Plan<'a> {
    pub(crate) posthaste: &'a Path,
    pub(crate) sink: SinkKind,
    pub(crate) workers: usize,
    pub(crate) seed: u64,
    pub(crate) scope: Scope,
    /// The run goes on until there were that many…
    pub(crate) kills: u64,
    /// … or for that long.
    pub(crate) limit: Duration,
    pub(crate) defect: Option<&'a str>,
}

/// Runs it.
pub(crate) async fn run(plan: &Plan<'_>) -> Result<Report> {
    if plan.sink == SinkKind::Pubsub {
        let refused = "workers take from a queue: --sink redis-stream or --sink redis-list";
        return Err(Failure::new(refused));
    }
    let began = Instant::now();
    let mut stage =
        Stage::build(&scenery::JOBS, StoreKind::Postgres, plan.sink, false, false).await?;
    let log = stage.log();
    let torture = std::env::current_exe().during("find this program")?;
    let program = |binary, arguments| Program {
        binary,
        arguments,
        log: &log,
        defect: plan.defect,
        clock: &stage.clock,
    };
    let relays = program(plan.posthaste, stage.relay_arguments());
    let workers = program(&torture, work::arguments(&stage, plan.sink));
    let queue = Queue::new(stage.redis.url(), plan.sink);
    let callers = Callers::new(stage.server_url(), plan.seed);
    let mut calling = JoinSet::new();
    calling.spawn(callers.clone().call());
    let mut nemesis =
        Nemesis::new(&stage, [relays, workers], plan.workers, (callers.pulse.clone(), &queue))
            .await?;
    strike_until_done(plan, began, &mut nemesis, &callers.pulse).await?;
    nemesis.heal().await?;
    callers.pulse.end();
    while calling.join_next().await.is_some() {}
    finish(&mut nemesis, &callers.pulse, &queue).await?;
    let (struck, counts, drained) = nemesis.end().await?;
    let book = stage.book().await?;
    let mut findings = truth::judge(&book).await?;
    (findings.unsettled, findings.buried) = queue.left().await?;
    let numbers = truth::numbers(&book).await?;
    let mut report = Report {
        sink: plan.sink.name(),
        workers: plan.workers,
        seed: plan.seed,
        elapsed: began.elapsed(),
        numbers,
        struck,
        counts,
        findings,
        drained,
        examples: String::new(),
    };
    if !report.is_clean() {
        let examples = truth::examples(&book).await?;
        let (tail, kept) = (stage.log_tail(), stage.keep());
        let kept = kept.display();
        report.examples = format!("{examples}\nthe processes said last:\n{tail}\nall in {kept}\n");
    }
    Ok(report)
}

/// Carries out the schedule until the plan is met.
async fn strike_until_done(
    plan: &Plan<'_>,
    began: Instant,
    nemesis: &mut Nemesis<'_>,
    pulse: &Pulse,
) -> Result<()> {
    let mut told = 0;
    let scope = Scope { of_workers: true, ..plan.scope.clone() };
    for strike in Schedule::new(plan.seed, scope) {
        if nemesis.kills() >= plan.kills || began.elapsed() > plan.limit {
            break;
        }
        nemesis.strike(&strike).await?;
        let kills = nemesis.kills();
        if kills >= told + KILLS_PER_LINE {
            told = kills;
            let (effects, seconds) = (pulse.effects(), began.elapsed().as_secs());
            eprintln!("  {kills} kills, {effects} effects, {seconds} s");
        }
        if !nemesis.struck.unrecovered.is_empty() {
            // Everything after it would only wait as well.
            break;
        }
    }
    Ok(())
}

/// Waits until all jobs are over and all messages handled, and then whether anything else happens.
async fn finish(nemesis: &mut Nemesis<'_>, pulse: &Pulse, queue: &Queue) -> Result<()> {
    let (mut deadline, mut reached) = (Instant::now() + FINISH_LIMIT, (0, 0));
    let client = connect(nemesis.stage.server_url()).await?;
    while Instant::now() < deadline {
        pulse.look(&client).await?;
        let now = (pulse.in_flight(), pulse.effects());
        if now.0 == 0 {
            break;
        }
        if now != reached {
            (deadline, reached) = (Instant::now() + FINISH_LIMIT, now);
        }
        nemesis.restart_if_ended().await?;
        sleep(LOOK_INTERVAL).await;
    }
    let deadline = Instant::now() + SETTLE_LIMIT;
    while Instant::now() < deadline && queue.left().await?.0 > 0 {
        sleep(LOOK_INTERVAL).await;
    }
    sleep(SURPLUS_WATCH).await;
    Ok(())
}
