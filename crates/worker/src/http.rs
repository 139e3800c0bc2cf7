//! Handlers behind an HTTP endpoint: the task is the body of a POST, the answer's body the receipt.
//!
//! One recorded result per job is promised; what the endpoint does happens at least once, so make twice as good as
//! once there. The header `idempotency-key` is the same for every attempt at one job.

use std::{fmt, fs, io, path::Path, time::Duration};

use async_trait::async_trait;
use posthaste::Receipt;
use posthaste_core::describe;
use posthaste_redis::tls;
use reqwest::{
    Certificate, Client, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect::Policy,
};
use secrecy::{ExposeSecret as _, SecretString};

use crate::{Answer, Done, Failed, Handler, Task, handler::COMPLAINT_BYTES};

/// For a connection to be made. The rest of an attempt has the worker's limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait that an endpoint may ask for.
const WAIT_MAX: Duration = Duration::from_hours(24);

/// Posts each task to a URL.
///
/// 2xx: done. 400, 410, 413, 414, 415, 422: rejected, for the same request would be refused again. 429 and 503: busy, to be
/// tried again after what `retry-after` says. Everything else, redirections included, has failed and is worth another
/// attempt.
#[derive(Clone)]
pub struct HttpHandler {
    client: Client,
    url: Url,
    token: Option<HeaderValue>,
    output_bytes_max: usize,
}

impl fmt::Debug for HttpHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpHandler").field("url", &self.shown()).finish_non_exhaustive()
    }
}

/// An endpoint that cannot be called. Never a secret.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEndpoint {
    /// Its URL.
    #[error("url must be http:// or https:// with a host and without user or password")]
    Url,
    /// The token.
    #[error("token must be visible ASCII characters")]
    Token,
    /// The certificate authorities.
    #[error(transparent)]
    Roots(#[from] io::Error),
    /// The client.
    #[error("the HTTP client cannot be made")]
    Client(#[from] reqwest::Error),
}

impl HttpHandler {
    /// A handler that posts to `url`. With `https`, the endpoint's certificate must come from an authority in `ca_file`
    /// (PEM), or of the system if not given. Blocks on the file system.
    ///
    /// # Errors
    /// The URL, or what is in the file, is not usable.
    pub fn new(url: &str, ca_file: Option<&Path>) -> Result<Self, InvalidEndpoint> {
        let url = Url::parse(url).map_err(|_| InvalidEndpoint::Url)?;
        let has_login = !url.username().is_empty() || url.password().is_some();
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || has_login {
            return Err(InvalidEndpoint::Url);
        }
        tls::install_crypto();
        let mut roots = Vec::new();
        if url.scheme() == "https" {
            roots = Certificate::from_pem_bundle(&tls::roots(ca_file)?)?;
        }
        let client = Client::builder()
            .tls_certs_only(roots)
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy()
            .build()?;
        Ok(Self { client, url, token: None, output_bytes_max: 1 << 20 })
    }

    /// Sends `authorization: Bearer TOKEN`.
    ///
    /// # Errors
    /// It has characters that no header may have.
    pub fn token(mut self, token: &SecretString) -> Result<Self, InvalidEndpoint> {
        let value = format!("Bearer {}", token.expose_secret());
        let mut value = HeaderValue::try_from(value).map_err(|_| InvalidEndpoint::Token)?;
        value.set_sensitive(true);
        self.token = Some(value);
        Ok(self)
    }

    /// The token is the first line of a file. Blocks on the file system.
    ///
    /// # Errors
    /// The file cannot be read, or the token is no header's.
    pub fn token_file(self, path: &Path) -> Result<Self, InvalidEndpoint> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("token_file {}: {error}", path.display()))
        };
        let text = fs::read_to_string(path).map_err(named)?;
        self.token(&SecretString::from(text.lines().next().unwrap_or_default()))
    }

    /// Most bytes of an answer, 1 MiB if not given: more are a rejection.
    #[must_use]
    pub fn output_bytes_max(mut self, bytes: usize) -> Self {
        self.output_bytes_max = bytes;
        self
    }

    /// The endpoint for people: a query may hold a secret.
    fn shown(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.to_string()
    }

    fn headers(&self, task: &Task) -> HeaderMap {
        let message = task.message();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        let id = task.job().unwrap_or(message.id).to_string();
        if let Ok(id) = HeaderValue::try_from(id) {
            headers.insert(HeaderName::from_static("idempotency-key"), id);
        }
        headers.insert(HeaderName::from_static("posthaste-attempt"), task.attempt().into());
        let (parent, state) = task.trace_context().unwrap_or_default();
        for (name, value) in [("traceparent", &*parent), ("tracestate", state)] {
            if let Some(value) = value.parse().ok().filter(|_| !value.is_empty()) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        if let Some(token) = &self.token {
            headers.insert(reqwest::header::AUTHORIZATION, token.clone());
        }
        headers
    }

    /// The body, if it is not longer than it may be.
    async fn read(&self, response: &mut Response) -> Result<Option<Vec<u8>>, Failed> {
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.broken(error))? {
            if body.len() + piece.len() > self.output_bytes_max {
                return Ok(None);
            }
            body.extend_from_slice(&piece);
        }
        Ok(Some(body))
    }

    fn broken(&self, error: reqwest::Error) -> Failed {
        // Its own URL has the query.
        let error = describe(&error.without_url());
        Failed::retry(format!("POST {}: {error}", self.shown())).class("http")
    }

    fn refused(&self, response: &Response, body: &[u8]) -> Failed {
        let status = response.status();
        let body = &body[..body.len().min(COMPLAINT_BYTES)];
        let said = String::from_utf8_lossy(body);
        let colon = if said.trim().is_empty() { "" } else { ": " };
        let reason = format!("POST {} answered {status}{colon}{}", self.shown(), said.trim());
        match status.as_u16() {
            400 | 410 | 413 | 414 | 415 | 422 => Failed::reject(reason).class("http"),
            429 | 503 => {
                let failed = Failed::retry(reason).class("busy");
                match response.headers().get(RETRY_AFTER).and_then(wait) {
                    Some(wait) => failed.after(wait),
                    None => failed,
                }
            }
            _ => Failed::retry(reason).class("http"),
        }
    }
}

