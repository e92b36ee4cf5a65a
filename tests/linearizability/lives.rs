//! What the callers talk to, from one opening to the next kill: the store behind its cache, a server over it, and two
//! that are broken.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use profilestore::cache::CachedStore;
use profilestore::engine::sled::{SledOptions, SledStore};
use profilestore::model::{Outcome as Stored_, Precondition, Record};
use profilestore::pb::profile_service_client::ProfileServiceClient;
use profilestore::pb::profile_write::Write as BatchedWrite;
use profilestore::pb::{
    BatchGetProfilesRequest, BatchWriteProfilesRequest, CreateProfileRequest, DeleteProfileRequest,
    GetProfileRequest, ListProfilesRequest, Profile, ProfileWrite, QueryProfilesByDomainRequest,
    UpdateProfileRequest,
};
use profilestore::store::{Commit, Cursor, NoObserver, PageBounds, Scope, Store, StoreError};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::history::{Action, Outcome};
use super::kills::Power;
use crate::common::mortal_disk::MortalDisk;
use crate::common::profiles::{delete, delete_if, id, profile, put_if, scope};
use crate::common::server::TestServer;
use crate::common::stacks::cache;

/// What a page shows: ids and values.
pub type Shown = Vec<(String, u32)>;
/// A page and where the next one begins.
pub type Paged = (Shown, Option<Bytes>);

/// The answers come from something that is going away, or none comes.
#[derive(Debug)]
pub struct Gone;

/// What callers ask.
pub trait Target: Clone + Send + Sync + 'static {
    fn get(&self, key: String) -> impl Future<Output = Result<Option<u32>, Gone>> + Send;
    fn get_many(&self, keys: Vec<String>) -> impl Future<Output = Result<Vec<Option<u32>>, Gone>> + Send;
    /// A page of all profiles in the order of their ids, or of a domain.
    fn page(
        &self,
        domain: Option<String>,
        after: Option<Bytes>,
        size: usize,
    ) -> impl Future<Output = Result<Paged, Gone>> + Send;
    /// Several writes are all or nothing, and have no conditions.
    fn commit(&self, writes: Vec<(String, Action)>) -> impl Future<Output = Result<Vec<Outcome>, Gone>> + Send;
}

/// A store that was opened on a directory, and what is in front of it.
pub trait Life: Sized + Send + Sync + 'static {
    type Target: Target;
    /// What a kill may take with it.
    const POWER: Power;
    fn open(dir: &Path, disk: &MortalDisk) -> impl Future<Output = Self> + Send;
    fn target(&self) -> Self::Target;
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// The e-mail that goes with a value: it moves through three domains.
fn email(key: &str, value: u32) -> String {
    format!("{key}@d{}.example", value % 3)
}

/// The value of a profile, after its e-mail was found to go with it.
fn value(profile: &Profile) -> u32 {
    let value = profile.display_name.parse().unwrap();
    assert_eq!(profile.email, email(&profile.id, value), "fields of two writes in one profile");
    value
}

fn value_of(record: &Record) -> u32 {
    value(&profile(record))
}

/// Small segments, so that a log of a few writes has several.
async fn open_sled(
    dir: &Path,
    disk: &MortalDisk,
    observer: Arc<dyn profilestore::store::CommitObserver>,
) -> SledStore {
    let options = SledOptions { disk: disk.disk(), log_segment_bytes: 1500, ..SledOptions::new(dir) };
    SledStore::open(options, observer).await.unwrap()
}

type Cached = Arc<CachedStore<SledStore>>;

fn gone(error: StoreError) -> Gone {
    assert!(matches!(error, StoreError::Failed { .. } | StoreError::Closed), "{error}");
    Gone
}

impl Target for Cached {
    async fn get(&self, key: String) -> Result<Option<u32>, Gone> {
        Ok(Store::get(&**self, &id(key)).await.map_err(gone)?.as_ref().map(value_of))
    }

