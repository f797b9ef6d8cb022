//! What no single key can tell: combinations that contradict themselves or open a door.

use super::account::Entrance;
use super::address::{HostPort, ListenAddr};
use super::resolved::{AuthClients, AuthMode, CertificateUser, Config};
use super::units::{show_duration, show_size};

/// A combination that is refused: the keys it concerns, the one to blame first, and why.
pub(super) struct Contradiction {
    pub keys: Vec<&'static str>,
    pub problem: String,
}

/// Every refused combination of a configuration whose keys are each right by themselves.
pub(super) fn contradictions(config: &Config) -> Vec<Contradiction> {
    let mut found = Vec::new();
    let mut refuse = |keys: &[&'static str], problem: String| {
        found.push(Contradiction { keys: keys.to_vec(), problem });
    };
    listeners(config, &mut refuse);
    operators(config, &mut refuse);
    cluster(config, &mut refuse);
    limits(config, &mut refuse);
    tls(config, &mut refuse);
    found
}

type Refuse<'a> = dyn FnMut(&[&'static str], String) + 'a;

fn listeners(config: &Config, refuse: &mut Refuse<'_>) {
    if config.proxy.listen.is_empty() && config.proxy.tls.listen.is_empty() {
        refuse(
            &["proxy.listen", "proxy.tls.listen"],
            "expected at least one address, found none: no client could connect".to_owned(),
        );
    }
    let named = |name: &'static str, list: &[ListenAddr]| -> Vec<(&'static str, ListenAddr)> {
        list.iter().map(|address| (name, address.clone())).collect()
    };
    let secured = [
        named("proxy.tls.listen", &config.proxy.tls.listen),
        named("proxy.tls.cluster_listen", &config.proxy.tls_cluster_listen),
        named("admin.tls.listen", &config.admin.tls.listen),
    ]
    .concat();
    for (name, address) in &secured {
        if matches!(address, ListenAddr::Unix(_)) {
            refuse(&[*name], format!("expected host:port, found {address}: a unix socket does not leave the machine"));
        }
    }
    let cluster = named("proxy.cluster_listen", &config.proxy.cluster_listen);
    let admin = named("admin.listen", &config.admin.listen);
    let http = named("http.listen", &config.http.listen);
    let all = [named("proxy.listen", &config.proxy.listen), cluster, admin, http, secured].concat();
    for (index, (name, address)) in all.iter().enumerate() {
        if let Some((earlier, _)) = all[..index].iter().find(|(_, other)| is_same(other, address)) {
            let problem = format!("expected every address to be listened on once, found {address} again");
            refuse(&[*name, *earlier], problem);
        }
    }
}

fn operators(config: &Config, refuse: &mut Refuse<'_>) {
    let admin = &config.admin;
    let plain = admin.listen.iter().map(|address| ("admin.listen", address));
    for (key, address) in plain.chain(admin.tls.listen.iter().map(|address| ("admin.tls.listen", address))) {
        if let ListenAddr::Tcp(tcp) = address
            && !tcp.is_loopback()
            && !admin.is_locked()
        {
            let problem = format!(
                "expected a loopback address or a unix socket, found {tcp}: without admin.password or admin.users \
                 whoever reaches the admin port may do everything, so it must not be reachable from other machines"
            );
            refuse(&[key, "admin.password", "admin.users"], problem);
        }
    }
    if admin.on_client_ports && !admin.is_locked() {
        let problem = "expected admin.password or admin.users beside admin.on_client_ports, found neither: every client could \
                       do everything";
        refuse(&["admin.on_client_ports", "admin.password", "admin.users"], problem.to_owned());
    }
    if admin.password.is_some() && admin.users.iter().any(|user| user.name == "default") {
        let problem = "expected no user called default beside admin.password, which is the default user's password";
        refuse(&["admin.users", "admin.password"], problem.to_owned());
    }
    for (index, user) in admin.users.iter().enumerate() {
        if admin.users[..index].iter().any(|earlier| earlier.name == user.name && earlier.role != user.role) {
            refuse(&["admin.users"], format!("expected one role for each name, found two for {}", user.name));
        }
    }
}

