//! The configuration as a file: `config.toml`, which documents every key, and the answer of `check-config`.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::keys::{KEYS, Key, Reload};
use super::resolved::Config;
use super::written::Source;

/// Where lines of `config.toml` are broken.
const LINE_LEN_MAX: usize = 120;

const HEAD: &str = "\
Every key of Keyway, each with its default. A key can also be given as `--set proxy.listen=127.0.0.1:6380` or as \
an environment variable (KEYWAY_PROXY_LISTEN). Defaults are overruled by the file, the file by the environment, the \
environment by --set. Lists are TOML arrays here and comma-separated elsewhere. `keyway check-config` reports every \
mistake at once and shows what holds. Keep only the lines you change: then a better default of a later version is \
yours too.";

/// The text of `config.toml`, from the table of keys.
pub fn reference() -> String {
    let defaults = Config::default();
    let mut out = comment(HEAD);
    for (section, keys) in sections() {
        // Writing to a String cannot fail.
        let _ = write!(out, "\n[{section}]\n");
        for key in keys {
            let _ = write!(out, "\n{}{}", comment(key.meaning), comment(&facts(key)));
            let _ = writeln!(out, "{} = {}", key.short_name(), key.show(&defaults));
        }
    }
    out
}

/// What holds, as a file, each value with where it comes from. Secrets are hidden.
pub(super) fn show(config: &Config, origins: &BTreeMap<&'static str, Source>) -> String {
    let mut out = String::new();
    for (section, keys) in sections() {
        let _ = writeln!(out, "{}[{section}]", if out.is_empty() { "" } else { "\n" });
        for key in keys {
            let assignment = format!("{} = {}", key.short_name(), key.show(config));
            let origin = origins.get(key.name).unwrap_or(&Source::Default);
            let _ = writeln!(out, "{assignment:<40} # {origin}");
        }
    }
    out
}

/// The keys by section, both in the table's order.
fn sections() -> impl Iterator<Item = (&'static str, &'static [Key])> {
    KEYS.chunk_by(|a, b| a.section() == b.section()).map(|keys| (keys[0].section(), keys))
}

fn facts(key: &Key) -> String {
    let default = if key.default.is_empty() { "empty" } else { key.default };
    let expected = key.kind.expected();
    let unit = if key.unit.is_empty() { String::new() } else { format!(" ({})", key.unit) };
    let reload = match key.reload {
        Reload::Restart => "Read at the start.",
        Reload::Live => "Can be changed while running.",
    };
    format!("Default: {default}{unit}. Expects {expected}. {reload}")
}

fn comment(text: &str) -> String {
    let mut out = String::new();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > LINE_LEN_MAX {
            out += &line;
            out += "\n";
            line = String::from("#");
        }
        line += " ";
        line += word;
    }
    out + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FileText, Inputs, resolve};

    const CONFIG_TOML: &str = include_str!("../../config.toml");

    #[test]
    fn config_toml_documents_every_key_with_its_default() {
        assert!(
            CONFIG_TOML == reference(),
            "config.toml is what people read: it must say what the table of keys says. Write it anew with\n  \
             TEST_WRITE_CONFIG_TOML=1 cargo test --lib config_toml"
        );
    }

    /// Not a check but the way to write the file anew; without the variable it leaves the file alone.
    #[test]
    fn config_toml_can_be_written_anew() {
        if std::env::var_os("TEST_WRITE_CONFIG_TOML").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");
            std::fs::write(path, reference()).expect("the source folder can be written");
        }
    }

    #[test]
    fn config_toml_resolves_to_the_defaults() {
        let file = FileText { name: "config.toml".to_owned(), text: Ok(reference()) };
        let resolved = resolve(&Inputs { file: Some(file), ..Inputs::default() }).expect("no mistakes");
        assert_eq!(resolved.config, Config::default());
        for key in KEYS {
            assert_ne!(resolved.origins[key.name], Source::Default, "{} is not in config.toml", key.name);
        }
    }
}
