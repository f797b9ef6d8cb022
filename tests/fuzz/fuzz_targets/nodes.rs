//! Whatever nodes say of their cluster is read, and merged into a map that is sound in itself, without a panic.
#![no_main]

use keyway::cluster::{Addr, AddressMap, AskedView, NodesView, Persona, Slot, Stamp, merge};
use libfuzzer_sys::fuzz_target;

// The answers of several nodes, with an empty line between them.
fuzz_target!(|input: &[u8]| {
    let mut views = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let end = memchr::memmem::find(rest, b"\n\n").map_or(rest.len(), |at| at + 2);
        match NodesView::parse(&rest[..end]) {
            Ok(view) => {
                assert!(view.myself().flags.myself);
                assert!(view.nodes.iter().flat_map(|node| &node.slots).all(|(first, last)| first <= last));
                view.covered();
                views.push(AskedView { asked: Addr::new("127.0.0.1", 7000 + views.len() as u16), view });
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        rest = &rest[end..];
    }
    let stamp = Stamp { version: 1, asked_at_us: 1, persona: Persona::default(), default_locked: false };
    let map = merge(&views, &AddressMap::default(), stamp, |_| true);
    assert_eq!(map.covered(), Slot::all().filter(|slot| map.owner(*slot).is_some()).count());
    for slot in Slot::all() {
        assert!(map.owner(slot).is_none_or(|owner| map.node(owner).is_master()), "a slot belongs to a master");
    }
    for open in &map.open_slots {
        assert!(open.source != open.target && map.nodes.len() > open.source.max(open.target).into());
    }
    for (index, node) in map.indexes().zip(&map.nodes) {
        assert_eq!(map.find_id(&node.id), Some(index));
        assert!(map.find_addr(node.addr.as_str()).is_some());
    }
});