    async fn get_many(&self, keys: Vec<String>) -> Result<Vec<Option<u32>>, Gone> {
        let ids: Vec<_> = keys.iter().map(id).collect();
        let records = Store::get_many(&**self, &ids).await.map_err(gone)?;
        Ok(records.iter().map(|record| record.as_ref().map(value_of)).collect())
    }

    async fn page(&self, domain: Option<String>, after: Option<Bytes>, size: usize) -> Result<Paged, Gone> {
        let scope = domain.map_or(Scope::All, |domain| scope(&domain));
        let bounds = PageBounds { max_records: size, max_bytes: usize::MAX };
        let page = self.list(&scope, after.map(Cursor).as_ref(), bounds).await.map_err(gone)?;
        let shown = page.records.iter().map(|record| (profile(record).id, value_of(record))).collect();
        Ok((shown, page.next.map(|cursor| cursor.0)))
    }

    async fn commit(&self, writes: Vec<(String, Action)>) -> Result<Vec<Outcome>, Gone> {
        let put = |key: &str, value: u32, condition| put_if(key, &email(key, value), &value.to_string(), condition);
        let is_single = writes.len() == 1;
        let writes = writes.iter().map(|(key, action)| match *action {
            Action::Put(value) => put(key, value, Precondition::None),
            Action::Create(value) => put(key, value, Precondition::MustBeAbsent),
            Action::Replace(value) => put(key, value, Precondition::MustExist),
            Action::Delete if is_single => delete(key),
            Action::Delete => delete_if(key, Precondition::None),
            Action::Read => unreachable!("a read is no write"),
        });
        let writes = writes.collect();
        let commit = if is_single { Commit::each(writes) } else { Commit::all(writes) };
        let outcomes = Store::commit(&**self, commit).await.map_err(gone)?;
        Ok(outcomes
            .into_iter()
            .map(|outcome| match outcome {
                Ok(Stored_::Stored(_) | Stored_::Deleted(_) | Stored_::Absent) => Outcome::Done,
                Ok(other) => panic!("{other:?}"),
                Err(_) => Outcome::Refused,
            })
            .collect())
    }
}

/// The store behind its cache.
pub struct Stored(Cached);

impl Life for Stored {
    type Target = Cached;
    const POWER: Power = Power::MayFail;

    async fn open(dir: &Path, disk: &MortalDisk) -> Self {
        let cache = cache();
        Self(Arc::new(CachedStore::new(open_sled(dir, disk, cache.clone()).await, cache)))
    }

    fn target(&self) -> Cached {
        self.0.clone()
    }

    async fn close(self) {
        Store::close(&*self.0).await.unwrap();
    }
}

/// Broken: the cache is not the store's observer.
pub struct Stale(Cached);

impl Life for Stale {
    type Target = Cached;
    const POWER: Power = Power::MayFail;

    async fn open(dir: &Path, disk: &MortalDisk) -> Self {
        Self(Arc::new(CachedStore::new(open_sled(dir, disk, Arc::new(NoObserver)).await, cache())))
    }

    fn target(&self) -> Cached {
        self.0.clone()
    }

    async fn close(self) {
        Store::close(&*self.0).await.unwrap();
    }
}

/// Broken: writes are answered before they are on disk, and then the power fails.
pub struct Lying(Stored);

impl Life for Lying {
    type Target = Cached;
    const POWER: Power = Power::Fails;

    async fn open(dir: &Path, disk: &MortalDisk) -> Self {
        disk.lie();
        Self(Stored::open(dir, disk).await)
    }

    fn target(&self) -> Cached {
        self.0.target()
    }

    async fn close(self) {
        self.0.close().await;
    }
}

/// A server with its fast lane over the store behind its cache, by its gRPC interface.
pub struct Wired {
    stored: Stored,
    server: TestServer,
}

impl Life for Wired {
    type Target = ProfileServiceClient<Channel>;
    const POWER: Power = Power::MayFail;

