//! Reading a configuration file (TOML) into written values.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, KEYS};
use super::mistake::Mistake;
use super::written::{Item, Source, Value, Written};

/// Every key of the file as written, and every mistake that can be told before values are looked at.
pub(super) fn read(name: &str, text: &str) -> (Vec<Written>, Vec<Mistake>) {
    let mut reader = Reader { name: name.into(), text, written: Vec::new(), mistakes: Vec::new() };
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    reader.document(document.get_ref());
    reader.syntax_errors(&syntax_errors);
    (reader.written, reader.mistakes)
}

struct Reader<'a> {
    name: Arc<str>,
    text: &'a str,
    written: Vec<Written>,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn document(&mut self, document: &DeTable<'_>) {
        for (section, value) in document.iter() {
            let source = self.source(section.span());
            let section = section.get_ref().as_ref();
            match value.get_ref() {
                DeValue::Table(_) if !is_section(section) => self.mistakes.push(Mistake::unknown_section(source, section)),
                other if is_section(section) => self.section_or_other(source, section, other),
                _ => self.mistakes.push(Mistake::unknown_key(source, section)),
            }
        }
    }

    fn section_or_other(&mut self, source: Source, section: &str, value: &DeValue<'_>) {
        match value {
            DeValue::Table(table) => self.section(section, table),
            other => {
                let problem = format!("expected the section [{section}], found {}", type_name(other));
                self.mistakes.push(Mistake::new(source, problem));
            }
        }
    }

    fn section(&mut self, section: &str, table: &DeTable<'_>) {
        for (short_name, value) in table.iter() {
            let source = self.source(short_name.span());
            let name = format!("{section}.{}", short_name.get_ref());
            match keys::find(&name) {
                Some(key) => {
                    let value = self.value(value);
                    self.written.push(Written { key, value, source });
                }
                None if is_section(&name) => self.section_or_other(source, &name, value.get_ref()),
                None if matches!(value.get_ref(), DeValue::Table(_)) => {
                    self.mistakes.push(Mistake::unknown_section(source, &name))
                }
                None => self.mistakes.push(Mistake::unknown_key(source, &name)),
            }
        }
    }

    fn value(&self, value: &Spanned<DeValue<'_>>) -> Value {
        match value.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => decimal(number.as_str(), number.radix()),
            DeValue::Array(items) => Value::List(items.iter().map(|item| self.item(item)).collect()),
            other => Value::Other(type_name(other)),
        }
    }

    fn item(&self, item: &Spanned<DeValue<'_>>) -> Item {
        Item { value: self.value(item), source: self.source(item.span()) }
    }

    /// What the parser made of a line that is no TOML is guesswork: only the syntax error is reported there.
    fn syntax_errors(&mut self, errors: &[toml::de::Error]) {
        let errors: Vec<Mistake> = errors.iter().map(|error| self.syntax_error(error)).collect();
        let lines: BTreeSet<_> = errors.iter().map(|mistake| mistake.source.rank()).collect();
        let is_guess = |source: &Source| lines.contains(&source.rank());
        self.written.retain(|written| !is_guess(&written.source));
        self.mistakes.retain(|mistake| !is_guess(&mistake.source));
        self.mistakes.extend(errors);
    }

    fn syntax_error(&self, error: &toml::de::Error) -> Mistake {
        let end = self.text.len();
        let source = self.source(error.span().unwrap_or(end..end));
        // The message names what the syntax allows, never the text of the file: a secret may stand there.
        Mistake::new(source, format!("not valid TOML: {}", error.message()))
    }

    fn source(&self, span: Range<usize>) -> Source {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        let line = 1 + memchr::memchr_iter(b'\n', before).count();
        Source::File { name: self.name.clone(), line }
    }
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.section() == name)
}

/// TOML also writes integers as `0x1f`, `0o17` and `0b11`.
fn decimal(digits: &str, radix: u32) -> Value {
    let value = i128::from_str_radix(digits, radix);
    Value::Number(value.map_or_else(|_| digits.to_owned(), |value| value.to_string()))
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
