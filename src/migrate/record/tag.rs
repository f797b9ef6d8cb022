//! PURE. Where the record of a plan lies: not in a slot that moves, best not on a node that gives or takes.

use crate::cluster::{Slot, SlotMap};
use crate::migrate::SlotSet;

/// Tags that are tried. Each is as good as a random slot, so a plan of nine tenths of all slots leaves hundreds of them.
const TRIES: u32 = 5000;

/// A tag whose slot a plan of these slots between these nodes leaves alone. Where every slot moves it is one of the last to do so.
pub fn tag_for(map: &SlotMap, moving: &SlotSet, ends: &[&str]) -> String {
    let rank = |tag: &String| {
        let slot = slot_of(tag);
        let at_end = map.owner(slot).is_none_or(|owner| ends.contains(&&*map.node(owner).id));
        (moving.contains(slot), at_end)
    };
    let mut best: Option<(String, (bool, bool))> = None;
    for tag in tags() {
        let rank = rank(&tag);
        if best.as_ref().is_none_or(|(_, known)| rank < *known) {
            let done = rank == (false, false);
            best = Some((tag, rank));
            if done {
                break;
            }
        }
    }
    best.map(|(tag, _)| tag).unwrap_or_default()
}

/// Tags of Keyway's own keys, always in the same order.
pub fn tags() -> impl Iterator<Item = String> {
    (0..TRIES).map(|number| format!("{number:x}"))
}

fn slot_of(tag: &str) -> Slot {
    Slot::of(format!("{{keyway:{tag}}}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Addr, Node, Persona, Role};

    fn map() -> SlotMap {
        let node = |id: u16| Node {
            id: format!("{id:040}").into(),
            addr: Addr::new("127.0.0.1", 7000 + id),
            aliases: Vec::new(),
            role: Role::Master,
            failed: false,
            epoch: 1,
            cursor_has_slot: false,
        };
        let ranges = [(0, 5460, 0), (5461, 10922, 1), (10923, 16383, 2)];
        SlotMap::new(1, 0, (0..3).map(node).collect(), &ranges, Persona::default())
    }

    #[test]
    fn a_record_stays_where_it_is() {
        let map = map();
        let id = |node: u16| map.node(node).id.to_string();
        let check = |moving: &str, ends: [u16; 2], moves: bool, at_end: bool| {
            let moving = SlotSet::parse(moving).expect("slots");
            let ends = ends.map(id);
            let slot = slot_of(&tag_for(&map, &moving, &[&ends[0], &ends[1]]));
            let owner = map.owner(slot).expect("all are owned");
            assert_eq!((moving.contains(slot), ends.contains(&id(owner))), (moves, at_end), "{moving}: {slot}");
        };
        check("0-100", [0, 1], false, false);
        check("0-5460", [0, 2], false, false);
        check("0-16000", [0, 1], false, false);
        check("10923-16383", [1, 2], false, false);
        check("0-16383", [0, 1], true, false);
    }
}
