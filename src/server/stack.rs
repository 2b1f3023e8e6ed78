//! A listener of the server's own: threads that each accept, and what they make of a stop.

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::body::{BoxBody, MessageBody};
use actix_http::{Request, Response, ServiceConfig};
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt as _, map_config,
};
use actix_web::dev::AppConfig;
use actix_web::rt::Runtime;
use futures_util::future::LocalBoxFuture;
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot};

use super::connection::{self, Begun, Plane};
use super::tls::Tls;
use super::{DRAIN_SECONDS, KEEP_ALIVE};
use crate::domain::network::TrustedProxies;

/// Connections taken before those that are open have their turn.
const AT_ONCE: usize = 16;
/// A rack that powers up connects all at once.
const BACKLOG: i32 = 4096;
/// Out of descriptors, there is nothing to do but wait for some connection to end.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);
/// What one read takes: any request without a body, and a TLS record.
const SCRATCH: usize = 16 << 10;
/// Threads of one worker that wait for the database.
const BLOCKING: usize = 64;

/// What comes before HTTP on a connection.
#[derive(Clone)]
pub enum Door {
    Plain(Arc<TrustedProxies>),
    Tls(Arc<Tls>, Arc<TrustedProxies>),
}

/// The framework's side: what is not answered by the lane is asked of it.
pub type Web = Box<dyn Fn(Request) -> LocalBoxFuture<'static, Response<BoxBody>>>;

/// A listener that is up.
pub struct Front {
    workers: Vec<Handle>,
}

struct Handle {
    /// Told to stop, or dropped: then nothing is waited for.
    stop: Option<oneshot::Sender<()>>,
    stopped: oneshot::Receiver<()>,
}

/// What one thread has.
pub struct Worker {
    pub plane: Plane,
    pub web: Web,
    pub config: ServiceConfig,
    /// Where bytes are read into, and an answer is written before it goes out: nothing in them
    /// outlives a turn.
    pub scratch: RefCell<Box<[u8]>>,
    pub out: RefCell<Vec<u8>>,
    door: Door,
    draining: Cell<bool>,
    stopping: Notify,
    open: Cell<usize>,
    ended: Notify,
}

/// One connection, counted as long as it is open.
pub struct Held(Rc<Worker>);

impl Front {
    /// Serves `app` on an address that is bound already: from here on it takes connections.
    pub fn serve<F, I, S, B>(
        plane: &Plane,
        socket: Socket,
        workers: usize,
        door: &Door,
        app: &F,
    ) -> io::Result<Front>
    where
        F: Fn() -> I + Send + Clone + 'static,
        I: IntoServiceFactory<S, Request>,
        S: ServiceFactory<Request, Config = AppConfig> + 'static,
        S::Error: Into<actix_web::Error> + 'static,
        S::InitError: Debug,
        S::Response: Into<Response<B>> + 'static,
        S::Service: 'static,
        <S::Service as Service<Request>>::Future: 'static,
        B: MessageBody + 'static,
    {
        let mut front = Front { workers: Vec::new() };
        for (number, listener) in listeners(socket, workers)?.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING)
                .build()?;
            let (stop, told) = oneshot::channel();
            let (done, stopped) = oneshot::channel();
            let (plane, door, app) = (plane.clone(), door.clone(), app.clone());
            let name = format!("{}-{}", plane.name, number + 1);
            std::thread::Builder::new().name(name).spawn(move || {
                Runtime::from(runtime).block_on(async move {
                    match web(&app).await {
                        Ok(web) => Rc::new(Worker::new(plane, web, door)).run(listener, told).await,
                        Err(why) => tracing::error!(why, "a listener ended"),
                    }
                });
                let _ = done.send(());
            })?;
            front.workers.push(Handle { stop: Some(stop), stopped });
        }
        Ok(front)
    }

    /// Takes no more connections, answers what is being asked, and closes them all.
    pub async fn stop(&mut self) {
        for worker in &mut self.workers {
            // One that has ended by itself has nothing to stop.
            let _ = worker.stop.take().map(|stop| stop.send(()));
        }
        for worker in &mut self.workers {
            let _ = (&mut worker.stopped).await;
        }
    }
}

/// Sockets for one address, one a worker: the kernel spreads the connections over them.
///
/// The first is alone on its address until it listens, so that a second server is refused it.
fn listeners(first: Socket, workers: usize) -> io::Result<Vec<TcpListener>> {
    first.listen(BACKLOG)?;
    let address = first.local_addr()?;
    first.set_reuse_port(true)?;
    let domain = address.as_socket().map_or(Domain::IPV4, Domain::for_address);
    let mut sockets = vec![first];
    while sockets.len() < workers {
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        super::tune(&socket)?;
        socket.bind(&address)?;
        socket.set_nonblocking(true)?;
        socket.listen(BACKLOG)?;
        sockets.push(socket);
    }
    Ok(sockets.into_iter().map(TcpListener::from).collect())
}

