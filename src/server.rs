//! Bind, migrate, serve, drain.

mod connection;
mod exchange;
mod proxied;
mod secured;
mod stack;
pub mod templates;
pub mod tls;

use std::any::Any;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::dev::{Extensions, ServerHandle};
use actix_web::middleware::from_fn;
use actix_web::rt::net::UnixStream;
use actix_web::{App as Actix, HttpServer, web};
use jiff::SignedDuration;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::actions::reports::Reports;
use crate::actions::{self, App};
use crate::clock::Clock;
use crate::config::{AdminListen, Settings, default_metadata_url};
use crate::domain::credentials::{Mint, PlaintextReplay};
use crate::domain::identity::Caller;
use crate::domain::network::TrustedProxies;
use crate::domain::password::Password;
use crate::http::extract::SocketPeer;
use crate::http::{self, Shared, answer, node};
use crate::live::policy::{BadFile, PolicySource, Watch};
use crate::live::strangers::Strangers;
use crate::live::view::{self, Entry, View};
use crate::live::{FUTURE, Learnt, Nonces, Observed, Pace, seconds};
use crate::maintenance::{self, MaintenanceError, key, lock};
use crate::store::{Db, DbError, Tx};
use crate::store::{boots, migrations};
use crate::telemetry::metrics::Metrics;
use connection::Plane;
use stack::{Door, Front};

/// Connections to the database, for reads; on `SQLite` one of them writes at a time.
const DATABASE_CONNECTIONS: u32 = 8;
/// Look-ups of tokens that are not in memory, at once.
const LOOK_UPS: usize = 2;
/// How long a stop waits for requests that are being answered.
const DRAIN_SECONDS: u64 = 30;
/// Connections at once on the admin listener, a worker.
const ADMIN_CONNECTIONS: usize = 1000;
/// A peer that takes nothing for this long is gone (Linux `TCP_USER_TIMEOUT`).
const STALLED: Duration = Duration::from_secs(30);
/// What reads taught is on disk this soon.
const FLUSH: Duration = Duration::from_secs(1);
const SWEEP: Duration = Duration::from_mins(1);

/// Failed logins of one source and name at once, and how soon there may be another.
const LOGIN_BURST: u32 = 10;
const LOGIN_EVERY: Duration = Duration::from_secs(30);

/// How soon the audit is told again of one source that misuses one claim.
const MISUSE_EVERY: Duration = Duration::from_mins(1);

/// Failed logins of one source at once, whatever the names, and how soon there may be another.
const SOURCE_BURST: u32 = 100;
const SOURCE_EVERY: Duration = Duration::from_secs(1);

