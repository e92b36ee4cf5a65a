"""Batches, request ids, import and export, and the server's status, by Python grpcio.

Each check ends with the seed as it was.
"""

import uuid
from collections.abc import Iterable, Iterator

from paging import all_profiles, picture
from stubs import Profile, admin_pb, admin_service, pb
from wire import Code, Wire, ids

FAIL, SKIP, REPLACE = (
    pb.IMPORT_CONFLICT_POLICY_FAIL,
    pb.IMPORT_CONFLICT_POLICY_SKIP,
    pb.IMPORT_CONFLICT_POLICY_REPLACE,
)


def check_bulk(wire: Wire) -> None:
    """Everything about many profiles at once."""
    wire.checks.section("batches, import, export")
    before = picture(wire.client)
    _check_batch(wire)
    _check_refused_batches(wire)
    _check_request_ids(wire)
    _check_import(wire)
    _check_export(wire)
    _check_status(wire)
    wire.checks.that(picture(wire.client) == before, "the bulk checks leave the seed as it was")


def _create(profile_id: str, name: str = "", request_id: str = "") -> pb.ProfileWrite:
    profile = Profile(id=profile_id, email=f"{profile_id}@bulk.example", display_name=name)
    return pb.ProfileWrite(create=pb.CreateProfileRequest(profile=profile, request_id=request_id))


def _update(profile_id: str, name: str, etag: str = "") -> pb.ProfileWrite:
    profile = Profile(id=profile_id, display_name=name, etag=etag)
    return pb.ProfileWrite(update=pb.UpdateProfileRequest(profile=profile))


def _delete(profile_id: str) -> pb.ProfileWrite:
    return pb.ProfileWrite(delete=pb.DeleteProfileRequest(id=profile_id))


def _batch(wire: Wire, *writes: pb.ProfileWrite, request_id: str = "") -> pb.BatchWriteProfilesResponse:
    request = pb.BatchWriteProfilesRequest(writes=writes, request_id=request_id)
    return wire.client.BatchWriteProfiles(request, timeout=30.0)


def _check_batch(wire: Wire) -> None:
    created = _batch(wire, *(_create(f"batch-{number}") for number in range(100)))
    wire.checks.equal(len(created.results), 100, "results of a batch of 100")
    wire.checks.equal(
        [result.profile.id for result in created.results],
        [f"batch-{number}" for number in range(100)],
        "the results are in order",
    )
    mixed = _batch(wire, _update("batch-0", "changed"), _delete("batch-1"), _create("batch-new"))
    wire.checks.equal(mixed.results[0].profile.display_name, "changed", "an update in a batch")
    wire.checks.that(not mixed.results[1].HasField("profile"), "a delete has no profile")
    wire.checks.equal(mixed.results[2].profile.domain, "bulk.example", "a create in a batch")
    stored = {profile.id: profile for profile in all_profiles(wire.client)}
    wire.checks.equal(stored["batch-0"], mixed.results[0].profile, "the result is what is stored")
    wire.checks.that("batch-1" not in stored, "the deleted profile is gone")
    _batch(wire, *(_delete(f"batch-{number}") for number in range(100) if number != 1))
    _batch(wire, _delete("batch-new"))


def _check_refused_batches(wire: Wire) -> None:
    too_many = [_create(f"batch-{number}") for number in range(101)]
    wire.invalid("a batch of 101", lambda: _batch(wire, *too_many), "writes")
    wire.invalid("an empty batch", lambda: _batch(wire), "writes")
    twice = [_create("batch-a"), _create("batch-b"), _delete("batch-a")]
    wire.invalid("a batch with an id twice", lambda: _batch(wire, *twice), "writes[2]")
    bad = [_create("batch-a"), _create("not an id"), _create("batch-c", name="\n")]
    wire.invalid(
        "a batch with bad writes",
        lambda: _batch(wire, *bad),
        "writes[1].create.profile.id",
        "writes[1].create.profile.email",
        "writes[2].create.profile.display_name",
    )
    inner = _create("batch-a", request_id=str(uuid.uuid4()))
    wire.invalid("a request id inside a batch", lambda: _batch(wire, inner), "writes[0].create.request_id")
    nothing = pb.ProfileWrite()
    wire.invalid("a write that says nothing", lambda: _batch(wire, nothing), "writes[0].write")
    conflicts = [_create("batch-a"), _create("ada"), _create("batch-c")]
    error = wire.refused(
        "a batch with a conflict in the middle",
        lambda: _batch(wire, *conflicts),
        Code.ALREADY_EXISTS,
        "PROFILE_EXISTS",
    )
    wire.checks.that(error is not None and "writes[1]" in error.details(), "the error names the write")
    stale = [_create("batch-a"), _update("ada", "changed", etag="stale")]
    wire.refused("a batch with a stale etag", lambda: _batch(wire, *stale), Code.ABORTED, "ETAG_MISMATCH")
    large = [
        pb.ProfileWrite(
            create=pb.CreateProfileRequest(
                profile=Profile(id=f"large-{number}", attributes={"filler": "x" * 15_000})
            )
        )
        for number in range(80)
    ]
    wire.invalid("a batch of more than 1 MiB", lambda: _batch(wire, *large), "writes")


