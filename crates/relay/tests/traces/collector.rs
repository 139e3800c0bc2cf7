//! A collector of traces: takes OTLP over HTTP, decodes it with the official types, and keeps it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use posthaste_testkit::Tls;
use prost::Message as _;
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
        BufReader,
    },
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: ExportTraceServiceRequest,
}

/// A running collector; ends with the test's runtime.
#[derive(Clone, Debug)]
pub(crate) struct Collector {
    pub(crate) endpoint: String,
    requests: Arc<Mutex<Vec<Request>>>,
    /// How many requests are still answered with 503.
    refusals: Arc<AtomicU32>,
}

impl Collector {
    pub(crate) async fn start(refusals: u32) -> Self {
        Self::listen("http", refusals, |collector, stream| async move {
            collector.serve(stream).await;
        })
        .await
    }

    /// Behind TLS. A handshake that fails is no request.
    pub(crate) async fn start_with(tls: &Tls) -> Self {
        let chain = CertificateDer::pem_slice_iter(tls.certificate_pem().as_bytes());
        let key = PrivateKeyDer::from_pem_slice(tls.key_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.map(Result::unwrap).collect(), key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::listen("https", 0, move |collector, stream| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    collector.serve(stream).await;
                }
            }
        })
        .await
    }

    async fn listen<F>(
        scheme: &str,
        refusals: u32,
        serve: impl Fn(Self, TcpStream) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("{scheme}://{}", listener.local_addr().unwrap());
        let (requests, refusals) = (Arc::default(), Arc::new(AtomicU32::new(refusals)));
        let collector = Self { endpoint, requests, refusals };
        let serving = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(serving.clone(), stream).await;
            }
        });
        collector
    }

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut stream = BufReader::new(stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(stream.read_until(b'\n', &mut head).await.unwrap() > 0, "a whole head");
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_lowercase(), value.to_owned()))
        };
        let headers: HashMap<String, String> = lines.filter_map(header).collect();
        let mut body = vec![0; headers["content-length"].parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        let body = ExportTraceServiceRequest::decode(&body[..]).unwrap();
        let is_refused = self.refusals.load(Ordering::Relaxed) > 0;
        let status = if is_refused { "503 Service Unavailable" } else { "200 OK" };
        if is_refused {
            self.refusals.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.requests.lock().unwrap().push(Request { path, headers, body });
        }
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        // The exporter may have gone.
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.flush().await;
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let resources = self.requests().into_iter().flat_map(|request| request.body.resource_spans);
        resources.flat_map(|of| of.scope_spans).flat_map(|scope| scope.spans).collect()
    }
}

/// The value of an attribute, as text.
pub(crate) fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{name}: {other:?}"),
    }
}
