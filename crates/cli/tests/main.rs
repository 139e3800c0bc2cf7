//! The binary as its users see it: what it prints, where, and how it exits. Every test runs the
//! real program in a directory and an environment of its own.

mod commands;
mod configuration;
mod exits;
mod harness;
mod relay;
mod secrets;
