//! `posthaste import`: copies an outbox that an application has kept itself into the log.

mod layout;
mod report;

use clap::Args;
use posthaste_store::{Import, ImportCounts, ImportRow, TableName, TopicTemplate};

use self::{layout::Layout, report::Report};
use super::selection::ChangeArgs;
use crate::{
    config::Config,
    exit::Exit,
    failure::{Failure, Result},
    output::Output,
    progress::{self, Progress},
    signals::Stop,
    store,
};

/// Rows whose messages a dry run shows.
const SHOWN_ROWS: usize = 5;

/// The table, and what its columns mean.
#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// Table, in the log's database: outbox, public.outbox; odd names as in SQL, "Shop"."out.box"
    #[arg(long, value_name = "TABLE")]
    table: TableName,
    /// Names of the columns where nothing else is said
    #[arg(long, value_enum, default_value_t = Layout::Plain)]
    layout: Layout,
    /// Column that names a row, with a unique index; a UUID becomes the message's id [default: id]
    #[arg(long, value_name = "COLUMN", help_heading = "Columns")]
    id: Option<String>,
    /// Topic, made from columns, as {topic} or orders.{kind}
    #[arg(long, value_name = "TEMPLATE", help_heading = "Columns")]
    topic: Option<TopicTemplate>,
    /// Ordering key
    #[arg(long, value_name = "COLUMN", help_heading = "Columns")]
    key: Option<String>,
    /// Payload: bytea, json, jsonb or text, byte for byte [default: payload]
    #[arg(long, value_name = "COLUMN", help_heading = "Columns")]
    payload: Option<String>,
    /// Content type of all, in place of the one that the payload's type implies
    #[arg(long, value_name = "TYPE", help_heading = "Columns")]
    content_type: Option<String>,
    /// Headers: a JSON object of strings
    #[arg(long, value_name = "COLUMN", help_heading = "Columns")]
    headers: Option<String>,
    /// A header from a column; may stand several times
    #[arg(long = "header", value_name = "NAME=COLUMN", value_parser = pair)]
    #[arg(help_heading = "Columns")]
    header_columns: Vec<(String, String)>,
    /// Correlation id
    #[arg(long, value_name = "COLUMN", help_heading = "Columns")]
    correlation_id: Option<String>,
    /// What is published: a time, null until then, or a boolean
    #[arg(long, value_name = "COLUMN", help_heading = "Columns")]
    published_at: Option<String>,
    /// Order of the messages; may stand several times [default: the id, if it is a number]
    #[arg(long, value_name = "COLUMN", help_heading = "Columns")]
    order_by: Vec<String>,
    /// Only rows whose order begins here: a value of the first column of --order-by
    #[arg(long, value_name = "VALUE", help_heading = "Rows")]
    from: Option<String>,
    /// Only rows with this value, as status=pending; may stand several times
    #[arg(long = "where", value_name = "COLUMN=VALUE", value_parser = pair, help_heading = "Rows")]
    conditions: Vec<(String, String)>,
    /// Every row of a table that does not say what is published
    #[arg(long, help_heading = "Rows")]
    all: bool,
    /// Mark copied rows as published, in the transaction that copies them
    #[arg(long)]
    mark_published: bool,
    /// Forget first which rows were copied before: the table was emptied or created anew
    #[arg(long)]
    forget: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) async fn run(args: &ImportArgs, config: &Config, out: &mut Output) -> Result {
    let store = store::open(config, store::Missing::Refuse).await?;
    store.check().await?;
    let columns = store.table_columns(&args.table).await?;
    let source = layout::source(args, &columns)?;
    let mut import = store.import(&source).await?;
    let counts = progress::wait(out, "counting rows", import.counts()).await?;
    let checked = check(&mut *import, &counts, out).await?;
    let report = Report { table: import.table().to_owned(), counts };
    if args.change.is_dry_run() {
        report.planned(&checked.first, checked.problems, out)?;
    }
    if checked.problems > 0 {
        let message = format!(
            "{} of the rows of {} make no message; nothing is copied: correct them, or leave them \
             out with --where",
            checked.problems, report.table
        );
        return Err(Failure::new(Exit::Failed, message));
    }
    if args.change.is_dry_run() {
        return Ok(());
    }
    copy(&mut *import, report, out).await
}

/// What the check found.
#[derive(Default)]
struct Checked {
    first: Vec<ImportRow>,
    problems: u64,
}

/// Reads every row that is to be copied, and names those that make no message.
async fn check(
    import: &mut dyn Import,
    counts: &ImportCounts,
    out: &mut Output,
) -> Result<Checked> {
    let progress = Progress::new(out, "checking", counts.waiting);
    let mut checked = Checked::default();
    while let Some(rows) = import.check().await? {
        progress.advance(rows.len() as u64);
        for row in rows {
            if let Err(reason) = &row.message {
                checked.problems += 1;
                report::problem(&row.id, reason, out)?;
            } else if checked.first.len() < SHOWN_ROWS {
                checked.first.push(row);
            }
        }
    }
    Ok(checked)
}

async fn copy(import: &mut dyn Import, report: Report, out: &mut Output) -> Result {
    let stop = Stop::listen()?;
    let progress = Progress::new(out, "copying", report.counts.waiting);
    let (mut messages, mut marked) = (0, 0);
    let mut is_done = false;
    while !is_done && !stop.is_requested() {
        let copied = import.copy().await.inspect_err(|_| {
            if messages > 0 {
                tracing::warn!(messages, "these are copied; run it again to go on");
            }
        });
        match copied? {
            Some(copied) => {
                messages += copied.messages;
                marked += copied.marked;
                progress.advance(copied.rows);
            }
            None => is_done = true,
        }
    }
    drop(progress);
    let left = progress::wait(out, "counting rows", import.counts()).await?;
    report.done(messages, marked, &left, out)?;
    if is_done {
        return Ok(());
    }
    let message = format!(
        "interrupted after {messages} messages; {} rows are left: run it again to go on",
        left.waiting
    );
    Err(Failure::new(Exit::Interrupted, message))
}
