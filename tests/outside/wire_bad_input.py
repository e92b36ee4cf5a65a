"""Bad input over the wire: each gets a clear error that names the field, and changes nothing."""

from collections.abc import Callable
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from stubs import Profile, pb
from wire import Code, Wire

LONG_DOMAIN = ".".join(["a" * 49] * 5) + ".example"
BAD_IDS = {"with a space": "a b", "overlong": "x" * 129, "with a control character": "a\n", "not ASCII": "ü"}
BAD_EMAILS = {
    "without @": "ada",
    "without a local part": "@example.com",
    "without a domain": "ada@",
    "with a space": "a b@example.com",
    "with a leading dot": ".a@example.com",
    "with two dots": "a..b@example.com",
    "with an address literal": "ada@[192.0.2.1]",
    "with a name": "Ada <ada@example.com>",
    "with a control character": "a\u0007@example.com",
    "with a bad label": "a@-b.example",
    "with an empty label": "a@b..example",
    "with an underscore in the domain": "a@b_c.example",
    "with an overlong local part": "a" * 65 + "@example.com",
    "with an overlong label": "a@" + "b" * 64 + ".example",
    "with an overlong domain": "a@" + LONG_DOMAIN,
    "overlong": "a" * 60 + "@" + ".".join(["b" * 60] * 4),
}
# Their local part and their domain are both bad, and each is told.
WITH_TWO_BAD_HALVES = {"with a name"}
BAD_DOMAINS = {
    "with an empty label": "a..b",
    "that is only a dot": ".",
    "with two last dots": "example.com..",
    "with a space": "a b",
    "with a control character": "a\u0007.example",
    "with an underscore": "a_b.example",
    "with a leading hyphen": "-a.example",
    "that is an address literal": "[192.0.2.1]",
    "with an overlong label": "a" * 64 + ".example",
    "overlong": LONG_DOMAIN,
}
BAD_PROFILES = {
    "display name overlong": (Profile(display_name="x" * 257), "display_name"),
    "display name with a control character": (Profile(display_name="a\tb"), "display_name"),
    "129 attributes": (Profile(attributes={f"k{n}": "" for n in range(129)}), "attributes"),
    "empty attribute key": (Profile(attributes={"": "v"}), "attributes"),
    "overlong attribute key": (Profile(attributes={"k" * 65: "v"}), "attributes"),
    "attribute key with a control character": (Profile(attributes={"k\n": "v"}), "attributes"),
    "profile over 16 KiB": (Profile(attributes={"k": "v" * 16_384}), ""),
}


def check_bad_input(wire: Wire) -> None:
    """Every case of bad input that can come over the wire."""
    wire.checks.section("bad input")
    _check_ids(wire)
    _check_emails_and_domains(wire)
    _check_profiles(wire)
    _check_all_at_once(wire)
    _check_masks(wire)
    _check_paging(wire)
    _check_tokens(wire)


def _check_ids(wire: Wire) -> None:
    client = wire.client
    for what, bad in (BAD_IDS | {"empty": ""}).items():
        calls: dict[str, tuple[Callable[[], Any], str]] = {
            "get": (lambda bad=bad: client.GetProfile(pb.GetProfileRequest(id=bad)), "id"),
            "delete": (lambda bad=bad: client.DeleteProfile(pb.DeleteProfileRequest(id=bad)), "id"),
            "delete if there": (
                lambda bad=bad: client.DeleteProfile(pb.DeleteProfileRequest(id=bad, allow_missing=True)),
                "id",
            ),
            "update": (lambda bad=bad: _update(wire, Profile(id=bad, display_name="x")), "profile.id"),
            "upsert": (lambda bad=bad: _upsert(wire, Profile(id=bad, display_name="x")), "profile.id"),
            "batch get": (
                lambda bad=bad: client.BatchGetProfiles(pb.BatchGetProfilesRequest(ids=["ada", bad])),
                "ids[1]",
            ),
        }
        if bad:
            calls["create"] = (lambda bad=bad: _create(wire, Profile(id=bad)), "profile.id")
        for name, (call, field) in calls.items():
            wire.invalid(f"{name} with an id {what}", call, field)
    wire.invalid("batch get of nothing", lambda: client.BatchGetProfiles(pb.BatchGetProfilesRequest()), "ids")
    too_many = pb.BatchGetProfilesRequest(ids=[f"id-{n}" for n in range(1001)])
    wire.invalid("batch get of 1001 ids", lambda: client.BatchGetProfiles(too_many), "ids")


