//! A proxy that records which messages a PostgreSQL client sends, to count statements and round
//! trips without a clock. It knows of the protocol only how messages are framed (PostgreSQL
//! manual, 55.7) and lets answers through unread.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// The request code of a client that would like TLS; its real startup message follows.
const SSL_REQUEST: [u8; 4] = 80_877_103_i32.to_be_bytes();

/// A proxy before one server. Ends with the test's runtime.
pub(crate) struct Proxy {
    port: u16,
    /// The type bytes of all messages since the last look, written by the connections' tasks.
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Proxy {
    pub(crate) async fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = Arc::default();
        tokio::spawn(serve(listener, server_port, Arc::clone(&sent)));
        Self { port, sent }
    }

    /// `url` with the proxy in the server's place.
    pub(crate) fn url(&self, url: &str, server_port: u16) -> String {
        url.replace(&format!(":{server_port}/"), &format!(":{}/", self.port))
    }

    /// The messages since the last call, one letter each: `P`arse, `B`ind, `D`escribe, `E`xecute,
    /// `C`lose, `S`ync (which waits for an answer), `Q`uery (which does too).
    pub(crate) fn take(&self) -> String {
        let sent = std::mem::take(&mut *self.sent.lock().unwrap_or_else(PoisonError::into_inner));
        String::from_utf8(sent).unwrap()
    }
}

async fn serve(listener: TcpListener, server_port: u16, sent: Arc<Mutex<Vec<u8>>>) {
    while let Ok((client, _)) = listener.accept().await {
        let server = TcpStream::connect(("127.0.0.1", server_port)).await.unwrap();
        let (questions, mut answers_out) = client.into_split();
        let (mut answers, server) = server.into_split();
        tokio::spawn(async move { io::copy(&mut answers, &mut answers_out).await });
        tokio::spawn(forward(questions, server, Arc::clone(&sent)));
    }
}

/// Ends with an error when either side closes, which is how every connection ends.
async fn forward(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    sent: Arc<Mutex<Vec<u8>>>,
) -> io::Result<()> {
    // Until the startup message, messages have no type.
    while body(&mut client, &mut server).await?.starts_with(&SSL_REQUEST) {}
    loop {
        let kind = client.read_u8().await?;
        // Before the message is passed on: its answer must not come before it was counted.
        sent.lock().unwrap_or_else(PoisonError::into_inner).push(kind);
        server.write_u8(kind).await?;
        body(&mut client, &mut server).await?;
    }
}

/// Passes on a length and what it counts, and returns the latter.
async fn body(client: &mut OwnedReadHalf, server: &mut OwnedWriteHalf) -> io::Result<Vec<u8>> {
    let length = client.read_u32().await?;
    let mut body = vec![0; length as usize - size_of::<u32>()];
    client.read_exact(&mut body).await?;
    server.write_u32(length).await?;
    server.write_all(&body).await?;
    Ok(body)
}
