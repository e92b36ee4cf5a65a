//! The room for answers: how many bytes of them are held, who may have more, and who waits for it.
//!
//! Who waits ([`RoomOfStream`]) does so in the order in which the streams of its connection came, so that none is passed
//! by for ever, and is woken by what its own connection gives back. What others give back is seen a moment later, which
//! spares every answer of every connection from waking all that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use super::error::RpcError;
use super::share::{self, Connection, is_fair};
use crate::store::StoreError;

/// The bound where nothing else is said.
pub const ANSWER_BYTES_HELD: usize = 256 * 1024 * 1024;
/// Smaller messages are not charged. They take no more than the calls themselves.
pub const SMALL: usize = 4096;
/// How soon one that waits sees what other connections gave back.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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
}

impl Charge {
    /// Charges a message; `None` when there is no room and it `may_be_refused`.
    pub fn new(connection: &Arc<Connection>, bytes: usize, may_be_refused: bool) -> Option<Self> {
        let HeldAnswers { bytes: all, limit } = &*connection.all_answers;
        let all = all.fetch_add(bytes, Ordering::Relaxed);
        let own = connection.answers.fetch_add(bytes, Ordering::Relaxed);
        let charge = Self { connection: connection.clone(), bytes };
        let has_room = all.saturating_add(bytes) <= *limit && is_fair(own, bytes, all, *limit);
        (has_room || !may_be_refused).then_some(charge)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.connection.all_answers.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.connection.answers.fetch_sub(self.bytes, Ordering::Relaxed);
        self.connection.given_back.notify_one();
    }
}

/// Whether there is room for an answer of a connection with so many bytes.
pub fn is_there(connection: &Connection, bytes: usize) -> bool {
    let HeldAnswers { bytes: all, limit } = &*connection.all_answers;
    let (all, own) = (all.load(Ordering::Relaxed), connection.answers.load(Ordering::Relaxed));
    all.saturating_add(bytes) <= *limit && is_fair(own, bytes, all, *limit)
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

impl RoomOfStream {
    /// For messages of the call that is polled now.
    pub fn of_this_call(bytes: usize) -> Self {
        Self { connection: share::current(), bytes }
    }

    /// Waits for room for one message. It is kept until what is returned is dropped: just before the message, which is
    /// charged then, is handed on.
    pub async fn wait(&self) -> Option<Charge> {
        let connection = self.connection.as_ref()?;
        // One of each connection waits for room, and the others behind it, in order.
        let _turn = connection.turn.acquire().await;
        while !is_there(connection, self.bytes) {
            let _ = timeout(LOOK_AGAIN, connection.given_back.notified()).await;
        }
        Charge::new(connection, self.bytes, false)
    }
}

#[cfg(test)]
#[path = "answer_room_tests.rs"]
mod tests;
