//! `posthaste enqueue TOPIC` writes messages in a transaction of their own, `posthaste cancel ID` takes
//! a scheduled one back. For trying things out and for scripts; applications enqueue in the
//! transaction of their data.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use clap::Args;
use posthaste_core::{Limits, Message, MessageId, Timestamp, message};
use serde_json::{json, value::RawValue};

use super::selection::{ChangeArgs, later};
use crate::{
    config::Config,
    exit::Exit,
    failure::{Failure, Result},
    output::Output,
    store,
};

/// The message.
#[derive(Args, Debug)]
pub(crate) struct EnqueueArgs {
    /// Topic, for example orders.created
    topic: String,
    /// Ordering key: messages that share it are published in order
    #[arg(long)]
    key: Option<String>,
    /// Header; may stand several times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    #[command(flatten)]
    payload: Payload,
    /// Content type, in place of the one that the payload's option implies
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Ties the message to the request it came from
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// Idempotency token: of all messages with one token only the first is written
    #[arg(long)]
    token: Option<String>,
    /// Not before this time: RFC 3339, or from now, as +10m; until then `cancel` takes it back
    #[arg(long, value_name = "TIME", value_parser = later)]
    deliver_at: Option<Timestamp>,
    /// How many times to write it, all in one transaction (1 to 10000)
    #[arg(long, default_value_t = 1, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
}

/// What to take back.
#[derive(Args, Debug)]
pub(crate) struct CancelArgs {
    /// Id of the scheduled message
    id: MessageId,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Where the payload comes from; empty without any.
#[derive(Args, Debug)]
#[group(multiple = false)]
struct Payload {
    /// JSON payload, kept byte for byte
    #[arg(id = "json_payload", long = "json-payload", value_name = "JSON")]
    json: Option<String>,
    /// Text payload
    #[arg(long)]
    text: Option<String>,
    /// File with the payload; - for stdin
    #[arg(long)]
    file: Option<PathBuf>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Checks the message and appends it.
pub(crate) async fn run(args: EnqueueArgs, config: &Config, out: &mut Output) -> Result {
    let count = args.count();
    let topic = args.topic.clone();
    let message = message_of(args)?;
    Limits::DEFAULT.check(&message).map_err(|error| Failure::usage(error.to_string()))?;
    let store = store::open(config, store::Missing::Refuse).await?;
    let ids = store.append(&vec![message; count]).await?;
    for id in ids {
        out.result(&json!({ "id": id, "topic": topic }), &id.to_string())?;
    }
    Ok(())
}

/// Takes a scheduled message back.
pub(crate) async fn cancel(args: &CancelArgs, config: &Config, out: &mut Output) -> Result {
    let store = store::open(config, store::Missing::Refuse).await?;
    store.check().await?;
    if !store.cancel(args.id, None, &args.change.request()).await? {
        let message = format!(
            "{} does not wait for its time: it is in the log, was cancelled before or never was",
            args.id
        );
        return Err(Failure::new(Exit::Failed, message));
    }
    let is_dry_run = args.change.is_dry_run();
    let would = if is_dry_run { "would be " } else { "" };
    let result = json!({ "cancelled": args.id, "dry_run": is_dry_run });
    Ok(out.result(&result, &format!("{} {would}cancelled", args.id))?)
}

impl EnqueueArgs {
    /// How many times to write it.
    pub(super) const fn count(&self) -> usize {
        self.count as usize
    }
}

pub(super) fn message_of(args: EnqueueArgs) -> Result<Message> {
    let (implied, payload) = payload_of(args.payload)?;
    let content_type = args.content_type.unwrap_or_else(|| implied.to_owned());
    let mut message = Message::new(args.topic).bytes(content_type, payload);
    if let Some(key) = args.key {
        message = message.key(key);
    }
    if let Some(id) = args.correlation_id {
        message = message.correlation_id(id);
    }
    if let Some(token) = args.token {
        message = message.token(token);
    }
    if let Some(time) = args.deliver_at {
        message = message.deliver_at(time);
    }
    let add = |message: Message, (name, value)| message.header(name, value);
    Ok(args.headers.into_iter().fold(message, add))
}

fn payload_of(payload: Payload) -> Result<(&'static str, Vec<u8>)> {
    if let Some(json) = payload.json {
        serde_json::from_str::<&RawValue>(&json)
            .map_err(|error| Failure::caused(Exit::Usage, "--json-payload is not JSON", error))?;
        return Ok((message::JSON, json.into_bytes()));
    }
    if let Some(text) = payload.text {
        return Ok((message::TEXT, text.into_bytes()));
    }
    match payload.file {
        Some(path) => Ok((message::BYTES, read(&path)?)),
        None => Ok((message::BYTES, Vec::new())),
    }
}

/// Reads at most one byte more than a payload may have: enough for the check to refuse it.
fn read(path: &Path) -> Result<Vec<u8>> {
    let limit = Limits::DEFAULT.payload_bytes as u64 + 1;
    let mut payload = Vec::new();
    let answer = if path == Path::new("-") {
        io::stdin().take(limit).read_to_end(&mut payload)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut payload))
    };
    let about = || format!("--file {} cannot be read; check the path", path.display());
    answer.map_err(|error| Failure::caused(Exit::Usage, about(), error))?;
    Ok(payload)
}
