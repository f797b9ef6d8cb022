//! Who clients are: the cluster's own users (AUTH, HELLO AUTH, ACL rules), the proxy's, and strangers. What a standalone server with the
//! same users answers is what the proxy must answer.

use std::collections::BTreeSet;

use crate::harness::cluster::ClusterOptions;
use crate::harness::text::words;
use crate::harness::{Client, Cluster, Proxy, Reply, Server, Standalone, wait_until};

/// The proxy's own account, on clusters whose default user needs a password.
const SERVICE: &[&str] = &["ACL", "SETUSER", "keyway", "on", ">service-secret", "~*", "&*", "+@all"];
const SERVICE_SETTINGS: &[(&str, &str)] = &[("cluster.username", "keyway"), ("cluster.password", "service-secret")];

/// Does the same on every node, past the proxy.
fn on_nodes(cluster: &Cluster, command: &[&str]) {
    for member in cluster.members() {
        let reply = member.client().call(command);
        assert!(!reply.is_error(), "{command:?}: {reply:?}");
    }
}

fn login(client: &mut Client, user: &str, password: &str) {
    assert_eq!(client.call(&["AUTH", user, password]), Reply::ok(), "{user}");
}

/// The users of the tests: what 6.2 knows, and since 7.0 selectors and rights by direction.
fn users(server: Server) -> Vec<Vec<&'static str>> {
    let mut users = vec![
        vec!["ACL", "SETUSER", "app", "on", ">app-secret", "~app:*", "+@all", "-@dangerous", "resetchannels", "&app:*"],
        vec!["ACL", "SETUSER", "reader", "on", ">reader-secret", "~app:*", "+@read"],
        vec!["ACL", "SETUSER", "scanner", "on", ">scanner-secret", "~app:*", "+scan", "+get"],
        vec!["ACL", "SETUSER", "nobody", "on", ">nobody-secret"],
        vec!["ACL", "SETUSER", "off", "off", ">off-secret", "+@all", "~*"],
    ];
    if server != Server::Redis62 {
        users.push(vec!["ACL", "SETUSER", "selected", "on", ">selected-secret", "+@read", "~r:*", "(+set ~w:*)"]);
        users.push(vec!["ACL", "SETUSER", "halves", "on", ">halves-secret", "+@all", "%R~r:*", "%W~w:*"]);
    }
    users
}

/// Commands that a user tries, one of each kind of way through the proxy.
const TRIES: &str = r#"
PING
PING hello
ECHO x
SELECT 0
GET app:1
GET other
SET app:1 v
SET w:1 v
SET r:1 v
GET r:1
GET w:1
COPY r:1{a} w:1{a}
MGET app:1 app:2 app:3
MGET app:1 other
DEL app:1 app:2
EXISTS app:1 other
MSET app:1 a app:2 b
KEYS app:*
DBSIZE
FLUSHALL
EVAL "return 1" 0
EVAL "return redis.call('GET', KEYS[1])" 1 other
PUBLISH app:news x
PUBLISH other x
ROLE
CLIENT ID x
CLIENT GETNAME
CLIENT SETNAME me
CLIENT KILL ID
CLIENT LIST TYPE pubsub
CLIENT INFO x
CLIENT REPLY FOO
CLIENT NO-EVICT FOO
CONFIG GET maxmemory
CONFIG GET
ACL WHOAMI
ACL CAT nosuch
ACL GETUSER nosuch
ACL SETUSER x +nosuch
COMMAND COUNT x
LASTSAVE x
OBJECT ENCODING other
RANDOMKEY
NOSUCH a b
GET
CLIENT FOO
WATCH app:1
UNWATCH
WATCH other
UNWATCH
MULTI
SET app:1 v
GET app:1
EXEC
EXEC
DISCARD
BLPOP other 0.01
BLPOP app:9 0.01
WAIT 0 1
SUBSCRIBE other
RESET x
AUTH nobody wrong
ACL WHOAMI
HELLO 2
QUIT x
"#;

