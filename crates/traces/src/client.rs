//! One HTTP request after the other to the collector, each on a connection of its own: a request
//! a second at most, so that there is no connection to keep alive or to find dead.

use std::{fmt, fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, StatusCode,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use secrecy::ExposeSecret as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::Url;

use crate::TraceSettings;

const PATH: &str = "/v1/traces";

/// Where requests go.
pub(crate) struct Client {
    url: Url,
    host: String,
    port: u16,
    /// `None` for plain HTTP.
    tls: Option<(TlsConnector, ServerName<'static>)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    timeout: Duration,
}

/// Without the headers: they may hold secrets.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.describe()).finish()
    }
}

/// Why a request was not taken.
#[derive(Debug)]
pub(crate) struct ExportError {
    is_transient: bool,
    text: String,
}

impl ExportError {
    fn away(doing: &str, error: &impl fmt::Display) -> Self {
        Self { is_transient: true, text: format!("{doing}: {error}") }
    }

    /// Whether the same spans may be taken later.
    pub(crate) const fn is_transient(&self) -> bool {
        self.is_transient
    }
}

impl fmt::Display for ExportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Client {
    pub(crate) fn new(settings: &TraceSettings) -> Result<Self, String> {
        let remedy = "write for example http://collector:4318";
        let wrong = |why: &dyn fmt::Display| format!("the endpoint {why}; {remedy}");
        let mut url = Url::parse(&settings.endpoint)
            .map_err(|error| wrong(&format!("is not a valid URL ({error})")))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(&"holds a user or a password; put them into a header"));
        }
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong(&format!("has the scheme {}, not http or https", url.scheme())));
        }
        let path = url.path().trim_end_matches('/');
        if !path.ends_with(PATH) {
            url.set_path(&format!("{path}{PATH}"));
        }
        let host = url.host_str().ok_or_else(|| wrong(&"names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port_or_known_default().unwrap_or(80);
        let tls = match url.scheme() {
            "https" => Some(connector(settings, &host)?),
            _ => None,
        };
        let headers = headers(settings)?;
        Ok(Self { url, host, port, tls, headers, timeout: settings.timeout })
    }

    /// The URL, for people.
    pub(crate) fn describe(&self) -> &str {
        self.url.as_str()
    }

    /// Posts an encoded request, within the time-out.
    pub(crate) async fn post(&self, body: Vec<u8>) -> Result<(), ExportError> {
        let late = |_| ExportError::away("no answer", &format!("within {:?}", self.timeout));
        let status = timeout(self.timeout, self.exchange(body)).await.map_err(late)??;
        if status.is_success() {
            return Ok(());
        }
        // The answers after which OTLP has clients try again.
        let is_transient = matches!(status.as_u16(), 429 | 502 | 503 | 504);
        let text = format!("the collector answered {status}");
        Err(ExportError { is_transient, text })
    }

    async fn exchange(&self, body: Vec<u8>) -> Result<StatusCode, ExportError> {
        let address = (self.host.as_str(), self.port);
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| ExportError::away("connect to the collector", &error))?;
        match &self.tls {
            None => self.request(stream, body).await,
            Some((connector, name)) => {
                let stream = connector
                    .connect(name.clone(), stream)
                    .await
                    .map_err(|error| ExportError::away("connect to the collector", &error))?;
                self.request(stream, body).await
            }
        }
    }

    /// The connection is driven beside the request, by this future: it ends with it.
    async fn request(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        body: Vec<u8>,
    ) -> Result<StatusCode, ExportError> {
        let failed = |error: hyper::Error| ExportError::away("send the spans", &error);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let path = self.url.path();
        let mut request = Request::post(path)
            .header(HOST, self.url.authority())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("posthaste/", env!("CARGO_PKG_VERSION")));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ExportError::away("send the spans", &error))?;
        let answer = sender.send_request(request);
        tokio::pin!(connection, answer);
        // A collector may close its connection as soon as it has answered: the answer counts, not how
        // the connection ended.
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer,
            _ = &mut connection => answer.await,
        };
        answer.map(|answer| answer.status()).map_err(failed)
    }
}

fn headers(settings: &TraceSettings) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let header = |(name, value): &(String, secrecy::SecretString)| {
        let wrong = |_| format!("the header {name:?} is not a valid header; write name=value");
        let name = HeaderName::try_from(name.as_str()).map_err(|error| wrong(error.to_string()))?;
        let mut value = HeaderValue::try_from(value.expose_secret())
            .map_err(|error| wrong(error.to_string()))?;
        value.set_sensitive(true);
        Ok((name, value))
    };
    settings.headers.iter().map(header).collect()
}

fn connector(
    settings: &TraceSettings,
    host: &str,
) -> Result<(TlsConnector, ServerName<'static>), String> {
    // The process may have another one for all else.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots(settings.ca_file.as_deref())?)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| format!("the endpoint's host {host:?} is not valid ({error})"))?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// The authorities in `ca_file`, or the system's. Blocks on the file system.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        // One that cannot be read must not keep all others from being used.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("the system has no certificate authorities: install them, or set ca_file"
                .to_owned());
        }
        return Ok(roots);
    };
    let wrong = |what: &dyn fmt::Display| format!("ca_file {}: {what}", path.display());
    let pem = fs::read(path).map_err(|error| wrong(&error))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"holds no certificate in PEM form"));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(endpoint: &str) -> Result<Client, String> {
        Client::new(&TraceSettings {
            endpoint: endpoint.to_owned(),
            service_name: "posthaste".to_owned(),
            headers: vec![("authorization".to_owned(), "Bearer hunter2".into())],
            ca_file: None,
            timeout: Duration::from_secs(1),
            queue_spans: 1,
            sample_ratio: 1.0,
        })
    }

    #[test]
    fn endpoints_are_completed_and_headers_are_not_shown() {
        for (endpoint, url) in [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("http://c/otlp", "http://c/otlp/v1/traces"),
            ("http://[::1]:4318/v1/traces", "http://[::1]:4318/v1/traces"),
        ] {
            let client = client(endpoint).unwrap();
            assert_eq!(client.describe(), url);
            assert!(!format!("{client:?}").contains("hunter2"));
        }
        for wrong in ["", "c:4318", "grpc://c:4317", "http://u:hunter2@c:4318"] {
            let error = client(wrong).unwrap_err();
            assert!(
                error.contains("http://collector:4318") && !error.contains("hunter2"),
                "{error}"
            );
        }
    }
}
