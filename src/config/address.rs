//! Addresses as configured: where to listen, which nodes to ask, what to dial instead.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

/// The longest path of a unix socket: `sun_path` holds 108 bytes with the closing zero (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

/// A host name or IP address with a port. Names stay names: they are resolved whenever they are dialled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Without brackets, also when it is an IPv6 address.
    pub host: String,
    pub port: u16,
}

impl HostPort {
    /// Reads `host:port`, `1.2.3.4:port`, `[::1]:port` or, as Redis itself writes IPv6, `::1:port`.
    /// The error ends the sentence "found TEXT, ...".
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (host, port) = text.rsplit_once(':').ok_or("which names no port")?;
        let port = port.parse().map_err(|_| "whose port is not a number from 0 to 65535")?;
        Ok(Self { host: parse_host(host)?, port })
    }

    /// Whether only this machine can reach it. A name other than `localhost` may resolve to anything.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => self.host.eq_ignore_ascii_case("localhost"),
        }
    }

    /// Whether a listener on `self` answers who dials `dialled`, as far as the texts tell.
    pub fn serves(&self, dialled: &HostPort) -> bool {
        let everywhere = self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
        let same_host = self.host.eq_ignore_ascii_case(&dialled.host);
        let both_loopback = self.is_loopback() && dialled.is_loopback();
        self.port != 0 && self.port == dialled.port && (same_host || both_loopback || everywhere && dialled.is_loopback())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// An address that the proxy listens on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// Port 0 takes any free port; the log says which.
    Tcp(HostPort),
    Unix(PathBuf),
}

impl ListenAddr {
    /// Reads `host:port` or `unix:PATH`. The error ends the sentence "found TEXT, ...".
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(path) = text.strip_prefix("unix:") else {
            return HostPort::parse(text).map(Self::Tcp);
        };
        match path.len() {
            0 => Err("which names no path"),
            1..=UNIX_PATH_BYTES_MAX => Ok(Self::Unix(PathBuf::from(path))),
            _ => Err("whose path is longer than the 107 bytes of a unix socket"),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One rule for addresses that the cluster announces but the proxy cannot reach (NAT, Docker, Kubernetes).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AddressRule {
    /// This one node is dialled elsewhere.
    Node { from: HostPort, to: HostPort },
    /// Every node of a host is dialled at another host, on the same port.
    Host { from: String, to: String },
}

impl AddressRule {
    /// Reads `from=to`, both `host:port` or both a host. The error ends the sentence "found TEXT, ...".
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (from, to) = text.split_once('=').ok_or("which has no `=`")?;
        match (HostPort::parse(from.trim()), HostPort::parse(to.trim())) {
            (Ok(from), Ok(to)) if from.port != 0 && to.port != 0 => Ok(Self::Node { from, to }),
            (Ok(_), Ok(_)) => Err("whose port is 0"),
            (Err(_), Err(_)) => Ok(Self::Host { from: parse_host(from.trim())?, to: parse_host(to.trim())? }),
            // `host=host:port` would send every node of the host to one port.
            _ => Err("which has a port on one side only"),
        }
    }

    /// What the rule replaces, as written.
    pub fn from_text(&self) -> String {
        match self {
            Self::Node { from, .. } => from.to_string(),
            Self::Host { from, .. } => from.clone(),
        }
    }
}

impl fmt::Display for AddressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { from, to } => write!(f, "{from}={to}"),
            Self::Host { from, to } => write!(f, "{}={}", bracketed(from), bracketed(to)),
        }
    }
}

fn parse_host(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        return Err("which names no host");
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if (bare.len() < text.len() || bare.contains(':')) && bare.parse::<Ipv6Addr>().is_err() {
        return Err("whose host is not an IPv6 address");
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    match bare.bytes().all(is_name) {
        true => Ok(bare.to_owned()),
        false => Err("whose host is neither a name nor an IP address"),
    }
}

fn bracketed(host: &str) -> String {
    match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses() {
        #[track_caller]
        fn check(text: &str, expected: Result<&str, &str>) {
            let shown = ListenAddr::parse(text).map(|address| address.to_string());
            assert_eq!(shown.as_deref().map_err(|reason| *reason), expected, "{text:?}");
        }
        check("127.0.0.1:6380", Ok("127.0.0.1:6380"));
        check("redis-0.redis_headless:6379", Ok("redis-0.redis_headless:6379"));
        check("[::1]:6380", Ok("[::1]:6380"));
        check("::1:6380", Ok("[::1]:6380"));
        check("0.0.0.0:0", Ok("0.0.0.0:0"));
        check("unix:/run/keyway.sock", Ok("unix:/run/keyway.sock"));
        check("6380", Err("which names no port"));
        check(":6380", Err("which names no host"));
        check("host:port", Err("whose port is not a number from 0 to 65535"));
        check("host:65536", Err("whose port is not a number from 0 to 65535"));
        check("redis://host:6379", Err("whose host is not an IPv6 address"));
        check("[host]:6379", Err("whose host is not an IPv6 address"));
        check("ho st:6379", Err("whose host is neither a name nor an IP address"));
        check("unix:", Err("which names no path"));
        check(&format!("unix:/{}", "a".repeat(107)), Err("whose path is longer than the 107 bytes of a unix socket"));
    }

    #[test]
    fn loopback_is_what_only_this_machine_reaches() {
        #[track_caller]
        fn check(text: &str, expected: bool) {
            assert_eq!(HostPort::parse(text).map(|address| address.is_loopback()), Ok(expected), "{text}");
        }
        check("127.0.0.1:1", true);
        check("127.9.9.9:1", true);
        check("[::1]:1", true);
        check("LocalHost:1", true);
        check("0.0.0.0:1", false);
        check("[::]:1", false);
        check("10.0.0.1:1", false);
        check("localhost.example:1", false);
    }

    #[test]
    fn a_listener_serves_who_dials_it() {
        #[track_caller]
        fn check(listener: &str, dialled: &str, expected: bool) {
            let [listener, dialled] = [listener, dialled].map(|text| HostPort::parse(text).expect("the test's own text"));
            assert_eq!(listener.serves(&dialled), expected, "{listener} {dialled}");
        }
        check("127.0.0.1:6379", "127.0.0.1:6379", true);
        check("127.0.0.1:6379", "localhost:6379", true);
        check("0.0.0.0:6379", "127.0.0.1:6379", true);
        check("0.0.0.0:6379", "10.0.0.1:6379", false);
        check("127.0.0.1:6380", "127.0.0.1:6379", false);
        check("redis:6379", "REDIS:6379", true);
        check("127.0.0.1:0", "127.0.0.1:0", false);
    }

    #[test]
    fn address_rules() {
        #[track_caller]
        fn check(text: &str, expected: Result<&str, &str>) {
            let shown = AddressRule::parse(text).map(|rule| rule.to_string());
            assert_eq!(shown.as_deref().map_err(|reason| *reason), expected, "{text:?}");
        }
        check("10.0.0.1:6379=127.0.0.1:7001", Ok("10.0.0.1:6379=127.0.0.1:7001"));
        check("10.0.0.1 = db.example", Ok("10.0.0.1=db.example"));
        check("[::1]:1=[::2]:2", Ok("[::1]:1=[::2]:2"));
        check("[fd00::1]=host", Ok("[fd00::1]=host"));
        check("10.0.0.1:6379", Err("which has no `=`"));
        check("a:1=b", Err("which has a port on one side only"));
        check("a=b:1", Err("which has a port on one side only"));
        check("a:0=b:1", Err("whose port is 0"));
        check("=b", Err("which names no host"));
    }
}
