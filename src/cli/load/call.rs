//! From a request's number to the call, and what became of it.
//!
//! Invariants: the same seed and number always give the same request, however many threads share the work; a put
//! changes one attribute of a profile that exists, and nothing else.

use std::future::Future;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Alphanumeric, Distribution, Zipf};

use super::keys::Keys;
use super::mix::{Mix, Operation};
use crate::client::{Client, ClientError, Code, PageOptions, Profile, UpdateOptions};
use crate::server::sample::Sampler;

/// The attribute that puts change.
const ATTRIBUTE: &str = "load-value";

/// What is called; a trait so that the loops can be tried without a server.
pub trait Target: Send + Sync + 'static {
    /// Makes the request with a number, over the connection whose turn is `lane`.
    fn call(&self, number: u64, lane: usize) -> impl Future<Output = Answer> + Send;
}

/// What became of a request.
#[derive(Debug)]
pub struct Answer {
    pub operation: Operation,
    /// How many profiles came back or were written.
    pub result: Result<u64, Failure>,
}

/// Why a request failed.
#[derive(Debug, Clone)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

/// What requests are made of.
#[derive(Debug)]
pub struct Requests {
    pub mix: Mix,
    pub keys: Keys,
    /// The ranks of the domains to query.
    pub domains: Zipf<f64>,
    pub seed: u64,
    pub batch_size: usize,
    pub page_size: i32,
    pub value_bytes: usize,
}

/// A call to make.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Request {
    Get { id: String },
    Batch { ids: Vec<String> },
    Query { domain: String },
    Put { id: String, value: String },
}

impl Requests {
    fn make(&self, number: u64) -> Request {
        // Multiplied, so that the numbers of two seeds do not meet.
        let seed = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number);
        let mut random = SmallRng::seed_from_u64(seed);
        match self.mix.draw(&mut random) {
            Operation::Get => Request::Get { id: Sampler::id(self.keys.draw(&mut random)) },
            Operation::Batch => Request::Batch { ids: self.batch(&mut random) },
            Operation::Query => Request::Query { domain: Sampler::domain(self.domains.sample(&mut random) as u64) },
            Operation::Put => Request::Put {
                id: Sampler::id(self.keys.draw(&mut random)),
                value: random.sample_iter(Alphanumeric).take(self.value_bytes).map(char::from).collect(),
            },
        }
    }

    /// Ids that differ: one that was drawn already gives its place to the next number that was not.
    fn batch(&self, random: &mut SmallRng) -> Vec<String> {
        let mut drawn = std::collections::HashSet::with_capacity(self.batch_size);
        let mut ids = Vec::with_capacity(self.batch_size);
        for _ in 0..self.batch_size {
            let mut number = self.keys.draw(random);
            // A batch has no more ids than there are keys.
            while !drawn.insert(number) {
                number = (number + 1) % self.keys.count();
            }
            ids.push(Sampler::id(number));
        }
        ids
    }
}

/// A server, over the connections of one worker.
pub struct Server {
    /// With one connection each.
    pub clients: Vec<Client>,
    pub requests: Arc<Requests>,
}

impl Target for Server {
    async fn call(&self, number: u64, lane: usize) -> Answer {
        let client = &self.clients[lane % self.clients.len()];
        let (operation, result) = match self.requests.make(number) {
            Request::Get { id } => {
                (Operation::Get, found(client.get(id).await.map(|found| u64::from(found.is_some()))))
            }
            Request::Batch { ids } => {
                let answer = client.batch_get(ids, Vec::new()).await;
                (Operation::Batch, found(answer.map(|answer| answer.profiles.len() as u64)))
            }
            Request::Query { domain } => {
                let options = PageOptions { page_size: self.requests.page_size, ..PageOptions::default() };
                let page = client.query_page(domain, false, options, String::new()).await;
                (Operation::Query, page.map(|(profiles, _)| profiles.len() as u64).map_err(Failure::from))
            }
            Request::Put { id, value } => {
                let profile =
                    Profile { id, attributes: [(ATTRIBUTE.to_owned(), value)].into(), ..Profile::default() };
                let options = UpdateOptions { mask: vec![format!("attributes.{ATTRIBUTE}")], allow_missing: false };
                (Operation::Put, client.update(profile, options).await.map(|_| 1).map_err(Failure::from))
            }
        };
        Answer { operation, result }
    }
}

/// A get that finds nothing is a failure: the load is not what it was meant to be.
fn found(answer: Result<u64, ClientError>) -> Result<u64, Failure> {
    match answer {
        Ok(0) => Err(Failure {
            code: Code::NotFound,
            message: "some profiles of the sample are not there (were they deleted, or is --keys too large?)"
                .to_owned(),
        }),
        Ok(profiles) => Ok(profiles),
        Err(error) => Err(error.into()),
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::keys::Popularity;
    use super::*;

    fn requests(mix: &str, keys: u64, seed: u64) -> Requests {
        Requests {
            mix: mix.parse().unwrap(),
            keys: Keys::new(keys, Popularity::TwentyEighty),
            domains: Sampler::domain_ranks(keys),
            seed,
            batch_size: 100,
            page_size: 100,
            value_bytes: 256,
        }
    }

    #[test]
    fn a_seed_fixes_the_requests_and_another_seed_makes_others() {
        let made = |mix, seed| {
            let requests = requests(mix, 10_000, seed);
            (0..1000).map(|number| requests.make(number)).collect::<Vec<_>>()
        };
        let mixed = "get=1,put=1,query=1,batch=1";
        assert_eq!(made(mixed, 1), made(mixed, 1));
        // No two puts are alike, so that none is a change to what is there already.
        let puts: Vec<_> = [made("put=1", 1), made("put=1", 2)].concat();
        let values: HashSet<_> = puts
            .iter()
            .filter_map(|put| if let Request::Put { value, .. } = put { Some(value) } else { None })
            .collect();
        assert_eq!(values.len(), 2000);
    }

    #[test]
    fn ids_and_domains_are_those_of_the_sample() {
        let sample: Vec<_> = Sampler::new(10_000).take(10_000).collect();
        let ids: HashSet<_> = sample.iter().map(|profile| profile.id.as_str()).collect();
        let domains: HashSet<_> =
            sample.iter().filter_map(|profile| Some(profile.email.rsplit_once('@')?.1)).collect();
        let requests = requests("get=1,put=1,query=1,batch=1", 10_000, 1);
        let (mut queries, mut of_existing) = (0, 0);
        for number in 0..4000 {
            match requests.make(number) {
                Request::Get { id } | Request::Put { id, .. } => assert!(ids.contains(id.as_str()), "{id}"),
                Request::Batch { ids: batch } => assert!(batch.iter().all(|id| ids.contains(id.as_str()))),
                Request::Query { domain } => {
                    queries += 1;
                    of_existing += u32::from(domains.contains(domain.as_str()));
                }
            }
        }
        // A rare domain may have got no profile.
        assert!(of_existing * 100 >= queries * 99, "{of_existing} of {queries} domains exist");
    }

    #[test]
    fn a_batch_has_ids_that_differ_and_a_put_a_value_of_its_size() {
        for keys in [100, 101, 100_000] {
            let requests = requests("batch=1,put=1", keys, 1);
            for number in 0..100 {
                match requests.make(number) {
                    Request::Batch { ids } => assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 100),
                    Request::Put { value, .. } => assert_eq!(value.len(), 256),
                    other => panic!("{other:?} is not in the mix"),
                }
            }
        }
    }
}
