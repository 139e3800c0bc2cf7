//! The small listener of relays and workers: HTTP/1.1, one request per connection, a few fixed answers.
//!
//! Everything is bounded: connections, the size of a request, the time for its headers and the
//! time of a connection as a whole, so that a slow client costs one place for some seconds. What
//! is answered, and where from, stands in `answers`.

mod answers;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use posthaste_relay::telemetry::Telemetry;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time::{sleep, timeout},
};

use self::answers::Answer;
use crate::{
    config::TelemetrySettings,
    exit::Exit,
    failure::{Failure, Result},
};

/// What the listener tells of.
pub(crate) trait Told: Send + Sync + 'static {
    /// Every metric as it stands, in Prometheus' text format 0.0.4. Asks nobody.
    fn metrics(&self) -> String;

    /// Whether the process is worth keeping.
    fn is_alive(&self) -> bool;

    /// Whether everything is at work, and the particulars.
    fn readiness(&self) -> (bool, serde_json::Value);

    /// Reads at intervals what the metrics need of others. Never returns.
    fn observe(self: Arc<Self>, interval: Duration) -> impl Future<Output = ()> + Send;
}

impl Told for Telemetry {
    fn metrics(&self) -> String {
        self.metrics()
    }

    fn is_alive(&self) -> bool {
        self.is_alive()
    }

    fn readiness(&self) -> (bool, serde_json::Value) {
        let readiness = self.readiness();
        (readiness.ready, serde_json::to_value(readiness).unwrap_or_default())
    }

    async fn observe(self: Arc<Self>, interval: Duration) {
        Self::observe(&self, interval).await;
    }
}

/// What clients may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections at once; those beyond it wait to be accepted.
    connections: usize,
    /// For a request's first byte to its last header.
    headers: Duration,
    /// For a connection as a whole, slow readers included.
    connection: Duration,
}

/// A scrape is answered within milliseconds, and a probe gives up after a second or so.
const LIMITS: Limits = Limits {
    connections: 64,
    headers: Duration::from_secs(5),
    connection: Duration::from_secs(10),
};
/// Headers and their bytes that a request may have: scrapers and probes send a handful.
const HEADERS_MAX: usize = 64;
const REQUEST_BYTES: usize = 16 << 10;
/// How long answers in progress may take after the end.
const END_LIMIT: Duration = Duration::from_secs(1);
/// Pause after a failed accept: it fails while the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that runs. Dropping it ends it at once.
#[derive(Debug)]
pub(crate) struct Listener {
    end: oneshot::Sender<()>,
    /// Accepting, and reading the database's values.
    tasks: JoinSet<()>,
}

impl Listener {
    /// Listens if the settings name an address, and reads the database's values meanwhile.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub(crate) async fn start(
        settings: &TelemetrySettings,
        told: impl Told,
    ) -> Result<Option<Self>> {
        let Some(address) = settings.listen else { return Ok(None) };
        let socket = bind(address).await?;
        let bound = socket.local_addr().unwrap_or(address);
        tracing::info!(address = %bound, "metrics and health are served");
        let told = Arc::new(told);
        let answering = Arc::clone(&told);
        let answer = move |request: &Request<Incoming>| {
            answers::to(request.method(), request.uri().path(), &*answering)
        };
        let mut listener = Self::serve(socket, LIMITS, answer);
        listener.tasks.spawn(told.observe(settings.interval));
        Ok(Some(listener))
    }

    fn serve(
        socket: TcpListener,
        limits: Limits,
        answer: impl Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let (end, ended) = oneshot::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(socket, limits, Arc::new(answer), ended));
        Self { end, tasks }
    }

    /// Accepts nothing more, and finishes the answers in progress if that takes no time.
    pub(crate) async fn end(mut self) {
        drop(self.end);
        // The first task to end is the one that accepts; the other has nothing to finish.
        let _ = timeout(2 * END_LIMIT, self.tasks.join_next()).await;
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let what = format!(
            "telemetry.listen = \"{address}\" cannot be listened on; end what listens there, or \
             name an address of this machine and a free port"
        );
        Failure::caused(Exit::Failed, what, error)
    })
}

