//! Wrong passwords are limited by the address that they come from, over all workers.

use std::net::IpAddr;

use dashmap::DashMap;

/// Microseconds since a moment that the caller chose.
pub type Micros = u64;

/// Failed logins by address. It is looked at only when somebody logs in.
#[derive(Debug)]
pub struct Throttle {
    failures: DashMap<Box<str>, Failures>,
    failures_max: u32,
    window_us: Micros,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    /// When the window ends, which the first failure began, and an attempt beyond the limit does not prolong.
    until: Micros,
}

/// Addresses that are remembered: strangers must not fill the memory. A failure costs them a connection, and forgetting all of them
/// costs us no more than one window's tries.
const ADDRESSES_MAX: usize = 16 * 1024;

impl Throttle {
    /// So many wrong passwords from one address within a window; 0 is no limit.
    pub fn new(failures_max: u32, window_us: Micros) -> Self {
        Throttle { failures: DashMap::new(), failures_max, window_us }
    }

    /// Whether this peer may try: otherwise in how many microseconds.
    pub fn check(&self, peer: &str, now: Micros) -> Result<(), Micros> {
        if self.failures_max == 0 {
            return Ok(());
        }
        match self.failures.get(&*address(peer)) {
            Some(failures) if failures.until > now && failures.count >= self.failures_max => Err(failures.until - now),
            _ => Ok(()),
        }
    }

    /// A password of this peer's was wrong.
    pub fn failed(&self, peer: &str, now: Micros) {
        if self.failures_max == 0 {
            return;
        }
        if self.failures.len() >= ADDRESSES_MAX {
            self.failures.retain(|_, failures| failures.until > now);
            if self.failures.len() >= ADDRESSES_MAX {
                self.failures.clear();
            }
        }
        let fresh = Failures { count: 0, until: now + self.window_us };
        let mut failures = self.failures.entry(address(peer)).or_insert(fresh);
        if failures.until <= now {
            *failures = fresh;
        }
        failures.count += 1;
    }
}

/// Without the port. Of an IPv6 address only the network: whoever has one has all addresses in it.
fn address(peer: &str) -> Box<str> {
    let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host);
    match host.trim_start_matches('[').trim_end_matches(']').parse() {
        Ok(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            Some(mapped) => mapped.to_string().into(),
            None => format!("{:x?}", &address.segments()[..4]).into(),
        },
        _ => host.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_number_of_tries_in_each_window() {
        let throttle = Throttle::new(3, 1000);
        for now in [0, 10, 20] {
            assert_eq!(throttle.check("10.0.0.1:5", now), Ok(()));
            throttle.failed("10.0.0.1:5", now);
        }
        assert_eq!(throttle.check("10.0.0.1:77", 30), Err(970), "whatever port it comes from");
        assert_eq!(throttle.check("10.0.0.2:5", 30), Ok(()));
        assert_eq!(throttle.check("10.0.0.1:5", 1000), Ok(()));
        throttle.failed("10.0.0.1:5", 1000);
        assert_eq!(throttle.check("10.0.0.1:5", 1001), Ok(()), "a new window has begun");
    }

    #[test]
    fn no_limit_remembers_nobody() {
        let throttle = Throttle::new(0, 1000);
        (0..100).for_each(|_| throttle.failed("10.0.0.1:5", 0));
        assert_eq!((throttle.check("10.0.0.1:5", 0), throttle.failures.len()), (Ok(()), 0));
    }

    #[test]
    fn addresses_are_bounded() {
        let throttle = Throttle::new(3, 1000);
        for number in 0..ADDRESSES_MAX as u32 + 10 {
            throttle.failed(&format!("{}:1", std::net::Ipv4Addr::from(number)), 0);
        }
        assert!(throttle.failures.len() <= ADDRESSES_MAX);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let same = |one: &str, other: &str| address(one) == address(other);
        assert!(same("[2001:db8::1]:5", "[2001:db8::ffff:2]:6"));
        assert!(!same("[2001:db8::1]:5", "[2001:db8:0:1::1]:5"));
        assert!(same("[::ffff:10.0.0.1]:5", "10.0.0.1:6"));
        assert!(same("/run/keyway.sock:0", "/run/keyway.sock:0"));
    }
}
