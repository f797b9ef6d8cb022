//! The program itself: how it is started, configured and stopped, beside an application or by hand.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::cluster::ClusterOptions;
use crate::harness::process::{Folder, Process, bound_command, free_port};
use crate::harness::proxy::binary;
use crate::harness::{Client, Cluster, PATIENCE, Proxy, Reply, Server, wait_until};

fn keyway(arguments: &[&str]) -> (i32, String, String) {
    let output = bound_command(binary()).args(arguments).output().expect("the binary was built");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Sidecars restart with their pods: the first request should be served at once.
#[test]
fn first_request() {
    let cluster = Cluster::of_masters(Server::Redis70);
    let started = Instant::now();
    let proxy = Proxy::launch(&cluster.seeds(), &[]);
    let mut client = loop {
        if let Some(client) = Client::try_connect(proxy.port) {
            break client;
        }
        assert!(started.elapsed() < PATIENCE, "{}", proxy.log());
        std::thread::sleep(Duration::from_millis(1));
    };
    assert_eq!(client.call(&["SET", "k", "v"]), Reply::ok());
    println!("the first request was served {:?} after the start", started.elapsed());
}

#[test]
fn unix_socket() {
    let cluster = Cluster::of_masters(Server::Redis70);
    let folder = Folder::new();
    let (socket, port) = (folder.join("keyway.sock"), free_port());
    let listen = format!("proxy.listen=unix:{},127.0.0.1:{port}", socket.display());
    let start = || {
        let mut command = bound_command(binary());
        command.args(["--set", &listen, "--set", &format!("cluster.seeds={}", cluster.seeds()), "--set", "admin.listen="]);
        let process = Process::start("keyway", command, &folder.join("log")).under_test();
        wait_until("both listeners", || if Client::try_connect(port).is_some() { Ok(()) } else { Err(process.log()) });
        process
    };
    let mut process = start();
    let mut local = Client::connect_unix(&socket);
    assert_eq!(local.call(&["SET", "k", "v"]), Reply::ok());
    assert_eq!(Client::connect(port).call(&["GET", "k"]), Reply::bulk("v"), "the same keyspace");
    assert!(local.call(&["CLIENT", "INFO"]).text().contains(" addr="));
    let requests: Vec<Vec<String>> = (0..1000).map(|n| vec!["SET".to_owned(), format!("key:{n}"), n.to_string()]).collect();
    assert!(local.pipeline(&requests).iter().all(|reply| *reply == Reply::ok()));
    // Killed, it leaves its socket's file behind, which must not keep the next one from starting.
    process.kill();
    let _process = start();
    assert_eq!(Client::connect_unix(&socket).call(&["GET", "k"]), Reply::bulk("v"));
}

/// A socket for a group, whose clients are known by the user that their process runs as.
#[test]
fn unix_socket_of_others() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let cluster = Cluster::start(Server::Redis70, ClusterOptions { masters: 1, ..ClusterOptions::default() });
    let folder = Folder::new();
    let socket = folder.join("keyway.sock");
    let own = fs::metadata(folder.path()).expect("it was just made");
    let start = |users: &str| {
        let settings = [
            ("proxy.listen", format!("unix:{},127.0.0.1:{}", socket.display(), free_port())),
            ("proxy.unix_mode", "0620".to_owned()),
            ("proxy.unix_owner", format!("{}:{}", own.uid(), own.gid())),
            ("auth.mode", "proxy".to_owned()),
            ("auth.users", "app:nologin".to_owned()),
            ("auth.unix_users", users.to_owned()),
        ];
        let proxy = Proxy::launch(&cluster.seeds(), &settings.each_ref().map(|(key, value)| (*key, value.as_str())));
        wait_until("the socket", || Client::try_connect_unix(&socket).map_err(|error| format!("{error}: {}", proxy.log())));
        proxy
    };
    let proxy = start(&format!("{}=app", own.uid()));
    assert_eq!(fs::metadata(&socket).expect("the socket").permissions().mode() & 0o777, 0o620);
    let mut client = Client::connect_unix(&socket);
    assert_eq!(client.call(&["ACL", "WHOAMI"]), Reply::bulk("app"));
    assert_eq!((client.call(&["RESET"]).text(), client.call(&["SET", "k", "v"])), ("RESET".to_owned(), Reply::ok()));
    drop(proxy);
    let _proxy = start(&format!("{}=app", own.uid() + 1));
    assert!(
        Client::connect_unix(&socket).call(&["GET", "k"]).text().starts_with("NOAUTH"),
        "another user's processes are nobody"
    );
}

#[test]
fn environment() {
    let cluster = Cluster::of_masters(Server::Redis70);
    let (folder, port) = (Folder::new(), free_port());
    let mut command = bound_command(binary());
    command.env("KEYWAY_PROXY_LISTEN", format!("127.0.0.1:{port}"));
    command.env("KEYWAY_CLUSTER_SEEDS", cluster.seeds()).env("KEYWAY_ADMIN_LISTEN", "").env("KEYWAY_LIMITS_CLIENTS", "3");
    let process = Process::start("keyway", command, &folder.join("log")).under_test();
    let mut client = wait_until("the listener", || Client::try_connect(port).ok_or_else(|| process.log()));
    assert_eq!(client.call(&["SET", "k", "v"]), Reply::ok());
    let _two_more = [Client::connect(port), Client::connect(port)].map(|mut client| (client.call(&["PING"]), client));
    let refusal = Client::connect(port).try_call(&["PING"]);
    assert_eq!(refusal, Some(Reply::error("ERR max number of clients reached")), "limits.clients came from the environment");
}

