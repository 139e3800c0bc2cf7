//! How far long work has come, on a terminal's stderr. Anywhere else, and with `--json`, nothing.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;

/// How long work takes before it is worth a word.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a spinner turns.
const TURN: Duration = Duration::from_millis(120);

/// A bar that goes away when it is dropped.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar for `total` pieces of work called `what`.
    pub(crate) fn new(out: &Output, what: &'static str, total: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), target(out));
        let form = "{msg} {wide_bar} {human_pos}/{human_len}, {per_sec}, {eta} left";
        bar.set_style(style(form));
        bar.set_message(what);
        Self { bar }
    }

    /// So many pieces more are done.
    pub(crate) fn advance(&self, by: u64) {
        self.bar.inc(by);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Waits for `work`, and says so where it takes long.
pub(crate) async fn wait<T>(out: &Output, what: &'static str, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    if let Ok(done) = tokio::time::timeout(PATIENCE, &mut work).await {
        return done;
    }
    let spinner = ProgressBar::with_draw_target(None, target(out));
    spinner.set_style(style("{spinner} {msg}, {elapsed}"));
    spinner.set_message(what);
    spinner.enable_steady_tick(TURN);
    let done = work.await;
    spinner.finish_and_clear();
    done
}

fn target(out: &Output) -> ProgressDrawTarget {
    if out.is_json() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
}

fn style(form: &str) -> ProgressStyle {
    ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_drawn_where_json_goes_out() {
        assert!(target(&Output::new(true)).is_hidden());
    }

    #[test]
    fn forms_are_valid() {
        for form in ["{msg} {wide_bar} {human_pos}/{human_len}, {per_sec}, {eta} left", "{spinner}"]
        {
            ProgressStyle::with_template(form).unwrap();
        }
    }
}
