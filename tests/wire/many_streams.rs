//! A hundred calls at a time on one connection of tonic's client, each with its own answer.

use std::sync::Arc;

use futures_util::future::try_join_all;
use profilestore::cache::CachedStore;
use profilestore::engine::EngineRules;
use profilestore::engine::memory::MemoryStore;
use profilestore::pb::*;

use crate::common::profiles::{commit, put};
use crate::common::server::TestServer;
use crate::common::stacks::cache;

const PROFILES: usize = 200;
const STREAMS: usize = 100;

#[tokio::test]
async fn each_of_a_hundred_calls_on_one_connection_has_its_own_answer() {
    let cache = cache();
    let store = Arc::new(CachedStore::new(MemoryStore::new(EngineRules::default(), cache.clone()), cache));
    let id = |number: usize| format!("user-{:03}", number % PROFILES);
    for number in 0..PROFILES {
        commit(&*store, vec![put(&id(number), &format!("{}@{}.example", id(number), id(number)), "x")]).await;
    }
    let server = TestServer::over_cached(store).await;
    let client = server.profiles();
    for round in 0..20 {
        let calls = (0..STREAMS).map(|place| {
            let (mut client, number) = (client.clone(), round * STREAMS + place);
            async move {
                let expected = vec![id(number)];
                // Hot and cold ones, by themselves, in a batch and by their domain.
                let found = match number % 3 {
                    0 => {
                        let get = GetProfileRequest { id: id(number), read_mask: None };
                        vec![client.get_profile(get).await?.into_inner()]
                    }
                    1 => {
                        let get = BatchGetProfilesRequest { ids: vec![id(number)], read_mask: None };
                        client.batch_get_profiles(get).await?.into_inner().profiles
                    }
                    _ => {
                        let domain = format!("{}.example", id(number));
                        let query = QueryProfilesByDomainRequest { domain, ..Default::default() };
                        client.query_profiles_by_domain(query).await?.into_inner().profiles
                    }
                };
                let found: Vec<_> = found.into_iter().map(|profile| profile.id).collect();
                assert_eq!(found, expected);
                Ok::<_, tonic::Status>(())
            }
        });
        try_join_all(calls).await.unwrap();
    }
}
