//! CLIENT KILL, LIST and PAUSE over all workers.

use std::time::{Duration, Instant};

use crate::harness::client::{closed, request};
use crate::harness::{Client, Cluster, Proxy, Reply, Server, wait_until};

/// Enough clients for two workers to have several each.
const CROWD: usize = 12;

fn id_of(client: &mut Client) -> String {
    client.call(&["CLIENT", "ID"]).text()
}

/// The address that the proxy sees a client come from.
fn addr_of(client: &mut Client) -> String {
    let info = client.call(&["CLIENT", "INFO"]).text();
    info.split(' ').find_map(|field| field.strip_prefix("addr=")).expect("CLIENT INFO tells it").to_owned()
}

#[track_caller]
fn assert_closed(client: &mut Client) {
    let error = client.receive().expect_err("it was killed");
    assert!(closed(&error), "{error}");
}

fn kill(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let mut killer = proxy.client();
    let mut crowd: Vec<Client> = (0..CROWD).map(|_| proxy.client()).collect();

    // By id, by both addresses, in the old and the new form; whichever worker they are on.
    for (place, mut victim) in crowd.drain(..6).enumerate() {
        let (id, addr) = (id_of(&mut victim), addr_of(&mut victim));
        let local = format!("127.0.0.1:{}", proxy.port);
        let (arguments, expected) = match place % 3 {
            0 => (vec!["ID", &id], Reply::Integer(1)),
            1 => (vec![addr.as_str()], Reply::ok()),
            _ => (vec!["ADDR", &addr, "LADDR", &local, "USER", "default"], Reply::Integer(1)),
        };
        assert_eq!(killer.call(&[&["CLIENT", "KILL"], &arguments[..]].concat()), expected, "{arguments:?}");
        assert_closed(&mut victim);
        let again = killer.call(&[&["CLIENT", "KILL"], &arguments[..]].concat());
        assert!([Reply::Integer(0), Reply::error("ERR No such client")].contains(&again), "{again:?}");
    }

    // Oneself is skipped, or told first; what was sent behind is not carried out.
    let own_id = id_of(&mut killer);
    assert_eq!(killer.call(&["CLIENT", "KILL", "ID", &own_id]), Reply::Integer(0));
    let mut suicidal = proxy.client();
    let (id, addr) = (id_of(&mut suicidal), addr_of(&mut suicidal));
    let requests = [request(&["CLIENT", "KILL", "ID", &id, "SKIPME", "no"]), request(&["SET", "{late}", "1"])].concat();
    suicidal.send(&requests).expect("it is connected");
    assert_eq!(suicidal.until_closed().expect("it is closed"), b":1\r\n");
    assert_eq!(killer.call(&["CLIENT", "KILL", &addr]), Reply::error("ERR No such client"));
    let addr = addr_of(&mut killer);
    killer.send(&request(&["CLIENT", "KILL", &addr])).expect("it is connected");
    assert_eq!(killer.until_closed().expect("it is closed"), b"+OK\r\n");

    // All at once.
    let mut killer = proxy.client();
    assert_eq!(killer.call(&["GET", "{late}"]).text(), "", "what followed a kill of oneself was not carried out");
    let expected = crowd.len() as i64;
    wait_until("only the crowd and the killer to be left", || match killer.call(&["CLIENT", "LIST"]).text().lines().count() {
        count if count == crowd.len() + 1 => Ok(()),
        count => Err(format!("{count} clients")),
    });
    assert_eq!(killer.call(&["CLIENT", "KILL", "TYPE", "normal"]), Reply::Integer(expected));
    crowd.iter_mut().for_each(assert_closed);
    assert_eq!(killer.call(&["PING"]).text(), "PONG");
    wait_until("the killer to be alone", || match killer.call(&["CLIENT", "LIST"]).text().lines().count() {
        1 => Ok(()),
        count => Err(format!("{count} clients")),
    });
}

