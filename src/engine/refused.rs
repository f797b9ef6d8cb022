//! A node refused a request, or its lane broke: what that says, and where the request goes from there.

use bytes::Bytes;

use crate::{
    cluster::{Addr, Slot},
    command,
};

use super::{
    Engine, RefreshCause,
    ids::{NONE, NodeId},
    lane::{InFlight, Via},
    pump::{ASK_GOOD_US, Confirm, Retry, name_of},
    retry::{Asked, Held, Verdict, backoff_us, on_error},
    send::Target,
    session::State,
};

/// Redirects of one request that are followed at once; after them each waits a little, so that a loop does not spin.
const HOPS_AT_ONCE: u32 = 3;

/// Who wrote an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    /// A node; but where a script was asked for, perhaps the script.
    Unknown,
    Node,
    Script,
}

impl Engine {
    /// Judges an error reply to a request in flight: delivers it, or holds the request and answers false.
    pub(super) fn answer_error(&mut self, lane_index: u32, entry: &InFlight, reply: &[u8], speaker: Speaker) -> bool {
        let line = reply[1..].trim_ascii_end();
        if !could_be_refusal(line) {
            if line.starts_with(b"NOAUTH") || line.starts_with(b"NOPERM") {
                self.note_refusal(lane_index, line);
                return line.starts_with(b"NOPERM") && self.load_for_user(entry);
            }
            return false;
        }
        let lane = &self.lanes[lane_index as usize];
        if entry.retry == NONE && lane.role.is_pinned() {
            // What is watched there is lost by any refusal: nothing is to be sent again.
            return false;
        }
        let (node, via) = (lane.node, lane.via);
        let frame = self.frame_of(lane_index, entry);
        let target = self.target_of(entry);
        let command = name_of(&frame).and_then(|name| command::lookup(&name));
        let script = command.is_some_and(|command| command.flags.is_script());
        let read_only = command.is_some_and(|command| command.flags.is_readonly());
        let perhaps_script = script && speaker != Speaker::Node;
        let asked = Asked { slot: target.slot(), script: perhaps_script, read_only };
        let from = self.table.node(node).addr.clone();
        let verdict = match on_error(line, asked, &from) {
            verdict if speaker == Speaker::Script && verdict != Verdict::NoScript => Verdict::Deliver,
            verdict => verdict,
        };
        if verdict == Verdict::Deliver {
            self.counters.forged_redirects += u64::from(line.starts_with(b"MOVED ") || line.starts_with(b"ASK "));
            return false;
        }
        let mut retry = self.retry_of(entry, frame, target, via);
        if perhaps_script && matches!(&verdict, Verdict::Moved(_, Some(addr)) if self.table.find(addr) == Some(node)) {
            // No node sends a request to itself.
            self.counters.forged_redirects += 1;
            return false;
        }
        retry.wrapped |= script;
        retry.last = String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned();
        retry.tries += 1;
        let was_asked = retry.ask.take().is_some();
        retry.confirm = None;
        match verdict {
            Verdict::Moved(slot, addr) => self.on_moved(&mut retry, node, slot, addr),
            Verdict::Ask(slot, addr) => {
                if self.table.mark_moving(slot, self.now) {
                    self.leave_moving_slots(Some(slot));
                }
                self.counters.asked += 1;
                self.on_ask(&mut retry, addr, was_asked);
            }
            Verdict::TryAgain => {
                if let Some(slot) = asked.slot {
                    self.table.mark_moving(slot, self.now);
                    self.want_keys(slot, &retry.frame);
                }
                self.counters.try_again += 1;
                self.back_off(&mut retry);
            }
            Verdict::Hold(held) => {
                self.counters.held += 1;
                self.refresh(match held {
                    Held::ClusterDown => RefreshCause::ClusterDown,
                    Held::MasterDown | Held::Loading | Held::ReadOnly | Held::Demoted => RefreshCause::Moved,
                });
                self.back_off(&mut retry);
            }
            Verdict::NoScript => match self.heal_script(&retry.frame).filter(|_| !retry.healed) {
                Some(frame) => {
                    retry.frame = frame;
                    retry.healed = true;
                }
                None => return false,
            },
            Verdict::Deliver | Verdict::Resend | Verdict::Unknown => unreachable!("not an answer's verdict"),
        }
        self.put_back(entry.retry, retry);
        true
    }

    /// A request whose lane broke, and that may be sent again.
    pub(super) fn resend_lost(&mut self, entry: &InFlight, frame: Bytes, target: Target, via: Via) {
        let mut retry = self.retry_of(entry, frame, target, via);
        (retry.ask, retry.confirm) = (None, None);
        retry.tries += 1;
        retry.last = "the connection to the node was lost".into();
        self.put_back(entry.retry, retry);
    }

