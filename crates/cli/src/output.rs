//! Where commands write their results: a table on a terminal, one JSON object per line elsewhere.
//!
//! Writing never panics: a reader that went away is an error that `main` ends quietly on.

use std::io::{self, IsTerminal as _, Write as _};

use anstream::{AutoStream, ColorChoice};
use comfy_table::{Table, presets};
use serde::Serialize;

/// The standard output of one command.
pub(crate) struct Output {
    stream: AutoStream<io::Stdout>,
    json: bool,
    asked: bool,
}

impl Output {
    /// JSON when asked for, or when nobody looks at a terminal.
    pub(crate) fn new(asked: bool) -> Self {
        let stdout = io::stdout();
        let stream = AutoStream::new(io::stdout(), ColorChoice::Auto);
        Self { stream, json: asked || !stdout.is_terminal(), asked }
    }

    /// Whether results go out as JSON.
    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// Whether JSON was asked for by name: then nothing else goes out but faults.
    pub(crate) const fn is_asked_for_json(&self) -> bool {
        self.asked
    }

    /// Writes one object as one line.
    pub(crate) fn object(&mut self, value: &impl Serialize) -> io::Result<()> {
        let line = serde_json::to_string(value)?;
        self.line(&line)
    }

    /// Writes `value` as JSON, or `human` as text.
    pub(crate) fn result(&mut self, value: &impl Serialize, human: &str) -> io::Result<()> {
        if self.json { self.object(value) } else { self.line(human) }
    }

    /// Writes `text` as it is, on a terminal or not, unless `json` was asked for by name.
    pub(crate) fn raw(&mut self, value: &impl Serialize, text: &str) -> io::Result<()> {
        if self.asked { self.object(value) } else { self.line(text) }
    }

    /// Writes a line of text.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.stream, "{text}")?;
        self.stream.flush()
    }

    /// Writes a table for people. Long cells wrap at the terminal's width.
    pub(crate) fn table(&mut self, header: &[&str], rows: Vec<Vec<String>>) -> io::Result<()> {
        self.line(&render(header, rows))
    }

    /// Columns of the terminal; 80 where it does not say, or says nonsense.
    pub(crate) fn width() -> usize {
        Table::new().width().map(usize::from).filter(|columns| *columns >= 20).unwrap_or(80)
    }
}

fn render(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_a_header_and_no_frame() {
        let rows = vec![vec!["orders".to_owned(), "17".to_owned()]];
        let text = render(&["NAME", "BACKLOG"], rows);
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines, [["NAME", "BACKLOG"], ["orders", "17"]]);
    }
}
