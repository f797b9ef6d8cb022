//! The data that a master shares with its replicas.

use std::collections::{BTreeMap, HashMap, VecDeque};

#[derive(Clone, Debug)]
pub enum Value {
    Text(Vec<u8>),
    List(Vec<Vec<u8>>),
    Number(i64),
}

/// A list and an element that was taken out of it.
pub type Popped = (String, Vec<u8>);

#[derive(Default)]
pub struct Shard {
    pub data: BTreeMap<String, Value>,
    /// Units on their way out, and the shard that receives them.
    pub migrating: BTreeMap<usize, usize>,
    /// Units on their way in, and the shard that gives them.
    pub importing: BTreeMap<usize, usize>,
    /// Lists that have got elements since waiting connections were last served.
    pub ready: VecDeque<String>,
    /// How often a key was changed, moved away or taken in.
    versions: HashMap<String, u64>,
}

impl Shard {
    pub fn version(&self, key: &str) -> u64 {
        self.versions.get(key).copied().unwrap_or(0)
    }

    pub fn touch(&mut self, key: &str) {
        *self.versions.entry(key.to_owned()).or_default() += 1;
    }

    pub fn put(&mut self, key: &str, value: Value) -> Option<Value> {
        self.touch(key);
        if let Value::List(_) = value {
            self.ready.push_back(key.to_owned());
        }
        self.data.insert(key.to_owned(), value)
    }

    pub fn take(&mut self, key: &str) -> Option<Value> {
        let taken = self.data.remove(key)?;
        self.touch(key);
        Some(taken)
    }

    /// Puts an element to a list's head or tail; returns its length.
    pub fn push(&mut self, key: &str, element: &[u8], head: bool) -> Option<usize> {
        let Value::List(elements) = self.data.entry(key.to_owned()).or_insert(Value::List(vec![])) else { return None };
        let place = if head { 0 } else { elements.len() };
        elements.insert(place, element.to_vec());
        let len = elements.len();
        self.touch(key);
        self.ready.push_back(key.to_owned());
        Some(len)
    }

    /// Takes an element from a list's head or tail. An empty list is no list.
    pub fn pop(&mut self, key: &str, head: bool) -> Option<Vec<u8>> {
        let Value::List(elements) = self.data.get_mut(key)? else { return None };
        let element = if head { Some(elements.remove(0)) } else { elements.pop() };
        if elements.is_empty() {
            self.data.remove(key);
        }
        self.touch(key);
        element
    }
}
