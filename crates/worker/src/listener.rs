//! A listener on what is added to a queue, which starts what is missing: the layer between whoever adds messages and
//! the worker that handles them.
//!
//! It takes nothing and settles nothing: workers never notice it. What it cannot mend is a warning; the same check
//! before the handler ([`Worker::check`](crate::Worker::check)) is the next layer.

use std::{pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use posthaste::{Received, UnreadableMessage};
use posthaste_core::describe;
use tokio::time::sleep;

use crate::{
    checks::{Check, Checks},
    crew::{BACKOFF, Counters, Counts},
    source::SourceError,
    telemetry::{Health, Telemetry},
};

/// Longest wait of one call for the first addition.
const WAIT: Duration = Duration::from_secs(5);
/// Longest look at one message, unless set.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A message that was added to a queue; or why what was added is none.
pub type Addition = Result<Received, UnreadableMessage>;

/// What is added to a queue, in the order in which it was. A kind of source makes one of its settings:
/// [`SourceKind::listen`](crate::source::SourceKind::listen).
#[async_trait]
pub trait Additions: Send + Sync + 'static {
    /// The queue for logs, without secrets.
    fn describe(&self) -> &str;

    /// What was added after what the last call answered, at most a batch; waits up to `wait` for the first of it. What
    /// has left the queue meanwhile is passed over.
    ///
    /// # Errors
    /// The queue did not answer. The next call goes on where this one began, on a new connection.
    ///
    /// # Cancel safety
    /// As an error.
    async fn next(&mut self, wait: Duration) -> Result<Vec<Addition>, SourceError>;
}

#[async_trait]
impl Additions for Box<dyn Additions> {
    fn describe(&self) -> &str {
        (**self).describe()
    }

    async fn next(&mut self, wait: Duration) -> Result<Vec<Addition>, SourceError> {
        (**self).next(wait).await
    }
}

/// Says that a listener has ended, however it does.
struct Ended(Arc<Health>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Looks at each message that is added to a queue, one after the other. See the [module](self).
///
/// # Examples
/// ```no_run
/// # use std::sync::Arc;
/// # use posthaste::Received;
/// # use posthaste_worker::{Failed, Found, Listener, sources};
/// # async fn ensure_started(_: &[u8]) -> Result<bool, std::io::Error> { Ok(true) }
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let settings = "url = 'redis://127.0.0.1'\nqueue = 'documents'".parse()?;
/// let listen = sources::find("bullmq").and_then(|kind| kind.listen).ok_or("no events")?;
/// let counts = Listener::new(listen(settings)?)
///     .check("document.process", |message: Arc<Received>| async move {
///         let was_missing = ensure_started(&message.payload).await?;
///         Ok(if was_missing { Found::Mended } else { Found::Fine })
///     })
///     .run(async { tokio::signal::ctrl_c().await.unwrap_or_default() })
///     .await;
/// println!("{} of {} were started here", counts.mended, counts.taken);
/// # Ok(())
/// # }
/// ```
pub struct Listener {
    additions: Box<dyn Additions>,
    checks: Checks,
    timeout: Duration,
    telemetry: Telemetry,
}

impl Listener {
    /// A listener without checks.
    pub fn new(additions: impl Additions) -> Self {
        let telemetry = Telemetry::of(format!("listener on {}", additions.describe()));
        Self {
            additions: Box::new(additions),
            checks: Checks::default(),
            timeout: TIMEOUT,
            telemetry,
        }
    }

    /// Looks at each message of the topic. The same check serves [`Worker::check`](crate::Worker::check).
    #[must_use]
    pub fn check(mut self, topic: impl Into<String>, check: impl Check) -> Self {
        self.checks.insert(topic.into(), check);
        self
    }

    /// How long one look may take; 30 seconds unless given. The next message waits meanwhile.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What it tells of itself, from now on: what it has seen counts as taken.
    pub fn telemetry(&self) -> Telemetry {
        self.telemetry.clone()
    }

    /// Listens until `shutdown`, and ends after the look that is under way. Nothing else ends it: while the queue does
    /// not answer it tries again, with a growing wait of at most 2 seconds, and goes on where it was. Answers what it has
    /// seen (`taken`), `mended` and left `unmended`.
    ///
    /// # Cancel safety
    /// Dropping the future drops the look that is under way. Another listener begins where its settings say.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) -> Counts {
        let Telemetry { counts, health, .. } = self.telemetry.clone();
        let _end = Ended(Arc::clone(&health));
        let mut shutdown = pin!(shutdown.fuse());
        let mut failures = 0;
        loop {
            let next = tokio::select! {
                biased;
                () = &mut shutdown => return counts.read(),
                next = self.additions.next(WAIT) => next,
            };
            let added = match next {
                Ok(added) => {
                    failures = 0;
                    health.set_registered(true);
                    health.source_answers(self.additions.describe());
                    added
                }
                Err(error) => {
                    failures += 1;
                    let error = describe(&error);
                    if failures == 1 {
                        tracing::warn!("{error}; tried again");
                    }
                    health.source_is_away(self.additions.describe(), error);
                    tokio::select! {
                        biased;
                        () = &mut shutdown => return counts.read(),
                        () = sleep(BACKOFF.delay(failures, rand::random())) => continue,
                    }
                }
            };
            for addition in added {
                if (&mut shutdown).now_or_never().is_some() {
                    return counts.read();
                }
                self.look(addition, &counts).await;
            }
        }
    }

    async fn look(&self, addition: Addition, counts: &Counters) {
        Counters::add(&counts.taken, 1);
        match addition {
            Ok(message) => {
                let message = Arc::new(message);
                self.checks.look(&message, self.timeout, "when it was added", counts).await;
            }
            Err(error) => {
                tracing::warn!(queue = self.additions.describe(), "added: {}", describe(&error));
            }
        }
    }
}
