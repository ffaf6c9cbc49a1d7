//! How the connection to Postgres is protected: `sslmode` and `sslrootcert` of its URL, as libpq reads
//! them.
//!
//! | `sslmode` | |
//! | --- | --- |
//! | `disable` | nothing is encrypted |
//! | `prefer`, or none | encrypted if the database can; whose certificate it is, is not asked |
//! | `require` | encrypted, or refused |
//! | `verify-full` | and the certificate is of an authority in the file `sslrootcert`, and for this host |
//!
//! A connection over a socket of the file system is never encrypted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use postgres::config::Host;
use postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::database::DatabaseError;

/// A database's URL, read.
pub(super) struct Address {
    /// What is not about encryption, and whether there is any.
    pub(super) config: Config,
    /// The authorities that its certificate must be of; `None` where nobody asks.
    root_certificates: Option<PathBuf>,
}

impl Address {
    /// Reads a URL. What cannot be read is not shown, for it may hold a password.
    pub(super) fn parse(url: &str) -> Result<Self, DatabaseError> {
        let (address, query) = url.rsplit_once('?').unwrap_or((url, ""));
        let (mut is_verified, mut root_certificates, mut others) = (false, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                // The driver has no word for it.
                Some(("sslmode", "verify-full")) => {
                    is_verified = true;
                    others.push("sslmode=require");
                }
                Some(("sslrootcert", path)) => root_certificates = Some(unescaped(path)?),
                _ => others.push(pair),
            }
        }
        if is_verified != root_certificates.is_some() {
            return Err(DatabaseError::UnusedCertificates);
        }
        let address = match others.as_slice() {
            [] => address.to_owned(),
            others => format!("{address}?{}", others.join("&")),
        };
        Ok(Self {
            config: address.parse().map_err(|_| DatabaseError::Address)?,
            root_certificates,
        })
    }

    /// Connects.
    pub(super) fn connect(&mut self) -> Result<Client, DatabaseError> {
        let is_local = |host: &Host| !matches!(host, Host::Tcp(_));
        if self.config.get_hosts().iter().all(is_local) {
            self.config.ssl_mode(postgres::config::SslMode::Disable);
            return Ok(self.config.connect(NoTls)?);
        }
        let client = ClientConfig::builder();
        let client = match &self.root_certificates {
            Some(path) => client.with_root_certificates(root_certificates(path)?),
            None => client
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(
                    ring::default_provider().signature_verification_algorithms,
                ))),
        };
        let tls = MakeRustlsConnect::new(client.with_no_client_auth());
        Ok(self.config.connect(tls)?)
    }
}

/// The path in a value of a URL, in which `+` is itself.
fn unescaped(value: &str) -> Result<PathBuf, DatabaseError> {
    let pair = format!("path={}", value.replace('+', "%2B"));
    let pairs: Vec<(String, PathBuf)> =
        serde_urlencoded::from_str(&pair).map_err(|_| DatabaseError::Address)?;
    let path = pairs.into_iter().next();
    path.map_or(Err(DatabaseError::Address), |(_, path)| Ok(path))
}

/// The authorities in a file. A bundle may hold some that the library does not read.
fn root_certificates(path: &Path) -> Result<RootCertStore, DatabaseError> {
    let unreadable = |source| DatabaseError::Certificates {
        path: path.to_owned(),
        source,
    };
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let mut roots = RootCertStore::empty();
    match roots.add_parsable_certificates(certificates.map_err(unreadable)?) {
        (0, _) => Err(unreadable(pem::Error::NoItemsFound)),
        _ => Ok(roots),
    }
}

/// Takes any certificate: the connection is private, but with whom is not known.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Whether a connection failed because of the database's certificate.
pub(super) fn is_about_certificate(error: &postgres::Error) -> bool {
    let cause = std::error::Error::source(error);
    let cause = cause.and_then(|cause| cause.downcast_ref::<std::io::Error>()?.get_ref());
    let cause = cause.and_then(|cause| cause.downcast_ref::<Error>());
    matches!(cause, Some(Error::InvalidCertificate(_)))
}

#[cfg(test)]
mod tests {
    use postgres::config::SslMode;

    use super::*;

    fn read(query: &str) -> Result<Address, DatabaseError> {
        Address::parse(&format!(
            "postgres://stork:sesame@db.example/quintet{query}"
        ))
    }

    #[test]
    fn modes_are_those_of_libpq() {
        let mode = |query| read(query).unwrap().config.get_ssl_mode();
        assert_eq!(mode(""), SslMode::Prefer);
        assert_eq!(mode("?sslmode=disable"), SslMode::Disable);
        assert_eq!(mode("?connect_timeout=3&sslmode=prefer"), SslMode::Prefer);
        assert_eq!(mode("?sslmode=require"), SslMode::Require);
        let full = read("?sslmode=verify-full&sslrootcert=/a%20b/c+d.pem&application_name=q");
        let full = full.unwrap();
        assert_eq!(full.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(full.config.get_application_name(), Some("q"));
        assert_eq!(full.root_certificates, Some(PathBuf::from("/a b/c+d.pem")));
    }

    /// Whoever names certificates wants them used, and nobody is checked against none.
    #[test]
    fn certificates_and_their_check_belong_together() {
        for query in [
            "?sslmode=verify-full",
            "?sslrootcert=ca.pem",
            "?sslmode=require&sslrootcert=ca.pem",
        ] {
            let refused = read(query);
            assert!(
                matches!(refused, Err(DatabaseError::UnusedCertificates)),
                "{query}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_and_not_shown() {
        for query in [
            "?sslmode=verify-ca",
            "?sslmode=",
            "?sslmode=Require",
            "?ssl=true",
            "?sesame@db.example/quintet?sslmode=verify-fully",
        ] {
            let Err(error) = read(query) else {
                panic!("{query} was read");
            };
            let text = format!("{error} {error:?} {:?}", std::error::Error::source(&error));
            assert!(!text.contains("sesame"), "{text}");
        }
        // An escape was forgotten: half a password stands behind the question mark.
        let forgotten = "postgres://stork:se?same@db.example/quintet?sslmode=verify-full";
        assert!(matches!(
            Address::parse(forgotten),
            Err(DatabaseError::UnusedCertificates)
        ));
    }
}
