//! A bulk import: profiles in, acknowledgements out, with bounded memory, and over lost connections.
//!
//! Everything happens while the [`Import`] is polled. Profiles are taken from the caller only when there is room
//! for them: one chunk is filled while at most [`ImportOptions::chunks_in_flight`] wait for their
//! acknowledgements. Those are kept until then and are sent again, in order, when the connection is lost.
//!
//! One stream and not several: of two profiles with one id the later one stays. Whoever has profiles without such
//! repetitions may run several imports at once over parts of them, each with positions of its own.
//!
//! # What sending again means
//!
//! A chunk of an import has no request id, so a server does not know one that it has met before. A profile
//! without an id is given one here, so that it is not created twice. With [`OnConflict::Replace`] a repeated
//! chunk is harmless, but for a change that somebody else made to its profiles in between. With
//! [`OnConflict::Skip`] its profiles may be counted as skipped instead of written. With [`OnConflict::Fail`] they
//! are looked at: a profile of a repeated chunk that is reported as taken and is stored exactly as it was sent
//! counts as written. This is a mistake only if it was stored with the same content before its chunk was first sent: before
//! the import began, by somebody else meanwhile, or from an earlier chunk of this import, so that the second of two equal profiles
//! is not refused as it would be without a break. What is stored is the same in any case.
//!
//! The same goes for an import that goes on where an earlier one, perhaps of another process, broke off:
//! [`ImportOptions::in_doubt`] says how many of its first profiles that one may have sent.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, stream};
use tonic::Code;

use super::Client;
use super::builder::check_range;
use super::error::ClientError;
use super::import_run::Run;
use crate::pb::Profile;

/// What to do with a profile whose id is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnConflict {
    /// Report it; the import goes on.
    #[default]
    Fail,
    /// Keep the stored profile.
    Skip,
    /// Replace the stored profile.
    Replace,
}

/// How to import. The client holds at most `chunks_in_flight + 1` chunks, those in flight twice.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// What to do with a profile whose id is taken.
    pub on_conflict: OnConflict,
    /// The most profiles of a chunk: 1 to 10,000, by default 500.
    pub chunk_profiles: usize,
    /// The most bytes of a chunk, unless one profile alone has more: 1 KiB to 2 MiB, by default 512 KiB.
    pub chunk_bytes: usize,
    /// How many chunks may wait for their acknowledgements: 1 to 64, by default 4.
    pub chunks_in_flight: usize,
    /// How many profiles at the beginning an import that broke off may already have sent, by default 0.
    pub in_doubt: u64,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            on_conflict: OnConflict::Fail,
            chunk_profiles: 500,
            chunk_bytes: 512 * 1024,
            chunks_in_flight: 4,
            in_doubt: 0,
        }
    }
}

impl ImportOptions {
    /// How many profiles behind the last reported position may have been sent at most: what is in doubt for an import that
    /// goes on there.
    pub fn most_in_flight(&self) -> u64 {
        self.chunks_in_flight as u64 * self.chunk_profiles as u64
    }
}

/// How far an import has come. Each follows on the one before, without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Of the profiles that were given, counted from 0, each before this position is durable, skipped, or was
    /// reported.
    pub position: u64,
    /// How many were written so far.
    pub written: u64,
    /// How many were skipped so far because their id was taken.
    pub skipped: u64,
    /// Those that were refused since the last report, in the order of their positions.
    pub refused: Vec<Refused>,
}

/// A profile that was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its place among the profiles that were given, from 0.
    pub position: u64,
    /// The code that a single write would have failed with.
    pub code: Code,
    /// The stable reason, for example `PROFILE_EXISTS`.
    pub reason: String,
    /// What is wrong, in a sentence.
    pub message: String,
}

/// The reports of an import. It ends when all profiles are acknowledged, or after the first error.
///
/// It must be polled for the import to go on; dropping it ends the import.
#[must_use = "an import goes on only while its reports are taken"]
pub struct Import(BoxStream<'static, Result<Imported, ClientError>>);

impl Stream for Import {
    type Item = Result<Imported, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl std::fmt::Debug for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Import").finish_non_exhaustive()
    }
}

impl Client {
    /// Writes a stream of profiles in chunks, and reports how far it has come.
    ///
    /// Profiles are taken as fast as the server commits them. A profile that cannot be written is reported by its
    /// position and does not end the import. When the connection is lost, what was not acknowledged is sent
    /// again. After an error, an import of the profiles from the last reported position on goes on, with
    /// [`ImportOptions::most_in_flight`] profiles in doubt.
    ///
    /// ```no_run
    /// # async fn example(client: profilestore::client::Client) -> Result<(), profilestore::client::ClientError> {
    /// use futures_util::{TryStreamExt, stream};
    /// use profilestore::client::{ImportOptions, OnConflict, Profile};
    ///
    /// let profiles = (0..1_000_000).map(|number| Profile { id: format!("u{number}"), ..Profile::default() });
    /// let options = ImportOptions { on_conflict: OnConflict::Replace, ..ImportOptions::default() };
    /// let mut import = client.import(stream::iter(profiles), options);
    /// while let Some(report) = import.try_next().await? {
    ///     println!("{} of the first {} are written", report.written, report.position);
    ///     report.refused.iter().for_each(|each| println!("{}: {}", each.position, each.message));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn import(&self, profiles: impl Stream<Item = Profile> + Send + 'static, options: ImportOptions) -> Import {
        let run = Run::new(self.clone(), profiles.boxed().fuse(), options);
        Import(Box::pin(stream::try_unfold(run, |mut run| async move {
            Ok(run.next().await?.map(|report| (report, run)))
        })))
    }
}

impl ImportOptions {
    pub(super) fn check(&self) -> Result<(), ClientError> {
        let mut violations = Vec::new();
        check_range(&mut violations, "chunk_profiles", self.chunk_profiles, 1..=10_000);
        check_range(&mut violations, "chunk_bytes", self.chunk_bytes, 1024..=2 * 1024 * 1024);
        check_range(&mut violations, "chunks_in_flight", self.chunks_in_flight, 1..=64);
        if violations.is_empty() { Ok(()) } else { Err(ClientError::invalid(violations)) }
    }
}
