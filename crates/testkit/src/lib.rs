//! Private servers for tests and benches: PostgreSQL in four versions, and Redis.
//!
//! Every server has its own data directory and its own free port on 127.0.0.1, and runs under a
//! guard process (`guard.rs`) that removes both when the test process ends, however it ends.
//! Missing server programs are installed where that is possible ([`install`]).
//!
//! This crate holds no test suites and knows nothing of Posthaste; it is a development dependency
//! only. It needs Linux: the guard reads `/proc`.

mod account;
mod backup;
mod cache;
mod clock;
mod cluster;
mod database;
mod deployments;
mod disk;
mod error;
pub mod exposition;
pub mod failure;
mod guard;
pub mod history;
pub mod install;
pub mod npm;
mod pgbouncer;
mod postgres;
mod preload;
pub mod proxy;
pub mod python;
mod redis;
mod server;
mod tls;
mod wait;

pub use backup::Dump;
pub use clock::Clock;
pub use database::Database;
pub use deployments::{RedisCluster, RedisSentinels};
pub use disk::Disk;
pub use error::TestkitError;
pub use pgbouncer::Pgbouncer;
pub use postgres::{Auth, PgVersion, Postgres, PostgresOptions};
pub use redis::{Redis, RedisAuth, RedisOptions};
pub use tls::Tls;
pub use wait::{eventually, eventually_async};
