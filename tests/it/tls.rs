//! TLS on every side: clients, operators, nodes. Debian's Redis 7.0 is the one server here that speaks it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::harness::certificates::{Authority, Files, load};
use crate::harness::cluster::{ClusterOptions, tags_in};
use crate::harness::process::{bound_command, free_port};
use crate::harness::programs::{python, run};
use crate::harness::servers::tool;
use crate::harness::{Client, Cluster, Proxy, Reply, Server, wait_until};
use crate::migrate::runs;

fn text(path: &Path) -> &str {
    path.to_str().expect("the harness names its files in ASCII")
}

/// A cluster whose nodes speak TLS only, to clients and to each other, and ask everybody for a certificate.
fn secured_cluster(authority: &Authority) -> Cluster {
    let Files { certificate, key } = authority.issue("node");
    let authority = authority.file();
    let arguments = [
        ["--tls-cluster", "yes"],
        ["--tls-replication", "yes"],
        ["--tls-cert-file", text(&certificate)],
        ["--tls-key-file", text(&key)],
        ["--tls-ca-cert-file", text(&authority)],
    ];
    let arguments = arguments.concat().into_iter().map(str::to_owned).collect();
    Cluster::start(Server::Redis70, ClusterOptions { arguments, ..ClusterOptions::with_failover() })
}

