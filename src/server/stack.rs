//! The only place where stores are put together: a cache around sled.

use std::sync::Arc;

use super::settings::Settings;
use crate::cache::{CacheOptions, CachedStore, HotCache};
use crate::engine::EngineRules;
use crate::engine::commit_log::Retention;
use crate::engine::sled::{OpenError, QueueBounds, SledOptions, SledStore, SnapshotPolicy, SpaceBounds};
use crate::figures::Distribution;
use crate::store::Clock;

/// The store that the server serves.
pub type ServerStore = CachedStore<SledStore>;

/// How the settings open the store on disk.
pub fn sled_options(settings: &Settings) -> SledOptions {
    SledOptions {
        canonicalization: settings.email.canonicalization(),
        rules: EngineRules { unique_email: settings.email.unique, clock: Clock::system() },
        sled_cache_bytes: settings.store.sled_cache_bytes,
        queue: QueueBounds { commits: settings.store.queued_commits, bytes: settings.store.queued_bytes },
        running_scans: settings.store.running_scans,
        waiting_scans: settings.store.waiting_scans,
        sync_timeout: settings.store.sync_timeout,
        check_at_open: settings.store.check_at_open,
        snapshots: SnapshotPolicy {
            after_log_bytes: settings.store.snapshot_after_bytes,
            retention: Retention { age: settings.store.log_keep_age, bytes: settings.store.log_keep_bytes },
        },
        held_log_bytes: settings.store.held_log_bytes,
        // Whole segments go: where little is to be kept, they are small.
        log_segment_bytes: (settings.store.snapshot_after_bytes / 16).clamp(64 * 1024, 64 * 1024 * 1024),
        space: SpaceBounds {
            min_free_bytes: settings.store.min_free_bytes,
            ballast_bytes: settings.store.ballast_bytes,
        },
        ..SledOptions::new(&settings.store.data_dir)
    }
}

/// Opens the store as the settings say.
pub async fn open(settings: &Settings) -> Result<ServerStore, OpenError> {
    let cache = Arc::new(HotCache::new(CacheOptions {
        max_bytes: settings.cache.max_bytes as usize,
        max_entries: settings.cache.max_entries,
        ttl: settings.cache.ttl,
        negative_entries: settings.cache.negative_entries,
        negative_ttl: settings.cache.negative_ttl,
        page_bytes: settings.cache.page_bytes as usize,
    }));
    let sled = SledStore::open(sled_options(settings), cache.clone()).await?;
    Ok(CachedStore::new(sled, cache))
}

/// What the committer counts: the writes in each group, and how long groups took to be written to the log and synced.
pub fn commit_figures(store: &ServerStore) -> (Distribution, Distribution) {
    let figures = store.inner().figures();
    (figures.group_writes(), figures.log_appends())
}
