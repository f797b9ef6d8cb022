//! Clients that know what every answer must be.

use std::time::Duration;

use crate::harness::cluster::SLOT_COUNT;
use crate::harness::over::{Over, join};
use crate::harness::{Client, Cluster, Reply, wait_until};

/// Writers, each with keys of its own in every slot.
const WRITERS: usize = 3;

/// Strings in each slot that nobody changes.
pub const FIXED: usize = 40;

pub struct Oracle {
    port: u16,
    tags: Vec<String>,
    over: Over,
}

impl Oracle {
    /// Fills the slots of these tags, through the proxy.
    pub fn new(port: u16, tags: &[String]) -> Oracle {
        let oracle = Oracle { port, tags: tags.to_vec(), over: Over::default() };
        let set = |key: String| vec!["SET".to_owned(), key.clone(), format!("value of {key}")];
        let replies = oracle.client().pipeline(&oracle.fixed().map(set).collect::<Vec<_>>());
        assert!(replies.iter().all(|reply| *reply == Reply::ok()), "{replies:?}");
        oracle
    }

    fn client(&self) -> Client {
        Client::connect(self.port)
    }

    fn fixed(&self) -> impl Iterator<Item = String> + '_ {
        self.tags.iter().flat_map(|tag| (0..FIXED).map(move |number| format!("{tag}fixed:{number}")))
    }

    /// Runs `act` while clients write and read, then looks at every key.
    pub fn under_load<T>(&self, act: impl FnOnce() -> T) -> T {
        let result = std::thread::scope(|threads| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|me| {
                    threads.spawn(move || {
                        let _over = self.over.when_dropped();
                        self.write(me);
                    })
                })
                .collect();
            let over = self.over.when_dropped();
            let result = act();
            drop(over);
            writers.into_iter().for_each(join);
            result
        });
        self.check_fixed();
        result
    }

    /// Runs `act` while one client reads what nobody changes.
    pub fn watched<T>(&self, act: impl FnOnce() -> T) -> T {
        let over = Over::default();
        std::thread::scope(|threads| {
            let reader = threads.spawn(|| {
                while !over.yet() {
                    self.check_fixed();
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            let ends = over.when_dropped();
            let result = act();
            drop(ends);
            join(reader);
            result
        })
    }

    pub fn check_fixed(&self) {
        let keys: Vec<String> = self.fixed().collect();
        let get = |key: &String| vec!["GET".to_owned(), key.clone()];
        let replies = self.client().pipeline(&keys.iter().map(get).collect::<Vec<_>>());
        for (key, reply) in keys.iter().zip(replies) {
            assert_eq!(reply, Reply::bulk(format!("value of {key}")), "{key}");
        }
    }

    /// Every answer is known beforehand: what was written last is there, what was deleted is not, what was counted was counted once.
    fn write(&self, me: usize) {
        let mut client = self.client();
        let mut rounds = vec![0i64; self.tags.len()];
        let mut check = |command: &[&str], expected: Reply| {
            let reply = client.call(command);
            assert!(reply == expected, "{command:?}: {reply:?} instead of {expected:?}");
        };
        while !self.over.yet() || rounds.contains(&0) {
            for (tag, round) in self.tags.iter().zip(&mut rounds) {
                let key = |name: &str| format!("{tag}{name}:{me}");
                let [string, count, hash, gone, other] = ["string", "count", "hash", "gone", "other"].map(key);
                let text = |number: i64| Reply::bulk(number.to_string());
                if *round > 0 {
                    check(&["GET", &string], text(*round));
                    check(&["EXISTS", &gone, &other], Reply::Integer(if *round % 2 == 0 { 0 } else { 2 }));
                }
                *round += 1;
                let value = round.to_string();
                check(&["SET", &string, &value], Reply::ok());
                check(&["INCR", &count], Reply::Integer(*round));
                check(&["HSET", &hash, "field", &value], Reply::Integer(i64::from(*round == 1)));
                check(&["HGET", &hash, "field"], text(*round));
                if *round % 2 == 0 {
                    check(&["DEL", &gone, &other], Reply::Integer(2));
                } else {
                    check(&["MSET", &gone, &value, &other, &value], Reply::ok());
                    check(&["MGET", &gone, &other], Reply::Array(vec![text(*round); 2]));
                    check(&["PEXPIRE", &gone, "600000"], Reply::Integer(1));
                }
                check(&["EVAL", "return redis.call('GET',KEYS[1])", "1", &string], text(*round));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        for (tag, round) in self.tags.iter().zip(&rounds) {
            check(&["GET", &format!("{tag}count:{me}")], Reply::bulk(round.to_string()));
        }
    }
}

/// All nodes agree, no slot is open, and no key lies where its slot is not.
pub fn assert_whole(cluster: &Cluster) {
    cluster.wait_for_agreement();
    wait_until("slots without marks and keys without orphans", || {
        for (index, member) in cluster.members().iter().enumerate().filter(|(_, member)| member.is_up()) {
            let view = cluster.view_of(index);
            let own = view.iter().find(|node| node.id == member.id).expect("a node knows itself");
            if !own.open_slots.is_empty() {
                return Err(format!("member {index} has open slots: {:?}", own.open_slots));
            }
            if !own.is_master() {
                continue;
            }
            let foreign: Vec<u16> = (0..SLOT_COUNT).filter(|slot| !own.owns(*slot)).collect();
            let count = |slot: &u16| vec!["CLUSTER".to_owned(), "COUNTKEYSINSLOT".to_owned(), slot.to_string()];
            let counts = member.client().pipeline(&foreign.iter().map(count).collect::<Vec<_>>());
            if let Some((slot, count)) = foreign.iter().zip(counts).find(|(_, count)| *count != Reply::Integer(0)) {
                return Err(format!("member {index} holds {count:?} keys of slot {slot}, which it does not own"));
            }
        }
        Ok(())
    });
}