    async fn open(dir: &Path, disk: &MortalDisk) -> Self {
        let stored = Stored::open(dir, disk).await;
        let server = TestServer::over_cached(stored.0.clone()).await;
        Self { stored, server }
    }

    fn target(&self) -> Self::Target {
        self.server.profiles()
    }

    async fn close(self) {
        drop(self.server);
        self.stored.close().await;
    }
}

/// No answer of the server's own is ever an error here but one that says that it goes away.
fn unanswered(status: Status) -> Gone {
    let goes_away = matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal);
    assert!(goes_away, "{status:?}");
    Gone
}

impl Target for ProfileServiceClient<Channel> {
    async fn get(&self, id: String) -> Result<Option<u32>, Gone> {
        match self.clone().get_profile(GetProfileRequest { id, ..Default::default() }).await {
            Ok(profile) => Ok(Some(value(profile.get_ref()))),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(unanswered(status)),
        }
    }

    async fn get_many(&self, ids: Vec<String>) -> Result<Vec<Option<u32>>, Gone> {
        let request = BatchGetProfilesRequest { ids: ids.clone(), ..Default::default() };
        let found = self.clone().batch_get_profiles(request).await.map_err(unanswered)?.into_inner();
        let by_id = |id: &String| found.profiles.iter().find(|profile| profile.id == *id);
        Ok(ids.iter().map(|id| by_id(id).map(value)).collect())
    }

    async fn page(&self, domain: Option<String>, after: Option<Bytes>, size: usize) -> Result<Paged, Gone> {
        let page_token = after.map_or_else(String::new, |token| String::from_utf8(token.to_vec()).unwrap());
        let (mut client, page_size) = (self.clone(), size as i32);
        let (profiles, next) = match domain {
            None => {
                let request = ListProfilesRequest { page_size, page_token, ..Default::default() };
                let page = client.list_profiles(request).await.map_err(unanswered)?.into_inner();
                (page.profiles, page.next_page_token)
            }
            Some(domain) => {
                let request = QueryProfilesByDomainRequest { domain, page_size, page_token, ..Default::default() };
                let page = client.query_profiles_by_domain(request).await.map_err(unanswered)?.into_inner();
                (page.profiles, page.next_page_token)
            }
        };
        let shown = profiles.iter().map(|profile| (profile.id.clone(), value(profile))).collect();
        Ok((shown, Some(next).filter(|next| !next.is_empty()).map(Bytes::from)))
    }

    async fn commit(&self, writes: Vec<(String, Action)>) -> Result<Vec<Outcome>, Gone> {
        let count = writes.len();
        let profile = |id: &str, value: u32| {
            Some(Profile {
                id: id.into(),
                email: email(id, value),
                display_name: value.to_string(),
                ..Profile::default()
            })
        };
        let update = |id: &str, value, allow_missing| {
            let request = UpdateProfileRequest { profile: profile(id, value), allow_missing, ..Default::default() };
            BatchedWrite::Update(request)
        };
        let writes = writes.iter().map(|(id, action)| match *action {
            Action::Put(value) => update(id, value, true),
            Action::Replace(value) => update(id, value, false),
            Action::Create(value) => {
                BatchedWrite::Create(CreateProfileRequest { profile: profile(id, value), ..Default::default() })
            }
            Action::Delete => BatchedWrite::Delete(DeleteProfileRequest {
                id: id.clone(),
                allow_missing: true,
                ..Default::default()
            }),
            Action::Read => unreachable!("a read is no write"),
        });
        let writes = writes.map(|write| ProfileWrite { write: Some(write) }).collect();
        match self.clone().batch_write_profiles(BatchWriteProfilesRequest { writes, ..Default::default() }).await {
            Ok(_) => Ok(vec![Outcome::Done; count]),
            Err(status) if matches!(status.code(), Code::NotFound | Code::AlreadyExists) => {
                Ok(vec![Outcome::Refused; count])
            }
            Err(status) => Err(unanswered(status)),
        }
    }
}
