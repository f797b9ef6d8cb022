//! Who the servers say they are: what the proxy repeats when a client asks.

/// A server's answer to `HELLO`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Persona {
    /// `redis` or `valkey`.
    pub server: String,
    /// For instance `7.0.15`.
    pub version: String,
    /// The value of HELLO's `modules` field as RESP2 bytes: an array with one flat array a module.
    pub modules: Vec<u8>,
}

impl Default for Persona {
    /// The oldest server that Keyway serves, for as long as none was asked: it promises the least.
    fn default() -> Persona {
        Persona { server: "redis".into(), version: "6.2.0".into(), modules: b"*0\r\n".to_vec() }
    }
}

impl Persona {
    /// Whether SCAN cursors of this server carry the slot they stand in: so since Redis 7.4 and Valkey 8.0, which
    /// keep one dictionary a slot (`getAndClearSlotIdFromCursor` in `kvstore.c`). Of a server that is neither nothing is
    /// known, so no.
    pub fn cursor_has_slot(&self) -> bool {
        match self.server.as_str() {
            "redis" => self.version_numbers() >= (7, 4, 0),
            "valkey" => self.version_numbers() >= (8, 0, 0),
            _ => false,
        }
    }

    /// The version as numbers that compare; what is not a number counts as 0.
    pub fn version_numbers(&self) -> (u32, u32, u32) {
        let mut numbers = self.version.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        (next(), next(), next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_that_carry_the_slot() {
        fn check(server: &str, version: &str, expected: bool) {
            let persona = Persona { server: server.into(), version: version.into(), ..Persona::default() };
            assert_eq!(persona.cursor_has_slot(), expected, "{server} {version}");
        }
        check("redis", "6.2.5", false);
        check("redis", "7.0.15", false);
        check("redis", "7.2.11", false);
        check("redis", "7.4.0", true);
        check("redis", "8.2.3", true);
        check("redis", "10.0", true);
        check("valkey", "7.2.5", false);
        check("valkey", "8.0.1", true);
        check("valkey", "9.1.2", true);
        check("valkey", "9.0.0-rc1", true);
        check("dragonfly", "9.0.0", false);
        check("redis", "", false);
        check("redis", "x.y", false);
    }
}
