//! Contracts as the store keeps them: texts, by topic and version. What a schema says is no matter
//! here; it is compiled and compared by `posthaste_core::contract`.

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod push;

use posthaste_core::Timestamp;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) use push::{News, check};

/// Most contracts of one database.
pub const CONTRACTS_MAX: usize = 10_000;

/// Longest text of one schema, in bytes with its white space: 1 MiB.
pub const CONTRACT_BYTES_MAX: usize = 1024 * 1024;

/// Most bytes of all schemas of one database, which a relay reads at once: 64 MiB.
pub const CONTRACTS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A contract to push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContractText {
    /// The topic.
    pub topic: String,
    /// The version, from 1.
    pub version: u32,
    /// A JSON Schema as text, kept byte for byte: at most [`CONTRACT_BYTES_MAX`] bytes.
    pub schema: String,
}

/// A contract that was pushed. It never changes; a version that was removed may come again with
/// another schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredContract {
    /// The topic.
    pub topic: String,
    /// The version, from 1.
    pub version: u32,
    /// The JSON Schema as it was pushed.
    pub schema: String,
    /// When, on the database's clock.
    pub pushed_at: Timestamp,
}

/// One state of a database's contracts. The default is that of a database without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContractsMark {
    /// How many there are.
    pub(crate) count: i64,
    /// The number that was handed out last.
    pub(crate) newest: i64,
    /// When that one was pushed, in microseconds since the Unix epoch: a database that was restored
    /// hands its numbers out again.
    pub(crate) pushed_at: i64,
}

/// All contracts of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContractSet {
    /// Which state this is, for the next question.
    pub mark: ContractsMark,
    /// By topic, versions ascending: at most [`CONTRACTS_MAX`], of [`CONTRACTS_BYTES_MAX`] together.
    pub contracts: Vec<StoredContract>,
}
