//! Who is told of commits while they are made.

use crate::model::Change;

/// Told by an engine around the moment at which changes become visible to reads.
///
/// For every group of changes the engine calls `before_apply`, makes the changes visible, and calls
/// `after_apply` with the same changes, from the thread that commits and before the writers are answered. Groups of engines that commit on several
/// threads may overlap and end in any order; the changes of one profile are announced in the order of their revisions. If
/// the engine fails in between, `after_apply` is not called and the store takes no further writes. The methods
/// must not block, since all writers wait for them.
pub trait CommitObserver: Send + Sync + 'static {
    /// The changes are durable and about to become visible.
    fn before_apply(&self, changes: &[Change]);

    /// The changes are visible.
    fn after_apply(&self, changes: &[Change]);
}

/// Nobody.
pub struct NoObserver;

impl CommitObserver for NoObserver {
    fn before_apply(&self, _: &[Change]) {}
    fn after_apply(&self, _: &[Change]) {}
}
