//! What CLIENT TRACKING is asked for, in the order in which the servers look at it.

use crate::engine::local::strict_integer;

/// How keys are chosen of whose changes the client is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// All that it reads.
    #[default]
    Default,
    /// What it reads behind CLIENT CACHING YES.
    OptIn,
    /// What it reads, but not behind CLIENT CACHING NO.
    OptOut,
    /// All with these prefixes, read or not.
    Broadcast,
}

/// The options of a CLIENT TRACKING ON that is well-formed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub choice: Choice,
    pub noloop: bool,
    pub prefixes: Vec<Vec<u8>>,
    /// Those of them that were asked for last: a node that knows the others does not want to hear them again.
    pub new_prefixes: Vec<Vec<u8>>,
    /// CLIENT ID of whom to tell instead.
    pub redirect: Option<i64>,
}

/// What the words say before it is known who is asked, and whether the other client is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// ON or OFF; `None`: neither.
    on: Option<bool>,
    broadcast: bool,
    opt_in: bool,
    opt_out: bool,
    options: Options,
}

const SYNTAX: &str = "ERR syntax error";
const SWITCHED_BROADCAST: &str = "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.";
const SWITCHED_OPTING: &str = "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode.";

impl Asked {
    /// Reads what follows CLIENT TRACKING.
    pub fn parse(arguments: &[&[u8]]) -> Result<Asked, String> {
        let Some((switch, mut rest)) = arguments.split_first() else { return Err(SYNTAX.into()) };
        let (mut broadcast, mut opt_in, mut opt_out, mut options) = (false, false, false, Options::default());
        while let Some(option) = rest.first() {
            let mut taken = 1;
            match (option.to_ascii_uppercase().as_slice(), rest.get(1)) {
                (b"REDIRECT", Some(id)) => {
                    taken = 2;
                    if options.redirect.is_some() {
                        return Err("ERR A client can only redirect to a single other client".into());
                    }
                    options.redirect = Some(strict_integer(id).ok_or("ERR value is not an integer or out of range")?);
                }
                (b"PREFIX", Some(prefix)) => {
                    taken = 2;
                    options.prefixes.push(prefix.to_vec());
                }
                (b"BCAST", _) => broadcast = true,
                (b"OPTIN", _) => opt_in = true,
                (b"OPTOUT", _) => opt_out = true,
                (b"NOLOOP", _) => options.noloop = true,
                _ => return Err(SYNTAX.into()),
            }
            rest = &rest[taken..];
        }
        let on = match switch.to_ascii_uppercase().as_slice() {
            b"ON" => Some(true),
            b"OFF" => Some(false),
            _ => None,
        };
        Ok(Asked { on, broadcast, opt_in, opt_out, options })
    }

    /// Whom it names that must be there.
    pub fn redirect(&self) -> Option<i64> {
        self.options.redirect
    }

    /// What it comes to for a client that tracks so already. `None`: it is to end.
    pub fn decide(self, known: Option<&Options>) -> Result<Option<Options>, String> {
        match self.on {
            Some(true) => {}
            Some(false) => return Ok(None),
            None => return Err(SYNTAX.into()),
        }
        let mut options = self.options;
        if !self.broadcast && !options.prefixes.is_empty() {
            return Err("ERR PREFIX option requires BCAST mode to be enabled".into());
        }
        if known.is_some_and(|known| (known.choice == Choice::Broadcast) != self.broadcast) {
            return Err(SWITCHED_BROADCAST.into());
        }
        if self.broadcast && (self.opt_in || self.opt_out) {
            return Err("ERR OPTIN and OPTOUT are not compatible with BCAST".into());
        }
        if self.opt_in && self.opt_out {
            return Err("ERR You can't specify both OPTIN mode and OPTOUT mode".into());
        }
        let was = known.map(|known| known.choice);
        if (self.opt_in && was == Some(Choice::OptOut)) || (self.opt_out && was == Some(Choice::OptIn)) {
            return Err(SWITCHED_OPTING.into());
        }
        options.choice = match (self.broadcast, self.opt_in, self.opt_out) {
            (true, ..) => Choice::Broadcast,
            (_, true, _) => Choice::OptIn,
            (_, _, true) => Choice::OptOut,
            _ => Choice::Default,
        };
        if self.broadcast {
            let known = known.map_or(&[][..], |known| &known.prefixes);
            check_prefixes(&options.prefixes, known)?;
            if options.prefixes.is_empty() {
                options.prefixes.push(Vec::new());
            }
            options.new_prefixes.clone_from(&options.prefixes);
            options.prefixes.extend_from_slice(known);
            options.prefixes.sort_unstable();
            options.prefixes.dedup();
        }
        Ok(Some(options))
    }
}

fn check_prefixes(asked: &[Vec<u8>], known: &[Vec<u8>]) -> Result<(), String> {
    let overlap = |one: &[u8], other: &[u8]| one.starts_with(other) || other.starts_with(one);
    let refuse = |one: &[u8], which: &str, other: &[u8]| {
        let (one, other) = (String::from_utf8_lossy(one), String::from_utf8_lossy(other));
        Err(format!("ERR Prefix '{one}' overlaps with {which} prefix '{other}'. Prefixes for a single client must not overlap."))
    };
    for (place, prefix) in asked.iter().enumerate() {
        if let Some(other) = known.iter().find(|other| overlap(prefix, other)) {
            return refuse(prefix, "an existing", other);
        }
        if let Some(other) = asked[place + 1..].iter().find(|other| overlap(prefix, other)) {
            return refuse(prefix, "another provided", other);
        }
    }
    Ok(())
}

