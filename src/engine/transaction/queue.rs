//! Between MULTI and EXEC: what is queued, what is refused, and in which slot it all is.

use crate::{
    cluster::Slot,
    command::{self, Class, Command, Local, SplitKind, Transaction as Kind},
    resp::Span,
};

use super::{
    super::{
        Engine, identity::hello_logs_in, ids::UserId, local::CLUSTER_DISABLED, modes::Modes, pump::spans_of, session::Pause,
        since::has_subcommands,
    },
    CrossSlot, MULTI, cross_slot,
};

/// A frame from this size on is not sent twice to learn what the server thinks of it: EXEC will tell.
const CHECKED_FRAME_MAX: usize = 64 * 1024;

/// The commands of a transaction, in their order.
#[derive(Debug)]
pub struct Queued {
    /// MULTI and the commands, one after another, as they would be sent.
    pub(super) frames: Vec<u8>,
    pub(super) items: Vec<Item>,
    /// The first slot that was named, with its key; also by WATCH.
    pub(super) slot: Option<(Slot, Vec<u8>)>,
    /// A command was refused: EXEC will answer EXECABORT.
    pub(super) refused: bool,
    /// Every command goes as it is, to one slot or to any node, and its answer is passed on as it is.
    pub(super) plain: bool,
    /// Scripts that an earlier command of this transaction loads.
    loaded: Vec<Vec<u8>>,
}

/// One command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    /// Where its frame ends in `frames`.
    pub end: usize,
    pub slot: Option<Slot>,
    pub kind: ItemKind,
}

/// Whose answer a command gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ItemKind {
    /// A node's.
    Plain,
    /// A node's, changed as it is outside of transactions.
    ConfigGet,
    CommandList,
    CommandCount,
    CommandNames,
    /// The proxy's.
    Own,
    /// The proxy's, while the nodes are told to change the protocol too.
    Hello,
    /// That of several slots, put together.
    Split(SplitKind),
    /// A message, which is published when all else is done.
    Message,
}

impl Queued {
    pub(super) fn new(slot: Option<(Slot, Vec<u8>)>) -> Self {
        Queued { frames: MULTI.to_vec(), items: Vec::new(), slot, refused: false, plain: true, loaded: Vec::new() }
    }

    pub(super) fn count(&self) -> usize {
        self.items.len()
    }

    /// Bytes of memory.
    fn held(&self) -> usize {
        self.frames.len() + self.items.len() * size_of::<Item>()
    }

    /// The frame of one command.
    pub(super) fn frame(&self, item: usize) -> &[u8] {
        let start = if item == 0 { MULTI.len() } else { self.items[item - 1].end };
        &self.frames[start..self.items[item].end]
    }

    fn push(&mut self, frame: &[u8], slot: Option<Slot>, kind: ItemKind) {
        self.frames.extend_from_slice(frame);
        self.items.push(Item { end: self.frames.len(), slot, kind });
        let first = self.slot.as_ref().map(|(first, _)| *first);
        self.plain &= kind == ItemKind::Plain && (slot.is_none() || slot == first);
    }
}

/// The keys of one command.
enum Keyed {
    None,
    One(Slot, Vec<u8>),
    /// In several slots.
    Many(SplitKind),
    Refused(Vec<u8>),
}

impl Engine {
    pub(super) fn queues(&self, index: u32) -> bool {
        self.clients[index as usize].modes.has(Modes::TRANSACTION)
    }

    fn queued(&mut self, index: u32) -> Option<&mut Queued> {
        self.clients[index as usize].transaction.as_mut()?.queued.as_mut()
    }

    /// Whether EXEC would write, or reach replicas in another way.
    pub(in super::super) fn queued_may_replicate(&self, index: u32) -> bool {
        let transaction = self.clients[index as usize].transaction.as_ref();
        let Some(queued) = transaction.and_then(|transaction| transaction.queued.as_ref()) else { return false };
        (0..queued.items.len()).map(|item| queued.frame(item)).any(|frame| {
            let spans = spans_of(frame).unwrap_or_default();
            command::resolve(frame, &spans).is_ok_and(|command| self.may_replicate(command, frame, &spans))
        })
    }

    /// EXEC will answer EXECABORT. What was queued is of no use any more.
    pub(super) fn spoil(&mut self, index: u32) {
        if let Some(queued) = self.queued(index) {
            let slot = queued.slot.take();
            *queued = Queued { refused: true, ..Queued::new(slot) };
        }
    }

