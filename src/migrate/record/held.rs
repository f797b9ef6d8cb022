//! Which slots are held now, as every instance reads it again and again; and which of their keys clients of all instances wait for.

use bytes::Bytes;
use serde::Deserialize;

use super::index::{ACTIVE, INDEX};
use super::keyed::Keyed;
use super::scripts::{WANT, WANTED};
use super::store::text;
use super::{NoRecord, Place};
use crate::control::{Dialer, Reply};
use crate::migrate::Holds;
use crate::topology::TopologyHandle;

/// Keys that clients wait for that are kept, the latest, and for how long: nobody who drives leaves them there for longer.
const WANTS_MAX: usize = 1000;
const WANTS_KEPT_MS: u64 = 10_000;

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

    /// Tells whoever drives the plan that was read last which keys clients wait for.
    pub async fn want(&mut self, keys: &[Bytes]) -> Result<(), NoRecord> {
        let (most, kept_ms) = (WANTS_MAX.to_string(), WANTS_KEPT_MS.to_string());
        let mut words: Vec<&[u8]> = vec![b"EVAL", WANT.as_bytes(), b"1"];
        let Some(key) = self.place.as_ref().map(|place| place.key("wanted")) else { return Ok(()) };
        words.extend([key.as_bytes(), most.as_bytes(), kept_ms.as_bytes()]);
        words.extend(keys.iter().map(|key| &key[..]));
        self.call(&key, &words).await.map(drop)
    }

    /// Takes what clients of other instances wait for.
    pub async fn wanted(&mut self) -> Result<Vec<Bytes>, NoRecord> {
        let Some(key) = self.place.as_ref().map(|place| place.key("wanted")) else { return Ok(Vec::new()) };
        let Reply::Array(keys) = self.call(&key, &["EVAL", WANTED, "1", &key]).await? else { return Ok(Vec::new()) };
        Ok(keys.into_iter().filter_map(|key| if let Reply::BulkString(key) = key { Some(key) } else { None }).collect())
    }

    async fn ask(&mut self, key: &str, words: &[&str]) -> Result<String, NoRecord> {
        self.call(key, words).await.map(|reply| text(&reply))
    }

    async fn call<A: AsRef<[u8]>>(&mut self, key: &str, words: &[A]) -> Result<Reply, NoRecord> {
        match self.keyed.call(key, words).await {
            Ok(Reply::Error(error)) => Err(NoRecord::Unreachable(error.to_string())),
            Ok(reply) => Ok(reply),
            Err(error) => Err(NoRecord::Unreachable(error)),
        }
    }
}