fn scans_everything(client: &mut Client) -> Result<BTreeSet<String>, Reply> {
    let (mut cursor, mut found) = ("0".to_owned(), BTreeSet::new());
    loop {
        let page = client.call(&["SCAN", &cursor, "COUNT", "100"]);
        let [next, keys] = page.elements() else { return Err(page) };
        found.extend(keys.elements().iter().map(Reply::text));
        cursor = next.text();
        if cursor == "0" {
            return Ok(found);
        }
    }
}

/// Users with key patterns, categories, channel rules and selectors: a standalone server with the same users answers the same words.
fn rights(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let standalone = Standalone::start(server);
    let users = users(server);
    for user in &users {
        assert_eq!(proxy.client().call(user), Reply::ok(), "every node is told: {user:?}");
        assert_eq!(standalone.client().call(user), Reply::ok());
    }
    for member in cluster.members() {
        assert_eq!(member.client().call(&["ACL", "USERS"]).elements().len(), users.len() + 1);
    }
    let mut differences = Vec::new();
    for user in &users {
        let name = user[2];
        for hello in [None, Some("2"), Some("3")] {
            let (mut expected, mut found) = (standalone.client(), proxy.client());
            for client in [&mut expected, &mut found] {
                let password = format!("{name}-secret");
                let entered = match hello {
                    None => client.call(&["AUTH", name, &password]),
                    Some(version) => client.call(&["HELLO", version, "AUTH", name, &password, "SETNAME", "tester"]),
                };
                assert_eq!(entered.is_error(), name == "off", "{entered:?}");
            }
            for line in TRIES.lines().filter(|line| !line.is_empty()) {
                let command = words(line);
                let [expected, found] = [&mut expected, &mut found].map(|client| client.call(&command));
                let same = crate::commands::sorted(&expected) == crate::commands::sorted(&found);
                // Any key will do; and part of it was done, which the error says.
                let by_type = line == "RANDOMKEY" && expected.is_error() == found.is_error() && !expected.is_error();
                let partly = found.text().starts_with(&expected.text()) && found.text().contains("(proxy: 1 of 2 parts failed");
                let missing = found.text().contains("not supported yet");
                let greeted = line == "HELLO 2" && !expected.is_error() && !found.is_error();
                if !(same || by_type || partly || missing || greeted) {
                    differences.push(format!("{name} {hello:?}: {line}\n    standalone {expected:?}\n    proxy      {found:?}"));
                }
            }
            standalone.client().call(&["FLUSHALL"]);
            proxy.client().call(&["FLUSHALL"]);
        }
    }
    assert!(differences.is_empty(), "{server:?}:\n{}", differences.join("\n"));

    // Who may SCAN may SCAN, whatever else it takes to look at a cluster; who may not hears it in the server's words.
    let names: BTreeSet<String> = (0..300).map(|n| format!("key:{n}")).collect();
    for name in &names {
        proxy.client().call(&["SET", name, "v"]);
    }
    let mut client = proxy.client();
    login(&mut client, "scanner", "scanner-secret");
    assert_eq!(scans_everything(&mut client), Ok(names));
    let filtered = client.call(&["SCAN", "0", "COUNT", "100000", "TYPE", "string", "MATCH", "key:1*"]);
    assert!(!filtered.is_error(), "{filtered:?}");
    let [mut expected, mut found] = [standalone.client(), proxy.client()];
    login(&mut expected, "nobody", "nobody-secret");
    login(&mut found, "nobody", "nobody-secret");
    assert_eq!(found.call(&["SCAN", "0"]), expected.call(&["SCAN", "0"]));

    // Who may run a script by its hash may do so on a node that has never seen it.
    let sha = proxy.client().call(&["SCRIPT", "LOAD", "return redis.call('GET', KEYS[1])"]).text();
    for member in cluster.members() {
        assert_eq!(member.client().call(&["SCRIPT", "FLUSH"]), Reply::ok());
    }
    for (user, more) in [("hashed", "+multi"), ("only-hashed", "-multi")] {
        let rule = ["ACL", "SETUSER", user, "on", ">p", "~key:*", "+evalsha", "+get", "+exec", more];
        assert_eq!(proxy.client().call(&rule), Reply::ok());
        let mut client = proxy.client();
        login(&mut client, user, "p");
        for name in ["key:1", "key:2", "key:3", "key:4"] {
            assert_eq!(client.call(&["EVALSHA", &sha, "1", name]), Reply::bulk("v"), "{user}");
        }
        assert!(client.call(&["EVAL", "return 1", "0"]).text().starts_with("NOPERM"));
        for member in cluster.members() {
            assert_eq!(member.client().call(&["SCRIPT", "FLUSH"]), Reply::ok());
        }
    }

    // A command of a restricted user that no table knows does not make it unknown to others.
    assert!(found.call(&["NOSUCH", "a"]).text().contains("unknown command"));
}

