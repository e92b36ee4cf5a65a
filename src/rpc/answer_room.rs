//! The room for answers: how many bytes of them are held, and who may have more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::RpcError;
use super::share::{self, Connection, is_fair};
use crate::store::StoreError;

/// The bound where nothing else is said.
pub const ANSWER_BYTES_HELD: usize = 256 * 1024 * 1024;
/// Smaller messages are not charged. They take no more than the calls themselves.
pub const SMALL: usize = 4096;

/// The bytes held of all answers.
#[derive(Debug)]
pub struct HeldAnswers {
    bytes: AtomicUsize,
    limit: usize,
}

/// What one message is charged.
#[derive(Debug)]
pub struct Charge {
    connection: Arc<Connection>,
    bytes: usize,
}

impl HeldAnswers {
    /// None yet, and at most `limit`.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), limit })
    }

    /// The bytes that are held now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether a connection that holds `own` bytes may have `more`, where all hold `all`.
    fn have_room(&self, own: usize, more: usize, all: usize) -> bool {
        all.saturating_add(more) <= self.limit && is_fair(own, more, all, self.limit)
    }
}

impl Charge {
    /// Charges a message; `None` when there is no room and it `may_be_refused`.
    pub fn new(connection: &Arc<Connection>, bytes: usize, may_be_refused: bool) -> Option<Self> {
        let answers = &connection.all_answers;
        let all = answers.bytes.fetch_add(bytes, Ordering::Relaxed);
        let own = connection.answers.fetch_add(bytes, Ordering::Relaxed);
        let charge = Self { connection: connection.clone(), bytes };
        (!may_be_refused || answers.have_room(own, bytes, all)).then_some(charge)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.connection.all_answers.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.connection.answers.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Whether there is room for an answer of a connection with so many bytes.
pub fn is_there(connection: &Connection, bytes: usize) -> bool {
    let answers = &connection.all_answers;
    answers.have_room(connection.answers.load(Ordering::Relaxed), bytes, answers.bytes())
}

/// Keeps room for an answer that will have up to so many bytes, until what is returned is dropped. Fails when there is none
/// for the call that is polled now.
pub fn room_for(bytes: usize) -> Result<Option<Charge>, RpcError> {
    // Without a connection nothing is held.
    let Some(connection) = share::current().filter(|_| bytes > SMALL) else { return Ok(None) };
    Charge::new(&connection, bytes, true).map(Some).ok_or(RpcError::Store(StoreError::Overloaded))
}

/// Room for the messages of one stream, each of up to so many bytes.
#[derive(Debug)]
pub struct RoomOfStream {
    /// Without a connection nothing is held.
    connection: Option<Arc<Connection>>,
    bytes: usize,
}

/// There is no room for a whole message now.
#[derive(Debug)]
pub struct NoRoom;

impl RoomOfStream {
    /// For messages of the call that is polled now.
    pub fn of_this_call(bytes: usize) -> Self {
        Self { connection: share::current(), bytes }
    }

    /// Whether there is room for a message that is made and handed on without a wait.
    pub fn is_there(&self) -> bool {
        self.connection.as_ref().is_none_or(|connection| is_there(connection, self.bytes))
    }

    /// Keeps room for one message until what is returned is dropped: just before the message, which is charged then, is
    /// handed on.
    pub fn keep(&self) -> Result<Option<Charge>, NoRoom> {
        let Some(connection) = &self.connection else { return Ok(None) };
        if !is_there(connection, self.bytes) {
            return Err(NoRoom);
        }
        Ok(Charge::new(connection, self.bytes, false))
    }
}

#[cfg(test)]
#[path = "answer_room_tests.rs"]
mod tests;
