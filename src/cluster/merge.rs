//! Several nodes' views made into one slot map, by the rules the cluster itself goes by.
//!
//! * A slot belongs to the claim with the highest config epoch ("Hash slots configuration propagation" in the Redis
//!   Cluster specification), but nobody owns a slot against its own word: a node that was asked and does not list it
//!   answers MOVED. Where every claim is disowned the highest epoch decides after all. Between equal epochs a
//!   node's own claim comes first, then the smaller id, which is the one that gets the next epoch.
//! * A role is what the node says of itself. Of a node that was not asked: whoever owns slots is a master, and else it is a
//!   replica as soon as one view says so, for the epochs do not tell (a replica's is its master's, and may be lower than
//!   the one it had when it was an empty master itself).
//! * A node is failed when more than half of the views that know it say `fail`.
//! * An address is what most views say, and what the node says where they are equal.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::slot_map::NO_OWNER;
use crate::cluster::{
    Addr, AddressMap, Node, NodeFacts, NodesView, OpenMark, OpenSlot, Persona, Role, SLOT_COUNT, Slot, SlotMap,
};

/// One node's answer.
#[derive(Clone, Debug)]
pub struct AskedView {
    /// Where the question was sent: the address of a node that does not know its own yet.
    pub asked: Addr,
    pub view: NodesView,
}

/// What a slot map says besides what the views do.
#[derive(Clone, Debug)]
pub struct Stamp {
    pub version: u64,
    /// When the questions were sent, microseconds.
    pub asked_at_us: u64,
    pub persona: Persona,
    pub default_locked: bool,
}

/// The map that the views amount to; their order does not matter. Nodes without a known address are left out, and
/// what they claim with them. `cursor_has_slot` answers for a node's id (see `Node::cursor_has_slot`).
pub fn merge(views: &[AskedView], rules: &AddressMap, stamp: Stamp, cursor_has_slot: impl Fn(&str) -> bool) -> SlotMap {
    let mut views: Vec<&AskedView> = views.iter().collect();
    views.sort_by(|a, b| (&a.view.myself().id, &a.asked).cmp(&(&b.view.myself().id, &b.asked)));

    let (mut nodes, mut says_of_nodes) = (Vec::new(), Vec::new());
    for (id, says) in says_by_id(&views) {
        let Some((addr, aliases)) = spellings(&says, rules) else { continue };
        let failed = says.iter().filter(|say| say.node.flags.fail).count() * 2 > says.len();
        let cursor_has_slot = cursor_has_slot(id);
        // Role and epoch need the owners, which need the nodes.
        nodes.push(Node { id: id.clone(), addr, aliases, role: Role::Master, failed, epoch: 0, cursor_has_slot });
        says_of_nodes.push(says);
    }
    let claims: Vec<Claims> = views.iter().map(|asked| Claims::of(&asked.view, &nodes)).collect();
    let owners = decide_owners(&claims, nodes.len());
    let mut owning = vec![false; nodes.len()];
    owners.iter().filter(|&&owner| owner != NO_OWNER).for_each(|&owner| owning[owner as usize] = true);
    for ((node, says), owns) in nodes.iter_mut().zip(&says_of_nodes).zip(owning) {
        (node.role, node.epoch) = role_and_epoch(says, owns);
    }
    let open_slots = open_slots(&views, &nodes, &owners);
    SlotMap::assemble(stamp, nodes, owners, open_slots)
}

/// What one view says of one node.
struct Say<'a> {
    asked: &'a Addr,
    node: &'a NodeFacts,
}

fn says_by_id<'a>(views: &[&'a AskedView]) -> BTreeMap<&'a Arc<str>, Vec<Say<'a>>> {
    let mut says: BTreeMap<_, Vec<Say>> = BTreeMap::new();
    for asked in views {
        for node in &asked.view.nodes {
            says.entry(&node.id).or_default().push(Say { asked: &asked.asked, node });
        }
    }
    says
}

