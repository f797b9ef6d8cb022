//! Live events, as messages of channels: plain redis-cli shows them as they come.

use crate::admin::definition::{Definition, Handler, Role, Session, Wrong, shown};
use crate::admin::events::Channel;
use crate::admin::reply::Reply;

pub(super) static SUBSCRIBE: Definition = Definition {
    name: "SUBSCRIBE",
    syntax: "SUBSCRIBE channel ...",
    summary: "Show what happens, line by line, as it happens",
    help: "keyway:migrations tells each step of the plans that this proxy drives, keyway:topology slots that change hands and nodes \
           that come, fail and go. A connection that reads too slowly is told how many lines it missed.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: |arguments| {
        let channels = channels(arguments)?;
        if channels.is_empty() {
            return Err(Wrong::Count);
        }
        Ok(Handler::now(move |session, state| {
            let told = channels.into_iter().map(|channel| {
                session.subscribed.add(channel, &state.events);
                told("subscribe", Some(channel), session)
            });
            Reply::Several(told.collect())
        }))
    },
};

pub(super) static UNSUBSCRIBE: Definition = Definition {
    name: "UNSUBSCRIBE",
    syntax: "UNSUBSCRIBE [channel ...]",
    summary: "Stop showing what happens",
    help: "Without a channel it ends all of them.",
    since: "0.1.0",
    role: Role::Viewer,
    parse: |arguments| {
        let named = channels(arguments)?;
        Ok(Handler::now(move |session, _| {
            let leaving = if named.is_empty() { session.subscribed.all() } else { named };
            if leaving.is_empty() {
                return Reply::Several(vec![told("unsubscribe", None, session)]);
            }
            let told = leaving.into_iter().map(|channel| {
                session.subscribed.remove(channel);
                told("unsubscribe", Some(channel), session)
            });
            Reply::Several(told.collect())
        }))
    },
};

fn channels(arguments: &[&[u8]]) -> Result<Vec<Channel>, Wrong> {
    let channel = |name: &&[u8]| {
        Channel::named(name).ok_or_else(|| Wrong::Value { expected: "keyway:migrations or keyway:topology", found: shown(name) })
    };
    arguments.iter().map(channel).collect()
}

/// What the servers say of each channel: what was done, which, and how many there are now.
fn told(done: &str, channel: Option<Channel>, session: &Session) -> Reply {
    let channel = channel.map_or(Reply::Null, |channel| Reply::bulk(channel.name()));
    Reply::Push(vec![Reply::bulk(done), channel, Reply::Integer(session.subscribed.len() as i64)])
}

#[cfg(test)]
mod tests {
    use crate::admin::definition::tests::{Talk, check, state};
    use crate::resp::Proto;

    #[test]
    fn channels_come_and_go() {
        let mut talk = Talk::new(state());
        assert_eq!(talk.say("UNSUBSCRIBE"), "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n");
        let migrations = "$17\r\nkeyway:migrations\r\n";
        let topology = "$15\r\nkeyway:topology\r\n";
        assert_eq!(
            talk.say("SUBSCRIBE keyway:migrations keyway:topology keyway:migrations"),
            format!(
                "*3\r\n$9\r\nsubscribe\r\n{migrations}:1\r\n*3\r\n$9\r\nsubscribe\r\n{topology}:2\r\n*3\r\n$9\r\nsubscribe\r\n{migrations}:2\r\n"
            )
        );
        assert_eq!(talk.say("PING"), "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
        assert_eq!(talk.say("PING a"), "*2\r\n$4\r\npong\r\n$1\r\na\r\n");
        assert_eq!(
            talk.say("PROXY HELP"),
            "-ERR Can't execute 'proxy|help': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context\r\n"
        );
        assert_eq!(talk.say("UNSUBSCRIBE keyway:topology"), format!("*3\r\n$11\r\nunsubscribe\r\n{topology}:1\r\n"));
        assert_eq!(talk.say("RESET"), "+RESET\r\n");
        assert_eq!(talk.say("PING"), "+PONG\r\n");
    }

    #[test]
    fn in_resp3_they_are_pushes_and_every_command_goes_on() {
        let mut talk = Talk::new(state());
        talk.session.proto = Proto::Resp3;
        assert_eq!(talk.say("SUBSCRIBE keyway:topology"), ">3\r\n$9\r\nsubscribe\r\n$15\r\nkeyway:topology\r\n:1\r\n");
        assert_eq!(talk.say("PING"), "+PONG\r\n");
        assert!(talk.say("PROXY VERSION").starts_with("%1\r\n"));
        assert_eq!(talk.say("UNSUBSCRIBE"), ">3\r\n$11\r\nunsubscribe\r\n$15\r\nkeyway:topology\r\n:0\r\n");
        assert_eq!(talk.say("UNSUBSCRIBE"), ">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n");
    }

    #[test]
    fn only_known_channels() {
        check(
            "SUBSCRIBE news",
            "-ERR expected keyway:migrations or keyway:topology, found 'news'. Syntax: SUBSCRIBE channel ...\r\n",
        );
        check("SUBSCRIBE", "-ERR wrong number of arguments for 'subscribe' command. Syntax: SUBSCRIBE channel ...\r\n");
    }
}
