//! profilestore itself, as it is built and with its default settings, and what the peers are filled with from it.

use std::path::{Path, PathBuf};
use std::process::Command;

use profilestore::pb::profile_service_client::ProfileServiceClient;
use profilestore::pb::{BatchGetProfilesRequest, ListProfilesRequest, Profile, QueryProfilesByDomainRequest};
use profilestore::server::sample::Sampler;
use prost::Message;
use rustix::process::Signal;
use tonic::transport::{Channel, Endpoint};

use super::peer::{Peer, free_port};

const LARGEST_MESSAGE: usize = 64 * 1024 * 1024;
const PAGE: i32 = 1000;

/// A server over so many generated profiles; ready when this returns.
pub async fn start(name: &'static str, dir: &Path, profiles: u64) -> anyhow::Result<Peer> {
    start_program(name, env!("CARGO_BIN_EXE_profilestore").as_ref(), dir, profiles).await
}

/// The same of another build.
pub async fn start_program(name: &'static str, program: &Path, dir: &Path, profiles: u64) -> anyhow::Result<Peer> {
    let (port, admin) = (free_port()?, free_port()?);
    let mut command = Command::new(program);
    command.args(["serve", "--sample", &profiles.to_string()]);
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--admin-listen", &format!("127.0.0.1:{admin}")]);
    command.arg("--data-dir").arg(dir.join(format!("{name}-{profiles}"))).env("PROFILESTORE__LOG__FILTER", "info");
    let peer = Peer::start(name, port, &mut command, dir, Signal::TERM)?;
    // The call waits until the sample is loaded.
    hot_profiles(&peer, 1).await?;
    Ok(peer)
}

/// A channel to a gRPC server.
pub async fn channel(peer: &Peer) -> anyhow::Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{}", peer.address()))?.connect().await?)
}

async fn client(peer: &Peer) -> anyhow::Result<ProfileServiceClient<Channel>> {
    Ok(ProfileServiceClient::new(channel(peer).await?).max_decoding_message_size(LARGEST_MESSAGE))
}

/// The first profiles of the sample, as the server sends them.
pub async fn hot_profiles(peer: &Peer, count: u64) -> anyhow::Result<Vec<Profile>> {
    let request = BatchGetProfilesRequest { ids: (0..count).map(Sampler::id).collect(), read_mask: None };
    let answer = client(peer).await?.batch_get_profiles(request).await?.into_inner();
    anyhow::ensure!(answer.missing_ids.is_empty(), "the server lacks profiles of its sample");
    Ok(answer.profiles)
}

/// All profiles.
pub async fn all_profiles(peer: &Peer) -> anyhow::Result<Vec<Profile>> {
    let mut client = client(peer).await?;
    let mut request = ListProfilesRequest { page_size: PAGE, ..ListProfilesRequest::default() };
    let mut profiles = Vec::new();
    loop {
        let page = client.list_profiles(request.clone()).await?.into_inner();
        profiles.extend(page.profiles);
        if page.next_page_token.is_empty() {
            return Ok(profiles);
        }
        request.page_token = page.next_page_token;
    }
}

/// The page that this request asks for.
pub async fn page(peer: &Peer, request: QueryProfilesByDomainRequest) -> anyhow::Result<(Vec<Profile>, usize)> {
    let page = client(peer).await?.query_profiles_by_domain(request).await?.into_inner();
    let length = page.encoded_len();
    Ok((page.profiles, length))
}

/// A request as it stands in the body of a call, in a file for h2load.
pub fn body_file(dir: &Path, name: &str, request: &impl Message) -> anyhow::Result<PathBuf> {
    let message = request.encode_to_vec();
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
    body.extend_from_slice(&message);
    let path = dir.join(name);
    std::fs::write(&path, body)?;
    Ok(path)
}
