//! What a client's certificate says who the client is.

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// The part of a certificate that is taken for a user's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateName {
    /// The common name of its subject.
    Common,
    /// Alternative names of this kind.
    Dns,
    Uri,
    Email,
}

/// All names of this kind, in the certificate's order; none if it cannot be read.
pub fn names(certificate: &CertificateDer<'_>, kind: CertificateName) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    if kind == CertificateName::Common {
        let common = certificate.subject().iter_common_name();
        return common.filter_map(|name| name.as_str().ok().map(str::to_owned)).collect();
    }
    let Ok(Some(alternative)) = certificate.subject_alternative_name() else { return Vec::new() };
    let wanted = alternative.value.general_names.iter().filter_map(|name| match (kind, name) {
        (CertificateName::Dns, GeneralName::DNSName(name))
        | (CertificateName::Uri, GeneralName::URI(name))
        | (CertificateName::Email, GeneralName::RFC822Name(name)) => Some((*name).to_owned()),
        _ => None,
    });
    wanted.collect()
}

/// When the certificate ends, in seconds since 1970.
pub fn expires_at(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}