impl Say<'_> {
    fn announced(&self) -> Option<Addr> {
        let NodeFacts { host, port, flags, .. } = self.node;
        match (host.as_str(), *port) {
            _ if flags.noaddr => None,
            ("", _) => flags.myself.then(|| self.asked.clone()),
            (_, 0) => None,
            (host, port) => Some(Addr::new(host, port)),
        }
    }

    fn by_hostname(&self) -> Option<Addr> {
        let hostname = self.node.hostname.as_deref().filter(|hostname| *hostname != "?")?;
        (self.node.port != 0).then(|| Addr::new(hostname, self.node.port))
    }

    /// The port that this node's peers redirect to when they leave the host out, at the host it was reached by.
    fn at_asked_host(&self) -> Option<Addr> {
        let nameless = self.node.flags.myself && self.node.host.is_empty() && self.node.port != 0;
        nameless.then(|| Addr::new(self.asked.host(), self.node.port))
    }
}

/// The address to dial and the others it goes by, or `None` when nobody knows where the node is.
fn spellings(says: &[Say], rules: &AddressMap) -> Option<(Addr, Vec<Addr>)> {
    let mut announced: BTreeMap<Addr, (usize, bool)> = BTreeMap::new();
    for say in says {
        let Some(addr) = say.announced() else { continue };
        let (votes, own) = announced.entry(addr).or_default();
        // The address that was asked is a guess: anyone's word on where the node is comes before it.
        if !say.node.host.is_empty() {
            *votes += 1;
            *own |= say.node.flags.myself;
        }
    }
    let (best, _) = announced.iter().max_by_key(|(addr, rank)| (**rank, Reverse(*addr)))?;
    let by_hostname: Vec<Addr> = says.iter().filter_map(Say::by_hostname).collect();
    let rewritten = rules.rewrite(best).or_else(|| by_hostname.iter().find_map(|addr| rules.rewrite(addr)));
    let addr = rewritten.unwrap_or_else(|| best.clone());

    let mut aliases: Vec<Addr> = announced.keys().chain(&by_hostname).cloned().collect();
    aliases.extend(says.iter().filter_map(Say::at_asked_host));
    let mapped: Vec<Addr> = aliases.iter().filter_map(|alias| rules.rewrite(alias)).collect();
    aliases.extend(mapped);
    aliases.retain(|alias| *alias != addr);
    aliases.sort();
    aliases.dedup();
    Some((addr, aliases))
}

/// The epoch is the highest among those that go with the role.
fn role_and_epoch(says: &[Say], owns_slots: bool) -> (Role, u64) {
    let replicates = |say: &&Say| say.node.flags.replica && say.node.master.is_some();
    let own = says.iter().find(|say| say.node.flags.myself);
    let is_replica = own.map_or(!owns_slots && says.iter().any(|say| replicates(&say)), |own| replicates(&own));
    let same_role = says.iter().filter(|say| replicates(say) == is_replica);
    let epoch = same_role.clone().map(|say| say.node.epoch).max().unwrap_or(0);
    let best = own.or(same_role.max_by_key(|say| say.node.epoch));
    match best.and_then(|say| say.node.master.clone()) {
        Some(of) if is_replica => (Role::Replica { of }, epoch),
        _ => (Role::Master, epoch),
    }
}

/// What one view says of every slot.
struct Claims {
    /// The node that was asked.
    myself: u16,
    owners: Box<[u16; SLOT_COUNT]>,
    /// The config epoch of each node in this view.
    epochs: Vec<u64>,
}

impl Claims {
    fn of(view: &NodesView, nodes: &[Node]) -> Claims {
        let mut owners = Box::new([NO_OWNER; SLOT_COUNT]);
        let mut epochs = vec![0; nodes.len()];
        for facts in &view.nodes {
            let Some(index) = index_of(nodes, &facts.id) else { continue };
            epochs[index as usize] = facts.epoch;
            for (first, last) in &facts.slots {
                owners[first.index()..=last.index()].fill(index);
            }
        }
        Claims { myself: index_of(nodes, &view.myself().id).unwrap_or(NO_OWNER), owners, epochs }
    }
}

