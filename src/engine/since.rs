//! Which servers know a command that the proxy answers itself: one that the server behind lacks must be unknown here too.

use crate::{cluster::Persona, resp::Limits};

type Version = (u32, u32, u32);

/// Of the commands that the proxy answers itself, those that are younger than the oldest server it serves: name, and the
/// first version of Redis and of Valkey that knows it, if any. The servers say so themselves (`since` of COMMAND DOCS).
const SINCE: [(&str, Option<Version>, Option<Version>); 13] = [
    ("CLIENT|CAPA", None, Some((8, 0, 0))),
    ("CLIENT|IMPORT-SOURCE", None, Some((8, 1, 0))),
    ("CLIENT|NO-EVICT", Some((7, 0, 0)), Some((7, 0, 0))),
    ("CLIENT|NO-TOUCH", Some((7, 2, 0)), Some((7, 2, 0))),
    ("CLIENT|SETINFO", Some((7, 2, 0)), Some((7, 2, 0))),
    ("CLUSTERSCAN", None, Some((9, 1, 0))),
    ("CLUSTER|CANCELSLOTMIGRATIONS", None, Some((9, 0, 0))),
    ("CLUSTER|FLUSHSLOT", None, Some((9, 0, 0))),
    ("CLUSTER|GETSLOTMIGRATIONS", None, Some((9, 0, 0))),
    ("CLUSTER|MIGRATESLOTS", None, Some((9, 0, 0))),
    ("CLUSTER|MYSHARDID", Some((7, 2, 0)), Some((7, 2, 0))),
    ("CLUSTER|SLOT-STATS", Some((8, 2, 0)), Some((8, 0, 0))),
    ("CLUSTER|SYNCSLOTS", None, Some((9, 0, 0))),
];

/// Whether the server knows a command that the proxy answers itself, by its name in the table.
pub fn knows(persona: &Persona, name: &str) -> bool {
    let Some((_, redis, valkey)) = SINCE.iter().find(|(known, ..)| *known == name) else { return true };
    let since = if is_valkey(persona) { valkey } else { redis };
    since.is_some_and(|since| persona.version_numbers() >= since)
}

pub fn is_valkey(persona: &Persona) -> bool {
    persona.server == "valkey"
}

/// Redis before 7.0 has no table of subcommands: a container takes them all, and its key is argument 2.
pub fn has_subcommands(persona: &Persona) -> bool {
    persona.version_numbers() >= (7, 0, 0)
}

/// How many arguments the server takes in one request.
pub fn multibulk_len_max(persona: &Persona) -> usize {
    if persona.version_numbers() >= (7, 0, 0) { Limits::default().multibulk_len_max } else { 1024 * 1024 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Class, all};

    fn persona(server: &str, version: &str) -> Persona {
        Persona { server: server.into(), version: version.into(), ..Persona::default() }
    }

    #[test]
    fn a_server_knows_what_its_generation_has() {
        let check = |server: &str, version: &str, name: &str, expected: bool| {
            assert_eq!(knows(&persona(server, version), name), expected, "{server} {version} {name}");
        };
        check("redis", "6.2.5", "PING", true);
        check("redis", "6.2.5", "CLIENT|NO-EVICT", false);
        check("redis", "7.0.15", "CLIENT|NO-EVICT", true);
        check("redis", "7.0.15", "CLIENT|SETINFO", false);
        check("redis", "8.2.3", "CLIENT|SETINFO", true);
        check("redis", "8.2.3", "CLUSTER|SLOT-STATS", true);
        check("redis", "8.2.3", "CLIENT|CAPA", false);
        check("redis", "9.9.9", "CLUSTERSCAN", false);
        check("valkey", "9.1.2", "CLUSTERSCAN", true);
        check("valkey", "9.0.1", "CLUSTERSCAN", false);
        check("valkey", "9.0.1", "CLUSTER|FLUSHSLOT", true);
        check("valkey", "8.0.1", "CLIENT|CAPA", true);
    }

    #[test]
    fn a_request_is_no_longer_than_the_server_takes() {
        assert_eq!(multibulk_len_max(&persona("redis", "6.2.5")), 1_048_576);
        assert_eq!(multibulk_len_max(&persona("redis", "7.0.15")), i32::MAX as usize);
        assert_eq!(multibulk_len_max(&persona("valkey", "7.2.5")), i32::MAX as usize);
    }

    #[test]
    fn every_row_is_a_command_that_the_proxy_answers() {
        for (name, ..) in SINCE {
            let command = all().find(|command| command.name == name).unwrap_or_else(|| panic!("no command {name}"));
            assert!(matches!(command.class, Class::Local(_)), "{name}");
        }
    }
}