#[test]
fn check_config() {
    let folder = Folder::new();
    let write = |text: &str| {
        let path = folder.join("config.toml");
        fs::write(&path, text).expect("the folder is ours");
        path.display().to_string()
    };
    let good = write("[proxy]\nlisten = [\"127.0.0.1:7777\"]\n[limits]\noutput_buffer = \"8mb\"\n");
    let (code, shown, _) = keyway(&["check-config", "--config", &good]);
    assert_eq!(code, 0);
    assert!(shown.contains("127.0.0.1:7777"), "it shows what holds: {shown}");

    let bad = write("[proxy]\nlisten = \"nowhere\"\nworkers = -1\n\n[retry]\ndeadline = \"soon\"\n[limits]\nno_such_key = 1\n");
    let (code, shown, complaints) = keyway(&["check-config", "--config", &bad]);
    assert_ne!(code, 0);
    let told = shown + &complaints;
    for word in ["listen", "nowhere", "workers", "-1", "deadline", "soon", "no_such_key"] {
        assert!(told.contains(word), "every mistake is told at once, {word} is missing: {told}");
    }
    for line in [2, 3, 6, 8] {
        assert!(told.contains(&format!(":{line}")) || told.contains(&format!("line {line}")), "line {line} is not named: {told}");
    }
    // The same file does not start a proxy.
    assert_ne!(keyway(&["--config", &bad]).0, 0);
    assert_ne!(keyway(&["--set", "proxy.worker=2"]).0, 0, "an unknown key");
    let (code, _, complaint) = keyway(&["--config", "/no/such/file"]);
    assert_ne!(code, 0);
    assert!(complaint.contains("/no/such/file"), "{complaint}");

    let (code, version, _) = keyway(&["--version"]);
    assert_eq!((code, version.trim()), (0, concat!("keyway ", env!("CARGO_PKG_VERSION"))));
}

/// A second proxy on the same port says so and ends.
#[test]
fn port_in_use() {
    let cluster = Cluster::of_masters(Server::Redis70);
    let proxy = Proxy::start(&cluster);
    let listen = format!("proxy.listen=127.0.0.1:{}", proxy.port);
    let (code, _, complaint) =
        keyway(&["--set", &listen, "--set", &format!("cluster.seeds={}", cluster.seeds()), "--set", "admin.listen="]);
    assert_ne!(code, 0);
    assert!(complaint.contains(&proxy.port.to_string()), "{complaint}");
}

/// SIGTERM ends it in order, promptly, with exit code 0, also with clients connected.
#[test]
fn stops_on_request() {
    let cluster = Cluster::of_masters(Server::Redis70);
    for signal in ["TERM", "INT"] {
        let mut proxy = Proxy::start(&cluster);
        let mut client = proxy.client();
        assert_eq!(client.call(&["SET", "k", "v"]), Reply::ok());
        proxy.process().signal(signal);
        assert_eq!(proxy.process().wait(Duration::from_secs(30)), 0, "SIG{signal}");
    }
}

/// `keyway demo` starts a cluster and the proxy, and leaves neither process nor file when it is interrupted.
fn demo(server: Server) {
    let (folder, port) = (Folder::new(), free_port());
    let mut command = bound_command(binary());
    let scratch = folder.join("tmp");
    fs::create_dir(&scratch).expect("the folder is ours");
    command.arg("demo").args(["--port", &port.to_string(), "--server-bin"]).arg(server.binary());
    command.env("TMPDIR", &scratch);
    let mut process = Process::start("keyway demo", command, &folder.join("log")).under_test();
    wait_until("the demo to serve", || {
        assert_eq!(process.ended(), None, "{}", process.log());
        let mut client = Client::try_connect(port).ok_or_else(|| process.log())?;
        match client.try_call(&["SET", "k", "v"]) {
            Some(reply) if reply == Reply::ok() => Ok(()),
            other => Err(format!("{other:?}\n{}", process.log())),
        }
    });
    let children = descendants(process.pid());
    assert!(children.len() >= 6, "3 masters and 3 replicas: {children:?}");
    assert_eq!(Client::connect(port).call(&["GET", "k"]), Reply::bulk("v"));
    let told = process.log();
    assert!(told.contains(&port.to_string()), "it says where to connect: {told}");
    process.signal("INT");
    process.wait(PATIENCE);
    wait_until("its servers to be gone", || {
        let left: Vec<u32> = children.iter().copied().filter(|&pid| is_running(pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} still run")) }
    });
    let left: Vec<_> = fs::read_dir(&scratch).expect("the folder is ours").flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "it left {left:?}");
}

/// The processes that a process started, and those that they did.
fn descendants(pid: u32) -> Vec<u32> {
    let output = Command::new("ps").args(["-e", "-o", "pid=,ppid="]).output().expect("ps is here");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pairs: Vec<[u32; 2]> = text
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
            Some([numbers.next()?, numbers.next()?])
        })
        .collect();
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        found.extend(pairs.iter().filter(|[_, of]| *of == parent).map(|[pid, _]| *pid));
        at += 1;
    }
    found.split_off(1)
}

fn is_running(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("\nState:\tZ")
}

/// One after the other: both look for free ports in the same place.
#[test]
fn demos() {
    demo(Server::Redis70);
    demo(Server::Valkey91);
}

/// Where the demo cannot work it says why, at once.
#[test]
fn demo_without_a_server() {
    let (code, _, complaint) = keyway(&["demo", "--port", &free_port().to_string(), "--server-bin", "/no/such/redis-server"]);
    assert_ne!(code, 0);
    assert!(complaint.contains("/no/such/redis-server"), "{complaint}");
}
