//! Contracts: what the payloads of a topic must look like, version by version.
//!
//! A [`Contract`] is a JSON Schema (draft 2020-12) for one topic and one version. [`Contracts`] are
//! all that an application, a worker or a check in CI knows: a message names its version in
//! [`CONTRACT_HEADER`], and what does not match is refused with a [`Breach`] that says what to do.
//! [`differences`] says what a reader of one version cannot read of another, and
//! [`types`] writes a contract down as types of other languages.
//!
//! Nothing is ever fetched: a schema that refers to another document is refused. Files are
//! read by the callers, in the layout `<root>/<topic>/v<version>.json`.

mod compat;
mod compile;
mod document;
mod explain;
mod set;
pub mod types;
mod violation;

use std::fmt;

use jsonschema::Validator;
use serde_json::Value;

pub use compat::{Compatibility, DIFFERENCES_MAX, Difference, differences};
pub use compile::InvalidContract;
pub use set::{Breach, Checked, Contracts, DuplicateContract};
pub use violation::{PATH_BYTES_MAX, Violation};

pub use crate::message::CONTRACT_HEADER;
use explain::Explainer;

/// Longest schema, in bytes of its JSON without white space: 1 MiB.
pub const SCHEMA_BYTES_MAX: usize = 1024 * 1024;

/// Most levels of objects and arrays in a schema. Deep enough for a value 30 objects deep without
/// a reference; compiling a level takes stack.
pub const SCHEMA_DEPTH_MAX: usize = 64;

/// A compiled contract: what payloads of one topic look like in one version.
///
/// # Examples
/// ```
/// use posthaste_core::contract::Contract;
///
/// let schema = serde_json::json!({ "type": "object", "required": ["order"] });
/// let contract = Contract::new("orders.created", 1, schema)?;
/// assert!(contract.check(br#"{"order":17}"#).is_ok());
/// let violation = contract.check(b"{}").unwrap_err();
/// assert_eq!(violation.to_string(), "payload: lacks \"order\"");
/// # Ok::<(), posthaste_core::contract::InvalidContract>(())
/// ```
pub struct Contract {
    topic: String,
    version: u32,
    schema: Value,
    validator: Validator,
    explainer: Explainer,
    needs_body: bool,
}

impl Contract {
    /// Compiles `schema` as version `version` (from 1) of what `topic` carries.
    ///
    /// Formats that JSON Schema defines are asserted; names of others say nothing. Patterns are matched
    /// in time linear in the text, so they know no look-around and no back-references.
    ///
    /// # Errors
    /// Names the place in the schema and the remedy: when the topic or version is not valid, or the
    /// schema is not one of draft 2020-12, refers to another document or to itself in a circle, is
    /// larger than [`SCHEMA_BYTES_MAX`] or deeper than [`SCHEMA_DEPTH_MAX`], or a pattern does not
    /// compile.
    pub fn new(
        topic: impl Into<String>,
        version: u32,
        schema: Value,
    ) -> Result<Self, InvalidContract> {
        compile::compile(topic.into(), version, schema)
    }

    /// The contract that every value of `T` keeps when serde writes it, as version `version` (from
    /// 1) of what `topic` carries.
    ///
    /// What serde writes in any case is required; a field may be left out of a payload when `T`
    /// leaves it out itself (`skip_serializing_if`).
    ///
    /// # Errors
    /// As [`Self::new`].
    ///
    /// # Examples
    /// ```
    /// use posthaste_core::contract::Contract;
    ///
    /// #[derive(serde::Serialize, schemars::JsonSchema)]
    /// struct Order {
    ///     order: u64,
    /// }
    ///
    /// let contract = Contract::of::<Order>("orders.created", 1)?;
    /// let payload = serde_json::to_vec(&Order { order: 17 })?;
    /// assert!(contract.check(&payload).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "schemars")]
    pub fn of<T: schemars::JsonSchema + ?Sized>(
        topic: impl Into<String>,
        version: u32,
    ) -> Result<Self, InvalidContract> {
        let settings = schemars::generate::SchemaSettings::draft2020_12().for_serialize();
        let schema = settings.into_generator().into_root_schema_for::<T>();
        Self::new(topic, version, schema.to_value())
    }

    /// Whether `payload` is valid: parsed once, and judged up to the first violation.
    ///
    /// An empty payload stands for "no body". It is valid when the schema demands nothing of
    /// any value (`true`, `{}` or annotations only), and a violation otherwise. Of a property that
    /// stands twice in one object the last is judged. Payloads nest at most 127 levels deep.
    ///
    /// # Errors
    /// The first violation; what that is of several is not fixed.
    pub fn check(&self, payload: &[u8]) -> Result<(), Violation> {
        if payload.is_empty() {
            return if self.needs_body { Err(explain::no_body()) } else { Ok(()) };
        }
        let value = serde_json::from_slice(payload).map_err(|fault| explain::not_json(&fault))?;
        if self.validator.is_valid(&value) {
            return Ok(());
        }
        Err(self.explainer.explain(&self.schema, &self.validator, &value))
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The version, from 1.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The schema as it was given.
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// Whether an empty payload is a violation.
    pub fn needs_body(&self) -> bool {
        self.needs_body
    }
}

impl fmt::Debug for Contract {
    /// Topic and version: a compiled schema is long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contract")
            .field("topic", &self.topic)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