def _check_request_ids(wire: Wire) -> None:
    request_id = str(uuid.uuid4())
    request = pb.CreateProfileRequest(
        profile=Profile(id="once", attributes={"a": "1", "b": "2", "c": "3"}), request_id=request_id
    )
    first = wire.client.CreateProfile(request)
    wire.checks.equal(wire.client.CreateProfile(request), first, "a repeat is answered as the first")
    wire.server.restart_after_kill()
    wire.checks.equal(
        wire.client.CreateProfile(request, wait_for_ready=True, timeout=30.0), first, "also after a kill"
    )
    other = pb.CreateProfileRequest(profile=Profile(id="twice"), request_id=request_id)
    code, reason = Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED"
    wire.refused("another request with the id", lambda: wire.client.CreateProfile(other), code, reason)
    update = pb.UpdateProfileRequest(profile=Profile(id="once", display_name="x"), request_id=request_id)
    wire.refused("another call with the id", lambda: wire.client.UpdateProfile(update), code, reason)
    wire.invalid(
        "a request id that is no UUID",
        lambda: wire.client.CreateProfile(pb.CreateProfileRequest(profile=Profile(id="x"), request_id="x")),
        "request_id",
    )
    batch_id = str(uuid.uuid4())
    writes = [_delete("once"), _create("batch-a")]
    _batch(wire, *writes, request_id=batch_id)
    repeat = _batch(wire, *writes, request_id=batch_id)
    wire.checks.equal(repeat.results[1].profile.id, "batch-a", "a repeated batch")
    removal = pb.DeleteProfileRequest(id="batch-a", request_id=str(uuid.uuid4()))
    for _ in range(2):
        wire.client.DeleteProfile(removal)


def _chunks(policy: int, chunks: Iterable[list[Profile]]) -> Iterator[pb.ImportProfilesRequest]:
    for profiles in chunks:
        yield pb.ImportProfilesRequest(conflict_policy=policy, profiles=profiles)


def _import(wire: Wire, policy: int, *chunks: list[Profile]) -> list[pb.ImportProfilesResponse]:
    return list(wire.client.ImportProfiles(_chunks(policy, chunks), timeout=60.0))


def _check_import(wire: Wire) -> None:
    def one(number: int, name: str = "first") -> Profile:
        return Profile(id=f"import-{number:04}", email=f"{number}@bulk.example", display_name=name)

    large = [[one(number) for number in range(start, start + 250)] for start in range(0, 1000, 250)]
    answers = _import(wire, FAIL, *large)
    wire.checks.equal(
        [(answer.chunk, answer.written_count, len(answer.errors)) for answer in answers],
        [(chunk, 250, 0) for chunk in range(4)],
        "each chunk is acknowledged",
    )
    bad = [one(2000), Profile(id="no spaces"), one(0, "second"), Profile(id="import-2001", email="nobody")]
    (answer,) = _import(wire, FAIL, bad)
    wire.checks.equal(
        [(error.index, error.reason) for error in answer.errors],
        [(1, "INVALID_FIELD"), (2, "PROFILE_EXISTS"), (3, "INVALID_FIELD")],
        "the profiles that were refused",
    )
    wire.checks.equal(answer.written_count, 1, "the others are written")
    (answer,) = _import(wire, SKIP, [one(0, "second"), one(2002)])
    wire.checks.equal((answer.written_count, answer.skipped_count), (1, 1), "SKIP keeps what is there")
    (answer,) = _import(wire, REPLACE, [one(1, "second")])
    wire.checks.equal((answer.written_count, len(answer.errors)), (1, 0), "REPLACE writes")
    names = {profile.id: profile.display_name for profile in all_profiles(wire.client)}
    wire.checks.equal(
        (names["import-0000"], names["import-0001"], names["import-2002"]),
        ("first", "second", "first"),
        "what the policies left",
    )
    wire.invalid("an unknown policy", lambda: _import(wire, 99, [one(3000)]), "conflict_policy")


def _check_export(wire: Wire) -> None:
    def export(cursor: str = "", domain: str = "", subdomains: bool = False) -> list[pb.ExportProfilesResponse]:
        request = pb.ExportProfilesRequest(domain=domain, include_subdomains=subdomains, cursor=cursor)
        return list(wire.client.ExportProfiles(request, timeout=60.0))

    everything = [profile for chunk in export() for profile in chunk.profiles]
    wire.checks.that(everything == all_profiles(wire.client), "an export is all profiles in the order of a list")
    first = export()[0]
    rest = [profile for chunk in export(first.cursor) for profile in chunk.profiles]
    wire.checks.that([*first.profiles, *rest] == everything, "an export goes on after any chunk")
    wire.checks.equal(export(export()[-1].cursor), [], "after the last chunk there is nothing")
    below = [profile for chunk in export(domain="example.com", subdomains=True) for profile in chunk.profiles]
    wire.checks.equal(ids(below), ["ada", "ada-2", "bob", "carol", "dan"], "an export of a domain")
    reason = "INVALID_PAGE_TOKEN"
    for what, call in [
        ("a cursor that is none", lambda: export("x")),
        ("a cursor of another export", lambda: export(first.cursor, domain="example.com")),
    ]:
        wire.refused(what, call, Code.INVALID_ARGUMENT, reason)
    written = [profile.id for profile in everything if profile.id.startswith("import-")]
    for start in range(0, len(written), 100):
        _batch(wire, *(_delete(profile_id) for profile_id in written[start : start + 100]))


def _check_status(wire: Wire) -> None:
    admin = admin_service.AdminServiceStub(wire.channel)
    status = admin.GetStatus(admin_pb.GetStatusRequest(), timeout=30.0)
    profiles, domains, total = picture(wire.client)
    wire.checks.equal((status.profile_count, status.domain_count), (total, len(domains)), "counts in the status")
    wire.checks.that(status.live_bytes >= sum(len(each.SerializeToString()) for each in profiles) * 0.9, "live bytes")
    wire.checks.that(status.disk_bytes > status.live_bytes > 0, "the disk holds more than what is live")
    wire.checks.that(bool(status.version) and status.engine == "sled", "version and engine")
