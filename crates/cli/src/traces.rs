//! From the configuration to the exporter of traces, and its task.

use std::path::Path;

use posthaste_traces::{TraceSettings, Tracer};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    config::TracesSettings,
    exit::Exit,
    failure::{Failure, Result},
};

/// An exporter that runs. Dropping it has it end by itself.
#[derive(Debug)]
pub(crate) struct Traces {
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Starts the process's exporter if the settings name a collector, and answers what its parts are traced by.
///
/// # Errors
/// When the settings cannot be used; whether the collector answers does not matter.
pub(crate) fn start(settings: &TracesSettings) -> Result<(Option<Tracer>, Option<Traces>)> {
    let Some(endpoint) = &settings.endpoint else { return Ok((None, None)) };
    let wrong = |why: String| Failure::usage(format!("telemetry.traces: {why}"));
    let settings = TraceSettings {
        endpoint: endpoint.clone(),
        service_name: settings.service_name.clone(),
        headers: headers(settings)?,
        ca_file: settings.ca_file.clone(),
        timeout: settings.timeout,
        queue_spans: settings.queue_spans,
        sample_ratio: settings.sample_ratio,
    };
    let (tracer, exporter) =
        posthaste_traces::start(&settings).map_err(|error| wrong(error.to_string()))?;
    let (end, ended) = oneshot::channel::<()>();
    let task = tokio::spawn(exporter.run(async move {
        // An error says that nobody will ask any more.
        let _ = ended.await;
    }));
    Ok((Some(tracer), Some(Traces { end, task })))
}

/// Exports what is left, if there is an exporter: the last spans are those of the drain.
pub(crate) async fn end(traces: Option<Traces>) {
    if let Some(traces) = traces {
        traces.end().await;
    }
}

impl Traces {
    /// Exports what is left, within the time-out, and returns when that is done.
    async fn end(self) {
        let _ = self.end.send(());
        if let Err(error) = self.task.await {
            tracing::warn!("the exporter of traces ended: {error}");
        }
    }
}

type Header = (String, SecretString);

fn headers(settings: &TracesSettings) -> Result<Vec<Header>> {
    if let Some(path) = &settings.headers_file {
        return headers_of_file(path);
    }
    let Some(text) = &settings.headers else { return Ok(Vec::new()) };
    let pairs = text.expose_secret().split(',').filter(|pair| !pair.trim().is_empty());
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim().to_owned(), SecretString::from(decoded(value.trim())?)))
    };
    pairs
        .map(|pair| {
            let about = "telemetry.traces.headers: write name=value,name=value in URL encoding";
            header(pair).ok_or_else(|| Failure::usage(about))
        })
        .collect()
}

fn headers_of_file(path: &Path) -> Result<Vec<Header>> {
    let about = |what: &str| format!("telemetry.traces.headers_file {} {what}", path.display());
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::caused(Exit::Usage, about("cannot be read"), error))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(nth, line)| {
            let wrong = || about(&format!("line {}: write name: value", nth + 1));
            let (name, value) = line.split_once(':').ok_or_else(|| Failure::usage(wrong()))?;
            Ok((name.trim().to_owned(), SecretString::from(value.trim())))
        })
        .collect()
}

/// Without its URL encoding; `None` where that is broken.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_from_the_variables_form() {
        let settings = |text: &str| TracesSettings {
            headers: Some(SecretString::from(text)),
            ..TracesSettings::default()
        };
        let all = headers(&settings("authorization=Bearer%20a+b=, x-tenant = shop,")).unwrap();
        let shown: Vec<_> =
            all.iter().map(|(name, value)| (&**name, value.expose_secret())).collect();
        assert_eq!(shown, [("authorization", "Bearer a+b="), ("x-tenant", "shop")]);
        for wrong in ["a", "a=%2", "a=%zz", "a=%ff"] {
            assert!(headers(&settings(wrong)).is_err(), "{wrong}");
        }
    }
}
