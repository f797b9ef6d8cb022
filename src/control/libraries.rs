//! Libraries of functions, from one node to another.

use std::collections::BTreeSet;

use crate::control::{Connection, ControlError, Reply};

/// Why a node lacks a library now.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("asking for its libraries: {0}")]
    Giver(ControlError),
    #[error("giving it libraries: {0}")]
    Taker(ControlError),
    #[error("the node does not take the library '{name}': {error}")]
    Refused { name: String, error: String },
}

/// Loads what `taker` lacks of `giver`'s libraries, and returns their names. One that both have is left as it is, even if it differs:
/// which of two is right is not decided here. Nothing happens before Redis 7.0, or if a node does not let us ask.
pub async fn copy_libraries(giver: &mut Connection, taker: &mut Connection) -> Result<Vec<String>, CopyError> {
    let there = libraries(taker, false).await.map_err(CopyError::Taker)?;
    let there: BTreeSet<String> = there.into_iter().map(|(name, _)| name).collect();
    let mut copied = Vec::new();
    for (name, code) in libraries(giver, true).await.map_err(CopyError::Giver)? {
        if there.contains(&name) {
            continue;
        }
        match taker.call([&b"FUNCTION"[..], b"LOAD", &code]).await.map_err(CopyError::Taker)? {
            // Somebody else was quicker.
            Reply::Error(error) if error.contains("already exists") => {}
            Reply::Error(error) => return Err(CopyError::Refused { name, error: error.to_string() }),
            _ => copied.push(name),
        }
    }
    Ok(copied)
}

/// Each library's name and, if asked for, its code.
async fn libraries(node: &mut Connection, with_code: bool) -> Result<Vec<(String, Vec<u8>)>, ControlError> {
    let words = ["FUNCTION", "LIST", "WITHCODE"];
    let Reply::Array(all) = node.call(&words[..if with_code { 3 } else { 2 }]).await? else { return Ok(Vec::new()) };
    let library = |fields: Reply| {
        let Reply::Array(fields) = fields else { return None };
        let field = |name: &str| {
            let found = fields.chunks_exact(2).find(|pair| text(&pair[0]) == Some(name.as_bytes()))?;
            text(&found[1]).map(<[u8]>::to_vec)
        };
        Some((String::from_utf8(field("library_name")?).ok()?, field("library_code").unwrap_or_default()))
    };
    Ok(all.into_iter().filter_map(library).collect())
}

fn text(reply: &Reply) -> Option<&[u8]> {
    match reply {
        Reply::BulkString(text) | Reply::SimpleString(text) => Some(text),
        _ => None,
    }
}
