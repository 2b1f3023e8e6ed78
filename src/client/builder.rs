//! A session's making: whom it trusts, who it is, and how much it says.

use std::time::Duration;

use ureq::Agent;
use ureq::tls::Certificate;

use super::log::{Detail, Log};
use super::{AuthPlugin, ClientError, Retries, ServerUrl, Session, plugins, tls, unix};

/// A session in the making.
pub struct Builder {
    server: ServerUrl,
    plugin: Box<dyn AuthPlugin>,
    ca: Option<Vec<Certificate<'static>>>,
    retries: Retries,
    log: Option<Log>,
}

impl Builder {
    pub(super) fn new(server: ServerUrl) -> Builder {
        Builder {
            server,
            plugin: plugins::NoAuth.into(),
            ca: None,
            retries: Retries::default(),
            log: None,
        }
    }

    /// Proves who is asking; without one, nothing does. One of your own goes in a `Box`.
    #[must_use]
    pub fn plugin(mut self, plugin: impl Into<Box<dyn AuthPlugin>>) -> Builder {
        self.plugin = plugin.into();
        self
    }

    /// Trusts the CAs of this PEM text and no others.
    ///
    /// # Errors
    /// [`ClientError::BadCa`].
    pub fn ca(mut self, pem: &[u8]) -> Result<Builder, ClientError> {
        self.ca = Some(tls::parse_ca(pem)?);
        Ok(self)
    }

    #[must_use]
    pub fn retries(mut self, retries: Retries) -> Builder {
        self.retries = retries;
        self
    }

    /// Tells of every request, line by line.
    #[must_use]
    pub fn log(mut self, detail: Detail, sink: impl Fn(&str) + Send + Sync + 'static) -> Builder {
        self.log = Some(Log { detail, sink: std::sync::Arc::new(sink) });
        self
    }

    #[must_use]
    pub fn build(self) -> Session {
        let server = self.plugin.base_url().unwrap_or(self.server);
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("nodeinit/", env!("CARGO_PKG_VERSION")))
            // A program that reads our output slowly would find its connection closed by then.
            .max_idle_connections(0)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_mins(10)));
        if server.is_https() {
            config = config.tls_config(tls::config(self.ca));
        }
        let agent = match &server {
            ServerUrl::Unix(path) => unix::agent(config.proxy(None).build(), path.clone()),
            ServerUrl::Http(_) => config.build().new_agent(),
        };
        let Builder { plugin, retries, log, .. } = self;
        Session { agent, server, plugin, retries, log }
    }
}
