//! Who may do what on the admin port and, if it is so configured, on clients' ports; and redis-cli as the operators' console.

use sha2::{Digest, Sha256};

use crate::harness::cluster::ClusterOptions;
use crate::harness::process::{Folder, bound_command, free_port};
use crate::harness::programs::{python, run};
use crate::harness::proxy::binary;
use crate::harness::servers::tool;
use crate::harness::{Client, Cluster, Proxy, Reply, Server, wait_until};

/// Some masters, no more than a test needs.
fn small(server: Server, masters: usize) -> Cluster {
    Cluster::start(server, ClusterOptions { masters, ..ClusterOptions::default() })
}

const NO_AUTH: &str = "NOAUTH Authentication required.";
const WRONG: &str = "WRONGPASS invalid username-password pair or user is disabled.";

#[track_caller]
fn says(client: &mut Client, line: &str, expected: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let reply = client.call(&words);
    assert_eq!(reply.text(), expected, "{line}: {reply:?}");
}

#[test]
fn an_open_admin_port_on_a_network_is_refused() {
    let checked = |settings: &[&str]| {
        let mut command = bound_command(binary());
        command.arg("check-config");
        for setting in settings {
            command.args(["--set", setting]);
        }
        run(&mut command, "")
    };
    let refused = checked(&["admin.listen=0.0.0.0:6390"]);
    assert!(!refused.success && refused.complaint.contains("admin.password or admin.users"), "{}", refused.complaint);
    assert!(checked(&["admin.listen=0.0.0.0:6390", "admin.users=ann:operator:>secret"]).success);
    let started = run(bound_command(binary()).args(["--set", "admin.listen=0.0.0.0:0"]), "");
    assert!(!started.success && started.complaint.contains("admin.listen"), "{}", started.complaint);
}