/// Accepts connections until the end, each answered on a task of its own.
async fn accept<A>(
    socket: TcpListener,
    limits: Limits,
    answer: Arc<A>,
    mut ended: oneshot::Receiver<()>,
) where
    A: Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut ended => break,
            Some(_ended) = connections.join_next() => {}
            accepted = socket.accept(), if connections.len() < limits.connections => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, limits, Arc::clone(&answer)));
                }
                Err(error) => {
                    tracing::debug!("accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(socket);
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(END_LIMIT, all).await;
}

/// Answers the one request of a connection.
async fn converse<A>(stream: TcpStream, limits: Limits, answer: Arc<A>)
where
    A: Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let response = response(answer(&request));
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .keep_alive(false)
        .max_headers(HEADERS_MAX)
        .max_buf_size(REQUEST_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(limits.connection, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("answer a request: {error}"),
        Err(_elapsed) => tracing::debug!("answer a request: the client is too slow"),
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(answer.body));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert("content-type", answer.content_type);
    headers.insert("cache-control", hyper::header::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Above what anything in these tests takes.
    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(200);

    /// A listener with an answer that no buffer of the system takes at once, at `/big`.
    async fn listener(limits: Limits) -> (Listener, SocketAddr) {
        let socket = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = socket.local_addr().unwrap();
        let answer = |request: &Request<Incoming>| {
            let is_big = request.uri().path() == "/big";
            let body = if is_big { "x".repeat(64 << 20) } else { "fine".to_owned() };
            Answer::text(hyper::StatusCode::OK, body)
        };
        (Listener::serve(socket, limits, answer), address)
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    #[tokio::test]
    async fn slow_clients_do_not_hold_the_listener() {
        let (listener, address) = listener(LIMITS).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HT").await.unwrap();
        let began = Instant::now();
        assert!(ask(address, GET).await.ends_with("fine"));
        assert!(began.elapsed() < LIMITS.headers, "it waited for the slow client");
        listener.end().await;
    }

    #[tokio::test]
    async fn places_that_slow_clients_take_are_free_again_after_the_limit() {
        // One that never ends its headers, one that never reads its answer.
        let headers = Limits { connections: 2, headers: SHORT, connection: LONG * 4 };
        let whole = Limits { connections: 2, headers: LONG * 4, connection: SHORT };
        for (limits, request) in [(headers, "GET / HT"), (whole, "GET /big HTTP/1.1\r\n\r\n")] {
            let (listener, address) = listener(limits).await;
            let mut slow = Vec::new();
            for _ in 0..3 * limits.connections {
                let mut client = TcpStream::connect(address).await.unwrap();
                client.write_all(request.as_bytes()).await.unwrap();
                slow.push(client);
            }
            let answer = timeout(LONG, ask(address, GET)).await;
            assert!(answer.is_ok_and(|answer| answer.ends_with("fine")), "{limits:?}");
            listener.end().await;
        }
    }

    #[tokio::test]
    async fn requests_beyond_the_limits_are_refused() {
        let (listener, address) = listener(LIMITS).await;
        let many = "x: y\r\n".repeat(HEADERS_MAX + 1);
        let answer = ask(address, &format!("GET / HTTP/1.1\r\n{many}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        let long = "x".repeat(2 * REQUEST_BYTES);
        let answer = ask(address, &format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n")).await;
        assert!(!answer.contains("200 OK"), "{answer}");
        listener.end().await;
    }

    #[tokio::test]
    async fn listener_that_has_ended_accepts_nothing() {
        let (listener, address) = listener(LIMITS).await;
        assert!(ask(address, GET).await.contains("connection: close"));
        listener.end().await;
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn address_in_use_is_named_with_the_remedy() {
        let (_listener, address) = listener(LIMITS).await;
        let error = bind(address).await.unwrap_err();
        let text = anstream::adapter::strip_str(&error.human()).to_string();
        assert!(text.starts_with(&format!("error: telemetry.listen = \"{address}\"")), "{text}");
        assert!(text.contains("a free port\n  caused by: "), "{text}");
    }
}
