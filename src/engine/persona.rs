//! What a standalone server would say of itself: HELLO, and replies of nodes with the cluster taken out of them.

use crate::{
    cluster::Persona,
    command::{Policy, Verdict, lookup, lookup_sub},
    resp::{Proto, View, encode, view},
};

use super::face::Face;

/// HELLO's reply, in the protocol that the client speaks from now on.
pub fn hello(persona: &Persona, proto: Proto, id: u64, face: Face) -> Vec<u8> {
    let mut out = Vec::new();
    encode::map(&mut out, proto, 7);
    for (field, value) in [("server", persona.server.as_str()), ("version", persona.version.as_str())] {
        encode::bulk(&mut out, field);
        encode::bulk(&mut out, value);
    }
    encode::bulk(&mut out, "proto");
    encode::integer(&mut out, if proto == Proto::Resp3 { 3 } else { 2 });
    encode::bulk(&mut out, "id");
    encode::integer(&mut out, id as i64);
    for (field, value) in [("mode", face.mode()), ("role", "master")] {
        encode::bulk(&mut out, field);
        encode::bulk(&mut out, value);
    }
    encode::bulk(&mut out, "modules");
    modules(&persona.modules, proto, &mut out);
    out
}

/// HELLO's list of modules, which is kept as RESP2 has it: RESP3 makes each module's flat list a map.
fn modules(kept: &[u8], proto: Proto, out: &mut Vec<u8>) {
    let Some(View::Array(modules)) = view(kept).filter(|_| proto == Proto::Resp3) else { return out.extend_from_slice(kept) };
    encode::array(out, modules.len());
    for module in modules {
        let Some(View::Array(fields)) = view(module) else {
            out.extend_from_slice(module);
            continue;
        };
        encode::map(out, proto, fields.len() / 2);
        fields.for_each(|field| out.extend_from_slice(field));
    }
}

/// What CONFIG GET says of the proxy rather than of a node.
const CONFIG: [(&[u8], &[u8]); 5] = [
    (b"databases", b"1"),
    (b"timeout", b"0"),
    (b"replica-read-only", b"yes"),
    (b"slave-read-only", b"yes"),
    (b"cluster-databases", b"1"),
];

/// CONFIG GET's reply with a standalone server's values.
pub fn config_get(reply: &[u8], proto: Proto, face: Face, out: &mut Vec<u8>) {
    let (Some(View::Array(fields)) | Some(View::Map(fields))) = view(reply) else { return out.extend_from_slice(reply) };
    let fields: Vec<&[u8]> = fields.collect();
    encode::map(out, proto, fields.len() / 2);
    for pair in fields.chunks_exact(2) {
        out.extend_from_slice(pair[0]);
        let own = match view(pair[0]) {
            Some(View::Bulk(b"cluster-enabled")) => Some(if face == Face::Cluster { &b"yes"[..] } else { b"no" }),
            Some(View::Bulk(name)) => CONFIG.iter().find(|(known, _)| *known == name).map(|(_, value)| *value),
            _ => None,
        };
        match own {
            Some(value) => encode::bulk(out, value),
            None => out.extend_from_slice(pair[1]),
        }
    }
}

/// COMMAND's reply without what the proxy refuses, or the count of what is left.
pub fn command_list(reply: &[u8], count_only: bool, policy: &Policy, out: &mut Vec<u8>) {
    let Some(View::Array(commands)) = view(reply) else { return out.extend_from_slice(reply) };
    let kept: Vec<&[u8]> = commands.filter(|command| !is_refused(command, policy)).collect();
    if count_only {
        return encode::integer(out, kept.len() as i64);
    }
    encode::array(out, kept.len());
    for command in kept {
        out.extend_from_slice(command);
    }
}

fn is_refused(command: &[u8], policy: &Policy) -> bool {
    let Some(View::Array(mut fields)) = view(command) else { return false };
    fields.next().is_some_and(|name| is_refused_name(name, policy))
}

