//! Where a server is.

use std::path::PathBuf;

use ureq::http::Uri;

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerUrl {
    /// `unix:PATH`: the admin socket.
    Unix(PathBuf),
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    Http(String),
}

impl ServerUrl {
    /// # Errors
    /// A sentence that says what a server URL is.
    pub fn parse(text: &str) -> Result<ServerUrl, String> {
        if let Some(path) = text.strip_prefix("unix:")
            && !path.is_empty()
        {
            return Ok(ServerUrl::Unix(PathBuf::from(path)));
        }
        if is_base(text) {
            return Ok(ServerUrl::Http(text.trim_end_matches('/').to_owned()));
        }
        Err("a server is unix:PATH, http://HOST:PORT or https://HOST:PORT".into())
    }

    /// Whether what is sent there goes through TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        matches!(self, ServerUrl::Http(url) if url.get(..8).is_some_and(|s| s.eq_ignore_ascii_case("https://")))
    }

    /// What the path of a request is put behind.
    pub(super) fn base(&self) -> &str {
        match self {
            // An address that needs no look-up; the connector goes to the socket.
            ServerUrl::Unix(_) => "http://127.0.0.1",
            ServerUrl::Http(url) => url,
        }
    }
}

/// Credentials in the URL would be logged by everyone on the way, so they are none of ours.
fn is_base(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let host = uri.authority().is_some_and(|a| !a.host().is_empty() && !a.as_str().contains('@'));
    is_http && host && uri.query().is_none() && !text.contains('#')
}

impl std::fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ServerUrl::Unix(path) => write!(f, "unix:{}", path.display()),
            ServerUrl::Http(url) => f.write_str(url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_socket_or_a_base_url_without_credentials() {
        for good in ["unix:/run/admin.sock", "http://127.0.0.1:5241", "https://[::1]:5241/api"] {
            assert_eq!(ServerUrl::parse(good).map(|url| url.to_string()), Ok(good.to_owned()));
        }
        let trimmed = ServerUrl::parse("https://h:1/").unwrap();
        assert_eq!(trimmed, ServerUrl::Http("https://h:1".into()));
        assert!(trimmed.is_https());
        for bad in [
            "",
            "unix:",
            "http://",
            "https://",
            "ftp://h",
            "h:5241",
            "/run/admin.sock",
            "http://user@h:1",
            "http://h:1?x=1",
            "http://h:1/#x",
        ] {
            assert!(ServerUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