#[async_trait]
impl Handler for HttpHandler {
    async fn run(&self, task: Task) -> Answer {
        let request = self.client.post(self.url.clone()).headers(self.headers(&task));
        let sent = request.body(task.to_json().to_string()).send().await;
        let mut response = sent.map_err(|error| self.broken(error))?;
        let body = self.read(&mut response).await?;
        if !response.status().is_success() {
            return Err(self.refused(&response, &body.unwrap_or_default()));
        }
        let Some(body) = body else {
            let limit = self.output_bytes_max;
            let reason = format!("POST {} answered more than {limit} bytes", self.shown());
            return Err(Failed::reject(reason).class("http"));
        };
        if body.is_empty() || response.status() == StatusCode::NO_CONTENT {
            return Ok(Done::default());
        }
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or("application/octet-stream").to_owned();
        Ok(Done { receipt: Some(Receipt { content_type, body }) })
    }
}

/// Seconds, or a date that the worker's own clock is compared with
/// (<https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3>).
fn wait(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => crate::clock::until(text)?,
    };
    Some(wait.min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_seconds_or_dates_and_bounded() {
        let of = |text: &str| wait(&HeaderValue::from_str(text).unwrap());
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("99999999999"), Some(WAIT_MAX));
        assert_eq!(of("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(of("Thu, 31 Dec 2099 23:59:59 GMT"), Some(WAIT_MAX));
        assert_eq!(of("soon"), None);
    }

    #[test]
    fn endpoints_that_cannot_be_called_are_refused_without_their_secrets() {
        for url in ["", "a", "ftp://a/", "http://", "https://user:secret@a/", "http://user@a/"] {
            let error = HttpHandler::new(url, None).unwrap_err().to_string();
            assert!(error.starts_with("url must be"), "{url:?}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let handler = HttpHandler::new("http://127.0.0.1:1/a?key=secret", None).unwrap();
        let error = handler.clone().token(&SecretString::from("a\nb")).unwrap_err();
        assert_eq!(error.to_string(), "token must be visible ASCII characters");
        let handler = handler.token(&SecretString::from("secret")).unwrap();
        assert_eq!(format!("{handler:?}"), "HttpHandler { url: \"http://127.0.0.1:1/a\", .. }");
    }
}
