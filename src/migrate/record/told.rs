//! PURE. What operators tell a plan's driver by the record, and what it answers when it does not do so.

use serde::{Deserialize, Serialize};

use crate::migrate::machine::Order;
use crate::migrate::pace::Throttle;

/// What an operator tells a plan's driver, wherever that is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    Order(Order),
    Throttle(Throttle),
    /// Another version's, in that one's words: it is dropped, and said so.
    #[serde(skip)]
    Unknown(String),
}

impl Told {
    /// In a word, for people.
    pub fn word(&self) -> &'static str {
        match self {
            Told::Order(order) => order.word(),
            Told::Throttle(_) => "THROTTLE",
            Told::Unknown(_) => "an order",
        }
    }
}

/// One of them as it waits in the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    /// By which whoever has told it finds the answer; no two are the same.
    #[serde(default)]
    pub ticket: String,
    #[serde(flatten)]
    pub told: Told,
}

/// Who has told something, however little of the rest is understood.
#[derive(Deserialize)]
struct Teller {
    #[serde(default)]
    ticket: String,
}

impl Heard {
    /// Letters of an order that nobody understands that are shown.
    const SHOWN: usize = 128;

    pub fn new(told: Told) -> Heard {
        Heard { ticket: format!("{:016x}", fastrand::u64(..)), told }
    }

    pub(super) fn read(text: &str) -> Heard {
        serde_json::from_str(text).unwrap_or_else(|_| Heard {
            ticket: serde_json::from_str(text).map_or(String::new(), |teller: Teller| teller.ticket),
            told: Told::Unknown(text.escape_debug().take(Heard::SHOWN).collect()),
        })
    }
}

/// The driver does not do what it was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct No {
    pub ticket: String,
    /// And what to do about it.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_comes_as_it_was() {
        for told in [Told::Order(Order::Pause), Told::Throttle(Throttle { keys: 7, ..Throttle::default() })] {
            let heard = Heard::new(told);
            let text = serde_json::to_string(&heard).expect("plain data");
            assert_eq!(Heard::read(&text), heard);
        }
        let check = |text: &str, ticket: &str, told: Told| assert_eq!(Heard::read(text), Heard { ticket: ticket.into(), told });
        check(r#"{"order":"rollback"}"#, "", Told::Order(Order::Rollback));
        check(r#"{"later":1}"#, "", Told::Unknown(r#"{\"later\":1}"#.into()));
        check(r#"{"later":1,"ticket":"a"}"#, "a", Told::Unknown(r#"{\"later\":1,\"ticket\":\"a\"}"#.into()));
        check("?", "", Told::Unknown("?".into()));
    }
}
