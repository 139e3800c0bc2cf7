//! Carries the schedule out on workers: stops one of them at a step, does to it, to the relay, to the servers or to
//! the connections what was drawn, and watches effects be had again.

use std::time::{Duration, Instant};

use posthaste_testkit::{
    failure::{During, Failure, Result},
    proxy::NetFault,
};
use tokio::{process::Command, time::sleep};

use super::{callers::Pulse, queue::Queue, scenery::PLAIN};
use crate::{
    nemesis::{Struck, disturb, kill_and_restart},
    process::{Process, Program},
    schedule::{Fault, Step, Strike},
    stage::{Server, Stage, connect},
};

/// How long a step may take to be reached. Some are passed only when there is something to do.
const REACH_LIMIT: Duration = Duration::from_secs(3);
/// After a fault is over, an effect is had within this, or everything is stuck.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Longer than anything waits that was published and not handled yet.
const REPLAYED: &str = "45s";
const REPLAYS_MAX: u32 = 10;
const REPLAY_INTERVAL: Duration = Duration::from_millis(500);
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// What else was done, for the report.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Times that Redis was emptied.
    pub(crate) flushes: u64,
    /// Messages that were published again by hand for that.
    pub(crate) replayed: u64,
}

/// Strikes at one worker after another.
pub(crate) struct Nemesis<'a> {
    pub(crate) stage: &'a Stage,
    relays: Program<'a>,
    workers: Program<'a>,
    pulse: Pulse,
    queue: &'a Queue,
    pub(crate) struck: Struck,
    counts: Counts,
    relay: Process,
    crew: Vec<Process>,
}