fn decide_owners(claims: &[Claims], node_count: usize) -> Box<[u16; SLOT_COUNT]> {
    let mut own_view: Vec<Option<&Claims>> = vec![None; node_count];
    for view in claims.iter().filter(|view| view.myself != NO_OWNER) {
        own_view[view.myself as usize] = Some(view);
    }
    let mut owners = Box::new([NO_OWNER; SLOT_COUNT]);
    for slot in Slot::all() {
        let rank = |view: &&Claims| {
            let claimant = view.owners[slot.index()];
            let disowned = own_view[claimant as usize].is_some_and(|own| own.owners[slot.index()] != claimant);
            (!disowned, view.epochs[claimant as usize], view.myself == claimant, Reverse(claimant))
        };
        let claiming = claims.iter().filter(|view| view.owners[slot.index()] != NO_OWNER);
        if let Some(view) = claiming.max_by_key(rank) {
            owners[slot.index()] = view.owners[slot.index()];
        }
    }
    owners
}

/// The marks that mean something: those whose source owns the slot. Others are left over from a move that ended, or
/// repeat a master's mark on its replica.
fn open_slots(views: &[&AskedView], nodes: &[Node], owners: &[u16; SLOT_COUNT]) -> Vec<OpenSlot> {
    let mut open = Vec::new();
    for asked in views {
        let me = asked.view.myself();
        for mark in &me.open {
            let (slot, source, target) = match mark {
                OpenMark::Migrating { slot, to } => (*slot, &me.id, to),
                OpenMark::Importing { slot, from } => (*slot, from, &me.id),
            };
            let ends = index_of(nodes, source).zip(index_of(nodes, target));
            let Some((source, target)) = ends else { continue };
            if owners[slot.index()] == source && source != target {
                open.push(OpenSlot { slot, source, target });
            }
        }
    }
    open.sort();
    open.dedup();
    open
}

