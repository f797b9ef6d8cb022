//! What clients feel while slots move: how long each of many small requests takes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Outcome;
use super::harness::Client;

/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(1);

/// The times of one kind of client.
#[derive(Clone, Copy, Debug)]
pub struct Felt {
    pub p99_ms: f64,
    pub longest_ms: f64,
}

/// Runs `act` while one client sends PING to the source and another GETs the moving keys through the proxy, one after the other.
/// An error reply ends the run.
pub fn during<T>([source, proxy]: [u16; 2], keys: Vec<String>, act: impl FnOnce() -> T) -> Outcome<(T, [Felt; 2])> {
    let over = AtomicBool::new(false);
    thread::scope(|threads| {
        let pings = threads.spawn(|| watch(source, &over, |_| vec!["PING".to_owned()]));
        let gets = threads.spawn(|| watch(proxy, &over, |count| vec!["GET".to_owned(), keys[count * 7919 % keys.len()].clone()]));
        let result = act();
        over.store(true, Ordering::Relaxed);
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Felt, String>>| thread.join().expect("it returns its errors");
        Ok((result, [join(pings)?, join(gets)?]))
    })
}

fn watch(port: u16, over: &AtomicBool, request: impl Fn(usize) -> Vec<String>) -> Result<Felt, String> {
    let mut client = Client::connect(port);
    let mut times = Vec::new();
    while !over.load(Ordering::Relaxed) || times.is_empty() {
        let request = request(times.len());
        let begun = Instant::now();
        let reply = client.call(&request);
        times.push(begun.elapsed());
        if reply.is_error() || reply.is_null() {
            return Err(format!("{request:?} was answered with {reply:?}"));
        }
        thread::sleep(PAUSE);
    }
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(Felt { p99_ms: ms(times[times.len() * 99 / 100]), longest_ms: ms(times[times.len() - 1]) })
}
