//! The demo's live line: rewritten in place on a terminal, once a second elsewhere, not at all
//! with JSON.

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use super::ledger::Ledger;

/// How often a line is written where it cannot be rewritten.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// What a person watching sees, on stderr: stdout is for the result.
pub(super) struct Screen {
    mode: Mode,
    from: String,
    to: String,
    opened: Instant,
    shown: Instant,
    enqueued: u64,
    rate: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Silent,
    Rewrite,
    Lines,
}

impl Screen {
    pub(super) fn new(json: bool, from: String, to: String) -> Self {
        let mode = match (json, std::io::stderr().is_terminal()) {
            (_, true) => Mode::Rewrite,
            (true, false) => Mode::Silent,
            (false, false) => Mode::Lines,
        };
        let now = Instant::now();
        Self { mode, from, to, opened: now, shown: now, enqueued: 0, rate: 0.0 }
    }

    /// Says what is about to happen.
    pub(super) fn open(&self) {
        if self.mode != Mode::Silent {
            write(&format!(
                "orders from {} to {}; one transaction in five is rolled back; Ctrl-C ends\n",
                self.from, self.to
            ));
        }
    }

    /// Shows the counts.
    pub(super) fn show(&mut self, ledger: &Ledger, published: u64) {
        let since = self.shown.elapsed();
        if self.mode == Mode::Silent || (self.mode == Mode::Lines && since < LINE_EVERY) {
            return;
        }
        let enqueued = ledger.enqueued();
        let rate = (enqueued - self.enqueued) as f64 / since.as_secs_f64().max(0.001);
        // Smoothed, so that the figure can be read.
        self.rate = if self.rate == 0.0 { rate } else { self.rate * 0.7 + rate * 0.3 };
        (self.enqueued, self.shown) = (enqueued, Instant::now());
        let counts = ledger.so_far(published);
        let line = format!(
            "{:6.1} s  enqueued {} ({:.0}/s)  rolled back {}  delivered {}  lag p50 {:.1} ms \
             p99 {:.1} ms  duplicated {}  reordered {}",
            self.opened.elapsed().as_secs_f64(),
            counts.enqueued,
            self.rate,
            counts.rolled_back,
            counts.delivered,
            counts.lag_ms_p50,
            counts.lag_ms_p99,
            counts.duplicated,
            counts.reordered
        );
        match self.mode {
            Mode::Rewrite => write(&format!("\r{line}\x1b[K")),
            _ => write(&format!("{line}\n")),
        }
    }

    /// Leaves the live line.
    pub(super) fn close(&self) {
        if self.mode == Mode::Rewrite {
            write("\n");
        }
    }
}

fn write(text: &str) {
    let mut stderr = std::io::stderr();
    // Nobody may be watching any more; the demo goes on.
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}
