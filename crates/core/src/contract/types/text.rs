//! Source text that is put together piece by piece.

use std::fmt::{self, Write as _};

/// A text that grows.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    /// Appends what `format_args!` makes.
    pub(super) fn add(&mut self, piece: fmt::Arguments<'_>) {
        // Cannot fail: a string takes everything.
        let _ = self.0.write_fmt(piece);
    }

    pub(super) fn done(self) -> String {
        self.0
    }
}

/// Each note on a line of its own, behind `prefix`.
pub(super) fn lines(prefix: &str, notes: &[String]) -> String {
    let mut text = Text::default();
    for note in notes {
        text.add(format_args!("{prefix}{note}\n"));
    }
    text.done()
}
