//! A throw-away certificate authority and one server certificate, for tests of encrypted
//! connections.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::account::Account;
use crate::error::TestkitError;

/// A certificate for `127.0.0.1` and `localhost`, and the authority that signed it, as PEM text.
#[derive(Debug, Clone)]
pub struct Tls {
    authority: String,
    certificate: String,
    key: String,
}

/// Where a server keeps them.
#[derive(Debug, Clone)]
pub(crate) struct TlsFiles {
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Tls {
    /// Makes an authority and a certificate.
    ///
    /// # Panics
    ///
    /// When no random key can be made, which a working machine always can.
    pub fn generate() -> Self {
        Self::try_generate().expect("fixed names always make a valid certificate")
    }

    /// The authority's certificate, for clients that take text; a server's `ca_file()` is the same
    /// as a file.
    pub fn ca_pem(&self) -> &str {
        &self.authority
    }

    /// The server's certificate, for servers that a test is itself.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    /// The server's private key, for servers that a test is itself.
    pub fn key_pem(&self) -> &str {
        &self.key
    }

    fn try_generate() -> Result<Self, rcgen::Error> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.distinguished_name.push(DnType::CommonName, "throw-away test authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        Ok(Self {
            authority: issuer.pem(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Writes the files into a server's directory, readable by its account alone.
    pub(crate) fn write(
        &self,
        account: Account,
        directory: &Path,
    ) -> Result<TlsFiles, TestkitError> {
        let files = TlsFiles::in_directory(directory);
        account.write(&files.ca, &self.authority)?;
        account.write(&files.certificate, &self.certificate)?;
        account.write(&files.key, &self.key)?;
        Ok(files)
    }
}

impl TlsFiles {
    pub(crate) fn in_directory(directory: &Path) -> Self {
        Self {
            ca: directory.join("ca.crt"),
            certificate: directory.join("server.crt"),
            key: directory.join("server.key"),
        }
    }
}
