//! A client of a stream, as a browser is one: it reads events, remembers the last id, and comes again.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use posthaste_testkit::failure::{During, Failure, Result};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};

/// Before it comes again.
const PAUSE: Duration = Duration::from_millis(20);
/// A server that is there answers within this.
const ANSWER: Duration = Duration::from_secs(5);
/// Nothing more comes after so long.
const SILENCE: Duration = Duration::from_secs(1);

/// What one client has seen of its run.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) run: u32,
    pub(super) events: Vec<(u64, Instant)>,
}

/// Follows a run until it is over and silent.
pub(super) async fn watch(address: SocketAddr, run: u32, over: watch::Receiver<bool>) -> Seen {
    let mut seen = Seen { run, events: Vec::new() };
    let mut last = None;
    loop {
        if let Ok(stream) = open(address, &format!("r{run}"), last.as_deref()).await
            && follow(stream, &mut seen, &mut last, &over).await
        {
            return seen;
        }
        sleep(PAUSE).await;
    }
}

/// Begins a stream: at the beginning of the log, or behind the last id.
pub(super) async fn open(
    address: SocketAddr,
    key: &str,
    last: Option<&str>,
) -> Result<BufReader<TcpStream>> {
    let connecting = timeout(ANSWER, TcpStream::connect(address)).await.during("connect")?;
    let mut stream = BufReader::with_capacity(2 << 10, connecting.during("connect")?);
    let last = last.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
    let request = format!(
        "GET /api/v1/streams?topic=run.*&key={key}&since=beginning HTTP/1.1\r\nhost: localhost\r\n{last}\r\n"
    );
    stream.write_all(request.as_bytes()).await.during("ask for a stream")?;
    let mut status = String::new();
    timeout(ANSWER, stream.read_line(&mut status)).await.during("wait")?.during("read")?;
    if !status.contains(" 200 ") {
        return Err(Failure::new(format!("no stream: {status}")));
    }
    Ok(stream)
}

/// Reads until the stream ends (false), or the run is over and nothing more comes.
async fn follow(
    mut stream: BufReader<TcpStream>,
    seen: &mut Seen,
    last: &mut Option<String>,
    over: &watch::Receiver<bool>,
) -> bool {
    let mut line = String::new();
    loop {
        match timeout(SILENCE, stream.read_line(&mut line)).await {
            Ok(Ok(0) | Err(_)) => return false,
            Ok(Ok(_)) => {}
            Err(_silent) if *over.borrow() => return true,
            // What has come of a line stays in it.
            Err(_silent) => continue,
        }
        if let Some(id) = line.strip_prefix("id: ") {
            *last = Some(id.trim_end().to_owned());
        } else if let Some(data) = line.strip_prefix("data: ") {
            let now = Instant::now();
            let event: Value = serde_json::from_str(data).unwrap_or_default();
            if let Some(n) = event["payload"]["n"].as_u64() {
                seen.events.push((n, now));
            }
        }
        line.clear();
    }
}
