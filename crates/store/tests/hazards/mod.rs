//! Each failure that the log on PostgreSQL is built against, produced by hand.
//!
//! Every test names its defence: with that line taken out, it fails. Transactions are driven step
//! by step on connections of the test's own; tests whose result hangs on transaction ids that
//! nobody else takes, or on a crash, have a server of their own.

mod browse;
mod compilation;
mod contracts;
mod database;
mod durability;
mod fences;
mod isolation;
mod looks;
mod orders;
mod partitions;
mod refusals;
mod rewound;
mod rings;
mod rings_of_ticks;
mod scheduled;
mod takeovers;
mod tickers;
mod windows;