    fn on_moved(&mut self, retry: &mut Retry, from: NodeId, slot: Slot, addr: Option<Addr>) {
        self.counters.moved += 1;
        retry.hops += 1;
        match addr.as_ref().and_then(|addr| self.table.find(addr)) {
            Some(node) if node != from => {
                self.note_owner(slot, node);
                self.refresh(RefreshCause::Moved);
                if retry.hops > HOPS_AT_ONCE {
                    self.back_off(retry);
                }
            }
            Some(_) => {
                // It sends us to itself: its view is in flux.
                self.refresh(RefreshCause::Moved);
                self.back_off(retry);
            }
            None => self.await_confirmation(retry, addr, false),
        }
    }

    /// It is followed at once, however often the request was sent back before: while it waited, it would become too old to be
    /// followed. Only who answers ASKING with ASK makes it wait.
    fn on_ask(&mut self, retry: &mut Retry, addr: Option<Addr>, was_asked: bool) {
        retry.hops += 1;
        match addr.as_ref().and_then(|addr| self.table.find(addr)) {
            Some(node) => {
                retry.ask = Some((node, self.now + ASK_GOOD_US));
                if retry.hops > HOPS_AT_ONCE && was_asked {
                    self.back_off(retry);
                }
            }
            None => self.await_confirmation(retry, addr, true),
        }
    }

    /// An address that the map does not hold is never dialled on a reply's word: a refresh must confirm it first.
    fn await_confirmation(&mut self, retry: &mut Retry, addr: Option<Addr>, asking: bool) {
        self.counters.unknown_addresses += 1;
        self.refresh(RefreshCause::UnknownAddress);
        match addr {
            Some(addr) => retry.confirm = Some(Confirm { addr, asking, since: self.now }),
            None => self.back_off(retry),
        }
    }

    fn back_off(&mut self, retry: &mut Retry) {
        retry.not_before = self.now + backoff_us(retry.tries.saturating_sub(1), self.random.u64(..));
    }

    /// The retry record of a request in flight, taken out of its place, or a new one.
    fn retry_of(&mut self, entry: &InFlight, frame: Bytes, target: Target, via: Via) -> Retry {
        if entry.retry != NONE {
            let taken = Retry::new(entry.ticket, Bytes::new(), target, via, 0, 0);
            return std::mem::replace(&mut self.retries[entry.retry as usize], taken);
        }
        let arrived = self.clients[entry.ticket.client as usize].reply(entry.ticket.seq).arrived;
        Retry::new(entry.ticket, frame, target, via, entry.lead, arrived + self.settings.retry_deadline_us)
    }

    fn put_back(&mut self, place: u32, retry: Retry) {
        if place == NONE {
            return self.hold(retry);
        }
        let ticket = retry.ticket;
        self.retries[place as usize] = retry;
        self.await_turn(ticket, place);
    }

    pub(super) fn drop_retry(&mut self, place: u32) {
        if place != NONE {
            self.retries.remove(place as usize);
        }
    }

    /// The request that an entry in flight stands for, as it came from its client.
    fn frame_of(&self, lane_index: u32, entry: &InFlight) -> Bytes {
        if entry.retry != NONE {
            return self.retries[entry.retry as usize].frame.clone();
        }
        let pipe = &self.lanes[lane_index as usize].pipe;
        if entry.is_large() { pipe.front_large().clone() } else { Bytes::copy_from_slice(pipe.front_small(entry.len as usize)) }
    }

    pub(super) fn target_of(&mut self, entry: &InFlight) -> Target {
        if entry.retry != NONE {
            return self.retries[entry.retry as usize].target;
        }
        let reply = self.clients[entry.ticket.client as usize].reply(entry.ticket.seq);
        let slot = reply.slot;
        match reply.state {
            State::Merging { merge } if entry.ticket.part != NONE => {
                self.merges[merge as usize].parts[entry.ticket.part as usize].target
            }
            _ => Slot::new(slot).map_or(Target::Any(self.any_slot(entry.ticket.client)), Target::Slot),
        }
    }
}

/// Cheap test on an error's first letters, so that ordinary errors cost nothing.
pub(super) fn could_be_refusal(line: &[u8]) -> bool {
    [&b"MOVED "[..], b"ASK ", b"TRYAGAIN", b"CLUSTERDOWN", b"MASTERDOWN", b"LOADING", b"READONLY", b"NOSCRIPT", b"UNBLOCKED"]
        .iter()
        .any(|code| line.starts_with(code))
}
