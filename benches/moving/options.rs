//! The command line.

use std::path::PathBuf;

use super::harness::Server;

const USAGE: &str = "\
redis-cli and Keyway move the same slots to and fro, under clients.

    cargo bench --bench moving -- [OPTIONS]

    --rounds N     rounds of all ways, interleaved (3)
    --slots N      slots that move (50)
    --keys N       keys of 64 bytes in each of them (4000)
    --servers A,B  of redis_6_2, redis_7_0, redis_8_2, valkey_9_1 (redis_7_0,redis_8_2,valkey_9_1)
    --out FILE     write the tables to this file as well";

/// What was asked for.
pub struct Options {
    pub rounds: usize,
    pub slots: u16,
    pub keys: usize,
    pub servers: Vec<Server>,
    pub out: Option<PathBuf>,
}

impl Options {
    /// Reads the arguments, without the program's own name; the text of the error is for people.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let servers = vec![Server::Redis70, Server::Redis82, Server::Valkey91];
        let mut options = Options { rounds: 3, slots: 50, keys: 4000, servers, out: None };
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value\n\n{USAGE}"));
            match name.as_str() {
                // What `cargo bench` itself passes on.
                "--bench" => {}
                "--rounds" => options.rounds = number(&value()?)?,
                "--slots" => options.slots = number(&value()?)?,
                "--keys" => options.keys = number(&value()?)?,
                "--servers" => options.servers = value()?.split(',').map(server).collect::<Result<_, _>>()?,
                "--out" => options.out = Some(value()?.into()),
                _ => return Err(format!("unknown option {name:?}\n\n{USAGE}")),
            }
        }
        if !(1..=1000).contains(&options.slots) || options.keys == 0 || options.rounds == 0 {
            return Err(format!("expected at least one round and key, and 1 to 1000 slots\n\n{USAGE}"));
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("expected a number, found {text:?}"))
}

fn server(name: &str) -> Result<Server, String> {
    match name {
        "redis_6_2" => Ok(Server::Redis62),
        "redis_7_0" => Ok(Server::Redis70),
        "redis_8_2" => Ok(Server::Redis82),
        "valkey_9_1" => Ok(Server::Valkey91),
        _ => Err(format!("expected a server, found {name:?}\n\n{USAGE}")),
    }
}
