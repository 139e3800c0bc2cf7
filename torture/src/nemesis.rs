//! Carries the schedule out: stops a relay at a step, does to it, to its servers or to its
//! connections what was drawn, and watches messages arrive again.
//!
//! Every fault strikes while the relay stands still at a step, so that it strikes there and
//! nowhere else. What was not reached in time is counted as missed and as nothing else.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use posthaste_testkit::{
    Postgres,
    failure::{During, Failure, Result},
    proxy::{NetFault, Proxy},
};
use redis::AsyncCommands as _;
use tokio::{
    process::Command,
    sync::watch,
    task::{JoinSet, block_in_place},
    time::{sleep, timeout},
};

use crate::{
    arrivals::Times,
    process::{Process, Program},
    schedule::{Fault, Step, Strike},
    stage::{Server, Stage, connect_redis},
    writers::{self, Setup},
};

/// How long a step may take to be reached. Some are passed only when something was rejected.
const REACH_LIMIT: Duration = Duration::from_secs(3);
/// A relay that comes up reaches the steps of its beginning; behind a lease it waits for that.
const START_LIMIT: Duration = Duration::from_mins(1);
/// After a fault is over, something that was committed arrives within this, or it is stuck.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);
/// What is in the sink is taken within this.
const EMPTY_LIMIT: Duration = Duration::from_millis(500);
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// What an old holder that goes on does is seen within this.
const STALE_WATCH: Duration = Duration::from_millis(300);
/// An old holder ends when it has found out, or is ended.
const FENCED_LIMIT: Duration = Duration::from_secs(3);
const LONG_TRANSACTION: Duration = Duration::from_secs(5);

/// What the faults did.
#[derive(Debug, Default)]
pub(crate) struct Struck {
    /// Faults that hit with messages in flight, by kind and step.
    pub(crate) hits: BTreeMap<(&'static str, &'static str), u64>,
    /// Steps that were not reached in time.
    pub(crate) missed: u64,
    /// Faults that hit while nothing was in flight.
    pub(crate) idle: u64,
    /// From the end of a fault to the next arrival, by the kind of fault.
    pub(crate) recoveries: BTreeMap<&'static str, Vec<Duration>>,
    /// Faults after which nothing arrived within the limit.
    pub(crate) unrecovered: Vec<String>,
    /// FENCED: hand-overs by a relay that another had taken the sink from.
    pub(crate) stale_publishes: u64,
    /// Relays that ended by themselves and were started again.
    pub(crate) restarts: u64,
    /// Long transactions that were left open.
    pub(crate) long_transactions: u64,
}

/// Strikes at one relay after another.
pub(crate) struct Nemesis<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) program: Program<'a>,
    pub(crate) setup: Setup,
    pub(crate) times: watch::Receiver<Times>,
    pub(crate) struck: Struck,
    relay: Process,
    background: JoinSet<()>,
}

impl<'a> Nemesis<'a> {
    /// With a first relay.
    pub(crate) async fn new(
        stage: &'a Stage,
        program: Program<'a>,
        setup: Setup,
        times: watch::Receiver<Times>,
    ) -> Result<Self> {
        let relay = Process::start(&program, None).await?;
        let (struck, background) = (Struck::default(), JoinSet::new());
        Ok(Self { stage, program, setup, times, struck, relay, background })
    }

    /// Faults that hit with messages in flight.
    pub(crate) fn kills(&self) -> u64 {
        self.struck.kills()
    }

    /// Carries out one fault.
    pub(crate) async fn strike(&mut self, strike: &Strike) -> Result<()> {
        self.restart_if_ended().await?;
        if strike.long_transaction {
            self.struck.long_transactions += 1;
            let seed = self.struck.long_transactions;
            self.background.spawn(writers::write_slowly(
                self.setup.clone(),
                seed,
                LONG_TRANSACTION,
            ));
        }
        if !self.reach(strike.step, strike.nth).await? {
            self.struck.missed += 1;
            return self.restart_if_ended().await;
        }
        let is_in_flight = self.setup.in_flight() > 0;
        self.stage.note(&format!("{:?} at {} {}", strike.fault, strike.step.point, strike.nth));
        let over = self.carry_out(strike.fault).await?;
        self.stage.note("it is over");
        if !is_in_flight {
            self.struck.idle += 1;
            return Ok(());
        }
        *self.struck.hits.entry((strike.fault.kind(), strike.step.point)).or_default() += 1;
        self.recover(strike, over).await
    }

    /// Has the relay stop at a step; false when it does not come there.
    async fn reach(&mut self, step: &Step, nth: u32) -> Result<bool> {
        let Some(behind) = step.behind else {
            self.relay.arm(step.point, nth).await;
            return Ok(self.relay.reached(REACH_LIMIT).await.is_some());
        };
        self.relay.arm(behind, nth).await;
        if self.relay.reached(REACH_LIMIT).await.is_none() {
            return Ok(false);
        }
        let next = Process::start(&self.program, Some((step.point, nth))).await?;
        std::mem::replace(&mut self.relay, next).kill().await?;
        Ok(self.relay.reached(START_LIMIT).await.is_some())
    }

