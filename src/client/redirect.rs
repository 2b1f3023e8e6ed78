//! Where a redirect leads, and whether that is the same origin: scheme, host and port.

use ureq::http::uri::Authority;
use ureq::http::{Method, StatusCode, Uri};

/// How many are followed for one request.
pub const MOST: usize = 5;

#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// The URL, at the origin that was asked.
    Same(String),
    /// The origin it names instead, fit to be printed.
    Other(String),
}

/// Whether this answer sends a request with this method on. A POST that is told to become a GET
/// is not what was asked for, so it is handed back.
pub fn is_followed(status: StatusCode, method: &Method) -> bool {
    match status.as_u16() {
        307 | 308 => true,
        301..=303 => *method == Method::GET || *method == Method::HEAD,
        _ => false,
    }
}

pub fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301..=303 | 307 | 308)
}

/// The `Location` of an answer from `url`, as RFC 3986 §5 resolves it.
pub fn target(url: &Uri, location: &str) -> Target {
    // URI references are ASCII without spaces; what is not is nobody's origin.
    let location = location.split('#').next().unwrap_or_default();
    let scheme = url.scheme_str().unwrap_or("http");
    let here = url.authority().map(Authority::as_str).unwrap_or_default();
    let path = url.path();
    let absolute = if is_absolute(location) {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{here}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{here}{path}{location}")
    } else {
        let folder = &path[..=path.rfind('/').unwrap_or(0)];
        format!("{scheme}://{here}{folder}{location}")
    };
    match absolute.parse::<Uri>() {
        Ok(to) if origin(&to).is_some() && origin(&to) == origin(url) => Target::Same(absolute),
        Ok(to) if to.scheme().is_some() => Target::Other(shown(&to)),
        _ => Target::Other("no URL".into()),
    }
}

fn is_absolute(location: &str) -> bool {
    let Some((scheme, _)) = location.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// `None` for what has none that can be compared, such as one with credentials in it.
fn origin(uri: &Uri) -> Option<(String, String, u16)> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let authority = uri.authority().filter(|a| !a.as_str().contains('@'))?;
    let port = match (uri.port_u16(), scheme.as_str()) {
        (Some(port), _) => port,
        (None, "http") => 80,
        (None, "https") => 443,
        (None, _) => return None,
    };
    Some((scheme, authority.host().to_ascii_lowercase(), port))
}

fn shown(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{host}{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(url: &str, location: &str) -> Target {
        target(&url.parse().unwrap(), location)
    }

    #[test]
    fn a_location_is_resolved_against_the_url_that_was_asked() {
        for (location, to) in [
            ("/c", "http://h:1/c"),
            ("c?d=1", "http://h:1/a/c?d=1"),
            ("?d=1", "http://h:1/a/b?d=1"),
            ("http://H:1/c#top", "http://H:1/c"),
            ("//h:1/c", "http://h:1/c"),
            ("/c?next=http://x:2/", "http://h:1/c?next=http://x:2/"),
        ] {
            assert_eq!(from("http://h:1/a/b?q=2", location), Target::Same(to.into()), "{location}");
        }
        assert_eq!(from("https://h/a", "https://h:443/b"), Target::Same("https://h:443/b".into()));
    }

    #[test]
    fn another_scheme_host_or_port_is_another_origin() {
        for (location, to) in [
            ("https://h:1/c", "https://h:1"),
            ("http://h:2/c", "http://h:2"),
            ("http://h/c", "http://h"),
            ("//other:1/c", "http://other:1"),
            ("http://h:1@other/c", "http://other"),
            ("http://user@h:1/c", "http://h:1"),
            ("HTTP://h.:1/c", "http://h.:1"),
            ("javascript:1", "no URL"),
            ("http:\\\\other", "no URL"),
        ] {
            assert_eq!(from("http://h:1/a", location), Target::Other(to.into()), "{location}");
        }
    }
}