fn pause(server: Server) {
    let cluster = Cluster::of_masters(server);
    let proxy = Proxy::start(&cluster);
    let mut control = proxy.client();
    let mut crowd: Vec<Client> = (0..CROWD).map(|_| proxy.client()).collect();

    // Writes wait, on every worker, also those of clients that come later; all else goes on.
    assert_eq!(control.call(&["CLIENT", "PAUSE", "100000", "WRITE"]), Reply::ok());
    crowd.push(proxy.client());
    for (place, client) in crowd.iter_mut().enumerate() {
        let write = match place % 5 {
            0 => request(&["INCR", "{pause}"]),
            1 => request(&["EVAL", "return redis.call('INCR',KEYS[1])", "1", "{pause}"]),
            2 => [request(&["MSET", "{a}", "1", "{b}", "2"]), request(&["INCR", "{pause}"])].concat(),
            3 => [request(&["PUBLISH", "c", "m"]), request(&["INCR", "{pause}"])].concat(),
            _ => [request(&["PFCOUNT", "{pause}hll"]), request(&["INCR", "{pause}"])].concat(),
        };
        assert_eq!(client.call(&["GET", "{pause}"]).text(), "", "reads go on");
        client.send(&[request(&["PING", "before"]), write].concat()).expect("it is connected");
        assert_eq!(client.receive().expect("what came before the write is answered").text(), "before");
        client.set_timeout(Duration::from_millis(20));
        assert!(client.receive().is_err(), "a write waits");
    }
    assert_eq!(control.call(&["GET", "{pause}"]).text(), "");
    assert_eq!(control.call(&["CLIENT", "UNPAUSE"]), Reply::ok());
    let mut seen: Vec<i64> = crowd
        .iter_mut()
        .enumerate()
        .map(|(place, client)| {
            client.set_timeout(Duration::from_secs(60));
            let extra = if place % 5 < 2 { 0 } else { 1 };
            (0..extra).for_each(|_| assert!(!client.receive().expect("it goes on").is_error()));
            client.receive().expect("it goes on").integer().expect("INCR's reply")
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (1..=crowd.len() as i64).collect::<Vec<_>>(), "each write is carried out once");

    // A transaction that writes waits at its EXEC, one that reads does not.
    let (first, others) = crowd.split_first_mut().expect("there is a crowd");
    for (client, command) in [(&mut *first, ["INCR", "{multi}"]), (&mut others[0], ["GET", "{multi}"])] {
        assert_eq!(client.call(&["MULTI"]), Reply::ok());
        assert_eq!(client.call(&command).text(), "QUEUED");
    }
    assert_eq!(control.call(&["CLIENT", "PAUSE", "100000", "WRITE"]), Reply::ok());
    assert_eq!(others[0].call(&["EXEC"]).elements().len(), 1, "it only reads");
    first.send(&request(&["EXEC"])).expect("it is connected");
    first.set_timeout(Duration::from_millis(20));
    assert!(first.receive().is_err(), "it writes");
    assert_eq!(control.call(&["CLIENT", "UNPAUSE"]), Reply::ok());
    first.set_timeout(Duration::from_secs(60));
    assert_eq!(first.receive().expect("it goes on"), Reply::Array(vec![Reply::Integer(1)]));

    // ALL holds everything, UNPAUSE too, and ends by itself; mistakes are told at once.
    let begun = Instant::now();
    assert_eq!(control.call(&["CLIENT", "PAUSE", "300"]), Reply::ok());
    assert!(control.call(&["GET"]).is_error());
    control.send(&request(&["CLIENT", "UNPAUSE"])).expect("it is connected");
    for client in &mut crowd {
        assert_eq!(client.call(&["PING"]).text(), "PONG");
    }
    assert!(begun.elapsed() >= Duration::from_millis(300), "nothing was answered before the end");
    assert_eq!(control.receive().expect("the pause is over"), Reply::ok());

    // The longer and the stricter of two count.
    assert_eq!(control.call(&["CLIENT", "PAUSE", "300", "WRITE"]), Reply::ok());
    let begun = Instant::now();
    assert_eq!(control.call(&["CLIENT", "PAUSE", "1", "ALL"]), Reply::ok());
    assert_eq!(crowd[0].call(&["PING"]).text(), "PONG");
    assert!(begun.elapsed() >= Duration::from_millis(200));

    // A client that goes while it is held leaves nothing behind.
    assert_eq!(control.call(&["CLIENT", "PAUSE", "100000", "WRITE"]), Reply::ok());
    crowd[0].send(&request(&["SET", "{gone}", "1"])).expect("it is connected");
    crowd[0].set_timeout(Duration::from_millis(20));
    assert!(crowd[0].receive().is_err());
    drop(crowd);
    assert_eq!(control.call(&["CLIENT", "UNPAUSE"]), Reply::ok());
    wait_until("the crowd to be gone", || match control.call(&["CLIENT", "LIST"]).text().lines().count() {
        1 => Ok(()),
        count => Err(format!("{count} clients")),
    });
}

/// Valkey's filters, on clients of all workers.
#[test]
fn rich_filters() {
    let cluster = Cluster::of_masters(Server::Valkey91);
    let proxy = Proxy::start(&cluster);
    let mut crowd: Vec<Client> = (0..CROWD).map(|_| proxy.client()).collect();
    for (place, client) in crowd.iter_mut().enumerate() {
        let half = if place % 2 == 0 { "even" } else { "odd" };
        client.call(&["CLIENT", "SETNAME", half]);
        client.call(&["CLIENT", "SETINFO", "LIB-NAME", if place < 4 { "lib" } else { "other" }]);
        if place == 0 {
            client.call(&["CLIENT", "CAPA", "redirect"]);
            client.call(&["CLIENT", "NO-TOUCH", "ON"]);
        }
    }
    let ids: Vec<String> = crowd.iter_mut().map(id_of).collect();
    let mut asker = proxy.client();
    let mut check = |filters: &str, expected: &[usize]| {
        let words: Vec<&str> = ["CLIENT", "LIST"].into_iter().chain(filters.split(' ')).collect();
        let text = asker.call(&words).text();
        let found: Vec<&str> =
            text.lines().map(|line| line.split(' ').next().expect("a line").trim_start_matches("id=")).collect();
        let expected: Vec<&str> = expected.iter().map(|place| ids[*place].as_str()).collect();
        assert_eq!(found, expected, "{filters}");
    };
    check("NAME even", &[0, 2, 4, 6, 8, 10]);
    check("NAME even LIB-NAME lib", &[0, 2]);
    check("LIB-NAME lib NOT-NAME even", &[1, 3]);
    check("CAPA r", &[0]);
    check("FLAGS T", &[0]);
    check("NAME odd NOT-LIB-NAME lib", &[5, 7, 9, 11]);
    check(&format!("ID {} {} ID {}", ids[3], ids[1], ids[7]), &[1, 3, 7]);
    check(&format!("SKIPME yes NOT-ID {}", ids[1..].join(" ")), &[0]);
    check("IP 127.0.0.1 DB 0 USER default TYPE normal NAME odd LIB-NAME lib", &[1, 3]);
}

crate::on_every_server!(kill, pause);
