//! Functions: a call must find its library wherever its slot is.

use std::collections::BTreeSet;

use super::nodes::{Nodes, text};
use super::patience::Trip;
use super::{End, Event, Listener};
use crate::control::{ControlError, Reply};

impl Nodes {
    /// Loads what the target lacks of the source's libraries. One of the same name is left as it is: which of two is right is not
    /// decided here, and pre-flight tells of it.
    pub async fn copy_libraries(&mut self, tell: Listener<'_>) -> Result<(), Trip> {
        let Some((_, source, _, target)) = self.pair() else { return Ok(()) };
        let (source_lost, target_lost) = (Trip::lost(End::Source, &source.id), Trip::lost(End::Target, &target.id));
        let there: BTreeSet<String> =
            libraries(&mut target.connection, false).await.map_err(&target_lost)?.into_iter().map(|(name, _)| name).collect();
        let here = libraries(&mut source.connection, true).await.map_err(source_lost)?;
        for (name, code) in here.into_iter().filter(|(name, _)| !there.contains(name)) {
            match target.connection.call([&b"FUNCTION"[..], b"LOAD", &code]).await.map_err(&target_lost)? {
                Reply::Error(error) => {
                    return Err(Trip::Refused(format!("the target does not take the source's library '{name}': {error}")));
                }
                _ => tell(Event::LibraryLoaded { name }),
            }
        }
        Ok(())
    }
}

/// Each library's name and, if asked for, its code. None before 7.0, or when the node does not let us ask.
async fn libraries(node: &mut crate::control::Connection, with_code: bool) -> Result<Vec<(String, Vec<u8>)>, ControlError> {
    let words = ["FUNCTION", "LIST", "WITHCODE"];
    let Reply::Array(all) = node.call(&words[..if with_code { 3 } else { 2 }]).await? else { return Ok(Vec::new()) };
    let library = |fields: Reply| {
        let Reply::Array(fields) = fields else { return None };
        let field = |name: &str| fields.chunks_exact(2).find(|pair| text(&pair[0]) == name).map(|pair| &pair[1]);
        let code = match field("library_code") {
            Some(Reply::BulkString(code)) => code.to_vec(),
            _ => Vec::new(),
        };
        Some((text(field("library_name")?), code))
    };
    Ok(all.into_iter().filter_map(library).collect())
}
