//! Alerts: what has gone wrong for a while is told to people through a webhook, once, and so is its end.
//!
//! [`signs`] says what is wrong now, [`watch`] for how long it has to be so, the database who tells it (so that several
//! processes and restarts tell it once), and [`post`] how. Of a database that is away each process tells by itself.

mod post;
mod signs;
mod watch;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use posthaste_core::{Timestamp, describe};
use posthaste_store::{Incident, IncidentKey, StoreError, StoreErrorKind, Telling};
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::{
    post::{Notice, Post},
    signs::{Condition, Marks, Sign},
    watch::{Change, Seen, Watch},
};
use crate::{config::AlertSettings, failure::Result, parts::told::Process, store::Database};

/// In which a notice is posted, before another process may do it.
const CLAIM: Duration = Duration::from_mins(1);

/// Looks of a process for which what it saw is taken to hold: one may come late.
const LOOKS: u32 = 3;

/// What looks for trouble beside a relay, workers and the server.
pub(crate) struct Alerts {
    settings: AlertSettings,
    database: Arc<dyn Database>,
    parts: Arc<Process>,
    post: Post,
    watch: Watch,
    marks: Marks,
}

impl Alerts {
    /// `None` where no webhook is configured.
    ///
    /// # Errors
    /// The webhook cannot be called.
    pub(crate) fn new(
        settings: &AlertSettings,
        database: Arc<dyn Database>,
        parts: Arc<Process>,
    ) -> Result<Option<Self>> {
        let Some(post) = Post::new(settings)? else { return Ok(None) };
        let watch = Watch::new(settings.recovered_after);
        let (settings, marks) = (settings.clone(), Marks::default());
        Ok(Some(Self { settings, database, parts, post, watch, marks }))
    }

    /// Looks until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut looks = interval(self.settings.interval);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if let Err(error) = self.look().await {
                tracing::debug!("look for incidents: {}", describe(&error));
            }
        }
    }

    async fn look(&mut self) -> std::result::Result<(), StoreError> {
        let status = timeout(CLAIM, self.database.status()).await.unwrap_or_else(|_elapsed| {
            Err(StoreError::new(StoreErrorKind::Timeout, "read the status"))
        });
        let mut view = signs::read(&self.settings, status.as_ref(), &self.parts, &mut self.marks);
        // What others tell of, and what was told before a restart. A database that is away is told of all the same.
        let known = self.database.incidents().await;
        let now = Instant::now();
        if let Ok(known) = &known {
            let seen = |it: &Incident| {
                let is_late = it.seen_before.is_none_or(|ago| ago > self.settings.interval * LOOKS);
                if is_late { Seen::No } else { Seen::Lately }
            };
            self.watch.known(now, known.iter().map(|it| (&it.key, it.is_told, seen(it))));
        }
        self.see(&view.signs).await;
        let signs = std::mem::take(&mut view.signs);
        let shows = |condition, subject: &str| view.shows(condition, subject);
        for change in self.watch.look(now, signs, shows) {
            self.tell(change).await;
        }
        known.map(drop)
    }

    /// Has other processes know of what only this one can see.
    async fn see(&self, signs: &[Sign]) {
        for sign in signs.iter().filter(|sign| sign.condition.is_of_a_process()) {
            if let Err(error) = self.database.see_incident(&sign.key()).await {
                tracing::debug!("note what is wrong: {}", describe(&error));
            }
        }
    }

    /// Tells of a change, if it is this process that does. What could not be told is tried again by the next look.
    async fn tell(&mut self, change: Change) {
        let (key, text, is_over) = match change {
            Change::Begun(sign) => (sign.key(), sign.text, false),
            Change::Over(key, condition) => {
                let text = condition.over(&key.subject);
                (key, text, true)
            }
        };
        let is_own = key.condition == Condition::Database.word();
        let since = match self.claim(&key, is_own, is_over).await {
            Ok(Some(since)) => since,
            Ok(None) => return,
            Err(error) => return tracing::debug!("claim an incident: {}", describe(&error)),
        };
        let IncidentKey { condition, subject } = &key;
        let notice = Notice { condition, subject, text: &text, since, is_over };
        let posted = timeout(CLAIM / 2, self.post.send(&notice)).await;
        let posted =
            posted.unwrap_or_else(|_| Err("the webhook did not answer in time".to_owned()));
        let telling = match posted {
            Ok(()) => {
                tracing::info!(condition, subject, is_over, "an alert was posted");
                self.watch.told(&key, is_over);
                if is_over { Telling::Over } else { Telling::Begun }
            }
            Err(why) => {
                tracing::warn!(condition, subject, "an alert could not be posted: {why}");
                Telling::Failed
            }
        };
        if !is_own && let Err(error) = self.database.tell_incident(&key, telling).await {
            tracing::warn!("note what became of an alert: {}", describe(&error));
        }
    }

    /// Whether it is this process that tells, with the time from the database where that knows it.
    async fn claim(
        &self,
        key: &IncidentKey,
        is_own: bool,
        is_over: bool,
    ) -> std::result::Result<Option<Option<Timestamp>>, StoreError> {
        let claimed = match (is_own, is_over) {
            (true, _) => return Ok(Some(None)),
            (false, true) => self.database.close_incident(key, CLAIM).await,
            (false, false) => self.database.open_incident(key, CLAIM).await,
        };
        Ok(claimed?.map(Some))
    }
}
