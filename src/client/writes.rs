//! The writing calls. Each carries a fresh request id, the same for all its repetitions.

use uuid::Uuid;

use super::error::ClientError;
use super::{Client, Connection, field_mask};
use crate::pb::profile_write::Write as BatchedWrite;
use crate::pb::{
    BatchWriteProfilesRequest, CreateProfileRequest, DeleteProfileRequest, Profile, ProfileWrite,
    UpdateProfileRequest,
};

/// How to update a profile.
#[derive(Debug, Clone, Default)]
pub struct UpdateOptions {
    /// The fields to change. Empty: those that are populated, where `attributes` are replaced as a whole. `*`
    /// replaces everything. `attributes.KEY` sets one attribute, or removes it when the profile lacks it.
    pub mask: Vec<String>,
    /// Create the profile from the given fields, whatever the mask, when it does not exist.
    pub allow_missing: bool,
}

/// How to delete a profile.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// When not empty: delete only if this is the current etag.
    pub etag: String,
    /// Succeed when there is no such profile.
    pub allow_missing: bool,
}

/// One write of a batch.
#[derive(Debug, Clone)]
pub enum Write {
    /// Create a profile.
    Create(Profile),
    /// Change a profile.
    Update(Profile, UpdateOptions),
    /// Delete the profile with this id.
    Delete(String, DeleteOptions),
}

impl Client {
    /// Creates a profile and returns it as it is stored. With an empty id the server makes one.
    ///
    /// [`ClientError::AlreadyExists`] when the id is taken.
    ///
    /// ```no_run
    /// # async fn example(client: profilestore::client::Client) -> Result<(), profilestore::client::ClientError> {
    /// use profilestore::client::{ClientError, Profile};
    ///
    /// let ada = Profile { id: "ada".into(), email: "ada@example.com".into(), ..Profile::default() };
    /// match client.create(ada).await {
    ///     Ok(profile) => println!("created with the etag {}", profile.etag),
    ///     Err(ClientError::AlreadyExists(_)) => println!("the id is taken"),
    ///     Err(ClientError::Invalid { violations, .. }) => {
    ///         violations.iter().for_each(|each| println!("{} {}", each.field, each.description));
    ///     }
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn create(&self, profile: Profile) -> Result<Profile, ClientError> {
        let request = CreateProfileRequest { request_id: request_id(), ..create(profile) };
        let attempt =
            |connection: Connection, request| async move { connection.profiles().create_profile(request).await };
        self.call(request, attempt).await
    }

    /// Changes a profile, or creates it with `allow_missing`, and returns it as it is stored.
    ///
    /// A non-empty `profile.etag` must be the current one; otherwise [`ClientError::Aborted`], with the current
    /// one in the metadata as `current_etag`.
    ///
    /// ```no_run
    /// # async fn example(client: profilestore::client::Client) -> Result<(), profilestore::client::ClientError> {
    /// use profilestore::client::{Profile, UpdateOptions};
    ///
    /// let attributes = [("team".to_owned(), "engines".to_owned())].into();
    /// let ada = Profile { id: "ada".into(), attributes, ..Profile::default() };
    /// let options = UpdateOptions { mask: vec!["attributes.team".into()], ..UpdateOptions::default() };
    /// client.update(ada, options).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn update(&self, profile: Profile, options: UpdateOptions) -> Result<Profile, ClientError> {
        let request = UpdateProfileRequest { request_id: request_id(), ..update(profile, options) };
        let attempt =
            |connection: Connection, request| async move { connection.profiles().update_profile(request).await };
        self.call(request, attempt).await
    }

    /// Deletes a profile.
    ///
    /// ```no_run
    /// # async fn example(client: profilestore::client::Client) -> Result<(), profilestore::client::ClientError> {
    /// use profilestore::client::DeleteOptions;
    ///
    /// client.delete("ada", DeleteOptions { allow_missing: true, ..DeleteOptions::default() }).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn delete(&self, id: impl Into<String>, options: DeleteOptions) -> Result<(), ClientError> {
        let request = DeleteProfileRequest { request_id: request_id(), ..delete(id.into(), options) };
        let attempt =
            |connection: Connection, request| async move { connection.profiles().delete_profile(request).await };
        self.call(request, attempt).await
    }

    /// Makes 1 to 100 writes in one commit, all of them or none, and returns what each left: the profile as it
    /// is stored, or nothing for a delete.
    ///
    /// The error of a write that fails has the write's `index` in its metadata.
    ///
    /// ```no_run
    /// # async fn example(client: profilestore::client::Client) -> Result<(), profilestore::client::ClientError> {
    /// use profilestore::client::{DeleteOptions, Profile, Write};
    ///
    /// let moved = Profile { id: "countess".into(), ..Profile::default() };
    /// let writes = vec![Write::Create(moved), Write::Delete("ada".into(), DeleteOptions::default())];
    /// client.batch_write(writes).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn batch_write(&self, writes: Vec<Write>) -> Result<Vec<Option<Profile>>, ClientError> {
        let batched = |write| match write {
            Write::Create(profile) => BatchedWrite::Create(create(profile)),
            Write::Update(profile, options) => BatchedWrite::Update(update(profile, options)),
            Write::Delete(id, options) => BatchedWrite::Delete(delete(id, options)),
        };
        let writes = writes.into_iter().map(|write| ProfileWrite { write: Some(batched(write)) }).collect();
        let request = BatchWriteProfilesRequest { writes, request_id: request_id() };
        let attempt = |connection: Connection, request| async move {
            connection.profiles().batch_write_profiles(request).await
        };
        let answer = self.call(request, attempt).await?;
        Ok(answer.results.into_iter().map(|result| result.profile).collect())
    }
}

fn request_id() -> String {
    Uuid::now_v7().to_string()
}

fn create(profile: Profile) -> CreateProfileRequest {
    CreateProfileRequest { profile: Some(profile), request_id: String::new() }
}

fn update(profile: Profile, options: UpdateOptions) -> UpdateProfileRequest {
    UpdateProfileRequest {
        profile: Some(profile),
        update_mask: field_mask(options.mask),
        allow_missing: options.allow_missing,
        request_id: String::new(),
    }
}

fn delete(id: String, options: DeleteOptions) -> DeleteProfileRequest {
    DeleteProfileRequest { id, etag: options.etag, allow_missing: options.allow_missing, request_id: String::new() }
}
