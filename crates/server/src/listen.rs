//! Connections: accepted up to a limit, each on a task of its own, and ended in order.
//!
//! HTTP/1.1 through hyper, whose own server knows no time-out for headers unless it is given a timer. Everything a
//! client may take is bounded: a place among the connections, the size and time of its headers, body and request, and
//! the time in which it takes its answer.

use std::{net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    proxy::{Routes, Ways},
    settings::ServerSettings,
    timed_io::TimedIo,
    tls::Certificates,
};

/// Headers that a request may have: browsers send some twenty.
const HEADERS_MAX: usize = 100;
/// Pause after a failed accept: it fails while the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What connections are served with; clones share it.
#[derive(Clone)]
pub(crate) struct Serving {
    pub(crate) router: Router,
    pub(crate) certificates: Option<Certificates>,
    pub(crate) settings: Arc<ServerSettings>,
    pub(crate) ways: Ways,
}

/// Accepts connections until `shutdown`; then closes those that are idle, and gives the others the drain's time for
/// the requests that they are at.
pub(crate) async fn serve(
    socket: TcpListener,
    serving: Serving,
    shutdown: impl Future<Output = ()> + Send,
) {
    let (end, ended) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let has_room = connections.len() < serving.settings.connections_max;
        tokio::select! {
            () = &mut shutdown => break,
            Some(_ended) = connections.join_next() => {}
            accepted = socket.accept(), if has_room => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connect(stream, peer.ip(), serving.clone(), ended.clone()));
                }
                Err(error) => {
                    tracing::warn!("accept a connection: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(socket);
    end.send_replace(true);
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(serving.settings.drain_timeout, all).await.is_err() {
        let left = connections.len();
        tracing::warn!(left, "requests were still in progress at server.drain_timeout");
    }
    connections.shutdown().await;
}

async fn connect(
    stream: TcpStream,
    peer: IpAddr,
    serving: Serving,
    mut ended: watch::Receiver<bool>,
) {
    // Answers are written whole: waiting for more of them helps nobody.
    let _ = stream.set_nodelay(true);
    let stream = TimedIo::new(stream, serving.settings.write_timeout);
    let Some(certificates) = &serving.certificates else {
        return converse(stream, peer, serving, ended).await;
    };
    let accept = TlsAcceptor::from(certificates.current()).accept(stream);
    let accepted = tokio::select! {
        // Nobody has asked for anything yet.
        _ = ended.wait_for(|ended| *ended) => return,
        accepted = timeout(serving.settings.headers_timeout, accept) => accepted,
    };
    match accepted {
        Ok(Ok(stream)) => converse(stream, peer, serving, ended).await,
        Ok(Err(error)) => tracing::debug!("begin TLS with a client: {error}"),
        Err(_elapsed) => tracing::debug!("begin TLS with a client: it is too slow"),
    }
}

/// Answers the requests of a connection, one after the other.
async fn converse<S>(stream: S, peer: IpAddr, serving: Serving, mut ended: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let settings = &serving.settings;
    let router = TowerToHyperService::new(serving.router);
    let routes = Routes { ways: serving.ways, peer, router };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.headers_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(settings.headers_bytes_max)
        .serve_connection(TokioIo::new(stream), routes);
    let mut connection = pin!(connection);
    let end = async { drop(ended.wait_for(|ended| *ended).await) };
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = end => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!("serve a connection: {error}");
    }
}
