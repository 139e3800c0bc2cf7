//! https: with the server's certificate, with clients' certificates, and with new ones while it runs.

use std::{path::PathBuf, sync::Arc};

use posthaste_server::{Server, ServerErrorKind, ServerSettings, TlsSettings};
use posthaste_testkit::Tls;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use crate::support::{Place, Running, settings};

struct Files {
    directory: TempDir,
}

impl Files {
    fn of(tls: &Tls) -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap() };
        files.write(tls);
        files
    }

    fn write(&self, tls: &Tls) {
        for (name, text) in [
            ("ca.pem", tls.ca_pem()),
            ("certificate.pem", tls.certificate_pem()),
            ("key.pem", tls.key_pem()),
        ] {
            std::fs::write(self.path(name), text).unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn settings(&self, client_ca: Option<PathBuf>) -> ServerSettings {
        let (certificate, key) = (self.path("certificate.pem"), self.path("key.pem"));
        let tls = TlsSettings { certificate: Some(certificate), key: Some(key), client_ca };
        ServerSettings { tls, ..settings() }
    }
}

/// A client that trusts `ca`, and shows the certificate of `own` if given.
async fn livez(server: &Running, ca: &Tls, own: Option<&Tls>) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.ca_pem().as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let chain =
                vec![CertificateDer::from_pem_slice(own.certificate_pem().as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(own.key_pem().as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, server.connect().await).await?;
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn is_ok(answer: &std::io::Result<String>) -> bool {
    answer.as_ref().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

#[tokio::test]
async fn certificates_are_used_and_read_again_while_the_server_runs() {
    let place = Place::sqlite().await;
    let (old, new) = (Tls::generate(), Tls::generate());
    let files = Files::of(&old);
    let (jobs, operations) = place.store().await;
    let bound = Server::new(files.settings(None), jobs, operations).unwrap().bind().unwrap();
    let certificates = bound.certificates().unwrap();
    let server = Running::of(bound);
    assert!(is_ok(&livez(&server, &old, None).await));
    assert!(!is_ok(&livez(&server, &new, None).await));
    files.write(&new);
    certificates.reload().unwrap();
    assert!(is_ok(&livez(&server, &new, None).await));
    // What cannot be used changes nothing.
    std::fs::write(files.path("key.pem"), "no key").unwrap();
    assert!(certificates.reload().is_err());
    assert!(is_ok(&livez(&server, &new, None).await));
    assert_eq!(server.get("/livez").await.status, 0, "http is not answered");
    server.ends().await;
}

#[tokio::test]
async fn clients_need_a_certificate_where_that_is_asked() {
    let place = Place::sqlite().await;
    let tls = Tls::generate();
    let files = Files::of(&tls);
    let settings = files.settings(Some(files.path("ca.pem")));
    let server = Running::with(&place, settings, Arc::new(posthaste_server::NoParts)).await;
    assert!(!is_ok(&livez(&server, &tls, None).await));
    assert!(!is_ok(&livez(&server, &tls, Some(&Tls::generate())).await));
    assert!(is_ok(&livez(&server, &tls, Some(&tls)).await));
    server.ends().await;
}

#[tokio::test]
async fn connection_that_says_nothing_does_not_delay_the_end() {
    let place = Place::sqlite().await;
    let tls = Tls::generate();
    let files = Files::of(&tls);
    let long = std::time::Duration::from_mins(10);
    let settings =
        ServerSettings { headers_timeout: long, drain_timeout: long, ..files.settings(None) };
    let server = Running::with(&place, settings, Arc::new(posthaste_server::NoParts)).await;
    let _silent = server.connect().await;
    // It was accepted before this one.
    assert!(is_ok(&livez(&server, &tls, None).await));
    server.ends().await;
}

#[tokio::test]
async fn key_of_another_certificate_is_named() {
    let place = Place::sqlite().await;
    let files = Files::of(&Tls::generate());
    std::fs::write(files.path("key.pem"), Tls::generate().key_pem()).unwrap();
    let (jobs, operations) = place.store().await;
    let server = Server::new(files.settings(None), jobs, operations).unwrap();
    let said = server.bind().map(drop).unwrap_err().to_string();
    assert!(said.contains("server.tls.key") && said.contains("certificate.pem"), "{said}");
}

#[tokio::test]
async fn file_that_cannot_be_used_is_named() {
    let place = Place::sqlite().await;
    let files = Files::of(&Tls::generate());
    std::fs::remove_file(files.path("key.pem")).unwrap();
    let (jobs, operations) = place.store().await;
    let server = Server::new(files.settings(None), jobs, operations).unwrap();
    let error = server.bind().map(drop).unwrap_err();
    assert_eq!(error.kind(), ServerErrorKind::Settings);
    assert!(error.to_string().starts_with("server.tls.key "), "{error}");
}
