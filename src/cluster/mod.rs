//! What a cluster looks like: slots, nodes, the slot map, and how they are read from what nodes say. Pure: bytes
//! and values in, values out.
//!
//! `CLUSTER NODES` texts become `NodesView`s, several of which `merge` into one `SlotMap`; a `-MOVED` or `-ASK` becomes a
//! `Redirect`, whose address is looked up in the map.

mod addr;
mod crc;
mod merge;
mod node;
mod nodes_text;
mod persona;
mod redirect;
mod slot;
mod slot_map;

pub use addr::{Addr, AddressMap};
pub use merge::{AskedView, Stamp, merge};
pub use node::{Node, Role};
pub use nodes_text::{NodeFacts, NodeFlags, NodesError, NodesView, OpenMark};
pub use persona::Persona;
pub use redirect::{Redirect, parse_redirect};
pub use slot::{SLOT_COUNT, Slot, hash_tag};
pub use slot_map::{OpenSlot, Pin, SlotMap};
