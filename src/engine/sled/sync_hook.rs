//! Makes sled's syncs real.
//!
//! On Linux sled 0.34 makes its writes durable with `sync_file_range`, which neither flushes the disk's
//! cache nor writes the file's metadata: after a power cut, acknowledged data is gone, and sled reuses space
//! on the strength of it. This module defines the C symbol `sync_file_range`, so that the linker binds sled's
//! calls to it, and does what was meant: `fdatasync`.
//!
//! The store checks at every open, with [`sync_count`], that a flush really came through here.
//!
//! This is the one file of the project with `unsafe` code: a C symbol cannot be defined without it.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How many syncs went through the hook in this process.
static SYNCS: AtomicU64 = AtomicU64::new(0);

/// Whether syncs fail, as those of a broken disk.
static FAILING: AtomicBool = AtomicBool::new(false);

/// Lets every sync of sled in this process fail with `EIO`, or no more. For tests.
pub fn fail_syncs(failing: bool) {
    FAILING.store(failing, Ordering::SeqCst);
}

/// How many syncs of sled went through the hook since the process began.
pub fn sync_count() -> u64 {
    SYNCS.load(Ordering::Relaxed)
}

/// Stands in for the C library's `sync_file_range`: syncs the file's data and what metadata is needed to
/// read it back. Returns 0, or -1 with `errno` set by `fdatasync`.
#[cfg(target_os = "linux")]
// SAFETY: the signature is that of the C library's function, and nothing else defines the symbol in this
// program; the only caller is sled.
#[unsafe(no_mangle)]
extern "C" fn sync_file_range(
    fd: libc::c_int,
    _offset: libc::off64_t,
    _bytes: libc::off64_t,
    _flags: libc::c_uint,
) -> libc::c_int {
    SYNCS.fetch_add(1, Ordering::Relaxed);
    if FAILING.load(Ordering::Relaxed) {
        // SAFETY: the C library says where this thread's errno is, for as long as the thread lives.
        unsafe { *libc::__errno_location() = libc::EIO };
        return -1;
    }
    // SAFETY: fdatasync takes any number for a descriptor and fails with EBADF for a wrong one.
    unsafe { libc::fdatasync(fd) }
}
