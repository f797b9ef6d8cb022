//! PURE. What a node's answer to MIGRATE says about the keys.

/// What is known after one MIGRATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Every key of the call is gone from the source: moved, or expired before.
    All,
    /// Nothing was sent: the target cannot be reached from the source.
    NotSent,
    /// Each key may or may not have arrived, or may still arrive.
    Unknown,
    /// The target holds some of them already; the others have moved.
    Busy,
    /// The target refuses for good until someone acts; keys may have arrived all the same.
    Refused(Cause),
    /// An end is not what it was: look again.
    LookAgain,
}

/// Why a target refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    OutOfMemory,
    Credentials,
    Permission,
    /// The target cannot read what the source wrote: it is older, or lacks a module.
    Unreadable,
}

impl Cause {
    pub fn reason(self) -> &'static str {
        match self {
            Cause::OutOfMemory => "the target is out of memory: raise its maxmemory, then PROXY MIGRATE RESUME",
            Cause::Credentials => {
                "the target refuses the proxy's account on connections of the source: give it the same user and password"
            }
            Cause::Permission => "the target's ACL denies RESTORE-ASKING (or SELECT) to the proxy's account",
            Cause::Unreadable => "the target cannot read a value that the source wrote: it is older, or lacks a module",
        }
    }
}

/// Judges a reply: `Ok` for a status, `Err` for an error line.
pub fn judge(reply: Result<&str, &str>) -> Moved {
    let text = match reply {
        // NOKEY: none of them is there any more, so there is nothing to move.
        Ok(_) => return Moved::All,
        Err(text) => text,
    };
    let at_target = text.strip_prefix("ERR Target instance replied with error: ");
    match (at_target, text) {
        (Some(error), _) if error.starts_with("BUSYKEY") => Moved::Busy,
        (Some(error), _) if error.starts_with("OOM") => Moved::Refused(Cause::OutOfMemory),
        (Some(error), _) if error.starts_with("NOAUTH") || error.starts_with("WRONGPASS") => Moved::Refused(Cause::Credentials),
        (Some(error), _) if error.starts_with("NOPERM") => Moved::Refused(Cause::Permission),
        (Some(error), _) if error.contains("DUMP payload version") || error.contains("Bad data format") => {
            Moved::Refused(Cause::Unreadable)
        }
        // MOVED, ASK, CLUSTERDOWN, LOADING, READONLY: it is not the importing master that it was.
        (Some(_), _) => Moved::LookAgain,
        (None, text) if text.starts_with("IOERR") && text.contains("connecting") => Moved::NotSent,
        (None, text) if text.starts_with("IOERR") => Moved::Unknown,
        (None, text) if text.starts_with("NOPERM") => Moved::Refused(Cause::Permission),
        (None, _) => Moved::LookAgain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say() {
        let check = |text: &str, expected: Moved| assert_eq!(judge(Err(text)), expected, "{text}");
        assert_eq!(judge(Ok("OK")), Moved::All);
        assert_eq!(judge(Ok("NOKEY")), Moved::All);
        check("IOERR error or timeout connecting to the client", Moved::NotSent);
        check("IOERR error or timeout reading to target instance", Moved::Unknown);
        check("IOERR error or timeout writing to target instance", Moved::Unknown);
        check("ERR Target instance replied with error: BUSYKEY Target key name already exists.", Moved::Busy);
        let oom = "ERR Target instance replied with error: OOM command not allowed when used memory > 'maxmemory'.";
        check(oom, Moved::Refused(Cause::OutOfMemory));
        check(
            "ERR Target instance replied with error: WRONGPASS invalid username-password pair",
            Moved::Refused(Cause::Credentials),
        );
        check("ERR Target instance replied with error: NOAUTH Authentication required.", Moved::Refused(Cause::Credentials));
        check("ERR Target instance replied with error: NOPERM this user has no permissions", Moved::Refused(Cause::Permission));
        check(
            "ERR Target instance replied with error: ERR DUMP payload version or checksum are wrong",
            Moved::Refused(Cause::Unreadable),
        );
        check("ERR Target instance replied with error: MOVED 5 127.0.0.1:7000", Moved::LookAgain);
        check("ERR Target instance replied with error: CLUSTERDOWN Hash slot not served", Moved::LookAgain);
        check("MOVED 5 127.0.0.1:7000", Moved::LookAgain);
    }
}
