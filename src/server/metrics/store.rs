//! The store, its committer, its disk and the cache in front of it.

use super::exposition::{NANOSECONDS, Page};
use crate::cache::{CacheFigures, PageFigures};
use crate::engine::sled::{PoolFigures, SledFigures};
use crate::server::stack::ServerStore;
use crate::store::{Store, StoreState};

/// Writes what can be said without waiting; the kept pages may take so many bytes.
pub fn write(page: &mut Page, store: &ServerStore, page_limit: u64) {
    let (status, figures) = (store.status(), store.inner().figures());
    page.gauge("profilestore_profiles", "Profiles in the store.").value(status.totals.profiles);
    page.gauge("profilestore_domains", "Domains with at least one profile.").value(status.totals.domains);
    page.gauge("profilestore_live_bytes", "Bytes of the encoded profiles.").value(status.totals.profile_bytes);
    let states = [
        ("open", status.state == StoreState::Open),
        ("failed", matches!(status.state, StoreState::Failed { .. })),
        ("closed", status.state == StoreState::Closed),
    ];
    let mut family = page.gauge("profilestore_store_state", "1 for the state that the store is in.");
    for (state, is_it) in states {
        family.labelled(&[("state", state)], u8::from(is_it));
    }
    write_operations(page, figures);
    write_queue(page, store);
    write_disk(page, figures);
    write_open(page, figures);
    write_pools(page, &store.inner().pools());
    write_cache(page, &store.figures());
    write_pages(page, store.cache().pages().figures(), page_limit);
}

/// Writes what takes a look at the log's files to know: the log that is kept because somebody holds it.
pub fn write_held_log(page: &mut Page, bytes: Option<u64>, limit: u64) {
    let help = "With more held log its oldest changes go, published or not.";
    page.gauge("profilestore_held_log_limit_bytes", help).value(limit);
    let help = "Bytes of the log behind the place that is held longest; 0 when nothing is held.";
    let mut family = page.gauge("profilestore_held_log_bytes", help);
    if let Some(bytes) = bytes {
        family.value(bytes);
    }
}

type PoolCount = fn(&PoolFigures) -> u64;