/// COMMAND LIST's reply without the names of what the proxy refuses.
pub fn command_names(reply: &[u8], proto: Proto, policy: &Policy, out: &mut Vec<u8>) {
    let (names, is_set) = match view(reply) {
        Some(View::Array(names)) => (names, false),
        Some(View::Set(names)) => (names, true),
        _ => return out.extend_from_slice(reply),
    };
    let kept: Vec<&[u8]> = names.filter(|name| !is_refused_name(name, policy)).collect();
    if is_set {
        encode::set(out, proto, kept.len());
    } else {
        encode::array(out, kept.len());
    }
    kept.iter().for_each(|name| out.extend_from_slice(name));
}

/// `name` is a string of the reply: `shutdown`, or `config|set`.
fn is_refused_name(name: &[u8], policy: &Policy) -> bool {
    let Some(View::Bulk(name) | View::Simple(name)) = view(name) else { return false };
    let mut words = name.splitn(2, |byte| *byte == b'|');
    let command = words.next().and_then(lookup);
    let command = match words.next() {
        Some(sub) => command.and_then(|container| lookup_sub(container, sub)),
        None => command,
    };
    match command {
        Some(command) => policy.refuses(command),
        None => policy.verdict_on_module(name) == Verdict::Denied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: &[u8], expected: &str) {
        assert_eq!(String::from_utf8_lossy(found), expected);
    }

    #[test]
    fn hello_is_a_map_or_a_flat_array() {
        let persona = Persona { server: "redis".into(), version: "7.0.15".into(), modules: b"*0\r\n".to_vec() };
        check(
            &hello(&persona, Proto::Resp3, 5, Face::Standalone),
            "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:5\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n",
        );
        assert!(hello(&persona, Proto::Resp2, 5, Face::Standalone).starts_with(b"*14\r\n"));
    }

    #[test]
    fn modules_are_maps_in_resp3() {
        let kept = "*1\r\n*4\r\n$4\r\nname\r\n$1\r\nv\r\n$4\r\nargs\r\n*0\r\n";
        let mut out = Vec::new();
        modules(kept.as_bytes(), Proto::Resp2, &mut out);
        check(&out, kept);
        out.clear();
        modules(kept.as_bytes(), Proto::Resp3, &mut out);
        check(&out, &kept.replace("*4", "%2"));
    }

    #[test]
    fn refused_names_are_not_listed() {
        let mut out = Vec::new();
        let reply = b"*4\r\n$3\r\nget\r\n$10\r\nconfig|set\r\n+shutdown\r\n$10\r\nconfig|get\r\n";
        command_names(reply, Proto::Resp2, &Policy::default(), &mut out);
        check(&out, "*2\r\n$3\r\nget\r\n$10\r\nconfig|get\r\n");
        out.clear();
        command_names(b"~2\r\n$3\r\nget\r\n$8\r\nshutdown\r\n", Proto::Resp3, &Policy::default(), &mut out);
        check(&out, "~1\r\n$3\r\nget\r\n");
    }

    #[test]
    fn the_cluster_is_taken_out_of_config_get() {
        let mut out = Vec::new();
        config_get(b"*4\r\n$9\r\ndatabases\r\n$2\r\n16\r\n$4\r\nsave\r\n$0\r\n\r\n", Proto::Resp2, Face::Standalone, &mut out);
        check(&out, "*4\r\n$9\r\ndatabases\r\n$1\r\n1\r\n$4\r\nsave\r\n$0\r\n\r\n");
        out.clear();
        config_get(b"%1\r\n$15\r\ncluster-enabled\r\n$3\r\nyes\r\n", Proto::Resp3, Face::Standalone, &mut out);
        check(&out, "%1\r\n$15\r\ncluster-enabled\r\n$2\r\nno\r\n");
    }

    #[test]
    fn refused_commands_are_not_listed() {
        let reply = b"*3\r\n*1\r\n$3\r\nget\r\n*1\r\n$8\r\nshutdown\r\n*1\r\n$3\r\nset\r\n";
        let mut out = Vec::new();
        command_list(reply, false, &Policy::default(), &mut out);
        check(&out, "*2\r\n*1\r\n$3\r\nget\r\n*1\r\n$3\r\nset\r\n");
        out.clear();
        command_list(reply, true, &Policy::default(), &mut out);
        check(&out, ":2\r\n");
    }
}
