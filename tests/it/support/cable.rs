//! Something between a server and its database that can be cut.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nodeinit::maintenance::key;
use nodeinit::store::pool::Manager;
use nodeinit::store::{DatabaseUrl, DbConnection};

use super::{Node, Options, TestDatabase, TestServer};

/// A database that can be taken away and given back.
pub enum Cable {
    /// PostgreSQL behind a relay: connections are cut and new ones refused.
    Relay(Arc<Relay>),
    /// `SQLite`, whose file is unreadable while its schema is.
    File(DbConnection),
}

pub struct Relay {
    to: String,
    is_cut: AtomicBool,
    pub is_frozen: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    pub fn start(to: String) -> (Arc<Relay>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let relay = Arc::new(Relay {
            to,
            is_cut: AtomicBool::new(false),
            is_frozen: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let shared = relay.clone();
        std::thread::spawn(move || {
            for from in listener.incoming().flatten() {
                if shared.is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(to) = TcpStream::connect(&shared.to) else { continue };
                let _ = (from.set_nodelay(true), to.set_nodelay(true));
                let ends = [from.try_clone(), to.try_clone()].map(Result::unwrap);
                shared.open.lock().unwrap().extend(ends);
                for (from, to) in
                    [(from.try_clone(), to.try_clone()), (to.try_clone(), from.try_clone())]
                {
                    let (from, to) = (from.unwrap(), to.unwrap());
                    let shared = shared.clone();
                    std::thread::spawn(move || shared.pump(from, to));
                }
            }
        });
        (relay, address)
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            while self.is_frozen.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(10));
            }
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}

impl Cable {
    pub fn cut(&mut self) {
        match self {
            Cable::Relay(relay) => {
                relay.is_cut.store(true, Ordering::SeqCst);
                for stream in relay.open.lock().unwrap().drain(..) {
                    let _ = stream.shutdown(Shutdown::Both);
                }
            }
            Cable::File(conn) => break_schema(conn, "sql || ' broken'"),
        }
    }

    pub fn mend(&mut self) {
        match self {
            Cable::Relay(relay) => relay.is_cut.store(false, Ordering::SeqCst),
            Cable::File(conn) => break_schema(conn, "replace(sql, ' broken', '')"),
        }
    }
}

/// Rewrites a definition in the schema, so that every connection has to read it again.
fn break_schema(conn: &mut DbConnection, sql: &str) {
    use diesel::connection::SimpleConnection as _;
    let DbConnection::Sqlite(conn) = conn else { unreachable!("only for SQLite") };
    conn.batch_execute(&format!(
        "PRAGMA writable_schema = ON; \
         UPDATE sqlite_master SET sql = {sql} WHERE name = 'tokens';"
    ))
    .unwrap();
    let version = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_micros() / 2 + 1000;
    conn.batch_execute(&format!("PRAGMA schema_version = {version};")).unwrap();
}

/// `HOST:PORT` of a database URL, and what stands in front of it.
pub fn authority(url: &str) -> (String, String) {
    let rest = url.split_once("://").unwrap().1;
    let authority = rest.split(['/', '?']).next().unwrap();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    (host.to_owned(), user.to_owned())
}

/// A server whose database hangs on a cable.
pub fn cabled(mut options: Options) -> (TestServer, Node, Cable) {
    let dir = Arc::new(tempfile::Builder::new().prefix("cable").tempdir().unwrap());
    let database = Arc::new(TestDatabase::new(dir.path()));
    let cable = if database.is_postgres() {
        key::make(&dir.path().join("secret.key")).unwrap();
        let (host, _) = authority(database.url());
        let (relay, address) = Relay::start(host.clone());
        options =
            options.flag("database-url", &database.url().replacen(&host, &address.to_string(), 1));
        Some(Cable::Relay(relay))
    } else {
        None
    };
    let server = TestServer::open(options, dir, database).map_err(|e| e.to_string()).unwrap();
    let node = server.node("n1");
    let cable = cable.unwrap_or_else(|| {
        let url = DatabaseUrl::parse(server.database.url()).unwrap();
        Cable::File(Manager::new(url).open().unwrap())
    });
    (server, node, cable)
}