/// How long an idle connection is kept: longer than the proxies in front keep theirs.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Why a server did not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}")]
    Bind { address: String, source: std::io::Error },
    #[error("{path}")]
    File { path: String, source: std::io::Error },
    #[error(transparent)]
    Maintenance(#[from] MaintenanceError),
    #[error(transparent)]
    Policy(#[from] BadFile),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error(transparent)]
    Templates(#[from] templates::BadTemplates),
    #[error("cannot serve")]
    Serve(#[source] std::io::Error),
}

impl From<DbError> for StartError {
    fn from(error: DbError) -> StartError {
        MaintenanceError::Store(error).into()
    }
}

/// A server that is up: where it listens, and how to stop it.
pub struct Server {
    pub node: SocketAddr,
    pub admin: Option<SocketAddr>,
    pub socket: PathBuf,
    pub app: Arc<App>,
    tls: tls::Listeners,
    draining: Arc<AtomicBool>,
    nodes: Option<Front>,
    admin_socket: Option<ServerHandle>,
    operators: Option<Front>,
    tasks: Vec<JoinHandle<()>>,
    policy: Option<Watch>,
    nonces: PathBuf,
    /// Ends the reader of the change log when it is dropped.
    listener: Option<std::sync::mpsc::Sender<()>>,
    /// Held until the process ends.
    locks: Vec<Option<File>>,
}

impl Server {
    /// Brings a server up from nothing but its settings.
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running then.
    pub async fn start(settings: Settings, clock: Clock, mint: Mint) -> Result<Server, StartError> {
        let policy = PolicySource::open(settings.policy_file.clone(), clock.clone())?;
        let policy = Arc::new(policy);
        let tls = tls::Listeners::open(&settings)?;
        let templates = templates::load(settings.preseed_dir.as_deref())?;
        maintenance::make_state_dir(&settings)?;
        let locks = vec![
            lock::state_dir(&settings, Duration::ZERO).map_err(MaintenanceError::from)?,
            lock::database(&settings, Duration::ZERO).map_err(MaintenanceError::from)?,
        ];
        let brand_new = maintenance::is_brand_new(&settings);
        migrate(&settings).await?;
        let db = Db::open(&settings.database_url, clock.clone(), DATABASE_CONNECTIONS)?;
        let keys = maintenance::fitting_key(&settings, &db).await?;
        let nonces_file = settings.state_dir.join("nonces");
        let (nonces, floor) = take_nonces(&nonces_file, &clock, brand_new)?;
        if floor > seconds(clock.now()) {
            forget_deadlines(&db).await?;
        }

        let node_socket = bind(settings.listen)?;
        let node = local(&node_socket)?;
        let admin_socket = match settings.admin_listen {
            AdminListen::Off => None,
            AdminListen::On(address) => Some(bind(address)?),
        };
        let admin = admin_socket.as_ref().map(local).transpose()?;
        let socket = settings.state_dir.join("admin.sock");
        let socket_listener = bind_socket(&socket)?;

        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let made = mint.credentials();
        let nobody = Entry::nobody(made.consumer_key, made.secret);
        let view = open_view(&settings, &db);
        let app = Arc::new(App {
            metrics: Metrics::new(),
            nonces,
            learnt: Learnt::default(),
            observed: Observed::default(),
            reports: Reports::new(
                settings.limits.report_bytes,
                settings.limits.report_files * settings.limits.report_file_bytes,
            ),
            identities: Arc::default(),
            logins: Pace::slow(LOGIN_EVERY, LOGIN_BURST),
            login_sources: Pace::slow(SOURCE_EVERY, SOURCE_BURST),
            nobodys_password: nobodys_password(&mint)?,
            hashing: Semaphore::new(cores),
            policy: policy.clone(),
            service_token_window: SignedDuration::try_from(settings.service_token_window)
                .unwrap_or(SignedDuration::MAX),
            pace: Pace::new(settings.limits.node_rate, settings.limits.node_burst),
            misused_claims: Pace::slow(MISUSE_EVERY, 1),
            refused: Pace::new(settings.limits.refused_rate, settings.limits.refused_burst),
            limits: settings.limits.clone(),
            absent_items: settings.absent_items,
            plaintext_replay: settings.plaintext_replay,
            metadata_url: default_metadata_url(&settings, node),
            node_scheme: settings.node_scheme(),
            templates,
            proxies: settings.trusted_proxies.clone(),
            db,
            clock,
            mint,
            sealer: keys.sealer,
            audit_key: Arc::new(keys.audit),
            strangers: Strangers::default(),
            view,
            nobody,
        });
        if app.plaintext_replay == PlaintextReplay::Refuse {
            // Until then every node would be refused, and refused nodes do not all come back.
            wait_past(&app.clock, floor).await;
        }

        let draining = Arc::new(AtomicBool::new(false));
        let shared = Shared { app: app.clone(), draining: draining.clone() };
        let mut server = Server {
            node,
            admin,
            socket,
            app,
            tls,
            draining,
            nodes: None,
            admin_socket: None,
            operators: None,
            tasks: Vec::new(),
            policy: Watch::spawn(&policy).map_err(StartError::Serve)?,
            nonces: nonces_file,
            listener: None,
            locks,
        };
        server.listen_for_changes()?;
        server.serve_nodes(shared.clone(), node_socket)?;
        server.serve_socket(shared.clone(), socket_listener)?;
        if let Some(socket) = admin_socket {
            server.serve_operators(shared, socket)?;
        }
        server.housekeep(&settings);
        Ok(server)
    }

    /// Keeps the tokens in memory up with the database, and looks up those that are not there.
    fn listen_for_changes(&mut self) -> Result<(), StartError> {
        let (stop, stopped) = std::sync::mpsc::channel();
        let app = self.app.clone();
        let listener = std::thread::Builder::new().name("changes".into());
        listener
            .spawn(move || view::listen(&app.view, &app.db, &stopped))
            .map_err(StartError::Serve)?;
        self.listener = Some(stop);
        for _ in 0..LOOK_UPS {
            let app = self.app.clone();
            let look_up = async move { app.view.run(&app.db, &app.sealer).await };
            self.tasks.push(tokio::spawn(look_up));
        }
        Ok(())
    }

    fn serve_nodes(&mut self, shared: Shared, socket: Socket) -> Result<(), StartError> {
        let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let plane = Plane {
            name: "node",
            vary: "Authorization",
            app: shared.app.clone(),
            has_lane: true,
            header_time: self.app.limits.header_time,
            connections: node::connections_per_worker(&self.app.limits, workers),
        };
        let proxies = Arc::new(self.app.proxies.clone());
        let door = match self.tls.node.clone() {
            Some(tls) => Door::Tls(tls, proxies),
            None => Door::Plain(proxies),
        };
        let app = move || {
            Actix::new().app_data(web::Data::new(shared.clone())).configure(http::node_plane)
        };
        let front = Front::serve(&plane, socket, workers, &door, &app);
        self.nodes = Some(front.map_err(StartError::Serve)?);
        Ok(())
    }

    fn serve_socket(&mut self, shared: Shared, listener: UnixListener) -> Result<(), StartError> {
        let app = move || {
            Actix::new()
                .app_data(web::Data::new(shared.clone()))
                .wrap(from_fn(answer::around))
                .configure(http::operator_plane)
        };
        let server = HttpServer::new(app)
            .workers(2)
            .on_connect(on_connect)
            .shutdown_timeout(DRAIN_SECONDS)
            .disable_signals()
            .listen_uds(listener)
            .map_err(StartError::Serve)?
            .run();
        self.admin_socket = Some(server.handle());
        self.tasks.push(tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "a listener ended");
            }
        }));
        Ok(())
    }

    fn serve_operators(&mut self, shared: Shared, socket: Socket) -> Result<(), StartError> {
        let plane = Plane {
            name: "operator",
            vary: "X-Auth-Token",
            app: shared.app.clone(),
            has_lane: false,
            header_time: self.app.limits.header_time,
            connections: ADMIN_CONNECTIONS,
        };
        // A PROXY header is for the node listener; `X-Forwarded-For` for both.
        let proxies = Arc::new(TrustedProxies::default());
        let door = match self.tls.admin.clone() {
            Some(tls) => Door::Tls(tls, proxies),
            None => Door::Plain(proxies),
        };
        let app = move || {
            Actix::new()
                .app_data(web::Data::new(shared.clone()))
                .wrap(from_fn(answer::around))
                .configure(http::operator_plane)
        };
        let front = Front::serve(&plane, socket, 2, &door, &app);
        self.operators = Some(front.map_err(StartError::Serve)?);
        Ok(())
    }

    fn housekeep(&mut self, settings: &Settings) {
        let keep_ended_tokens = settings.keep_ended_tokens;
        let (keep_audit, keep_events) = (settings.keep_audit, settings.keep_events);
        self.tasks.push(tokio::spawn(actions::reports::run(self.app.clone())));
        let db = self.app.db.clone();
        self.tasks.push(tokio::spawn(async move { db.run_upkeep().await }));
        let app = self.app.clone();
        self.tasks.push(tokio::spawn(async move {
            let mut every = tokio::time::interval(FLUSH);
            loop {
                every.tick().await;
                if let Err(error) = actions::cull::flush(&app).await {
                    tracing::warn!(%error, "last use is not written yet");
                }
            }
        }));
        let app = self.app.clone();
        self.tasks.push(tokio::spawn(async move {
            let mut every = tokio::time::interval(SWEEP);
            loop {
                every.tick().await;
                actions::audit::flush_strangers(&app).await;
                match actions::cull::sweep(&app, keep_ended_tokens).await {
                    Ok(0) => {}
                    Ok(tokens) => tracing::info!(tokens, "swept"),
                    Err(error) => tracing::warn!(%error, "the sweep will try again"),
                }
                if let Err(error) = actions::cull::sweep_changes(&app).await {
                    tracing::warn!(%error, "the sweep of the change log will try again");
                }
                match actions::reports::sweep(&app, keep_events).await {
                    Ok(0) => {}
                    Ok(events) => tracing::info!(events, "swept"),
                    Err(error) => tracing::warn!(%error, "the sweep will try again"),
                }
                if let Some(keep) = keep_audit
                    && let Err(error) = actions::audit::sweep(&app, keep).await
                {
                    tracing::warn!(%error, "the sweep of the audit will try again");
                }
            }
        }));
    }

    /// Reads anew what can be replaced under a running server: the certificates and the policy.
    pub fn reload(&self) {
        self.tls.reload();
        if let Some(policy) = &self.policy {
            policy.look();
        }
    }

    /// What the admin listener speaks: `http` or `https`.
    #[must_use]
    pub fn admin_scheme(&self) -> &'static str {
        if self.tls.admin.is_some() { "https" } else { "http" }
    }

    /// Stops taking requests, answers those it has, and leaves what the next start needs.
    pub async fn stop(mut self) {
        self.draining.store(true, Ordering::SeqCst);
        // The node listener first: until it has drained, `/readyz` can still be asked.
        if let Some(nodes) = &mut self.nodes {
            nodes.stop().await;
        }
        if let Some(socket) = &self.admin_socket {
            socket.stop(true).await;
        }
        if let Some(operators) = &mut self.operators {
            operators.stop().await;
        }
        for task in &self.tasks {
            task.abort();
        }
        if let Err(error) = actions::cull::flush(&self.app).await {
            tracing::warn!(%error, "the last second of last uses is lost");
        }
        actions::audit::flush_strangers(&self.app).await;
        if let Err(error) = leave_nonces(&self.nonces, &self.app.nonces) {
            tracing::warn!(%error, "the nonces are not kept: the next start refuses its first two seconds");
        }
        let _ = std::fs::remove_file(&self.socket);
        drop(self.listener);
        drop(self.locks);
    }
}

