//! `-MOVED` and `-ASK`: a node's word that a slot is elsewhere.

use crate::cluster::{Addr, Slot};

/// Where a node sends a client (Redis Cluster specification, "Redirection and resharding"). `addr` is `None`
/// when the node did not know it (`?` for a host), and is one more spelling for `SlotMap::find_addr`, never something to
/// dial: a script can answer any text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Redirect {
    Moved { slot: Slot, addr: Option<Addr> },
    Ask { slot: Slot, addr: Option<Addr> },
}

impl Redirect {
    pub fn slot(&self) -> Slot {
        match self {
            Redirect::Moved { slot, .. } | Redirect::Ask { slot, .. } => *slot,
        }
    }

    pub fn addr(&self) -> Option<&Addr> {
        match self {
            Redirect::Moved { addr, .. } | Redirect::Ask { addr, .. } => addr.as_ref(),
        }
    }
}

/// Reads an error line, without its `-` and its line end, that came from the node at `from`. An empty host
/// (`MOVED 1 :7000`) is the host of `from`. `None` when it is any other error, and when it is longer than what a
/// server writes (scripts pass errors on with a text of their own behind them).
pub fn parse_redirect(error_line: &[u8], from: &Addr) -> Option<Redirect> {
    let mut words = error_line.split(|byte| *byte == b' ');
    let (kind, slot, target) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() {
        return None;
    }
    let slot = Slot::parse(slot)?;
    let addr = parse_target(std::str::from_utf8(target).ok()?, from)?;
    match kind {
        b"MOVED" => Some(Redirect::Moved { slot, addr }),
        b"ASK" => Some(Redirect::Ask { slot, addr }),
        _ => None,
    }
}

/// The inner `None` is an unknown address, the outer one no address at all.
fn parse_target(target: &str, from: &Addr) -> Option<Option<Addr>> {
    let addr = match target.strip_prefix(':') {
        Some(port) if !port.contains(':') => Addr::parse(&format!("{}:{port}", from.host()))?,
        _ => Addr::parse(target)?,
    };
    Some((addr.host() != "?").then_some(addr))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from() -> Addr {
        Addr::parse("10.0.0.9:6379").expect("an address")
    }

    #[test]
    fn redirects() {
        fn check(line: &str, expected: Option<(&str, u16, Option<&str>)>) {
            let redirect = parse_redirect(line.as_bytes(), &from());
            let found = redirect.as_ref().map(|redirect| {
                let kind = if matches!(redirect, Redirect::Moved { .. }) { "moved" } else { "ask" };
                (kind, redirect.slot().get(), redirect.addr().map(Addr::as_str))
            });
            assert_eq!(found, expected, "{line}");
        }
        // As 7.0.15 answers with each cluster-preferred-endpoint-type.
        check("MOVED 12182 127.0.0.1:31103", Some(("moved", 12182, Some("127.0.0.1:31103"))));
        check("MOVED 15495 ::1:21041", Some(("moved", 15495, Some("::1:21041"))));
        check("MOVED 15495 :21041", Some(("moved", 15495, Some("10.0.0.9:21041"))));
        check("MOVED 15495 ?:21041", Some(("moved", 15495, None)));
        check("MOVED 15495 a.b.c:21041", Some(("moved", 15495, Some("a.b.c:21041"))));
        check("ASK 0 127.0.0.1:1", Some(("ask", 0, Some("127.0.0.1:1"))));
        check("ASK 16383 ?:1", Some(("ask", 16383, None)));
        // No redirects.
        check("ASK 16384 127.0.0.1:1", None);
        check("MOVED 1 127.0.0.1:1 script: f_1, on @user_script:1.", None);
        check("MOVED 1 127.0.0.1:1 ", None);
        check("MOVED  1 127.0.0.1:1", None);
        check("MOVED 1 127.0.0.1", None);
        check("MOVED 1 127.0.0.1:0", None);
        check("MOVED 1 :", None);
        check("MOVED 1", None);
        check("MOVED x 127.0.0.1:1", None);
        check("moved 1 127.0.0.1:1", None);
        check("MOVEDX 1 127.0.0.1:1", None);
        check("ERR unknown command", None);
        check("TRYAGAIN Multiple keys request during rehashing of slot", None);
        check("", None);
    }

    proptest! {
        #[test]
        fn never_panics(line in any::<Vec<u8>>()) {
            let _ = parse_redirect(&line, &from());
        }

        #[test]
        fn never_panics_on_nearly_right_lines(line in "(MOVED|ASK) ?[0-9]{0,6} ?[a-z:?\\[\\]0-9é]{0,12}( x)?") {
            let _ = parse_redirect(line.as_bytes(), &from());
        }
    }
}
