//! `stdout`: writes one JSON object a line to the standard output of the process.
//!
//! For pipes, `kubectl logs` and looking on. A message is accepted when the operating system has
//! taken its line; who reads it is not known here. It never colours, wraps or shortens.

use std::{
    fmt,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use posthaste_core::MessageRef;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::{
    sync::{Mutex as Turn, OwnedMutexGuard},
    task,
    time::timeout,
};

use super::body;
use crate::{
    envelope::{self, CloudEvents, Format, TimeText},
    sink::{
        Batch, Context, InvalidTarget, Lane, PlaceKeeping, Receipt, Sink, SinkError, SinkErrorKind,
        SinkKind, Target,
    },
};

/// The registry entry.
pub const KIND: SinkKind = SinkKind {
    name: "stdout",
    about: "writes one JSON object a line to standard output",
    place: PlaceKeeping::None,
    parse: |table| parse(table, Output::new(io::stdout())),
    schema: || schemars::schema_for!(StdoutSettings),
};

/// Longest wait for a reader of the pipe to take a batch.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings of a `stdout` sink.
///
/// A line of the format `raw` has the members `id`, `position`, `topic`, `key` and
/// `correlation_id` (if the message has them), `content_type`, `enqueued_at`, `headers`, and
/// `payload` as a string, or `payload_base64` where it is not valid UTF-8. A line of the format
/// `cloudevents` is one event; line breaks between the tokens of a JSON payload become spaces.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct StdoutSettings {
    /// `raw` or `cloudevents`.
    format: Format,
    /// The `source` of events, a URI reference; `posthaste` unless given.
    cloudevents_source: Option<String>,
}

/// Where lines go. Clones write to the same place, one batch at a time.
#[derive(Clone)]
pub struct Output {
    /// Held by the batch being written, also after its sink gave up waiting: the next one must
    /// not write into the middle of its lines.
    turn: Arc<Turn<()>>,
    writer: Arc<Mutex<dyn Write + Send>>,
}

impl Output {
    /// Lines go to `writer`.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        Self { turn: Arc::default(), writer: Arc::new(Mutex::new(writer)) }
    }

    async fn take_turn(&self) -> Result<OwnedMutexGuard<()>, SinkError> {
        timeout(WRITE_TIMEOUT, Arc::clone(&self.turn).lock_owned())
            .await
            .map_err(|_elapsed| stuck())
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").finish_non_exhaustive()
    }
}

/// Checks the settings of a sink that writes to `output` instead of standard output.
pub fn parse(table: toml::Table, output: Output) -> Result<Box<dyn Target>, InvalidTarget> {
    let settings: StdoutSettings = table
        .try_into()
        .map_err(|error| InvalidTarget { key: String::new(), message: error.to_string() })?;
    Ok(Box::new(StdoutTarget { settings, output }))
}

#[derive(Debug)]
struct StdoutTarget {
    settings: StdoutSettings,
    output: Output,
}

#[async_trait]
impl Target for StdoutTarget {
    fn describe(&self) -> String {
        "standard output".to_owned()
    }

    async fn connect(&self, _context: &Context, _lane: &Lane) -> Result<Box<dyn Sink>, SinkError> {
        let source = self.settings.cloudevents_source.clone();
        let lines = match self.settings.format {
            Format::Raw => Lines::Raw(TimeText::default()),
            Format::CloudEvents => {
                let source = source.unwrap_or_else(envelope::default_source);
                Lines::Events(CloudEvents::new(source))
            }
        };
        drop(self.output.take_turn().await?);
        Ok(Box::new(StdoutSink { output: self.output.clone(), lines, buffer: Vec::new() }))
    }
}

struct StdoutSink {
    output: Output,
    lines: Lines,
    buffer: Vec<u8>,
}

#[async_trait]
impl Sink for StdoutSink {
    async fn publish(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        for message in batch.messages() {
            self.lines.write(&message, &mut buffer);
        }
        let turn = self.output.take_turn().await?;
        let writer = Arc::clone(&self.output.writer);
        // On a thread that may block, as a reader that has stopped reading makes it do.
        let writing = task::spawn_blocking(move || {
            let _turn = turn;
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            writer.write_all(&buffer).and_then(|()| writer.flush()).map(|()| buffer)
        });
        let written = timeout(WRITE_TIMEOUT, writing).await.map_err(|_elapsed| stuck())?;
        self.buffer = written.unwrap_or_else(|panicked| Err(panicked.into())).map_err(closed)?;
        Ok(Receipt::AllAccepted)
    }
}

fn stuck() -> SinkError {
    let doing = format!("standard output took nothing within {WRITE_TIMEOUT:?}");
    SinkError::new(SinkErrorKind::Timeout, doing)
}

fn closed(error: io::Error) -> SinkError {
    let (kind, doing) = match error.kind() {
        io::ErrorKind::BrokenPipe => {
            (SinkErrorKind::Unavailable, "the reader of standard output has closed it")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (SinkErrorKind::Resources, "writing to standard output")
        }
        _ => (SinkErrorKind::Unavailable, "writing to standard output"),
    };
    SinkError::caused(kind, doing, error)
}

enum Lines {
    Raw(TimeText),
    Events(CloudEvents),
}

impl Lines {
    fn write(&mut self, message: &MessageRef<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        match self {
            Self::Raw(time) => body::write_envelope(message, time, out),
            Self::Events(events) => events.write(message, out),
        }
        // In JSON a bare line break can only stand between tokens, where a space means the same.
        for byte in &mut out[start..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        out.push(b'\n');
    }
}
