//! What no single key can tell: combinations that contradict themselves or open a door.

use super::address::ListenAddr;
use super::resolved::{AuthMode, Config};
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
    found
}

type Refuse<'a> = dyn FnMut(&[&'static str], String) + 'a;

fn listeners(config: &Config, refuse: &mut Refuse<'_>) {
    if config.proxy.listen.is_empty() {
        refuse(&["proxy.listen"], "expected at least one address, found none: no client could connect".to_owned());
    }
    let named = |name: &'static str, list: &[ListenAddr]| -> Vec<(&'static str, ListenAddr)> {
        list.iter().map(|address| (name, address.clone())).collect()
    };
    let cluster = named("proxy.cluster_listen", &config.proxy.cluster_listen);
    let all = [named("proxy.listen", &config.proxy.listen), cluster, named("admin.listen", &config.admin.listen)].concat();
    for (index, (name, address)) in all.iter().enumerate() {
        if let Some((earlier, _)) = all[..index].iter().find(|(_, other)| is_same(other, address)) {
            let problem = format!("expected every address to be listened on once, found {address} again");
            refuse(&[*name, *earlier], problem);
        }
    }
}

fn operators(config: &Config, refuse: &mut Refuse<'_>) {
    let admin = &config.admin;
    for address in &admin.listen {
        if let ListenAddr::Tcp(tcp) = address
            && !tcp.is_loopback()
            && !admin.is_locked()
        {
            let problem = format!(
                "expected a loopback address or a unix socket, found {tcp}: without admin.password or admin.users \
                 whoever reaches the admin port may do everything, so it must not be reachable from other machines"
            );
            refuse(&["admin.listen", "admin.password", "admin.users"], problem);
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
        if let Some(address) = config.proxy.listen.iter().chain(&config.proxy.cluster_listen).find(serves) {
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
