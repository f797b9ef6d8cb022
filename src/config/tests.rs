//! The configuration as a whole: many mistakes at once, precedence, and what every row of the table promises.

use std::ffi::OsString;

use super::*;

/// Inputs with a file called `keyway.toml`, variables and settings.
fn inputs(file: &str, environment: &[(&str, &str)], set: &[&str]) -> Inputs {
    Inputs {
        file: Some(FileText { name: "keyway.toml".to_owned(), text: Ok(file.to_owned()) }),
        environment: environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect(),
        set: set.iter().map(|setting| (*setting).to_owned()).collect(),
    }
}

#[track_caller]
fn check_mistakes(inputs: &Inputs, expected: &[&str]) {
    let mistakes = resolve(inputs).err().map(|mistakes| mistakes.0).unwrap_or_default();
    let shown: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
    assert_eq!(shown, expected);
}

#[test]
fn every_mistake_is_reported_at_once_with_its_place() {
    let file = r#"
[proxy]
listne = "127.0.0.1:6380"
workers = "4"
listen = [
  "127.0.0.1:6380",
  "6381",
  7,
]
[proxi]
listen = "127.0.0.1:6380"
[cluster]
seeds = "10.0.0.1:6379, redis://10.0.0.2:6379, :6379"
username = 5
password = 12345
address_map = ["10.0.0.1:6379=127.0.0.1:7001", "10.0.0.1:6379"]
[retry]
deadline = 10
budget = -1
[limits]
clients = 0
bulk_len = "512mib"
query_buffer = 1.5
dial = "1s"
[timeouts]
idle = "500ms"
keepalive = true
[log]
level = "loud"
"#;
    let environment =
        [("KEYWAY_PROXY_LISTEM", "x"), ("KEYWAY_LIMITS_SCRIPTS", "lots"), ("KEYWAY_SERVICE_HOST", "10.0.0.1"), ("HOME", "/")];
    let set = ["proxy.workers=many", "log.format=xml", "log.level", "retry.budgets=1", "nonsense=1"];
    check_mistakes(
        &inputs(file, &environment, &set),
        &[
            "keyway.toml:3: expected a known key, found `proxy.listne`; did you mean `proxy.listen`?",
            "keyway.toml:4: proxy.workers: expected a whole number from 0 to 1024, found \"4\"",
            "keyway.toml:7: proxy.listen: expected host:port or unix:PATH, or a list of them, found \"6381\", which names no port",
            "keyway.toml:8: proxy.listen: expected host:port or unix:PATH, or a list of them, found the number 7",
            "keyway.toml:10: expected a known section, found [proxi]; did you mean [proxy]?",
            "keyway.toml:13: cluster.seeds: expected host:port, or a list of them, found \"redis://10.0.0.2:6379\", whose host is not an IPv6 address",
            "keyway.toml:13: cluster.seeds: expected host:port, or a list of them, found \":6379\", which names no host",
            "keyway.toml:14: cluster.username: expected a text, found the number 5",
            "keyway.toml:15: cluster.password: expected a text, found a number",
            "keyway.toml:16: cluster.address_map: expected host:port=host:port or host=host, or a list of them, found \"10.0.0.1:6379\", which has no `=`",
            "keyway.toml:18: retry.deadline: expected a duration from 10ms to 10m (in ms, s, m or h), found the number 10",
            "keyway.toml:19: retry.budget: expected a whole number from 0 to 1000, found the number -1",
            "keyway.toml:21: limits.clients: expected a whole number from 1 to 1000000, found the number 0",
            "keyway.toml:22: limits.bulk_len: expected a size from 1kb to 1gb (in kb, mb, gb or plain bytes), found \"512mib\"",
            "keyway.toml:23: limits.query_buffer: expected a size from 64kb to 2gb (in kb, mb, gb or plain bytes), found a number with a fraction",
            "keyway.toml:24: expected a known key, found `limits.dial`; did you mean `timeouts.dial`?",
            "keyway.toml:26: timeouts.idle: expected 0, or a duration from 1s to 8760h (in ms, s, m or h), found \"500ms\"",
            "keyway.toml:27: timeouts.keepalive: expected 0, or a duration from 1s to 1h (in ms, s, m or h), found true or false",
            "keyway.toml:29: log.level: expected one of error, warn, info, debug, trace, found \"loud\"",
            "KEYWAY_PROXY_LISTEM: expected the name of a key; did you mean KEYWAY_PROXY_LISTEN?",
            "KEYWAY_LIMITS_SCRIPTS: expected a size from 0 to 64gb (in kb, mb, gb or plain bytes), found \"lots\"",
            "--set log.level: expected KEY=VALUE, found no `=`",
            "--set retry.budgets: expected a known key, found `retry.budgets`; did you mean `retry.budget`?",
            "--set nonsense: expected a known key, found `nonsense`; `keyway check-config` lists them all",
            "--set proxy.workers: expected a whole number from 0 to 1024, found \"many\"",
            "--set log.format: expected one of text, json, found \"xml\"",
        ],
    );
}

