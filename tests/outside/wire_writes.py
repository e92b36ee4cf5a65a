"""Happy paths of the writing calls, and the refusals that depend on what is stored.

Each check ends with the seed as it was.
"""

import uuid

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from checks import Checks
from error_details import details_of
from paging import count, picture
from server import Server
from stubs import Profile, pb
from wire import Code, Wire, new_wire


def check_writes(wire: Wire) -> None:
    """Create, update and delete."""
    wire.checks.section("writes")
    before = picture(wire.client)
    _check_create(wire)
    _check_update_masks(wire)
    _check_etags(wire)
    _check_upsert_and_delete(wire)
    _check_move_between_domains(wire)
    wire.checks.that(picture(wire.client) == before, "the writing checks leave the seed as it was")


def check_unique_emails(checks: Checks) -> None:
    """EMAIL_IN_USE, on a server with `email.unique`."""
    checks.section("unique e-mails")
    with Server(config="[email]\nunique = true\n") as server:
        wire = new_wire(checks, server)
        _create(wire, Profile(id="first", email="one@example.com"))
        second = _create(wire, Profile(id="second", email="two@example.com"))
        code, reason = Code.ALREADY_EXISTS, "EMAIL_IN_USE"
        taken = Profile(id="third", email="ONE@Example.com")
        wire.refused("create with a taken e-mail", lambda: _create(wire, taken), code, reason)
        move = Profile(id="second", email="One@example.com")
        wire.refused("update to a taken e-mail", lambda: _update(wire, move), code, reason)
        same = _update(wire, Profile(id="second", email="TWO@example.com"))
        checks.that(same.etag != second.etag, "a profile may respell its own e-mail")
        _delete(wire, "first")
        moved = _update(wire, move)
        checks.equal(moved.email, "One@example.com", "a freed e-mail may be taken")
        wire.channel.close()


def _create(wire: Wire, profile: Profile) -> Profile:
    return wire.client.CreateProfile(pb.CreateProfileRequest(profile=profile))


def _update(wire: Wire, profile: Profile, *paths: str, allow_missing: bool = False) -> Profile:
    mask = FieldMask(paths=paths) if paths else None
    return wire.client.UpdateProfile(
        pb.UpdateProfileRequest(profile=profile, update_mask=mask, allow_missing=allow_missing)
    )


def _delete(wire: Wire, profile_id: str, etag: str = "", allow_missing: bool = False) -> None:
    wire.client.DeleteProfile(pb.DeleteProfileRequest(id=profile_id, etag=etag, allow_missing=allow_missing))


def _get(wire: Wire, profile_id: str) -> Profile:
    return wire.client.GetProfile(pb.GetProfileRequest(id=profile_id))


def _check_create(wire: Wire) -> None:
    forged = Profile(
        id="zoe",
        email="Zoe@New.example",
        domain="forged.example",
        etag="forged",
        create_time=Timestamp(seconds=1),
        update_time=Timestamp(seconds=1),
    )
    zoe = _create(wire, forged)
    wire.checks.equal(
        (zoe.id, zoe.email, zoe.domain), ("zoe", "Zoe@New.example", "new.example"), "created profile"
    )
    wire.checks.that(zoe.etag != "forged", "a caller's etag is ignored")
    wire.checks.that(zoe.create_time.seconds > 1_000_000, "a caller's times are ignored")
    wire.checks.that(_get(wire, "zoe") == zoe, "what was created is what is read")
    wire.refused("create of a taken id", lambda: _create(wire, forged), Code.ALREADY_EXISTS, "PROFILE_EXISTS")
    _delete(wire, "zoe")
    again = _create(wire, forged)
    wire.checks.that(again.etag != zoe.etag, "a profile made anew has another etag")
    _delete(wire, "zoe")

    made = [_create(wire, Profile(display_name="no id")) for _ in range(2)]
    for profile in made:
        wire.checks.equal(uuid.UUID(profile.id).version, 7, "version of a made id")
        _delete(wire, profile.id)
    wire.checks.that(made[0].id != made[1].id, "made ids differ")

    largest_id = _create(wire, Profile(id="!" * 128, display_name="x" * 256, attributes={"k" * 64: ""}))
    wire.checks.that(_get(wire, "!" * 128) == largest_id, "the longest id, name and key")
    _delete(wire, "!" * 128)
    most = _create(wire, Profile(id="most", attributes={f"k{n}": "v" * 100 for n in range(128)}))
    wire.checks.equal(len(most.attributes), 128, "128 attributes")
    _delete(wire, "most")


