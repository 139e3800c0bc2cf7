//! `posthaste sweep`: forgets what is past its retention, where no relay runs that does so.

use posthaste_store::{StoreError, SweepReport};
use serde_json::json;

use crate::{config::Config, failure::Result, output::Output, progress, store};

/// Sweeps until nothing is left to forget.
pub(crate) async fn run(config: &Config, out: &mut Output) -> Result {
    let store = store::open(config, store::Missing::Refuse).await?;
    store.check().await?;
    let sweeping = async {
        let mut all = SweepReport::default();
        loop {
            let report = store.sweep().await?;
            all.slots_emptied += report.slots_emptied;
            all.rows_deleted += report.rows_deleted;
            all.tokens_deleted += report.tokens_deleted;
            all.inbox_deleted += report.inbox_deleted;
            all.commands_deleted += report.commands_deleted;
            all.jobs_deleted += report.jobs_deleted;
            // Rows are deleted in chunks, so that one sweep may leave some.
            let rows = [
                report.rows_deleted,
                report.tokens_deleted,
                report.inbox_deleted,
                report.commands_deleted,
                report.jobs_deleted,
            ];
            if rows == [0; 5] {
                return Ok::<_, StoreError>(all);
            }
        }
    };
    let report = progress::wait(out, "sweeping", sweeping).await?;
    let (messages, commands) = (report.inbox_deleted, report.commands_deleted);
    let (jobs, tokens) = (report.jobs_deleted, report.tokens_deleted);
    let human = format!(
        "Forgotten: {messages} handled messages, {commands} commands, {jobs} jobs, {tokens} tokens. Of \
         the log: {} slots emptied, {} rows deleted.",
        report.slots_emptied, report.rows_deleted
    );
    let value = json!({
        "inbox": messages,
        "commands": commands,
        "jobs": jobs,
        "tokens": tokens,
        "slots_emptied": report.slots_emptied,
        "rows_deleted": report.rows_deleted,
    });
    Ok(out.result(&value, &human)?)
}
