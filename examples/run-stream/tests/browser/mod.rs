//! A real browser, without a window: Debian's Chromium, driven by `watch.cjs`.

use std::{
    io::{BufRead as _, BufReader, Lines},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use posthaste_testkit::{
    install::{self, Tool},
    npm,
};
use serde::{Deserialize, de::DeserializeOwned};

const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser");

/// What the page shows of a run.
#[derive(Debug, Deserialize)]
pub(crate) struct Shown {
    pub(crate) run: String,
    pub(crate) events: Vec<String>,
    pub(crate) told: String,
}

/// What went wrong on the page.
#[derive(Debug, Deserialize)]
pub(crate) struct Ended {
    pub(crate) errors: Vec<String>,
}

/// A browser that has started a run on the page. Its program gives it up where nothing happens for a minute.
pub(crate) struct Browser {
    driver: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// What it has told last.
    last: String,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    /// The driver ends Chromium when it is told to end.
    fn drop(&mut self) {
        let id = self.driver.id().to_string();
        let _ = Command::new("kill").args(["-s", "TERM", &id]).status();
        let _ = self.driver.wait();
    }
}

impl Browser {
    pub(crate) fn open(page: &str) -> Self {
        let programs = Path::new(PROGRAMS);
        install::ensure(&[Tool::Chromium]).unwrap();
        let packages = npm::packages(programs).unwrap();
        let profile = tempfile::tempdir().unwrap();
        let mut driver = Command::new("node")
            .arg(programs.join("watch.cjs"))
            .arg(install::chromium().unwrap())
            .arg(page)
            .arg(profile.path())
            .args(std::env::var_os("POSTHASTE_SCREENSHOT"))
            .env("NODE_PATH", packages)
            .env("HOME", profile.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        Self { driver, lines, last: String::new(), _profile: profile }
    }

    /// The page once it shows at least so many events.
    pub(crate) fn until(&mut self, events: usize) -> Shown {
        loop {
            let shown: Shown = self.next();
            if shown.events.len() >= events {
                return shown;
            }
        }
    }

    /// What went wrong, once the run is over.
    pub(crate) fn ends(mut self) -> Ended {
        self.next()
    }

    fn next<T: DeserializeOwned>(&mut self) -> T {
        let Some(line) = self.lines.next() else {
            panic!("the browser has given up; the last that it showed was {}", self.last);
        };
        self.last = line.unwrap();
        serde_json::from_str(&self.last).unwrap_or_else(|error| panic!("{}: {error}", self.last))
    }
}
