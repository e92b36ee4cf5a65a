//! Who may be connected to the admin listener: so many from other machines, and as many from this one.
//!
//! A new connection that finds no seat gets that of the one of its kind that has waited longest for a request. So
//! connections that say nothing keep out neither a probe nor a scraper, and those from elsewhere nobody on this machine.
//!
//! Invariant: a connection whose answer is being made keeps its seat. What is made may still be on its way when the seat goes.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// All seats.
pub struct Seats {
    /// The most of each kind.
    limit: usize,
    sitting: Mutex<Sitting>,
}

#[derive(Default)]
struct Sitting {
    /// Rises with whatever happens.
    now: u64,
    connections: Vec<Connection>,
}

struct Connection {
    number: u64,
    is_local: bool,
    /// When it began to wait for a request; `None` while it is being answered.
    waits_since: Option<u64>,
    given_up: CancellationToken,
}

/// One connection's seat, given back when it is dropped.
pub struct Seat {
    seats: Arc<Seats>,
    number: u64,
    given_up: CancellationToken,
}

/// While it is there, its connection is being answered.
pub struct Busy {
    seats: Arc<Seats>,
    number: u64,
}

impl Sitting {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn set_waiting(&mut self, number: u64, waits_since: Option<u64>) {
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.number == number) {
            connection.waits_since = waits_since;
        }
    }
}

impl Seats {
    /// So many for other machines, and so many for this one.
    pub fn new(limit: usize) -> Self {
        Self { limit, sitting: Mutex::default() }
    }

    /// A seat for a peer, if there is one or one that waits.
    pub fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Seat> {
        let is_local = peer.to_canonical().is_loopback();
        let mut sitting = self.sitting.lock();
        if sitting.connections.iter().filter(|connection| connection.is_local == is_local).count() >= self.limit {
            let alike = sitting.connections.iter().enumerate().filter(|(_, each)| each.is_local == is_local);
            let waiting = alike.filter_map(|(index, each)| Some((each.waits_since?, index)));
            let (_, longest) = waiting.min()?;
            sitting.connections.swap_remove(longest).given_up.cancel();
        }
        let (number, given_up) = (sitting.tick(), CancellationToken::new());
        let connection = Connection { number, is_local, waits_since: Some(number), given_up: given_up.clone() };
        sitting.connections.push(connection);
        Some(Seat { seats: self.clone(), number, given_up })
    }

    /// How many are taken.
    #[cfg(test)]
    pub fn taken(&self) -> usize {
        self.sitting.lock().connections.len()
    }
}

impl Seat {
    /// Cancelled when somebody else has got the seat.
    pub fn given_up(&self) -> &CancellationToken {
        &self.given_up
    }

    /// The connection is being answered from now on.
    pub fn busy(&self) -> Busy {
        self.seats.sitting.lock().set_waiting(self.number, None);
        Busy { seats: self.seats.clone(), number: self.number }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut sitting = self.seats.sitting.lock();
        let now = sitting.tick();
        sitting.set_waiting(self.number, Some(now));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.sitting.lock().connections.retain(|connection| connection.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_keep_nobody_of_this_machine_out_and_those_who_wait_nobody_at_all() {
        let seats = Arc::new(Seats::new(2));
        let [stranger, local, mapped] = ["192.0.2.1", "127.0.0.1", "::ffff:127.0.0.1"].map(|ip| ip.parse().unwrap());
        let strangers = [seats.take(stranger).unwrap(), seats.take(stranger).unwrap()];
        let busy = strangers.each_ref().map(Seat::busy);
        assert!(seats.take(stranger).is_none(), "both are being answered");
        let locals = [seats.take(local).unwrap(), seats.take(mapped).unwrap()];
        let [first, second] = busy;
        drop(second);
        drop(first);
        let newcomer = seats.take(stranger).unwrap();
        assert!(strangers[1].given_up().is_cancelled() && !strangers[0].given_up().is_cancelled());
        assert!(!locals.iter().any(|seat| seat.given_up().is_cancelled()));
        assert_eq!(seats.taken(), 4);
        drop((strangers, locals));
        assert_eq!(seats.taken(), 1);
        drop(newcomer);
        assert_eq!(seats.taken(), 0);
    }
}
