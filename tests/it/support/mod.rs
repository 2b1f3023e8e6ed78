//! The cast of the tests: a real server on port 0 with its own database, and those who call it.

pub mod cable;
pub mod plane;
pub mod process;
pub mod realm;
pub mod rows;
pub mod socket;
pub mod stub;
pub mod tls;
pub mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use diesel::RunQueryDsl as _;
use jiff::Timestamp;
use nodeinit::actions::App;
use nodeinit::client::{ServerUrl, Session};
use nodeinit::clock::Clock;
use nodeinit::config::{Given, Settings};
use nodeinit::domain::credentials::Mint;
use nodeinit::maintenance::key;
use nodeinit::server::{Server, StartError};
use nodeinit::store::columns::Id;
use nodeinit::store::pool::Manager;
use nodeinit::store::{DatabaseUrl, DbConnection, DbError, Tx, projects};
use serde_json::{Value, json};
use tempfile::TempDir;
pub use ureq::http::Method;
pub use wire::Reply;

/// When every test with a fixed clock begins: 2027-01-15T08:00:00Z.
pub const NOW: i64 = 1_800_000_000;

/// A database of its own for one test: a file, or a schema of the server that
/// `TEST_DATABASE_URL` names.
pub struct TestDatabase {
    url: String,
    schema: Option<(String, String)>,
}

impl TestDatabase {
    pub fn new(dir: &Path) -> TestDatabase {
        let Ok(base) = std::env::var("TEST_DATABASE_URL") else {
            return TestDatabase {
                url: format!("sqlite:{}", dir.join("nodeinit.db").display()),
                schema: None,
            };
        };
        let name = dir.file_name().unwrap().to_string_lossy();
        let schema =
            format!("t{}", name.replace(|c: char| !c.is_ascii_alphanumeric(), "").to_lowercase());
        execute(&base, &format!("CREATE SCHEMA {schema}"));
        let mark = if base.contains('?') { '&' } else { '?' };
        let url = format!("{base}{mark}options=-csearch_path%3D{schema}");
        TestDatabase { url, schema: Some((base, schema)) }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn is_postgres(&self) -> bool {
        self.schema.is_some()
    }

    /// Runs one statement, past the server: for sabotage, and for rows that nothing makes.
    pub fn execute(&self, sql: &str) {
        execute(&self.url, sql);
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if let Some((base, schema)) = &self.schema {
            execute(base, &format!("DROP SCHEMA {schema} CASCADE"));
        }
    }
}

fn execute(url: &str, sql: &str) {
    let manager = Manager::new(DatabaseUrl::parse(url).unwrap());
    loop {
        let done = match manager.open().unwrap() {
            DbConnection::Postgres(mut conn) => diesel::sql_query(sql).execute(&mut conn),
            DbConnection::Sqlite(mut conn) => diesel::sql_query(sql).execute(&mut conn),
        };
        match done {
            // What the server does by itself may have been in the way.
            Err(error) if error.to_string() == "deadlock detected" => {}
            done => {
                done.unwrap();
                return;
            }
        }
    }
}

/// What a test may choose before its server starts.
pub struct Options {
    pub flags: BTreeMap<&'static str, String>,
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        let flags = [("listen", "127.0.0.1:0"), ("admin-listen", "127.0.0.1:0")];
        Options {
            flags: flags.into_iter().map(|(name, value)| (name, value.to_owned())).collect(),
            clock: Clock::fixed(Timestamp::from_second(NOW).unwrap()),
        }
    }
}

impl Options {
    pub fn flag(mut self, name: &'static str, value: &str) -> Options {
        self.flags.insert(name, value.to_owned());
        self
    }

    pub fn system_clock(mut self) -> Options {
        self.clock = Clock::System;
        self
    }
}

/// A server that runs until it is dropped.
pub struct TestServer {
    pub node: SocketAddr,
    pub admin: SocketAddr,
    pub socket: PathBuf,
    pub app: Arc<App>,
    pub clock: Clock,
    running: Option<Running>,
    flags: BTreeMap<&'static str, String>,
    // Dropped after the server, in this order.
    pub database: Arc<TestDatabase>,
    pub dir: Arc<TempDir>,
}

