//! Memory: with many idle clients, after they are gone, and while one large value passes. Each in a fresh process.

use std::time::Duration;

use super::{
    Outcome,
    harness::{
        Client,
        client::{append_request, request},
    },
    machine::{Machine, allow_many_files},
    options::Options,
    proxy::Contestant,
    servers::Servers,
    usage::{reset_peak, status_kib},
};

/// How many clients stay connected.
const CLIENTS: [usize; 2] = [1_000, 10_000];

/// GETs that each of them pipelines before it is idle.
const PIPELINE: usize = 16;

/// Clients whose pipelines are under way at once.
const AT_ONCE: usize = 250;

/// Buffers may be kept for so long after they were used.
const REST: Duration = Duration::from_secs(3);

/// Resident memory, in KiB, of one proxy with idle clients.
pub struct Idle {
    pub proxy: String,
    pub clients: usize,
    pub fresh_kib: u64,
    pub used_kib: u64,
    pub closed_kib: u64,
}

/// What a value of 64 MiB costs at its peak, in KiB above what the proxy held before.
pub struct Large {
    pub proxy: String,
    pub before_kib: u64,
    pub set_kib: u64,
    pub get_kib: u64,
    pub after_kib: u64,
}

pub fn idle(options: &Options, machine: &Machine, servers: &Servers, contestants: &[Contestant]) -> Outcome<Vec<Idle>> {
    let mut all = Vec::new();
    if !options.wants("memory") {
        return Ok(all);
    }
    allow_many_files();
    for clients in CLIENTS {
        for contestant in contestants {
            let proxy = contestant.start(machine, &servers.seeds())?;
            let rss = || status_kib(proxy.pid(), "VmRSS");
            let fresh_kib = rss();
            let mut connected = connect(proxy.port, clients)?;
            use_all(&mut connected)?;
            std::thread::sleep(REST);
            let used_kib = rss();
            drop(connected);
            std::thread::sleep(REST);
            let idle = Idle { proxy: proxy.name.clone(), clients, fresh_kib, used_kib, closed_kib: rss() };
            eprintln!("{clients} idle clients, {}: {used_kib} KiB", idle.proxy);
            all.push(idle);
        }
    }
    Ok(all)
}

fn connect(port: u16, clients: usize) -> Outcome<Vec<Client>> {
    (0..clients)
        .map(|number| {
            Client::try_connect(port)
                .ok_or_else(|| format!("only {number} of {clients} clients can be opened (ulimit -n)").into())
        })
        .collect()
}

/// Every client asks once, then pipelines a little.
fn use_all(clients: &mut [Client]) -> Outcome<()> {
    let one = request(&["GET", "key:000000000001"]);
    for pipeline in [1, PIPELINE] {
        let requests = one.repeat(pipeline);
        for group in clients.chunks_mut(AT_ONCE) {
            for client in &mut *group {
                client.send(&requests)?;
            }
            for client in group {
                for _ in 0..pipeline {
                    let reply = client.receive()?;
                    if reply.is_error() {
                        return Err(format!("{reply:?}").into());
                    }
                }
            }
        }
    }
    Ok(())
}

pub fn large_value(options: &Options, machine: &Machine, servers: &Servers, contestants: &[Contestant]) -> Outcome<Vec<Large>> {
    const KEY: &[u8] = b"large";
    let mut all = Vec::new();
    if !options.wants("large_value") {
        return Ok(all);
    }
    let mut set = Vec::new();
    append_request(&mut set, &[b"SET".as_slice(), KEY, &vec![b'v'; 64 << 20]]);
    for contestant in contestants {
        let proxy = contestant.start(machine, &servers.seeds())?;
        let mut client = Client::connect(proxy.port);
        let before_kib = status_kib(proxy.pid(), "VmRSS");
        let mut peak_of = |request: &[u8]| -> Outcome<u64> {
            reset_peak(proxy.pid());
            client.send(request)?;
            let reply = client.receive()?;
            if reply.is_error() {
                return Err(format!("a value of 64 MiB: {reply:?}").into());
            }
            Ok(status_kib(proxy.pid(), "VmHWM").saturating_sub(before_kib))
        };
        let set_kib = peak_of(&set)?;
        std::thread::sleep(REST);
        let get_kib = peak_of(&request(&[b"GET".as_slice(), KEY]))?;
        std::thread::sleep(REST);
        let after_kib = status_kib(proxy.pid(), "VmRSS");
        eprintln!("64 MiB value, {}: peak {set_kib} KiB above base in SET, {get_kib} in GET", proxy.name);
        all.push(Large { proxy: proxy.name.clone(), before_kib, set_kib, get_kib, after_kib });
        client.call(&[b"DEL".as_slice(), KEY]);
    }
    Ok(all)
}
