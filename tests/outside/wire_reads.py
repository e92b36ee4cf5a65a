"""Happy paths of the reading calls."""

from google.protobuf.field_mask_pb2 import FieldMask

from paging import all_domains, all_profiles, count, pages, profiles_of_domain
from stubs import Profile, pb
from wire import SEED, Code, Wire, ids


def check_reads(wire: Wire) -> None:
    """Reads of the seed by every call."""
    wire.checks.section("reads")
    _check_get(wire)
    _check_list(wire)
    _check_batch_get(wire)
    _check_lookup(wire)
    _check_query(wire)
    _check_counts_and_domains(wire)


def _check_get(wire: Wire) -> None:
    for seeded in SEED:
        got = wire.client.GetProfile(pb.GetProfileRequest(id=seeded.id))
        same = (got.id, got.email, got.display_name) == (seeded.id, seeded.email, seeded.display_name)
        wire.checks.that(same and got.attributes == seeded.attributes, f"get of {seeded.id}")
        wire.checks.that(bool(got.etag), f"{seeded.id} has an etag")
        wire.checks.that(got.create_time.seconds > 0, f"{seeded.id} has a create time")
        wire.checks.equal(got.update_time, got.create_time, f"update time of the new {seeded.id}")
    fay = wire.client.GetProfile(pb.GetProfileRequest(id="fay"))
    wire.checks.equal(fay.domain, "xn--bcher-kva.example", "canonical domain of a Unicode domain")
    ada = wire.client.GetProfile(pb.GetProfileRequest(id="ada-2"))
    wire.checks.equal(
        (ada.email, ada.domain), ("ADA@example.COM.", "example.com"), "address as typed, and its domain"
    )
    mask = FieldMask(paths=["id", "attributes.a.b"])
    part = wire.client.GetProfile(pb.GetProfileRequest(id="ada", read_mask=mask))
    wire.checks.equal(part, Profile(id="ada", attributes={"a.b": "dotted"}), "get with a mask")
    wire.refused(
        "get of a missing id",
        lambda: wire.client.GetProfile(pb.GetProfileRequest(id="missing")),
        Code.NOT_FOUND,
        "PROFILE_NOT_FOUND",
    )


def _check_list(wire: Wire) -> None:
    everyone = sorted(ids(SEED))
    for size in (1, 2, 5, 1000):
        wire.checks.equal(ids(all_profiles(wire.client, size)), everyone, f"list in pages of {size}")
    first = wire.client.ListProfiles(pb.ListProfilesRequest(page_size=3))
    wire.checks.equal(len(first.profiles), 3, "size of a page of 3")
    # Only page_size may change between pages.
    rest = wire.client.ListProfiles(pb.ListProfilesRequest(page_size=1000, page_token=first.next_page_token))
    wire.checks.equal(ids(first.profiles) + ids(rest.profiles), everyone, "list with another page size")
    wire.checks.equal(rest.next_page_token, "", "end mark")
    huge = wire.client.ListProfiles(pb.ListProfilesRequest(page_size=2**31 - 1))
    wire.checks.equal(ids(huge.profiles), everyone, "page size over 1000")
    masked = wire.client.ListProfiles(pb.ListProfilesRequest(read_mask=FieldMask(paths=["email"])))
    emails = [Profile(email=profile.email) for profile in sorted(SEED, key=lambda each: each.id)]
    wire.checks.that(list(masked.profiles) == emails, "list with a mask")


def _check_batch_get(wire: Wire) -> None:
    asked = ["bob", "missing-1", "ada", "bob", "missing-2", "missing-1", "ada"]
    got = wire.client.BatchGetProfiles(pb.BatchGetProfilesRequest(ids=asked))
    wire.checks.equal(ids(got.profiles), ["bob", "ada"], "batch get: first places, in request order")
    wire.checks.equal(list(got.missing_ids), ["missing-1", "missing-2"], "batch get: missing ids")
    most = wire.client.BatchGetProfiles(pb.BatchGetProfilesRequest(ids=[f"none-{n}" for n in range(1000)]))
    wire.checks.equal(len(most.missing_ids), 1000, "batch get of 1000 ids")


def _check_lookup(wire: Wire) -> None:
    for spelling in ("ada@example.com", "ADA@EXAMPLE.COM", "Ada@example.com."):
        found = wire.client.LookupProfilesByEmail(pb.LookupProfilesByEmailRequest(email=spelling))
        wire.checks.equal(ids(found.profiles), ["ada", "ada-2"], f"look-up of {spelling}")
    request = pb.LookupProfilesByEmailRequest(email="ada@example.com", page_size=1)
    paged = [ids(page.profiles) for page in pages(wire.client.LookupProfilesByEmail, request)]
    wire.checks.equal(paged, [["ada"], ["ada-2"]], "look-up in pages of 1")
    unicode = wire.client.LookupProfilesByEmail(pb.LookupProfilesByEmailRequest(email="FAY@BÜCHER.example"))
    wire.checks.equal(ids(unicode.profiles), ["fay"], "look-up in a Unicode domain")
    none = wire.client.LookupProfilesByEmail(pb.LookupProfilesByEmailRequest(email="zoe@example.com"))
    wire.checks.equal(ids(none.profiles), [], "look-up of an unknown address")


def _check_query(wire: Wire) -> None:
    expected = {
        ("example.com", False): ["ada", "ada-2", "bob"],
        ("EXAMPLE.com.", True): ["ada", "ada-2", "bob", "carol", "dan"],
        ("mail.example.com", True): ["carol", "dan"],
        ("badexample.com", True): ["eve"],
        ("com", False): [],
        ("com", True): ["eve", "ada", "ada-2", "bob", "carol", "dan"],
        # Labels are compared one by one: a.example's subdomains come before a-b.example only by label.
        ("example", True): ["gus", "hal", "ida", "fay"],
        ("bücher.example", False): ["fay"],
        ("localhost", True): ["root!~"],
        ("nowhere.example", True): [],
    }
    for (domain, subdomains), wanted in expected.items():
        for size in (1, 2, 1000):
            found = ids(profiles_of_domain(wire.client, domain, subdomains, size))
            wire.checks.equal(found, wanted, f"query {domain} subdomains={subdomains} in pages of {size}")
        wire.checks.equal(count(wire.client, domain, subdomains), len(wanted), f"count {domain} {subdomains}")


def _check_counts_and_domains(wire: Wire) -> None:
    wire.checks.equal(count(wire.client), len(SEED), "count of all, those without e-mail too")
    everything = [
        ("badexample.com", 1),
        ("example.com", 2 + 1),
        ("mail.example.com", 1),
        ("a.mail.example.com", 1),
        ("a.example", 1),
        ("x.a.example", 1),
        ("a-b.example", 1),
        ("xn--bcher-kva.example", 1),
        ("localhost", 1),
    ]
    for size in (1, 4, 1000):
        wire.checks.equal(all_domains(wire.client, page_size=size), everything, f"domains in pages of {size}")
    wire.checks.equal(all_domains(wire.client, "example.com"), everything[1:4], "domains below example.com")
    wire.checks.equal(all_domains(wire.client, "nowhere.example"), [], "domains below an unknown one")
    request = pb.ListDomainsRequest(order_by="profile_count desc", page_size=2)
    largest = wire.client.ListDomains(request)
    found = [(each.domain, each.profile_count) for each in largest.domains]
    wire.checks.equal(found, [("example.com", 3), ("badexample.com", 1)], "the two largest domains")
    wire.checks.equal(largest.next_page_token, "", "no token with order_by")