/// Port 0 is another free port each time.
fn is_same(a: &ListenAddr, b: &ListenAddr) -> bool {
    a == b && !matches!(a, ListenAddr::Tcp(tcp) if tcp.port == 0)
}

fn cluster(config: &Config, refuse: &mut Refuse<'_>) {
    let cluster = &config.cluster;
    if cluster.seeds.is_empty() {
        refuse(&["cluster.seeds"], "expected at least one host:port, found none: no node could be found".to_owned());
    }
    for seed in &cluster.seeds {
        let serves = |address: &&ListenAddr| matches!(address, ListenAddr::Tcp(tcp) if tcp.serves(seed));
        let proxy = &config.proxy;
        let own = [&proxy.listen, &proxy.cluster_listen, &proxy.tls.listen, &proxy.tls_cluster_listen];
        if let Some(address) = own.into_iter().flatten().find(serves) {
            let problem = format!("expected a node of the cluster, found {seed}: the proxy itself listens on {address}");
            refuse(&["cluster.seeds", "proxy.listen"], problem);
        }
    }
    if cluster.username.is_some() && cluster.password.is_none() {
        let problem = "expected cluster.password beside cluster.username, found none: a login needs both (any text \
                       does for a user with nopass)";
        refuse(&["cluster.username", "cluster.password"], problem.to_owned());
    }
    if config.auth.mode == AuthMode::Passthrough && !config.auth.users.is_empty() {
        let problem = "expected no auth.users while auth.mode is passthrough, where the cluster's own users come in";
        refuse(&["auth.users", "auth.mode"], problem.to_owned());
    }
    for (index, rule) in cluster.address_map.iter().enumerate() {
        let from = rule.from_text();
        if cluster.address_map[..index].iter().any(|earlier| earlier.from_text() == from) {
            refuse(&["cluster.address_map"], format!("expected one rule per address, found a second for {from}"));
        }
    }
}

fn tls(config: &Config, refuse: &mut Refuse<'_>) {
    let (proxy, admin, cluster) = (&config.proxy.tls, &config.admin.tls, &config.cluster.tls);
    let sides = [
        (
            ["proxy.tls.cert_file", "proxy.tls.key_file", "proxy.tls.ca_file", "proxy.tls.auth_clients", "proxy.tls.listen"],
            [&proxy.cert_file, &proxy.key_file, &proxy.ca_file],
            proxy.auth_clients,
            !proxy.listen.is_empty() || !config.proxy.tls_cluster_listen.is_empty(),
        ),
        (
            ["admin.tls.cert_file", "admin.tls.key_file", "admin.tls.ca_file", "admin.tls.auth_clients", "admin.tls.listen"],
            [&admin.cert_file, &admin.key_file, &admin.ca_file],
            admin.auth_clients,
            !admin.listen.is_empty(),
        ),
    ];
    for ([cert_key, key_key, ca_key, auth_key, listen_key], [cert, key, ca], auth, listens) in sides {
        pair([cert_key, key_key], [cert, key], refuse);
        if listens && cert.is_none() && key.is_none() {
            let problem =
                format!("expected {cert_key} and {key_key} beside {listen_key}, found neither: TLS needs a certificate");
            refuse(&[listen_key], problem);
        }
        match (auth, ca) {
            (AuthClients::No, Some(_)) => {
                let problem =
                    format!("expected {auth_key} yes or optional beside {ca_key}, found no: nobody would be asked for one");
                refuse(&[ca_key, auth_key], problem);
            }
            (AuthClients::Optional | AuthClients::Yes, None) => {
                let problem = format!("expected {ca_key} beside {auth_key}, found none: whose certificates are clients to show?");
                refuse(&[auth_key, ca_key], problem);
            }
            _ => {}
        }
    }
    pair(["cluster.tls.cert_file", "cluster.tls.key_file"], [&cluster.cert_file, &cluster.key_file], refuse);
    if cluster.enabled && cluster.ca_file.is_none() {
        let problem =
            "expected cluster.tls.ca_file beside cluster.tls.enabled, found none: whose certificates are nodes to show?";
        refuse(&["cluster.tls.enabled", "cluster.tls.ca_file"], problem.to_owned());
    }
    if let Some(name) = &cluster.server_name
        && HostPort::parse(&format!("{name}:1")).is_err()
    {
        refuse(&["cluster.tls.server_name"], format!("expected a host name or an IP address, found {name:?}"));
    }
    shown_users(config, refuse);
}

