//! A database snapshot: which transactions it shows.
//!
//! The text form and its meaning are PostgreSQL's `pg_snapshot` (`xmin:xmax:xip,…`; manual,
//! "Transaction ID and Snapshot Information Functions"). SQLite has one writer, so its store
//! uses a position as the transaction id and leaves `xip` empty.

use std::{fmt, str::FromStr};

/// A snapshot: transactions below `xmin` ended before it, those from `xmax` on began after it,
/// and those listed in `xip` were in progress.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    xip: Vec<u64>,
}

/// A snapshot text that is not of the form `xmin:xmax:xip,…`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot: {text:?} (expected xmin:xmax:xip,…)")]
pub struct InvalidSnapshot {
    text: String,
}

impl Snapshot {
    /// The snapshot that shows nothing: where a subscription from the beginning starts.
    pub const fn nothing() -> Self {
        Self { xmin: 1, xmax: 1, xip: Vec::new() }
    }

    /// The snapshot without gaps that shows every id up to `id`.
    pub const fn through(id: u64) -> Self {
        Self { xmin: id + 1, xmax: id + 1, xip: Vec::new() }
    }

    /// Builds a snapshot; `xip` may be in any order and is limited to `xmin..xmax`.
    ///
    /// # Errors
    /// When `xmin` is 0, lies above `xmax`, or an entry of `xip` lies outside `xmin..xmax`.
    pub fn new(xmin: u64, xmax: u64, mut xip: Vec<u64>) -> Result<Self, InvalidSnapshot> {
        xip.sort_unstable();
        xip.dedup();
        let inside = xip.first().is_none_or(|x| *x >= xmin) && xip.last().is_none_or(|x| *x < xmax);
        let snapshot = Self { xmin, xmax, xip };
        if xmin == 0 || xmin > xmax || !inside {
            return Err(InvalidSnapshot { text: snapshot.to_string() });
        }
        Ok(snapshot)
    }

    /// The lowest transaction id that may still be in progress.
    pub const fn xmin(&self) -> u64 {
        self.xmin
    }

    /// One more than the highest transaction id that had ended.
    pub const fn xmax(&self) -> u64 {
        self.xmax
    }

    /// The transactions in progress below `xmax`, ascending.
    pub fn xip(&self) -> &[u64] {
        &self.xip
    }

    /// Whether a committed transaction `xid` is visible in this snapshot. As in PostgreSQL's
    /// `pg_visible_in_snapshot`, only numbers are compared: an aborted transaction "is visible"
    /// too, but leaves no rows to see.
    pub fn shows(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.xip.binary_search(&xid).is_err())
    }

    /// The transactions in progress at `self` that `later` shows: the late part of their window.
    pub fn late_at(&self, later: &Self) -> Vec<u64> {
        self.xip.iter().copied().filter(|xid| later.shows(*xid)).collect()
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (index, xid) in self.xip.iter().enumerate() {
            write!(f, "{}{xid}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for Snapshot {
    type Err = InvalidSnapshot;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidSnapshot { text: text.chars().take(80).collect() };
        let number = |part: &str| part.parse::<u64>().map_err(|_| invalid());
        let mut parts = text.splitn(3, ':');
        let (Some(xmin), Some(xmax), Some(xip)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(invalid());
        };
        let xip =
            xip.split(',').filter(|part| !part.is_empty()).map(number).collect::<Result<_, _>>()?;
        Self::new(number(xmin)?, number(xmax)?, xip).map_err(|_| invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in ["10:10:", "10:20:10,15", "726:726:"] {
            assert_eq!(text.parse::<Snapshot>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn malformed_text_is_refused_and_named() {
        for text in ["", "10", "10:9:", "0:5:", "10:20:25", "10:20:9", "a:b:", "10:20:x", "1:2"] {
            let error = text.parse::<Snapshot>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn shows_what_ended_before_and_nothing_in_progress() {
        let snapshot: Snapshot = "10:20:10,15".parse().unwrap();
        let shown: Vec<u64> = (8..22).filter(|xid| snapshot.shows(*xid)).collect();
        assert_eq!(shown, [8, 9, 11, 12, 13, 14, 16, 17, 18, 19]);
    }

    #[test]
    fn nothing_shows_nothing() {
        assert!((1..1_000).all(|xid| !Snapshot::nothing().shows(xid)));
    }
}
