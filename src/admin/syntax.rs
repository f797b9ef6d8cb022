//! Syntax lines taken apart, for whoever completes and hints (COMMAND DOCS) and for arity (COMMAND).

/// One argument of a syntax line.
#[derive(Debug, PartialEq)]
pub(super) struct Argument {
    pub kind: Kind,
    /// It stood in `[]`.
    pub optional: bool,
    /// `...` stood behind it.
    pub multiple: bool,
}

#[derive(Debug, PartialEq)]
pub(super) enum Kind {
    /// A fixed word, upper case.
    Token(&'static str),
    /// Something the user fills in, named in lower case.
    Value(&'static str),
    /// Several that belong together.
    Block(Vec<Argument>),
    /// One of these words, `this|that`.
    OneOf(Vec<Argument>),
}

impl Argument {
    pub fn new(kind: Kind) -> Self {
        Self { kind, optional: false, multiple: false }
    }

    /// What it is called in COMMAND DOCS.
    pub fn name(&self) -> String {
        match &self.kind {
            Kind::Token(word) | Kind::Value(word) => word.to_lowercase(),
            Kind::Block(parts) | Kind::OneOf(parts) => parts.first().map(Self::name).unwrap_or_default(),
        }
    }
}

/// The arguments behind the name of a command in its syntax line.
pub(super) fn arguments(syntax: &'static str, name: &str) -> Vec<Argument> {
    parse(syntax.get(name.len()..).unwrap_or_default()).0
}

/// The arity as COMMAND tells it: words of the request, name included; negative when there may be more.
pub(super) fn arity(syntax: &'static str, name: &str) -> i64 {
    let arguments = arguments(syntax, name);
    let required = arguments.iter().filter(|argument| !argument.optional).count();
    let words = (name.split(' ').count() + required) as i64;
    let is_fixed = arguments.iter().all(|argument| !argument.optional && !argument.multiple);
    if is_fixed { words } else { -words }
}

/// Reads arguments up to the end or a closing bracket, and returns what is behind it.
fn parse(mut rest: &'static str) -> (Vec<Argument>, &'static str) {
    let mut arguments: Vec<Argument> = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(inner) = rest.strip_prefix('[') {
            let (mut parts, behind) = parse(inner);
            let single = if parts.len() == 1 { parts.pop() } else { None };
            let argument = single.unwrap_or(Argument::new(Kind::Block(parts)));
            arguments.push(Argument { optional: true, ..argument });
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix(']') {
            return (arguments, behind);
        } else if rest.is_empty() {
            return (arguments, rest);
        } else {
            let end = rest.find([' ', '[', ']']).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(end);
            match arguments.last_mut() {
                Some(last) if word == "..." => last.multiple = true,
                _ => arguments.push(self::word(word)),
            }
            rest = behind;
        }
    }
}

fn word(word: &'static str) -> Argument {
    let one = |word: &'static str| {
        let is_token = !word.bytes().any(|byte| byte.is_ascii_lowercase());
        Argument::new(if is_token { Kind::Token(word) } else { Kind::Value(word) })
    };
    match word.contains('|') {
        true => Argument::new(Kind::OneOf(word.split('|').map(one).collect())),
        false => one(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::commands::COMMANDS;

    fn written(arguments: &[Argument]) -> String {
        let one = |argument: &Argument| {
            let text = match &argument.kind {
                Kind::Token(word) | Kind::Value(word) => (*word).to_owned(),
                Kind::Block(parts) => written(parts),
                Kind::OneOf(parts) => parts.iter().map(|part| written(std::slice::from_ref(part))).collect::<Vec<_>>().join("|"),
            };
            let text = if argument.multiple { format!("{text} ...") } else { text };
            if argument.optional { format!("[{text}]") } else { text }
        };
        arguments.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_syntax_line_is_understood_whole() {
        for command in COMMANDS {
            let again = format!("{} {}", command.name, written(&arguments(command.syntax, command.name)));
            assert_eq!(again.trim_end(), command.syntax);
        }
    }

    #[test]
    fn arguments_of_all_kinds() {
        let token = |word| Argument::new(Kind::Token(word));
        let value = |word| Argument::new(Kind::Value(word));
        let optional = |argument| Argument { optional: true, ..argument };
        let multiple = |argument| Argument { multiple: true, ..argument };
        let check = |syntax: &'static str, expected: Vec<Argument>, expected_arity: i64| {
            assert_eq!(arguments(syntax, "CMD"), expected, "{syntax}");
            assert_eq!(arity(syntax, "CMD"), expected_arity, "{syntax}");
        };
        check("CMD", vec![], 1);
        check("CMD key", vec![value("key")], 2);
        check("CMD ON|OFF", vec![Argument::new(Kind::OneOf(vec![token("ON"), token("OFF")]))], 2);
        check("CMD [key]", vec![optional(value("key"))], -1);
        check("CMD key ...", vec![multiple(value("key"))], -2);
        check("CMD [key ...]", vec![optional(multiple(value("key")))], -1);
        check(
            "CMD a [TO b [c]]",
            vec![value("a"), optional(Argument::new(Kind::Block(vec![token("TO"), value("b"), optional(value("c"))])))],
            -2,
        );
    }
}
