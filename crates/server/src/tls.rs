//! https: certificates from PEM files, and how they are exchanged while the server runs.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::sync::watch;

use crate::{error::ServerError, settings::TlsSettings};

/// The certificates in use. New connections take the newest; those that stand keep theirs.
#[derive(Clone, Debug)]
pub struct Certificates {
    settings: TlsSettings,
    current: Arc<watch::Sender<Arc<ServerConfig>>>,
}

impl Certificates {
    /// Reads them; `None` where the settings ask for http.
    pub(crate) fn load(settings: &TlsSettings) -> Result<Option<Self>, ServerError> {
        let Some(read) = read(settings)? else { return Ok(None) };
        let (current, _) = watch::channel(read);
        Ok(Some(Self { settings: settings.clone(), current: Arc::new(current) }))
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// A file cannot be used; the certificates before it stay in use.
    pub fn reload(&self) -> Result<(), ServerError> {
        if let Some(read) = read(&self.settings)? {
            self.current.send_replace(read);
        }
        Ok(())
    }

    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.borrow())
    }
}

fn read(settings: &TlsSettings) -> Result<Option<Arc<ServerConfig>>, ServerError> {
    let (Some(certificate), Some(key)) = (&settings.certificate, &settings.key) else {
        return Ok(None);
    };
    let chain = certificates("certificate", certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable("key", key, error))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("certificate", certificate, error))?
        .with_client_cert_verifier(verifier(settings)?);
    let built = builder.with_single_cert(chain, private);
    let mut config = built.map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            let what = format!(
                "server.tls.key {} cannot be used; name the key of the certificate {}",
                key.display(),
                certificate.display()
            );
            ServerError::settings(what, Some(error.into()))
        }
        error => unusable("certificate", certificate, error),
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}

fn verifier(settings: &TlsSettings) -> Result<Arc<dyn ClientCertVerifier>, ServerError> {
    let Some(path) = &settings.client_ca else { return Ok(WebPkiClientVerifier::no_client_auth()) };
    let mut roots = RootCertStore::empty();
    for root in certificates("client_ca", path)? {
        roots.add(root).map_err(|error| unusable("client_ca", path, error))?;
    }
    let provider = Arc::new(ring::default_provider());
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    built.map_err(|error| unusable("client_ca", path, error))
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ServerError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|error| unusable(key, path, error))?;
    if read.is_empty() {
        return Err(unusable(key, path, "it holds no certificate"));
    }
    Ok(read)
}

fn unusable(
    key: &str,
    path: &Path,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ServerError {
    let what = format!("server.tls.{key} {} cannot be used; name a PEM file", path.display());
    ServerError::settings(what, Some(cause.into()))
}
