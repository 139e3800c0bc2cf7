//! Benchmark jobs: a specification names questions, a runner answers them, and its receipt is read question by
//! question.
//!
//! [`Place`] is the application: it submits a job with its own row in one transaction, carries it to the runner (in this
//! process, or over a Redis stream), and shows what came of it. [`Runner`] is the handler. What goes between them keeps the
//! contracts in `contracts/`, on both sides.

mod database;
mod place;
mod receipt;
mod runner;
mod spec;

pub use self::{
    place::{Place, PlaceError, Settings, Shown, Submitted},
    receipt::{Answered, answers},
    runner::{Catalogue, Question, Runner},
    spec::{Constraints, JobSpec},
};

/// Topic of submitted jobs.
pub const JOBS: &str = "jobs.submitted";
/// Topic of the receipts' contract.
pub const RECEIPTS: &str = "jobs.receipt";
/// The version of both contracts.
pub const VERSION: u32 = 1;
