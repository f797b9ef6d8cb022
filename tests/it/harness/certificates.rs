//! Certificates made for one test run, and clients that look at them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use super::process::Folder;

/// An authority, with the certificates it has made as files in a folder of its own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: Folder,
}

/// The names of a certificate's files.
#[derive(Clone, Debug)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("authority {:08x} of the tests", fastrand::u32(..)));
        let issuer = CertifiedIssuer::self_signed(params, key()).expect("the parameters are complete");
        let authority = Authority { issuer, folder: Folder::new() };
        fs::write(authority.file(), authority.issuer.pem()).expect("the folder is ours");
        authority
    }

    /// Its own certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A certificate with this common name, for 127.0.0.1, `localhost` and a URI that ends with the name.
    pub fn issue(&self, name: &str) -> Files {
        self.issue_with(name, |_| {})
    }

    /// As [`Authority::issue`], of which nobody should take any notice any more.
    pub fn issue_expired(&self, name: &str) -> Files {
        self.issue_with(name, |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        })
    }

    /// Writes over the files of an earlier one of the same name.
    fn issue_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Files {
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params.subject_alt_names.push(SanType::URI(format!("spiffe://test/{name}").try_into().expect("ASCII")));
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let own = key();
        let certificate = params.signed_by(&own, &self.issuer).expect("the parameters are complete");
        let files = Files { certificate: self.folder.join(format!("{name}.crt")), key: self.folder.join(format!("{name}.key")) };
        fs::write(&files.certificate, certificate.pem()).expect("the folder is ours");
        fs::write(&files.key, own.serialize_pem()).expect("the folder is ours");
        files
    }

    /// What clients are made with that trust this authority, and show a certificate or none.
    pub fn client(&self, own: Option<&Files>) -> Arc<ClientConfig> {
        self.client_of(own, &[&rustls::version::TLS13, &rustls::version::TLS12])
    }

    pub fn client_of(&self, own: Option<&Files>, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("known versions");
        let builder = builder.with_root_certificates(roots);
        Arc::new(match own {
            Some(files) => {
                let key = PrivateKeyDer::from_pem_file(&files.key).expect("a key");
                builder.with_client_auth_cert(load(&files.certificate), key).expect("they belong together")
            }
            None => builder.with_no_client_auth(),
        })
    }
}

pub fn load(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file).expect("a file").collect::<Result<_, _>>().expect("certificates")
}

fn key() -> KeyPair {
    KeyPair::generate().expect("there is randomness")
}
