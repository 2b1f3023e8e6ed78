//! Whom the client believes to be a server: the given CA, else those of the system. Nothing turns
//! the verification off.

use std::sync::Arc;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use super::ClientError;

/// The certificates of a PEM file.
pub fn parse_ca(pem: &[u8]) -> Result<Vec<Certificate<'static>>, ClientError> {
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(_) => return Err(ClientError::BadCa("it is not PEM".into())),
        }
    }
    let mut roots = rustls::RootCertStore::empty();
    let ders = certificates.iter().map(|certificate| certificate.der().to_vec().into());
    let (_, ignored) = roots.add_parsable_certificates(ders);
    match (certificates.len(), ignored) {
        (0, _) => Err(ClientError::BadCa("there is no certificate in it".into())),
        (_, 0) => Ok(certificates),
        _ => Err(ClientError::BadCa("a certificate in it cannot be read".into())),
    }
}

/// `None` asks for the system's own CAs.
pub fn config(ca: Option<Vec<Certificate<'static>>>) -> TlsConfig {
    let roots = ca.unwrap_or_else(|| {
        let system = rustls_native_certs::load_native_certs();
        system.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
    });
    TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::from(roots))
        .build()
}