    /// Does it to the relay that stands still, and answers when it was over.
    async fn carry_out(&mut self, fault: Fault) -> Result<Instant> {
        match fault {
            Fault::KillRelay => self.replace().await?,
            Fault::PauseRelay(pause) => {
                sleep(pause).await;
                self.relay.go().await;
            }
            Fault::Takeover => self.take_over("connected").await?,
            Fault::Overlap => self.take_over("acquiring").await?,
            Fault::Panic => self.relay.panic().await,
            Fault::SetClock(seconds) => {
                self.stage.clock.set(seconds);
                self.relay.go().await;
            }
            Fault::FillDisk(hold) => {
                if let Some(Server { postgres, disk, .. }) = &self.stage.server {
                    disk.fill(&postgres.data_dir());
                    self.relay.go().await;
                    sleep(hold).await;
                    disk.free();
                    // A server that could not write its log has ended.
                    if self.stage.book().await.is_err() {
                        kill_and_restart(postgres);
                    }
                }
            }
            Fault::KillPostgres => {
                if let Some(Server { postgres, .. }) = &self.stage.server {
                    kill_and_restart(postgres);
                }
                self.relay.go().await;
            }
            Fault::KillRedis => {
                self.stage.restart_redis();
                self.relay.go().await;
            }
            // Of workers only.
            Fault::KillWorker | Fault::PauseWorker(_) | Fault::FlushRedis => self.relay.go().await,
            Fault::WrongType { destination, hold } => {
                self.hide(destination).await;
                // What comes meanwhile goes out in several calls at once.
                sleep(hold).await;
                self.relay.go().await;
                sleep(hold).await;
                self.unhide(destination).await;
            }
            Fault::NetPostgres(fault, hold) => {
                if let Some(Server { proxy, .. }) = &self.stage.server {
                    disturb(proxy, &mut self.relay, fault, hold).await;
                }
            }
            Fault::NetRedis(fault, hold) => {
                disturb(&self.stage.redis_proxy, &mut self.relay, fault, hold).await;
            }
        }
        Ok(Instant::now())
    }

    /// Another relay comes up to a point while this one stands still; then this one goes on, and
    /// after that the other one.
    async fn take_over(&mut self, point: &str) -> Result<()> {
        let mut next = Process::start(&self.program, Some((point, 1))).await?;
        let taken = next.reached(START_LIMIT).await;
        if let Some(reached) = &taken {
            let key = Stage::place_key(&reached.lane);
            let place = self.place(&key).await;
            self.relay.go().await;
            sleep(STALE_WATCH).await;
            // The new holder stands still, so that only the old one could have done anything. One
            // that has not taken over yet leaves it in its rights.
            if point == "connected" {
                let moved = self.place(&key).await;
                self.struck.stale_publishes += u64::from(is_stale(place.as_ref(), moved.as_ref()));
            }
            next.go().await;
        } else {
            self.relay.go().await;
        }
        let mut old = std::mem::replace(&mut self.relay, next);
        if old.ended(FENCED_LIMIT).await.is_none() {
            // Each of them holds a part.
            old.kill().await?;
            self.replace().await?;
        }
        Ok(())
    }

    /// Puts a text in the place of a destination, which no message can be appended to.
    async fn hide(&self, destination: usize) {
        let hide = "if redis.call('EXISTS', KEYS[1]) == 1 then \
                    redis.call('RENAME', KEYS[1], KEYS[2]) end redis.call('SET', KEYS[1], 'text')";
        self.rename(hide, destination).await;
    }

    async fn unhide(&self, destination: usize) {
        let unhide = "redis.call('DEL', KEYS[1]) if redis.call('EXISTS', KEYS[2]) == 1 then \
                      redis.call('RENAME', KEYS[2], KEYS[1]) end";
        self.rename(unhide, destination).await;
    }

    async fn rename(&self, script: &str, destination: usize) {
        let name = &Stage::destinations()[destination];
        let mut rename = redis::cmd("EVAL");
        rename.arg(script).arg(2).arg(name).arg(format!("hidden:{name}"));
        if let Ok(mut connection) = connect_redis(&self.stage.redis.url()).await {
            // Redis is up: only the nemesis kills it.
            let _: redis::RedisResult<()> = rename.query_async(&mut connection).await;
        }
    }

    /// The place that Redis keeps of a lane.
    async fn place(&self, key: &str) -> Option<Place> {
        let mut connection = connect_redis(&self.stage.redis.url()).await.ok()?;
        timeout(RECOVERY_LIMIT, connection.hgetall(key)).await.ok()?.ok()
    }

