//! What the server tells machines: counters and gauges in Prometheus' text format 0.0.4. A page asks nobody: what only
//! the database knows is counted now and then by a task beside the listener.

mod census;
mod metrics;
mod page;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::http::{Method, StatusCode};

pub(crate) use self::census::{Counted, Counting};
pub use self::metrics::reference;
use crate::routes;

/// Upper bounds of the times of answers, in microseconds.
const BOUNDS: [u64; 12] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
    30_000_000,
];
/// Of answers' statuses.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What a server tells of itself; clones share it. Outlives the server.
#[derive(Clone, Debug)]
pub struct Telemetry(Arc<Meter>);

/// The figures. Requests write, pages read.
#[derive(Debug)]
pub(crate) struct Meter {
    /// By pattern and method; fixed from the beginning.
    routes: HashMap<String, Vec<(&'static str, RouteMeter)>>,
    /// What is no route.
    none: RouteMeter,
    in_progress: Count,
    pub(crate) jobs: Arc<SubmissionMeter>,
    pub(crate) messages: Arc<SubmissionMeter>,
    pub(crate) streams: Arc<StreamMeter>,
    pub(crate) census: Counting,
}

/// The requests of one route.
#[derive(Debug, Default)]
struct RouteMeter {
    classes: [Count; CLASSES.len()],
    /// One for each bound, then the open one; not cumulative.
    times: [Count; BOUNDS.len() + 1],
    sum_micros: AtomicU64,
}

/// Submissions of one kind.
#[derive(Debug, Default)]
pub(crate) struct SubmissionMeter {
    pub(crate) written: Count,
    pub(crate) busy: Count,
    pub(crate) failed: Count,
    pub(crate) transactions: Count,
}

/// All streams.
#[derive(Debug, Default)]
pub(crate) struct StreamMeter {
    pub(crate) open: Count,
    pub(crate) frames: Count,
    pub(crate) cut_off: Count,
}

/// A number that many change.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: usize) {
        self.0.fetch_add(more as u64, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, less: usize) {
        self.0.fetch_sub(less as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        let mut routes: HashMap<String, Vec<_>> = HashMap::new();
        for route in routes::routes() {
            routes.entry(route.path).or_default().push((route.method, RouteMeter::default()));
        }
        Self(Arc::new(Meter {
            routes,
            none: RouteMeter::default(),
            in_progress: Count::default(),
            jobs: Arc::default(),
            messages: Arc::default(),
            streams: Arc::default(),
            census: Counting::default(),
        }))
    }
}

impl Telemetry {
    /// Every metric as it stands, in Prometheus' text format 0.0.4. Asks nobody.
    pub fn metrics(&self) -> String {
        page::render(&self.0)
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.0
    }
}

impl Meter {
    /// A request has come; it is in progress until this is dropped.
    pub(crate) fn begin(&self) -> InProgress<'_> {
        self.in_progress.add(1);
        InProgress(self)
    }

    /// A request was answered.
    pub(crate) fn answered(
        &self,
        route: Option<&str>,
        method: &Method,
        status: StatusCode,
        took: Duration,
    ) {
        let methods = route.and_then(|route| self.routes.get(route));
        let known = methods.and_then(|all| all.iter().find(|(own, _)| method == *own));
        let meter = known.map_or(&self.none, |(_, meter)| meter);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        meter.classes[class].add(1);
        meter.times[BOUNDS.partition_point(|bound| *bound < micros)].add(1);
        meter.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }
}

/// A request that has yet to be answered.
#[derive(Debug)]
pub(crate) struct InProgress<'a>(&'a Meter);

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        self.0.in_progress.sub(1);
    }
}