#[test]
fn what_is_no_toml_does_not_hide_the_rest() {
    let file = "[proxy]\nworkers = = 2\nlisten = \"6380\"\n[log]\nlevel = \"warn\"\nlevel = \"info\"\ncluster = 5\n";
    let mistakes = resolve(&inputs(file, &[], &["log.format=xml"])).expect_err("mistakes").to_string();
    for expected in [
        "mistakes in the configuration:\n",
        "\n  keyway.toml:2: not valid TOML: ",
        "\n  keyway.toml:3: proxy.listen: expected",
        "\n  keyway.toml:6: not valid TOML: duplicate key",
        "\n  keyway.toml:7: expected a known key, found `log.cluster`",
        "\n  --set log.format: expected",
    ] {
        assert!(mistakes.contains(expected), "{expected:?} is not in {mistakes}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake_beside_the_others() {
    let mut inputs = inputs("", &[], &["proxy.workers=x"]);
    inputs.file = Some(FileText { name: "gone.toml".to_owned(), text: Err("No such file".to_owned()) });
    check_mistakes(
        &inputs,
        &[
            "gone.toml: expected a file of text, found: No such file",
            "--set proxy.workers: expected a whole number from 0 to 1024, found \"x\"",
        ],
    );
}

#[test]
fn dangerous_and_contradictory_combinations_are_refused() {
    #[track_caller]
    fn check(set: &[&str], expected: &[&str]) {
        check_mistakes(&inputs("", &[], set), expected);
    }
    check(&["proxy.listen="], &["--set proxy.listen: expected at least one address, found none: no client could connect"]);
    check(&["cluster.seeds="], &["--set cluster.seeds: expected at least one host:port, found none: no node could be found"]);
    check(
        &["admin.listen=127.0.0.1:6390,0.0.0.0:6391,unix:/run/keyway"],
        &["--set admin.listen: expected a loopback address or a unix socket, found 0.0.0.0:6391: without \
           admin.password or admin.users whoever reaches the admin port may do everything, so it must not be reachable from \
           other machines"],
    );
    check(&["admin.listen=0.0.0.0:6391", "admin.password=hunter2"], &[]);
    check(&["admin.listen=0.0.0.0:6391", "admin.users=ann:operator:>hunter2"], &[]);
    check(
        &["admin.on_client_ports=on"],
        &["--set admin.on_client_ports: expected admin.password or admin.users beside admin.on_client_ports, found neither: \
           every client could do everything"],
    );
    check(
        &["admin.password=hunter2", "admin.users=default:viewer:nopass"],
        &["--set admin.users: expected no user called default beside admin.password, which is the default user's password"],
    );
    check(
        &["admin.users=ann:viewer:>one,ann:operator:>two"],
        &["--set admin.users: expected one role for each name, found two for ann"],
    );
    check(&["admin.listen="], &[]);
    check(
        &["admin.listen=127.0.0.1:6380"],
        &["--set admin.listen: expected every address to be listened on once, found 127.0.0.1:6380 again"],
    );
    check(
        &["proxy.listen=unix:/a,unix:/a"],
        &["--set proxy.listen: expected every address to be listened on once, found unix:/a again"],
    );
    check(&["proxy.listen=127.0.0.1:0", "admin.listen=127.0.0.1:0"], &[]);
    check(
        &["proxy.listen=0.0.0.0:6379"],
        &["--set proxy.listen: expected a node of the cluster, found 127.0.0.1:6379: the proxy itself listens on 0.0.0.0:6379"],
    );
    check(
        &["cluster.username=keyway"],
        &["--set cluster.username: expected cluster.password beside cluster.username, found none: a login needs both (any \
           text does for a user with nopass)"],
    );
    check(&["cluster.username=keyway", "cluster.password=x"], &[]);
    check(
        &["cluster.address_map=a:1=b:1,a:1=c:1,a=b"],
        &["--set cluster.address_map: expected one rule per address, found a second for a:1"],
    );
    check(
        &["limits.query_buffer=64mb"],
        &["--set limits.query_buffer: expected limits.bulk_len below limits.query_buffer, found 512mb and 64mb: an \
           argument of that length could never arrive"],
    );
    check(
        &["retry.budget=0", "retry.budget_floor=0"],
        &["--set retry.budget: expected retry.budget or retry.budget_floor above 0, found both 0: no redirect could be \
           followed"],
    );
    check(
        &["retry.deadline=500ms"],
        &["--set retry.deadline: expected timeouts.dial below retry.deadline, found 1s and 500ms: one dead node would use \
           up all the time that a request has"],
    );
    // What is wrong already is not compared with what is right.
    check(
        &["retry.deadline=500ms", "timeouts.dial=fast"],
        &["--set timeouts.dial: expected a duration from 1ms to 1m (in ms, s, m or h), found \"fast\""],
    );
}

#[test]
fn later_sources_win() {
    let file = "[proxy]\nworkers = 0x2\n[limits]\nclients = 7\nbulk_len = 65536\n[timeouts]\nidle = 0\n";
    let environment = [("KEYWAY_PROXY_WORKERS", "3"), ("KEYWAY_LIMITS_CLIENTS", "8")];
    let resolved = resolve(&inputs(file, &environment, &["limits.clients=1", "limits.clients=9"])).expect("no mistakes");
    assert_eq!(resolved.config.proxy.workers, 3);
    assert_eq!(resolved.config.limits.clients, 9);
    assert_eq!(resolved.config.limits.bulk_len_bytes, 65536);
    assert_eq!(resolved.config.limits.pipeline_depth, 1024);
    let origin = |key: &str| resolved.origins.get(key).map(Source::to_string);
    assert_eq!(origin("proxy.workers").as_deref(), Some("KEYWAY_PROXY_WORKERS"));
    assert_eq!(origin("limits.clients").as_deref(), Some("--set limits.clients"));
    assert_eq!(origin("limits.bulk_len").as_deref(), Some("keyway.toml:5"));
    assert_eq!(origin("limits.pipeline_depth"), None);
}

#[test]
fn lists_are_arrays_or_comma_separated() {
    #[track_caller]
    fn check(resolved: Result<Resolved, Mistakes>) {
        let seeds = resolved.expect("no mistakes").config.cluster.seeds;
        let seeds: Vec<String> = seeds.iter().map(HostPort::to_string).collect();
        assert_eq!(seeds, ["a:1", "[::1]:2"]);
    }
    check(resolve(&inputs("cluster.seeds = [\"a:1\", \"[::1]:2\"]", &[], &[])));
    check(resolve(&inputs("cluster.seeds = \"a:1, [::1]:2\"", &[], &[])));
    check(resolve(&inputs("", &[("KEYWAY_CLUSTER_SEEDS", "a:1,[::1]:2")], &[])));
    check(resolve(&inputs("", &[], &["cluster.seeds=a:1,[::1]:2"])));
}

#[test]
fn modes_and_users_of_unix_sockets() {
    check_mistakes(
        &inputs("[proxy]\nunix_mode = 0o660\n[auth]\nunix_users = [\"1000\", \"=app\"]\n", &[], &["proxy.unix_mode=0888"]),
        &[
            "keyway.toml:2: proxy.unix_mode: expected a mode in octal digits, as in 0660, found the number 432",
            "keyway.toml:4: auth.unix_users: expected USER=NAME, or a list of them, found \"1000\", which has no `=`",
            "keyway.toml:4: auth.unix_users: expected USER=NAME, or a list of them, found \"=app\", which names nobody on one side",
            "--set proxy.unix_mode: expected a mode in octal digits, as in 0660, found \"0888\"",
        ],
    );
    let config = resolve(&inputs("", &[], &["proxy.unix_mode=0660"])).expect("no mistakes").config;
    assert_eq!(config.proxy.unix_mode, Some(0o660));
}

#[test]
fn sections_of_sections() {
    let file = "[proxy]\n[proxy.tls]\ncert_file = 5\n[cluster.tls]\nca_file = \"/ca\"\n[cluster.tsl]\n[admin]\ntls = 7\n";
    check_mistakes(
        &inputs(file, &[("KEYWAY_CLUSTER_TLS_ENABLED", "yes")], &["admin.tls.certfile=x"]),
        &[
            "keyway.toml:3: proxy.tls.cert_file: expected a text, found the number 5",
            "keyway.toml:6: expected a known section, found [cluster.tsl]; did you mean [cluster.tls]?",
            "keyway.toml:8: expected the section [admin.tls], found a number",
            "KEYWAY_CLUSTER_TLS_ENABLED: expected one of off, on, found \"yes\"",
            "--set admin.tls.certfile: expected a known key, found `admin.tls.certfile`; did you mean `admin.tls.cert_file`?",
        ],
    );
    let dotted = "[proxy]\ntls.min_version = \"1.3\"\n[cluster.tls]\nca_file = \"/ca\"\n";
    let config = resolve(&inputs(dotted, &[], &[])).expect("no mistakes").config;
    assert_eq!((config.proxy.tls.min_version, config.cluster.tls.ca_file.as_deref()), (TlsVersion::Tls13, Some("/ca")));
}

#[test]
fn tls_that_contradicts_itself() {
    #[track_caller]
    fn check(set: &[&str], expected: &[&str]) {
        check_mistakes(&inputs("", &[], set), expected);
    }
    let identity = ["proxy.tls.cert_file=/c", "proxy.tls.key_file=/k"];
    let with = |set: &[&'static str]| [&identity[..], set].concat();
    check(&with(&["proxy.tls.listen=0.0.0.0:7000", "proxy.listen="]), &[]);
    check(
        &["proxy.tls.listen=0.0.0.0:7000"],
        &[
            "--set proxy.tls.listen: expected proxy.tls.cert_file and proxy.tls.key_file beside proxy.tls.listen, found neither: TLS \
           needs a certificate",
        ],
    );
    check(
        &["proxy.tls.cert_file=/c"],
        &["--set proxy.tls.cert_file: expected proxy.tls.key_file beside proxy.tls.cert_file, found none"],
    );
    check(
        &with(&["proxy.tls.listen=unix:/a"]),
        &["--set proxy.tls.listen: expected host:port, found unix:/a: a unix socket does not leave the machine"],
    );
    check(
        &with(&["proxy.tls.listen=127.0.0.1:6380"]),
        &["--set proxy.tls.listen: expected every address to be listened on once, found 127.0.0.1:6380 again"],
    );
    check(
        &with(&["proxy.tls.auth_clients=yes"]),
        &[
            "--set proxy.tls.auth_clients: expected proxy.tls.ca_file beside proxy.tls.auth_clients, found none: whose certificates are \
           clients to show?",
        ],
    );
    check(
        &with(&["proxy.tls.ca_file=/a"]),
        &[
            "--set proxy.tls.ca_file: expected proxy.tls.auth_clients yes or optional beside proxy.tls.ca_file, found no: nobody would \
           be asked for one",
        ],
    );
    check(
        &["cluster.tls.enabled=on"],
        &[
            "--set cluster.tls.enabled: expected cluster.tls.ca_file beside cluster.tls.enabled, found none: whose certificates are \
           nodes to show?",
        ],
    );
    check(
        &["cluster.tls.server_name=a b"],
        &["--set cluster.tls.server_name: expected a host name or an IP address, found \"a b\""],
    );
    check(
        &["auth.certificate_user=cn"],
        &[
            "--set auth.certificate_user: expected auth.mode proxy beside auth.certificate_user, found passthrough, where a node asks \
             every user for a password",
            "--set auth.certificate_user: expected proxy.tls.auth_clients optional or yes beside auth.certificate_user, found no: \
             nobody would be asked for a certificate",
        ],
    );
    check(
        &["auth.mode=proxy", "auth.users=app:nologin"],
        &[
            "--set auth.users: expected auth.certificate_user or auth.unix_users beside app:nologin, found neither: nobody could be app",
        ],
    );
    let unix = "auth.unix_users=1000=app,root=other";
    check(&["auth.mode=proxy", "auth.users=app:nologin,other:nopass", unix], &[]);
    check(
        &["auth.mode=proxy", "auth.users=app:nologin", unix],
        &["--set auth.unix_users: expected a user of auth.users, found other"],
    );
    check(
        &["auth.unix_users=1000=app"],
        &[
            "--set auth.unix_users: expected auth.mode proxy beside auth.unix_users, found passthrough, where a node asks every user \
           for a password",
        ],
    );
    check(
        &["admin.tls.listen=0.0.0.0:7001", "admin.tls.cert_file=/c", "admin.tls.key_file=/k"],
        &["--set admin.tls.listen: expected a loopback address or a unix socket, found 0.0.0.0:7001: without admin.password or \
           admin.users whoever reaches the admin port may do everything, so it must not be reachable from other machines"],
    );
}

#[test]
fn the_password_is_never_shown() {
    let file = "[cluster]\npassword = \"hunter2\"\n";
    let resolved = resolve(&inputs(file, &[], &["proxy.workers=2"])).expect("no mistakes");
    assert_eq!(resolved.config.cluster.password.as_ref().map(Secret::expose), Some("hunter2"));
    let shown = resolved.show();
    assert!(!format!("{resolved:?} {shown}").contains("hunter2"));
    assert!(shown.contains("password = \"***\"                         # keyway.toml:2\n"), "{shown}");
    assert!(shown.contains("workers = 2                              # --set proxy.workers\n"), "{shown}");

    for users in ["\"app:hunter2\"", "[\"app:hunter2\", \"ok:nopass\"]", "[\"hunter2\"]", "\"a\\\", hunter2\""] {
        let mistakes = resolve(&inputs(&format!("[auth]\nusers = {users}\n"), &[], &[])).expect_err("mistakes");
        assert!(mistakes.to_string().contains("found a text, ") && !mistakes.to_string().contains("hunter2"), "{mistakes}");
    }

    for users in ["\"ann:operator:hunter2\"", "[\"ann:admin:>hunter2\"]", "\"hunter2\""] {
        let mistakes = resolve(&inputs(&format!("[admin]\nusers = {users}\n"), &[], &[])).expect_err("mistakes");
        assert!(mistakes.to_string().contains("found a text, ") && !mistakes.to_string().contains("hunter2"), "{mistakes}");
    }
    let operators = resolve(&inputs("[admin]\nusers = \"ann:operator:>hunter2\"\n", &[], &[])).expect("no mistakes");
    assert!(!format!("{operators:?} {}", operators.show()).contains("hunter2"));

    let wrong = inputs("[cluster]\npassword = [\"hunter2\"]\npassword = hunter2\n", &[], &[]);
    let mistakes = resolve(&wrong).expect_err("mistakes");
    assert!(!format!("{mistakes:?} {mistakes}").contains("hunter2"), "{mistakes}");
}

#[test]
fn what_check_config_shows_is_a_file_that_resolves_to_the_same() {
    let set = ["proxy.listen=unix:/run/a b\"c,[::1]:0", "cluster.address_map=a=b,c:1=[::1]:2", "limits.bulk_len=1000000"];
    let resolved = resolve(&inputs("", &[], &set)).expect("no mistakes");
    let again = resolve(&inputs(&resolved.show(), &[], &[])).expect("no mistakes");
    assert_eq!(again.config, resolved.config);
}

/// A row that names another row's field, or shows something else than it sets, would go unnoticed otherwise.
#[test]
fn every_key_sets_its_own_field_and_no_other() {
    for key in KEYS {
        let sample = match &key.kind {
            Kind::Listen { .. } => "127.0.0.1:9999",
            Kind::Hosts { .. } => "node:9999",
            Kind::AddressMap { .. } => "a=b",
            Kind::Networks { .. } => "10.0.0.0/8",
            Kind::Mode { .. } => "0660",
            Kind::UnixUsers { .. } => "1000=somebody",
            Kind::Accounts { .. } => "somebody:nopass",
            Kind::Operators { .. } => "somebody:viewer:nopass",
            Kind::Commands { .. } => "keys",
            Kind::Count { .. } => "77",
            Kind::Size { .. } => "65537",
            Kind::Duration { .. } | Kind::DurationOrOff { .. } => "7s",
            Kind::Name { .. } | Kind::Secret { .. } => "somebody",
            Kind::Choice { of, .. } => of[1],
        };
        let sample = if key.default == sample { "debug" } else { sample };
        let mut config = Config::default();
        key.set(&mut config, &written::Value::Untyped(sample.to_owned()), &Source::Default).expect("the sample is valid");
        for other in KEYS {
            let changed = other.show(&config) != other.show(&Config::default());
            assert_eq!(changed, other.name == key.name, "{} set, {} shown", key.name, other.name);
        }
    }
}

#[test]
fn every_row_is_named_and_told() {
    let mut names = BTreeSet::new();
    for key in KEYS {
        assert!(names.insert(key.environment_name()), "{} is there twice", key.name);
        let is_word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let is_section = key.section().split('.').all(is_word);
        assert!(is_section && is_word(key.short_name()), "{} is not section.name", key.name);
        assert!(key.meaning.ends_with('.'), "{} is not told in sentences", key.name);
    }
    assert_eq!(check::contradictions(&Config::default()).len(), 0);
}
