//! A wall clock that a test sets, under programs that it starts. Their monotonic clocks go on.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::PathBuf,
};

use uuid::Uuid;

use crate::{account::Account, cache, error::TestkitError, postgres::chain, preload};

const SOURCE: &str = include_str!("wrong_clock.c");

/// A clock that is right, until a test sets it. Dropping it leaves it as it is for programs that
/// still run.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    /// The seconds by which it is wrong: eight bytes, mapped by the programs.
    error: PathBuf,
}

impl Clock {
    /// A clock that is right.
    ///
    /// # Panics
    /// When the library cannot be built: there is no C compiler.
    pub fn new() -> Self {
        Self::build().unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    fn build() -> Result<Self, TestkitError> {
        let account = Account::current()?;
        let library = preload::library(account, "wrong-clock", SOURCE)?;
        let error = cache::temporary(account).join(format!("posthaste-clock-{}", Uuid::new_v4()));
        let clock = Self { library, error };
        fs::write(&clock.error, 0_i64.to_ne_bytes()).map_err(TestkitError::io("make a clock"))?;
        Ok(clock)
    }

    /// What a program needs in its environment to go by this clock.
    pub fn environment(&self) -> [(&'static str, OsString); 2] {
        let (library, error) = (self.library.clone(), self.error.clone());
        [("LD_PRELOAD", library.into()), ("TESTKIT_CLOCK", error.into())]
    }

    /// From now on it is wrong by `seconds`, ahead if they are positive.
    ///
    /// # Panics
    /// When that cannot be told to the programs.
    pub fn set(&self, seconds: i64) {
        // In place: the file is mapped, and may not be shorter for a moment.
        let file = OpenOptions::new().write(true).open(&self.error).expect("the clock's file");
        file.write_all_at(&seconds.to_ne_bytes(), 0).expect("room for the clock");
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        // What maps it keeps it.
        let _ = fs::remove_file(&self.error);
    }
}
