//! PROXY protocol v2: what a proxy that knows no HTTP says of its client, in front of its bytes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::domain::network::TrustedProxies;

/// ```text
/// \r\n\r\n\0\r\nQUIT\n  2 1         1 1              000c    c0000201 …      203 …
/// signature             ver command family transport length  source, destination, ports, TLVs
/// ```
/// (haproxy's proxy-protocol.txt, §2.2)
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longer than any that is sent: addresses, and a few things about the proxy's own TLS.
const LONGEST: usize = 4096;
/// How soon a signature that has come in part is looked at again.
const AGAIN: Duration = Duration::from_millis(5);

/// The address at the other end of a connection: the peer's, or what a trusted one says in a
/// PROXY header, which is taken off the stream. A peer that sends none is heard as it is.
///
/// # Errors
/// What is wrong with the header, or that it took longer than `within`.
pub async fn source(
    proxies: &TrustedProxies,
    stream: &mut TcpStream,
    within: Duration,
) -> Result<Option<SocketAddr>, &'static str> {
    let peer = stream.peer_addr().ok();
    if !peer.is_some_and(|peer| proxies.trusts(peer.ip())) {
        return Ok(peer);
    }
    match tokio::time::timeout(within, header(stream)).await {
        Ok(Ok(None | Some(Said::Nothing))) => Ok(peer),
        Ok(Ok(Some(Said::Source(address)))) => Ok(Some(address)),
        Ok(Err(why)) => Err(why),
        Err(_) => Err("it took too long"),
    }
}

/// What a header says of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Source(SocketAddr),
    /// The proxy speaks for itself, or for somebody without an IP address.
    Nothing,
}

async fn header(stream: &mut TcpStream) -> Result<Option<Said>, &'static str> {
    const BROKE_OFF: &str = "it broke off";
    let broke_off = |_: io::Error| BROKE_OFF;
    let mut first = [0; 12];
    loop {
        // Bytes that are no header are left for HTTP or TLS to read.
        let seen = stream.peek(&mut first).await.map_err(broke_off)?;
        if seen == 0 || !SIGNATURE.starts_with(&first[..seen]) {
            return Ok(None);
        }
        if seen == SIGNATURE.len() {
            break;
        }
        tokio::time::sleep(AGAIN).await;
    }
    let mut head = [0; 16];
    stream.read_exact(&mut head).await.map_err(broke_off)?;
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > LONGEST {
        return Err("it is too long");
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await.map_err(broke_off)?;
    parse(head[12], head[13], &rest).map(Some)
}

fn parse(version_and_command: u8, family: u8, rest: &[u8]) -> Result<Said, &'static str> {
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        0x22..=0x2f => return Err("it has an unknown command"),
        _ => return Err("it is of another version"),
    };
    // Bytes of the addresses and ports; what follows is said about the connection.
    let addresses = match family {
        0x00 => return Ok(Said::Nothing),
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        0x12 | 0x22 | 0x32 => return Err("it speaks of datagrams"),
        _ => return Err("it has an unknown family or transport"),
    };
    if is_local {
        return Ok(Said::Nothing);
    }
    let Some((addresses, extras)) = rest.split_at_checked(addresses) else {
        return Err("it is too short for its addresses");
    };
    if !are_whole(extras) {
        return Err("what follows its addresses is broken");
    }
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    Ok(match family {
        0x11 => {
            let source: [u8; 4] = addresses[..4].try_into().expect("there are twelve");
            Said::Source((IpAddr::from(Ipv4Addr::from(source)), port(8)).into())
        }
        0x21 => {
            let source: [u8; 16] = addresses[..16].try_into().expect("there are 36");
            let source = IpAddr::from(Ipv6Addr::from(source)).to_canonical();
            Said::Source((source, port(32)).into())
        }
        _ => Said::Nothing,
    })
}

/// Whether these bytes are type, length and value, one after another.
fn are_whole(mut extras: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = extras {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(after) = rest.get(length..) else { return false };
        extras = after;
    }
    extras.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &[u8] = &[203, 0, 113, 9, 192, 0, 2, 1, 0x12, 0x67, 0x14, 0x78];

    #[test]
    fn a_header_says_where_the_client_is() {
        let said = |address: &str| Ok(Said::Source(address.parse().unwrap()));
        assert_eq!(parse(0x21, 0x11, V4), said("203.0.113.9:4711"));
        let v6 = [
            &"2001:db8::9".parse::<Ipv6Addr>().unwrap().octets()[..],
            &[0; 16],
            &[0x12, 0x67, 0x14, 0x78],
        ]
        .concat();
        assert_eq!(parse(0x21, 0x21, &v6), said("[2001:db8::9]:4711"));
        let with_extras = [V4, &[4, 0, 2, 1, 2, 5, 0, 0]].concat();
        assert_eq!(parse(0x21, 0x11, &with_extras), said("203.0.113.9:4711"));
        for (command, family, rest) in
            [(0x20, 0x11, V4), (0x20, 0x00, &[][..]), (0x21, 0x00, V4), (0x21, 0x31, &[0; 216])]
        {
            assert_eq!(parse(command, family, rest), Ok(Said::Nothing), "{command:x} {family:x}");
        }
    }

    #[test]
    fn what_is_not_a_whole_header_is_refused() {
        for (command, family, rest) in [
            (0x11, 0x11, V4),
            (0x31, 0x11, V4),
            (0x22, 0x11, V4),
            (0x21, 0x12, V4),
            (0x21, 0x13, V4),
            (0x21, 0x41, V4),
            (0x20, 0xff, V4),
            (0x21, 0x11, &V4[..11]),
            (0x21, 0x21, V4),
            (0x21, 0x11, &[V4, &[4, 0]].concat()),
            (0x21, 0x11, &[V4, &[4, 0, 9, 1]].concat()),
        ] {
            assert!(parse(command, family, rest).is_err(), "{command:x} {family:x} {rest:?}");
        }
    }
}
