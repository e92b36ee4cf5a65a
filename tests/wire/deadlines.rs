//! `grpc-timeout`. The requests are sent by hand, since tonic's client would end them itself.

use profilestore::pb::*;
use prost::Message;
use tonic::Code;

use crate::common::server::{TestServer, frame};
use crate::stores::{Fault, FaultyStore};
use crate::*;

const SERVICE: &str = "/profilestore.v1.ProfileService";

fn get() -> Vec<u8> {
    frame(&GetProfileRequest { id: "user-1".into(), read_mask: None }.encode_to_vec())
}

#[tokio::test]
async fn an_expired_deadline_is_deadline_exceeded_in_every_call() {
    let server = TestServer::over(FaultyStore::new(Fault::Hangs)).await;
    let query = QueryProfilesByDomainRequest { domain: "a.example".into(), ..Default::default() };
    let create = CreateProfileRequest { profile: Some(profile("a", "")), ..Default::default() };
    for (method, body) in [
        ("GetProfile", get()),
        ("ListProfiles", frame(b"")),
        ("QueryProfilesByDomain", frame(&query.encode_to_vec())),
        ("ListDomains", frame(b"")),
        ("CreateProfile", frame(&create.encode_to_vec())),
    ] {
        let answer = server.raw(&format!("{SERVICE}/{method}"), &[("grpc-timeout", "20m")], body).await;
        assert_eq!(answer.status.code(), Code::DeadlineExceeded, "{method}");
        assert_eq!(reason(&answer.status), "DEADLINE");
        assert!(answer.trailers_only && answer.body.is_empty(), "{method}");
    }
}

#[tokio::test]
async fn a_deadline_that_is_over_already_is_exceeded_at_once() {
    let server = TestServer::start().await;
    let answer = server.raw(&format!("{SERVICE}/GetProfile"), &[("grpc-timeout", "0m")], get()).await;
    assert_eq!(answer.status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_deadline_that_is_far_away_changes_nothing() {
    let server = TestServer::start().await;
    create(&mut server.profiles(), profile("user-1", "")).await;
    for timeout in ["99999999H", "60S", "00000060S", "99999999u"] {
        let answer = server.raw(&format!("{SERVICE}/GetProfile"), &[("grpc-timeout", timeout)], get()).await;
        assert_eq!(answer.status.code(), Code::Ok, "{timeout}");
        assert_eq!(Profile::decode(&answer.body[5..]).unwrap().id, "user-1");
    }
}

#[tokio::test]
async fn a_malformed_deadline_is_refused() {
    let server = TestServer::start().await;
    for timeout in ["", "1", "S", "1s", "123456789S", "-1S", "1.5S", "soon"] {
        let answer = server.raw(&format!("{SERVICE}/GetProfile"), &[("grpc-timeout", timeout)], get()).await;
        assert_eq!(answer.status.code(), Code::InvalidArgument, "{timeout}");
        assert_eq!(fields(&answer.status), ["grpc-timeout"], "{timeout}");
    }
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline() {
    let server = TestServer::start().await;
    let mut millis = 50;
    loop {
        // A health watch sends the state and then waits for a change.
        let timeout = format!("{millis}m");
        let answer =
            server.raw("/grpc.health.v1.Health/Watch", &[("grpc-timeout", timeout.as_str())], frame(b"")).await;
        assert_eq!(answer.status.code(), Code::DeadlineExceeded);
        assert_eq!(reason(&answer.status), "DEADLINE");
        if !answer.trailers_only && !answer.body.is_empty() {
            assert_eq!(answer.body[..], frame(b"\x08\x01"));
            return;
        }
        // On a busy machine it may be over before the state is sent.
        millis *= 2;
        assert!(millis < 60_000, "nothing was sent: {answer:?}");
    }
}
