//! Networks in CIDR form, and which of the addresses a request came through is its source.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A network in CIDR form; an address alone is the network it is all of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// # Errors
    /// A sentence that says what a network is.
    pub fn parse(text: &str) -> Result<Network, String> {
        let wrong = || {
            "a network is an address and a prefix, such as 10.0.0.0/8 or fd00::/8, or one address"
                .to_owned()
        };
        let (address, prefix) = match text.split_once('/') {
            None => (text, None),
            Some((address, prefix)) => (address, Some(prefix)),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|prefix| *prefix <= longest).ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
        };
        let network = Network { address, prefix };
        if network.masked(address) == bits(address) {
            Ok(network)
        } else {
            Err("a network has no bits set beyond its prefix: 10.0.0.0/8, not 10.1.2.3/8".into())
        }
    }

    /// An IPv4 address is the same in IPv6's clothes.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && self.masked(address) == bits(self.address)
    }

    fn masked(&self, address: IpAddr) -> u128 {
        let longest = if self.address.is_ipv4() { 32 } else { 128 };
        let mask = u128::MAX.checked_shl(longest - self.prefix).unwrap_or(0);
        bits(address) & mask
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The proxies whose word about their client's address is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(pub Vec<Network>);

impl TrustedProxies {
    /// Networks with commas or blanks between them.
    ///
    /// # Errors
    /// A sentence that says what a network is.
    pub fn parse(text: &str) -> Result<TrustedProxies, String> {
        let words = text.split([',', ' ']).filter(|word| !word.is_empty());
        let networks = words.map(Network::parse).collect::<Result<Vec<_>, _>>()?;
        if networks.iter().any(|network| network.prefix == 0) {
            return Err("to trust every address is to let every client choose its own".into());
        }
        Ok(TrustedProxies(networks))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// Where a request comes from: `peer`, unless that is a proxy of ours; then the rightmost
    /// address of its `X-Forwarded-For` (the values of the header in their order) that is none.
    /// What is no address says no more, and the proxy that passed it on is the source.
    pub fn source<'h>(
        &self,
        peer: IpAddr,
        forwarded: impl DoubleEndedIterator<Item = &'h [u8]>,
    ) -> IpAddr {
        let mut source = peer.to_canonical();
        if !self.trusts(source) {
            return source;
        }
        let hops = forwarded.rev().flat_map(|value| value.rsplit(|b| *b == b','));
        for hop in hops {
            let Some(address) = std::str::from_utf8(hop).ok().and_then(forwarded_address) else {
                return source;
            };
            source = address;
            if !self.trusts(source) {
                break;
            }
        }
        source
    }
}

impl std::fmt::Display for TrustedProxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&if shown.is_empty() { "none".to_owned() } else { shown.join(",") })
    }
}

/// `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]`: proxies write all of them.
fn forwarded_address(text: &str) -> Option<IpAddr> {
    let text = text.trim_matches([' ', '\t']);
    let address = text.parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    let bracketed = || {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?;
        inner.parse::<Ipv6Addr>().ok().map(IpAddr::from)
    };
    address.or_else(bracketed).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_is_an_address_and_a_prefix_without_bits_beyond_it() {
        for good in ["10.0.0.0/8", "192.0.2.7", "192.0.2.7/32", "fd00::/8", "::1", "0.0.0.0/0"] {
            let network = Network::parse(good).unwrap();
            assert_eq!(Network::parse(&network.to_string()), Ok(network), "{good}");
        }
        for bad in
            ["", "10/8", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "::/129", "h/8"]
        {
            assert!(Network::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_contains_its_own_family_alone_and_ipv4_in_ipv6s_clothes() {
        let ten = Network::parse("10.0.0.0/8").unwrap();
        assert!(ten.contains(ip("10.255.0.1")) && ten.contains(ip("::ffff:10.1.2.3")));
        assert!(!ten.contains(ip("11.0.0.0")) && !ten.contains(ip("::10.0.0.1")));
        let every = Network::parse("::/0").unwrap();
        assert!(every.contains(ip("fe80::1")) && !every.contains(ip("10.0.0.1")));
        let one = Network::parse("fd00::7").unwrap();
        assert!(one.contains(ip("fd00::7")) && !one.contains(ip("fd00::8")));
    }

    #[test]
    fn proxies_are_a_list_and_never_everybody() {
        let two = TrustedProxies::parse("10.0.0.0/8, fd00::1").unwrap();
        assert_eq!(two.to_string(), "10.0.0.0/8,fd00::1/128");
        assert!(TrustedProxies::parse("").unwrap().is_empty());
        for bad in ["0.0.0.0/0", "::/0", "10.0.0.0/8;fd00::1", "proxy"] {
            assert!(TrustedProxies::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_source_is_the_rightmost_address_that_is_no_proxy() {
        let proxies = TrustedProxies::parse("10.0.0.0/8,fd00::/8").unwrap();
        let source = |peer: &str, headers: &[&str]| {
            proxies.source(ip(peer), headers.iter().map(|value| value.as_bytes())).to_string()
        };
        // Nobody else's word is taken.
        assert_eq!(source("192.0.2.1", &["203.0.113.9"]), "192.0.2.1");
        assert_eq!(source("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(source("10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        // What a client wrote itself stands further left.
        assert_eq!(source("10.0.0.1", &["1.1.1.1, 203.0.113.9, 10.0.0.2"]), "203.0.113.9");
        assert_eq!(source("10.0.0.1", &["1.1.1.1", "203.0.113.9", "10.0.0.2"]), "203.0.113.9");
        assert_eq!(source("::ffff:10.0.0.1", &["203.0.113.9"]), "203.0.113.9");
        for (written, meant) in [
            ("203.0.113.9:4711", "203.0.113.9"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
        ] {
            assert_eq!(source("fd00::1", &[written]), meant);
        }
        // All of them ours: then the first is the client.
        assert_eq!(source("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        // What cannot be read ends the chain of those who are believed.
        assert_eq!(source("10.0.0.1", &["203.0.113.9, unknown, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(source("10.0.0.1", &["203.0.113.9,"]), "10.0.0.1");
        assert_eq!(source("10.0.0.1", &["203.0.113.9, _hidden"]), "10.0.0.1");
    }
}
