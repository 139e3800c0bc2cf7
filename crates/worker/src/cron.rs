//! Jobs that the clock submits: due by the wall clock of a time zone, submitted once across all workers.

use std::{str::FromStr as _, sync::Arc, time::Duration};

use jiff::{Timestamp as Instant, Zoned, tz::TimeZone};
use posthaste_core::{Timestamp, describe};
use posthaste_store::{Cron, CronDefinition, StoreError};
use tokio::time::sleep;

use crate::crew::Crew;

/// Longest pause between two looks: a worker learns of what others have pushed.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);

/// A job that the clock submits.
///
/// Times that a change of clocks leaves out are made up for right behind it, and times that come twice are taken
/// once, unless the pattern is one of intervals. What was missed while no worker ran is made up for by one job.
///
/// # Examples
/// ```
/// use posthaste_worker::CronJob;
///
/// let nightly = CronJob::new("nightly", "0 3 * * *", "Europe/Berlin", "reports.nightly")?
///     .payload(&serde_json::json!({ "kind": "all" }));
/// # Ok::<_, posthaste_worker::InvalidCron>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronJob {
    pub(crate) name: String,
    pub(crate) definition: CronDefinition,
}

/// A job that no clock could submit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCron {
    /// Its pattern.
    #[error("cron {name:?}: the schedule {schedule:?} is no pattern of five or six fields: {why}")]
    Schedule {
        /// The name.
        name: String,
        /// The pattern.
        schedule: String,
        /// What is wrong with it.
        why: String,
    },
    /// Its time zone.
    #[error(
        "cron {name:?}: there is no time zone {zone:?}; use a name of the IANA database such as \
         Europe/Berlin, or UTC"
    )]
    TimeZone {
        /// The name.
        name: String,
        /// The time zone.
        zone: String,
    },
    /// Its name.
    #[error("cron: a name must be 1 to 255 bytes, not {0}")]
    Name(usize),
}

impl CronJob {
    /// A job of `topic`, due when the wall clock of `time_zone` matches `schedule`: minute, hour, day, month, day of
    /// the week, with seconds before them if wanted (the Vixie notation, and `@daily` and the like).
    ///
    /// # Errors
    /// There is no such time zone, or the pattern is none or never matches.
    pub fn new(
        name: impl Into<String>,
        schedule: impl Into<String>,
        time_zone: impl Into<String>,
        topic: impl Into<String>,
    ) -> Result<Self, InvalidCron> {
        let name = name.into();
        if name.is_empty() || name.len() > 255 {
            return Err(InvalidCron::Name(name.len()));
        }
        let definition = CronDefinition {
            schedule: schedule.into(),
            time_zone: time_zone.into(),
            topic: topic.into(),
            payload: "null".to_owned(),
            ..CronDefinition::default()
        };
        next(&name, &definition, Timestamp(0))?;
        Ok(Self { name, definition })
    }

    /// Its payload.
    #[must_use]
    pub fn payload(mut self, payload: &serde_json::Value) -> Self {
        self.definition.payload = payload.to_string();
        self
    }

    /// Its ordering key: a job waits for the one before it.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.definition.key = Some(key.into());
        self
    }

    /// None is submitted while the one before it is not over.
    #[must_use]
    pub fn unless_running(mut self) -> Self {
        self.definition.unique_key = Some(format!("cron {}", self.name));
        self
    }

    /// How often it may be tried.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.definition.attempts = Some(attempts);
        self
    }
}

/// When a job is due after `after`.
pub(crate) fn next(
    name: &str,
    definition: &CronDefinition,
    after: Timestamp,
) -> Result<Timestamp, InvalidCron> {
    let CronDefinition { schedule, time_zone, .. } = definition;
    let invalid = |why: String| InvalidCron::Schedule {
        name: name.to_owned(),
        schedule: schedule.clone(),
        why,
    };
    let zone = TimeZone::get(time_zone)
        .map_err(|_| InvalidCron::TimeZone { name: name.to_owned(), zone: time_zone.clone() })?;
    let pattern = croner::Cron::from_str(schedule).map_err(|error| invalid(error.to_string()))?;
    let after = Instant::from_microsecond(after.0).map_err(|error| invalid(error.to_string()))?;
    let due: Zoned = pattern
        .find_next_occurrence(&after.to_zoned(zone), false)
        .map_err(|error| invalid(error.to_string()))?;
    Ok(Timestamp(due.timestamp().as_microsecond()))
}

