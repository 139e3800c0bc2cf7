//! The relay: moves the windows of each subscription from the log to its sink, in order.
//!
//! [`Relay`] owns one ticker and one sweeper per source and one pipeline per subscription
//! (`read page → publish → settle`). [`sinks`] holds one file per kind of sink behind the seam of
//! [`sink`]. There is no SQL here and no configuration file: the store is a
//! `posthaste_store::Store`, and the CLI hands the settings in.

pub mod clock;
mod contracts;
mod drain;
mod envelope;
mod failures;
mod jitter;
mod leases;
mod ledger;
mod marks;
mod monitor;
mod once;
mod outlet;
mod pages;
mod parked;
mod pipeline;
mod policy;
mod preflight;
mod publisher;
mod reader;
mod relay;
mod retries;
mod screen;
mod settings;
mod settler;
pub mod sink;
pub mod sinks;
mod source;
mod supervisor;
pub mod telemetry;

use posthaste_store::failpoint;

#[doc(hidden)]
pub use contracts::Library as ContractLibrary;
pub use jitter::seed_jitter;
pub use monitor::{Counts, Monitor, State, SubscriptionSnapshot};
pub use relay::{Relay, RelayError, Subscription};
pub use settings::{
    AtLimit, ContractSettings, FailureSettings, LostPlace, OnBreach, Policy, RelaySettings,
    RetrySettings,
};
