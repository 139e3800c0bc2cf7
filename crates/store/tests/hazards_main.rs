//! The hazards alone.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "postgres")]
mod hazards;
