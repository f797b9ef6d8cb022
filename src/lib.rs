//! Keyway: a proxy that makes a Redis or Valkey Cluster look like one standalone server.
//!
//! # The idea
//!
//! Everything that decides is plain synchronous code: bytes, values and `now` in, values out. A worker is a thread with one
//! current-thread runtime, its own clients, its own connections to the nodes ("lanes") and one [`engine::Engine`], the pure state
//! machine of all of them. Nothing on the request path is shared between threads. Bytes pass through unparsed: a request is scanned
//! for its boundaries, name and keys, a reply for its end, and both are forwarded as they came.
//!
//! # The modules
//!
//! | module | what it does | what it may import |
//! | --- | --- | --- |
//! | [`resp`] | the wire format: boundaries of requests and replies, limits, encoding; knows no command | – |
//! | [`access`] | who may come in, clients and operators: accounts, roles, what wrong passwords cost | – |
//! | [`command`] | what commands are: one table row each, lookup, key positions | `resp` |
//! | [`cluster`] | what a cluster looks like: slots, nodes, the slot map, `CLUSTER NODES`, redirects | – |
//! | [`engine`] | PURE: one worker's clients and lanes: sessions, order, routing, splitting, merging, redirects, retries, SCAN, and what has a folder or file of its own: `transaction`, `blocking`, `pubsub`, `tracking`, `monitor`, `identity` | the four above |
//! | [`tls`] | TLS of all sides: configurations that follow their files, handshakes, records | – |
//! | [`net`] | tokio drivers of the engine: workers, listeners, sockets, a thread for handshakes | `engine`, `tls`, and `topology` for its handle |
//! | [`control`] | connections of the control thread to nodes | `cluster`, `tls` |
//! | [`topology`] | when and whom to ask for the slot map, which answers to believe, publishing | `control` |
//! | [`migrate`] | slots on the move: the inventory of all nodes, pre-flight checks, executors, records of plans in the cluster, the coordinator that drives them; PURE: plans, their life, gates, the next step of a slot, pacing | `control`, `topology` |
//! | [`config`] | as written → as resolved; every mistake at once | `access` |
//! | [`admin`] | the PROXY namespace for operators, on its own ports and on clients': one definition per command, users and roles, live events | `resp`, `access`, `net` for its messages, `config`, `telemetry`, `topology`, `control`, `migrate` |
//! | [`telemetry`] | log set-up | `config` |
//! | [`report`] | what the proxy and the nodes tell in numbers: the facts, the table of metrics | `engine`, `net`, `topology`, `control`, `migrate` |
//! | [`web`] | HTTP: metrics, health, readiness | `report`, `admin` for its listeners |
//! | [`demo`] | a whole cluster to try the proxy with | – |
//! | [`app`] | constructs the parts in order, owns start and stop | all |
//!
//! `resp`, `access`, `command`, `cluster` and `engine` name no tokio, tracing, metrics, clock or environment. A test (`tests/it/tidy.rs`)
//! checks this and the directions.
//!
//! # The life of a request
//!
//! ```text
//! socket ─▶ net::clients ─▶ Engine::client_bytes ─▶ intake: scan, look up, keys ─▶ one step: keyed · split · fan-out · SCAN · local · refused
//!                                                                       │
//!                    session: one owed reply ◀──────────────────────────┤
//!                                                                       ▼
//!                                          send: target → node → lane, bytes into the lane's pipe ─▶ net: every dirty lane once a turn
//!                                                                       ⋮
//! socket ─▶ net::lanes ─▶ Engine::lane_bytes ─▶ answer: scan, oldest in flight ─▶ retry: deliver, or hold for the pump (resend, ASK, wait, give up)
//!                                                                       │
//!                    session: the ready head moves to the client's pipe ◀ merge, if one part of many ─▶ net: every dirty client once a turn
//! ```
//!
//! # Where the design was changed by what the servers taught
//!
//! - **Topology comes from `CLUSTER NODES` alone**, on every version: it has ids, addresses, flags, config epochs, slots and open slots
//!   in one answer. Views of several nodes are merged, the highest config epoch wins a slot, and nobody owns a slot against its own word.
//! - **A script that is sent again goes inside of MULTI and EXEC**: what EXEC's array holds is the script's own answer, an error at
//!   queueing is the node's. So forged redirects are told from real ones, and real ones are followed as often as they come.
//! - **SCAN is one atomic look at a node** (MULTI, SCAN, CLUSTER NODES, EXEC), so that a slot counts as visited only if the node owned
//!   it at that moment; what it is giving away is asked for at the receiver too.
//! - **Slots are computed eight bytes at a time** by `cluster`'s own CRC16, because the key is on every request's path; the `crc16` crate is
//!   its oracle in the tests.
//! - **The servers judge what is queued**: whether a command may stand in a transaction is asked of a node once a command and number of
//!   arguments (`MULTI, command, EXEC x`, which never runs); so the texts are its own on every version.
//! - **Private lanes** serve one client at a time: blocked requests, watched keys, logins. A client that goes while it is blocked has its
//!   block ended by CLIENT UNBLOCK, and what was popped for it in that moment is put back.
//! - **One subscription upstream** serves all clients of a worker; it stays at its node while that lives, also as a replica.
//! - **A client is a user**: lanes are chosen by protocol version and user, so the cluster's own ACL rules hold. A tracking client is a
//!   user of its own, because the servers remember what a connection has read.
//! - **An open slot is pinned to its two ends**: on Redis a replica that takes over from the source does not know that the slot is open and
//!   answers nil for what has moved, so the workers of all proxies, who read the plan's record, ask nobody else until the marks are set again.
//! - **The classic executor sends a hand-over only when the target's former masters are back** (Valkey), and **the atomic one refuses a
//!   source with keys in several databases**: Valkey 9.1 lost a shard, and acknowledged writes, in the tests.
//! - **Handshakes have a thread of their own**, and a worker gets connections that are ready; on those it makes and takes apart records in its own
//!   buffers (rustls's unbuffered connections), so that a quiet client owns none and a write sends as many records as there are.
//! - **A lane keeps the bytes of what is in flight** until they are answered: a resend needs no copy on the way out.
//! - **One command with one key has a short way of its own** (`engine::plain`), in less than a thousand instructions there and back: it takes the
//!   general steps at once, with one look at the client and the lane, and leaves to them whatever is not plain.

#![deny(unsafe_code)]

pub mod access;
pub mod admin;
pub mod app;
pub mod cluster;
pub mod command;
pub mod config;
pub mod control;
pub mod demo;
pub mod engine;
pub mod migrate;
pub mod net;
pub mod report;
pub mod resp;
pub mod telemetry;
pub mod tls;
pub mod topology;
pub mod web;
