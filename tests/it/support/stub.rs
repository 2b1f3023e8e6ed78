//! A server of the tests' own, for what the client sends: HTTP/1.1 over TCP, or TLS with
//! certificates made here.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nodeinit::client::ServerUrl;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// `GET /path`
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// An answer to send.
pub struct Told {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

pub fn told(status: u16) -> Told {
    Told { status, headers: vec![], body: String::new() }
}

impl Told {
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Told {
        self.headers.push((name, value.into()));
        self
    }

    pub fn json(mut self, body: Value) -> Told {
        self.body = body.to_string();
        self.header("content-type", "application/json")
    }
}

/// A server that answers by a function and remembers what it was asked.
pub struct Stub {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    is_over: Arc<AtomicBool>,
    scheme: &'static str,
}

impl Stub {
    pub fn new(answer: impl Fn(&Asked) -> Told + Send + Sync + 'static) -> Stub {
        Stub::start(None, answer)
    }

    pub fn tls(
        config: ServerConfig,
        answer: impl Fn(&Asked) -> Told + Send + Sync + 'static,
    ) -> Stub {
        Stub::start(Some(Arc::new(config)), answer)
    }

    fn start(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&Asked) -> Told + Send + Sync + 'static,
    ) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (remembered, over, answer) = (asked.clone(), is_over.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (asked, answer, tls) = (remembered.clone(), answer.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    None => serve(stream, &asked, &*answer),
                    Some(config) => {
                        let connection = ServerConnection::new(config).unwrap();
                        serve(StreamOwned::new(connection, stream), &asked, &*answer);
                    }
                });
            }
        });
        Stub { address, asked, is_over, scheme }
    }

    pub fn text(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub fn url(&self) -> ServerUrl {
        ServerUrl::parse(&self.text()).unwrap()
    }

    /// Everything it was asked so far, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The request lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.asked().iter().map(Asked::line).collect()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    mut stream: impl Read + Write,
    asked: &Mutex<Vec<Asked>>,
    answer: &(dyn Fn(&Asked) -> Told + Send + Sync),
) {
    let Some(request) = read(&mut stream) else { return };
    asked.lock().unwrap().push(request.clone());
    let told = answer(&request);
    let mut head = format!(
        "HTTP/1.1 {} Said\r\ncontent-length: {}\r\nconnection: close\r\n",
        told.status,
        told.body.len()
    );
    for (name, value) in &told.headers {
        head.extend([name, ": ", value.as_str(), "\r\n"]);
    }
    head += "\r\n";
    if request.method != "HEAD" {
        head += &told.body;
    }
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.flush();
}

/// One request, or `None` when the other side leaves, as one does that distrusts us.
fn read(stream: &mut impl Read) -> Option<Asked> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let mut more = |bytes: &mut Vec<u8>| match stream.read(&mut buffer) {
        Ok(read) if read > 0 => {
            bytes.extend_from_slice(&buffer[..read]);
            Some(())
        }
        _ => None,
    };
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        more(&mut bytes)?;
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut body = bytes.split_off(end + 4);
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap().split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut asked = Asked { method, target, headers, body: Vec::new() };
    if asked.header("transfer-encoding").is_some() {
        while !body.ends_with(b"0\r\n\r\n") {
            more(&mut body)?;
        }
        let mut rest = body.as_slice();
        loop {
            let at = rest.windows(2).position(|w| w == b"\r\n").unwrap();
            let size = usize::from_str_radix(str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
            if size == 0 {
                return Some(asked);
            }
            asked.body.extend_from_slice(&rest[at + 2..at + 2 + size]);
            rest = &rest[at + 2 + size + 2..];
        }
    }
    let length = asked.header("content-length").map_or(0, |length| length.parse().unwrap());
    while body.len() < length {
        more(&mut body)?;
    }
    asked.body = body;
    Some(asked)
}

/// A private CA, and what it signs.
pub struct Ca {
    pub pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Ca {
    pub fn new() -> Ca {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        // Two of one name would be told apart by their signatures alone.
        let name = format!("CA {} of the tests", NEXT.fetch_add(1, Ordering::SeqCst));
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { pem, issuer: rcgen::Issuer::new(params, key) }
    }

    /// The settings of a server with this name or address.
    pub fn server(&self, name: &str) -> ServerConfig {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap()
    }
}
