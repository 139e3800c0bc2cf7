//! A TCP proxy that is at fault: between a client and a server, it delays, tears, swallows and
//! holds back what passes.
//!
//! It knows nothing of protocols: faults fall where the bytes happen to be. One fault at a time,
//! for all connections; what a fault has taken bytes from is of no use afterwards.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Bytes that are passed on in one piece.
const PIECE_BYTES: usize = 16 * 1024;
/// How long after the client's next connection held bytes are let go: its first commands come
/// before them.
const HELD_BEHIND_RECONNECT: Duration = Duration::from_millis(100);
/// Bytes of a connection that nobody misses are let go after this.
const HELD_MAX: Duration = Duration::from_secs(10);
/// After a lost reply, how long the connection seems to live.
const SILENCE_BEFORE_RESET: Duration = Duration::from_millis(20);
/// One byte of a trickle.
const TRICKLE_INTERVAL: Duration = Duration::from_secs(1);

/// What a proxy does to what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetFault {
    /// Nothing.
    None,
    /// Every piece comes this much later.
    Latency(Duration),
    /// After this many more bytes towards the server the connection is reset: in the middle of
    /// whatever they belong to. Once.
    Reset {
        /// Bytes that still pass.
        after_bytes: u64,
    },
    /// Connections on which something is sent stay open, and nothing passes from then on, also when
    /// the fault is over: not even that a side has closed.
    HalfOpen,
    /// One byte a second in either direction.
    Trickle,
    /// The next reply is swallowed, and its connection reset: the server has done what it was
    /// asked to. Once.
    ReplyLost,
    /// The next bytes towards the server are held back until the client has connected anew, and
    /// reach the server then, on the connection that the client has given up. Once.
    HoldBack,
}

/// A proxy before one server, which ends with the runtime it was started in.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server_port: u16,
    fault: watch::Sender<NetFault>,
    /// Connections accepted so far: who holds bytes back waits for the next one.
    accepted: watch::Sender<u64>,
    /// Bytes that may still pass before a reset.
    until_reset: AtomicU64,
    /// Connections that a fault has damaged, delayed or torn.
    hits: AtomicU64,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

/// Why a direction ended.
#[derive(Debug)]
enum Ended {
    /// Its sender closed it.
    Closed,
    /// The connection has to be reset.
    Reset,
    /// It was half-open: the other side hears nothing of it.
    Unheard,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(server_port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            server_port,
            fault: watch::Sender::new(NetFault::None),
            accepted: watch::Sender::new(0),
            until_reset: AtomicU64::new(0),
            hits: AtomicU64::new(0),
        });
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { port, shared })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `url` with the proxy in the server's place.
    pub fn url(&self, url: &str) -> String {
        url.replace(&format!(":{}/", self.shared.server_port), &format!(":{}/", self.port))
    }

    /// Begins a fault, in place of the one before it.
    pub fn set(&self, fault: NetFault) {
        if let NetFault::Reset { after_bytes } = fault {
            self.shared.until_reset.store(after_bytes, Ordering::Release);
        }
        self.shared.fault.send_replace(fault);
    }

    /// How often a fault has met a connection, since the start.
    pub fn hits(&self) -> u64 {
        self.shared.hits.load(Ordering::Acquire)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        shared.accepted.send_modify(|accepted| *accepted += 1);
        tokio::spawn(connect(client, Arc::clone(&shared)));
    }
}

