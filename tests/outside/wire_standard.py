"""The standard services beside ours: health and reflection v1, by Python; grpcurl, which speaks v1alpha."""

import json

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

import grpcurl
from wire import SEED, Code, Wire, any_one_of, error_of

PROFILE_SERVICE = "profilestore.v1.ProfileService"
ADMIN_SERVICE = "profilestore.v1.AdminService"
REFLECTION_V1 = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


def check_standard_services(wire: Wire) -> None:
    """Health, reflection and grpcurl."""
    wire.checks.section("health, reflection, grpcurl")
    _check_health(wire)
    _check_reflection_v1(wire)
    _check_grpcurl_descriptions(wire)
    _check_grpcurl_calls(wire)
    _check_grpcurl_errors(wire)


def _check_health(wire: Wire) -> None:
    health = health_pb2_grpc.HealthStub(wire.channel)
    for name in ("", PROFILE_SERVICE, ADMIN_SERVICE):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        serving = answer.status == health_pb2.HealthCheckResponse.SERVING
        wire.checks.that(serving, f"health of {name!r}")
    unknown = error_of(lambda: health.Check(health_pb2.HealthCheckRequest(service="no.such.Service")))
    wire.checks.that(any_one_of(unknown, Code.NOT_FOUND), "health of an unknown service")


def _check_reflection_v1(wire: Wire) -> None:
    """The messages of v1 are those of v1alpha under another name, so v1alpha's classes serve for both."""
    call = wire.channel.stream_stream(
        REFLECTION_V1,
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    request = reflection_pb2.ServerReflectionRequest
    asked = [
        request(list_services=""),
        request(file_containing_symbol=PROFILE_SERVICE),
        request(file_containing_symbol="google.rpc.BadRequest"),
    ]
    listed, ours, details = call(iter(asked), timeout=30.0)
    names = {each.name for each in listed.list_services_response.service}
    wire.checks.that(
        {PROFILE_SERVICE, ADMIN_SERVICE, "grpc.health.v1.Health"} <= names, "reflection v1: services"
    )
    wire.checks.that(_holds_message(ours, "CreateProfileRequest"), "reflection v1: our file")
    wire.checks.that(_holds_message(details, "BadRequest"), "reflection v1: google.rpc's error details")
    # The protocol would let the stream go on with an error response; tonic's service ends it instead.
    unknown = [request(file_containing_symbol="no.such.Symbol")]
    ended = error_of(lambda: list(call(iter(unknown), timeout=30.0)))
    wire.checks.that(any_one_of(ended, Code.NOT_FOUND), "reflection v1: unknown symbol")


def _holds_message(answer: reflection_pb2.ServerReflectionResponse, name: str) -> bool:
    files = [
        FileDescriptorProto.FromString(data) for data in answer.file_descriptor_response.file_descriptor_proto
    ]
    return any(message.name == name for file in files for message in file.message_type)


def _check_grpcurl_descriptions(wire: Wire) -> None:
    address = wire.server.address
    services = grpcurl.run(address, "list").split()
    for name in (PROFILE_SERVICE, ADMIN_SERVICE, "grpc.health.v1.Health"):
        wire.checks.that(name in services, f"grpcurl list shows {name}")
    methods = grpcurl.run(address, "list", PROFILE_SERVICE).split()
    wire.checks.that(f"{PROFILE_SERVICE}.QueryProfilesByDomain" in methods, "grpcurl list of our methods")
    wire.checks.equal(len(methods), 14, "number of our methods")
    described = grpcurl.run(address, "describe", "profilestore.v1.Profile")
    wire.checks.that("map<string, string> attributes = 4" in described, "grpcurl describe of a message")
    described = grpcurl.run(address, "describe", f"{PROFILE_SERVICE}.GetProfile")
    wire.checks.that(".profilestore.v1.GetProfileRequest" in described, "grpcurl describe of a method")
    for name in ("google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo"):
        wire.checks.that(
            "is a message" in grpcurl.run(address, "describe", name), f"grpcurl describe of {name}"
        )
    health = grpcurl.run(address, "grpc.health.v1.Health/Check", data={"service": PROFILE_SERVICE})
    wire.checks.equal(json.loads(health), {"status": "SERVING"}, "grpcurl: health")


def _check_grpcurl_calls(wire: Wire) -> None:
    address = wire.server.address
    new = {"id": "zoe", "email": "zoe@Grpcurl.example", "attributes": {"plan": "free"}}
    created = grpcurl.call(address, "CreateProfile", profile=new)
    wire.checks.equal(created.get("domain"), "grpcurl.example", "grpcurl: create")
    wire.checks.equal(grpcurl.call(address, "GetProfile", id="zoe"), created, "grpcurl: get")
    queried = grpcurl.call(address, "QueryProfilesByDomain", domain="grpcurl.example")
    wire.checks.equal(queried, {"profiles": [created]}, "grpcurl: query")
    # This grpcurl writes field masks as the plain messages they are.
    mask = {"paths": ["display_name"]}
    updated = grpcurl.call(
        address, "UpdateProfile", profile={"id": "zoe", "display_name": "Z"}, update_mask=mask
    )
    wire.checks.equal(updated.get("display_name"), "Z", "grpcurl: update")
    found = grpcurl.call(address, "LookupProfilesByEmail", email="ZOE@grpcurl.example")
    wire.checks.equal([each["id"] for each in found["profiles"]], ["zoe"], "grpcurl: look-up")
    batch = grpcurl.call(address, "BatchGetProfiles", ids=["zoe", "missing"], read_mask={"paths": ["id"]})
    wire.checks.equal(batch, {"profiles": [{"id": "zoe"}], "missing_ids": ["missing"]}, "grpcurl: batch get")
    wire.checks.equal(grpcurl.call(address, "DeleteProfile", id="zoe"), {}, "grpcurl: delete")
    listed = grpcurl.call(address, "ListProfiles", page_size=1000)
    wire.checks.equal(len(listed["profiles"]), len(SEED), "grpcurl: list")
    counted = grpcurl.call(address, "CountProfiles")
    wire.checks.equal(counted, {"count": str(len(SEED))}, "grpcurl: count")
    domains = grpcurl.call(address, "ListDomains", parent_domain="localhost")
    expected = {"domains": [{"domain": "localhost", "profile_count": "1"}]}
    wire.checks.equal(domains, expected, "grpcurl: domains")


def _check_grpcurl_errors(wire: Wire) -> None:
    """The details of an error are readable text, which needs google.rpc's descriptors in reflection."""
    errors = {
        "CreateProfile": (
            {"profile": {"id": "a b", "email": "nobody"}},
            ["InvalidArgument", "INVALID_FIELD", "profilestore", "profile.id", "profile.email"],
        ),
        "GetProfile": ({"id": "missing"}, ["NotFound", "PROFILE_NOT_FOUND", "profilestore"]),
        "UpdateProfile": (
            {"profile": {"id": "ada", "display_name": "x", "etag": "stale"}},
            ["Aborted", "ETAG_MISMATCH", "profilestore"],
        ),
        "ListProfiles": ({"page_token": "damaged"}, ["InvalidArgument", "INVALID_PAGE_TOKEN", "page_token"]),
    }
    for method, (fields, wanted) in errors.items():
        try:
            grpcurl.call(wire.server.address, method, **fields)
            text = "no error"
        except grpcurl.GrpcurlFailed as error:
            text = str(error)
        for part in wanted:
            wire.checks.that(part in text, f"grpcurl: the error of {method} shows {part}")
