//! What the proxy tells by HTTP: metrics, health, readiness.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use crate::harness::cluster::ClusterOptions;
use crate::harness::process::free_port;
use crate::harness::{Cluster, Proxy, Server, wait_until};

/// The status line and the body of an answer to `request`, or `None` when nobody listens.
fn ask(port: u16, request: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.lines().next()?.to_owned(), body.to_owned()))
}

fn get(port: u16, path: &str) -> Option<(String, String)> {
    ask(port, &format!("GET {path} HTTP/1.1\r\nHost: keyway\r\nConnection: close\r\n\r\n"))
}

/// Every series and its value; each belongs to a metric that has a type and a help.
fn series(port: u16) -> HashMap<String, f64> {
    let (status, body) = get(port, "/metrics").expect("the proxy listens");
    assert_eq!(status, "HTTP/1.1 200 OK");
    let mut types: HashMap<&str, &str> = HashMap::new();
    let mut found = HashMap::new();
    for line in body.lines().filter(|line| !line.is_empty()) {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a name and a type");
            assert_eq!(types.insert(name, kind), None, "{name} has two types");
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').expect("a series and its value");
            let metric = name.split('{').next().unwrap_or_default();
            assert!(types.contains_key(metric), "{line} has no type");
            assert_eq!(types[metric] == "counter", metric.ends_with("_total"), "{line}");
            assert_eq!(found.insert(name.to_owned(), value.parse().expect("a number")), None, "{name} stands twice");
        }
    }
    found
}

#[test]
fn numbers_of_a_cluster_and_of_a_plan() {
    let cluster = Cluster::start(Server::Redis70, ClusterOptions::with_failover());
    let port = free_port();
    let proxy = Proxy::start_with(&cluster, &[("http.listen", &format!("127.0.0.1:{port}"))]);
    let (ready, health) = (get(port, "/readyz").expect("an answer"), get(port, "/healthz").expect("an answer"));
    assert_eq!((ready.0.as_str(), health.0.as_str()), ("HTTP/1.1 200 OK", "HTTP/1.1 200 OK"));
    for (request, status) in [
        ("GET /nothing HTTP/1.1\r\nHost: keyway\r\nConnection: close\r\n\r\n", "HTTP/1.1 404 Not Found"),
        (
            "POST /metrics HTTP/1.1\r\nHost: keyway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 405 Method Not Allowed",
        ),
        ("*1\r\n$4\r\nPING\r\n", "HTTP/1.1 400 Bad Request"),
    ] {
        assert_eq!(ask(port, request).map(|(line, _)| line).as_deref(), Some(status), "{request:?}");
    }
    let before = series(port)["keyway_requests_total"];
    let mut client = proxy.client();
    for turn in 0..100 {
        client.call(&["SET", &format!("key:{turn}"), "value"]);
    }
    let masters: Vec<_> = cluster.view().into_iter().filter(|node| node.is_master()).collect();
    let (from, to) = (&masters[0], &masters[1]);
    let slot = from.slot_ranges().next().expect("a master has slots").0;
    let mut admin = proxy.admin();
    let plan = format!("PROXY MIGRATE PLAN MOVE {slot} FROM {} TO {} OBSERVE 0 JSON", from.id, to.id);
    let plan: serde_json::Value = serde_json::from_str(&admin.call(&plan.split(' ').collect::<Vec<_>>()).text()).expect("a plan");
    admin.call(&["PROXY", "MIGRATE", "START", plan["plan"].as_str().expect("its name")]);
    let told = wait_until("everything to be told", || {
        let told = series(port);
        let value = |name: &str| told.get(name).copied().unwrap_or(-1.0);
        let is_done = value(r#"keyway_migration_state{state="done"}"#) == 1.0 && value("keyway_requests_total") >= before + 100.0;
        if is_done { Ok(told) } else { Err(format!("{told:?}")) }
    });
    let value = |name: &str| *told.get(name).unwrap_or_else(|| panic!("{name} is not told: {told:?}"));
    assert_eq!(value(r#"keyway_migration_slots{of="done"}"#), 1.0);
    assert_eq!(value(r#"keyway_migration_state{state="running"}"#), 0.0);
    assert_eq!((value("keyway_ready"), value(r#"keyway_slots{state="served"}"#)), (1.0, 16384.0));
    assert_eq!(value(r#"keyway_clients{state="connected"}"#), 1.0);
    let of_nodes = |metric: &str| {
        let prefix = format!("{metric}{{node=");
        let all: Vec<f64> = told.iter().filter(|(name, _)| name.starts_with(&prefix)).map(|(_, value)| *value).collect();
        (all.len(), all.iter().sum::<f64>())
    };
    let count = masters.len();
    assert_eq!(of_nodes("keyway_node_slots"), (count, 16384.0));
    assert_eq!(of_nodes("redis_cluster_slots_assigned"), (count, 16384.0 * count as f64));
    assert_eq!(of_nodes("redis_cluster_slots_fail"), (count, 0.0));
    assert_eq!(of_nodes("redis_cluster_known_nodes"), (count, (cluster.members().len() * count) as f64));
    assert_eq!(of_nodes("redis_replica_lag_bytes").0, cluster.members().len() - count);
    assert!(of_nodes("redis_cluster_messages_received_total").1 > 0.0);
}

#[test]
fn not_ready_without_a_cluster() {
    let (port, nobody) = (free_port(), free_port());
    let _proxy = Proxy::launch(&format!("127.0.0.1:{nobody}"), &[("http.listen", &format!("127.0.0.1:{port}"))]);
    let health = wait_until("the proxy to listen", || get(port, "/healthz").ok_or_else(|| "nobody listens".to_owned()));
    assert_eq!(health.0, "HTTP/1.1 200 OK");
    assert_eq!(get(port, "/readyz").map(|(status, _)| status).as_deref(), Some("HTTP/1.1 503 Service Unavailable"));
    let told = series(port);
    assert_eq!((told["keyway_ready"], told[r#"keyway_slots{state="served"}"#]), (0.0, 0.0));
}
