//! The masters that are neither source nor target: whether they know of the slot's new owner, and telling them.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::fence::Fence;
use super::halt::Halt;
use super::look::owner_in;
use super::nodes::{Nodes, text};
use crate::cluster::{Addr, NodesView, Slot};
use crate::control::{Connection, ControlError, Dialer, Reply};

/// What each node said, or why it did not.
type Answers = Vec<(Arc<str>, Result<Vec<Reply>, ControlError>)>;

/// What another master thinks of the slot.
pub(super) enum Opinion {
    Knows,
    /// It names another owner, or none.
    Differs,
    /// It does not answer.
    Silent(String),
}

impl Nodes {
    /// Every other live master, and whether it names `owner` for all of `slots`.
    pub async fn opinions(&mut self, slots: &[Slot], owner: &Arc<str>) -> Result<Vec<(Arc<str>, Opinion)>, Halt> {
        let others = self.other_masters().await?;
        let question = vec![vec!["CLUSTER".to_owned(), "NODES".to_owned()]];
        let answers = self.ask_others(others, question).await?;
        let opinion = |answer: Result<Vec<Reply>, ControlError>| match answer {
            Err(error) => Opinion::Silent(error.to_string()),
            Ok(replies) => match replies.first() {
                Some(Reply::BulkString(nodes)) => match NodesView::parse(nodes) {
                    Ok(view) if slots.iter().all(|slot| owner_in(&view, *slot) == Some(owner)) => Opinion::Knows,
                    _ => Opinion::Differs,
                },
                other => Opinion::Silent(other.map(text).unwrap_or_default()),
            },
        };
        Ok(answers.into_iter().map(|(id, answer)| (id, opinion(answer))).collect())
    }

    /// `SETSLOT NODE` on these masters, or on all others. Whether all of them have accepted it.
    pub async fn announce(&mut self, slots: &[Slot], owner: &Arc<str>, to: Option<&[Arc<str>]>) -> Result<bool, Halt> {
        let mut others = self.other_masters().await?;
        others.retain(|(id, _)| to.is_none_or(|to| to.contains(id)));
        let command = |slot: &Slot| ["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", owner].map(str::to_owned).to_vec();
        let told = self.ask_others(others, slots.iter().map(command).collect()).await?;
        let refused = |answer: &Result<Vec<Reply>, ControlError>| {
            answer.as_ref().map_or(true, |replies| replies.iter().any(|reply| matches!(reply, Reply::Error(_))))
        };
        Ok(!told.iter().any(|(_, answer)| refused(answer)))
    }

    async fn other_masters(&mut self) -> Result<Vec<(Arc<str>, Addr)>, Halt> {
        let map = self.map().await?;
        let ends = self.shards().map(|(source, target)| [source.id.clone(), target.id.clone()]).unwrap_or_default();
        let masters = map.masters().map(|index| map.node(index)).filter(|node| !node.failed && !ends.contains(&node.id));
        Ok(masters.map(|node| (node.id.clone(), node.addr.clone())).collect())
    }

    /// The same commands to several nodes at once, each over the connection it has. A new one is this driver's first.
    async fn ask_others(&mut self, others: Vec<(Arc<str>, Addr)>, commands: Vec<Vec<String>>) -> Result<Answers, Halt> {
        self.fence()?.check()?;
        let mut questions = crate::control::Pipeline::new();
        for command in &commands {
            questions.push(command);
        }
        let questions = Arc::new(questions);
        let mut asking = JoinSet::new();
        for (id, addr) in others {
            let kept = self.others.remove(&id).filter(Connection::is_settled);
            let (dialer, questions, fence) = (self.dialer.clone(), questions.clone(), self.fence()?.clone());
            asking.spawn(async move {
                let connection = match kept {
                    Some(connection) => Ok(Some(connection)),
                    None => admitted(&dialer, &addr, &fence).await,
                };
                match connection {
                    Ok(Some(mut connection)) => {
                        let answer = connection.call_many(&questions).await;
                        Ok((id, Some(connection), answer))
                    }
                    Ok(None) => Err(Halt::Fenced),
                    Err(error) => Ok((id, None, Err(error))),
                }
            });
        }
        let mut answers = Vec::new();
        while let Some(joined) = asking.join_next().await {
            match joined {
                Ok(told) => {
                    let (id, connection, answer) = told?;
                    if let Some(connection) = connection.filter(Connection::is_settled) {
                        self.others.insert(id.clone(), connection);
                    }
                    answers.push((id, answer));
                }
                Err(panicked) => tracing::error!(%panicked, "asking a master"),
            }
        }
        Ok(answers)
    }
}

async fn admitted(dialer: &Dialer, addr: &Addr, fence: &Fence) -> Result<Option<Connection>, ControlError> {
    let mut connection = dialer.dial(addr).await?;
    Ok(fence.admit(&mut connection).await?.then_some(connection))
}