/// The index of a node among nodes in the order of their ids.
fn index_of(nodes: &[Node], id: &str) -> Option<u16> {
    nodes.binary_search_by(|node| (*node.id).cmp(id)).ok().map(|index| index as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A view as text, with `#` for everything between master and epoch: `a h:1@2 myself,master - #1 0-5`.
    fn asked(at: &str, text: &str) -> AskedView {
        let text = text.replace('#', "0 0 ").replace('~', " connected");
        AskedView {
            asked: Addr::parse(at).expect("an address"),
            view: NodesView::parse(text.as_bytes()).expect("the table holds views"),
        }
    }

    fn merged(views: &[AskedView], rules: &[(&str, &str)]) -> SlotMap {
        let rules = AddressMap::new(rules.iter().map(|(from, to)| (from.to_string(), to.to_string())).collect());
        let stamp = Stamp { version: 7, asked_at_us: 9, persona: Persona::default(), default_locked: false };
        merge(views, &rules, stamp, |id| id == "b")
    }

    /// `a:0-99 b:100` of the owners, by id.
    fn owners(map: &SlotMap) -> String {
        let ranges = map
            .indexes()
            .flat_map(|node| map.ranges(node).map(move |(first, last)| format!("{}:{first}-{last}", map.node(node).id)));
        ranges.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn who_owns_a_slot() {
        fn check(what: &str, views: &[&str], expected: &str) {
            let mut views: Vec<AskedView> = views.iter().map(|text| asked("h:9", text)).collect();
            assert_eq!(owners(&merged(&views, &[])), expected, "{what}");
            views.reverse();
            assert_eq!(owners(&merged(&views, &[])), expected, "{what}, the other way round");
        }
        check("one view", &["a h:1@2 myself,master - #1~ 0-9\nb h:2@3 master - #2~ 10-19"], "a:0-9 b:10-19");
        check(
            "b took 5-9 over and a has not heard",
            &[
                "a h:1@2 myself,master - #1~ 0-9\nb h:2@3 master - #2~ 10-19",
                "a h:1@2 master - #1~ 0-4\nb h:2@3 myself,master - #3~ 5-19",
            ],
            "a:0-4 b:5-19",
        );
        check(
            "b was promoted and c still believes in a",
            &[
                "a h:1@2 master - #1~ 0-9\nb h:2@3 slave a #1~\nc h:3@4 myself,master - #2~ 10-19",
                "a h:1@2 master,fail - #1~\nb h:2@3 myself,master - #5~ 0-9\nc h:3@4 master - #2~ 10-19",
            ],
            "b:0-9 c:10-19",
        );
        check(
            "a itself says it lost 5-9, though c heard of a's later epoch and not of b's claim",
            &[
                "a h:1@2 myself,master - #8~ 0-4\nb h:2@3 master - #5~ 5-9\nc h:3@4 master - #2~",
                "a h:1@2 master - #8~ 0-9\nb h:2@3 master - #1~\nc h:3@4 myself,master - #2~",
            ],
            "a:0-4 b:5-9",
        );
        check(
            "a and b each say the slot is the other's: the later epoch",
            &["a h:1@2 myself,master - #3~\nb h:2@3 master - #1~ 0-9", "a h:1@2 master - #3~ 0-9\nb h:2@3 myself,master - #1~"],
            "a:0-9",
        );
        check(
            "equal epochs: each believes itself, the smaller id will win",
            &["a h:1@2 myself,master - #1~ 0-9\nb h:2@3 master - #1~", "a h:1@2 master - #1~\nb h:2@3 myself,master - #1~ 0-9"],
            "a:0-9",
        );
        check(
            "slots that only one view knows of",
            &["a h:1@2 myself,master - #1~ 0-9\nb h:2@3 master - #0~", "b h:2@3 myself,master - #2~ 10-19"],
            "a:0-9 b:10-19",
        );
        check("claims of a node without address", &["a :0@0 master,noaddr - #1~ 0-9\nb h:2@3 myself,master - #2~"], "");
    }

    #[test]
    fn roles_and_failures() {
        fn check(what: &str, views: &[&str], expected: &[(&str, Option<&str>, bool, u64)]) {
            let views: Vec<AskedView> = views.iter().map(|text| asked("h:9", text)).collect();
            let map = merged(&views, &[]);
            let found = map.nodes.iter().map(|node| {
                let of = match &node.role {
                    Role::Master => None,
                    Role::Replica { of } => Some(&**of),
                };
                (&*node.id, of, node.failed, node.epoch)
            });
            assert_eq!(found.collect::<Vec<_>>(), expected, "{what}");
        }
        check(
            "one view decides alone",
            &["a h:1@2 myself,master - #1~\nb h:2@3 master,fail - #2~\nc h:3@4 slave,fail? a #1~"],
            &[("a", None, false, 1), ("b", None, true, 2), ("c", Some("a"), false, 1)],
        );
        check(
            "half is no majority: b answers, so it lives",
            &["a h:1@2 myself,master - #1~\nb h:2@3 master,fail - #2~", "a h:1@2 master - #1~\nb h:2@3 myself,master - #2~"],
            &[("a", None, false, 1), ("b", None, false, 2)],
        );
        check(
            "two of three",
            &[
                "a h:1@2 myself,master - #1~\nb h:2@3 master - #2~\nc h:3@4 master,fail - #3~",
                "a h:1@2 master - #1~\nb h:2@3 myself,master - #2~\nc h:3@4 master,fail - #3~",
                "a h:1@2 master - #1~\nb h:2@3 master - #2~\nd h:4@5 myself,slave b #2~\nc h:3@4 master - #3~",
            ],
            &[("a", None, false, 1), ("b", None, false, 2), ("c", None, true, 3), ("d", Some("b"), false, 2)],
        );
        check(
            "a promoted replica was not asked: it owns slots",
            &[
                "a h:1@2 myself,master - #1~\nb h:2@3 slave c #3~\nc h:3@4 master - #3~ 0-9",
                "a h:1@2 master - #1~\nb h:2@3 master - #7~ 0-9\nc h:3@4 master,fail - #3~\nd h:4@5 myself,master - #2~",
            ],
            &[("a", None, false, 1), ("b", None, false, 7), ("c", None, false, 3), ("d", None, false, 2)],
        );
        check(
            "an empty master of epoch 6 became a replica, and one view has not heard",
            &[
                "a h:1@2 myself,master - #1~\nb h:2@3 master - #6~",
                "a h:1@2 master - #1~\nb h:2@3 slave a #1~\nc h:3@4 myself,master - #2~",
            ],
            &[("a", None, false, 1), ("b", Some("a"), false, 1), ("c", None, false, 2)],
        );
        check(
            "its own word on its role comes first",
            &["a h:1@2 myself,master - #1~\nb h:2@3 master - #4~", "a h:1@2 master - #1~\nb h:2@3 myself,slave a #1~"],
            &[("a", None, false, 1), ("b", Some("a"), false, 1)],
        );
        check(
            "its own word again: it is an empty master by now",
            &["a h:1@2 myself,master - #1~\nb h:2@3 slave a #1~", "a h:1@2 master - #1~\nb h:2@3 myself,master - #0~"],
            &[("a", None, false, 1), ("b", None, false, 0)],
        );
    }

    #[test]
    fn where_nodes_are() {
        fn check(what: &str, views: &[(&str, &str)], rules: &[(&str, &str)], expected: &[(&str, &[&str])]) {
            let views: Vec<AskedView> = views.iter().map(|(at, text)| asked(at, text)).collect();
            let map = merged(&views, rules);
            let spellings = map
                .nodes
                .iter()
                .map(|node| (node.addr.as_str().to_owned(), node.aliases.iter().map(|addr| addr.as_str().to_owned()).collect()));
            let expected: Vec<(String, Vec<String>)> = expected
                .iter()
                .map(|(addr, aliases)| (addr.to_string(), aliases.iter().map(|alias| alias.to_string()).collect()))
                .collect();
            assert_eq!(spellings.collect::<Vec<_>>(), expected, "{what}");
        }
        const A: &str = "a 10.0.0.1:1@2,x.y myself,master - #1~";
        check("hostname", &[("h:9", A)], &[], &[("10.0.0.1:1", &["x.y:1"])]);
        check("a rule for the ip", &[("h:9", A)], &[("10.0.0.1", "nat")], &[("nat:1", &["10.0.0.1:1", "x.y:1"])]);
        check("a rule for the hostname", &[("h:9", A)], &[("x.y", "nat:7")], &[("nat:7", &["10.0.0.1:1", "x.y:1"])]);
        check("its own ip is unknown", &[("h:9", "a :1@2 myself,master - #1~")], &[], &[("h:9", &["h:1"])]);
        check(
            "others know its ip",
            &[("h:9", "a :1@2 myself,master - #1~"), ("h:8", "a i:1@2 master - #1~\nb i:2@3 myself,master - #2~")],
            &[],
            &[("i:1", &["h:1", "h:9"]), ("i:2", &[])],
        );
        check(
            "most say so",
            &[
                ("h:9", "a lo:1@2 myself,master - #1~"),
                ("h:8", "a i:1@2 master - #1~\nb i:2@3 myself,master - #2~"),
                ("h:7", "a i:1@2 master - #1~\nc i:3@3 myself,master - #2~"),
            ],
            &[],
            &[("i:1", &["lo:1"]), ("i:2", &[]), ("i:3", &[])],
        );
        check(
            "nobody knows where b is",
            &[("h:9", "a i:1@2 myself,master - #1~\nb :0@0,x.y master,noaddr - #2~")],
            &[],
            &[("i:1", &[])],
        );
    }

    #[test]
    fn open_slots_of_both_ends() {
        fn check(what: &str, views: &[&str], expected: &[(u16, u16, u16)]) {
            let views: Vec<AskedView> = views.iter().map(|text| asked("h:9", text)).collect();
            let map = merged(&views, &[]);
            let found: Vec<_> = map.open_slots.iter().map(|open| (open.slot.get(), open.source, open.target)).collect();
            assert_eq!(found, expected, "{what}");
        }
        let source = "a h:1@2 myself,master - #1~ 0-9 [3->-b] [4->-b]\nb h:2@3 master - #2~ 10-19";
        let target = "a h:1@2 master - #1~ 0-9\nb h:2@3 myself,master - #2~ 10-19 [3-<-a] [5-<-a]";
        check("both", &[source, target], &[(3, 0, 1), (4, 0, 1), (5, 0, 1)]);
        check("source only", &[source], &[(3, 0, 1), (4, 0, 1)]);
        check("to a stranger", &["a h:1@2 myself,master - #1~ 0-9 [3->-z]"], &[]);
        check("b owns 3 by now", &[source, "a h:1@2 master - #1~ 0-2 4-9\nb h:2@3 myself,master - #3~ 3 10-19"], &[(4, 0, 1)]);
    }

    #[test]
    fn captures_of_real_clusters() {
        for text in [
            include_str!("captures/6.2-failed.txt"),
            include_str!("captures/7.0-failed.txt"),
            include_str!("captures/8.2-failed.txt"),
            include_str!("captures/9.1-failed.txt"),
        ] {
            let map = merged(&[asked("127.0.0.1:1", text)], &[]);
            assert_eq!((map.nodes.len(), map.covered(), map.served()), (6, 16384, 16384));
            assert_eq!((map.masters().count(), map.version, map.asked_at_us), (3, 7, 9));
            assert_eq!(map.nodes.iter().filter(|node| node.failed).count(), 1);
        }
    }

    #[test]
    fn cursors_by_id() {
        let map = merged(&[asked("h:9", "a h:1@2 myself,master - #1~ 0-9\nb h:2@3 master - #2~ 10-19")], &[]);
        assert_eq!(map.nodes.iter().map(|node| node.cursor_has_slot).collect::<Vec<_>>(), [false, true]);
    }

    proptest! {
        /// Whatever three nodes claim of three slots: a slot that someone claims has an owner, and one of those named.
        #[test]
        fn every_claimed_slot_has_a_claimed_owner(
            claims in prop::collection::vec((0usize..3, prop::collection::vec(0usize..4, 3), prop::collection::vec(0u64..4, 3)), 1..4)
        ) {
            let ids = ["a", "b", "c"];
            let views: Vec<AskedView> = claims.iter().map(|(myself, owners, epochs)| {
                let lines: Vec<String> = (0..3).map(|node| {
                    let me = if node == *myself { "myself," } else { "" };
                    let slots: Vec<String> = (0..3).filter(|slot| owners[*slot] == node).map(|slot| slot.to_string()).collect();
                    format!("{} h:{}@2 {me}master - #{}~ {}", ids[node], node + 1, epochs[node], slots.join(" "))
                }).collect();
                asked("h:9", &lines.join("\n"))
            }).collect();
            let map = merged(&views, &[]);
            for slot in 0..3u16 {
                let named: Vec<usize> = claims.iter().map(|(_, owners, _)| owners[slot as usize]).filter(|owner| *owner < 3).collect();
                let owner = map.owner(Slot::new(slot).expect("a slot")).map(|index| index as usize);
                prop_assert_eq!(owner.is_some(), !named.is_empty());
                prop_assert!(owner.is_none_or(|owner| named.contains(&owner)));
            }
        }
    }
}
