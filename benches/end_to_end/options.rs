//! The command line.

use std::path::PathBuf;

const USAGE: &str = "\
Keyway beside Envoy, before the same cluster.

    cargo bench --bench end_to_end -- [OPTIONS]

    --rounds N          rounds of all workloads, interleaved (5)
    --seconds S         about how long one run takes (1.5)
    --only A,B          only these workloads or parts: see --list
    --also NAME=BINARY  another build of Keyway in the same rounds; may be given several times
    --share PERCENT     of one core, that a proxy may use while it is measured (40)
    --out FILE          write the tables to this file as well
    --list              show the names of workloads and parts, and end";

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    pub rounds: usize,
    pub seconds: f64,
    /// Empty: everything.
    pub only: Vec<String>,
    pub also: Vec<(String, PathBuf)>,
    pub share_percent: u32,
    pub out: Option<PathBuf>,
    pub list: bool,
}

impl Options {
    /// Reads the arguments, without the program's own name; the text of the error is for people.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options =
            Options { rounds: 5, seconds: 1.5, only: Vec::new(), also: Vec::new(), share_percent: 40, out: None, list: false };
        let mut arguments = arguments;
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value\n\n{USAGE}"));
            match name.as_str() {
                // What `cargo bench` itself passes on.
                "--bench" => {}
                "--list" => options.list = true,
                "--rounds" => options.rounds = number(&value()?)?,
                "--seconds" => options.seconds = number(&value()?)?,
                "--share" => options.share_percent = number(&value()?)?,
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                "--out" => options.out = Some(value()?.into()),
                "--also" => {
                    let value = value()?;
                    let (name, binary) = value.split_once('=').ok_or_else(|| format!("expected NAME=BINARY, found {value:?}"))?;
                    options.also.push((name.to_owned(), binary.into()));
                }
                _ => return Err(format!("unknown option {name:?}\n\n{USAGE}")),
            }
        }
        if !(1..=100).contains(&options.share_percent) {
            return Err(format!("--share is a percentage from 1 to 100, not {}", options.share_percent));
        }
        Ok(options)
    }

    /// Whether a workload or part of this name is wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == name)
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("expected a number, found {text:?}"))
}
