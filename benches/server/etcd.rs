//! etcd 3.5: one member, durable as it comes.

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use profilestore::pb::Profile;
use prost::Message;
use rustix::process::Signal;
use tonic::transport::Channel;

use super::ours::channel;
use super::peer::{Peer, free_port, program};

#[allow(clippy::all)]
pub mod kv {
    include!(concat!(env!("OUT_DIR"), "/bench/etcdserverpb.rs"));
}
use kv::kv_client::KvClient;
use kv::{PutRequest, RangeRequest};

/// Starts etcd with these profiles under their ids. `None` where it is not installed.
pub async fn start(dir: &Path, profiles: &[Profile]) -> anyhow::Result<Option<Peer>> {
    let Some(etcd) = std::env::var_os("PROFILESTORE_BENCH_ETCD").map(PathBuf::from).or_else(|| program("etcd", &[]))
    else {
        return Ok(None);
    };
    let (port, peer_port) = (free_port()?, free_port()?);
    let (client_url, peer_url) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = Command::new(etcd);
    command.arg("--data-dir").arg(dir.join("etcd"));
    command.args(["--name", "bench", "--log-level", "error"]);
    command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
    command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
    command.args(["--initial-cluster", &format!("bench={peer_url}")]);
    let peer = Peer::start("etcd", port, &mut command, dir, Signal::TERM)?;
    let mut client = KvClient::new(channel(&peer).await?);
    for profile in profiles {
        put(&mut client, &profile.id, profile.encode_to_vec()).await?;
    }
    Ok(Some(peer))
}

/// Stores a value under a key.
pub async fn put(client: &mut KvClient<Channel>, key: &str, value: Vec<u8>) -> Result<(), tonic::Status> {
    client.put(PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), value: value.into() }).await?;
    Ok(())
}

/// The request for the value of a key, and the length of its answer.
pub async fn range(peer: &Peer, key: &str) -> anyhow::Result<(RangeRequest, usize)> {
    let request = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), serializable: true };
    let answer = KvClient::new(channel(peer).await?).range(request.clone()).await?.into_inner();
    anyhow::ensure!(answer.kvs.len() == 1, "etcd lacks the key");
    Ok((request, answer.kvs[0].value.len()))
}