impl Options {
    /// CLIENT TRACKING ON with these options, as a new lane says it to its node. `redirect`: the node's own id of whom to tell.
    pub fn words(&self, redirect: Option<&[u8]>) -> Vec<Vec<u8>> {
        self.words_with(&self.prefixes, redirect)
    }

    /// What a lane that has said the options before says of the new ones.
    pub fn new_words(&self) -> Vec<Vec<u8>> {
        self.words_with(&self.new_prefixes, None)
    }

    fn words_with(&self, prefixes: &[Vec<u8>], redirect: Option<&[u8]>) -> Vec<Vec<u8>> {
        let mut words: Vec<&[u8]> = vec![b"CLIENT", b"TRACKING", b"ON"];
        if let Some(id) = redirect {
            words.extend([&b"REDIRECT"[..], id]);
        }
        match self.choice {
            Choice::Default => {}
            Choice::OptIn => words.push(b"OPTIN"),
            Choice::OptOut => words.push(b"OPTOUT"),
            Choice::Broadcast => {
                words.push(b"BCAST");
                // The empty one holds all others.
                if prefixes.iter().all(|prefix| !prefix.is_empty()) {
                    prefixes.iter().for_each(|prefix| words.extend([&b"PREFIX"[..], prefix]));
                }
            }
        }
        if self.noloop {
            words.push(b"NOLOOP");
        }
        words.into_iter().map(<[u8]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(known: &str, words: &str, expected: Result<Choice, &str>) {
        let arguments = |text: &str| text.split_whitespace().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
        let decide = |text: &str, known: Option<&Options>| -> Result<Option<Options>, String> {
            let words = arguments(text);
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            Asked::parse(&words).and_then(|asked| asked.decide(known))
        };
        let known = (!known.is_empty()).then(|| decide(known, None).expect("what is known is right").expect("it is on"));
        let found = decide(words, known.as_ref()).map(|options| options.expect("it is on").choice);
        assert_eq!(found.as_ref().map_err(String::as_str), expected.as_ref().map_err(|text| *text), "{words:?}");
    }

    #[test]
    fn every_mistake_has_its_words() {
        check("", "ON", Ok(Choice::Default));
        check("", "on noloop optin", Ok(Choice::OptIn));
        check("", "ON OPTOUT", Ok(Choice::OptOut));
        check("", "ON BCAST PREFIX a PREFIX b", Ok(Choice::Broadcast));
        check("", "foo", Err(SYNTAX));
        check("", "ON FOO", Err(SYNTAX));
        check("", "ON PREFIX", Err(SYNTAX));
        check("", "ON REDIRECT", Err(SYNTAX));
        check("", "ON REDIRECT x", Err("ERR value is not an integer or out of range"));
        check("", "ON REDIRECT 1 REDIRECT 2", Err("ERR A client can only redirect to a single other client"));
        check("", "ON PREFIX foo", Err("ERR PREFIX option requires BCAST mode to be enabled"));
        check("", "ON BCAST OPTIN", Err("ERR OPTIN and OPTOUT are not compatible with BCAST"));
        check("", "ON OPTIN OPTOUT", Err("ERR You can't specify both OPTIN mode and OPTOUT mode"));
        check("ON", "ON BCAST", Err(SWITCHED_BROADCAST));
        check("ON BCAST", "ON", Err(SWITCHED_BROADCAST));
        check("ON OPTIN", "ON OPTOUT", Err(SWITCHED_OPTING));
        check("ON OPTOUT", "ON", Ok(Choice::Default));
        let overlap = |one: &str, which: &str, other: &str| {
            format!("ERR Prefix '{one}' overlaps with {which} prefix '{other}'. Prefixes for a single client must not overlap.")
        };
        check("", "ON BCAST PREFIX foo PREFIX foobar", Err(&overlap("foo", "another provided", "foobar")));
        check("ON BCAST PREFIX foo", "ON BCAST PREFIX fo", Err(&overlap("fo", "an existing", "foo")));
        check("ON BCAST", "ON BCAST PREFIX a", Err(&overlap("a", "an existing", "")));
        check("ON BCAST", "ON BCAST", Ok(Choice::Broadcast));
    }

    #[test]
    fn prefixes_add_up_and_are_said_to_nodes() {
        let known = Options { choice: Choice::Broadcast, prefixes: vec![b"foo".to_vec()], ..Options::default() };
        let asked = Asked::parse(&[b"ON", b"BCAST", b"PREFIX", b"bar", b"NOLOOP"]).expect("it is right");
        let options = asked.decide(Some(&known)).expect("it is right").expect("it is on");
        assert_eq!(options.prefixes, [b"bar".to_vec(), b"foo".to_vec()]);
        let words: Vec<String> =
            options.words(Some(b"7")).into_iter().map(|word| String::from_utf8(word).expect("text")).collect();
        assert_eq!(words.join(" "), "CLIENT TRACKING ON REDIRECT 7 BCAST PREFIX bar PREFIX foo NOLOOP");
        assert_eq!(options.new_words().concat(), b"CLIENTTRACKINGONBCASTPREFIXbarNOLOOP", "what is known is not said again");
    }
}
