//! Where a node is: `host:port`, and the rules that rewrite it.

use std::fmt;
use std::sync::Arc;

/// The address of a node as the servers spell it: `host:port`, where the last colon splits. An IPv6 host stands
/// without brackets, as in `CLUSTER NODES` and in redirects (`::1:7000` is port 7000 of `::1`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(Arc<str>);

impl Addr {
    /// Reads `host:port`; brackets around the host are taken off, elsewhere in it there are none. `None` without a host or a port of 1 to 65535.
    pub fn parse(text: &str) -> Option<Addr> {
        let (host, port) = text.rsplit_once(':')?;
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let port: u16 = port.parse().ok()?;
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let has_no_place = |c: char| c.is_whitespace() || c.is_control() || c == '[' || c == ']';
        let sound = !bare.is_empty() && port != 0 && !bare.contains(has_no_place);
        sound.then(|| Addr::new(bare, port))
    }

    /// The address made of its two parts. `host` is not checked.
    pub fn new(host: &str, port: u16) -> Addr {
        Addr(format!("{host}:{port}").into())
    }

    pub fn host(&self) -> &str {
        self.split().0
    }

    pub fn port(&self) -> u16 {
        // Both constructors end the text with the digits of a u16.
        self.split().1.parse().unwrap_or_default()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn split(&self) -> (&str, &str) {
        // Both constructors put a colon in.
        self.0.rsplit_once(':').unwrap_or((&self.0, ""))
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Addr {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

/// Rules `from → to` that rewrite the addresses nodes announce into ones the proxy can reach (NAT, Docker,
/// Kubernetes). A rule whose `from` is `host:port` comes before one whose `from` is a host alone.
#[derive(Clone, Debug, Default)]
pub struct AddressMap {
    rules: Vec<(String, String)>,
}

impl AddressMap {
    /// `from` is `host:port` or a host; `to` likewise, and a `to` without a port keeps the node's own. An IPv6 `to`
    /// with a port needs brackets (`[::1]:7000`), for without them it is a host.
    pub fn new(rules: Vec<(String, String)>) -> AddressMap {
        AddressMap { rules }
    }

    /// The address to use for an announced one, or `None` when no rule speaks of it.
    pub fn rewrite(&self, announced: &Addr) -> Option<Addr> {
        let rule = |from: &str| self.rules.iter().find(|(rule_from, _)| rule_from == from);
        let (_, to) = rule(announced.as_str()).or_else(|| rule(announced.host()))?;
        let has_port = to.starts_with('[') || to.bytes().filter(|byte| *byte == b':').count() == 1;
        match Addr::parse(to) {
            Some(addr) if has_port => Some(addr),
            _ => Some(Addr::new(to.trim_matches(['[', ']']), announced.port())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        fn check(text: &str, expected: Option<(&str, u16)>) {
            let addr = Addr::parse(text);
            assert_eq!(addr.as_ref().map(|addr| (addr.host(), addr.port())), expected, "{text}");
        }
        check("127.0.0.1:7000", Some(("127.0.0.1", 7000)));
        check("redis-0.svc:6379", Some(("redis-0.svc", 6379)));
        check("::1:7000", Some(("::1", 7000)));
        check("[::1]:7000", Some(("::1", 7000)));
        check("host:65535", Some(("host", 65535)));
        check("host:65536", None);
        check("host:0", None);
        check("host:+1", None);
        check("host:", None);
        check(":7000", None);
        check("[]:7000", None);
        check("[[::1]]:7000", None);
        check("[::1:7000", None);
        check("host", None);
        check("ho st:1", None);
        check("", None);
    }

    #[test]
    fn rules() {
        fn check(rules: &[(&str, &str)], announced: &str, expected: Option<&str>) {
            let rules = rules.iter().map(|(from, to)| (from.to_string(), to.to_string())).collect();
            let announced = Addr::parse(announced).expect("the table holds addresses");
            let rewritten = AddressMap::new(rules).rewrite(&announced);
            assert_eq!(rewritten.as_ref().map(Addr::as_str), expected, "{announced}");
        }
        check(&[], "10.0.0.1:6379", None);
        check(&[("10.0.0.1", "1.2.3.4")], "10.0.0.1:6379", Some("1.2.3.4:6379"));
        check(&[("10.0.0.1", "1.2.3.4")], "10.0.0.2:6379", None);
        check(&[("10.0.0.1", "1.2.3.4:7000")], "10.0.0.1:6379", Some("1.2.3.4:7000"));
        check(&[("10.0.0.1:6379", "localhost:7000")], "10.0.0.1:6379", Some("localhost:7000"));
        check(&[("10.0.0.1:6379", "localhost:7000")], "10.0.0.1:6380", None);
        check(&[("10.0.0.1", "a"), ("10.0.0.1:6379", "b:1")], "10.0.0.1:6379", Some("b:1"));
        check(&[("10.0.0.1", "a"), ("10.0.0.1:6379", "b:1")], "10.0.0.1:6380", Some("a:6380"));
        check(&[("10.0.0.1", "::1")], "10.0.0.1:6379", Some("::1:6379"));
        check(&[("10.0.0.1", "[::1]")], "10.0.0.1:6379", Some("::1:6379"));
        check(&[("10.0.0.1", "[::1]:7000")], "10.0.0.1:6379", Some("::1:7000"));
        check(&[("::1", "::2")], "::1:6379", Some("::2:6379"));
    }
}
