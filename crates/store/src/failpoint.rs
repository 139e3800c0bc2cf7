//! Fail points: the steps of relays and workers at which a test may stop the whole process, to kill
//! or pause it exactly there.
//!
//! Nothing of it is in a build without the feature `failpoints`. With it, a process whose variable
//! `TORTURE_FAILPOINTS` is set obeys its standard input, a line each: `arm POINT N` stops it at the
//! Nth time that a lane (in a worker: a job or a message) comes to that point, `disarm` forgets that,
//! and `go` lets it go on after it was continued, `panic` ends the lane there: whatever it does at the
//! moment is dropped in the middle. The first line is read before the first point is passed. A process
//! that stops says `POINT LANE` on its standard output. The end of its input ends it, so that none
//! outlives whoever drives it.

#[cfg(feature = "failpoints")]
pub use driven::reach;

/// A lane has come to a point.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[allow(clippy::inline_always)] // Nothing is left of a call.
pub fn reach(_point: &str, _lane: &str) {}

#[cfg(feature = "failpoints")]
mod driven {
    use std::{
        env,
        io::{self, BufRead as _, Write as _},
        process,
        sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError},
        thread,
    };

    use rustix::process::{Signal, getpid, kill_process};

    static DRIVEN: LazyLock<bool> = LazyLock::new(begin);
    static STATE: Mutex<State> = Mutex::new(State { armed: None, stopped: false, panics: false });
    static GOES_ON: Condvar = Condvar::new();

    struct State {
        /// A point, and how many times it has yet to be reached.
        armed: Option<(String, u32)>,
        stopped: bool,
        /// Whether the one that has stopped panics when it goes on.
        panics: bool,
    }

    impl State {
        /// Whether this is the occurrence that was asked for.
        fn is_hit(&mut self, point: &str) -> bool {
            let Some((armed, left)) = &mut self.armed else { return false };
            if armed != point {
                return false;
            }
            *left = left.saturating_sub(1);
            *left == 0
        }

        fn obey(&mut self, line: &str) {
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next().map(str::parse)) {
                (Some("arm"), Some(point), Some(Ok(nth))) => {
                    self.armed = Some((point.to_owned(), nth));
                }
                (Some("disarm"), ..) => self.armed = None,
                (Some(word @ ("go" | "panic")), ..) => {
                    (self.panics, self.stopped) = (self.stopped && word == "panic", false);
                    GOES_ON.notify_all();
                }
                _ => process::exit(1),
            }
        }
    }

    /// A lane has come to a point.
    ///
    /// # Panics
    /// When it is told to.
    pub fn reach(point: &str, lane: &str) {
        if !*DRIVEN {
            return;
        }
        let mut state = state();
        if state.stopped || !state.is_hit(point) {
            return;
        }
        (state.armed, state.stopped) = (None, true);
        println!("{point} {lane}");
        if io::stdout().flush().is_err() || kill_process(getpid(), Signal::STOP).is_err() {
            process::exit(1);
        }
        // The signal stops other threads first, perhaps: this one goes no further in any case.
        let waited = GOES_ON.wait_while(state, |state| state.stopped);
        let panics = std::mem::take(&mut waited.unwrap_or_else(PoisonError::into_inner).panics);
        assert!(!panics, "told to at {point}");
    }

    fn begin() -> bool {
        if env::var_os("TORTURE_FAILPOINTS").is_none() {
            return false;
        }
        obey_next();
        thread::spawn(|| {
            loop {
                obey_next();
            }
        });
        true
    }

    fn obey_next() {
        let mut line = String::new();
        match io::stdin().lock().read_line(&mut line) {
            Ok(0) | Err(_) => process::exit(1),
            Ok(_) => state().obey(&line),
        }
    }

    fn state() -> MutexGuard<'static, State> {
        STATE.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
