//! TLS in front of a listener: a certificate that can be read anew, and handshakes that are bounded
//! and told of.

use std::fmt::Write as _;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{InconsistentKeys, InvalidMessage, ServerConfig};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;

use super::secured::Secured;
use crate::config::{Settings, TlsFiles};
use crate::domain::network::TrustedProxies;

/// Failed handshakes that get a line of their own in a minute; the rest are counted.
const TOLD_IN_A_MINUTE: u32 = 10;
const MINUTE: Duration = Duration::from_mins(1);

/// Why a certificate and its key cannot be used. It never repeats what is in the files.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {why}")]
pub struct TlsError {
    file: String,
    why: String,
}

/// The TLS of one listener.
pub struct Tls {
    plane: &'static str,
    files: TlsFiles,
    header_time: Duration,
    config: RwLock<Arc<ServerConfig>>,
    told: Mutex<Told>,
}

/// What has been said of failed handshakes lately.
#[derive(Default)]
struct Told {
    since: Option<Instant>,
    lines: u32,
    unsaid: u64,
}

/// The TLS of both listeners, as far as the settings want it.
pub struct Listeners {
    pub node: Option<Arc<Tls>>,
    pub admin: Option<Arc<Tls>>,
}

impl Listeners {
    pub fn open(settings: &Settings) -> Result<Listeners, TlsError> {
        let header_time = settings.limits.header_time;
        let open = |plane, files: &Option<TlsFiles>| {
            files.clone().map(|files| Tls::open(plane, files, header_time)).transpose()
        };
        Ok(Listeners {
            node: open("node", &settings.tls)?,
            admin: open("admin", &settings.admin_tls)?,
        })
    }

    /// Reads all the files anew.
    pub fn reload(&self) {
        [&self.node, &self.admin].into_iter().flatten().for_each(|tls| tls.reload());
    }
}

/// What is wrong, and what is worth a warning, with the files that the settings name.
#[must_use]
pub fn check(settings: &Settings) -> (Vec<TlsError>, Vec<String>) {
    let files = || [&settings.tls, &settings.admin_tls].into_iter().flatten();
    let problems = files().filter_map(|files| load(files).err()).collect();
    (problems, files().filter_map(|files| exposed(&files.key)).collect())
}

impl Tls {
    fn open(
        plane: &'static str,
        files: TlsFiles,
        header_time: Duration,
    ) -> Result<Arc<Tls>, TlsError> {
        let (config, _) = load(&files)?;
        if let Some(warning) = exposed(&files.key) {
            tracing::warn!(plane, "{warning}");
        }
        let (config, told) = (RwLock::new(Arc::new(config)), Mutex::default());
        Ok(Arc::new(Tls { plane, files, header_time, config, told }))
    }

    /// Reads the files anew. New connections get the new certificate; with files that cannot be
    /// used, the old one.
    fn reload(&self) {
        match load(&self.files) {
            Ok((config, certificate)) => {
                *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                tracing::info!(plane = self.plane, certificate, "the certificate was read anew");
                if let Some(warning) = exposed(&self.files.key) {
                    tracing::warn!(plane = self.plane, "{warning}");
                }
            }
            Err(error) => {
                tracing::error!(plane = self.plane, %error, "the old certificate stays in use");
            }
        }
    }

    /// A connection once its handshake is done, and the address at its other end. Handshakes that
    /// fail are told of.
    pub async fn open_connection(
        self: &Arc<Tls>,
        proxies: &TrustedProxies,
        mut stream: TcpStream,
    ) -> Result<(Secured, Option<SocketAddr>), ()> {
        let peer = super::source(self.plane, proxies, &mut stream, self.header_time).await?;
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner).clone();
        let accept = async {
            let mut secured = Secured::new(self, config, stream, peer)?;
            let is_there = poll_fn(|context| secured.poll_handshake(context)).await?;
            Ok::<_, io::Error>(is_there.then_some(secured))
        };
        match tokio::time::timeout(self.header_time, accept).await {
            Ok(Ok(Some(secured))) => return Ok((secured, peer)),
            // Whoever goes away without a word was looking whether the port is open.
            Ok(Ok(None)) => {}
            Ok(Err(error)) => self.tell(peer, &reason(&error)),
            Err(_) => self.tell(peer, "it took too long"),
        }
        Err(())
    }

    /// Logs a failed handshake, unless a flood of them has been logged enough.
    pub fn tell(&self, peer: Option<SocketAddr>, reason: &str) {
        let Some(unsaid) = self.told.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        tracing::warn!(plane = self.plane, peer, reason, unsaid, "a TLS handshake failed");
    }
}

impl Told {
    /// How many went unsaid before this one, or nothing if it goes unsaid itself.
    fn take(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.since.is_none_or(|since| now.duration_since(since) >= MINUTE) {
            self.since = Some(now);
            self.lines = 0;
        }
        if self.lines == TOLD_IN_A_MINUTE {
            self.unsaid += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.unsaid))
    }
}

fn reason(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "not TLS: plain HTTP, perhaps".into()
        }
        Some(error) => error.to_string(),
        None => error.to_string(),
    }
}

/// Reads a chain and its key: TLS 1.2 and 1.3, and tickets, so that a client that comes back needs
/// no whole handshake. With it, the SHA-256 of the certificate.
fn load(files: &TlsFiles) -> Result<(ServerConfig, String), TlsError> {
    let at = |file: &Path, why: String| TlsError { file: file.display().to_string(), why };
    let read = |file: &Path| {
        std::fs::read(file).map_err(|error| at(file, format!("cannot be read: {error}")))
    };
    let chain = CertificateDer::pem_slice_iter(&read(&files.cert)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| at(&files.cert, "is not good PEM".into()))?;
    let Some(first) = chain.first() else {
        return Err(at(&files.cert, "there is no certificate in PEM in it".into()));
    };
    let sha256 = Sha256::digest(first).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    let key = PrivateKeyDer::from_pem_slice(&zeroize::Zeroizing::new(read(&files.key)?))
        .map_err(|_| at(&files.key, "there is no unencrypted private key in PEM in it".into()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has suites for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .and_then(|mut config| {
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            config.ticketer = ring::Ticketer::new()?;
            // Each connection brings one for the next.
            config.send_tls13_tickets = 1;
            Ok(config)
        });
    match config {
        Ok(config) => Ok((config, sha256)),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let why = format!("is not the key of the certificate in {}", files.cert.display());
            Err(at(&files.key, why))
        }
        Err(rustls::Error::InvalidCertificate(_)) => {
            Err(at(&files.cert, "its first certificate is not one".into()))
        }
        Err(error) => Err(at(&files.key, format!("cannot be used: {error}"))),
    }
}

/// The warning that a key deserves which anybody on this machine may read.
fn exposed(key: &Path) -> Option<String> {
    let mode = std::fs::metadata(key).ok()?.permissions().mode();
    (mode & 0o007 != 0).then(|| format!("{}: others can use this key: chmod o= it", key.display()))
}