#[test]
fn users_and_roles() {
    let cluster = small(Server::Redis70, 1);
    let (folder, port) = (Folder::new(), free_port());
    let socket = folder.join("admin.sock");
    let hash: String = Sha256::digest("two").iter().map(|byte| format!("{byte:02x}")).collect();
    let settings = [
        ("admin.listen", format!("127.0.0.1:{port},unix:{}", socket.display())),
        ("admin.password", "root".to_owned()),
        ("admin.users", format!("ann:operator:>one,bob:viewer:{hash}")),
        ("admin.on_client_ports", "on".to_owned()),
        ("auth.failures", "8".to_owned()),
    ];
    let proxy = Proxy::start_with(&cluster, &settings.each_ref().map(|(key, value)| (*key, value.as_str())));

    for mut admin in [Client::connect(port), Client::connect_unix(&socket)] {
        for line in ["PING", "PROXY HELP", "COMMAND", "NOSUCH", "SUBSCRIBE keyway:topology"] {
            says(&mut admin, line, NO_AUTH);
        }
        says(&mut admin, "AUTH bob one", WRONG);
        says(&mut admin, "HELLO 2 AUTH bob two", "");
        says(&mut admin, "PING", "PONG");
        assert!(!admin.call(&["PROXY", "CHECK", "JSON"]).is_error());
        says(&mut admin, "PROXY REFRESH", "NOPERM User bob has no permissions to run the 'proxy|refresh' command");
        says(&mut admin, "AUTH root", "OK");
        assert!(!admin.call(&["PROXY", "REFRESH"]).is_error());
        says(&mut admin, "PROXY WHOAMI JSON", r#"{"user":"default","role":"operator"}"#);
        let help = format!("{:?}", admin.call(&["PROXY", "HELP"]));
        assert!(help.contains("Ask the cluster for its slots now (operator"), "{help}");
    }
    redis_cli_fails_on_every_refusal(port);
    clients_ports_know_it_too(&proxy);

    // Eight mistakes of one address have been used up by now, or are.
    let mut admin = Client::connect(port);
    let throttled = wait_until("the limit of wrong passwords", || match admin.call(&["AUTH", "guess"]).text() {
        text if text.contains("auth.failures") => Ok(text),
        other => Err(other),
    });
    assert!(throttled.starts_with("ERR proxy: too many wrong passwords from this address"), "{throttled}");
    assert_eq!(admin.call(&["AUTH", "root"]).text().split(':').next(), Some("ERR proxy"));
    says(&mut Client::connect_unix(&socket), "AUTH root", "OK");
}

/// `redis-cli -e` is what scripts gate on.
fn redis_cli_fails_on_every_refusal(port: u16) {
    let exits = |user: &str, password: &str, words: &str| {
        let mut command = bound_command(&tool("redis-cli"));
        command.args(["-e", "-p", &port.to_string(), "--no-auth-warning", "--user", user, "--pass", password]);
        run(command.args(words.split(' ')), "").success
    };
    for words in ["PING", "PROXY HELP", "PROXY CHECK JSON", "PROXY REFRESH", "PROXY SLOTS HOT 3"] {
        assert!(exits("ann", "one", words), "{words}");
    }
    let refused = [
        "PROXY NOSUCH",
        "NOSUCH",
        "PROXY SLOT 16384",
        "PROXY SLOTS HOT 0",
        "PROXY SLOTS HOT",
        "PROXY CHECK SHALLOW",
        "PROXY VERSION now",
        "SUBSCRIBE news",
        "GET key",
    ];
    for words in refused {
        assert!(!exits("ann", "one", words), "{words}");
    }
    assert!(exits("bob", "two", "PROXY SLOT 5"));
    assert!(!exits("bob", "two", "PROXY REFRESH"));
    assert!(!exits("bob", "wrong", "PING"));
}

fn clients_ports_know_it_too(proxy: &Proxy) {
    let mut client = proxy.client();
    says(&mut client, "PROXY WHOAMI", NO_AUTH);
    says(&mut client, "proxy auth bob wrong", WRONG);
    says(&mut client, "PROXY AUTH bob two", "OK");
    says(&mut client, "PROXY WHOAMI JSON", r#"{"user":"bob","role":"viewer"}"#);
    says(&mut client, "PROXY REFRESH", "NOPERM User bob has no permissions to run the 'proxy|refresh' command");
    says(
        &mut client,
        "PROXY SLOT 99999",
        "ERR expected a slot from 0 to 16383, or KEY and a key, found '99999'. Syntax: PROXY SLOT slot|KEY [key] [JSON]",
    );
    // In its place between commands on keys, and in the client's protocol.
    let lines = ["SET k 1", "PROXY AUTH ann one", "INCR k", "PROXY REFRESH JSON", "GET k", "HELLO 3", "PROXY WHOAMI", "GET k"];
    let requests: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    let replies = client.pipeline(&requests);
    assert_eq!(
        (&replies[0], &replies[1], &replies[2], &replies[4]),
        (&Reply::ok(), &Reply::ok(), &Reply::Integer(2), &Reply::bulk("2"))
    );
    assert!(replies[3].text().contains("slots_assigned"), "{replies:?}");
    assert_eq!(replies[6], Reply::Map(["user", "ann", "role", "operator"].map(Reply::bulk).into()));
    // A transaction is the servers' business, and so is a client that begins anew.
    says(&mut client, "MULTI", "OK");
    assert!(client.call(&["PROXY", "WHOAMI"]).text().starts_with("ERR unknown command 'PROXY'"));
    says(&mut client, "DISCARD", "OK");
    says(&mut client, "RESET", "RESET");
    says(&mut client, "PROXY WHOAMI", NO_AUTH);
    assert_eq!(proxy.client().call(&["PROXY", "WHOAMI"]).text(), NO_AUTH, "another connection");
}

#[test]
fn the_console_completes_hints_and_listens() {
    let cluster = small(Server::Redis70, 2);
    let proxy = Proxy::start(&cluster);
    let [admin_port, node_port] = [proxy.admin_port, cluster.member(0).port].map(|port| port.to_string());
    let arguments = ["127.0.0.1", &admin_port, &node_port, &cluster.member(1).id];
    run(&mut python(None, "redis_cli_admin.py", &arguments), "").printed_by_success("redis-cli on the admin port");
    // Whoever is no operator's client meets a server that knows no such command.
    for words in [vec!["PROXY"], vec!["PROXY", "HELP"], vec!["proxy", "auth", "x"]] {
        assert_eq!(proxy.client().call(&words), cluster.any_client().call(&words));
    }
}
