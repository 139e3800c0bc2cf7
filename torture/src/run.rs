//! One run: stage, writers, consumer and faults, and at the end the count.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use posthaste_testkit::failure::{Failure, Result};
use tokio::{sync::watch, task::JoinSet, time::sleep};

use crate::{
    arrivals::{Arrivals, Times},
    consumer::Consumer,
    message::self_named_bytes,
    nemesis::{Nemesis, Struck},
    process::Program,
    report::Report,
    restore::restore,
    schedule::{Schedule, Scope},
    stage::{MESSAGES, SinkKind, Stage, StoreKind},
    truth::{self, Committed},
    writers::{self, Setup, Written},
};

/// After the last fault something that was committed arrives within this, until all has; or it is
/// stuck.
const FINISH_LIMIT: Duration = Duration::from_mins(1);
/// What should not have arrived has this long to do so after the rest has.
const SURPLUS_WATCH: Duration = Duration::from_secs(1);
/// Longer than any pause between two looks at a quiet log.
const QUIET: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
const DRAIN_LIMIT: Duration = Duration::from_secs(15);
/// Between two faults, at most, the writers catch up with the plan.
const CALM_LIMIT: Duration = Duration::from_secs(10);
const CALM_LOOK: Duration = Duration::from_millis(10);
/// How often a run says how far it has come.
const KILLS_PER_LINE: u64 = 25;

/// What the consumer fills.
pub(crate) type Inbox = Arc<Mutex<Arrivals>>;

/// What the relays stand between.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scene {
    /// Redis keeps nothing on disk.
    pub(crate) is_forgetful: bool,
    /// Relays meet PostgreSQL through pgbouncer.
    pub(crate) is_pooled: bool,
    /// No writer waits for the disk.
    pub(crate) is_asynchronous: bool,
}

/// What to run.
pub(crate) struct Plan<'a> {
    pub(crate) posthaste: &'a Path,
    pub(crate) store: StoreKind,
    pub(crate) sink: SinkKind,
    pub(crate) seed: u64,
    pub(crate) scope: Scope,
    pub(crate) scene: Scene,
    /// The run goes on until there were that many of both…
    pub(crate) kills: u64,
    pub(crate) messages: u64,
    /// … or for that long.
    pub(crate) limit: Duration,
    /// In the end the database goes back to a backup.
    pub(crate) restores: bool,
    pub(crate) defect: Option<&'a str>,
}

/// Runs it.
pub(crate) async fn run(plan: &Plan<'_>) -> Result<Report> {
    let began = Instant::now();
    let Scene { is_forgetful, is_pooled, is_asynchronous } = plan.scene;
    let mut stage = Stage::build(&MESSAGES, plan.store, plan.sink, is_forgetful, is_pooled).await?;
    let inbox: Inbox = Arc::new(Mutex::new(Arrivals::at(&stage.arrivals())?));
    let (arrived, times) = {
        let arrivals = inbox.lock().unwrap_or_else(PoisonError::into_inner);
        (arrivals.fresh(), arrivals.times())
    };
    let stop = Arc::new(AtomicBool::new(false));
    let consumer =
        Consumer { url: stage.redis.url(), arrivals: Arc::clone(&inbox), stop: Arc::clone(&stop) };
    let setup = Setup {
        database: stage.database.clone(),
        seed: plan.seed,
        is_asynchronous,
        // Only streams carry headers.
        bytes_min: if plan.sink == SinkKind::Stream { 0 } else { self_named_bytes() },
        written: Arc::default(),
        arrived,
    };
    let mut consuming = JoinSet::new();
    consuming.spawn(consumer.consume(plan.sink));
    let (struck, drained) = strike(plan, began, &stage, &setup, &inbox, times).await?;
    stop.store(true, Ordering::Release);
    while let Some(consumed) = consuming.join_next().await {
        consumed.map_err(|error| Failure::new(format!("the consumer ended: {error}")))??;
    }
    let arrivals = Arc::into_inner(inbox)
        .ok_or_else(|| Failure::new("the consumer still holds the arrivals"))?;
    let arrivals = arrivals.into_inner().unwrap_or_else(PoisonError::into_inner);
    let report = judge(plan, &mut stage, &setup.written, arrivals, struck, drained).await?;
    Ok(Report { elapsed: began.elapsed(), ..report })
}

