//! How much a client may send before it is refused.

/// The bounds a [`RequestScanner`](super::RequestScanner) keeps, all in bytes but the count.
///
/// The defaults are those of Redis 7.0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest argument: Redis's `proto-max-bulk-len`, 512 MiB. Longer ones could not be stored.
    pub bulk_len_max: usize,
    /// Most arguments of one request: 2^31 - 1 (Redis 6.2: 1048576). It only bounds a number in a header;
    /// memory is bounded by `query_buffer_max`, because nothing is reserved for arguments not yet seen.
    pub multibulk_len_max: usize,
    /// Longest inline line and longest length header, both without their line end: 64 KiB. Neither can be
    /// skipped without its end, so this bounds what is searched for it.
    pub inline_len_max: usize,
    /// Most bytes of one unfinished request that are kept: Redis's `client-query-buffer-limit`, 1 GiB.
    /// Frames are addressed with 32 bits, so what lies above 4 GiB - 1 counts as that.
    pub query_buffer_max: usize,
    /// False for a client that still has to authenticate; see [`before_authentication`](Self::before_authentication).
    pub authenticated: bool,
}

impl Limits {
    /// Most arguments of a request of a client that still has to authenticate.
    pub const UNAUTHENTICATED_MULTIBULK_LEN_MAX: usize = 10;
    /// Longest argument, in bytes, of a client that still has to authenticate.
    pub const UNAUTHENTICATED_BULK_LEN_MAX: usize = 16 * 1024;
    /// Most bytes that are kept of an unfinished request of such a client.
    pub const UNAUTHENTICATED_QUERY_BUFFER_MAX: usize = 1024 * 1024;

    /// These limits for a client that still has to authenticate: enough for AUTH and HELLO, so that strangers
    /// cannot fill the memory (Redis 6.2.6, 7.0 and later; CVE-2021-32675).
    pub fn before_authentication(&self) -> Self {
        Self {
            query_buffer_max: self.query_buffer_max.min(Self::UNAUTHENTICATED_QUERY_BUFFER_MAX),
            authenticated: false,
            ..self.clone()
        }
    }
}

impl Limits {
    /// Whether a request may have so many arguments of less than 1000 bytes.
    #[inline]
    pub(super) fn allow_short_arguments(&self, count: usize) -> bool {
        count <= self.multibulk_len_max
            && self.bulk_len_max >= 1000
            && (self.authenticated || count <= Self::UNAUTHENTICATED_MULTIBULK_LEN_MAX)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bulk_len_max: 512 * 1024 * 1024,
            multibulk_len_max: i32::MAX as usize,
            inline_len_max: 64 * 1024,
            query_buffer_max: 1024 * 1024 * 1024,
            authenticated: true,
        }
    }
}
