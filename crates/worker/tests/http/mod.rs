//! Handlers behind an HTTP endpoint, which here answers as each test wants.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use posthaste_core::JobState;
use posthaste_testkit::Tls;
use posthaste_worker::http::HttpHandler;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use secrecy::SecretString;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use crate::support::{LIMIT, run_one};

type Asked = Arc<Mutex<Vec<(HeaderMap, Vec<u8>)>>>;

/// An endpoint and what it was asked.
struct Endpoint {
    url: String,
    asked: Asked,
    serving: JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

type Answering = Arc<dyn Fn() -> Option<Response<Full<Bytes>>> + Send + Sync>;

impl Endpoint {
    /// Answers every request the same, or never.
    async fn start(
        answer: impl Fn() -> Option<Response<Full<Bytes>>> + Send + Sync + 'static,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url =
            format!("{scheme}://localhost:{}/run?key=secret", socket.local_addr().unwrap().port());
        let asked = Arc::default();
        let (noting, answer): (Arc<Mutex<_>>, Answering) = (Arc::clone(&asked), Arc::new(answer));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let (tls, asked, answer) = (tls.clone(), Arc::clone(&noting), Arc::clone(&answer));
                tokio::spawn(async move {
                    match tls {
                        None => converse(stream, asked, answer).await,
                        Some(tls) => {
                            let Ok(stream) = tls.accept(stream).await else { return };
                            converse(stream, asked, answer).await;
                        }
                    }
                });
            }
        });
        Self { url, asked, serving }
    }

    async fn answering(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Self {
        let (headers, body) = (headers.to_vec(), body.to_owned());
        let answer = move || {
            let mut response = Response::builder().status(status);
            for (name, value) in &headers {
                response = response.header(*name, *value);
            }
            Some(response.body(Full::from(body.clone())).unwrap())
        };
        Self::start(answer, None).await
    }

    /// What becomes of a job that is sent here once, and why.
    async fn fails(&self) -> String {
        let handler = HttpHandler::new(&self.url, None).unwrap();
        let detail = run_one(handler, LIMIT, JobState::Dead).await;
        let reason = detail.job.reason.unwrap();
        assert!(!reason.contains("secret"), "{reason}");
        // Where it was, without the query.
        reason.replace(self.url.trim_end_matches("?key=secret"), "URL")
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    asked: Asked,
    answer: Answering,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (asked, answer) = (Arc::clone(&asked), Arc::clone(&answer));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes().to_vec();
            asked.lock().unwrap().push((head.headers, body));
            match answer() {
                Some(answer) => Ok::<_, Infallible>(answer),
                None => std::future::pending().await,
            }
        }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoint_gets_the_task_and_its_answer_is_the_receipt() {
    let endpoint = Endpoint::answering(200, &[("content-type", "text/csv")], "a,b\n").await;
    let handler = HttpHandler::new(&endpoint.url, None).unwrap();
    let handler = handler.token(&SecretString::from("t0ken")).unwrap();
    let detail = run_one(handler, LIMIT, JobState::Completed).await;
    let (_, receipt) = &detail.receipts[0];
    assert_eq!(
        (receipt.content_type.as_str(), receipt.body.as_slice()),
        ("text/csv", &b"a,b\n"[..])
    );
    let asked = endpoint.asked.lock().unwrap();
    let [(headers, body)] = asked.as_slice() else { panic!("{} requests", asked.len()) };
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["authorization"], "Bearer t0ken");
    assert_eq!(headers["idempotency-key"], detail.job.id.to_string());
    assert_eq!(headers["posthaste-attempt"], "1");
    let task: serde_json::Value = serde_json::from_slice(body).unwrap();
    assert_eq!((&task["topic"], &task["payload"]), (&"t".into(), &"7".into()));
    assert_eq!(task["job"], detail.job.id.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_answer_is_no_receipt() {
    let endpoint = Endpoint::answering(204, &[], "").await;
    let handler = HttpHandler::new(&endpoint.url, None).unwrap();
    assert_eq!(run_one(handler, LIMIT, JobState::Completed).await.receipts, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_is_one_clear_error() {
    let refused = Endpoint::answering(422, &[], "no such customer\n").await.fails().await;
    assert_eq!(refused, "POST URL answered 422 Unprocessable Entity: no such customer");
    let broken = Endpoint::answering(500, &[], "").await.fails().await;
    assert_eq!(broken, "POST URL answered 500 Internal Server Error");
    let moved = Endpoint::answering(302, &[("location", "http://127.0.0.1:1/")], "").await;
    assert_eq!(moved.fails().await, "POST URL answered 302 Found");
    assert_eq!(moved.asked.lock().unwrap().len(), 1, "redirections are not followed");
    let long = "x".repeat((1 << 20) + 1);
    let long = Endpoint::answering(200, &[], &long).await.fails().await;
    assert_eq!(long, "POST URL answered more than 1048576 bytes");
    let long = Endpoint::answering(503, &[], &"y".repeat(5_000)).await.fails().await;
    assert!(long.len() < 2_200 && long.ends_with("yyy"), "{}", long.len());
    let gone = Endpoint::answering(200, &[], "").await;
    gone.serving.abort();
    while !gone.serving.is_finished() {
        tokio::task::yield_now().await;
    }
    let gone = gone.fails().await;
    assert!(gone.starts_with("POST URL: ") && gone.contains("refused"), "{gone}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoint_that_never_answers_is_left() {
    let endpoint = Endpoint::start(|| None, None).await;
    let handler = HttpHandler::new(&endpoint.url, None).unwrap();
    let detail = run_one(handler, Duration::from_millis(500), JobState::Dead).await;
    assert_eq!(detail.job.reason.as_deref(), Some("its handler took longer than 500ms"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_must_come_from_the_named_authority() {
    let tls = Tls::generate();
    let certificates = CertificateDer::pem_slice_iter(tls.certificate_pem().as_bytes());
    let certificates = certificates.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(tls.key_pem().as_bytes()).unwrap();
    posthaste_redis::tls::install_crypto();
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(certificates, key).unwrap();
    let answer = || Some(Response::new(Full::from("{}")));
    let endpoint = Endpoint::start(answer, Some(TlsAcceptor::from(Arc::new(config)))).await;
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, tls.ca_pem()).unwrap();
    let handler = HttpHandler::new(&endpoint.url, Some(&ca_file)).unwrap();
    run_one(handler, LIMIT, JobState::Completed).await;
    std::fs::write(&ca_file, Tls::generate().ca_pem()).unwrap();
    let handler = HttpHandler::new(&endpoint.url, Some(&ca_file)).unwrap();
    let reason = run_one(handler, LIMIT, JobState::Dead).await.job.reason.unwrap();
    assert!(reason.contains("certificate"), "{reason}");
    let missing = HttpHandler::new(&endpoint.url, Some(&directory.path().join("no.pem")));
    assert!(missing.unwrap_err().to_string().contains("no.pem"));
}