fn on_connect(stream: &dyn Any, extensions: &mut Extensions) {
    if let Some(peer) = stream.downcast_ref::<UnixStream>().and_then(|s| s.peer_cred().ok()) {
        extensions.insert(SocketPeer(Caller::Socket { uid: peer.uid(), pid: peer.pid() }));
    }
}

/// The address at the other end, or nothing when a proxy's word cannot be understood.
async fn source(
    plane: &'static str,
    proxies: &TrustedProxies,
    stream: &mut TcpStream,
    within: Duration,
) -> Result<Option<SocketAddr>, ()> {
    proxied::source(proxies, stream, within).await.map_err(|reason| {
        let peer = stream.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
        // Only proxies of ours get here, so nobody else can fill the log with it.
        tracing::warn!(plane, peer, reason, "a PROXY header cannot be used");
    })
}

/// What a listener's connections inherit.
fn tune(listener: &Socket) -> std::io::Result<()> {
    listener.set_tcp_user_timeout(Some(STALLED))?;
    listener.set_tcp_nodelay(true)
}

/// Takes an address; until it is served whoever connects to it is refused.
fn bind(address: SocketAddr) -> Result<Socket, StartError> {
    let failed = |source| StartError::Bind { address: address.to_string(), source };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
        .map_err(failed)?;
    socket.set_reuse_address(true).map_err(failed)?;
    tune(&socket).map_err(failed)?;
    socket.bind(&address.into()).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    Ok(socket)
}

