//! The relay: moves the windows of each subscription from the log to its sink, in order.
//!
//! [`Relay`] owns one ticker and one sweeper per source and one pipeline per subscription
//! (`read page → publish → settle`). [`sinks`] holds one file per kind of sink behind the seam of
//! [`sink`]. There is no SQL here and no configuration file: the store is a
//! `posthaste_store::Store`, and the CLI hands the settings in.

pub mod clock;
mod drain;
mod envelope;
mod failpoint;
mod failures;
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
mod settings;
mod settler;
pub mod sink;
pub mod sinks;
mod source;
mod supervisor;
pub mod telemetry;

pub use monitor::{Counts, Monitor, State, SubscriptionSnapshot};
pub use relay::{Relay, RelayError, Subscription};
pub use settings::{AtLimit, FailureSettings, LostPlace, Policy, RelaySettings, RetrySettings};
