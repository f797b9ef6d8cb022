//! One slot on the move, by the cluster's own commands.

use super::{Client, Cluster, Reply, wait_until};

/// Keys a MIGRATE takes along. Few, so that the slot is split between its nodes for a while.
const BATCH: usize = 10;

/// Moves a slot from one member to another as operators' tools do it: open it, carry its keys over, tell every master.
pub fn move_slot(cluster: &Cluster, slot: u16, from: usize, to: usize) {
    let slot = slot.to_string();
    let (source, target) = (cluster.member(from), cluster.member(to));
    let (mut at_source, mut at_target) = (source.client(), target.client());
    let must = |client: &mut Client, command: &[&str]| assert_eq!(client.call(command), Reply::ok(), "{command:?}");
    must(&mut at_target, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source.id]);
    must(&mut at_source, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target.id]);
    carry_keys(&mut at_source, &slot, target.port);
    must(&mut at_target, &["CLUSTER", "SETSLOT", &slot, "NODE", &target.id]);
    // Keys that have expired are not listed and cannot be carried, but are still there until the server looks at them.
    wait_until("the source to give the slot away", || {
        carry_keys(&mut at_source, &slot, target.port);
        match at_source.call(&["CLUSTER", "SETSLOT", &slot, "NODE", &target.id]) {
            reply if reply == Reply::ok() => Ok(()),
            refusal => Err(refusal.text()),
        }
    });
    for other in cluster.members().iter().filter(|member| member.is_up() && ![source.port, target.port].contains(&member.port)) {
        must(&mut other.client(), &["CLUSTER", "SETSLOT", &slot, "NODE", &target.id]);
    }
}

fn carry_keys(source: &mut Client, slot: &str, port: u16) {
    loop {
        let keys: Vec<String> =
            source.call(&["CLUSTER", "GETKEYSINSLOT", slot, &BATCH.to_string()]).elements().iter().map(Reply::text).collect();
        if keys.is_empty() {
            return;
        }
        let mut command: Vec<String> =
            ["MIGRATE", "127.0.0.1", &port.to_string(), "", "0", "30000", "KEYS"].map(str::to_owned).into();
        command.extend(keys);
        let reply = source.call(&command);
        assert!(!reply.is_error(), "{command:?}: {reply:?}");
    }
}