fn local(socket: &Socket) -> Result<SocketAddr, StartError> {
    let address = socket.local_addr().map_err(StartError::Serve)?;
    address.as_socket().ok_or_else(|| StartError::Serve(std::io::Error::other("no IP address")))
}

/// Binds the admin socket, under the umask of the start. A stale one is replaced: the state lock is
/// held.
fn bind_socket(path: &Path) -> Result<UnixListener, StartError> {
    let failed = |source| StartError::Bind { address: path.display().to_string(), source };
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// The nonces a clean stop left, or a floor under which timestamps are refused: an earlier
/// process may have seen them, two seconds ahead of its clock at the most.
fn take_nonces(path: &Path, clock: &Clock, brand_new: bool) -> Result<(Nonces, u64), StartError> {
    let now = clock.now();
    let floor = seconds(now) + FUTURE;
    let saved = match std::fs::read_to_string(path) {
        Ok(saved) => saved,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let floor = if brand_new { 0 } else { floor };
            return Ok((Nonces::new(floor), floor));
        }
        Err(_) => String::new(),
    };
    // Consumed: after a crash they would be an old list.
    std::fs::remove_file(path)
        .and_then(|()| key::sync_directory(path))
        .map_err(|source| StartError::File { path: path.display().to_string(), source })?;
    match Nonces::load(&saved, now) {
        Ok(nonces) => {
            let floor = nonces.floor();
            Ok((nonces, floor))
        }
        Err(why) => {
            tracing::warn!(path = %path.display(), why, "the saved nonces are not used");
            Ok((Nonces::new(floor), floor))
        }
    }
}