    /// Refuses one command, and with it the whole transaction.
    fn refuse_queued(&mut self, index: u32, error: &[u8]) -> Result<(), Pause> {
        self.spoil(index);
        self.reply_now(index, error);
        Ok(())
    }

    fn refuse_because(&mut self, index: u32, command: &Command, reason: &str) -> Result<(), Pause> {
        let text = format!("-ERR proxy: '{}' is refused inside of a transaction: {reason}\r\n", command.lower_name());
        self.refuse_queued(index, text.as_bytes())
    }

    /// Takes one command that the table knows.
    pub(super) fn enqueue(&mut self, index: u32, command: &'static Command, frame: &[u8], spans: &[Span]) -> Result<(), Pause> {
        if command.accepts(spans.len()) {
            match command.class {
                Class::AllMasters(_) | Class::AllNodes(_) | Class::ScanCursor | Class::Split(SplitKind::ShardNumsub) => {
                    return self.refuse_because(index, command, "it asks every node, and a transaction is one node's");
                }
                Class::PubSub(_) => return self.refuse_because(index, command, "a subscription outlives it"),
                Class::Blocked(reason) => return self.refuse_because(index, command, reason),
                // Every server but the newest would lose count of its own replies after it.
                Class::Local(Local::ClientReply) => {
                    return self.refuse_because(index, command, "the replies to come could not be told apart");
                }
                Class::Local(local) if !is_told_at_once(local) => {
                    return self.refuse_because(index, command, "its answer cannot be had together with EXEC's");
                }
                _ => {}
            }
        }
        let keyed = self.keys_in_transaction(index, command, frame, spans);
        if let Keyed::Refused(error) = &keyed
            && command.accepts(spans.len())
        {
            return self.refuse_queued(index, error);
        }
        let slot = match &keyed {
            Keyed::One(slot, _) => Some(*slot),
            // A node that does not own the key would say that first.
            _ if command.name == "WATCH" => spans.get(1).map(|key| Slot::of(key.of(frame))),
            _ => None,
        };
        let nested = matches!(command.class, Class::Transaction(Kind::Multi | Kind::Watch));
        // A password is for the servers' own AUTH only.
        let secret = matches!(command.class, Class::Local(Local::Auth | Local::Hello)) && command.accepts(spans.len());
        if secret && self.logs_in_later(index, command, frame, spans) {
            return self.refuse_queued(index, b"-ERR proxy: a login inside of a transaction is refused: log in before MULTI\r\n");
        }
        let known = secret || frame.len() >= CHECKED_FRAME_MAX || self.is_checked(index, command, spans.len());
        if nested || !known {
            return self.check(index, Some(command), frame, slot);
        }
        if let Keyed::Refused(error) = keyed {
            return self.refuse_queued(index, &error);
        }
        if !self.has_room_for(index, frame.len()) {
            let most = self.settings.limits.query_buffer_max;
            let text = format!("-ERR proxy: the transaction is larger than limits.query_buffer ({most} bytes)\r\n");
            return self.refuse_queued(index, text.as_bytes());
        }
        let substitute = command.flags.is_script().then(|| self.script_in_transaction(index, frame, spans)).flatten();
        let kind = match command.class {
            // The cluster knows who its users are.
            Class::Local(Local::AclWhoami | Local::Auth) if self.is_passthrough() => ItemKind::Plain,
            _ => kind_of(command, spans.len(), self.is_unknown_here(command)),
        };
        let Some(queued) = self.queued(index) else { return Ok(()) };
        match keyed {
            Keyed::One(slot, key) => {
                queued.slot.get_or_insert((slot, key));
                queued.push(substitute.as_deref().unwrap_or(frame), Some(slot), kind);
            }
            Keyed::Many(split) => queued.push(frame, None, ItemKind::Split(split)),
            Keyed::None | Keyed::Refused(_) => queued.push(substitute.as_deref().unwrap_or(frame), None, kind),
        }
        self.reply_now(index, b"+QUEUED\r\n");
        Ok(())
    }

