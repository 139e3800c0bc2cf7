//! The contracts that a process knows, and whether a message keeps to its own.

use std::collections::{BTreeMap, HashMap};

use super::violation::quoted;
use super::{CONTRACT_HEADER, Contract, Violation};

/// Compiled contracts, by topic and version. A topic is contracted when one of its versions is known,
/// or when it is [declared](Self::declare) to be.
#[derive(Debug, Default)]
pub struct Contracts {
    topics: HashMap<String, BTreeMap<u32, Contract>>,
}

/// Two contracts of one topic and version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("contract {topic:?} version {version} is given twice: remove one, or number it anew")]
pub struct DuplicateContract {
    /// The topic.
    pub topic: String,
    /// The version.
    pub version: u32,
}

/// What a message that may pass was checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// No contract is known for its topic.
    Uncontracted,
    /// It is valid under this version.
    Valid {
        /// The version, from 1.
        version: u32,
    },
}

/// Why a message breaks the contract of its topic. Holds no value of the payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// The topic is contracted, and the message names no version.
    #[error(
        "topic {topic:?} is contracted: name the version in the header {CONTRACT_HEADER} (known: {})",
        list(known)
    )]
    NoVersion {
        /// The topic.
        topic: String,
        /// Versions that are known, ascending.
        known: Vec<u32>,
    },
    /// The topic has to be contracted, and none of its versions is known here. Of what no contract
    /// is known [`Contracts::check`] lets pass; this is for callers that do not.
    #[error("topic {topic:?} has to be contracted, and no contract of it is known here; deploy it")]
    UnknownTopic {
        /// The topic.
        topic: String,
    },
    /// The header does not hold a version.
    #[error(
        "topic {topic:?}: header {CONTRACT_HEADER} is {named}; a version is a number from 1 in decimal \
         digits, without sign or leading zeros"
    )]
    BadVersion {
        /// The topic.
        topic: String,
        /// The header's value in quotes, shortened.
        named: String,
    },
    /// No contract of this version is known here.
    #[error(
        "topic {topic:?}: contract version {version} is not known here (known: {}); deploy its \
         contract, or send a known version",
        list(known)
    )]
    UnknownVersion {
        /// The topic.
        topic: String,
        /// The version that the message names.
        version: u32,
        /// Versions that are known, ascending.
        known: Vec<u32>,
    },
    /// The payload is not valid.
    #[error("topic {topic:?} does not keep contract version {version}: {violation}")]
    Violation {
        /// The topic.
        topic: String,
        /// The version that the message names.
        version: u32,
        /// The first violation.
        violation: Violation,
    },
}

impl Breach {
    /// A short name that does not change: `no-version`, `bad-version`, `unknown-topic`,
    /// `unknown-version` or `violation`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoVersion { .. } => "no-version",
            Self::BadVersion { .. } => "bad-version",
            Self::UnknownTopic { .. } => "unknown-topic",
            Self::UnknownVersion { .. } => "unknown-version",
            Self::Violation { .. } => "violation",
        }
    }
}

impl Contracts {
    /// The set of these contracts.
    ///
    /// # Errors
    /// When two are of one topic and version.
    pub fn new(contracts: impl IntoIterator<Item = Contract>) -> Result<Self, DuplicateContract> {
        let mut topics: HashMap<String, BTreeMap<u32, Contract>> = HashMap::new();
        for contract in contracts {
            let (topic, version) = (contract.topic().to_owned(), contract.version());
            let versions = topics.entry(topic.clone()).or_default();
            if versions.insert(version, contract).is_some() {
                return Err(DuplicateContract { topic, version });
            }
        }
        Ok(Self { topics })
    }

    /// Says that `topic` is contracted, whichever versions are known here: a reader that cannot compile
    /// one of them must not let its messages pass.
    pub fn declare(&mut self, topic: impl Into<String>) {
        self.topics.entry(topic.into()).or_default();
    }

    /// Whether no topic is contracted.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Whether messages of `topic` have a contract to keep.
    pub fn is_contracted(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    /// Every contract, in no order of topics, versions ascending.
    pub fn iter(&self) -> impl Iterator<Item = &Contract> {
        self.topics.values().flat_map(BTreeMap::values)
    }

    /// The contract of a topic and version.
    pub fn get(&self, topic: &str, version: u32) -> Option<&Contract> {
        self.topics.get(topic)?.get(&version)
    }

    /// Judges a message: its topic, the value of its header [`CONTRACT_HEADER`] if it has one, and
    /// its payload. What passes costs no allocation but that of parsing the payload.
    ///
    /// # Errors
    /// When the topic is contracted and the message does not keep the version that it must name.
    pub fn check(
        &self,
        topic: &str,
        version: Option<&str>,
        payload: &[u8],
    ) -> Result<Checked, Breach> {
        let Some(versions) = self.topics.get(topic) else { return Ok(Checked::Uncontracted) };
        let known = || versions.keys().copied().collect();
        let topic = || topic.to_owned();
        let Some(named) = version else {
            return Err(Breach::NoVersion { topic: topic(), known: known() });
        };
        let Some(version) = parse_version(named) else {
            return Err(Breach::BadVersion { topic: topic(), named: quoted(named) });
        };
        let Some(contract) = versions.get(&version) else {
            return Err(Breach::UnknownVersion { topic: topic(), version, known: known() });
        };
        match contract.check(payload) {
            Ok(()) => Ok(Checked::Valid { version }),
            Err(violation) => Err(Breach::Violation { topic: topic(), version, violation }),
        }
    }
}

/// One spelling per version, so that headers can be compared as text.
fn parse_version(text: &str) -> Option<u32> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain)
}

/// Versions for a person; the newest where there are many.
fn list(versions: &[u32]) -> String {
    const SHOWN_MAX: usize = 8;
    if versions.is_empty() {
        return "none".to_owned();
    }
    let left_out = versions.len().saturating_sub(SHOWN_MAX);
    let shown = versions[left_out..].iter().map(u32::to_string);
    let dots = (left_out > 0).then(|| "…".to_owned());
    dots.into_iter().chain(shown).collect::<Vec<_>>().join(", ")
}