/// Writes and strikes until the plan is met, and then waits for what was written. Also answers
/// whether the last relay drained.
async fn strike(
    plan: &Plan<'_>,
    began: Instant,
    stage: &Stage,
    setup: &Setup,
    inbox: &Inbox,
    times: watch::Receiver<Times>,
) -> Result<(Struck, bool)> {
    let log = stage.log();
    let program = Program {
        binary: plan.posthaste,
        arguments: stage.relay_arguments(),
        log: &log,
        defect: plan.defect,
        clock: &stage.clock,
    };
    let mut writing = JoinSet::new();
    writing.spawn(writers::write(setup.clone()));
    let mut nemesis = Nemesis::new(stage, program, setup.clone(), times).await?;
    strike_until_done(plan, began, &mut nemesis, &setup.written).await?;
    nemesis.heal().await?;
    setup.written.end();
    while writing.join_next().await.is_some() {}
    // Its positions are taken long before it commits, and nothing else moves in between.
    writers::write_slowly(setup.clone(), plan.seed, QUIET).await;
    finish(&mut nemesis, setup, plan.scene.is_forgetful).await?;
    if plan.restores {
        restore(&mut nemesis, setup, inbox, plan.scene.is_forgetful).await?;
        finish(&mut nemesis, setup, plan.scene.is_forgetful).await?;
    }
    Ok(nemesis.end(DRAIN_LIMIT).await)
}

/// Counts.
async fn judge(
    plan: &Plan<'_>,
    stage: &mut Stage,
    written: &Written,
    mut arrivals: Arrivals,
    struck: Struck,
    drained: bool,
) -> Result<Report> {
    let book = stage.book().await?;
    let is_unfinished = stage.is_unfinished().await?;
    let (mut findings, verdict) = truth::judge(&book, &mut arrivals, is_unfinished).await?;
    findings.stale_publishes = struck.stale_publishes;
    let (mut repaired, mut lost_with_redis) = (0, 0);
    if plan.scene.is_forgetful {
        // What Redis forgot before it was consumed is gone, and what the log still has comes again.
        (repaired, lost_with_redis) = (findings.duplicated, findings.lost);
        (findings.duplicated, findings.lost) = (0, 0);
    }
    let Committed { messages, dead, .. } = truth::committed(&book).await?;
    let count = |counter: &AtomicU64| counter.load(Ordering::Acquire);
    let mut report = Report {
        store: plan.store.name(),
        sink: plan.sink.name(),
        seed: plan.seed,
        elapsed: Duration::ZERO,
        attempted: count(&written.attempted),
        acknowledged: count(&written.acknowledged),
        in_doubt: count(&written.in_doubt),
        committed: messages,
        arrived: arrivals.count(),
        dead_letters: dead,
        repaired,
        lost_with_redis,
        struck,
        findings,
        drained,
        examples: String::new(),
    };
    if !report.is_clean() || lost_with_redis > 0 {
        let (tail, kept) = (stage.log_tail(), stage.keep());
        let kept = kept.display();
        report.examples = format!("{verdict}\nthe relays said last:\n{tail}\nall in {kept}\n");
    }
    Ok(report)
}

/// Carries out the schedule until the plan is met.
async fn strike_until_done(
    plan: &Plan<'_>,
    began: Instant,
    nemesis: &mut Nemesis<'_>,
    written: &Written,
) -> Result<()> {
    let mut told = 0;
    for strike in Schedule::new(plan.seed, plan.scope.clone()) {
        let is_written = written.acknowledged.load(Ordering::Acquire) >= plan.messages;
        if (nemesis.kills() >= plan.kills && is_written) || began.elapsed() > plan.limit {
            break;
        }
        nemesis.strike(&strike).await?;
        let kills = nemesis.kills();
        if kills >= told + KILLS_PER_LINE {
            told = kills;
            let (messages, seconds) =
                (written.acknowledged.load(Ordering::Acquire), began.elapsed().as_secs());
            eprintln!("  {kills} kills, {messages} messages, {seconds} s");
        }
        if !nemesis.struck.unrecovered.is_empty() {
            // Everything after it would only wait as well.
            break;
        }
        // So that both are met at the same time.
        let share = plan.messages.saturating_mul(kills) / plan.kills.max(1);
        let calm = Instant::now();
        while written.acknowledged.load(Ordering::Acquire) < share.min(plan.messages)
            && calm.elapsed() < CALM_LIMIT
        {
            sleep(CALM_LOOK).await;
        }
    }
    Ok(())
}

/// Waits until everything that was committed has arrived or is a dead letter, and then whether
/// anything else does.
pub(crate) async fn finish(
    nemesis: &mut Nemesis<'_>,
    setup: &Setup,
    is_forgetful: bool,
) -> Result<()> {
    let book = setup.database.book().await?;
    let (mut deadline, mut reached) = (Instant::now() + FINISH_LIMIT, (0, 0));
    while Instant::now() < deadline {
        let Committed { messages, rejected, dead } = truth::committed(&book).await?;
        let now = (setup.arrived.load(Ordering::Acquire), dead);
        if now != reached {
            (deadline, reached) = (Instant::now() + FINISH_LIMIT, now);
        }
        let is_published = if is_forgetful {
            !nemesis.stage.is_unfinished().await?
        } else {
            setup.arrived.load(Ordering::Acquire) >= messages
        };
        if is_published && rejected == dead {
            sleep(SURPLUS_WATCH).await;
            return Ok(());
        }
        nemesis.restart_if_ended().await?;
        sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}
