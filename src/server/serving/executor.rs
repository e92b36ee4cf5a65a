//! Runs a connection's calls on its own thread.
//!
//! Invariant: every call that is not answered at once is a task.

use std::cell::Cell;
use std::rc::Rc;

/// Runs a connection's calls, and counts them.
#[derive(Debug, Clone, Default)]
pub struct LocalExecutor {
    calls: Rc<Cell<usize>>,
}

impl LocalExecutor {
    /// The number of calls that run.
    pub fn calls(&self) -> Rc<Cell<usize>> {
        self.calls.clone()
    }
}

/// A call that runs.
struct Running(Rc<Cell<usize>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl LocalExecutor {
    /// Runs a call as a task of its own.
    pub fn execute(&self, future: impl Future<Output = ()> + 'static) {
        self.calls.set(self.calls.get() + 1);
        let running = Running(self.calls.clone());
        tokio::task::spawn_local(async move {
            let _running = running;
            future.await;
        });
    }
}
