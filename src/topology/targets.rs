//! Whom to ask. Pure.

use crate::cluster::{Addr, SlotMap};

/// More masters than this know nothing more: gossip carries a change to all of them within a second, and the node that
/// answered a MOVED knew it already.
const MASTERS_ASKED_MAX: usize = 8;

/// The masters that a refresh asks: all of them if `thorough` or if they are few, else some at random, by `shuffle`.
/// Failed ones would only keep it waiting, and are left out unless all have failed.
pub(super) fn masters_to_ask(map: &SlotMap, thorough: bool, shuffle: impl FnOnce(&mut [Addr])) -> Vec<Addr> {
    let addrs = |failed: bool| -> Vec<Addr> {
        map.masters().map(|index| map.node(index)).filter(|node| node.failed == failed).map(|node| node.addr.clone()).collect()
    };
    let mut masters = addrs(false);
    if masters.is_empty() {
        masters = addrs(true);
    }
    if masters.len() > MASTERS_ASKED_MAX && !thorough {
        shuffle(&mut masters);
        masters.truncate(MASTERS_ASKED_MAX);
    }
    masters
}

/// The others, for when no master answers: replicas, and masters that were thought to have failed.
pub(super) fn others_to_ask(map: &SlotMap) -> Vec<Addr> {
    map.nodes.iter().filter(|node| !node.is_master() || node.failed).map(|node| node.addr.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Node, Persona, Role};

    /// `m` a master, `f` a failed master with a slot, `e` a failed one without, `r` a replica.
    fn map(kinds: &str) -> SlotMap {
        let node = |(kind, port): (char, u16)| Node {
            id: format!("{port}").into(),
            addr: Addr::new("h", port),
            aliases: Vec::new(),
            role: if kind == 'r' { Role::Replica { of: "1".into() } } else { Role::Master },
            failed: matches!(kind, 'f' | 'e'),
            epoch: 1,
            cursor_has_slot: false,
        };
        let slots: Vec<(u16, u16, u16)> = kinds
            .chars()
            .zip(0..)
            .filter(|(kind, _)| matches!(kind, 'm' | 'f'))
            .map(|(_, index)| (index, index, index))
            .collect();
        SlotMap::new(1, 0, kinds.chars().zip(1..).map(node).collect(), &slots, Persona::default())
    }

    #[test]
    fn whom() {
        fn check(kinds: &str, thorough: bool, masters: &[u16], others: &[u16]) {
            let map = map(kinds);
            let ports = |addrs: Vec<Addr>| addrs.iter().map(Addr::port).collect::<Vec<_>>();
            assert_eq!(ports(masters_to_ask(&map, thorough, |addrs| addrs.reverse())), masters, "{kinds}");
            assert_eq!(ports(others_to_ask(&map)), others, "{kinds}");
        }
        check("mmm", false, &[1, 2, 3], &[]);
        check("mrmrm", false, &[1, 3, 5], &[2, 4]);
        check("mfmr", false, &[1, 3], &[2, 4]);
        check("mem", false, &[1, 3], &[2]);
        check("ffr", false, &[1, 2], &[1, 2, 3]);
        check("mmmmmmmm", false, &[1, 2, 3, 4, 5, 6, 7, 8], &[]);
        check("mmmmmmmmmm", false, &[10, 9, 8, 7, 6, 5, 4, 3], &[]);
        check("mmmmmmmmmm", true, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], &[]);
    }
}