    /// Whether this is a login that the cluster would have to be asked about when EXEC comes. The default user's own, by a password
    /// alone, may go on its lanes as it is: whatever the node answers, they stay the default user's.
    fn logs_in_later(&self, index: u32, command: &Command, frame: &[u8], spans: &[Span]) -> bool {
        let stays = command.class == Class::Local(Local::Auth)
            && spans.len() == 2
            && self.clients[index as usize].user == UserId::default();
        let arguments: Vec<&[u8]> = spans.iter().map(|span| span.of(frame)).collect();
        self.is_passthrough() && !stays && (command.class == Class::Local(Local::Auth) || hello_logs_in(&arguments))
    }

    fn has_room_for(&mut self, index: u32, bytes: usize) -> bool {
        let most = self.settings.limits.query_buffer_max;
        self.queued(index).is_none_or(|queued| queued.held() + bytes <= most)
    }

    /// Takes a command that has no keys as far as anyone knows.
    pub(super) fn enqueue_plain(&mut self, index: u32, frame: &[u8]) {
        if let Some(queued) = self.queued(index) {
            queued.push(frame, None, ItemKind::Plain);
        }
    }

    /// A command that the table does not hold, with its keys if the cluster told where they are.
    pub(in super::super) fn enqueue_learned(&mut self, index: u32, frame: &[u8], keys: &[&[u8]]) -> Result<(), Pause> {
        let answer = self.place_learned(index, frame, keys);
        self.reply_now(index, &answer);
        Ok(())
    }

    /// As `enqueue_learned`, answering what the client is to be told.
    pub(in super::super) fn place_learned(&mut self, index: u32, frame: &[u8], keys: &[&[u8]]) -> Vec<u8> {
        match self.place(index, keys, None) {
            Keyed::Refused(error) => {
                self.spoil(index);
                return error;
            }
            Keyed::One(slot, key) => {
                if let Some(queued) = self.queued(index) {
                    queued.slot.get_or_insert((slot, key));
                    queued.push(frame, Some(slot), ItemKind::Plain);
                }
            }
            Keyed::None | Keyed::Many(_) => self.enqueue_plain(index, frame),
        }
        b"+QUEUED\r\n".to_vec()
    }

    /// A subcommand of CLUSTER that the table does not hold. Before Redis 7 a server finds out when it carries it out.
    pub(in super::super) fn enqueue_unknown_cluster_sub(&mut self, index: u32, frame: &[u8], sub: &[u8]) -> Result<(), Pause> {
        if self.persona().is_some_and(has_subcommands) {
            self.spoil(index);
            self.unknown_cluster_sub(index, sub);
            return Ok(());
        }
        if let Some(queued) = self.queued(index) {
            queued.push(frame, None, ItemKind::Own);
        }
        self.reply_now(index, b"+QUEUED\r\n");
        Ok(())
    }

    /// A command, or a subcommand, that nobody is known to know: the server says so itself.
    pub(in super::super) fn enqueue_unknown(&mut self, index: u32, frame: &[u8]) -> Result<(), Pause> {
        self.check(index, None, frame, None)
    }

    fn keys_in_transaction(&mut self, index: u32, command: &'static Command, frame: &[u8], spans: &[Span]) -> Keyed {
        let split = match command.class {
            Class::Keyed | Class::Blocking => None,
            Class::Split(kind) => Some(kind),
            _ => return Keyed::None,
        };
        let mut places = std::mem::take(&mut self.keys);
        let found = command::keys(command, frame, spans, &mut places);
        let keys: Vec<&[u8]> = places.iter().map(|place| spans[*place as usize].of(frame)).collect();
        let odd = split == Some(SplitKind::Mset) && spans.len().is_multiple_of(2);
        let keyed = match found {
            Ok(()) => self.place(index, &keys, split.filter(|_| !odd)),
            Err(_) => Keyed::None,
        };
        self.keys = places;
        keyed
    }

    /// Whether keys fit into the transaction.
    fn place(&mut self, index: u32, keys: &[&[u8]], split: Option<SplitKind>) -> Keyed {
        let Some((first, others)) = keys.split_first() else { return Keyed::None };
        let slot = Slot::of(first);
        let per_slot = self.settings.cross_slot_transactions == CrossSlot::PerSlot;
        if let Some(other) = others.iter().find(|key| Slot::of(key) != slot) {
            return match split.filter(|_| per_slot) {
                Some(kind) => Keyed::Many(kind),
                None => {
                    let advice = "the keys of one command share a slot inside of a transaction, for instance by a hash tag";
                    Keyed::Refused(cross_slot((slot, first), (Slot::of(other), other), advice))
                }
            };
        }
        match self.queued(index).and_then(|queued| queued.slot.as_ref()) {
            Some((bound, key)) if *bound != slot && !per_slot => {
                let advice = "a transaction is of one slot, unless cross_slot.transactions is \"per-slot\"";
                Keyed::Refused(cross_slot((*bound, key), (slot, first), advice))
            }
            _ => Keyed::One(slot, first.to_vec()),
        }
    }

