//! What a machine checks about the code itself: which crate may know which, and the style that no
//! lint knows.

// clippy.toml allows it in test functions only; here the functions beside them are tests too.
#![allow(clippy::unwrap_used)]

mod layers;
mod rust_text;
mod tidy;
