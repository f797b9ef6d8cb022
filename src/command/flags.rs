//! What servers say about a command in one word each.

/// The servers' command flags, united over the servers, and two of the proxy's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u32);

/// The bits of [`Flags`], as the generated table names them.
pub(super) mod bits {
    pub const WRITE: u32 = 1;
    pub const READONLY: u32 = 1 << 1;
    pub const DENYOOM: u32 = 1 << 2;
    pub const ADMIN: u32 = 1 << 3;
    pub const PUBSUB: u32 = 1 << 4;
    pub const NOSCRIPT: u32 = 1 << 5;
    pub const BLOCKING: u32 = 1 << 6;
    pub const LOADING: u32 = 1 << 7;
    pub const STALE: u32 = 1 << 8;
    pub const FAST: u32 = 1 << 9;
    pub const NO_AUTH: u32 = 1 << 10;
    pub const NO_MULTI: u32 = 1 << 11;
    pub const MOVABLE_KEYS: u32 = 1 << 12;
    pub const ALLOW_BUSY: u32 = 1 << 13;
    pub const MODULE: u32 = 1 << 14;
    pub const MAY_BLOCK: u32 = 1 << 15;
    pub const SCRIPT: u32 = 1 << 16;
}

impl Flags {
    pub(super) const fn new(bits: u32) -> Flags {
        Flags(bits)
    }

    const fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    /// May change the data set. Scripts are neither this nor read-only: what they do is up to them.
    pub const fn is_write(self) -> bool {
        self.has(bits::WRITE)
    }

    /// Never changes the data set: may be sent again when its outcome is unknown.
    pub const fn is_readonly(self) -> bool {
        self.has(bits::READONLY)
    }

    /// Subscribes, publishes, or tells of subscriptions.
    pub const fn is_pubsub(self) -> bool {
        self.has(bits::PUBSUB)
    }

    pub const fn is_admin(self) -> bool {
        self.has(bits::ADMIN)
    }

    /// The server may suspend the client. Graph module queries have it too: they run on the server's threads.
    pub const fn is_blocking(self) -> bool {
        self.has(bits::BLOCKING)
    }

    /// Allowed before authentication.
    pub const fn is_no_auth(self) -> bool {
        self.has(bits::NO_AUTH)
    }

    /// Not allowed between MULTI and EXEC. MULTI and WATCH are not marked: their answers there have own texts.
    pub const fn is_no_multi(self) -> bool {
        self.has(bits::NO_MULTI)
    }

    pub const fn has_movable_keys(self) -> bool {
        self.has(bits::MOVABLE_KEYS)
    }

    pub const fn is_module(self) -> bool {
        self.has(bits::MODULE)
    }

    /// XREAD, XREADGROUP: blocks if its arguments say so, see [`blocks`](super::blocks).
    pub const fn may_block(self) -> bool {
        self.has(bits::MAY_BLOCK)
    }

    /// EVAL and FCALL families: the reply is the script's word, even where it looks like a redirect.
    pub const fn is_script(self) -> bool {
        self.has(bits::SCRIPT)
    }

    pub const fn is_fast(self) -> bool {
        self.has(bits::FAST)
    }

    pub const fn is_denyoom(self) -> bool {
        self.has(bits::DENYOOM)
    }
}
