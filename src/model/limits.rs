//! Every bound of the public contract, in one place.

/// The longest profile id, in bytes.
pub const MAX_ID_BYTES: usize = 128;
/// The longest e-mail address, in bytes (RFC 5321 with its erratum 1690).
pub const MAX_EMAIL_BYTES: usize = 254;
/// The longest text that is read as a domain, in bytes. The canonical form has at most 253; names in other scripts
/// may be longer as they are written.
pub const MAX_DOMAIN_INPUT_BYTES: usize = 1024;
/// The longest display name, in bytes.
pub const MAX_DISPLAY_NAME_BYTES: usize = 256;
/// The most attributes of one profile.
pub const MAX_ATTRIBUTES: usize = 128;
/// The longest attribute key, in bytes.
pub const MAX_ATTRIBUTE_KEY_BYTES: usize = 64;
/// The largest encoded profile, output-only fields included, in bytes. It keeps every item of sled's log
/// far below the size at which sled would move it to a file that it never syncs.
pub const MAX_PROFILE_BYTES: usize = 16 * 1024;

/// The page size when the caller names none.
pub const DEFAULT_PAGE_SIZE: usize = 50;
/// The largest page, in entries.
pub const MAX_PAGE_SIZE: usize = 1000;
/// The largest page, in encoded bytes (3.5 MiB): it always fits gRPC's customary message limit of 4 MiB.
pub const MAX_PAGE_BYTES: usize = 3_670_016;
/// The most ids of one BatchGetProfiles.
pub const MAX_BATCH_GET_IDS: usize = 1000;
/// The most profiles of one chunk of an import.
pub const MAX_IMPORT_CHUNK_PROFILES: usize = 10_000;
/// The most fields of a request message at its top level, repeated ones counted each: twice what any call allows, so
/// that a somewhat too long list is still told its own bound. A message is small and what it is decoded into is not.
pub const MAX_MESSAGE_FIELDS: usize = 20_000;
/// The most writes of one atomic commit.
pub const MAX_BATCH_WRITES: usize = 100;
/// The largest atomic commit, in encoded bytes.
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// The largest request message, in bytes.
pub const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// The most paths of a field mask.
pub const MAX_MASK_PATHS: usize = 256;
/// The most writes of one commit of any kind. Even if every one of them makes the largest profile, the commit
/// fits one frame of the commit log.
pub const MAX_COMMIT_WRITES: usize = 128;
