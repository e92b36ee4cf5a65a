"""What goes wrong below the messages: deadlines, sizes, broken bytes, compression, unknown methods."""

import gzip
from collections.abc import Callable

import grpc

from paging import picture
from raw_http2 import RawConnection
from stubs import Profile, pb
from wire import Code, Wire, any_one_of, error_of

SERVICE = "/profilestore.v1.ProfileService"
OVERSIZED = 4 * 1024 * 1024 + 1024


def check_transport(wire: Wire) -> None:
    """All of them; nothing is changed by any."""
    wire.checks.section("transport")
    before = picture(wire.client)
    _check_deadlines(wire)
    _check_sizes(wire)
    _check_broken_bytes(wire)
    _check_compression(wire)
    _check_unknown_methods(wire)
    wire.checks.that(picture(wire.client) == before, "the transport checks change nothing")


def raw(wire: Wire, method: str) -> Callable[..., bytes]:
    """A unary call that sends and returns bytes as they are."""
    return wire.channel.unary_unary(method, lambda message: message, lambda message: message)


def _check_deadlines(wire: Wire) -> None:
    """By hand-made calls: grpcio keeps its own clock, and rounds what it sends to milliseconds."""
    messages = {
        "GetProfile": pb.GetProfileRequest(id="ada"),
        "ListProfiles": pb.ListProfilesRequest(),
        "QueryProfilesByDomain": pb.QueryProfilesByDomainRequest(domain="example.com"),
        "UpdateProfile": pb.UpdateProfileRequest(profile=Profile(id="missing", display_name="x")),
    }
    with RawConnection(wire.server.address) as connection:
        for method, message in messages.items():
            for timeout in ("0n", "1n", "0S"):
                what = f"{method} with grpc-timeout {timeout}"
                answer = connection.call(method, message.SerializeToString(), timeout=timeout)
                wire.checks.equal(answer.code, Code.DEADLINE_EXCEEDED, f"code of {what}")
                wire.checks.equal(answer.reason, ("profilestore", "DEADLINE"), f"domain and reason of {what}")
        get = messages["GetProfile"].SerializeToString()
        for timeout in ("99999999H", "60M", "60S", "60000m", "60000000u"):
            answer = connection.call("GetProfile", get, timeout=timeout)
            wire.checks.equal(answer.code, Code.OK, f"code with grpc-timeout {timeout}")
            wire.checks.that(Profile.FromString(answer.message).id == "ada", f"the answer with {timeout}")
        for timeout in ("S", "1", "1x", "-1S", "123456789S", "1 S"):
            answer = connection.call("GetProfile", get, timeout=timeout)
            wire.checks.equal(answer.code, Code.INVALID_ARGUMENT, f"code with grpc-timeout {timeout!r}")
            wire.checks.equal(answer.fields, ["grpc-timeout"], f"field with grpc-timeout {timeout!r}")


def _check_sizes(wire: Wire) -> None:
    too_large = pb.CreateProfileRequest(profile=Profile(id="large", attributes={"k": "v" * OVERSIZED}))
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        error = error_of(lambda: wire.client.CreateProfile(too_large, compression=compression))
        refused = any_one_of(error, Code.OUT_OF_RANGE, Code.RESOURCE_EXHAUSTED)
        wire.checks.that(refused, f"a message over 4 MiB, {compression.name}")
    # Just below the limit it is our validation that answers.
    fits = pb.CreateProfileRequest(profile=Profile(id="large", attributes={"k": "v" * (OVERSIZED - 4096)}))
    wire.invalid("a message just under 4 MiB", lambda: wire.client.CreateProfile(fits), "profile")


def _check_broken_bytes(wire: Wire) -> None:
    broken = {
        "a length beyond the end": b"\x0a\x7f",
        "an endless varint": b"\xff" * 11,
        "field number 0": b"\x02\x00",
        "an unknown wire type": b"\x0f",
        "a wrong wire type": b"\x08\x01",
        "bad UTF-8": b"\x0a\x02\xff\xfe",
    }
    for what, message in broken.items():
        for method in ("GetProfile", "DeleteProfile"):
            wire.refused(
                f"{method} with {what}",
                lambda: raw(wire, f"{SERVICE}/{method}")(message),
                Code.INVALID_ARGUMENT,
                "MALFORMED_REQUEST",
            )
    # A bad display name inside a good create request: field 1 = profile { id = "x", display_name = ff fe }.
    profile = b"\x0a\x01x" + b"\x1a\x02\xff\xfe"
    nested = b"\x0a" + bytes([len(profile)]) + profile
    wire.refused(
        "CreateProfile with bad UTF-8 inside",
        lambda: raw(wire, f"{SERVICE}/CreateProfile")(nested),
        Code.INVALID_ARGUMENT,
        "MALFORMED_REQUEST",
    )
    # Unknown fields are the future's: a newer client must not be refused.
    newer = pb.GetProfileRequest(id="ada").SerializeToString() + b"\xfa\x3e\x03new"
    answer = raw(wire, f"{SERVICE}/GetProfile")(newer)
    wire.checks.that(Profile.FromString(answer).id == "ada", "an unknown field is ignored")


def _check_compression(wire: Wire) -> None:
    compressible = Profile(id="squeezed", display_name="x" * 256, attributes={"k": "v" * 10_000})
    stored = wire.client.CreateProfile(
        pb.CreateProfileRequest(profile=compressible), compression=grpc.Compression.Gzip
    )
    wire.checks.that(stored.attributes == compressible.attributes, "a gzip-compressed create")
    request = pb.GetProfileRequest(id="squeezed")
    plain = wire.client.GetProfile(request)
    squeezed = wire.client.GetProfile(request, compression=grpc.Compression.Gzip)
    wire.checks.that(plain == squeezed == stored, "the same answer with and without gzip")
    # grpcio leaves a message alone that gzip would not shorten; here it is compressed for certain.
    with RawConnection(wire.server.address) as connection:
        answer = connection.call("GetProfile", gzip.compress(request.SerializeToString()), encoding="gzip")
        wire.checks.equal(answer.code, Code.OK, "code of a get that is surely compressed")
        wire.checks.that(Profile.FromString(answer.message) == stored, "answer to a compressed get")
        answer = connection.call("GetProfile", b"not gzip", encoding="gzip")
        wire.checks.that(answer.code not in (Code.OK, Code.UNKNOWN), "a body that is not gzip is refused")
        answer = connection.call("GetProfile", request.SerializeToString(), encoding="no-such-encoding")
        wire.checks.equal(answer.code, Code.UNIMPLEMENTED, "code of an unknown compression")
    wire.client.DeleteProfile(pb.DeleteProfileRequest(id="squeezed"), compression=grpc.Compression.Gzip)


def _check_unknown_methods(wire: Wire) -> None:
    for method in (f"{SERVICE}/NoSuchMethod", "/profilestore.v1.NoSuchService/GetProfile", "/no/such/path"):
        error = error_of(lambda: raw(wire, method)(b""))
        wire.checks.that(any_one_of(error, Code.UNIMPLEMENTED), f"{method} is unimplemented")
