//! Whether data of one version can be read under another.
//!
//! One question, [`differences`]: where may a value that is valid under one schema be invalid under another?
//! An empty answer is a proof. Each keyword of the reader has to follow from what is known of
//! the values that are written; where that cannot be shown, the answer says so, and does not guess.
//! So a difference may be reported that no value shows; one that some value shows is never left out.
//!
//! `facts` collects what is known of a written value, `keywords`, `objects`, `arrays` and
//! `alternatives` ask whether a keyword follows from it, and `comparison` joins them.

mod alternatives;
mod arrays;
mod comparison;
mod facts;
mod keywords;
mod kinds;
mod numbers;
mod objects;
mod side;

use std::fmt;

use super::Contract;
use comparison::Comparison;

/// Most differences that are reported of one comparison.
pub const DIFFERENCES_MAX: usize = 100;

/// A place where a value that one version allows may not be allowed by another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Difference {
    /// A JSON pointer (RFC 6901) into the values, empty for the whole; `*` stands for any item, and
    /// for any property that has no name in the schema.
    pub path: String,
    /// The keyword, and what it says where values are written and where they are read.
    pub what: String,
}

impl fmt::Display for Difference {
    /// The whole payload is called `payload`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "payload" } else { &self.path };
        write!(f, "{path}: {}", self.what)
    }
}

/// Which of two versions of a contract can read the other's data; as a demand, which must.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compatibility {
    /// Neither.
    None,
    /// The new version reads what the old one wrote: consumers may be updated first.
    #[default]
    Backward,
    /// The old version reads what the new one writes: producers may be updated first.
    Forward,
    /// Both.
    Full,
}

impl Compatibility {
    /// The most that can be shown of two versions.
    pub fn of(old: &Contract, new: &Contract) -> Self {
        let reads = |written, read| differences(written, read).is_empty();
        match (reads(old, new), reads(new, old)) {
            (false, false) => Self::None,
            (true, false) => Self::Backward,
            (false, true) => Self::Forward,
            (true, true) => Self::Full,
        }
    }

    /// What keeps `new` from following `old` where this much is demanded.
    pub fn differences(self, old: &Contract, new: &Contract) -> Vec<Difference> {
        let mut all = Vec::new();
        if matches!(self, Self::Backward | Self::Full) {
            all.extend(differences(old, new));
        }
        if matches!(self, Self::Forward | Self::Full) {
            all.extend(differences(new, old));
        }
        all
    }
}

/// Where a value that is valid under `written` may be invalid under `read`: at most
/// [`DIFFERENCES_MAX`] places, and none only when there is no such value. Topics and versions are not
/// compared.
pub fn differences(written: &Contract, read: &Contract) -> Vec<Difference> {
    Comparison::new(written, read).run()
}