def _check_emails_and_domains(wire: Wire) -> None:
    for what, bad in BAD_EMAILS.items():
        times = 2 if what in WITH_TWO_BAD_HALVES else 1
        create = Profile(id="new", email=bad)
        wire.invalid(f"create with an address {what}", lambda: _create(wire, create), *["profile.email"] * times)
        update = Profile(id="ada", email=bad)
        wire.invalid(f"update with an address {what}", lambda: _update(wire, update), *["profile.email"] * times)
        lookup = pb.LookupProfilesByEmailRequest(email=bad)
        wire.invalid(
            f"look-up of an address {what}",
            lambda: wire.client.LookupProfilesByEmail(lookup),
            *["email"] * times,
        )
    empty = pb.LookupProfilesByEmailRequest()
    wire.invalid("look-up of an empty address", lambda: wire.client.LookupProfilesByEmail(empty), "email")
    for what, bad in BAD_DOMAINS.items():
        for subdomains in (False, True):
            query = pb.QueryProfilesByDomainRequest(domain=bad, include_subdomains=subdomains)
            wire.invalid(
                f"query of a domain {what}", lambda: wire.client.QueryProfilesByDomain(query), "domain"
            )
            counting = pb.CountProfilesRequest(domain=bad, include_subdomains=subdomains)
            wire.invalid(f"count of a domain {what}", lambda: wire.client.CountProfiles(counting), "domain")
        listing = pb.ListDomainsRequest(parent_domain=bad)
        wire.invalid(
            f"domains below a domain {what}", lambda: wire.client.ListDomains(listing), "parent_domain"
        )
    nothing = pb.QueryProfilesByDomainRequest()
    wire.invalid("query of an empty domain", lambda: wire.client.QueryProfilesByDomain(nothing), "domain")


def _check_profiles(wire: Wire) -> None:
    for what, (bad, field) in BAD_PROFILES.items():
        path = f"profile.{field}" if field else "profile"
        for name, call, profile_id in (
            ("create", _create, "new"),
            ("update", _update, "ada"),
            ("upsert", _upsert, "new"),
        ):
            given = Profile()
            given.CopyFrom(bad)
            given.id = profile_id
            error = wire.invalid(f"{name}: {what}", lambda: call(wire, given), path)
            if what == "profile over 16 KiB" and error is not None:
                text = error.details() + str(error.trailing_metadata())
                wire.checks.that("16384" in text, f"{name}: {what} names the limit")
    # The update is within the limits by itself; what it would make is not.
    half = Profile(id="half", attributes={"a": "v" * 9_000})
    _create(wire, half)
    grown = Profile(id="half", attributes={"b": "v" * 9_000})
    wire.invalid(
        "update that makes a profile over 16 KiB", lambda: _update(wire, grown, "attributes.b"), "profile"
    )
    wire.client.DeleteProfile(pb.DeleteProfileRequest(id="half"))
    nothing = pb.CreateProfileRequest()
    wire.invalid("create without a profile", lambda: wire.client.CreateProfile(nothing), "profile")


def _check_all_at_once(wire: Wire) -> None:
    """One BadRequest lists every violation, each with its path from the request's root."""
    bad = Profile(id=" ", email="nobody", display_name="\u0007", attributes={"": "v" * 17_000, "k" * 65: ""})
    wire.invalid(
        "create with everything wrong",
        lambda: _create(wire, bad),
        "profile",
        "profile.attributes",
        "profile.attributes",
        "profile.display_name",
        "profile.email",
        "profile.id",
    )
    update = pb.UpdateProfileRequest(
        profile=Profile(id="a b"), update_mask=FieldMask(paths=["email", "nmae", "attributes."])
    )
    wire.invalid(
        "update with a bad id and bad paths",
        lambda: wire.client.UpdateProfile(update),
        "profile.id",
        "update_mask.paths[1]",
        "update_mask.paths[2]",
    )
    query = pb.QueryProfilesByDomainRequest(domain="a..b", page_size=-1, read_mask=FieldMask(paths=["emial"]))
    wire.invalid(
        "query with everything wrong",
        lambda: wire.client.QueryProfilesByDomain(query),
        "domain",
        "page_size",
        "read_mask.paths[0]",
    )


def _check_masks(wire: Wire) -> None:
    mask = FieldMask(paths=["id", "unknown.path"])
    client, field = wire.client, "read_mask.paths[1]"
    reads: dict[str, Callable[[], Any]] = {
        "get": lambda: client.GetProfile(pb.GetProfileRequest(id="ada", read_mask=mask)),
        "list": lambda: client.ListProfiles(pb.ListProfilesRequest(read_mask=mask)),
        "batch get": lambda: client.BatchGetProfiles(pb.BatchGetProfilesRequest(ids=["ada"], read_mask=mask)),
        "look-up": lambda: client.LookupProfilesByEmail(
            pb.LookupProfilesByEmailRequest(email="ada@example.com", read_mask=mask)
        ),
        "query": lambda: client.QueryProfilesByDomain(
            pb.QueryProfilesByDomainRequest(domain="example.com", read_mask=mask)
        ),
    }
    for name, call in reads.items():
        wire.invalid(f"{name} with an unknown mask path", call, field)
    wire.invalid(
        "update with an unknown mask path",
        lambda: _update(wire, Profile(id="ada", display_name="x"), "display_name", "emails"),
        "update_mask.paths[1]",
    )


