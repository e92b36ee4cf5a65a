//! What requests have in common: paging and masks.

use prost_types::FieldMask;

use super::page_token::Fingerprint;
use crate::model::limits::{DEFAULT_PAGE_SIZE, MAX_PAGE_BYTES, MAX_PAGE_SIZE};
use crate::model::{ReadMask, Violations};
use crate::store::PageBounds;

/// The number of entries of a page.
pub fn page_size(page_size: i32) -> Result<usize, Violations> {
    match usize::try_from(page_size) {
        Err(_) => Err(Violations::one("page_size", "must not be negative")),
        Ok(0) => Ok(DEFAULT_PAGE_SIZE),
        Ok(size) => Ok(size.min(MAX_PAGE_SIZE)),
    }
}

/// The bounds of a page of so many profiles.
pub fn page_bounds(max_records: usize) -> PageBounds {
    PageBounds { max_records, max_bytes: MAX_PAGE_BYTES }
}

/// The mask of a read.
pub fn read_mask(mask: Option<&FieldMask>) -> Result<ReadMask, Violations> {
    ReadMask::parse(mask, "read_mask")
}

/// The fingerprint of a call that returns profiles: its name, its arguments and its mask.
pub fn fingerprint(call: &str, arguments: &[&[u8]], mask: Option<&FieldMask>) -> Fingerprint {
    let paths = mask.map(|mask| mask.paths.as_slice()).unwrap_or_default();
    let all: Vec<&[u8]> = arguments.iter().copied().chain(paths.iter().map(String::as_bytes)).collect();
    Fingerprint::new(call, &all)
}
