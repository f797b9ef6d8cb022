//! What is wrong with a configuration, for the person who wrote it.

use std::fmt;

use super::keys::{ENVIRONMENT_PREFIX, KEYS, Key};
use super::kind::Found;
use super::written::Source;

/// One mistake: where it stands and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub source: Source,
    /// The key it concerns, if the place alone does not tell.
    pub key: Option<String>,
    pub problem: String,
}

impl Mistake {
    pub(super) fn new(source: Source, problem: impl Into<String>) -> Self {
        Self { source, key: None, problem: problem.into() }
    }

    pub(super) fn wrong_value(key: &Key, Found { source, found }: Found) -> Self {
        let problem = format!("expected {}, found {found}", key.kind.expected());
        Self { source, key: Some(key.name.to_owned()), problem }
    }

    pub(super) fn unknown_key(source: Source, name: &str) -> Self {
        let problem = match nearest(name, KEYS.iter().map(|key| key.name.to_owned())) {
            Some(known) => format!("expected a known key, found `{name}`; did you mean `{known}`?"),
            None => format!("expected a known key, found `{name}`; `keyway check-config` lists them all"),
        };
        Self::new(source, problem)
    }

    pub(super) fn unknown_section(source: Source, name: &str) -> Self {
        let sections = KEYS.iter().map(|key| key.section().to_owned());
        let problem = match nearest(name, sections.clone()) {
            Some(known) => format!("expected a known section, found [{name}]; did you mean [{known}]?"),
            None => {
                let mut all: Vec<String> = sections.map(|section| format!("[{section}]")).collect();
                all.dedup();
                format!("expected a known section ({}), found [{name}]", all.join(", "))
            }
        };
        Self::new(source, problem)
    }

    pub(super) fn unknown_variable(name: &str) -> Self {
        let source = Source::Environment { name: name.to_owned() };
        let known = KEYS.iter().map(Key::environment_name);
        let problem = match nearest(name, known) {
            Some(known) => format!("expected the name of a key; did you mean {known}?"),
            None => format!("expected the name of a key after {ENVIRONMENT_PREFIX}, as in KEYWAY_PROXY_LISTEN"),
        };
        Self::new(source, problem)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        match (&self.source, &self.key) {
            // The names of these already say the key.
            (Source::Set { .. } | Source::Environment { .. }, _) | (_, None) => {}
            (_, Some(key)) => write!(f, "{key}: ")?,
        }
        f.write_str(&self.problem)
    }
}

/// Every mistake of a configuration, in the order of its sources.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} {} in the configuration:", if count == 1 { "mistake" } else { "mistakes" })?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

/// The candidate that `written` is probably meant to be: the one with the fewest edits, if they are few;
/// else one with the same last part (`limits.dial` for `timeouts.dial`).
fn nearest(written: &str, candidates: impl Iterator<Item = String> + Clone) -> Option<String> {
    // A third of the letters wrong is a typing mistake; more is another word.
    let edits_max = written.len() / 3;
    let by_edits = candidates
        .clone()
        .map(|known| (edits(&written.to_lowercase(), &known.to_lowercase()), known))
        .min_by_key(|(edits, _)| *edits)
        .filter(|(edits, _)| *edits <= edits_max);
    let last_part = |name: &str| name.rsplit('.').next().map(str::to_owned);
    match by_edits {
        // Few edits may still cross sections; the same last part in another section is the better guess.
        Some((edits, known)) if edits <= 2 => Some(known),
        by_edits => candidates
            .filter(|known| known.contains('.'))
            .find(|known| last_part(known) == last_part(written))
            .or(by_edits.map(|(_, known)| known)),
    }
}

/// The Levenshtein distance: insertions, deletions and replacements of bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name() {
        #[track_caller]
        fn check(written: &str, expected: Option<&str>) {
            let known = KEYS.iter().map(|key| key.name.to_owned());
            assert_eq!(nearest(written, known).as_deref(), expected, "{written}");
        }
        check("proxy.listne", Some("proxy.listen"));
        check("proxy.Listen", Some("proxy.listen"));
        check("limit.clients", Some("limits.clients"));
        check("limits.dial", Some("timeouts.dial"));
        check("cluster.passwd", Some("cluster.password"));
        check("retry.bugdet_floor", Some("retry.budget_floor"));
        check("nonsense", None);
        check("", None);
    }

    #[test]
    fn edit_distance() {
        #[track_caller]
        fn check(a: &str, b: &str, expected: usize) {
            assert_eq!((edits(a, b), edits(b, a)), (expected, expected), "{a} {b}");
        }
        check("", "", 0);
        check("abc", "", 3);
        check("listen", "listen", 0);
        check("listne", "listen", 2);
        check("kitten", "sitting", 3);
    }
}
