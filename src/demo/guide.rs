//! What `keyway demo` prints when its cluster is up.

use std::fmt::Write;

use super::node::{Node, NodeError};
use super::{Plan, form, program};

pub(super) fn write(plan: &Plan, nodes: &mut [Node], pids: &[u32]) -> Result<String, NodeError> {
    let ids = nodes.iter_mut().map(|node| node.ask(&["CLUSTER", "MYID"])).collect::<Result<Vec<_>, _>>()?;
    Ok(text(plan, &ids, pids, program::client_name()))
}

/// Pure, so that a test can read it. Writing to a String cannot fail.
fn text(plan: &Plan, ids: &[String], pids: &[u32], client: &str) -> String {
    let mut out = String::new();
    let replicas = plan.ports.len() - plan.masters;
    let _ = writeln!(out, "\nA cluster is up (masters: {}, replicas: {replicas}):\n", plan.masters);
    for (index, port) in plan.ports.iter().enumerate() {
        let _ = writeln!(out, "  127.0.0.1:{port:<6} {:<30} pid {:<8} {}", role(plan, index), pids[index], ids[index]);
    }
    let (proxy, admin) = (plan.proxy_port, plan.admin_port());
    let _ = write!(
        out,
        "
Keyway makes it one server, 127.0.0.1:{proxy}. Try in another terminal:

  {client} -p {proxy} set hello world
  {client} -p {proxy} get hello
  {client} -p {proxy} mget hello a b c          (keys of several nodes in one command)
  {client} -p {proxy} -r -1 -i 0.1 incr counter (a client that never stops; let it run)
"
    );
    if plan.masters > 1 {
        let (from, to) = (&ids[0], &ids[1]);
        let _ = write!(
            out,
            "
Move slots under it; the client sees no error (swap the two ids to move them back):

  {client} --cluster reshard 127.0.0.1:{0} --cluster-yes --cluster-slots 1000 \\
    --cluster-from {from} \\
    --cluster-to {to}

Or have the proxy plan it, and do it behind gates (deploy/moving-slots.md goes on from here):

  {client} -p {admin} proxy migrate plan move 0-399 from 127.0.0.1:{0} to 127.0.0.1:{1}
",
            plan.ports[0], plan.ports[1]
        );
    }
    if replicas > 0 {
        let _ = write!(out, "\nKill the first master; its replica takes over:\n\n  kill -9 {}\n", pids[0]);
    }
    let _ = write!(
        out,
        "
Ask the proxy itself:

  {client} -p {admin} proxy help

Ctrl-C stops all of it and leaves nothing behind.

"
    );
    out
}

fn role(plan: &Plan, index: usize) -> String {
    match index.checked_sub(plan.masters) {
        None => {
            let (from, to) = form::share(index, plan.masters);
            format!("master, slots {from} to {}", to - 1)
        }
        Some(replica) => format!("replica of 127.0.0.1:{}", plan.ports[replica % plan.masters]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::program::Program;

    fn plan(masters: usize, ports: &[u16]) -> Plan {
        let program = Program::find(Some(std::path::Path::new("/bin/sh"))).expect("every Unix has a shell");
        Plan { program, proxy_port: 6380, masters, ports: ports.to_vec() }
    }

    #[test]
    fn names_the_real_nodes() {
        let ids = ["aaa", "bbb", "ccc"].map(str::to_owned);
        let text = text(&plan(2, &[7000, 7001, 7002]), &ids, &[11, 12, 13], "redis-cli");
        for expected in [
            "A cluster is up (masters: 2, replicas: 1):\n",
            "  127.0.0.1:7000   master, slots 0 to 8191        pid 11       aaa\n",
            "  127.0.0.1:7002   replica of 127.0.0.1:7000      pid 13       ccc\n",
            "  redis-cli -p 6380 get hello\n",
            "reshard 127.0.0.1:7000 --cluster-yes --cluster-slots 1000 \\\n    --cluster-from aaa \\\n    --cluster-to bbb\n",
            "  kill -9 11\n",
            "  redis-cli -p 6390 proxy help\n",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in {text}");
        }
    }

    #[test]
    fn offers_only_what_the_cluster_can_do() {
        let text = text(&plan(1, &[7000]), &["aaa".to_owned()], &[11], "valkey-cli");
        assert!(!text.contains("reshard") && !text.contains("kill") && text.contains("valkey-cli -p 6380"), "{text}");
    }
}