struct Running {
    stop: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl TestServer {
    pub fn start() -> TestServer {
        TestServer::start_with(Options::default())
    }

    pub fn start_with(options: Options) -> TestServer {
        let dir = Arc::new(tempfile::Builder::new().prefix("nodeinit").tempdir().unwrap());
        let database = Arc::new(TestDatabase::new(dir.path()));
        if database.is_postgres() {
            key::make(&dir.path().join("secret.key")).unwrap();
        }
        TestServer::open(options, dir, database).map_err(|e| e.to_string()).unwrap()
    }

    /// A server over a state directory and database that may have been used before.
    pub fn open(
        options: Options,
        dir: Arc<TempDir>,
        database: Arc<TestDatabase>,
    ) -> Result<TestServer, StartError> {
        let mut flags = options.flags.clone();
        flags.entry("state-dir").or_insert_with(|| dir.path().display().to_string());
        flags.entry("database-url").or_insert_with(|| database.url().to_owned());
        let given = Given::gather(flags.clone(), std::iter::empty(), None);
        let settings = Settings::resolve(given, None).map_err(|bad| bad.0).unwrap();
        let clock = options.clock.clone();

        let (up, started) = mpsc::channel();
        let (stop, told) = mpsc::channel::<()>();
        let thread_clock = clock.clone();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let mint = Mint::from_system().unwrap();
                match Server::start(settings, thread_clock, mint).await {
                    Err(error) => up.send(Err(error)).unwrap(),
                    Ok(server) => {
                        let facts =
                            (server.node, server.admin, server.socket.clone(), server.app.clone());
                        up.send(Ok(facts)).unwrap();
                        let told = tokio::task::spawn_blocking(move || told.recv());
                        let _ = told.await;
                        server.stop().await;
                    }
                }
            });
        });
        let (node, admin, socket, app) = started.recv().unwrap()?;
        let admin = admin.unwrap_or(node);
        Ok(TestServer {
            node,
            admin,
            socket,
            app,
            clock,
            running: Some(Running { stop, thread }),
            flags: options.flags,
            database,
            dir,
        })
    }

    /// Stops cleanly and starts again over the same state.
    pub fn restart(mut self) -> TestServer {
        self.stop();
        let options = Options { flags: self.flags.clone(), clock: self.clock.clone() };
        TestServer::open(options, self.dir.clone(), self.database.clone())
            .map_err(|e| e.to_string())
            .unwrap()
    }

    /// Stops cleanly; what is asked afterwards is refused.
    pub fn stop(&mut self) {
        if let Some(Running { stop, thread }) = self.running.take() {
            let _ = stop.send(());
            thread.join().unwrap();
        }
    }

    /// The admin on the socket.
    pub fn operator(&self) -> Operator {
        Operator { session: Session::new(ServerUrl::Unix(self.socket.clone())) }
    }

    /// Adds a node with a token, and returns what the machine knows.
    pub fn node(&self, system_id: &str) -> Node {
        self.operator().add(system_id, json!({}));
        self.credentials(system_id)
    }

    /// A node that exists already, with its token.
    pub fn credentials(&self, system_id: &str) -> Node {
        Node::new(self.node, self.clock.clone(), &self.operator().token(system_id))
    }

    /// Somebody on the network who has no credentials.
    pub fn stranger(&self) -> Stranger {
        Stranger { address: self.node }
    }

    /// Somebody on the admin network.
    pub fn observer(&self) -> Stranger {
        Stranger { address: self.admin }
    }

    /// A change made past the operator plane.
    pub fn write<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Tx) -> diesel::QueryResult<T> + Send + 'static,
    ) -> T {
        let db = self.app.db.clone();
        wait(async move { db.write("test", |tx| f(tx).map_err(DbError::from)).await.unwrap() })
    }

    /// Makes a project; until there are operators nothing else does.
    pub fn project(&self, name: &str) -> Id {
        let id = Id(self.app.mint.id(self.clock.now()));
        let name = name.to_owned();
        let new = projects::Project { id, name, description: None, enabled: true };
        self.write(move |tx| projects::insert(tx, &new));
        id
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A server by the clock that its answers are dated by, once it takes HMAC: a start without nonces
/// of an earlier one refuses timestamps up to 2 s after it, a brand-new `SQLite` excepted.
pub fn on_the_machines_clock() -> TestServer {
    let server = TestServer::start_with(Options::default().system_clock());
    if server.database.is_postgres() {
        std::thread::sleep(std::time::Duration::from_secs(4));
    }
    server
}

/// Waits for something asynchronous in a test that is not.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The admin, through the client that the command line uses.
pub struct Operator {
    pub session: Session,
}

impl Operator {
    /// Adds a node named `SYSTEM_ID.example.com`, with whatever else `fields` says.
    pub fn add(&self, system_id: &str, fields: Value) -> Value {
        let mut body =
            json!({"system_id": system_id, "hostname": format!("{system_id}.example.com")});
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        self.session.send_json(Method::POST, "/v1/default/nodes", &body).unwrap()
    }

    /// `get_token_for_node`.
    pub fn token(&self, system_id: &str) -> Value {
        let path = format!("/v1/default/nodes/{system_id}/token");
        self.session.send_json(Method::POST, &path, &json!({})).unwrap()
    }

    /// Any request, answered as it is.
    pub fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let body = (!body.is_empty()).then_some(body);
        wire::unix(&self.session, method, path, headers, body)
    }

    /// Stores content as the next version, whatever is there.
    pub fn set(&self, system_id: &str, what: &str, bytes: &[u8]) {
        let path = format!("/v1/default/nodes/{system_id}/{what}");
        let current = self.send(Method::GET, &path, &[], b"");
        let headers: Vec<(&str, &str)> = match current.header("etag") {
            Some(tag) => vec![("if-match", tag)],
            None => vec![],
        };
        let reply = self.send(Method::PUT, &path, &headers, bytes);
        assert!(matches!(reply.status, 200 | 201), "{}", reply.text());
    }
}