/// Pushes this worker's own, and submits what is due of all, until the task is ended.
pub(crate) async fn tick(crew: Arc<Crew>, own: Vec<CronJob>) {
    let mut is_pushed = own.is_empty();
    let mut is_away = false;
    loop {
        let pause = match look(&crew, &own, &mut is_pushed).await {
            Ok(pause) => {
                is_away = false;
                pause
            }
            Err(error) => {
                if !std::mem::replace(&mut is_away, true) {
                    tracing::warn!("submit what is due: {}; tried again", describe(&error));
                }
                Duration::from_secs(1)
            }
        };
        sleep(pause).await;
    }
}

async fn look(crew: &Crew, own: &[CronJob], is_pushed: &mut bool) -> Result<Duration, StoreError> {
    let (mut now, mut crons) = crew.store.crons().await?;
    if !*is_pushed {
        let due = |cron: &CronJob| {
            let next_at = next(&cron.name, &cron.definition, now).ok()?;
            Some(Cron { name: cron.name.clone(), definition: cron.definition.clone(), next_at })
        };
        let pushed: Vec<Cron> = own.iter().filter_map(due).collect();
        crew.store.push_crons(&pushed).await?;
        *is_pushed = true;
        (now, crons) = crew.store.crons().await?;
    }
    let mut pause = LOOK_INTERVAL;
    for cron in crons {
        if cron.next_at > now {
            let wait = Duration::from_micros((cron.next_at.0 - now.0).unsigned_abs());
            pause = pause.min(wait.max(Duration::from_millis(1)));
            continue;
        }
        // Missed ones are made up for by this one.
        match next(&cron.name, &cron.definition, now) {
            Ok(next_at) => {
                if let Some(job) = crew.store.tick_cron(&cron, next_at).await? {
                    tracing::info!(cron = cron.name, %job, "submitted");
                }
                pause = Duration::ZERO;
            }
            // Pushed by a program that knows more than this one.
            Err(error) => tracing::error!("{error}"),
        }
    }
    Ok(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<Instant>().unwrap().as_microsecond())
    }

    fn due(schedule: &str, zone: &str, after: &str) -> String {
        let definition = CronDefinition {
            schedule: schedule.to_owned(),
            time_zone: zone.to_owned(),
            ..CronDefinition::default()
        };
        let due = next("c", &definition, at(after)).unwrap();
        Instant::from_microsecond(due.0).unwrap().to_string()
    }

    #[test]
    fn schedules_follow_the_wall_clock_of_their_time_zone() {
        let noon = "0 12 * * *";
        assert_eq!(due(noon, "UTC", "2026-01-02T03:04:05Z"), "2026-01-02T12:00:00Z");
        assert_eq!(due(noon, "Europe/Berlin", "2026-01-02T03:04:05Z"), "2026-01-02T11:00:00Z");
        assert_eq!(due(noon, "Europe/Berlin", "2026-07-02T03:04:05Z"), "2026-07-02T10:00:00Z");
        assert_eq!(due(noon, "UTC", "2026-01-02T12:00:00Z"), "2026-01-03T12:00:00Z");
        assert_eq!(due("*/10 * * * * *", "UTC", "2026-01-02T12:00:01Z"), "2026-01-02T12:00:10Z");
        assert_eq!(due("@monthly", "UTC", "2026-01-02T12:00:00Z"), "2026-02-01T00:00:00Z");
    }

    #[test]
    fn change_of_clocks_leaves_no_day_out_and_takes_none_twice() {
        let zone = "Europe/Berlin";
        // 02:30 is left out on 29 March 2026, and comes twice on 25 October.
        assert_eq!(due("30 2 * * *", zone, "2026-03-28T12:00:00Z"), "2026-03-29T01:00:00Z");
        assert_eq!(due("30 2 * * *", zone, "2026-03-29T01:00:00Z"), "2026-03-30T00:30:00Z");
        assert_eq!(due("30 2 * * *", zone, "2026-10-24T12:00:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(due("30 2 * * *", zone, "2026-10-25T00:30:00Z"), "2026-10-26T01:30:00Z");
    }

    #[test]
    fn faulty_schedules_are_refused_with_the_remedy() {
        let wrong = CronJob::new("nightly", "0 25 * * *", "UTC", "t").unwrap_err().to_string();
        assert!(wrong.starts_with("cron \"nightly\": the schedule \"0 25 * * *\""), "{wrong}");
        let never = CronJob::new("never", "0 0 30 2 *", "UTC", "t");
        assert!(matches!(never, Err(InvalidCron::Schedule { .. })), "{never:?}");
        let zone = CronJob::new("c", "@daily", "Berlin", "t").unwrap_err().to_string();
        assert!(zone.contains("there is no time zone \"Berlin\""), "{zone}");
        assert_eq!(CronJob::new("", "@daily", "UTC", "t"), Err(InvalidCron::Name(0)));
    }
}