def _check_paging(wire: Wire) -> None:
    client = wire.client
    calls: dict[str, Callable[[], Any]] = {
        "list": lambda: client.ListProfiles(pb.ListProfilesRequest(page_size=-1)),
        "look-up": lambda: client.LookupProfilesByEmail(
            pb.LookupProfilesByEmailRequest(email="ada@example.com", page_size=-1)
        ),
        "query": lambda: client.QueryProfilesByDomain(
            pb.QueryProfilesByDomainRequest(domain="example.com", page_size=-(2**31))
        ),
        "domains": lambda: client.ListDomains(pb.ListDomainsRequest(page_size=-1)),
        "largest domains": lambda: client.ListDomains(
            pb.ListDomainsRequest(page_size=-1, order_by="profile_count desc")
        ),
    }
    for name, call in calls.items():
        wire.invalid(f"{name} with a negative page size", call, "page_size")
    order = pb.ListDomainsRequest(order_by="profile_count asc")
    wire.invalid("domains in an unknown order", lambda: client.ListDomains(order), "order_by")


def _check_tokens(wire: Wire) -> None:
    client = wire.client
    query = pb.QueryProfilesByDomainRequest(domain="example.com", page_size=1)
    token = client.QueryProfilesByDomain(query).next_page_token
    listing = client.ListProfiles(pb.ListProfilesRequest(page_size=1)).next_page_token
    domains = client.ListDomains(pb.ListDomainsRequest(page_size=1)).next_page_token
    mask = FieldMask(paths=["id"])
    foreign: dict[str, Callable[[], Any]] = {
        "another domain's": lambda: client.QueryProfilesByDomain(
            pb.QueryProfilesByDomainRequest(domain="mail.example.com", page_token=token)
        ),
        "a query's without subdomains, with them": lambda: client.QueryProfilesByDomain(
            pb.QueryProfilesByDomainRequest(domain="example.com", include_subdomains=True, page_token=token)
        ),
        "a query's without a mask, with one": lambda: client.QueryProfilesByDomain(
            pb.QueryProfilesByDomainRequest(domain="example.com", read_mask=mask, page_token=token)
        ),
        "a list's, in a query": lambda: client.QueryProfilesByDomain(
            pb.QueryProfilesByDomainRequest(domain="example.com", page_token=listing)
        ),
        "a query's, in a list": lambda: client.ListProfiles(pb.ListProfilesRequest(page_token=token)),
        "a query's, in a look-up": lambda: client.LookupProfilesByEmail(
            pb.LookupProfilesByEmailRequest(email="ada@example.com", page_token=token)
        ),
        "a query's, in domains": lambda: client.ListDomains(pb.ListDomainsRequest(page_token=token)),
        "domains', below another parent": lambda: client.ListDomains(
            pb.ListDomainsRequest(parent_domain="example", page_token=domains)
        ),
    }
    for what, call in foreign.items():
        _refuse_token(wire, f"a token: {what}", call)
    damaged = {
        "cut": token[:-1],
        "half": token[: len(token) // 2],
        "longer": token + "A",
        "twice": token + token,
        "free text": "not a token",
        "Unicode": "ü" * 8,
    }
    damaged |= {f"changed at {at}": _changed(token, at) for at in range(len(token))}
    for what, text in damaged.items():
        request = pb.QueryProfilesByDomainRequest(domain="example.com", page_token=text)
        _refuse_token(wire, f"a damaged token: {what}", lambda: client.QueryProfilesByDomain(request))


def _changed(token: str, at: int) -> str:
    return token[:at] + ("B" if token[at] != "B" else "C") + token[at + 1 :]


def _refuse_token(wire: Wire, what: str, call: Callable[[], Any]) -> None:
    wire.refused(what, call, Code.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN", ["page_token"])


def _create(wire: Wire, profile: Profile) -> Profile:
    return wire.client.CreateProfile(pb.CreateProfileRequest(profile=profile))


def _update(wire: Wire, profile: Profile, *paths: str) -> Profile:
    mask = FieldMask(paths=paths) if paths else None
    return wire.client.UpdateProfile(pb.UpdateProfileRequest(profile=profile, update_mask=mask))


def _upsert(wire: Wire, profile: Profile) -> Profile:
    return wire.client.UpdateProfile(pb.UpdateProfileRequest(profile=profile, allow_missing=True))
