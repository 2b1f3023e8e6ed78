//! An HTTP server over connections that are opened our own way: actix lets nothing read before its
//! HTTP does.

use std::fmt::Debug;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_http::body::MessageBody;
use actix_http::{HttpService, Protocol, Request, Response};
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt as _, fn_service, map_config,
};
use actix_web::dev::{AppConfig, Server};
use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{DRAIN_SECONDS, KEEP_ALIVE};

/// How long a connection may take to be closed in order.
const CLOSE: Duration = Duration::from_secs(1);

/// A connection that HTTP may be spoken on, and the address at its other end.
pub type Opened<T> = Result<(T, Protocol, Option<SocketAddr>), ()>;

/// What a listener allows.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub workers: usize,
    pub connections_per_worker: usize,
    pub header_time: Duration,
}

/// Serves `app` on the connections that `open` makes of those that come in.
pub fn serve<T, O, Opening, F, I, S, B>(
    name: &'static str,
    listener: TcpListener,
    bounds: Bounds,
    open: O,
    app: F,
) -> io::Result<Server>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
    O: Fn(TcpStream) -> Opening + Send + Clone + 'static,
    Opening: Future<Output = Opened<T>> + 'static,
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
    let server = Server::build()
        .workers(bounds.workers)
        .max_concurrent_connections(bounds.connections_per_worker)
        .shutdown_timeout(DRAIN_SECONDS)
        .disable_signals();
    let stopping = server.graceful_shutdown_signal();
    let server = server.listen(name, listener, move || {
        let (open, stopping) = (open.clone(), stopping.clone());
        let app = app().into_factory().map_err(|error| error.into().error_response());
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(bounds.header_time)
            .client_disconnect_timeout(CLOSE)
            .finish(map_config(app, |()| AppConfig::default()));
        fn_service(open).and_then(http.map_err(|_| ()))
    })?;
    Ok(server.run())
}
