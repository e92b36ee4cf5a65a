//! What tools ask: which services there are, and whether they serve.

use prost::Message;
use prost_types::FileDescriptorProto;
use tonic::Code;
use tonic::codegen::tokio_stream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::common::server::TestServer;

const OUR_SERVICES: [&str; 2] = ["profilestore.v1.AdminService", "profilestore.v1.ProfileService"];
const SYMBOLS: [&str; 6] = [
    "profilestore.v1.ProfileService",
    "profilestore.v1.Profile",
    "grpc.health.v1.Health",
    "google.rpc.ErrorInfo",
    "google.rpc.BadRequest",
    "google.rpc.RetryInfo",
];

/// The same questions in both versions of reflection, whose messages are alike and not the same types.
macro_rules! reflection_test {
    ($name:ident, $version:ident) => {
        #[tokio::test]
        async fn $name() {
            use tonic_reflection::pb::$version::ServerReflectionRequest;
            use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
            use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
            use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;

            let server = TestServer::start().await;
            let mut client = ServerReflectionClient::new(server.channel());
            let mut ask = async |question: MessageRequest| {
                let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
                let mut answers =
                    client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
                answers.message().await.unwrap().unwrap().message_response.unwrap()
            };
            let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())).await
            else {
                panic!("expected services")
            };
            let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
            assert!(OUR_SERVICES.iter().all(|ours| names.iter().any(|name| name == ours)), "{names:?}");
            assert!(names.iter().any(|name| name == "grpc.health.v1.Health"), "{names:?}");
            for symbol in SYMBOLS {
                let answer = ask(MessageRequest::FileContainingSymbol(symbol.into())).await;
                let MessageResponse::FileDescriptorResponse(files) = answer else { panic!("{symbol}: {answer:?}") };
                let file = FileDescriptorProto::decode(&files.file_descriptor_proto[0][..]).unwrap();
                assert!(symbol.starts_with(file.package()), "{symbol} in {}", file.package());
            }
        }
    };
}

reflection_test!(reflection_v1_shows_services_and_error_details, v1);
reflection_test!(reflection_v1alpha_shows_services_and_error_details, v1alpha);

#[tokio::test]
async fn health_is_reported_for_the_server_and_each_service() {
    let server = TestServer::start().await;
    let mut client = HealthClient::new(server.channel());
    let mut check = async |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        client.check(request).await.map(|response| response.into_inner().status())
    };
    for service in ["", OUR_SERVICES[0], OUR_SERVICES[1]] {
        assert_eq!(check(service).await.unwrap(), ServingStatus::Serving, "{service}");
    }
    assert_eq!(check("nowhere.v1.Service").await.unwrap_err().code(), Code::NotFound);

    server.services.set_not_serving().await;
    for service in ["", OUR_SERVICES[0], OUR_SERVICES[1]] {
        assert_eq!(check(service).await.unwrap(), ServingStatus::NotServing, "{service}");
    }
}