def _check_update_masks(wire: Wire) -> None:
    _create(
        wire,
        Profile(id="zoe", email="zoe@new.example", display_name="Zoe", attributes={"a": "1", "b.c": "2"}),
    )

    def fields(profile: Profile) -> tuple[str, str, dict[str, str]]:
        return profile.email, profile.display_name, dict(profile.attributes)

    name_only = _update(wire, Profile(id="zoe", display_name="Z"))
    wire.checks.equal(
        fields(name_only), ("zoe@new.example", "Z", {"a": "1", "b.c": "2"}), "update of the populated fields"
    )
    one = _update(
        wire, Profile(id="zoe", email="x@y.example", attributes={"b.c": "3", "a": "9"}), "attributes.b.c"
    )
    wire.checks.equal(
        fields(one), ("zoe@new.example", "Z", {"a": "1", "b.c": "3"}), "update of one attribute"
    )
    removed = _update(wire, Profile(id="zoe"), "attributes.a")
    wire.checks.equal(fields(removed), ("zoe@new.example", "Z", {"b.c": "3"}), "removal of one attribute")
    replaced = _update(wire, Profile(id="zoe", attributes={"n": "1"}))
    wire.checks.equal(fields(replaced), ("zoe@new.example", "Z", {"n": "1"}), "a given map replaces the map")
    ignored = _update(wire, Profile(id="zoe", domain="forged.example"), "id", "domain", "etag", "create_time")
    wire.checks.that(ignored == replaced, "output-only fields in the mask are ignored")
    unchanged = _update(wire, Profile(id="zoe", display_name="Z"), "display_name")
    wire.checks.that(unchanged == replaced, "an update that changes nothing keeps the etag")
    whole = _update(wire, Profile(id="zoe", display_name="Only"), "*")
    wire.checks.equal(fields(whole), ("", "Only", {}), "full replacement")
    wire.checks.equal(whole.domain, "", "no e-mail, no domain")
    wire.checks.that(whole.etag != replaced.etag, "a change makes another etag")
    wire.checks.that(whole.create_time == replaced.create_time, "the create time stays")
    wire.checks.that(
        whole.update_time.ToNanoseconds() >= replaced.update_time.ToNanoseconds(), "the update time grows"
    )
    _delete(wire, "zoe")


def _check_etags(wire: Wire) -> None:
    first = _create(wire, Profile(id="zoe", display_name="1"))
    second = _update(wire, Profile(id="zoe", display_name="2", etag=first.etag))
    stale = Profile(id="zoe", display_name="3", etag=first.etag)
    code, reason = Code.ABORTED, "ETAG_MISMATCH"
    for what, call in {
        "update with a stale etag": lambda: _update(wire, stale),
        "delete with a stale etag": lambda: _delete(wire, "zoe", first.etag),
    }.items():
        error = wire.refused(what, call, code, reason)
        info = details_of(error).get(error_details_pb2.ErrorInfo) if error else None
        current = list(info.metadata.values()) if info else []
        wire.checks.that(second.etag in current, f"{what} tells the current etag")
    foreign = Profile(id="zoe", display_name="3", etag="not-one-of-ours")
    wire.refused("update with a foreign etag", lambda: _update(wire, foreign), code, reason)
    absent = Profile(id="absent", display_name="x", etag=first.etag)
    wire.refused(
        "upsert of an absent profile with an etag",
        lambda: _update(wire, absent, allow_missing=True),
        code,
        reason,
    )
    _delete(wire, "zoe", second.etag)


def _check_upsert_and_delete(wire: Wire) -> None:
    new = Profile(id="zoe", email="zoe@new.example", display_name="Z")
    code, reason = Code.NOT_FOUND, "PROFILE_NOT_FOUND"
    wire.refused("update of an absent profile", lambda: _update(wire, new), code, reason)
    made = _update(wire, new, "display_name", allow_missing=True)
    wire.checks.equal(made.email, "zoe@new.example", "an upsert takes all given fields, whatever the mask")
    _delete(wire, "zoe")
    wire.refused("get after delete", lambda: _get(wire, "zoe"), code, reason)
    wire.refused("delete of an absent profile", lambda: _delete(wire, "zoe"), code, reason)
    _delete(wire, "zoe", allow_missing=True)
    wire.checks.that(True, "delete of an absent profile with allow_missing")


def _check_move_between_domains(wire: Wire) -> None:
    def counts() -> list[int]:
        return [count(wire.client, domain, True) for domain in ("old.example", "new.example", "example")]

    start = counts()
    _create(wire, Profile(id="zoe", email="zoe@a.old.example"))
    wire.checks.equal(counts(), [start[0] + 1, start[1], start[2] + 1], "counts after a create")
    _update(wire, Profile(id="zoe", email="zoe@new.example"))
    wire.checks.equal(counts(), [start[0], start[1] + 1, start[2] + 1], "counts after a move")
    _update(wire, Profile(id="zoe"), "email")
    wire.checks.equal(counts(), start, "counts without an e-mail")
    _update(wire, Profile(id="zoe", email="zoe@new.example"))
    _delete(wire, "zoe")
    wire.checks.equal(counts(), start, "counts after a delete")
