//! Histories: applications write under load and faults, and every message is accounted for.
//!
//! Each application transaction records its messages in a mirror table of its own, so the mirror
//! says exactly what was committed; `posthaste_testkit::history` compares it with what arrived.
//! Random choices come from a seed, which a failing test prints with the command that repeats it.

mod application;
mod drains;
mod failover;
mod faults;
mod leases;
mod long_transactions;
mod order;
mod rewound;
mod scene;
mod seed;
mod targets;
mod transactions;