fn leave_nonces(path: &Path, nonces: &Nonces) -> std::io::Result<()> {
    use std::io::Write as _;
    let partial = path.with_extension("new");
    let mut file = File::create(&partial)?;
    file.write_all(nonces.save().as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&partial, path)?;
    key::sync_directory(path)
}

async fn migrate(settings: &Settings) -> Result<(), StartError> {
    let url = settings.database_url.clone();
    let migrated = tokio::task::spawn_blocking(move || migrations::run(&url)).await;
    let migrated = migrated.map_err(|_| DbError::Ended)?.map_err(MaintenanceError::from)?;
    for name in migrated {
        tracing::info!(migration = name, "migrated");
    }
    Ok(())
}

/// The last server did not stop cleanly: reads of its last second may be unwritten.
async fn forget_deadlines(db: &Db) -> Result<(), DbError> {
    let forget = |tx: &mut Tx| Ok::<_, DbError>(boots::forget_deadlines(tx)?);
    let nodes = db.write("forget deadlines", forget).await?;
    tracing::info!(nodes, "no node fails for reads that were not written down");
    Ok(())
}

/// A view that forgets, before a change is acknowledged, what it changed.
fn open_view(settings: &Settings, db: &Db) -> Arc<View> {
    let view = Arc::new(View::new(settings.limits.live_bytes));
    let forgetting = view.clone();
    db.after_changes(move |conn| {
        if let Err(error) = forgetting.catch_up(conn) {
            tracing::warn!(%error, "the change log cannot be read: all tokens are forgotten");
            forgetting.forget_all();
        }
    });
    view
}

/// What is stored of a password that nobody knows.
fn nobodys_password(mint: &Mint) -> Result<String, StartError> {
    let noise = mint.bytes::<32>().map(char::from).iter().collect::<String>();
    let out_of_memory =
        |_| StartError::Serve(std::io::Error::from(std::io::ErrorKind::OutOfMemory));
    Password::tried(&noise).hash(mint.bytes()).map_err(out_of_memory)
}

async fn wait_past(clock: &Clock, floor: u64) {
    while seconds(clock.now()) <= floor && matches!(clock, Clock::System) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
