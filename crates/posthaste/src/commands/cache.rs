//! A cache of answers before commands, in Redis. Saves repeats the database; decides nothing.
//!
//! Only answers that the database says are committed get in: [`Commands`](super::Commands) calls
//! [`CommandCache::keep`] with the database's word for it. An answer that is not found here, for
//! whatever reason, is asked of the database.

mod entry;
mod fills;
mod link;

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use posthaste_core::SchemaName;
use redis::Value;

use self::{
    fills::Fills,
    link::{Asked, Link},
};
use super::Command;

const NAMESPACE_BYTES_MAX: usize = 128;

/// Keeps answers of commands in Redis, so that a repeat needs no connection to the database. One
/// per process is enough; cheap to clone. Hand it to
/// [`Commands::with_cache`](super::Commands::with_cache).
///
/// Never needed for anything but speed: an answer that Redis has lost, never had or cannot read
/// (any value that is not one of these) is read from the database, and a Redis that is gone is
/// asked once in a [`pause`](CacheSettings::pause). It connects when it is first asked, to one
/// server, and runs on tokio, with its timer.
///
/// An answer stays for the [`ttl`](CacheSettings::ttl), whatever becomes of the database meanwhile.
/// So the key of a command that was forgotten there, after its retention or with its entity, may
/// get the old answer for as long; keep the time below `database.command_retention`, and use a new
/// key for a new request. After a restored database, or one that failed over to a replica that had
/// not heard all, take a new namespace, or delete the keys `<namespace>:*`. And where transactions
/// with commands set `synchronous_commit = off`, a crash of the database may undo what the cache
/// still tells.
#[derive(Clone)]
pub struct CommandCache {
    shared: Arc<Shared>,
}

struct Shared {
    link: Link,
    fills: Fills,
    namespace: String,
    ttl: Duration,
    counters: Counters,
}

/// The limits of a [`CommandCache`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// How long an answer is kept, from 1 second to 30 days; 24 hours unless set.
    pub ttl: Duration,
    /// How long a call waits for Redis, from 1 ms to 10 s; 50 ms unless set. Connecting, which one
    /// call does and no other waits for, may take four times as long.
    pub timeout: Duration,
    /// How long Redis is not asked after it failed, from 1 ms to 1 hour; 1 second unless set. Then
    /// one call tries again.
    pub pause: Duration,
}

/// What a [`CommandCache`] has done since it was made, in all its clones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheCounts {
    /// Requests that the cache decided: by an answer, or because their key stands for another.
    pub hits: u64,
    /// Requests that went on to the database, also because Redis failed or was not asked.
    pub misses: u64,
    /// Answers that were written.
    pub fills: u64,
    /// Calls that Redis refused or did not answer in time.
    pub errors: u64,
}

/// A namespace or a setting of a [`CommandCache`] that is out of bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidCache(String);

/// What the cache knows of a command.
pub(crate) enum Cached {
    /// Its answer.
    Answer(Vec<u8>),
    /// That its key stands for another request.
    AnotherRequest,
    Nothing,
}

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    fills: AtomicU64,
    errors: AtomicU64,
}

