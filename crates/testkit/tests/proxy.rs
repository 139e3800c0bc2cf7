//! What a faulty connection looks like from both of its ends.

use std::time::Duration;

use posthaste_testkit::proxy::{NetFault, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Longer than anything here takes, unless it never comes.
const LIMIT: Duration = Duration::from_secs(5);
/// Nothing comes within this.
const SILENCE: Duration = Duration::from_millis(200);

/// A server whose connections the test holds, and a proxy before it.
async fn server() -> (TcpListener, Proxy, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let proxy = Proxy::start(port).await.unwrap();
    let url = proxy.url(&format!("redis://127.0.0.1:{port}/"));
    let port = url.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
    (listener, proxy, port)
}

async fn connect(listener: &TcpListener, port: u16) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// The next bytes; none at the end of the connection.
async fn next(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    let read = timeout(LIMIT, stream.read(&mut bytes)).await.unwrap().unwrap_or(0);
    bytes.truncate(read);
    bytes
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    timeout(SILENCE, stream.read_u8()).await.is_err()
}

#[tokio::test]
async fn without_a_fault_everything_passes() {
    let (listener, proxy, port) = server().await;
    let (mut client, mut server) = connect(&listener, port).await;
    client.write_all(b"ask").await.unwrap();
    assert_eq!(next(&mut server).await, b"ask");
    server.write_all(b"answer").await.unwrap();
    assert_eq!(next(&mut client).await, b"answer");
    drop(server);
    assert_eq!(next(&mut client).await, b"");
    assert_eq!(proxy.hits(), 0);
}

#[tokio::test]
async fn a_reset_comes_in_the_middle_of_what_is_sent() {
    let (listener, proxy, port) = server().await;
    let (mut client, mut server) = connect(&listener, port).await;
    proxy.set(NetFault::Reset { after_bytes: 2 });
    client.write_all(b"ask").await.unwrap();
    let first = next(&mut server).await;
    // The reset may overtake what came before it.
    assert!(first == b"as" || first.is_empty(), "{first:?}");
    assert_eq!(next(&mut server).await, b"");
    assert_eq!(next(&mut client).await, b"");
    // Once.
    let (mut client, mut server) = connect(&listener, port).await;
    client.write_all(b"ask").await.unwrap();
    assert_eq!(next(&mut server).await, b"ask");
    assert_eq!(proxy.hits(), 1);
}

#[tokio::test]
async fn a_lost_reply_belongs_to_what_the_server_has_done() {
    let (listener, proxy, port) = server().await;
    let (mut client, mut server) = connect(&listener, port).await;
    proxy.set(NetFault::ReplyLost);
    client.write_all(b"ask").await.unwrap();
    assert_eq!(next(&mut server).await, b"ask");
    server.write_all(b"answer").await.unwrap();
    assert_eq!(next(&mut client).await, b"");
}

#[tokio::test]
async fn a_half_open_connection_is_silent_for_good_and_the_next_one_is_not() {
    let (listener, proxy, port) = server().await;
    let (mut client, mut server) = connect(&listener, port).await;
    proxy.set(NetFault::HalfOpen);
    client.write_all(b"ask").await.unwrap();
    server.write_all(b"answer").await.unwrap();
    assert!(is_silent(&mut server).await && is_silent(&mut client).await);
    proxy.set(NetFault::None);
    client.write_all(b"more").await.unwrap();
    assert!(is_silent(&mut server).await && is_silent(&mut client).await);
    drop(client);
    assert!(is_silent(&mut server).await, "it does not hear of the end either");
    let (mut client, mut server) = connect(&listener, port).await;
    client.write_all(b"ask").await.unwrap();
    assert_eq!(next(&mut server).await, b"ask");
}

#[tokio::test]
async fn held_bytes_reach_the_server_behind_the_clients_next_connection() {
    let (listener, proxy, port) = server().await;
    let (mut client, mut server) = connect(&listener, port).await;
    proxy.set(NetFault::HoldBack);
    client.write_all(b"late").await.unwrap();
    assert!(is_silent(&mut server).await);
    drop(client);
    assert!(is_silent(&mut server).await);
    let (mut client, mut second) = connect(&listener, port).await;
    client.write_all(b"first").await.unwrap();
    assert_eq!(next(&mut second).await, b"first");
    assert_eq!(next(&mut server).await, b"late");
}

#[tokio::test]
async fn a_trickle_passes_a_byte_a_second_and_then_the_rest() {
    let (listener, proxy, port) = server().await;
    let (mut client, mut server) = connect(&listener, port).await;
    proxy.set(NetFault::Trickle);
    client.write_all(b"slow").await.unwrap();
    assert_eq!(next(&mut server).await, b"s");
    assert!(is_silent(&mut server).await);
    proxy.set(NetFault::None);
    let mut rest = [0; 3];
    timeout(LIMIT, server.read_exact(&mut rest)).await.unwrap().unwrap();
    assert_eq!(&rest, b"low");
}
