//! `posthaste tail [--follow]`: the newest messages of the log, as they are committed. Shows the
//! log to people; it is not a reader with a place, and may show a message of a slow transaction
//! late or, while following, not at all.

use std::time::Duration;

use clap::Args;
use posthaste_core::TopicFilter;
use posthaste_relay::clock;
use posthaste_store::StoredMessage;
use serde::Serialize;

use crate::{
    config::Config,
    exit::Exit,
    failure::{Failure, Result},
    output::Output,
    signals::Stop,
    store,
};

/// How far a search by topic looks back.
const SEARCHED_MAX: u32 = 10_000;
/// Pause between looks while following: R7 wants messages on a live view within 500 ms.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// What to show.
#[derive(Args, Debug)]
pub(crate) struct TailArgs {
    /// Go on with messages as they are committed, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// How many of the newest messages to begin with (0 to 10000)
    #[arg(short = 'n', long = "lines", default_value_t = 10, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=i64::from(SEARCHED_MAX)))]
    lines: u32,
    /// Topic, prefix* or *; searched among the newest 10000 messages
    #[arg(long, value_name = "PATTERN")]
    topic: Option<String>,
}

/// Prints the newest messages, and with `--follow` those that come.
pub(crate) async fn run(args: &TailArgs, config: &Config, out: &mut Output) -> Result {
    let filter = match &args.topic {
        None => TopicFilter::all(),
        Some(pattern) => {
            TopicFilter::new(&[pattern]).map_err(|error| Failure::usage(error.to_string()))?
        }
    };
    let store = store::open(config, store::Missing::Refuse).await?;
    store.check().await?;
    let searched = if filter.is_all() { args.lines.max(1) } else { SEARCHED_MAX };
    let newest = store.recent(None, searched).await?;
    let mut after = newest.last().map_or(0, |message| message.position);
    let matching: Vec<_> = newest.iter().filter(|it| filter.matches(&it.topic)).collect();
    for message in &matching[matching.len().saturating_sub(args.lines as usize)..] {
        print(out, message)?;
    }
    if !args.follow {
        return Ok(());
    }
    let stop = Stop::listen()
        .map_err(|error| Failure::caused(Exit::Failed, "cannot listen for signals", error))?;
    loop {
        let page = store.recent(Some(after), SEARCHED_MAX).await?;
        for message in &page {
            after = message.position;
            if filter.matches(&message.topic) {
                print(out, message)?;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
            () = stop.requested() => return Ok(()),
        }
    }
}

fn print(out: &mut Output, message: &StoredMessage) -> Result {
    if out.is_json() {
        return Ok(out.object(&Line::of(message))?);
    }
    Ok(out.line(&human(message, Output::width()))?)
}

/// A message for programs, its payload as a `stdout` sink writes it.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    position: i64,
    id: String,
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    content_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    headers: serde_json::Map<String, serde_json::Value>,
    enqueued_at: String,
    published_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl<'a> Line<'a> {
    pub(super) fn of(message: &'a StoredMessage) -> Self {
        let text = std::str::from_utf8(&message.payload).ok();
        let base64 = || base64(&message.payload);
        Self {
            position: message.position,
            id: message.id.to_string(),
            topic: &message.topic,
            key: message.key.as_deref(),
            content_type: &message.content_type,
            correlation_id: message.correlation_id.as_deref(),
            headers: message.headers.iter().map(|(n, v)| (n.clone(), v.as_str().into())).collect(),
            enqueued_at: clock::rfc3339(message.enqueued_at),
            published_at: message.published_at.map(clock::rfc3339),
            payload: text,
            payload_base64: text.is_none().then(base64),
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

/// A message for people, cut to `width` columns.
fn human(message: &StoredMessage, width: usize) -> String {
    let published = if message.published_at.is_some() { "✓" } else { "·" };
    let payload = match std::str::from_utf8(&message.payload) {
        Ok(text) => text.to_owned(),
        Err(_) => base64(&message.payload),
    };
    let line = format!(
        "{:>8} {published} {} {} {} {payload}",
        message.position,
        clock::rfc3339(message.enqueued_at),
        message.topic,
        message.key.as_deref().unwrap_or("-"),
    );
    let clean = without_controls(&line);
    match clean.char_indices().nth(width.max(2) - 1) {
        Some((end, _)) if clean.chars().count() > width => format!("{}…", &clean[..end]),
        _ => clean,
    }
}

/// Text that cannot steer the terminal.
pub(super) fn without_controls(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use posthaste_core::{MessageId, Timestamp};

    use super::*;

    fn message(content_type: &str, payload: &[u8]) -> StoredMessage {
        StoredMessage {
            position: 7,
            id: MessageId::nil(),
            topic: "orders".to_owned(),
            key: None,
            payload: payload.to_vec(),
            content_type: content_type.to_owned(),
            headers: vec![("a".to_owned(), "b".to_owned())],
            correlation_id: None,
            enqueued_at: Timestamp(0),
            published_at: None,
        }
    }

    #[test]
    fn payload_stands_in_the_form_that_keeps_it_readable() {
        for (content_type, payload, expected) in [
            ("application/json", b"{\"a\":\n1.0}".as_slice(), r#""payload":"{\"a\":\n1.0}""#),
            ("text/plain", b"hi", r#""payload":"hi""#),
            ("application/octet-stream", b"\xff\x00", r#""payload_base64":"/wA=""#),
        ] {
            let message = message(content_type, payload);
            let line = serde_json::to_string(&Line::of(&message)).unwrap();
            assert!(line.contains(expected), "{line}");
            assert_eq!(line.matches("\"payload").count(), 1, "{line}");
        }
    }

    #[test]
    fn line_for_people_fits_and_holds_no_control_character() {
        let long = message("text/plain", "\u{1b}[31mö".repeat(100).as_bytes());
        let line = human(&long, 60);
        assert_eq!(line.chars().count(), 60);
        assert!(line.ends_with('…') && !line.contains('\u{1b}'), "{line:?}");
        assert!(human(&message("text/plain", b"hi"), 60).ends_with("orders - hi"));
    }
}
