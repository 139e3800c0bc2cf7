//! Ticks, and a subscription's place between them.

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
}

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
        Self { base: tick, within: None, message: None }
    }

    /// This place after the window up to `head` has been published through `position`, the last
    /// message of it being `message` (unchanged when `None`: a page may hold no match).
    #[must_use]
    pub fn moved_to(self, head: TickRef, position: Position, message: Option<Uuid>) -> Self {
        Self {
            base: self.base,
            within: Some(Within { head, position }),
            message: message.or(self.message),
        }
    }

    /// This place after the whole window up to `head` has been published.
    #[must_use]
    pub fn finished(self, head: TickRef) -> Self {
        Self { base: head, within: None, message: self.message }
    }

    /// Whether this place is at or beyond `other`, both of one subscription.
    pub fn covers(&self, other: &Self) -> bool {
        let key = |place: &Self| (place.base.n, place.within.map_or(0, |within| within.position));
        key(self) >= key(other)
    }
}
