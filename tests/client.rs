//! What the client library promises, against a server over a loopback connection.

mod common;

#[path = "client/answers.rs"]
mod answers;
#[path = "client/calls.rs"]
mod calls;
#[path = "client/exports.rs"]
mod exports;
#[path = "client/imports.rs"]
mod imports;
#[path = "client/lost_connections.rs"]
mod lost_connections;
#[path = "client/proxy.rs"]
mod proxy;
#[path = "client/watches.rs"]
mod watches;

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::TryStreamExt;
use profilestore::client::{Client, ClientBuilder, ImportOptions, Imported, PageOptions, Profile};

/// Long enough for a machine with other things to do; a test that waits for it is lost.
const PATIENCE: Duration = Duration::from_secs(60);

fn builder(address: SocketAddr) -> ClientBuilder {
    Client::builder(address.to_string()).deadline(PATIENCE)
}

fn client(address: SocketAddr) -> Client {
    builder(address).build().unwrap()
}

fn profile(id: impl Into<String>, email: &str) -> Profile {
    Profile { id: id.into(), email: email.into(), ..Profile::default() }
}

fn many(count: usize) -> Vec<Profile> {
    (0..count).map(|number| profile(format!("u{number:05}"), &format!("u@d{}.example", number % 7))).collect()
}

fn ids(profiles: &[Profile]) -> Vec<String> {
    profiles.iter().map(|profile| profile.id.clone()).collect()
}

async fn all_ids(client: &Client) -> Vec<String> {
    let profiles: Vec<_> =
        client.list(PageOptions { page_size: 1000, ..PageOptions::default() }).try_collect().await.unwrap();
    ids(&profiles)
}

async fn import(client: &Client, profiles: Vec<Profile>, options: ImportOptions) -> Vec<Imported> {
    client.import(futures_util::stream::iter(profiles), options).try_collect().await.unwrap()
}