fn pair(keys: [&'static str; 2], values: [&Option<String>; 2], refuse: &mut Refuse<'_>) {
    for (given, missing) in [(0, 1), (1, 0)] {
        if values[given].is_some() && values[missing].is_none() {
            refuse(&[keys[given], keys[missing]], format!("expected {} beside {}, found none", keys[missing], keys[given]));
        }
    }
}

fn shown_users(config: &Config, refuse: &mut Refuse<'_>) {
    let auth = &config.auth;
    let silent = auth.users.iter().find(|user| user.entrance == Entrance::NoLogin);
    if let Some(user) = silent.filter(|_| auth.certificate_user == CertificateUser::Off && auth.unix_users.is_empty()) {
        let name = &user.name;
        let problem = format!(
            "expected auth.certificate_user or auth.unix_users beside {name}:nologin, found neither: nobody could be {name}"
        );
        refuse(&["auth.users", "auth.certificate_user", "auth.unix_users"], problem);
    }
    if auth.mode == AuthMode::Passthrough && !auth.unix_users.is_empty() {
        let problem =
            "expected auth.mode proxy beside auth.unix_users, found passthrough, where a node asks every user for a password";
        refuse(&["auth.unix_users", "auth.mode"], problem.to_owned());
    } else if let Some(rule) = auth.unix_users.iter().find(|rule| !auth.users.iter().any(|user| user.name == rule.user)) {
        refuse(&["auth.unix_users", "auth.users"], format!("expected a user of auth.users, found {}", rule.user));
    }
    if auth.certificate_user == CertificateUser::Off {
        return;
    }
    if auth.mode == AuthMode::Passthrough {
        let problem = "expected auth.mode proxy beside auth.certificate_user, found passthrough, where a node asks every user for a \
                       password";
        refuse(&["auth.certificate_user", "auth.mode"], problem.to_owned());
    }
    if config.proxy.tls.auth_clients == AuthClients::No {
        let problem = "expected proxy.tls.auth_clients optional or yes beside auth.certificate_user, found no: nobody would be asked \
                       for a certificate";
        refuse(&["auth.certificate_user", "proxy.tls.auth_clients"], problem.to_owned());
    }
}

fn limits(config: &Config, refuse: &mut Refuse<'_>) {
    let (limits, retry) = (&config.limits, &config.retry);
    if limits.bulk_len_bytes >= limits.query_buffer_bytes {
        let problem = format!(
            "expected limits.bulk_len below limits.query_buffer, found {} and {}: an argument of that length could \
             never arrive",
            show_size(limits.bulk_len_bytes),
            show_size(limits.query_buffer_bytes)
        );
        refuse(&["limits.bulk_len", "limits.query_buffer"], problem);
    }
    if retry.budget_per_hundred == 0 && retry.budget_floor_per_second == 0 {
        let problem = "expected retry.budget or retry.budget_floor above 0, found both 0: no redirect could be followed";
        refuse(&["retry.budget", "retry.budget_floor"], problem.to_owned());
    }
    if config.timeouts.dial >= retry.deadline {
        let problem = format!(
            "expected timeouts.dial below retry.deadline, found {} and {}: one dead node would use up all the time \
             that a request has",
            show_duration(config.timeouts.dial),
            show_duration(retry.deadline)
        );
        refuse(&["timeouts.dial", "retry.deadline"], problem);
    }
}
