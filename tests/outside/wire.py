"""What the wire checks share: the server under test, its data, and the check of an error."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from checks import Checks
from error_details import fields_of, reason_of
from paging import picture
from server import Server, profiles
from stubs import Profile, service

Code = grpc.StatusCode

SEED = [
    Profile(
        id="ada", email="Ada@Example.com", display_name="Ada", attributes={"plan": "pro", "a.b": "dotted"}
    ),
    Profile(id="ada-2", email="ADA@example.COM."),
    Profile(id="bob", email="bob@example.com", display_name="Bob"),
    Profile(id="carol", email="carol@mail.example.com"),
    Profile(id="dan", email="dan@a.mail.example.com"),
    Profile(id="eve", email="eve@badexample.com"),
    Profile(id="fay", email="fay@bücher.example"),
    Profile(id="gus", email="gus@a.example"),
    Profile(id="hal", email="hal@x.a.example"),
    Profile(id="ida", email="ida@a-b.example"),
    Profile(id="nobody"),
    Profile(id="root!~", email="root@localhost"),
]


@dataclass
class Wire:
    """A running server with the seed in it, and a client."""

    checks: Checks
    server: Server
    channel: grpc.Channel
    client: service.ProfileServiceStub

    def refused(
        self,
        what: str,
        call: Callable[[], Any],
        code: grpc.StatusCode,
        reason: str | None = None,
        fields: list[str] | None = None,
    ) -> grpc.RpcError | None:
        """Checks that a call fails with this code, reason and exactly these fields, and changes nothing.
        Without a reason the refusal is the transport's, which has no details of ours."""
        before = picture(self.client)
        error = error_of(call)
        if not self.checks.that(error is not None, f"{what} is refused"):
            return None
        assert error is not None
        self.checks.equal(error.code(), code, f"code of {what}")
        self.checks.that(bool(error.details()), f"{what} has a message")
        if reason is not None:
            self.checks.equal(reason_of(error), ("profilestore", reason), f"domain and reason of {what}")
        if fields is not None:
            self.checks.equal(fields_of(error), sorted(fields), f"fields of {what}")
        self.checks.that(picture(self.client) == before, f"{what} changes nothing")
        return error

    def invalid(self, what: str, call: Callable[[], Any], *fields: str) -> grpc.RpcError | None:
        """The check of a validation error."""
        return self.refused(what, call, Code.INVALID_ARGUMENT, "INVALID_FIELD", list(fields))


def error_of(call: Callable[[], Any]) -> grpc.RpcError | None:
    """The error that a call ends with, if it does."""
    try:
        call()
    except grpc.RpcError as error:
        return error
    return None


def any_one_of(error: grpc.RpcError | None, *codes: grpc.StatusCode) -> bool:
    """Whether the call failed with one of these codes."""
    return error is not None and error.code() in codes


def ids(found: Any) -> list[str]:
    """The ids of profiles, in order."""
    return [profile.id for profile in found]


def new_wire(checks: Checks, server: Server) -> Wire:
    """Connects to a server."""
    channel = server.channel()
    return Wire(checks, server, channel, profiles(channel))
