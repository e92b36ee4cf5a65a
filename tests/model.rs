//! Random operations on a store, each compared with what a plain map says.
//!
//! Few ids, addresses and domains, so that writes collide, addresses move and ancestors are shared. Every stack
//! that keeps its data is closed and opened again now and then. A failing run prints its seed; the variable
//! [`SEED_VARIABLE`] repeats it. Another test kills a store on disk in the middle of commits, takes from it what a power
//! cut may take, makes snapshots, trims the log, and repairs.

mod common;

#[path = "model/crashes.rs"]
mod crashes;
#[path = "model/oracle.rs"]
mod oracle;
#[path = "model/plan.rs"]
mod plan;
#[path = "model/run.rs"]
mod run;

/// The environment variable that sets the seed.
const SEED_VARIABLE: &str = "PROFILESTORE_MODEL_SEED";
/// The number of operations of one run.
const OPERATIONS: usize = 10_000;

/// The model test for one stack.
macro_rules! model {
    ($module:ident, $stack:ty) => {
        mod $module {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn random_operations_do_what_a_map_does() {
                crate::run::random_operations::<$stack>(false).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn random_operations_with_unique_emails_do_what_a_map_does() {
                crate::run::random_operations::<$stack>(true).await;
            }
        }
    };
}

model!(memory, crate::common::stacks::Memory);
model!(cached_memory, crate::common::stacks::CachedMemory);
model!(sled, crate::common::stacks::Sled);
model!(cached_sled, crate::common::stacks::CachedSled);
