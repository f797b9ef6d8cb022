//! Which slots are held now, as every instance reads it again and again.

use serde::Deserialize;

use super::index::{ACTIVE, INDEX};
use super::keyed::Keyed;
use super::store::text;
use super::{NoRecord, Place};
use crate::control::{Dialer, Reply};
use crate::migrate::Holds;
use crate::topology::TopologyHandle;

/// Reads what the plan that holds slots says of them.
pub struct Held {
    keyed: Keyed,
    /// The plan that was it the last time.
    place: Option<Place>,
}

/// What matters here of a plan's progress.
#[derive(Deserialize)]
struct Excerpt {
    #[serde(default)]
    holds: Holds,
}

impl Held {
    pub fn new(topology: TopologyHandle, dialer: Dialer) -> Held {
        Held { keyed: Keyed::new(topology, dialer), place: None }
    }

    /// What is held; none while there is no plan that holds slots.
    pub async fn read(&mut self) -> Result<Option<Holds>, NoRecord> {
        let id = self.ask(INDEX, &["HGET", INDEX, ACTIVE]).await?;
        if id.is_empty() {
            return Ok(None);
        }
        let place = match self.place.take().filter(|place| place.id == id) {
            Some(place) => place,
            None => Place { tag: self.ask(INDEX, &["HGET", INDEX, &id]).await?, id },
        };
        let key = place.key("plan");
        let progress = self.ask(&key, &["HGET", &key, "progress"]).await?;
        let damaged = |error: serde_json::Error| NoRecord::Damaged { id: place.id.clone(), found: error.to_string() };
        // A record that has come to its end has no holds.
        let excerpt = if progress.is_empty() { Ok(None) } else { serde_json::from_str(&progress).map(Some).map_err(damaged) };
        self.place = Some(place);
        Ok(excerpt?.map(|excerpt: Excerpt| excerpt.holds))
    }

    async fn ask(&mut self, key: &str, words: &[&str]) -> Result<String, NoRecord> {
        match self.keyed.call(key, words).await {
            Ok(Reply::Error(error)) => Err(NoRecord::Unreachable(error.to_string())),
            Ok(reply) => Ok(text(&reply)),
            Err(error) => Err(NoRecord::Unreachable(error)),
        }
    }
}
