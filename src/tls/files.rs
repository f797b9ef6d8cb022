//! Configurations from files: certificates, keys, authorities, all of them PEM.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion, version,
};
use zeroize::Zeroizing;

use super::live::Files;

/// The largest file that is read: the certificates of all public authorities together are a quarter of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A certificate, with those that lead to its authority, and its private key.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    NotAskedFor,
    Optional,
    Required,
}

/// The oldest version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Tls12,
    Tls13,
}

/// What of a node's certificate is looked at, besides its dates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Its authority and its name.
    Full,
    /// Its authority only, as the servers themselves do among each other.
    Authority,
}

/// What a listener is made of.
#[derive(Clone, Debug)]
pub struct ServerFiles {
    pub identity: Identity,
    /// Whose certificates clients may show; given unless they are not asked for.
    pub authorities: Option<PathBuf>,
    pub client_certificates: ClientCertificates,
    pub oldest: Version,
}

/// What connections to nodes are made of.
#[derive(Clone, Debug)]
pub struct NodeFiles {
    pub authorities: PathBuf,
    /// What the proxy shows when it is asked for a certificate.
    pub identity: Option<Identity>,
    pub verify: Verify,
    pub oldest: Version,
}

/// Which of several files an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Certificate,
    Key,
    Authorities,
}

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} in {}, found {found}", path.display())]
pub struct FileError {
    pub which: Which,
    pub path: PathBuf,
    pub expected: &'static str,
    pub found: String,
}

impl Files for ServerFiles {
    type Configuration = ServerConfig;

    fn certificate(&self) -> Option<&Path> {
        Some(&self.identity.certificate)
    }

    fn paths(&self) -> Vec<&Path> {
        [&self.identity.certificate, &self.identity.key].into_iter().chain(&self.authorities).map(PathBuf::as_path).collect()
    }

    fn load(&self) -> Result<ServerConfig, FileError> {
        let provider = Arc::new(ring::default_provider());
        let certified = self.identity.load(&provider)?;
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(versions(self.oldest)).expect("ring has ciphers for both versions");
        let builder = match &self.authorities {
            Some(path) if self.client_certificates != ClientCertificates::NotAskedFor => {
                let verifier = WebPkiClientVerifier::builder_with_provider(load_authorities(path)?, provider);
                let verifier = match self.client_certificates {
                    ClientCertificates::Required => verifier,
                    _ => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(verifier.build().expect("there are authorities, and no revocation lists"))
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        // Clients that come back are spared the larger part of a handshake, without memory for each of them here. Without a source
        // of random numbers there would be no handshakes at all.
        if let Ok(tickets) = ring::Ticketer::new() {
            config.ticketer = tickets;
        }
        Ok(config)
    }
}

impl Files for NodeFiles {
    type Configuration = ClientConfig;

    fn certificate(&self) -> Option<&Path> {
        self.identity.as_ref().map(|identity| identity.certificate.as_path())
    }

    fn paths(&self) -> Vec<&Path> {
        let identity = self.identity.iter().flat_map(|identity| [&identity.certificate, &identity.key]);
        [&self.authorities].into_iter().chain(identity).map(PathBuf::as_path).collect()
    }

    fn load(&self) -> Result<ClientConfig, FileError> {
        let provider = Arc::new(ring::default_provider());
        let authorities = load_authorities(&self.authorities)?;
        let identity = self.identity.as_ref().map(|identity| identity.load(&provider)).transpose()?;
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(versions(self.oldest)).expect("ring has ciphers for both versions");
        let builder = match self.verify {
            Verify::Full => builder.with_root_certificates(authorities),
            Verify::Authority => {
                let verifier = WebPkiServerVerifier::builder_with_provider(authorities, provider).build();
                let verifier = verifier.expect("there are authorities, and no revocation lists");
                builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName(verifier)))
            }
        };
        Ok(match identity {
            Some(certified) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified))),
            None => builder.with_no_client_auth(),
        })
    }
}

fn versions(oldest: Version) -> &'static [&'static SupportedProtocolVersion] {
    static NEWEST_FIRST: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    match oldest {
        Version::Tls12 => &NEWEST_FIRST,
        Version::Tls13 => &NEWEST_FIRST[..1],
    }
}

impl Identity {
    fn load(&self, provider: &CryptoProvider) -> Result<CertifiedKey, FileError> {
        let chain = load_certificates(Which::Certificate, &self.certificate)?;
        let key = load_key(&self.key)?;
        CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            Error::InconsistentKeys(_) => FileError {
                which: Which::Key,
                path: self.key.clone(),
                expected: "the private key of the certificate",
                found: format!("the key of another one than that in {}", self.certificate.display()),
            },
            // What it says of the certificate and of the key cannot be told apart further.
            error => FileError {
                which: Which::Key,
                path: self.key.clone(),
                expected: "a private key that goes with the certificate",
                found: error.to_string(),
            },
        })
    }
}

/// The certificates that a file holds, at least one.
pub(super) fn load_certificates(which: Which, path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let expected = "certificates (PEM)";
    let wrong = |found: String| FileError { which, path: path.to_owned(), expected, found };
    let text = read(path).map_err(wrong)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(wrong("none".to_owned())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(wrong(format!("what is no PEM: {error}"))),
    }
}

fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let wrong = |found: String| FileError { which: Which::Key, path: path.to_owned(), expected: "a private key (PEM)", found };
    let text = read(path).map_err(wrong)?;
    let holds = |mark: &[u8]| memchr::memmem::find(&text, mark).is_some();
    // `BEGIN ENCRYPTED PRIVATE KEY`, and `Proc-Type: 4,ENCRYPTED` of older ones.
    if holds(b"ENCRYPTED") {
        let how = "one that is encrypted, which is not supported: decrypt it (openssl pkey -in OLD -out NEW) and have its mode protect it";
        return Err(wrong(how.to_owned()));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => wrong("none".to_owned()),
        error => wrong(format!("what is no PEM: {error}")),
    })
}

fn load_authorities(path: &Path) -> Result<Arc<RootCertStore>, FileError> {
    let mut store = RootCertStore::empty();
    // A system's bundle may hold some that nobody can read any more.
    let (usable, _) = store.add_parsable_certificates(load_certificates(Which::Authorities, path)?);
    if usable == 0 {
        let expected = "certificates of authorities";
        let found = "none that can be read".to_owned();
        return Err(FileError { which: Which::Authorities, path: path.to_owned(), expected, found });
    }
    Ok(Arc::new(store))
}

/// A file's bytes, or how the sentence "found ..." ends. They may hold a key, so they are wiped.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let len = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if len > FILE_BYTES_MAX {
        return Err(format!("{len} bytes, more than {FILE_BYTES_MAX}"));
    }
    fs::read(path).map(Zeroizing::new).map_err(|error| error.to_string())
}

/// Lets in whoever the authorities vouch for. The name is looked at last, so that a wrong one means that all else is right.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
