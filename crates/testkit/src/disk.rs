//! A disk that a test can fill and free again, under a program that it starts.
//!
//! Mounting a small file system needs privileges that a test may not have, and filling a real one
//! hurts its neighbours. So a library of one page (`full_disk.c`) is loaded into the program and
//! answers the calls that would make a file grow as the kernel does on a full disk; everything else
//! is the real program on the real file system.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::{account::Account, cache, error::TestkitError, postgres::chain, preload};

const SOURCE: &str = include_str!("full_disk.c");

/// A disk with room, until a test fills it. Dropping it frees it.
#[derive(Debug)]
pub struct Disk {
    library: PathBuf,
    /// While it exists, the disk is full; it holds the directory that the disk is mounted at.
    mark: PathBuf,
}

impl Disk {
    /// A disk with room.
    ///
    /// # Panics
    /// When the library cannot be built: there is no C compiler.
    pub fn new() -> Self {
        Self::build().unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    fn build() -> Result<Self, TestkitError> {
        let account = Account::for_postgres()?;
        let library = preload::library(account, "full-disk", SOURCE)?;
        let mark = cache::temporary(account).join(format!("posthaste-full-{}", Uuid::new_v4()));
        Ok(Self { library, mark })
    }

    /// What a program needs in its environment to be on this disk.
    pub fn environment(&self) -> [(&'static str, OsString); 2] {
        let (library, mark) = (self.library.clone(), self.mark.clone());
        [("LD_PRELOAD", library.into()), ("TESTKIT_FULL_DISK", mark.into())]
    }

    /// From now on no file below `directory` can grow.
    ///
    /// # Panics
    /// When that cannot be told to the program.
    pub fn fill(&self, directory: &Path) {
        // By a rename, so that nobody reads half of it.
        let draft = self.mark.with_extension("draft");
        fs::write(&draft, directory.as_os_str().as_encoded_bytes()).expect("a file for the mark");
        fs::rename(&draft, &self.mark).expect("the mark in its place");
    }

    /// There is room again.
    pub fn free(&self) {
        // It may have had room all the time.
        let _ = fs::remove_file(&self.mark);
    }
}

impl Default for Disk {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.free();
    }
}
