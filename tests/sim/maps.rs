//! The control thread: it asks nodes for the slot map, and publishes what they say.

use std::sync::Arc;

use crate::world::{What, World};

impl World {
    /// The control thread asks some node, or all of them.
    pub fn ask_map(&mut self) {
        self.map_asked = false;
        let asked = self.now;
        let reachable: Vec<usize> = (0..self.cluster.nodes.len())
            .filter(|index| {
                self.cluster.nodes[*index].alive && self.cluster.truth.known[*index] && !self.cluster.nodes[*index].loading
            })
            .collect();
        let stale = self.calm_since.is_none() && self.random.u32(0..100) < self.plan.stale_percent;
        let Some(first) = reachable.first() else { return self.later(50_000, What::AskMap) };
        let mut view = self.cluster.nodes[*first].view.clone();
        if stale {
            let one = *self.random.choice(reachable.iter()).expect("one is reachable");
            view = self.cluster.nodes[one].view.clone();
        } else {
            reachable.iter().for_each(|node| view.learn(&self.cluster.nodes[*node].view));
            view.failed.clone_from(&self.cluster.truth.failed);
        }
        let map = Arc::new(self.cluster.map(&view, self.maps.len() as u64 + 1, asked));
        self.say(|| format!("a map is made (stale: {stale}): {:?}", view.units));
        self.maps.push(map);
        for engine in 0..self.drivers.len() {
            let wait = self.random.u64(100..if stale { 300_000 } else { 20_000 });
            self.later(wait, What::Publish(engine, self.maps.len() - 1));
        }
    }

    /// A map is asked for now and then without anyone's wish, as the control thread does.
    pub fn ask_map_again(&mut self) {
        self.ask_map();
        for client in 0..self.clients.len() {
            self.close_when_done(client);
        }
        let wait = self.random.u64(200_000..2_000_000);
        self.later(wait, What::PeriodicMap);
    }

    pub fn publish(&mut self, engine: usize, map: usize) {
        let map = self.maps[map].clone();
        // Maps are published in the order of their questions: there is one control thread.
        if self.drivers[engine].map.as_ref().is_some_and(|known| known.asked_at_us > map.asked_at_us) {
            return;
        }
        self.say(|| format!("map {} reaches engine {engine}", map.version));
        self.drivers[engine].map = Some(map.clone());
        self.drivers[engine].knows_since.get_or_insert(self.now);
        self.with(engine, |engine| engine.map_published(map));
    }
}