    /// Waits until messages arrive again.
    async fn recover(&mut self, strike: &Strike, over: Instant) -> Result<()> {
        let (kind, written) = (strike.fault.kind(), self.setup.written.committed());
        let mut times = self.times.clone();
        let deadline = Instant::now() + RECOVERY_LIMIT;
        // Where there is always something to take, it did not stop.
        let empty = times.wait_for(|times| times.emptiness > over);
        let since = match timeout(EMPTY_LIMIT, empty).await {
            Ok(Ok(times)) => times.emptiness,
            _ => over,
        };
        while Instant::now() < deadline {
            let again = times.wait_for(|times| times.arrival > since);
            if let Ok(Ok(times)) = timeout(LOOK_INTERVAL, again).await {
                self.struck.recoveries.entry(kind).or_default().push(times.arrival - over);
                return Ok(());
            }
            self.restart_if_ended().await?;
            if self.setup.in_flight() == 0 {
                return Ok(());
            }
        }
        let limit = RECOVERY_LIMIT.as_secs();
        let written = self.setup.written.committed() - written;
        let (point, state) = (strike.step.point, self.stage.state().await);
        self.struck.unrecovered.push(format!(
            "nothing arrived for {limit} s after {kind} at {point}; written meanwhile: {written}\n\
             {state}\nthe relays had said:\n{}",
            self.stage.log_tail()
        ));
        Ok(())
    }

    /// A relay may end by itself: fenced by another, or told by its database to.
    pub(crate) async fn restart_if_ended(&mut self) -> Result<()> {
        if self.relay.has_ended() {
            self.struck.restarts += 1;
            self.relay = Process::start(&self.program, None).await?;
        }
        Ok(())
    }

    /// Ends all faults, and has a fresh relay go on: the last one may hold only a part of what there
    /// is to hold, after a takeover.
    pub(crate) async fn heal(&mut self) -> Result<()> {
        if let Some(Server { proxy, .. }) = &self.stage.server {
            proxy.set(NetFault::None);
        }
        self.stage.redis_proxy.set(NetFault::None);
        while self.background.join_next().await.is_some() {}
        self.replace().await
    }

    /// Rebases a subscription whose log is not the one that was read.
    pub(crate) async fn rebase(&self, subscription: &str) -> Result<()> {
        let mut command = Command::new(self.program.binary);
        command.arg("subscriptions").arg("rebase").arg(subscription);
        command.arg("--config").arg(self.stage.configuration());
        let rebased = command.output().await.during("rebase a subscription")?;
        if rebased.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&rebased.stderr).into_owned();
        Err(Failure::new(format!("cannot rebase {subscription}: {said}")))
    }

    /// Kills the relay; nothing is published before [`Self::replace`].
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.relay.end().await
    }

    /// Kills the relay and starts another one.
    pub(crate) async fn replace(&mut self) -> Result<()> {
        let next = Process::start(&self.program, None).await?;
        std::mem::replace(&mut self.relay, next).kill().await
    }

    /// Drains the last relay.
    pub(crate) async fn end(self, limit: Duration) -> (Struck, bool) {
        let drained = self.relay.drain(limit).await;
        (self.struck, drained.is_some_and(|status| status.success()))
    }
}

/// Together with everything that it had in memory.
pub(crate) fn kill_and_restart(postgres: &Postgres) {
    block_in_place(|| {
        postgres.kill();
        postgres.restart();
    });
}

/// What Redis keeps of a lane's place.
type Place = BTreeMap<String, Vec<u8>>;

/// Whether a place was moved by somebody who did not take it over to do so. One whose beginning was
/// interrupted may take over what it had not held before.
fn is_stale(before: Option<&Place>, after: Option<&Place>) -> bool {
    let epoch = |place: Option<&Place>| -> Option<(u64, u64)> {
        let text = std::str::from_utf8(place?.get("epoch")?).ok()?;
        let (epoch, connection) = text.split_once(':')?;
        Some((epoch.parse().ok()?, connection.parse().ok()?))
    };
    before != after && epoch(after) <= epoch(before)
}

/// Has a process go on through connections that are at fault, for a while.
pub(crate) async fn disturb(proxy: &Proxy, process: &mut Process, fault: NetFault, hold: Duration) {
    let before = proxy.hits();
    proxy.set(fault);
    process.go().await;
    // What happens once is over when it has happened.
    let once = !matches!(fault, NetFault::Latency(_) | NetFault::HalfOpen | NetFault::Trickle);
    let until = Instant::now() + hold;
    while Instant::now() < until && !(once && proxy.hits() > before) {
        sleep(Duration::from_millis(5)).await;
    }
    proxy.set(NetFault::None);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(epoch: &str, calls: &str) -> Place {
        let field = |(name, value): (&str, &str)| (name.to_owned(), value.as_bytes().to_vec());
        [("epoch", epoch), ("calls", calls)].into_iter().map(field).collect()
    }

    #[test]
    fn a_place_that_moves_without_being_taken_over_is_stale() {
        let held = place("9:1", "40");
        let is_stale = |after: Place| is_stale(Some(&held), Some(&after));
        assert!(!is_stale(held.clone()));
        assert!(is_stale(place("9:1", "41")), "moved under the holder's epoch");
        assert!(is_stale(place("8:3", "40")), "taken back by an older one");
        assert!(!is_stale(place("10:1", "40")), "taken over");
    }
}
