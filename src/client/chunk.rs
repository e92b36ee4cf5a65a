//! A chunk of an import: which profiles are in it, and what an acknowledgement says about them.

use std::collections::HashSet;

use prost::Message;
use tonic::Code;
use uuid::Uuid;

use super::error::ClientError;
use super::import::Refused;
use crate::model::limits::MAX_REQUEST_BYTES;
use crate::pb::{ImportProfilesResponse, Profile};

/// A larger profile is refused here: no server takes it, and a request with it could end the whole stream.
const MAX_SENT_BYTES: usize = MAX_REQUEST_BYTES / 4;
/// What a profile takes in a message beside itself: a tag and its length.
const PER_PROFILE_BYTES: usize = 6;

/// Profiles that are sent and acknowledged together.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// As they are sent: without output-only fields, with an id.
    pub profiles: Vec<Profile>,
    /// The caller's position of each of them.
    positions: Vec<u64>,
    /// Those that were refused here.
    refused: Vec<Refused>,
    bytes: usize,
    /// An earlier sending ended without an acknowledgement: it may have been written.
    pub in_doubt: bool,
}

/// What became of a chunk.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub written: u64,
    pub skipped: u64,
    /// In the order of their positions.
    pub refused: Vec<Refused>,
}

impl Chunk {
    /// How many of the caller's profiles it stands for.
    pub fn len(&self) -> usize {
        self.profiles.len() + self.refused.len()
    }

    /// What its profiles take in a request.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds what [`prepare`] gave for the profile at a position.
    pub fn add(&mut self, position: u64, prepared: Prepared) {
        match prepared {
            Prepared::Sendable(profile, bytes) => {
                self.bytes += bytes;
                self.positions.push(position);
                self.profiles.push(profile);
            }
            Prepared::TooLarge(bytes) => self.refused.push(Refused {
                position,
                code: Code::InvalidArgument,
                reason: "INVALID_FIELD".to_owned(),
                message: format!("has {bytes} bytes encoded; more than {MAX_SENT_BYTES} are not sent"),
            }),
        }
    }

    /// Reads its acknowledgement. `own` are the indexes of profiles that the acknowledgement reports as taken
    /// and that this import wrote itself the first time.
    pub fn settle(
        self,
        acknowledgement: ImportProfilesResponse,
        own: &HashSet<usize>,
    ) -> Result<Settled, ClientError> {
        let mut settled = Settled {
            written: acknowledgement.written_count.try_into().unwrap_or_default(),
            skipped: acknowledgement.skipped_count.try_into().unwrap_or_default(),
            refused: self.refused,
        };
        for error in acknowledgement.errors {
            let index = usize::try_from(error.index).unwrap_or(usize::MAX);
            let Some(position) = self.positions.get(index) else {
                let message = format!("the server reported profile {} of a smaller chunk", error.index);
                return Err(ClientError::contract_broken(message));
            };
            if own.contains(&index) {
                settled.written += 1;
                continue;
            }
            // The server's path is of its chunk; the caller knows the profile by its position.
            let path = format!("profiles[{index}]");
            let message = error.message.strip_prefix(&path).map(|rest| rest.trim_start_matches(['.', ' ']));
            settled.refused.push(Refused {
                position: *position,
                code: Code::from_i32(error.code),
                reason: error.reason,
                message: message.map(str::to_owned).unwrap_or(error.message),
            });
        }
        settled.refused.sort_by_key(|refused| refused.position);
        Ok(settled)
    }

    /// The indexes of profiles that a repeated chunk's acknowledgement reports as taken and that may be our own:
    /// the first of each id, since of several only the first can have been written. `before` has the ids of the
    /// chunks in doubt before this one.
    pub fn taken(&self, acknowledgement: &ImportProfilesResponse, before: &HashSet<String>) -> Vec<usize> {
        let mut seen = HashSet::new();
        let mut is_first = |id| !before.contains(id) && seen.insert(id);
        let firsts: HashSet<usize> =
            (0..).zip(&self.profiles).filter(|(_, each)| is_first(&each.id)).map(|(index, _)| index).collect();
        let taken = acknowledgement.errors.iter().filter(|error| error.reason == "PROFILE_EXISTS");
        taken.filter_map(|error| usize::try_from(error.index).ok()).filter(|index| firsts.contains(index)).collect()
    }
}

/// Whether a stored profile is what was sent.
pub(super) fn is_what_was_sent(stored: &Profile, sent: &Profile) -> bool {
    let Profile { id, email, display_name, attributes, .. } = stored;
    (id, email, display_name, attributes) == (&sent.id, &sent.email, &sent.display_name, &sent.attributes)
}

/// A profile on its way into a chunk.
pub(super) enum Prepared {
    /// With the bytes that it takes in a request.
    Sendable(Profile, usize),
    /// With its size in bytes.
    TooLarge(usize),
}

impl Prepared {
    /// The bytes that it takes in a request.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Sendable(_, bytes) => *bytes,
            Self::TooLarge(_) => 0,
        }
    }
}

/// Takes away what a server ignores, and gives an id to a profile that has none: a server would give it another
/// one each time that it is sent.
pub(super) fn prepare(profile: Profile) -> Prepared {
    let Profile { mut id, email, display_name, attributes, .. } = profile;
    if id.is_empty() {
        id = Uuid::now_v7().to_string();
    }
    let profile = Profile { id, email, display_name, attributes, ..Profile::default() };
    match profile.encoded_len() {
        bytes if bytes > MAX_SENT_BYTES => Prepared::TooLarge(bytes),
        bytes => Prepared::Sendable(profile, bytes + PER_PROFILE_BYTES),
    }
}