impl<'a> Nemesis<'a> {
    /// With a relay and some workers.
    pub(crate) async fn new(
        stage: &'a Stage,
        [relays, workers]: [Program<'a>; 2],
        count: usize,
        (pulse, queue): (Pulse, &'a Queue),
    ) -> Result<Self> {
        let relay = Process::start(&relays, None).await?;
        let mut crew = Vec::with_capacity(count);
        for _ in 0..count {
            crew.push(Process::start(&workers, None).await?);
        }
        let (struck, counts) = (Struck::default(), Counts::default());
        Ok(Self { stage, relays, workers, pulse, queue, struck, counts, relay, crew })
    }

    /// Faults that hit with something under way.
    pub(crate) fn kills(&self) -> u64 {
        self.struck.kills()
    }

    /// Carries out one fault.
    pub(crate) async fn strike(&mut self, strike: &Strike) -> Result<()> {
        self.restart_if_ended().await?;
        let victim = strike.victim % self.crew.len();
        if !self.reach(victim, strike.step, strike.nth).await? {
            self.struck.missed += 1;
            return self.restart_if_ended().await;
        }
        let is_idle = self.pulse.in_flight() == 0;
        let point = strike.step.point;
        self.stage.note(&format!("{:?} at {point} {} of {victim}", strike.fault, strike.nth));
        let over = self.carry_out(strike.fault, victim).await?;
        self.stage.note("it is over");
        if is_idle {
            self.struck.idle += 1;
            return Ok(());
        }
        *self.struck.hits.entry((strike.fault.kind(), point)).or_default() += 1;
        self.recover(strike, over).await
    }

    /// Has a worker stop at a step; false when it does not come there.
    async fn reach(&mut self, victim: usize, step: &Step, nth: u32) -> Result<bool> {
        if let Some(behind) = step.behind {
            let other = (victim + 1) % self.crew.len();
            self.crew[other].arm(behind, nth).await;
            if self.crew[other].reached(REACH_LIMIT).await.is_none() {
                return Ok(false);
            }
            self.crew[victim].arm(step.point, 1).await;
            // A lone worker takes over from itself.
            if other == victim {
                self.crew[victim].go().await;
            } else {
                self.replace(other).await?;
            }
        } else {
            self.crew[victim].arm(step.point, nth).await;
        }
        Ok(self.crew[victim].reached(REACH_LIMIT).await.is_some())
    }

    /// Does it while the worker stands still, and answers when it was over.
    async fn carry_out(&mut self, fault: Fault, victim: usize) -> Result<Instant> {
        let stage = self.stage;
        match fault {
            Fault::KillWorker => {
                self.replace(victim).await?;
                return Ok(Instant::now());
            }
            Fault::Panic => {
                self.crew[victim].panic().await;
                return Ok(Instant::now());
            }
            Fault::NetPostgres(fault, hold) => {
                if let Some(Server { proxy, .. }) = &stage.server {
                    disturb(proxy, &mut self.crew[victim], fault, hold).await;
                }
                return Ok(Instant::now());
            }
            Fault::NetRedis(fault, hold) => {
                disturb(&stage.redis_proxy, &mut self.crew[victim], fault, hold).await;
                return Ok(Instant::now());
            }
            Fault::PauseWorker(pause) => sleep(pause).await,
            Fault::SetClock(seconds) => stage.clock.set(seconds),
            Fault::KillRelay => {
                let next = Process::start(&self.relays, None).await?;
                std::mem::replace(&mut self.relay, next).kill().await?;
            }
            Fault::KillPostgres => {
                if let Some(Server { postgres, .. }) = &stage.server {
                    kill_and_restart(postgres);
                }
            }
            Fault::KillRedis => stage.restart_redis(),
            Fault::FlushRedis => self.flush().await?,
            // Of relays only.
            Fault::PauseRelay(_)
            | Fault::Takeover
            | Fault::Overlap
            | Fault::FillDisk(_)
            | Fault::WrongType { .. } => {}
        }
        self.crew[victim].go().await;
        Ok(Instant::now())
    }

    /// Empties Redis. Jobs come back by themselves; what it held of other messages is replayed by an operator.
    async fn flush(&mut self) -> Result<()> {
        self.queue.flush().await?;
        self.counts.flushes += 1;
        let arguments =
            ["replay", "--json", "--subscription", "jobs", "--topic", PLAIN, "--since", REPLAYED];
        let mut said = String::new();
        for _ in 0..REPLAYS_MAX {
            let mut command = Command::new(self.relays.binary);
            command.args(arguments).arg("--config").arg(self.stage.configuration());
            let replayed = command.output().await.during("replay messages")?;
            if replayed.status.success() {
                let answer: serde_json::Value =
                    serde_json::from_slice(&replayed.stdout).during("read a replay's answer")?;
                self.counts.replayed += answer["replayed"].as_u64().unwrap_or(0);
                return Ok(());
            }
            said = String::from_utf8_lossy(&replayed.stderr).into_owned();
            sleep(REPLAY_INTERVAL).await;
        }
        Err(Failure::new(format!("cannot replay messages: {said}")))
    }

    /// Waits until an effect is had again.
    async fn recover(&mut self, strike: &Strike, over: Instant) -> Result<()> {
        let client = connect(self.stage.server_url()).await?;
        self.pulse.look(&client).await?;
        let before = self.pulse.effects();
        while over.elapsed() < RECOVERY_LIMIT {
            self.restart_if_ended().await?;
            self.pulse.look(&client).await?;
            if self.pulse.effects() > before || self.pulse.in_flight() == 0 {
                let recoveries = self.struck.recoveries.entry(strike.fault.kind()).or_default();
                recoveries.push(over.elapsed());
                return Ok(());
            }
            sleep(LOOK_INTERVAL).await;
        }
        let limit = RECOVERY_LIMIT.as_secs();
        let (point, state) = (strike.step.point, self.stage.state().await);
        self.struck.unrecovered.push(format!(
            "no effect for {limit} s after {} at {point}\n{state}\nthe processes had said:\n{}",
            strike.fault.kind(),
            self.stage.log_tail()
        ));
        Ok(())
    }

    /// Kills a worker and starts another one.
    async fn replace(&mut self, nth: usize) -> Result<()> {
        let next = Process::start(&self.workers, None).await?;
        std::mem::replace(&mut self.crew[nth], next).kill().await
    }

    /// Processes may end by themselves.
    pub(crate) async fn restart_if_ended(&mut self) -> Result<()> {
        if self.relay.has_ended() {
            self.struck.restarts += 1;
            self.relay = Process::start(&self.relays, None).await?;
        }
        for worker in &mut self.crew {
            if worker.has_ended() {
                self.struck.restarts += 1;
                *worker = Process::start(&self.workers, None).await?;
            }
        }
        Ok(())
    }

    /// Ends all faults.
    pub(crate) async fn heal(&mut self) -> Result<()> {
        if let Some(Server { proxy, .. }) = &self.stage.server {
            proxy.set(NetFault::None);
        }
        self.stage.redis_proxy.set(NetFault::None);
        self.restart_if_ended().await
    }

    /// Drains the workers and the relay, and answers whether all of them came to their end.
    pub(crate) async fn end(self) -> Result<(Struck, Counts, bool)> {
        let mut is_drained = true;
        for process in self.crew.into_iter().chain([self.relay]) {
            let status = process.drain(DRAIN_LIMIT).await;
            is_drained &= status.is_some_and(|status| status.success());
        }
        Ok((self.struck, self.counts, is_drained))
    }
}
