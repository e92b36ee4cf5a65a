//! Where all watchers stand, for whoever wants to see how far the slowest is behind.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::store::Position;

/// The positions of all watchers.
#[derive(Default)]
pub struct Standings {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    next: u64,
    /// Each watcher has a lock of its own, since it moves with every message.
    positions: HashMap<u64, Arc<Mutex<Position>>>,
}

/// One watcher's position, which is forgotten with it.
pub struct Standing {
    standings: Arc<Standings>,
    number: u64,
    position: Arc<Mutex<Position>>,
}

impl Standings {
    /// A new watcher stands at a position.
    pub fn add(self: &Arc<Self>, position: Position) -> Standing {
        let position = Arc::new(Mutex::new(position));
        let mut entries = self.entries.lock();
        entries.next += 1;
        let number = entries.next;
        entries.positions.insert(number, position.clone());
        Standing { standings: self.clone(), number, position }
    }

    /// Where each watcher stands now.
    pub fn positions(&self) -> Vec<Position> {
        let positions: Vec<_> = self.entries.lock().positions.values().cloned().collect();
        positions.iter().map(|position| *position.lock()).collect()
    }
}

impl Standing {
    /// The watcher has moved on.
    pub fn set(&self, position: Position) {
        *self.position.lock() = position;
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.standings.entries.lock().positions.remove(&self.number);
    }
}