    /// Inside of EXEC no node can be given a script that it lacks: a body that was seen goes with the command, once.
    fn script_in_transaction(&mut self, index: u32, frame: &[u8], spans: &[Span]) -> Option<bytes::Bytes> {
        self.remember_script(frame, spans);
        let per_slot = self.settings.cross_slot_transactions == CrossSlot::PerSlot;
        let sha = spans.get(1)?.of(frame).to_ascii_lowercase();
        let loaded = self.queued(index).is_some_and(|queued| queued.loaded.contains(&sha));
        if loaded && !per_slot {
            return None;
        }
        let body = self.with_body(frame)?;
        self.queued(index)?.loaded.push(sha);
        Some(body)
    }

    /// The proxy's own answer to a command of the transaction, as EXEC carries it out.
    pub(super) fn own_answer(&mut self, index: u32, frame: &[u8]) -> Vec<u8> {
        let spans = spans_of(frame).unwrap_or_default();
        let command = command::resolve(frame, &spans).ok();
        let own = command.and_then(|command| match command.class {
            Class::Local(local) => Some((command, local)),
            _ => None,
        });
        match own.filter(|(command, _)| command.accepts(spans.len()) && !self.is_unknown_here(command)) {
            Some((command, local)) => {
                self.captured = Some(Vec::new());
                // It waits for nothing: this is the only thing that its client has in flight.
                let taken = self.local(index, command, local, frame, &spans);
                debug_assert!(taken.is_ok(), "{}", command.name);
                self.captured.take().unwrap_or_default()
            }
            // Only CLUSTER is queued whatever follows it: before Redis 7 it is refused first.
            None => CLUSTER_DISABLED.to_vec(),
        }
    }
}

/// Whether the proxy has its answer to this command at once, which is when `own_answer` asks for it.
fn is_told_at_once(local: Local) -> bool {
    match local {
        Local::AclWhoami
        | Local::Auth
        | Local::ClientCaching
        | Local::ClientCapa
        | Local::ClientGetname
        | Local::ClientGetredir
        | Local::ClientId
        | Local::ClientImportSource
        | Local::ClientInfo
        | Local::ClientNoEvict
        | Local::ClientNoTouch
        | Local::ClientSetinfo
        | Local::ClientSetname
        | Local::ClientTrackinginfo
        | Local::ClusterRefused
        | Local::Hello
        | Local::Move
        | Local::Role
        | Local::Select
        | Local::Swapdb => true,
        // Nodes answer these.
        Local::ClientHelp | Local::Echo | Local::Monitor | Local::Ping => true,
        // Other workers are asked, or the connection is another afterwards.
        Local::ClientKill
        | Local::ClientList
        | Local::ClientPause
        | Local::ClientReply
        | Local::ClientTracking
        | Local::ClientUnblock
        | Local::ClientUnpause
        | Local::Quit
        | Local::Reset => false,
    }
}

fn kind_of(command: &Command, arguments: usize, unknown: bool) -> ItemKind {
    match command.class {
        Class::Local(Local::ClusterRefused) => ItemKind::Own,
        // Before Redis 7 a server says only now that it has no such subcommand.
        Class::Local(_) if unknown || !command.accepts(arguments) => ItemKind::Plain,
        // MONITOR is refused by every server when EXEC comes to it.
        Class::Local(Local::Ping | Local::Echo | Local::ClientHelp | Local::Monitor) => ItemKind::Plain,
        Class::Local(Local::Hello) if arguments > 1 => ItemKind::Hello,
        Class::Local(_) => ItemKind::Own,
        _ => match command.name {
            "CONFIG|GET" if arguments > 2 => ItemKind::ConfigGet,
            "COMMAND" if arguments == 1 => ItemKind::CommandList,
            "COMMAND|COUNT" if arguments == 2 => ItemKind::CommandCount,
            "COMMAND|LIST" => ItemKind::CommandNames,
            "PUBLISH" | "SPUBLISH" => ItemKind::Message,
            _ => ItemKind::Plain,
        },
    }
}