/// Passes bytes both ways until both are closed, or the connection is reset.
async fn connect(client: TcpStream, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", shared.server_port)).await else { return };
    for stream in [&client, &server] {
        if stream.set_nodelay(true).is_err() {
            return;
        }
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let is_cut = Arc::new(AtomicBool::new(false));
    let mut ways = JoinSet::new();
    let (cut, both) = (Arc::clone(&is_cut), Arc::clone(&shared));
    ways.spawn(pass(from_client, to_server, Way::ToServer, cut, both));
    ways.spawn(pass(from_server, to_client, Way::ToClient, is_cut, shared));
    // An end that the other side must not hear of: dropping its half would tell it.
    let mut unheard = Vec::new();
    while let Some(ended) = ways.join_next().await {
        match ended {
            Ok((Ended::Closed, _)) => {}
            Ok((Ended::Unheard, to)) => unheard.push(to),
            Ok((Ended::Reset, _)) | Err(_) => ways.abort_all(),
        }
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: Way,
    is_cut: Arc<AtomicBool>,
    shared: Arc<Shared>,
) -> (Ended, OwnedWriteHalf) {
    let ended = pass_until_ended(&mut from, &mut to, way, &is_cut, &shared).await;
    if matches!(ended, Ended::Reset) {
        // Both sides see a reset instead of an end; where that fails they see an end.
        let _ = from.as_ref().set_zero_linger();
        let _ = to.as_ref().set_zero_linger();
    }
    (ended, to)
}

async fn pass_until_ended(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    way: Way,
    is_cut: &AtomicBool,
    shared: &Shared,
) -> Ended {
    let mut piece = vec![0; PIECE_BYTES];
    let mut fault = shared.fault.subscribe();
    loop {
        let read = match from.read(&mut piece).await {
            Ok(0) | Err(_) if is_cut.load(Ordering::Acquire) => return Ended::Unheard,
            Ok(0) => {
                // The other side may still have something to say.
                let _ = to.shutdown().await;
                return Ended::Closed;
            }
            Ok(read) => read,
            Err(_) => return Ended::Reset,
        };
        if is_cut.load(Ordering::Acquire) {
            continue;
        }
        let now = *fault.borrow_and_update();
        let is_whole = match now {
            NetFault::Latency(latency) => {
                shared.hit();
                sleep(latency).await;
                true
            }
            NetFault::Reset { .. } => match shared.cut(way, read) {
                None => true,
                Some(rest) => {
                    let _ = to.write_all(&piece[..rest]).await;
                    return Ended::Reset;
                }
            },
            NetFault::HalfOpen => {
                shared.hit();
                // For good: bytes are missing from it, and nobody ever says so.
                is_cut.store(true, Ordering::Release);
                false
            }
            NetFault::Trickle => {
                shared.hit();
                match trickle(&piece[..read], to, &mut fault).await {
                    Ok(()) => false,
                    Err(_) => return Ended::Reset,
                }
            }
            NetFault::ReplyLost if way == Way::ToClient => {
                shared.done(now);
                sleep(SILENCE_BEFORE_RESET).await;
                return Ended::Reset;
            }
            NetFault::HoldBack if way == Way::ToServer => {
                shared.hold(now).await;
                let written = to.write_all(&piece[..read]).await;
                // A reset right behind them would take them from the server again.
                sleep(SILENCE_BEFORE_RESET).await;
                if written.is_err() {
                    return Ended::Reset;
                }
                false
            }
            NetFault::None | NetFault::ReplyLost | NetFault::HoldBack => true,
        };
        if is_whole && to.write_all(&piece[..read]).await.is_err() && way == Way::ToServer {
            return Ended::Reset;
        }
    }
}

/// Passes one byte a second until the fault is over, and then the rest.
async fn trickle(
    piece: &[u8],
    to: &mut OwnedWriteHalf,
    fault: &mut watch::Receiver<NetFault>,
) -> io::Result<()> {
    for nth in 0..piece.len() {
        if *fault.borrow() != NetFault::Trickle {
            return to.write_all(&piece[nth..]).await;
        }
        to.write_all(&piece[nth..=nth]).await?;
        tokio::select! {
            () = sleep(TRICKLE_INTERVAL) => {}
            _ = fault.wait_for(|fault| *fault != NetFault::Trickle) => {}
        }
    }
    Ok(())
}

impl Shared {
    fn hit(&self) {
        self.hits.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends a fault that happens once, unless another has begun.
    fn done(&self, fault: NetFault) {
        self.hit();
        self.fault.send_if_modified(|current| {
            let is_it = *current == fault;
            if is_it {
                *current = NetFault::None;
            }
            is_it
        });
    }

    /// How many of `bytes` pass before the reset, if it comes among them.
    fn cut(&self, way: Way, bytes: usize) -> Option<usize> {
        if way == Way::ToClient {
            return None;
        }
        let left = self.until_reset.load(Ordering::Acquire);
        if left > bytes as u64 {
            self.until_reset.fetch_sub(bytes as u64, Ordering::AcqRel);
            return None;
        }
        let fault = *self.fault.borrow();
        self.done(fault);
        Some(left as usize)
    }

    /// Waits until the client has connected anew, within a limit.
    async fn hold(&self, fault: NetFault) {
        let mut accepted = self.accepted.subscribe();
        let before = *accepted.borrow_and_update();
        self.done(fault);
        let anew = accepted.wait_for(|accepted| *accepted > before);
        if timeout(HELD_MAX, anew).await.is_ok() {
            sleep(HELD_BEHIND_RECONNECT).await;
        }
    }
}