fn write_pools(page: &mut Page, pools: &[(&'static str, PoolFigures)]) {
    let gauges: [(&str, &str, PoolCount); 4] = [
        ("profilestore_read_pool_running", "Reads of the store that run, by pool.", |of| of.running as u64),
        ("profilestore_read_pool_limit_running", "The most of them at a time.", |of| of.running_max as u64),
        ("profilestore_read_pool_waiting", "Reads that wait for a place in a pool.", |of| of.waiting as u64),
        ("profilestore_read_pool_limit_waiting", "With more waiting reads new ones are refused.", |of| {
            of.waiting_max as u64
        }),
    ];
    for (name, help, count) in gauges {
        let mut family = page.gauge(name, help);
        for (pool, figures) in pools {
            family.labelled(&[("pool", pool)], count(figures));
        }
    }
    let mut family = page.counter("profilestore_read_pool_refused_total", "Reads that were refused, by pool.");
    for (pool, figures) in pools {
        family.labelled(&[("pool", pool)], figures.refused);
    }
}

fn write_pages(page: &mut Page, figures: PageFigures, limit: u64) {
    let mut family =
        page.counter("profilestore_page_cache_reads_total", "Queries by domain by what the kept pages knew.");
    for (result, count) in [("hit", figures.hits), ("miss", figures.misses)] {
        family.labelled(&[("result", result)], count);
    }
    for (name, help, value) in [
        ("profilestore_page_cache_entries", "Pages that are kept.", figures.pages),
        ("profilestore_page_cache_bytes", "Bytes that the kept pages take.", figures.bytes),
        ("profilestore_page_cache_limit_bytes", "The bound on those bytes.", limit),
    ] {
        page.gauge(name, help).value(value);
    }
}

/// Writes what is on disk, which takes a walk through the directory to know.
pub fn write_disk_bytes(page: &mut Page, bytes: u64, figures: &SledFigures) {
    let help = "Items that sled keeps in files of their own, which it does not sync. Must be 0.";
    page.gauge("profilestore_sled_blobs", help).value(figures.blobs());
    page.gauge("profilestore_disk_bytes", "Bytes of all files in the data directory.").value(bytes);
}

fn write_operations(page: &mut Page, figures: &SledFigures) {
    let help = "How long operations of the store behind the cache took; a commit's includes its time in the queue.";
    let mut family = page.histogram("profilestore_store_operation_seconds", help);
    for (operation, seen) in figures.operations() {
        family.distribution(&[("operation", operation)], &seen, NANOSECONDS);
    }
    let help = "How long the steps of a commit group took: log_append writes and syncs the log, apply changes sled, flush syncs sled, decide reads what the writes are decided on, ask_for_room asks the disk.";
    let mut family = page.histogram("profilestore_commit_step_seconds", help);
    for (step, seen) in figures.steps() {
        family.distribution(&[("step", step)], &seen, NANOSECONDS);
    }
    page.histogram("profilestore_commit_group_writes", "How many changes were made durable together.").distribution(
        &[],
        &figures.group_writes(),
        1.0,
    );
    page.counter("profilestore_commit_log_bytes_total", "Bytes appended to the commit log.")
        .value(figures.log_bytes());
}

fn write_queue(page: &mut Page, store: &ServerStore) {
    let (waiting, bounds) = store.inner().queue();
    page.gauge("profilestore_commit_queue_commits", "Commits that wait.").value(waiting.commits);
    page.gauge("profilestore_commit_queue_limit_commits", "With more waiting commits new ones are refused.")
        .value(bounds.commits);
    page.gauge("profilestore_commit_queue_bytes", "Bytes of the commits that wait.").value(waiting.bytes);
    page.gauge("profilestore_commit_queue_limit_bytes", "With more waiting bytes new commits are refused.")
        .value(bounds.bytes);
}

fn write_disk(page: &mut Page, figures: &SledFigures) {
    page.gauge("profilestore_disk_low", "1 while writes are refused because the disk is nearly full.")
        .value(u8::from(figures.is_disk_low()));
    let mut family = page.gauge("profilestore_disk_free_bytes", "Room on the disk when the committer last asked.");
    if let Some(free) = figures.free_bytes() {
        family.value(free);
    }
    let help = "1 when sled's own thread, which reclaims space, has ended; the store has failed then.";
    page.gauge("profilestore_sled_flusher_ended", help).value(u8::from(figures.has_flusher_ended()));
    page.counter("profilestore_snapshots_total", "Snapshots made.").value(figures.snapshots());
    page.counter("profilestore_snapshot_failures_total", "Snapshots that could not be made.")
        .value(figures.snapshot_failures());
    let newest = figures.newest_snapshot();
    let mut family = page.gauge("profilestore_snapshot_bytes", "Bytes of the newest snapshot that was made.");
    if let Some((bytes, _)) = newest {
        family.value(bytes);
    }
    let help = "When the newest snapshot was made, in seconds of Unix time.";
    let mut family = page.gauge("profilestore_snapshot_timestamp_seconds", help);
    if let Some((_, made)) = newest {
        family.value(made);
    }
}

fn write_open(page: &mut Page, figures: &SledFigures) {
    let open = figures.open();
    page.gauge("profilestore_open_seconds", "How long it took to open the store.").value(open.took.as_secs_f64());
    page.gauge("profilestore_open_replayed_groups", "Commit groups that were replayed when the store was opened.")
        .value(open.replayed_groups);
    let help = "How long the check of the whole state took when the store was opened; 0 when it was not made.";
    page.gauge("profilestore_open_check_seconds", help).value(open.check_took.unwrap_or_default().as_secs_f64());
    page.gauge("profilestore_open_healed", "1 when the state was damaged and was built anew at the start.")
        .value(u8::from(open.healed));
    page.gauge(
        "profilestore_open_left_open",
        "1 when the run before did not close the store: it was killed, or failed.",
    )
    .value(u8::from(open.left_open));
}

fn write_cache(page: &mut Page, figures: &CacheFigures) {
    let mut family = page.counter("profilestore_cache_reads_total", "Reads of profiles by what the cache knew.");
    for (result, count) in [("hit", figures.hits), ("negative_hit", figures.negative_hits), ("miss", figures.misses)]
    {
        family.labelled(&[("result", result)], count);
    }
    for (name, help, count) in [
        ("profilestore_cache_joins_total", "Misses that waited for another caller's load.", figures.joins),
        (
            "profilestore_cache_refused_fills_total",
            "Loads that were not kept because of a commit meanwhile.",
            figures.refused_fills,
        ),
        ("profilestore_cache_evictions_total", "Profiles that made room for others.", figures.evictions),
        ("profilestore_cache_expirations_total", "Profiles whose time was over when met.", figures.expirations),
    ] {
        page.counter(name, help).value(count);
    }
    for (name, help, value) in [
        ("profilestore_cache_entries", "Profiles in the cache.", figures.entries),
        ("profilestore_cache_negative_entries", "Absences in the cache.", figures.negative_entries),
        ("profilestore_cache_bytes", "Bytes that the cached profiles take.", figures.bytes),
        ("profilestore_cache_limit_bytes", "The bound on those bytes.", figures.capacity_bytes),
    ] {
        page.gauge(name, help).value(value);
    }
    // Sums: by the rate of hits and evictions they are the mean ages of any time, and not of all time.
    for (name, help, ages) in [
        (
            "profilestore_cache_hit_age_seconds_total",
            "Ages of profiles when they were hit, together.",
            figures.ages_at_hit,
        ),
        (
            "profilestore_cache_eviction_age_seconds_total",
            "Ages of profiles when they made room, together.",
            figures.ages_at_eviction,
        ),
    ] {
        page.counter(name, help).value(ages.as_secs_f64());
    }
}
