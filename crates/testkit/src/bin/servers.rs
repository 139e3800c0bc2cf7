//! Starts a private `PostgreSQL` and a private Redis, prints where they are, and keeps them until
//! it ends.
//!
//! Useful by hand (`cargo run -p posthaste-testkit`, then Ctrl-C), and run by the testkit's own
//! tests, which end it in every way a process can end. With `--panic` it panics once the servers
//! run; otherwise it waits for its input to end.

use std::io::{Read, stdin};

use posthaste_testkit::{Postgres, Redis};

fn main() {
    let (postgres, redis) = (Postgres::shared(), Redis::shared());
    println!("postgres {} {}", postgres.url("postgres"), postgres.data_dir().display());
    println!("redis {} {}", redis.url(), redis.data_dir().display());
    println!("ready");
    assert!(std::env::args().all(|argument| argument != "--panic"), "asked to panic");
    // Nothing is expected but the end.
    let _ = stdin().read_to_end(&mut Vec::new());
}