/// Names of users by the number of their connections to the nodes that are the proxy's.
fn lanes_by_user(cluster: &Cluster) -> Vec<String> {
    let mut users = Vec::new();
    for member in cluster.members() {
        for line in member.client().call(&["CLIENT", "LIST"]).text().lines() {
            let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)).unwrap_or_default().to_owned();
            if field("cmd=") != "client|list" && field("cmd=") != "client" {
                users.push(field("user="));
            }
        }
    }
    users
}

/// Two users do not share a connection, a wrong password bothers nobody else, and lanes go when their users' clients do.
fn lanes(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    for user in ["one", "two"] {
        let secret = format!(">{user}-secret");
        on_nodes(&cluster, &["ACL", "SETUSER", user, "on", &secret, "~*", "&*", "+@all"]);
    }
    let mut clients = Vec::new();
    for round in 0..4 {
        for user in ["one", "two"] {
            let mut client = proxy.client();
            login(&mut client, user, &format!("{user}-secret"));
            for key in 0..30 {
                assert_eq!(client.call(&["SET", &format!("{user}:{round}:{key}"), "v"]), Reply::ok());
            }
            assert_eq!(client.call(&["ACL", "WHOAMI"]), Reply::bulk(user));
            let line = client.call(&["CLIENT", "INFO"]).text();
            assert!(line.contains(&format!(" user={user} ")), "{line}");
            clients.push((user, client));
        }
    }
    for user in ["one", "two"] {
        let lanes = lanes_by_user(&cluster).iter().filter(|name| *name == user).count();
        assert!((3..=12).contains(&lanes), "{lanes} connections of {user}: shared by its clients, and by nobody else");
    }
    // Strangers guess while a client of another connection pipelines: no reply is late or misplaced.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..60 {
                let reply = proxy.client().call(&["AUTH", "one", &format!("guess-{n}")]);
                assert!(reply.text().starts_with("WRONGPASS"), "{reply:?}");
            }
        });
        let (_, client) = &mut clients[0];
        for round in 0..100 {
            let requests: Vec<Vec<String>> = (0..50).map(|n| vec!["ECHO".into(), format!("{round}-{n}")]).collect();
            let expected: Vec<Reply> = (0..50).map(|n| Reply::bulk(format!("{round}-{n}"))).collect();
            assert_eq!(client.pipeline(&requests), expected);
            assert_eq!(client.call(&["GET", "one:0:1"]), Reply::bulk("v"));
        }
    });
    // A failed AUTH leaves the client who it was; a pipeline's requests are those of whom it was at each point.
    let (_, client) = &mut clients[0];
    let pipeline = [
        "ACL WHOAMI",
        "AUTH one wrong",
        "ACL WHOAMI",
        "AUTH two two-secret",
        "ACL WHOAMI",
        "GET two:0:1",
        "AUTH nobody x",
        "ACL WHOAMI",
    ];
    let requests: Vec<Vec<Vec<u8>>> = pipeline.iter().map(|line| words(line)).collect();
    let texts: Vec<String> = client.pipeline(&requests).iter().map(|reply| reply.text().chars().take(9).collect()).collect();
    assert_eq!(texts, ["one", "WRONGPASS", "one", "OK", "two", "v", "WRONGPASS", "two"]);
    drop(clients);
    let log = proxy.log();
    assert!(!log.contains("guess-") && !log.contains("-secret"), "{log}");
}