/// A machine: it signs as cloud-init does.
#[derive(Clone)]
pub struct Node {
    pub address: SocketAddr,
    pub clock: Clock,
    pub system_id: String,
    pub consumer_key: String,
    pub token_key: String,
    pub token_secret: String,
}

impl Node {
    pub fn new(address: SocketAddr, clock: Clock, credentials: &Value) -> Node {
        let text = |name: &str| credentials[name].as_str().unwrap().to_owned();
        Node {
            address,
            clock,
            system_id: text("system_id"),
            consumer_key: text("consumer_key"),
            token_key: text("token_key"),
            token_secret: text("token_secret"),
        }
    }

    /// The header cloud-init sends, with a fresh nonce, in oauthlib's order and spacing.
    pub fn header(&self) -> String {
        self.header_at(self.clock.now().as_second(), &wire::nonce())
    }

    pub fn header_at(&self, timestamp: i64, nonce: &str) -> String {
        format!(
            "OAuth oauth_nonce=\"{nonce}\", oauth_timestamp=\"{timestamp}\", oauth_version=\"1.0\", \
             oauth_signature_method=\"PLAINTEXT\", oauth_consumer_key=\"{}\", oauth_token=\"{}\", \
             oauth_signature=\"%26{}\"",
            self.consumer_key, self.token_key, self.token_secret
        )
    }

    /// A signed GET below `/MAAS/metadata`.
    pub fn get(&self, path: &str) -> Reply {
        self.get_with(path, &self.header())
    }

    /// A GET below `/MAAS/metadata` with this `Authorization`.
    pub fn get_with(&self, path: &str, authorization: &str) -> Reply {
        self.send("GET", path, &[("Authorization", authorization)], b"")
    }

    /// Any request below `/MAAS/metadata`.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        wire::send(self.address, method, &format!("/MAAS/metadata{path}"), headers, body)
    }
}

/// Somebody without credentials.
pub struct Stranger {
    pub address: SocketAddr,
}

impl Stranger {
    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        wire::send(self.address, method, path, headers, body)
    }
}