impl CommandCache {
    /// A cache on the server of `client`, which brings its own login and TLS (where several
    /// providers of rustls are compiled in, install one first, or it panics). The user may
    /// `GETRANGE` and `SET`.
    ///
    /// The namespace (1 to 128 bytes without control characters) begins the names of all keys. It
    /// stands for one database: two of them must not share it.
    ///
    /// # Errors
    /// The namespace or a setting is out of bounds.
    ///
    /// # Examples
    /// ```
    /// use posthaste::{CacheSettings, CommandCache, Commands};
    ///
    /// let client = redis::Client::open("redis://127.0.0.1/")?;
    /// let cache = CommandCache::new(client, "shop", &CacheSettings::default())?;
    /// let commands = Commands::default().with_cache(cache);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(
        client: redis::Client,
        namespace: impl Into<String>,
        settings: &CacheSettings,
    ) -> Result<Self, InvalidCache> {
        let namespace = namespace.into();
        check_namespace(&namespace)?;
        let &CacheSettings { ttl, timeout, pause } = settings;
        let ms = Duration::from_millis(1);
        check("ttl", ttl, Duration::from_secs(1), Duration::from_hours(30 * 24))?;
        check("timeout", timeout, ms, Duration::from_secs(10))?;
        check("pause", pause, ms, Duration::from_hours(1))?;
        let (fills, counters) = Default::default();
        let link = Link::new(client, timeout, pause);
        Ok(Self { shared: Arc::new(Shared { link, fills, namespace, ttl, counters }) })
    }

    /// What it has done so far. Hits and misses add up to the requests that it was asked about.
    pub fn counts(&self) -> CacheCounts {
        let Counters { hits, misses, fills, errors } = &self.shared.counters;
        let [hits, misses, fills, errors] =
            [hits, misses, fills, errors].map(|counter| counter.load(Ordering::Relaxed));
        CacheCounts { hits, misses, fills, errors }
    }

    /// What is known of a command in `schema`.
    ///
    /// # Cancel safety
    /// Nothing is changed; the call may stay uncounted.
    pub(crate) async fn look(&self, schema: &SchemaName, command: &Command) -> Cached {
        let counters = &self.shared.counters;
        let name = self.name(schema, command);
        let value = self.read(&name).await;
        match value.as_deref().and_then(|value| entry::read(&name, value)) {
            None => {
                count(&counters.misses);
                Cached::Nothing
            }
            Some((fingerprint, response)) => {
                count(&counters.hits);
                if fingerprint != command.fingerprint {
                    return Cached::AnotherRequest;
                }
                Cached::Answer(response.to_vec())
            }
        }
    }

    /// Keeps the answer of a command, which is **committed**, unless another call of this process
    /// has kept it `since` the caller began its own. Does not fail: what is not kept costs only
    /// speed.
    ///
    /// # Cancel safety
    /// The answer may be kept or not.
    pub(crate) async fn keep(
        &self,
        schema: &SchemaName,
        command: &Command,
        response: &[u8],
        since: Instant,
    ) {
        let Shared { link, fills, ttl, counters, .. } = &*self.shared;
        let name = self.name(schema, command);
        let Some(fill) = fills.begin(&name, since) else { return };
        let value = entry::write(&name, &command.fingerprint, response);
        let mut set = redis::cmd("SET");
        set.arg(&name).arg(value).arg("PX").arg(ttl.as_millis() as u64);
        match link.ask(&set).await {
            Asked::Answer(_) => {
                count(&counters.fills);
                fill.done();
            }
            Asked::Failed(_) => count(&counters.errors),
            Asked::Unasked => {}
        }
    }

    /// The value of that name, as far as an answer can reach.
    async fn read(&self, name: &str) -> Option<Vec<u8>> {
        let mut get = redis::cmd("GETRANGE");
        get.arg(name).arg(0).arg(entry::BYTES_MAX);
        match self.shared.link.ask(&get).await {
            Asked::Answer(Value::BulkString(value)) => Some(value),
            // A key of another type is no answer, and no fault of Redis.
            Asked::Failed(error) if error.code() != Some("WRONGTYPE") => {
                count(&self.shared.counters.errors);
                None
            }
            _ => None,
        }
    }

    fn name(&self, schema: &SchemaName, command: &Command) -> String {
        entry::name(&self.shared.namespace, schema, &command.scope, &command.key)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn check_namespace(namespace: &str) -> Result<(), InvalidCache> {
    let is_long = namespace.len() > NAMESPACE_BYTES_MAX;
    if namespace.is_empty() || is_long || namespace.chars().any(char::is_control) {
        let rule = "1 to 128 bytes without control characters";
        return Err(InvalidCache(format!("namespace must be {rule}, not {namespace:.60?}")));
    }
    Ok(())
}

fn check(name: &str, value: Duration, min: Duration, max: Duration) -> Result<(), InvalidCache> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(InvalidCache(format!("{name} must be from {min:?} to {max:?}, not {value:?}")))
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            ttl: Duration::from_hours(24),
            timeout: Duration::from_millis(50),
            pause: Duration::from_secs(1),
        }
    }
}

/// Leaves the client out: its login is a secret.
impl fmt::Debug for CommandCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandCache")
            .field("namespace", &self.shared.namespace)
            .field("ttl", &self.shared.ttl)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for InvalidCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cache refused: {}", self.0)
    }
}

impl Error for InvalidCache {}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(namespace: &str, settings: &CacheSettings) -> String {
        let client = redis::Client::open("redis://:secret@127.0.0.1/").unwrap();
        CommandCache::new(client, namespace, settings).unwrap_err().to_string()
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_name() {
        let settings = CacheSettings::default();
        let rule = "1 to 128 bytes without control characters";
        assert_eq!(
            refused("a\n", &settings),
            format!("cache refused: namespace must be {rule}, not \"a\\n\"")
        );
        for namespace in [String::new(), "n".repeat(129)] {
            assert!(refused(&namespace, &settings).contains(rule));
        }
        let zero = Duration::ZERO;
        for (settings, refusal) in [
            (CacheSettings { ttl: zero, ..settings.clone() }, "ttl must be from 1s to 2592000s"),
            (
                CacheSettings { timeout: zero, ..settings.clone() },
                "timeout must be from 1ms to 10s",
            ),
            (CacheSettings { pause: zero, ..settings }, "pause must be from 1ms to 3600s"),
        ] {
            assert_eq!(refused("shop", &settings), format!("cache refused: {refusal}, not 0ns"));
        }
    }

    #[test]
    fn login_is_not_shown() {
        let client = redis::Client::open("redis://user:secret@127.0.0.1/").unwrap();
        let cache = CommandCache::new(client, "shop", &CacheSettings::default()).unwrap();
        let shown = format!("{cache:?}");
        assert!(shown.contains("shop") && !shown.contains("secret"), "{shown}");
    }
}
