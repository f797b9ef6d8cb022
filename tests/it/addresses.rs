//! Where clients come from: lists of networks, and load balancers that say whose a connection is.

use std::net::Ipv4Addr;

use crate::harness::certificates::Authority;
use crate::harness::cluster::ClusterOptions;
use crate::harness::process::free_port;
use crate::harness::{Client, Cluster, Proxy, Reply, Server, wait_until};

const fn local(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, last)
}

/// The address that stands for a load balancer.
const BALANCER: Ipv4Addr = local(5);

fn text(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 127.0.0.1 5000 6380\r\n").into_bytes()
}

fn binary(client: [u8; 4]) -> Vec<u8> {
    let ends = [&client[..], &[127, 0, 0, 1], &5000_u16.to_be_bytes(), &6380_u16.to_be_bytes()].concat();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c", &ends[..]].concat()
}

#[test]
fn addresses() {
    let authority = Authority::new();
    let own = authority.issue("proxy");
    let cluster = Cluster::start(Server::Redis70, ClusterOptions { masters: 1, ..ClusterOptions::default() });
    let port = free_port();
    let (listen, certificate, key) = (format!("127.0.0.1:{port}"), own.certificate.display(), own.key.display());
    let proxy = Proxy::start_with(
        &cluster,
        &[
            ("proxy.allow_from", "127.0.0.1,127.0.0.2,10.0.0.0/8"),
            ("proxy.deny_from", "127.0.0.2,10.1.0.0/16"),
            ("proxy.proxy_protocol_from", &BALANCER.to_string()),
            ("proxy.tls.listen", &listen),
            ("proxy.tls.cert_file", &certificate.to_string()),
            ("proxy.tls.key_file", &key.to_string()),
            ("timeouts.handshake", "1s"),
        ],
    );
    let served = |mut client: Client| client.try_call(&["PING"]) == Some(Reply::Simple(b"PONG".to_vec()));
    let from = |last: u8| Client::connect_from(local(last), proxy.port).expect("the listener takes it first");
    assert!(served(from(1)) && !served(from(2)) && !served(from(3)), "allowed, denied, not allowed");

    // Header and request in one packet: what follows the header is the client's.
    let behind = |header: &[u8]| {
        let mut client = from(5);
        let request = b"*2\r\n$6\r\nCLIENT\r\n$4\r\nINFO\r\n";
        client.send(&[header, request].concat()).and_then(|()| client.receive()).map(|reply| reply.text()).ok()
    };
    let shown = |header: &[u8], address: &str| behind(header).is_some_and(|info| info.contains(&format!(" addr={address} ")));
    assert!(shown(&text("10.0.0.7"), "10.0.0.7:5000"));
    assert!(shown(&binary([10, 0, 0, 8]), "10.0.0.8:5000"));
    assert_eq!(behind(&text("10.1.0.7")), None, "a client that is denied does not come in by a balancer");
    assert_eq!(behind(&binary([192, 0, 2, 1])), None);
    assert_eq!(behind(b""), None, "the balancer says whose it is, or nothing");
    assert!(from(1).try_call(&["PROXY", "TCP4", "10.0.0.7"]).is_some_and(|reply| reply.is_error()), "no balancer, no header");
    let mut balanced = Client::connect_from(BALANCER, port).expect("the listener takes it");
    balanced.send(&text("10.0.0.9")).expect("it is read");
    let mut secured = balanced.secure(&authority.client(None)).expect("TLS comes behind the header");
    assert!(secured.call(&["CLIENT", "INFO"]).text().contains(" addr=10.0.0.9:5000 "));

    // A balancer that says nothing is cut off, and nobody else waits for it.
    assert_eq!(from(5).until_closed(), Some(Vec::new()));
    let mut admin = proxy.admin();
    let counted = |admin: &mut Client, name: &str| {
        let info = admin.call(&["INFO", "clients"]).text();
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.parse().ok()).unwrap_or(0_u64)
    };
    wait_until("the counters", || match ["refused_by_address", "without_proxy_header"].map(|name| counted(&mut admin, name)) {
        [4, 2] => Ok(()),
        other => Err(format!("{other:?}\n{}", proxy.log())),
    });
}