async fn web<F, I, S, B>(app: &F) -> Result<Web, String>
where
    F: Fn() -> I,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<actix_web::Error> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    S::Service: 'static,
    <S::Service as Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    let factory = app().into_factory().map_err(|error| error.into().error_response());
    let service = map_config(factory, |()| AppConfig::default()).new_service(()).await;
    let service = service.map_err(|error| format!("{error:?}"))?;
    Ok(Box::new(move |request| {
        let answer = service.call(request);
        Box::pin(async move {
            match answer.await {
                Ok(response) => response.into().map_into_boxed_body(),
                Err(response) => response.into(),
            }
        })
    }))
}

impl Worker {
    fn new(plane: Plane, web: Web, door: Door) -> Worker {
        Worker {
            plane,
            web,
            config: ServiceConfig::new(
                KEEP_ALIVE.into(),
                Duration::ZERO,
                Duration::ZERO,
                false,
                None,
            ),
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            out: RefCell::default(),
            door,
            draining: Cell::new(false),
            stopping: Notify::new(),
            open: Cell::new(0),
            ended: Notify::new(),
        }
    }

    /// Until it is told to stop, or whoever could tell it is gone.
    async fn run(self: Rc<Worker>, listener: TcpListener, told: oneshot::Receiver<()>) {
        let accepting = actix_web::rt::spawn(accept(self.clone(), listener));
        if told.await.is_err() {
            return;
        }
        self.draining.set(true);
        self.stopping.notify_waiters();
        let _ = accepting.await;
        let drained = async {
            while self.open.get() > 0 {
                self.ended.notified().await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(DRAIN_SECONDS), drained).await;
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Resolves when the worker begins to drain.
    pub fn stopping(&self) -> tokio::sync::futures::Notified<'_> {
        self.stopping.notified()
    }

    fn is_full(&self) -> bool {
        self.open.get() >= self.plane.connections
    }

    fn hold(self: &Rc<Worker>) -> Held {
        self.open.set(self.open.get() + 1);
        Held(self.clone())
    }

    fn welcome(self: &Rc<Worker>, socket: OwnedFd, peer: Option<SocketAddr>) {
        let stream = TcpStream::from(socket);
        match &self.door {
            Door::Plain(proxies) if !peer.is_some_and(|peer| proxies.trusts(peer.ip())) => {
                let Some(begun) = connection::greet(self, &stream, peer) else { return };
                self.spawn(stream, move |worker, stream| async move {
                    connection::serve(&worker, stream, peer, begun).await;
                });
            }
            Door::Plain(proxies) => {
                let proxies = proxies.clone();
                self.spawn(stream, move |worker, mut stream| async move {
                    let plane = &worker.plane;
                    let within = plane.header_time;
                    let source = super::source(plane.name, &proxies, &mut stream, within).await;
                    if let Ok(source) = source {
                        connection::serve(&worker, stream, source, Begun::default()).await;
                    }
                });
            }
            Door::Tls(tls, proxies) => {
                let (tls, proxies) = (tls.clone(), proxies.clone());
                self.spawn(stream, move |worker, stream| async move {
                    if let Ok((stream, source)) = tls.open_connection(&proxies, stream).await {
                        connection::serve(&worker, stream, source, Begun::default()).await;
                    }
                });
            }
        }
    }

    fn spawn<S, Serving>(self: &Rc<Worker>, stream: TcpStream, serve: S)
    where
        S: FnOnce(Rc<Worker>, tokio::net::TcpStream) -> Serving,
        Serving: Future<Output = ()> + 'static,
    {
        match tokio::net::TcpStream::from_std(stream) {
            Ok(stream) => {
                let (held, serving) = (self.hold(), serve(self.clone(), stream));
                actix_web::rt::spawn(async move {
                    serving.await;
                    drop(held);
                });
            }
            Err(error) => tracing::warn!(%error, "a connection is not served"),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let was_full = self.0.is_full();
        self.0.open.set(self.0.open.get() - 1);
        if was_full || self.0.is_draining() {
            self.0.ended.notify_one();
        }
    }
}

async fn accept(worker: Rc<Worker>, listener: TcpListener) {
    #[expect(deprecated, reason = "`register` is unsafe, and a listener keeps its descriptor")]
    let listener = match AsyncFd::new(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listener ended"),
    };
    let stopping = worker.stopping();
    tokio::pin!(stopping);
    while !worker.is_draining() {
        let ready = async {
            while worker.is_full() {
                worker.ended.notified().await;
            }
            listener.readable().await
        };
        let ready = tokio::select! {
            ready = ready => ready,
            () = &mut stopping => break,
        };
        let Ok(mut ready) = ready else { return };
        for _ in 0..AT_ONCE {
            if worker.is_full() {
                break;
            }
            match take(listener.get_ref()) {
                Ok((socket, peer)) => worker.welcome(socket, peer),
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    tracing::warn!(
                        plane = worker.plane.name,
                        "no connection can be taken just now"
                    );
                    tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                    break;
                }
                // It went away before it was taken.
                Err(_) => {}
            }
        }
        drop(ready);
        tokio::task::yield_now().await;
    }
    // Those that are in the queue came in time.
    while !worker.is_full()
        && let Ok((socket, peer)) = take(listener.get_ref())
    {
        worker.welcome(socket, peer);
    }
}

fn take(listener: &TcpListener) -> Result<(OwnedFd, Option<SocketAddr>), Errno> {
    let (socket, peer) = acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    Ok((socket, peer.and_then(|peer| SocketAddr::try_from(peer).ok())))
}