/// Settings of a proxy, that own their texts.
struct Settings(Vec<(&'static str, String)>);

impl Settings {
    fn set(mut self, key: &'static str, value: impl Into<String>) -> Settings {
        self.0.push((key, value.into()));
        self
    }

    fn listeners(authority: &Authority, port: u16, admin_port: u16) -> Settings {
        let Files { certificate, key } = authority.issue("proxy");
        let address = |port: u16| format!("127.0.0.1:{port}");
        Settings(Vec::new())
            .set("proxy.tls.listen", address(port))
            .set("proxy.tls.cert_file", text(&certificate))
            .set("proxy.tls.key_file", text(&key))
            .set("admin.tls.listen", address(admin_port))
            .set("admin.tls.cert_file", text(&certificate))
            .set("admin.tls.key_file", text(&key))
    }

    /// Towards the nodes.
    fn nodes(self, authority: &Authority, own: &Files) -> Settings {
        self.set("cluster.tls.enabled", "on")
            .set("cluster.tls.ca_file", text(&authority.file()))
            .set("cluster.tls.cert_file", text(&own.certificate))
            .set("cluster.tls.key_file", text(&own.key))
    }

    fn pairs(&self) -> Vec<(&str, &str)> {
        self.0.iter().map(|(key, value)| (*key, value.as_str())).collect()
    }
}

fn tls(port: u16, config: &Arc<ClientConfig>) -> Client {
    Client::connect_tls(port, config).unwrap_or_else(|error| panic!("no handshake on {port}: {error}"))
}

fn info(admin: &mut Client, name: &str) -> u64 {
    let text = admin.call(&["INFO", "tls"]).text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

fn wait_for_log(proxy: &Proxy, expected: &str) {
    wait_until(&format!("{expected:?} in the log"), || {
        let log = proxy.log();
        if log.contains(expected) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn nodes() {
    let authority = Authority::new();
    let mut cluster = secured_cluster(&authority);
    let own = authority.issue("keyway");
    let (port, admin_port) = (free_port(), free_port());
    let mut settings = Settings::listeners(&authority, port, admin_port).nodes(&authority, &own);
    settings = runs::SETTINGS.iter().fold(settings, |settings, (key, value)| settings.set(key, *value));
    let proxy = Proxy::start_with(&cluster, &settings.pairs());
    let trusting = authority.client(None);

    // Plain clients and such with TLS see the same keys, small ones and such as fill many records.
    let mut plain = proxy.client();
    let large = "v".repeat(3_000_000);
    let names: Vec<String> = (0..300).map(|number| format!("key:{number}")).collect();
    let sets: Vec<Vec<&str>> = names.iter().map(|name| vec!["SET", name, name]).collect();
    assert!(plain.pipeline(&sets).iter().all(|reply| *reply == Reply::ok()));
    assert_eq!(plain.call(&["SET", "large", &large]), Reply::ok());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut client = tls(port, &authority.client_of(None, &[version]));
        let gets: Vec<Vec<&str>> = names.iter().map(|name| vec!["GET", name]).collect();
        let values: Vec<Reply> = names.iter().map(Reply::bulk).collect();
        assert_eq!(client.pipeline(&gets), values);
        assert_eq!(client.call(&["GET", "large"]), Reply::bulk(&large));
        assert_eq!(client.call(&["SET", "large", &large]), Reply::ok());
        assert_eq!(client.call(&["QUIT"]), Reply::ok(), "the last reply is sent before the end");
        assert_eq!(client.until_closed(), Some(Vec::new()), "and the end is said");
    }

    // A plan that moves slots, driven over TLS, by an operator with TLS.
    let mut admin = tls(admin_port, &trusting);
    let tags = tags_in(0..3);
    tags.iter().for_each(|tag| assert_eq!(plain.call(&["SET", tag, tag]), Reply::ok()));
    let goal = format!("MOVE 0-2 FROM {} TO {} OBSERVE 0", cluster.member(0).id, cluster.member(1).id);
    let plan = runs::plan(&mut admin, &goal);
    runs::start(&mut admin, &plan);
    runs::wait_for(&mut admin, &plan, "done");
    let of_second = cluster.view().into_iter().find(|node| node.id == cluster.member(1).id).expect("all know all");
    assert!((0..3).all(|slot| of_second.owns(slot)), "{of_second:?}");
    let mut secured = tls(port, &trusting);
    tags.iter().for_each(|tag| assert_eq!(secured.call(&["GET", tag]), Reply::bulk(tag)));

    // A master dies, and its replica takes over.
    cluster.kill(0);
    for name in names.iter().take(50) {
        wait_until("writes", || match secured.call(&["SET", name, "after"]) {
            reply if reply == Reply::ok() => Ok(()),
            refusal => Err(refusal.text()),
        });
    }
    assert!(info(&mut admin, "tls_node_handshakes") > 0 && info(&mut admin, "tls_client_handshakes") > 2);

    // Who cannot show to be a node is none; the log says why.
    let refused =
        |settings: Settings, expected: &str| wait_for_log(&Proxy::launch(&cluster.seeds(), &settings.pairs()), expected);
    let nobody = || Settings(Vec::new());
    refused(nobody().nodes(&Authority::new(), &own), "invalid peer certificate: UnknownIssuer");
    let misnamed = || nobody().nodes(&authority, &own).set("cluster.tls.server_name", "other.example");
    refused(misnamed(), "certificate not valid for name \"other.example\"");
    let any_name = misnamed().set("cluster.tls.verify", "ca");
    assert!(!Proxy::start_with(&cluster, &any_name.pairs()).client().call(&["GET", "key:1"]).is_error());
    // Its own certificate is refused only after the handshake of TLS 1.3.
    let unknown = Authority::new();
    refused(nobody().nodes(&authority, &unknown.issue("stranger")), "fatal alert: UnknownCA");
    let Files { certificate, key } = authority.issue_expired("expired");
    for member in cluster.members().iter().filter(|member| member.is_up()) {
        let set = ["CONFIG", "SET", "tls-cert-file", text(&certificate), "tls-key-file", text(&key)];
        assert_eq!(member.client().call(&set), Reply::ok());
    }
    refused(nobody().nodes(&authority, &own), "certificate expired");
}

#[test]
fn clients() {
    let authority = Authority::new();
    let cluster = Cluster::start(Server::Redis70, ClusterOptions { masters: 1, ..ClusterOptions::default() });
    let (port, admin_port) = (free_port(), free_port());
    let settings = Settings::listeners(&authority, port, admin_port)
        .set("proxy.tls.auth_clients", "optional")
        .set("proxy.tls.ca_file", text(&authority.file()))
        .set("admin.tls.auth_clients", "yes")
        .set("admin.tls.ca_file", text(&authority.file()))
        .set("auth.mode", "proxy")
        // The second has the password "one", and may show a certificate as well.
        .set("auth.users", "app:nologin,other:7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed,default:nopass")
        .set("auth.certificate_user", "cn")
        .set("limits.handshakes", "2")
        .set("timeouts.handshake", "1s");
    let proxy = Proxy::start_with(&cluster, &settings.pairs());
    let who = |client: &mut Client| client.call(&["ACL", "WHOAMI"]).text();

    // Who shows a certificate is its user at once, and after RESET; anybody may be somebody else by AUTH.
    let app = authority.issue("app");
    let mut client = tls(port, &authority.client(Some(&app)));
    assert_eq!(who(&mut client), "app");
    assert_eq!(client.call(&["AUTH", "other", "one"]).text(), "OK");
    assert_eq!(
        (who(&mut client), client.call(&["RESET"]).text(), who(&mut client)),
        ("other".into(), "RESET".into(), "app".into())
    );
    assert!(client.call(&["CLIENT", "INFO"]).text().contains(" user=app"));
    assert_eq!(who(&mut tls(port, &authority.client(None))), "default");
    assert_eq!(who(&mut tls(port, &authority.client(Some(&authority.issue("nobody"))))), "default");
    let mut plain = proxy.client();
    assert!(plain.call(&["AUTH", "app", ""]).text().starts_with("WRONGPASS"), "nothing that is said makes an app of it");
    // Certificates of others, and operators without one, do not get far.
    let refused = |port: u16, config: &Arc<ClientConfig>| {
        Client::connect_tls(port, config).map_or(true, |mut client| client.try_call(&["PING"]).is_none())
    };
    assert!(refused(port, &authority.client(Some(&Authority::new().issue("app")))));
    assert!(refused(admin_port, &authority.client(None)) && refused(port, &Authority::new().client(None)));
    let mut admin = tls(admin_port, &authority.client(Some(&app)));

    // Programs of others.
    let (ca, Files { certificate, key }) = (authority.file(), &app);
    let arguments = [&port.to_string(), text(&ca), text(certificate), text(key), "app"];
    assert!(run(&mut python(None, "redis_py_tls.py", &arguments), "").printed_by_success("redis-py").ends_with("ok\n"));
    let mut cli = bound_command(&tool("redis-cli"));
    cli.args(["-p", &admin_port.to_string(), "--tls", "--cacert", text(&ca), "--cert", text(certificate), "--key", text(key)]);
    assert!(run(cli.args(["PROXY", "HELP"]), "").printed_by_success("redis-cli").contains("PROXY MIGRATE"));

    // The wrong language is answered where it can be, and told in the log.
    let mut mistaken = Client::connect(port);
    mistaken.send(b"PING\r\n").expect("it listens");
    let told = mistaken.until_closed().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert_eq!(told.as_deref(), Some("-ERR proxy: this port speaks TLS only\r\n"));
    wait_for_log(&proxy, "a client's TLS handshake failed: ");
    for plain_port in [proxy.port, proxy.admin_port] {
        assert!(Client::connect_tls(plain_port, &authority.client(None)).is_err());
    }
    wait_for_log(&proxy, "a client was cut off: expected RESP, found a TLS handshake");
    wait_for_log(&proxy, "an operator was cut off: expected RESP, found a TLS handshake");

    // Handshakes that never end take all the places; nobody who is in notices, and the places are given back.
    let failed = info(&mut admin, "tls_client_handshakes_failed");
    let mut silent = [Client::connect(port), Client::connect(port)];
    assert_eq!(client.call(&["SET", "k", "v"]), Reply::ok());
    assert_eq!(plain.call(&["GET", "k"]), Reply::bulk("v"));
    assert_eq!(tls(port, &authority.client(None)).call(&["GET", "k"]), Reply::bulk("v"), "once a place is free");
    silent.iter_mut().for_each(|client| assert_eq!(client.until_closed(), Some(Vec::new())));
    assert_eq!(info(&mut admin, "tls_client_handshakes_failed"), failed + 2);

    renewal(&authority, &proxy, port, &mut admin);
    assert_eq!(who(&mut client), "app", "a connection outlives the certificate that it began with");
}

/// Files that are written anew.
fn renewal(authority: &Authority, proxy: &Proxy, port: u16, admin: &mut Client) {
    let trusting = authority.client(None);
    let shown = || tls(port, &trusting).peer_certificate().expect("servers show one");
    let before = shown();
    let renewed = authority.issue("proxy");
    let expected = load(&renewed.certificate).remove(0);
    assert_ne!(before, expected);
    wait_until("the new certificate", || if shown() == expected { Ok(()) } else { Err(proxy.log()) });
    assert!(info(admin, "tls_reloads") >= 1);
    fs::write(&renewed.key, "no key").expect("the folder is ours");
    wait_for_log(proxy, "cannot be used: those before stay in use");
    assert_eq!(shown(), expected);
    std::thread::sleep(Duration::from_millis(2500));
    let complaints = proxy.log().matches("certificates of proxy.tls have changed and cannot be used").count();
    assert_eq!(complaints, 1, "once, and not again and again:\n{}", proxy.log());
    authority.issue("proxy");
    wait_until("the next certificate", || if shown() != expected { Ok(()) } else { Err(proxy.log()) });
}
