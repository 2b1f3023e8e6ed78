//! A private CA, the certificates it gives out, and a client that trusts it or not.

use std::io::{Error, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use super::wire::{nonce, request};
use super::{Reply, socket};

pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A certificate and its key, in PEM.
pub struct Pair {
    pub cert: String,
    pub key: String,
}

impl Ca {
    pub fn new() -> Ca {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // No two of one name: what is not trusted is then unknown, not broken.
        params.distinguished_name.push(DnType::CommonName, format!("private CA {}", nonce()));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Ca { issuer: Issuer::new(params, key), certificate }
    }

    /// A certificate for these names and addresses.
    pub fn issue(&self, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer);
        Pair { cert: certificate.unwrap().pem(), key: key.serialize_pem() }
    }

    /// Somebody who trusts this CA and no other, and speaks every version there is.
    pub fn client(&self) -> Client {
        Client::new(self, rustls::ALL_VERSIONS)
    }

    pub fn client_of(&self, version: &'static SupportedProtocolVersion) -> Client {
        Client::new(self, &[version])
    }
}

impl Pair {
    /// Writes `NAME.pem` and `NAME.key`, and returns their paths.
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let paths = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        std::fs::write(&paths.0, &self.cert).unwrap();
        write_private(&paths.1, &self.key);
        paths
    }
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub struct Client {
    config: Arc<ClientConfig>,
}

/// A connection whose handshake is done.
pub struct Secured {
    pub stream: StreamOwned<ClientConnection, TcpStream>,
    address: SocketAddr,
}

impl Client {
    fn new(ca: &Ca, versions: &[&'static SupportedProtocolVersion]) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(ca.certificate.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Client { config: Arc::new(config) }
    }

    /// A handshake with whoever is there, who has to be `name`.
    pub fn connect(&self, address: SocketAddr, name: &str) -> Result<Secured, Error> {
        self.connect_behind(address, name, b"")
    }

    /// The same behind bytes that are no TLS.
    pub fn connect_behind(
        &self,
        address: SocketAddr,
        name: &str,
        first: &[u8],
    ) -> Result<Secured, Error> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut connection =
            ClientConnection::new(self.config.clone(), name).map_err(Error::other)?;
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_mins(1)))?;
        stream.write_all(first)?;
        let done = connection.complete_io(&mut stream);
        if done.is_err() {
            // What is wrong with the server is said to the server.
            let _ = connection.write_tls(&mut stream);
        }
        done.map(|_| Secured { stream: StreamOwned::new(connection, stream), address })
    }

    /// One GET on a connection of its own, to the address by its own name.
    pub fn get(
        &self,
        address: SocketAddr,
        path: &str,
        authorization: &str,
    ) -> Result<Reply, Error> {
        let mut secured = self.connect(address, &address.ip().to_string())?;
        Ok(secured.get(path, authorization))
    }
}

impl Secured {
    /// One GET, after which the connection is closed.
    pub fn get(&mut self, path: &str, authorization: &str) -> Reply {
        let headers = [("Connection", "close"), ("Authorization", authorization)];
        let request = request("GET", path, &self.address.to_string(), &headers, b"");
        self.stream.write_all(&request).unwrap();
        let mut answer = Vec::new();
        // An end without a close_notify would be an error.
        self.stream.read_to_end(&mut answer).unwrap();
        socket::reply(&answer, false)
    }

    /// The certificate that the server showed.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }
}
