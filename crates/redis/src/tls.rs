//! Which certificate authorities a connection with TLS trusts.
//!
//! The client library takes them as PEM text. Both ways lead through here, so that nothing but
//! what the operator named, or the system's own store, is ever trusted.

use std::{fs, io, path::Path, sync::Once};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// Makes ring the process's provider of cryptography, unless one is installed already. Without
/// one, rustls panics when it finds two compiled in.
pub fn install_crypto() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // An error only says that the process has chosen its provider before.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// The authorities in `ca_file`, or the system's, as PEM. Blocks on the file system.
///
/// # Errors
/// The file, or the system's store, cannot be read or holds none.
pub fn roots(ca_file: Option<&Path>) -> io::Result<Vec<u8>> {
    let Some(path) = ca_file else { return system_roots() };
    let named = |error: &dyn std::fmt::Display| format!("ca_file {}: {error}", path.display());
    let pem = fs::read(path).map_err(|error| io::Error::new(error.kind(), named(&error)))?;
    let refused =
        |reason: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, named(reason));
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| refused(&error))?;
        RootCertStore::empty().add(certificate).map_err(|error| refused(&error))?;
        count += 1;
    }
    if count == 0 {
        return Err(refused(&"holds no certificate in PEM form"));
    }
    Ok(pem)
}

/// The system's authorities. One that cannot be read must not keep all others from being used.
fn system_roots() -> io::Result<Vec<u8>> {
    let mut pem = String::new();
    for certificate in rustls_native_certs::load_native_certs().certs {
        if RootCertStore::empty().add(certificate.clone()).is_ok() {
            pem.push_str("-----BEGIN CERTIFICATE-----\n");
            pem.push_str(&STANDARD.encode(&certificate));
            pem.push_str("\n-----END CERTIFICATE-----\n");
        }
    }
    if pem.is_empty() {
        let message = "the system has no certificate authorities: install them, or set ca_file";
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    Ok(pem.into_bytes())
}
