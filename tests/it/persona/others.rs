//! Clients, scripts and commands that the proxy has to know about.

use super::Scene;
use crate::harness::cluster::{ClusterOptions, tags_in};
use crate::harness::{Client, Cluster, Proxy, Reply, Server, wait_until};

pub fn clients(scene: &Scene) {
    let id = |client: &mut Client| client.call(&["CLIENT", "ID"]).integer().expect("an id");
    let mut first = scene.proxy.client();
    let first_id = id(&mut first);
    let mut second = scene.proxy.client();
    let second_id = id(&mut second);
    assert!(0 < first_id && first_id < second_id, "{first_id}, {second_id}");
    assert_eq!(id(&mut first), first_id, "it stays");
    let hello = first.call(&["HELLO", "3"]);
    let at = hello.elements().iter().position(|name| name.text() == "id").expect("HELLO tells the id");
    assert_eq!(hello.elements()[at + 1], Reply::Integer(first_id));

    first.call(&["CLIENT", "SETNAME", "worker:1"]);
    second.call(&["CLIENT", "SETNAME", "worker:2"]);
    let list = |client: &mut Client, more: &[&str]| client.call(&[&["CLIENT", "LIST"], more].concat()).text();
    // The two may be on different workers, which tell each other in their own time.
    wait_until("both in CLIENT LIST", || {
        let text = list(&mut first, &[]);
        let named = |name: &str| text.lines().any(|line| line.contains(&format!(" name={name} ")));
        if named("worker:1") && named("worker:2") { Ok(()) } else { Err(text) }
    });
    assert!(list(&mut first, &[]).lines().all(|line| line.starts_with("id=")));
    let one = list(&mut second, &["ID", &first_id.to_string()]);
    assert_eq!(one.lines().count(), 1, "{one}");
    assert!(one.starts_with(&format!("id={first_id} ")), "{one}");
    assert!(list(&mut second, &["TYPE", "normal"]).lines().count() >= 2);
    assert!(first.call(&["CLIENT", "INFO"]).text().contains(&format!("id={first_id} ")));
    // Who has gone is gone from the list.
    drop(second);
    wait_until("one to be gone from CLIENT LIST", || {
        let text = list(&mut first, &[]);
        if text.contains("name=worker:2 ") { Err(text) } else { Ok(()) }
    });
}

pub fn scripts(scene: &Scene) {
    let tags = tags_in(0..1).into_iter().chain(tags_in(8000..8001)).chain(tags_in(16000..16001)).collect::<Vec<_>>();
    let flush_behind_its_back = || {
        for member in scene.cluster.members() {
            assert_eq!(member.client().call(&["SCRIPT", "FLUSH"]), Reply::ok());
        }
    };
    let mut client = scene.proxy.client();
    let sha = client.call(&["SCRIPT", "LOAD", "return {KEYS[1],ARGV[1]}"]).text();
    flush_behind_its_back();
    for tag in &tags {
        let expected = Reply::Array(vec![Reply::bulk(tag), Reply::bulk("x")]);
        assert_eq!(client.call(&["EVALSHA", &sha, "1", tag, "x"]), expected, "a body seen by SCRIPT LOAD");
    }
    // EVAL loads the script where it ran; the client may call it by its hash anywhere, from another connection.
    let body = "return redis.call('INCR',KEYS[1])";
    assert_eq!(client.call(&["EVAL", body, "1", &tags[0]]), Reply::Integer(1));
    let sha = sha1_smol::Sha1::from(body).digest().to_string();
    let mut other = scene.proxy.client();
    for (tag, expected) in tags.iter().zip([2, 1, 1]) {
        assert_eq!(other.call(&["EVALSHA", &sha, "1", tag]), Reply::Integer(expected), "a body seen by EVAL");
    }
    flush_behind_its_back();
    let pipelined: Vec<Vec<&str>> = (0..60).map(|n| vec!["EVALSHA", &sha, "1", &tags[n % 3]]).collect();
    let replies = other.pipeline(&pipelined);
    let expected: Vec<Reply> = (0..60).map(|n| Reply::Integer(if n % 3 == 0 { 3 } else { 2 } + n / 3)).collect();
    assert_eq!(replies, expected, "healed in the middle of a pipeline, in order");
    assert_eq!(client.call(&["SCRIPT", "EXISTS", &sha]), Reply::Array(vec![Reply::Integer(1)]));
    assert_eq!(client.call(&["SCRIPT", "FLUSH"]), Reply::ok());
    let reply = client.call(&["EVALSHA", &sha, "1", &tags[0]]);
    assert!(reply.text().starts_with("NOSCRIPT"), "a flushed script is unknown again: {reply:?}");
}

/// A command that no table knows is looked up in the cluster itself. Renamed ones stand for modules and newer servers.
pub fn commands_of_the_server(server: Server) {
    let renamed = ["--rename-command", "SADD", "SHOVEL", "--rename-command", "MSET", "MANY", "--rename-command", "GETRANGE", ""];
    let options = ClusterOptions { arguments: renamed.map(str::to_owned).to_vec(), ..ClusterOptions::default() };
    let cluster = Cluster::start(server, options);
    let proxy = Proxy::start(&cluster);
    let mut client = proxy.client();
    for tag in tags_in(0..1).iter().chain(&tags_in(8000..8001)).chain(&tags_in(16000..16001)) {
        assert_eq!(client.call(&["SHOVEL", tag, "a", "b"]), Reply::Integer(2), "one key");
        assert_eq!(client.call(&["SCARD", tag]), Reply::Integer(2));
        let (one, two) = (format!("{tag}1"), format!("{tag}2"));
        assert_eq!(client.call(&["many", &one, "1", &two, "2"]), Reply::ok(), "several keys of a slot");
        assert_eq!(client.call(&["MGET", &one, &two]), Reply::Array(vec![Reply::bulk("1"), Reply::bulk("2")]));
    }
    assert_eq!(client.call(&["MANY", "a", "1", "b", "2"]), Reply::error("CROSSSLOT Keys in request don't hash to the same slot"));
    for unknown in [&["SADD", "k", "m"][..], &["GETRANGE", "k", "0", "1"], &["NOSUCH", "a b"]] {
        let expected = cluster.any_client().call(unknown);
        assert!(expected.text().starts_with("ERR unknown command"), "{expected:?}");
        assert_eq!(client.call(unknown), expected, "the server's own words");
    }
}