/// The default user needs a password: strangers are told so, in the server's own order of checks and within its own limits.
fn strangers(server: Server) {
    let cluster = Cluster::of_masters(server);
    on_nodes(&cluster, SERVICE);
    on_nodes(&cluster, &["ACL", "SETUSER", "default", "on", ">pw"]);
    on_nodes_with(&cluster, "pw", &["ACL", "SETUSER", "app", "on", ">app-secret", "~*", "&*", "+@all"]);
    let standalone = Standalone::start(server);
    for command in
        [&["ACL", "SETUSER", "app", "on", ">app-secret", "~*", "&*", "+@all"][..], &["CONFIG", "SET", "requirepass", "pw"]]
    {
        assert_eq!(standalone.client().call(command), Reply::ok());
    }
    let proxy = Proxy::launch(&cluster.seeds(), SERVICE_SETTINGS);
    wait_until("the proxy to know whom it serves", || {
        let mut client = Client::try_connect(proxy.port).ok_or("no listener yet")?;
        match client.try_call(&["GET", "k"]) {
            Some(reply) if reply.text().starts_with("NOAUTH") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let mut differences = Vec::new();
    let tries = [
        "FOO a",
        "GET",
        "GET k",
        "PING",
        "ECHO x",
        "CONFIG",
        "CONFIG FOO",
        "CONFIG GET x",
        "CLUSTER INFO",
        "HELLO",
        "HELLO 2",
        "HELLO 3",
        "HELLO 4",
        "HELLO x",
        "HELLO 3 FOO",
        "HELLO 3 SETNAME a",
        "HELLO 3 SETNAME 'a b'",
        "HELLO 3 AUTH default bad",
        "HELLO 3 AUTH default",
        "HELLO 4 AUTH default pw",
        "HELLO 3 AUTH default bad FOO",
        "HELLO 3 AUTH default bad SETNAME 'a b'",
        "HELLO 3 SETNAME 'a b' AUTH default bad",
        "HELLO 3 AUTH default pw FOO",
        "HELLO 3 AUTH default bad AUTH default",
        "AUTH",
        "AUTH a b c",
        "AUTH bad",
        "AUTH default bad",
        "AUTH nobody x",
        "AUTH pw",
        "AUTH default pw",
        "RESET",
        "RESET x",
        "QUIT",
        "QUIT x",
        "EXEC",
        "SENTINEL x",
        "CLIENT SETNAME a",
        "CLIENT FOO",
        "LOLWUT",
        "MGET a b",
        "SCAN 0",
        "KEYS *",
        "FLUSHALL",
        "COMMAND",
        "ACL WHOAMI",
        "SELECT 0",
        "SELECT",
    ];
    for line in tries {
        let mut sides = [standalone.client(), proxy.client()];
        // What the try made of the connection shows in what follows.
        let [expected, found] = [0, 1].map(|side| {
            let client = &mut sides[side];
            let all = [
                words(line),
                words("ACL WHOAMI"),
                words("CLIENT GETNAME"),
                words("AUTH pw"),
                words("CLIENT GETNAME"),
                words("GET missing"),
            ];
            let count = if line.starts_with("QUIT") { 1 } else { all.len() };
            all[..count].iter().map(|command| client.call(command)).collect::<Vec<_>>()
        });
        if expected != found {
            differences.push(format!("{line}\n    standalone {expected:?}\n    proxy      {found:?}"));
        }
    }
    for bytes in [
        &b"*11\r\n"[..],
        b"*11\r\n$4\r\nPING\r\n",
        b"*2\r\n$4\r\nPING\r\n$16385\r\n",
        b"PING a b c d e f g h i j k l\r\n",
        b"*0\r\n",
        b"*2\r\n$4\r\nECHO\r\n$2\r\nxy\r\n",
    ] {
        let [expected, found] = [standalone.client(), proxy.client()].map(|mut client| {
            client.send(bytes).expect("a fresh connection takes bytes");
            client.finish().expect("it is open");
            client.until_closed()
        });
        if expected != found {
            differences.push(format!("{}\n    standalone {expected:?}\n    proxy      {found:?}", bytes.escape_ascii()));
        }
    }
    assert!(differences.is_empty(), "{server:?}:\n{}", differences.join("\n"));

    // Once in, nothing of it is felt; RESET makes a stranger again.
    let mut client = proxy.client();
    login(&mut client, "app", "app-secret");
    let long = "x".repeat(100_000);
    assert_eq!(client.call(&["SET", "k", &long]), Reply::ok());
    assert_eq!(client.call(&["RESET"]), Reply::Simple(b"RESET".to_vec()));
    assert!(client.call(&["GET", "k"]).text().starts_with("NOAUTH"));
    let hello = client.call(&["HELLO", "3", "AUTH", "app", "app-secret", "SETNAME", "me"]);
    assert!(matches!(hello, Reply::Map(_)), "{hello:?}");
    assert_eq!(client.call(&["CLIENT", "GETNAME"]), Reply::bulk("me"));
    assert_eq!(client.call(&["GET", "k"]), Reply::bulk(&long));
    // The proxy's own account is nobody's.
    assert!(lanes_by_user_as(&cluster, "pw").iter().filter(|user| *user == "app").count() > 0);

    // The password goes: nobody is asked any more, soon.
    on_nodes_with(&cluster, "pw", &["ACL", "SETUSER", "default", "nopass"]);
    let mut waiting = proxy.client();
    wait_until("strangers to be let in", || match waiting.call(&["GET", "missing"]) {
        Reply::NullBulk => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn on_nodes_with(cluster: &Cluster, password: &str, command: &[&str]) {
    for member in cluster.members() {
        let mut client = member.client();
        client.call(&["AUTH", password]);
        let reply = client.call(command);
        assert!(!reply.is_error(), "{command:?}: {reply:?}");
    }
}

fn lanes_by_user_as(cluster: &Cluster, password: &str) -> Vec<String> {
    let mut users = Vec::new();
    for member in cluster.members() {
        let mut client = member.client();
        client.call(&["AUTH", password]);
        let list = client.call(&["CLIENT", "LIST"]).text();
        users.extend(
            list.lines().filter_map(|line| line.split(' ').find_map(|field| field.strip_prefix("user=")).map(str::to_owned)),
        );
    }
    users
}

/// Passwords rotate, users go, and the default user gets a password while clients are there.
fn changes(server: Server) {
    let cluster = Cluster::of_masters(server);
    on_nodes(&cluster, SERVICE);
    let settings = [SERVICE_SETTINGS, &[("cluster.refresh_interval", "500ms")]].concat();
    let proxy = Proxy::start_with(&cluster, &settings);
    let mut admin = proxy.client();
    assert_eq!(admin.call(&["ACL", "SETUSER", "app", "on", ">old", "~*", "&*", "+@all"]), Reply::ok());
    let mut old = proxy.client();
    login(&mut old, "app", "old");
    assert_eq!(old.call(&["SET", "k", "v"]), Reply::ok());

    assert_eq!(admin.call(&["ACL", "SETUSER", "app", ">new"]), Reply::ok());
    let mut new = proxy.client();
    login(&mut new, "app", "new");
    assert_eq!(admin.call(&["ACL", "SETUSER", "app", "<old"]), Reply::ok());
    assert_eq!(old.call(&["GET", "k"]), Reply::bulk("v"), "who is in stays in");
    assert!(proxy.client().call(&["AUTH", "app", "old"]).text().starts_with("WRONGPASS"), "the change is noticed at once");
    assert!(old.call(&["AUTH", "app", "old"]).text().starts_with("WRONGPASS"));
    assert_eq!(old.call(&["GET", "k"]), Reply::bulk("v"), "a failed AUTH changes nothing");
    login(&mut old, "app", "new");

    // Rights change under way.
    assert_eq!(admin.call(&["ACL", "SETUSER", "app", "-get"]), Reply::ok());
    assert!(new.call(&["GET", "k"]).text().starts_with("NOPERM"));
    assert_eq!(admin.call(&["ACL", "SETUSER", "app", "+get"]), Reply::ok());
    assert_eq!(new.call(&["GET", "k"]), Reply::bulk("v"));

    // A user who is deleted: his clients are told why, and are closed.
    assert_eq!(admin.call(&["ACL", "DELUSER", "app", "nosuch"]), Reply::Integer(1));
    for client in [&mut old, &mut new] {
        let told = client.try_call(&["GET", "k"]);
        assert!(told.is_none_or(|reply| reply.text().starts_with("WRONGPASS")), "who is deleted gets nothing");
        assert!(client.until_closed().is_some(), "and is let go");
    }
    assert!(proxy.client().call(&["AUTH", "app", "new"]).text().starts_with("WRONGPASS"));
    assert_eq!(admin.call(&["GET", "k"]), Reply::bulk("v"), "nobody else notices");

    // One node cannot do it: all others have, and the error says which has not.
    let lone = cluster.member(1);
    assert_eq!(lone.client().call(&["ACL", "SETUSER", "default", "-acl"]), Reply::ok());
    let reply = admin.call(&["ACL", "SETUSER", "late", "on"]).text();
    assert!(reply.starts_with("NOPERM") && reply.contains(&format!("127.0.0.1:{}", lone.port)), "{reply}");
    assert!(reply.contains("not done on 1 of 3 nodes"), "{reply}");
    let mut service = lone.client();
    login(&mut service, "keyway", "service-secret");
    assert_eq!(service.call(&["ACL", "SETUSER", "default", "+acl"]), Reply::ok());
    assert_eq!(admin.call(&["ACL", "SETUSER", "late", "on"]), Reply::ok());

    // The default user gets a password: who is in stays in, who comes must say it.
    let mut inside = proxy.client();
    assert_eq!(inside.call(&["GET", "k"]), Reply::bulk("v"));
    assert_eq!(admin.call(&["ACL", "SETUSER", "default", ">pw"]), Reply::ok());
    wait_until("newcomers to be asked", || match proxy.client().call(&["GET", "k"]) {
        reply if reply.text().starts_with("NOAUTH") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let mut outside = proxy.client();
    assert_eq!(outside.call(&["AUTH", "pw"]), Reply::ok());
    assert_eq!(outside.call(&["GET", "k"]), Reply::bulk("v"));
    assert_eq!(outside.call(&["ACL", "WHOAMI"]), Reply::bulk("default"));
    assert_eq!(inside.call(&["GET", "k"]), Reply::bulk("v"));
}

/// ACL's own commands answer, under the user's own rights.
fn acl(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let standalone = Standalone::start(server);
    let mut differences = Vec::new();
    let mut sides = [standalone.client(), proxy.client()];
    for line in [
        "ACL WHOAMI",
        "ACL CAT",
        "ACL CAT dangerous",
        "ACL CAT foo",
        "ACL USERS",
        "ACL LIST",
        "ACL GETUSER default",
        "ACL GETUSER nosuch",
        "ACL HELP",
        "ACL FOO",
        "ACL",
        "ACL SETUSER",
        "ACL SETUSER x +foo",
        "ACL SETUSER x on >p ~k* +get",
        "ACL GETUSER x",
        "ACL LIST",
        "ACL USERS",
        "ACL DRYRUN x get k",
        "ACL DRYRUN x set k v",
        "ACL DRYRUN x get other",
        "ACL DRYRUN",
        "ACL DELUSER default",
        "ACL DELUSER x nosuch",
        "ACL DELUSER x",
        "ACL DELUSER",
        "ACL LOAD",
        "ACL SAVE",
        "ACL LOG RESET",
        "ACL LOG",
        "ACL LOG x",
        "ACL GENPASS x",
    ] {
        let [expected, found] = [0, 1].map(|side| sides[side].call(&words(line)));
        let sorted = |reply: &Reply| crate::commands::sorted(reply);
        if sorted(&expected) != sorted(&found) {
            differences.push(format!("{line}\n    standalone {expected:?}\n    proxy      {found:?}"));
        }
    }
    assert!(differences.is_empty(), "{server:?}:\n{}", differences.join("\n"));
    assert_eq!(sides[1].call(&["ACL", "GENPASS"]).text().len(), 64);
    // What was refused on any node stands in the one log.
    assert_eq!(sides[1].call(&["ACL", "SETUSER", "poor", "on", ">p", "~*", "+set"]), Reply::ok());
    let mut poor = proxy.client();
    login(&mut poor, "poor", "p");
    for key in 0..20 {
        assert!(poor.call(&["GET", &format!("k{key}")]).text().starts_with("NOPERM"));
    }
    let log = sides[1].call(&["ACL", "LOG"]);
    assert!(log.elements().len() >= 3, "an entry of each node at least: {log:?}");
}

crate::on_every_server!(rights, lanes, strangers, changes, acl);

/// The proxy's own users before one account of the cluster's.
#[test]
fn proxy_users() {
    let options = ClusterOptions::default();
    let cluster = Cluster::start(Server::Redis70, options);
    on_nodes(&cluster, SERVICE);
    on_nodes(&cluster, &["ACL", "SETUSER", "default", "off"]);
    fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        [SERVICE_SETTINGS, &[("auth.mode", "proxy")], more].concat()
    }
    // Without users everybody is let in, as before a cluster without a password.
    let open = Proxy::start_with(&cluster, &with(&[]));
    let mut client = open.client();
    assert_eq!(client.call(&["SET", "k", "v"]), Reply::ok());
    assert_eq!(client.call(&["ACL", "WHOAMI"]), Reply::bulk("default"));
    assert!(client.call(&["AUTH", "x"]).text().contains("without any password configured"));
    assert_eq!(client.call(&["AUTH", "default", "x"]), Reply::ok());
    assert!(client.call(&["AUTH", "keyway", "service-secret"]).text().starts_with("WRONGPASS"));
    for command in [&["ACL", "SETUSER", "x"][..], &["ACL", "DELUSER", "x"], &["ACL", "LOAD"], &["ACL", "LIST"]] {
        let reply = client.call(command).text();
        assert!(reply.starts_with("ERR proxy: ") && reply.contains("auth.mode"), "{command:?}: {reply}");
    }

    // printf %s one | sha256sum; printf %s two | sha256sum
    let users = "app:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed,\
                 app:3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3,guest:nopass";
    let proxy = Proxy::launch(
        &cluster.seeds(),
        &with(&[("auth.users", users), ("auth.failures", "5"), ("auth.failures_window", "3s"), ("log.level", "trace")]),
    );
    wait_until("the proxy", || Client::try_connect(proxy.port).map(drop).ok_or_else(|| proxy.log()));
    let mut client = proxy.client();
    assert_eq!(client.call(&["GET", "k"]), Reply::error("NOAUTH Authentication required."));
    for (user, password) in [("app", "one"), ("app", "two"), ("guest", "whatever")] {
        login(&mut client, user, password);
        assert_eq!(client.call(&["GET", "k"]), Reply::bulk("v"));
        assert_eq!(client.call(&["ACL", "WHOAMI"]), Reply::bulk(user));
    }
    let mut other = proxy.client();
    assert!(matches!(other.call(&["HELLO", "3", "AUTH", "app", "one"]), Reply::Map(_)));
    assert_eq!(other.call(&["GET", "k"]), Reply::bulk("v"));
    other.call(&["RESET"]);
    assert_eq!(other.call(&["GET", "k"]), Reply::error("NOAUTH Authentication required."));

    // So many wrong passwords, and no more are tried for a while.
    for n in 0..5 {
        assert!(other.call(&["AUTH", "app", &format!("guess-{n}")]).text().starts_with("WRONGPASS"));
    }
    let refused = proxy.client().call(&["AUTH", "app", "one"]).text();
    assert!(refused.starts_with("ERR proxy: too many wrong passwords"), "{refused}");
    assert_eq!(client.call(&["GET", "k"]), Reply::bulk("v"), "who is in stays in");
    wait_until("the address to be forgiven", || match other.call(&["AUTH", "app", "one"]) {
        Reply::Simple(_) => Ok(()),
        reply => Err(reply.text()),
    });
    let info = proxy.admin().call(&["INFO"]).text();
    assert!(info.contains("failed_logins:5\r\n") && !info.contains("throttled_logins:0\r\n"), "{info}");
    let log = proxy.log();
    assert!(!log.contains("guess-") && !log.contains("service-secret"), "{log}");
}

/// Passwords do not reach the log, at any level, in either form of AUTH, right or wrong.
#[test]
fn passwords_are_not_logged() {
    let cluster = Cluster::of_masters(Server::Valkey91);
    on_nodes(&cluster, &["ACL", "SETUSER", "app", "on", ">hunter2-right", "~*", "+@all"]);
    let proxy = Proxy::start_with(&cluster, &[("log.level", "trace")]);
    let mut client = proxy.client();
    client.call(&["AUTH", "hunter2-wrong"]);
    client.call(&["AUTH", "app", "hunter2-wrong"]);
    client.call(&["HELLO", "3", "AUTH", "app", "hunter2-wrong"]);
    client.call(&["HELLO", "3", "AUTH", "app", "hunter2-right"]);
    client.call(&["ACL", "SETUSER", "x", ">hunter2-new"]);
    client.send(b"AUTH app hunter2-inline\r\n").expect("it is open");
    assert!(client.receive().expect("an answer").is_error());
    assert_eq!(client.call(&["SET", "k", "v"]), Reply::ok());
    assert!(!proxy.log().contains("hunter2"));
}

/// commands.deny and commands.allow.
#[test]
fn commands_denied_and_allowed() {
    let cluster = Cluster::of_masters(Server::Redis82);
    let proxy = Proxy::start_with(
        &cluster,
        &[
            ("commands.deny", "@dangerous,config,get"),
            ("commands.allow", "flushall,config|set,config|resetstat,debug,keys,bgsave"),
        ],
    );
    let mut client = proxy.client();
    for denied in ["GET k", "CONFIG GET x", "CONFIG REWRITE", "SORT k", "CONFIG FOO"] {
        let reply = client.call(&words(denied)).text();
        assert!(reply.starts_with("ERR proxy: ") && reply.contains("commands.deny"), "{denied}: {reply}");
    }
    for allowed in ["SET k v", "CONFIG SET maxmemory-samples 7", "CONFIG RESETSTAT", "KEYS *", "PING"] {
        let reply = client.call(&words(allowed));
        assert!(!reply.is_error(), "{allowed}: {reply:?}");
    }
    assert_eq!(
        client.call(&["CONFIG", "SET", "nosuch", "1"]).text().split(" (").next(),
        Some("ERR Unknown option or number of arguments for CONFIG SET - 'nosuch'")
    );
    for member in cluster.members() {
        assert_eq!(member.client().call(&["CONFIG", "GET", "maxmemory-samples"]).elements()[1], Reply::bulk("7"));
    }
    assert!(client.call(&["DEBUG", "OBJECT", "k"]).text().contains("DEBUG command not allowed"), "the servers' own word");
    assert!(client.call(&["DEBUG", "SEGFAULT"]).text().starts_with("ERR proxy: "));
    assert!(client.call(&["SHUTDOWN"]).text().starts_with("ERR proxy: "));
    let listed = crate::commands::command_names(&mut client);
    assert!(listed.contains("config|set") && listed.contains("keys") && listed.contains("debug"));
    assert!(!listed.contains("get") && !listed.contains("sort") && !listed.contains("shutdown"));
    assert_eq!(client.call(&["FLUSHALL"]), Reply::ok());
    assert_eq!(client.call(&["AUTH", "default", "x"]), Reply::ok(), "who may come in is another matter");
}
