//! How people are told: a POST to a webhook, in a form that chats show.

use std::{path::Path, time::Duration};

use posthaste_core::{Timestamp, describe};
use posthaste_relay::clock;
use reqwest::{Certificate, Client, Url, redirect::Policy};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::{
    config::{AlertFormat, AlertSettings},
    exit::Exit,
    failure::{Failure, Result},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What is told.
pub(super) struct Notice<'a> {
    pub(super) condition: &'a str,
    /// What it is about; empty where it is about everything.
    pub(super) subject: &'a str,
    pub(super) text: &'a str,
    /// When the incident was noticed, where the database knows.
    pub(super) since: Option<Timestamp>,
    pub(super) is_over: bool,
}

/// The webhook.
pub(super) struct Post {
    client: Client,
    /// It may hold a secret: it is never shown.
    url: Url,
    format: AlertFormat,
    name: String,
}

impl Post {
    /// `None` where no webhook is configured. Blocks on the file system.
    pub(super) fn new(settings: &AlertSettings) -> Result<Option<Self>> {
        let text = match (&settings.webhook, &settings.webhook_file) {
            (Some(url), _) => url.expose_secret().to_owned(),
            (None, Some(path)) => first_line(path)?,
            (None, None) => return Ok(None),
        };
        let wrong = || Failure::usage("alerts.webhook must be an http:// or https:// URL");
        let url = Url::parse(text.trim()).map_err(|_| wrong())?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(wrong());
        }
        let client = client(&url, settings.ca_file.as_deref())?;
        let (format, name) = (settings.format, settings.name.clone());
        Ok(Some(Self { client, url, format, name }))
    }

    /// Posts a notice.
    ///
    /// # Errors
    /// What the webhook answered or what went wrong, without its URL.
    pub(super) async fn send(&self, notice: &Notice<'_>) -> std::result::Result<(), String> {
        let body = self.body(notice).to_string();
        let request = self.client.post(self.url.clone()).body(body);
        let request = request.header("content-type", "application/json");
        let answer = request.send().await.map_err(|error| describe(&error.without_url()))?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(format!("the webhook answered {status}")) }
    }

    fn body(&self, notice: &Notice<'_>) -> Value {
        let over = if notice.is_over { "over: " } else { "" };
        let text = format!("[{}] {over}{}", self.name, notice.text);
        match self.format {
            AlertFormat::Slack => json!({ "text": text }),
            AlertFormat::Discord => json!({ "content": text }),
            AlertFormat::Json => json!({
                "event": if notice.is_over { "recovered" } else { "raised" },
                "name": self.name,
                "condition": notice.condition,
                "subject": Some(notice.subject).filter(|subject| !subject.is_empty()),
                "since": notice.since.map(clock::rfc3339),
                "text": text,
            }),
        }
    }
}

fn first_line(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let about = format!("alerts.webhook_file {} cannot be read", path.display());
        Failure::caused(Exit::Usage, about, error)
    })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn client(url: &Url, ca_file: Option<&Path>) -> Result<Client> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::caused(Exit::Usage, "alerts.webhook cannot be called", error)
    };
    posthaste_redis::tls::install_crypto();
    let mut roots = Vec::new();
    if url.scheme() == "https" {
        let pem = posthaste_redis::tls::roots(ca_file).map_err(|error| failed(error.into()))?;
        roots = Certificate::from_pem_bundle(&pem).map_err(|error| failed(error.into()))?;
    }
    Client::builder()
        .tls_certs_only(roots)
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .no_proxy()
        .build()
        .map_err(|error| failed(error.into()))
}
