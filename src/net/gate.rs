//! Where clients may come from, and who may speak for others.

use std::net::IpAddr;

use ipnet::IpNet;

/// The networks of `proxy.allow_from`, `proxy.deny_from` and `proxy.proxy_protocol_from`.
#[derive(Debug, Default)]
pub struct Gate {
    /// Empty: all that are not denied.
    pub allow: Vec<IpNet>,
    pub deny: Vec<IpNet>,
    /// Load balancers, whose connections begin with a PROXY header.
    pub forwarders: Vec<IpNet>,
}

impl Gate {
    /// Whether a client may come from here.
    pub fn lets_in(&self, client: IpAddr) -> bool {
        !holds(&self.deny, client) && (self.allow.is_empty() || holds(&self.allow, client))
    }

    /// Whether connections from here begin with a PROXY header, which says whose they are.
    pub fn is_forwarder(&self, sender: IpAddr) -> bool {
        holds(&self.forwarders, sender)
    }
}

/// IPv4 clients of a listener on `::` have mapped addresses.
fn holds(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_comes_before_allow() {
        let networks = |list: &[&str]| list.iter().map(|text| text.parse().expect("a network")).collect::<Vec<IpNet>>();
        let check = |allow: &[&str], deny: &[&str], client: &str, expected: bool| {
            let gate = Gate { allow: networks(allow), deny: networks(deny), forwarders: Vec::new() };
            assert_eq!(gate.lets_in(client.parse().expect("an address")), expected, "{client} by {gate:?}");
        };
        check(&[], &[], "10.0.0.1", true);
        check(&["10.0.0.0/8"], &[], "10.255.0.1", true);
        check(&["10.0.0.0/8"], &[], "11.0.0.1", false);
        check(&["10.0.0.0/8"], &[], "::ffff:10.0.0.1", true);
        check(&["10.0.0.0/8"], &["10.1.0.0/16"], "10.1.2.3", false);
        check(&[], &["fe80::/10"], "fe80::1", false);
        check(&[], &["fe80::/10"], "::1", true);
        check(&["::/0"], &[], "10.0.0.1", false);
    }
}
