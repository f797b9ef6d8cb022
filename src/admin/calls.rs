//! PROXY commands that come from clients' ports: the workers pass them on, this thread answers them.

use bytes::BytesMut;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::AdminState;
use super::definition::{Outcome, Session, answer};
use super::reply::Reply;
use crate::net::{ProxyAnswer, ProxyCall, ToOperators};

/// Calls answered at once; further ones wait. Each client has one at most.
const CALLS_MAX: usize = 64;

/// Answers until no worker is left.
pub(super) async fn serve_calls(mut calls: mpsc::UnboundedReceiver<ToOperators>, state: AdminState) {
    let mut answering = JoinSet::new();
    while let Some(ToOperators { call, answer }) = calls.recv().await {
        while answering.len() >= CALLS_MAX {
            answering.join_next().await;
        }
        while answering.try_join_next().is_some() {}
        let state = state.clone();
        answering.spawn(async move {
            // Who asked may have gone: then nobody needs the answer.
            let _ = answer.send(answer_call(call, &state).await);
        });
    }
}

async fn answer_call(call: ProxyCall, state: &AdminState) -> ProxyAnswer {
    let mut session = Session::new(call.client, call.peer, call.standing);
    session.proto = call.proto;
    let reply = match answer(&call.words, &mut session, state) {
        Outcome::Now(reply) => reply,
        Outcome::Later(reply) => reply.await,
    };
    let mut bytes = BytesMut::new();
    if let Err(error) = reply.write(session.proto, &mut bytes) {
        bytes.clear();
        let failed = Reply::Error(format!("ERR proxy: the reply cannot be written: {error}"));
        // An error of one line can be.
        let _ = failed.write(session.proto, &mut bytes);
    }
    ProxyAnswer { reply: bytes.freeze(), standing: session.standing }
}
