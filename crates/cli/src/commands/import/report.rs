//! What an import says. Never a payload and never a header's value.

use posthaste_core::Message;
use posthaste_store::{ImportCounts, ImportRow};
use serde_json::{Value, json};

use crate::{commands::tail, failure::Result, output::Output};

/// The table and what was found in it.
pub(super) struct Report {
    pub(super) table: String,
    pub(super) counts: ImportCounts,
}

/// A row that makes no message.
pub(super) fn problem(row: &str, reason: &str, out: &mut Output) -> Result {
    let human = format!("row {}: {}", tail::without_controls(row), tail::without_controls(reason));
    Ok(out.result(&json!({ "row": row, "problem": reason }), &human)?)
}

impl Report {
    /// What would be done.
    pub(super) fn planned(&self, first: &[ImportRow], problems: u64, out: &mut Output) -> Result {
        let ImportCounts { rows, left_out, copied_before, waiting, open_transactions } =
            self.counts;
        let messages = first.iter().filter_map(|row| Some((row, row.message.as_ref().ok()?)));
        if out.is_json() {
            for (row, message) in messages {
                out.object(&as_json(row, message))?;
            }
            return Ok(out.object(&json!({
                "table": self.table,
                "rows": rows,
                "left_out": left_out,
                "copied_before": copied_before,
                "waiting": waiting,
                "problems": problems,
                "open_transactions": open_transactions,
                "dry_run": true,
            }))?);
        }
        let header = ["ROW", "MESSAGE ID", "TOPIC", "KEY", "CONTENT TYPE", "HEADERS", "BYTES"];
        let shown: Vec<Vec<String>> = messages.map(|(row, it)| as_cells(row, it)).collect();
        if !shown.is_empty() {
            out.table(&header, shown)?;
        }
        out.line(&format!(
            "{} of the {rows} rows of {} would be copied; {left_out} are published or not meant, \
             {copied_before} were copied before, {problems} make no message.",
            waiting - problems.min(waiting),
            self.table
        ))?;
        self.writers(open_transactions, out)
    }

    /// What was done.
    pub(super) fn done(
        &self,
        messages: u64,
        marked: u64,
        left: &ImportCounts,
        out: &mut Output,
    ) -> Result {
        let result = json!({
            "table": self.table,
            "copied": messages,
            "marked": marked,
            "left": left.waiting,
            "open_transactions": left.open_transactions,
            "dry_run": false,
        });
        let marked = if marked > 0 { format!(", {marked} rows marked") } else { String::new() };
        let human = format!(
            "{messages} messages copied from {}{marked}; {} rows left to copy.",
            self.table, left.waiting
        );
        out.result(&result, &human)?;
        if out.is_json() { Ok(()) } else { self.writers(left.open_transactions, out) }
    }

    fn writers(&self, open_transactions: u64, out: &mut Output) -> Result {
        if open_transactions == 0 {
            return Ok(());
        }
        let text = format!(
            "{open_transactions} open transactions have written to {}: run it once more when they \
             have ended.",
            self.table
        );
        Ok(out.line(&text)?)
    }
}

fn names(message: &Message) -> Vec<&str> {
    message.header_pairs().iter().map(|(name, _)| name.as_str()).collect()
}

fn as_json(row: &ImportRow, message: &Message) -> Value {
    json!({
        "row": row.id,
        "message_id": message.message_id(),
        "topic": message.topic(),
        "key": message.ordering_key(),
        "content_type": message.media_type(),
        "headers": names(message),
        "correlation_id": message.correlation(),
        "payload_bytes": row.payload_bytes,
    })
}

fn as_cells(row: &ImportRow, message: &Message) -> Vec<String> {
    let id = message.message_id().map_or_else(|| "new".to_owned(), |id| id.to_string());
    vec![
        tail::without_controls(&row.id),
        id,
        message.topic().to_owned(),
        message.ordering_key().unwrap_or("-").to_owned(),
        message.media_type().to_owned(),
        names(message).join(" "),
        row.payload_bytes.to_string(),
    ]
}
