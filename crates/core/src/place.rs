//! Ticks, and a subscription's place between them.

use std::{fmt, str::FromStr};

use uuid::Uuid;

use crate::{Position, Snapshot};

/// Counts the holders of a subscription; a settle under an older epoch is refused (FENCED).
pub type Epoch = i64;

/// Names a tick: its number and the random id it was stored with. The id tells a tick of this
/// incarnation from one with the same number in a restored copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TickRef {
    /// Consecutive number, from 1. 0 is the virtual tick before the first message.
    pub n: i64,
    /// Random id; nil for tick 0.
    pub id: Uuid,
}

impl TickRef {
    /// The virtual tick before the first message.
    pub const BEGINNING: Self = Self { n: 0, id: Uuid::nil() };
}

/// A numbered database snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Number and id.
    pub at: TickRef,
    /// What was visible.
    pub snapshot: Snapshot,
}

impl Tick {
    /// The tick before the first message: it shows nothing.
    pub fn beginning() -> Self {
        Self { at: TickRef::BEGINNING, snapshot: Snapshot::nothing() }
    }
}

/// How far a subscription has come. Everything visible at `base` has been published; of the
/// window from `base` to `within.head`, everything up to `within.position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The last tick all of whose messages are published.
    pub base: TickRef,
    /// The window that is partly published, if there is one.
    pub within: Option<Within>,
    /// Id of the last published message, if any is known.
    pub message: Option<Uuid>,
    /// How many calls a sink that keeps places had counted by then; a sink that has counted fewer
    /// has lost some. `None` where a person or the configuration has chosen the place, and in
    /// front of a sink that keeps none.
    pub calls: Option<i64>,
}

/// Text that is no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place; one reads TICK/ID, or TICK/ID TICK/ID POSITION MESSAGE")]
pub struct InvalidPlace(String);

/// A position inside a window that is partly published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Within {
    /// The tick that closes the window.
    pub head: TickRef,
    /// Everything of the window up to here is published.
    pub position: Position,
}

impl Place {
    /// The place before the first message.
    pub const fn beginning() -> Self {
        Self::at(TickRef::BEGINNING)
    }

    /// The place at which everything visible at `tick` is published.
    pub const fn at(tick: TickRef) -> Self {
        Self { base: tick, within: None, message: None, calls: None }
    }

    /// This place after the window up to `head` has been published through `position`, the last
    /// message of it being `message` (unchanged when `None`: a page may hold no match).
    #[must_use]
    pub fn moved_to(self, head: TickRef, position: Position, message: Option<Uuid>) -> Self {
        Self {
            base: self.base,
            within: Some(Within { head, position }),
            message: message.or(self.message),
            calls: self.calls,
        }
    }

    /// This place after the whole window up to `head` has been published.
    #[must_use]
    pub fn finished(self, head: TickRef) -> Self {
        Self { base: head, within: None, ..self }
    }

    /// Whether this place is at or beyond `other`, both of one subscription.
    pub fn covers(&self, other: &Self) -> bool {
        let key = |place: &Self| (place.base.n, place.within.map_or(0, |within| within.position));
        key(self) >= key(other)
    }

    /// This place as a sink that had counted `calls` when it was published knows it.
    #[must_use]
    pub fn counted(self, calls: Option<i64>) -> Self {
        Self { calls, ..self }
    }
}

/// As a sink keeps it: `3/6e0f…`, or `3/6e0f… 4/91c2… 1200 77a0…` inside a window, with `-` for a
/// message that is not known. Calls are the sink's own to count.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base.n, self.base.id.simple())?;
        if let Some(Within { head, position }) = self.within {
            write!(f, " {}/{} {position} ", head.n, head.id.simple())?;
            match self.message {
                Some(message) => write!(f, "{}", message.simple())?,
                None => f.write_str("-")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Place {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        parse(text).ok_or_else(|| InvalidPlace(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Place> {
    let mut words = text.split(' ');
    let base = parse_tick(words.next()?)?;
    let Some(head) = words.next() else { return Some(Place::at(base)) };
    let (head, position): (_, Position) = (parse_tick(head)?, words.next()?.parse().ok()?);
    let message = match words.next()? {
        "-" => None,
        id => Some(id.parse().ok()?),
    };
    let is_whole = words.next().is_none() && position >= 0;
    is_whole.then(|| Place::at(base).moved_to(head, position, message))
}

fn parse_tick(text: &str) -> Option<TickRef> {
    let (n, id) = text.split_once('/')?;
    let n = n.parse().ok().filter(|n| *n >= 0)?;
    Some(TickRef { n, id: id.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(n: i64) -> TickRef {
        TickRef { n, id: Uuid::from_u128(n as u128 + 77) }
    }

    #[test]
    fn place_reads_as_it_was_written() {
        let message = Some(Uuid::from_u128(5));
        for place in [
            Place::beginning(),
            Place::at(tick(3)),
            Place::at(tick(3)).moved_to(tick(9), 1_200, message),
            Place::at(tick(3)).moved_to(tick(9), Position::MAX, None),
        ] {
            assert_eq!(place.to_string().parse(), Ok(place));
        }
    }

    #[test]
    fn text_that_is_no_place_is_refused() {
        let written = Place::at(tick(3)).moved_to(tick(9), 1_200, None).to_string();
        let cut = &written[..written.len() - 2];
        let forged = written.replace(" 1200 ", " -1200 ");
        for text in
            ["", "3", "3/x", cut, &format!("{written} more"), &format!("-{written}"), &forged]
        {
            assert_eq!(text.parse::<Place>(), Err(InvalidPlace(text.to_owned())));
        }
    }
}
