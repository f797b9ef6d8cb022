//! The index of all plans, and which of them holds slots: one does at a time.

use super::scripts::{CLAIM, UNCLAIM};
use super::store::text;
use super::{NoRecord, Place, Store};
use crate::control::Reply;

pub(super) const INDEX: &str = "{keyway}:plans";
/// Fields of the index beside the plans' own: the plan which holds slots, and the highest token so far. No plan has such an id.
pub(super) const ACTIVE: &str = "active";
pub(super) const TOKEN: &str = "token";

/// A plan that holds slots, so that no other may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    pub plan: String,
    /// What it does, in a word or a few.
    pub state: &'static str,
}

/// The index of all plans.
#[derive(Clone, Debug, Default)]
pub struct Index {
    pub places: Vec<Place>,
    /// The plan that holds slots.
    pub active: Option<String>,
}

impl Store {
    pub async fn index(&mut self) -> Result<Index, NoRecord> {
        let Reply::Array(fields) = self.call(INDEX, &["HGETALL", INDEX]).await? else { return Ok(Index::default()) };
        let mut index = Index::default();
        for pair in fields.chunks_exact(2) {
            match (text(&pair[0]), text(&pair[1])) {
                (name, id) if name == ACTIVE => index.active = Some(id),
                (name, _) if name == TOKEN => {}
                (id, tag) => index.places.push(Place { id, tag }),
            }
        }
        index.places.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(index)
    }

    /// Says that a token was met: those to come are higher.
    pub async fn met_token(&mut self, token: u64) -> Result<(), NoRecord> {
        self.call(INDEX, &["HSET", INDEX, TOKEN, &token.to_string()]).await.map(drop)
    }

    /// Says that this plan holds slots, unless another does: then that one. Whoever asks has the lease of the plan, and asks before the plan's
    /// state says so: one that is being driven and does not hold slots yet may be about to.
    pub async fn claim(&mut self, id: &str) -> Result<Option<Claimed>, NoRecord> {
        let Some(other) = self.claim_over(id, "").await? else { return Ok(None) };
        let claimed = match self.find(&other).await {
            Ok(loaded) if loaded.progress.standing.state.holds_slots() => loaded.progress.standing.state.word(),
            Ok(loaded) if loaded.lease.is_some() => "about to move slots",
            Ok(_) | Err(NoRecord::Unknown(_)) => match self.claim_over(id, &other).await? {
                None => return Ok(None),
                Some(third) => return Ok(Some(Claimed { plan: third, state: "about to move slots" })),
            },
            Err(error) => return Err(error),
        };
        Ok(Some(Claimed { plan: other, state: claimed }))
    }

    async fn claim_over(&mut self, id: &str, over: &str) -> Result<Option<String>, NoRecord> {
        let holder = text(&self.eval(CLAIM, &[INDEX], &[ACTIVE, id, over]).await?);
        Ok(Some(holder).filter(|holder| holder != id))
    }

    /// The plan other than this one that holds slots.
    pub async fn claimed_beside(&mut self, id: &str) -> Result<Option<Claimed>, NoRecord> {
        let Some(other) = self.index().await?.active.filter(|other| other != id) else { return Ok(None) };
        match self.find(&other).await {
            Ok(loaded) => {
                let state = loaded.progress.standing.state;
                Ok(state.holds_slots().then(|| Claimed { plan: other, state: state.word() }))
            }
            Err(NoRecord::Unknown(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn unclaim(&mut self, id: &str) -> Result<(), NoRecord> {
        self.eval(UNCLAIM, &[INDEX], &[ACTIVE, id]).await.map(drop)
    }
}
