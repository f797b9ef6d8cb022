//! Functions: a call must find its library wherever its slot is.

use super::nodes::Nodes;
use super::patience::Trip;
use super::{End, Event, Listener};
use crate::control::{CopyError, copy_libraries};

impl Nodes {
    /// Loads what the target lacks of the source's libraries. Of two that differ pre-flight tells.
    pub async fn copy_libraries(&mut self, tell: Listener<'_>) -> Result<(), Trip> {
        let Some((_, source, _, target)) = self.pair() else { return Ok(()) };
        match copy_libraries(&mut source.connection, &mut target.connection).await {
            Ok(copied) => {
                copied.into_iter().for_each(|name| tell(Event::LibraryLoaded { name }));
                Ok(())
            }
            Err(CopyError::Giver(error)) => Err(Trip::lost(End::Source, &source.id)(error)),
            Err(CopyError::Taker(error)) => Err(Trip::lost(End::Target, &target.id)(error)),
            Err(CopyError::Refused { name, error }) => {
                Err(Trip::Refused(format!("the target does not take the source's library '{name}': {error}")))
            }
        }
    }
}
