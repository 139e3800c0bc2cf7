//! The binary as its users see it: what it prints, where, and how it exits. Every test runs the
//! real program in a directory and an environment of its own.

// `allow-unwrap-in-tests` reaches test functions only, not what they call.
#![allow(clippy::unwrap_used)]

mod alerts;
mod certificates;
mod commands;
mod configuration;
mod contracts;
mod demo;
mod described;
mod exits;
mod harness;
mod import;
mod inbox;
mod jobs;
mod machines;
mod once;
mod operations;
mod relay;
mod replays;
mod rewound;
mod room;
mod secrets;
mod serve;
mod servers;
mod specs;
mod strain;
mod switches;
mod targets;
mod telemetry;
mod traced;
mod traces;
mod waiting;
mod workers;
