//! https of `posthaste serve`: certificates are exchanged while it runs, and who says nothing is cut off.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use posthaste_testkit::Tls;
use reqwest::{Certificate, Client, tls::TlsInfo};

use crate::{
    harness::Place,
    serve::{ends, serve},
};

const LIMIT: Duration = Duration::from_mins(1);
const HEADERS_TIMEOUT: Duration = Duration::from_secs(1);

fn place(tls: &Tls) -> Place {
    let place = Place::with(
        "[database]\nurl = \"sqlite:log.db\"\n[server]\nlisten = \"127.0.0.1:0\"\nheaders_timeout = \"1s\"\n\
         [server.tls]\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"\n",
    );
    write(&place, tls);
    place.run(&["migrate"]).succeeds();
    place
}

fn write(place: &Place, tls: &Tls) {
    place.write("certificate.pem", tls.certificate_pem());
    place.write("key.pem", tls.key_pem());
}

/// A client that trusts the authority of one certificate alone.
fn client(tls: &Tls) -> Client {
    posthaste_redis::tls::install_crypto();
    let authority = Certificate::from_pem(tls.ca_pem().as_bytes()).unwrap();
    let builder = Client::builder().no_proxy().timeout(LIMIT).tls_info(true);
    builder.tls_certs_only([authority]).build().unwrap()
}

/// The certificate that the server shows, if the client trusts it.
async fn shown(client: &Client, address: &str) -> reqwest::Result<Vec<u8>> {
    let answer = client.get(format!("https://{address}/livez")).send().await?;
    assert_eq!(answer.status(), 200);
    let info = answer.extensions().get::<TlsInfo>().expect("it came by TLS");
    Ok(info.peer_certificate().expect("a server has one").to_vec())
}

/// The bytes of a certificate.
fn der(tls: &Tls) -> Vec<u8> {
    let lines = tls.certificate_pem().lines().filter(|line| !line.starts_with("-----"));
    STANDARD.decode(lines.collect::<String>()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_read_again_at_sighup_and_kept_if_they_cannot_be() {
    let (first, second) = (Tls::generate(), Tls::generate());
    let place = place(&first);
    let (running, address) = serve(&place);
    assert_eq!(shown(&client(&first), &address).await.unwrap(), der(&first));
    write(&place, &second);
    running.signal("HUP");
    running.log.until("certificates were read again");
    let after = client(&second);
    assert_eq!(shown(&after, &address).await.unwrap(), der(&second));
    shown(&client(&first), &address).await.unwrap_err();
    for (file, key) in
        [("key.pem", "server.tls.key"), ("certificate.pem", "server.tls.certificate")]
    {
        place.write(file, "nothing of use");
        running.signal("HUP");
        let log = running.log.until("certificates stay as they are");
        assert!(log.last().is_some_and(|line| line.contains(key)), "{log:?}");
        assert_eq!(shown(&client(&second), &address).await.unwrap(), der(&second));
        write(&place, &first);
    }
    // A key of another certificate.
    place.write("key.pem", second.key_pem());
    running.signal("HUP");
    running.log.until("certificates stay as they are");
    assert_eq!(shown(&client(&second), &address).await.unwrap(), der(&second));
    write(&place, &first);
    running.signal("HUP");
    running.log.until("certificates were read again");
    assert_eq!(shown(&client(&first), &address).await.unwrap(), der(&first));
    ends(running);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_tls_handshake_is_cut_off_after_the_time_for_headers() {
    let tls = Tls::generate();
    let place = place(&tls);
    let (running, address) = serve(&place);
    // Nothing, and the beginning of a record that announces more than ever comes.
    for said in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(said).unwrap();
        assert_eq!(shown(&client(&tls), &address).await.unwrap(), der(&tls));
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it is closed");
        assert_eq!(answer, b"");
        assert!(begun.elapsed() >= HEADERS_TIMEOUT, "{:?}", begun.elapsed());
    }
    ends(running);
}
