//! Generates Rust code from `proto/` with protox, so that no `protoc` is needed.
//!
//! Three things come out:
//!
//! * `pb/`: the messages of `profilestore.v1` and the clients of its services.
//! * `wire/`: the server side of the same services, in which every [`Profile`](PROFILE) that leaves the
//!   server, and every event of a watch, is already encoded: a `bytes` field inside a response, and `EncodedProfile` where the profile
//!   is the response itself. On the wire an embedded message and a bytes field are the same, so the
//!   contract with callers is one; but the server sends stored profiles without decoding them.
//! * `storage/`: the private messages of the commit log and of snapshots.
//! * `bench/`: for `benches/server` only, the plain server of `GetProfile` and a client of etcd.
//!
//! and beside them the descriptor set of `profilestore.v1` for server reflection.

use std::error::Error;
use std::path::{Path, PathBuf};

use prost_build::Config;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};

const PUBLIC_PROTOS: [&str; 3] =
    ["profilestore/v1/profile.proto", "profilestore/v1/profile_service.proto", "profilestore/v1/admin_service.proto"];
const STORAGE_PROTOS: [&str; 2] =
    ["profilestore/storage/v1/commit_log.proto", "profilestore/storage/v1/snapshot.proto"];
const ETCD_PROTO: &str = "etcd_kv.proto";
const BENCH_DIR: &str = "benches/server";
const PACKAGE: &str = "profilestore.v1";
const PROFILE: &str = ".profilestore.v1.Profile";
/// What is already encoded inside of a response: a profile, and an event, which is encoded once for all watchers.
const ENCODED: [&str; 2] = [PROFILE, ".profilestore.v1.ProfileEvent"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed={BENCH_DIR}/{ETCD_PROTO}");
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);

    let public = protox::compile(PUBLIC_PROTOS, ["proto"])?;
    std::fs::write(out_dir.join("profilestore.v1.descriptors.bin"), prost::Message::encode_to_vec(&public))?;
    generate_messages_and_clients(public.clone(), &out_dir.join("pb"))?;
    generate_server(public.clone(), &out_dir.join("wire"))?;
    generate_for_benches(public, &out_dir.join("bench"))?;

    let storage = out_dir.join("storage");
    std::fs::create_dir_all(&storage)?;
    let mut config = Config::new();
    config.out_dir(storage).bytes(["."]);
    config.compile_fds(protox::compile(STORAGE_PROTOS, ["proto"])?)?;
    Ok(())
}

fn generate_messages_and_clients(set: FileDescriptorSet, out_dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(out_dir)?;
    tonic_prost_build::configure()
        .out_dir(out_dir)
        .build_server(false)
        // Ordered maps make the encoding deterministic: equal profiles have equal bytes.
        .btree_map(".")
        .bytes(".")
        .compile_fds(set)
}

fn generate_server(mut set: FileDescriptorSet, out_dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(out_dir)?;
    let mut builder = tonic_prost_build::configure()
        .out_dir(out_dir)
        .build_client(false)
        .codec_path("crate::rpc::codec::WireCodec")
        .extern_path(".profilestore.v1.EncodedProfile", "crate::rpc::codec::EncodedProfile")
        .btree_map(".")
        .bytes(".");
    for file in set.file.iter_mut().filter(|file| file.package() == PACKAGE) {
        let holders = messages_that_send_profiles(file);
        for message in &mut file.message_type {
            if holders.iter().any(|name| name == message.name()) {
                replace_profiles_by_bytes(message);
            } else {
                builder = builder
                    .extern_path(format!(".{PACKAGE}.{}", message.name()), format!("crate::pb::{}", message.name()));
            }
        }
        for each in &file.enum_type {
            builder =
                builder.extern_path(format!(".{PACKAGE}.{}", each.name()), format!("crate::pb::{}", each.name()));
        }
        for method in file.service.iter_mut().flat_map(|service| &mut service.method) {
            if method.output_type() == PROFILE {
                method.output_type = Some(format!(".{PACKAGE}.EncodedProfile"));
            }
        }
    }
    builder.compile_fds(set)
}

/// What `benches/server` compares with: tonic's server as it is generated, over the messages of `pb`, with the one
/// call that is compared; and etcd's puts and ranges.
fn generate_for_benches(mut set: FileDescriptorSet, out_dir: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(out_dir)?;
    for file in &mut set.file {
        file.service.retain(|service| service.name() == "ProfileService");
        for service in &mut file.service {
            service.method.retain(|method| method.name() == "GetProfile");
        }
    }
    tonic_prost_build::configure()
        .out_dir(out_dir)
        .build_client(false)
        .extern_path(format!(".{PACKAGE}"), "::profilestore::pb")
        .compile_fds(set)?;
    tonic_prost_build::configure()
        .out_dir(out_dir)
        .build_server(false)
        .bytes(".")
        .compile_fds(protox::compile([ETCD_PROTO], [BENCH_DIR])?)?;
    Ok(())
}

/// The messages that only the server sends and that hold a profile, or hold a message that does.
fn messages_that_send_profiles(file: &FileDescriptorProto) -> Vec<String> {
    let mut holders: Vec<String> = Vec::new();
    loop {
        let found = file.message_type.iter().find(|message| {
            let name = message.name();
            let sent_by_server = ["Response", "Result"].iter().any(|end| name.ends_with(end));
            sent_by_server
                && !holders.iter().any(|holder| holder == name)
                && message.field.iter().any(|field| {
                    ENCODED.contains(&field.type_name())
                        || holders.iter().any(|holder| field.type_name() == format!(".{PACKAGE}.{holder}"))
                })
        });
        match found {
            Some(message) => holders.push(message.name().to_owned()),
            None => return holders,
        }
    }
}

fn replace_profiles_by_bytes(message: &mut DescriptorProto) {
    for field in &mut message.field {
        if ENCODED.contains(&field.type_name()) {
            field.type_name = None;
            field.set_type(Type::Bytes);
        }
    }
}
