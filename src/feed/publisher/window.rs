//! What waits to be sent and what is in flight.

use std::collections::{HashSet, VecDeque};

use super::message::{Message, MessageOptions, messages};
use crate::model::{CommitTime, ProfileId};
use crate::store::{CommittedChange, Position, StoreError};

/// How many bytes are in flight at most; a single message always may be.
const MAX_IN_FLIGHT_BYTES: usize = 4 * 1024 * 1024;

/// Where a message belongs.
#[derive(Debug)]
pub struct Ticket {
    /// Whose it is.
    pub profile: ProfileId,
    /// The change's position.
    pub position: Position,
    /// When the change was committed.
    pub time: CommitTime,
    /// The change has no more messages after this one.
    pub last_of_change: bool,
    bytes: usize,
}

/// Messages in order: those in flight, each with its answer, and behind them those that wait.
pub struct Window<A> {
    waiting: VecDeque<(Message, Ticket)>,
    in_flight: VecDeque<(Ticket, A)>,
    /// The profiles that have a message in flight.
    busy: HashSet<ProfileId>,
    /// The bytes in flight.
    bytes: usize,
}

impl<A> Default for Window<A> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), in_flight: VecDeque::new(), busy: HashSet::new(), bytes: 0 }
    }
}

impl<A> Window<A> {
    /// Puts changes in line.
    pub fn extend(&mut self, changes: &[CommittedChange], options: &MessageOptions) -> Result<(), StoreError> {
        for change in changes {
            let messages = messages(change, options)?;
            let count = messages.len();
            for (index, message) in messages.into_iter().enumerate() {
                let ticket = Ticket {
                    profile: change.id.clone(),
                    position: change.position,
                    time: change.time,
                    last_of_change: index + 1 == count,
                    bytes: message.payload.len(),
                };
                self.waiting.push_back((message, ticket));
            }
        }
        Ok(())
    }

    /// Nothing waits to be sent.
    pub fn wants_more(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Something is in flight.
    pub fn is_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Nothing waits and nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    /// When the oldest change that is not acknowledged was committed.
    pub fn oldest(&self) -> Option<CommitTime> {
        let in_flight = self.in_flight.front().map(|(ticket, _)| ticket.time);
        in_flight.or_else(|| self.waiting.front().map(|(_, ticket)| ticket.time))
    }

    /// The next message, if it may be sent with at most so many in flight: none of its profile may be there.
    pub fn next_to_send(&mut self, max_in_flight: usize) -> Option<(Message, Ticket)> {
        let (_, next) = self.waiting.front()?;
        let has_room = self.in_flight.len() < max_in_flight && self.bytes + next.bytes <= MAX_IN_FLIGHT_BYTES;
        if !(has_room || self.in_flight.is_empty()) || self.busy.contains(&next.profile) {
            return None;
        }
        self.waiting.pop_front()
    }

    /// Notes that a message was handed over.
    pub fn sent(&mut self, ticket: Ticket, answer: A) {
        self.busy.insert(ticket.profile.clone());
        self.bytes += ticket.bytes;
        self.in_flight.push_back((ticket, answer));
    }

    /// The answer that is awaited first.
    pub fn first_answer(&mut self) -> Option<&mut A> {
        self.in_flight.front_mut().map(|(_, answer)| answer)
    }

    /// The first message in flight is acknowledged.
    pub fn acknowledge(&mut self) -> Option<Ticket> {
        let (ticket, _) = self.in_flight.pop_front()?;
        self.busy.remove(&ticket.profile);
        self.bytes -= ticket.bytes;
        Some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(ids: &[&str]) -> Window<()> {
        let mut window = Window::default();
        let options = MessageOptions { subject: "p".into(), source: "s".into(), include_profile: false };
        let changes = ids.iter().enumerate().map(|(index, id)| CommittedChange {
            position: Position::new(&[index as u8]).unwrap(),
            time: CommitTime::from_unix_nanos(index as i64),
            id: ProfileId::parse(id, "id").unwrap(),
            record: None,
            previous_index_key: None,
            trace: None,
        });
        window.extend(&changes.collect::<Vec<_>>(), &options).unwrap();
        window
    }

    fn send_all(window: &mut Window<()>, max_in_flight: usize) -> Vec<String> {
        let mut sent = Vec::new();
        while let Some((_, ticket)) = window.next_to_send(max_in_flight) {
            sent.push(ticket.profile.to_string());
            window.sent(ticket, ());
        }
        sent
    }

    #[test]
    fn two_messages_of_one_profile_are_never_in_flight_together() {
        let mut window = window(&["a", "b", "a", "c"]);
        assert_eq!(send_all(&mut window, 10), ["a", "b"]);
        assert_eq!(window.acknowledge().unwrap().profile.as_str(), "a");
        assert_eq!(send_all(&mut window, 10), ["a", "c"]);
        assert_eq!(window.oldest(), Some(CommitTime::from_unix_nanos(1)));
        (0..3).for_each(|_| assert!(window.acknowledge().is_some()));
        assert!(window.is_empty() && window.acknowledge().is_none() && window.oldest().is_none());
    }

    #[test]
    fn no_more_than_allowed_are_in_flight_by_number_and_by_bytes() {
        let mut window = window(&["a", "b", "c", "d", "e"]);
        assert_eq!(send_all(&mut window, 2), ["a", "b"]);
        window.acknowledge();
        assert_eq!(send_all(&mut window, 2), ["c"]);
        window.waiting[0].1.bytes = MAX_IN_FLIGHT_BYTES + 1;
        assert!(send_all(&mut window, 10).is_empty());
        (0..2).for_each(|_| drop(window.acknowledge()));
        assert_eq!(send_all(&mut window, 10), ["d"], "a single message is always sent, and nothing beside it");
    }
}
