"""Reads whole lists page by page, and takes pictures of everything that is stored."""

from collections.abc import Callable, Iterator
from typing import Any

from stubs import Profile, pb, service

MAX_PAGES = 100_000


def pages(call: Callable[..., Any], request: Any) -> Iterator[Any]:
    """The responses of a paged call from its first page to the one without a token."""
    request = type(request).FromString(request.SerializeToString())
    for _ in range(MAX_PAGES):
        response = call(request, timeout=120.0)
        yield response
        if not response.next_page_token:
            return
        request.page_token = response.next_page_token
    raise AssertionError(f"no end after {MAX_PAGES} pages")


def all_profiles(client: service.ProfileServiceStub, page_size: int = 1000) -> list[Profile]:
    """Every profile, in the order of ListProfiles."""
    request = pb.ListProfilesRequest(page_size=page_size)
    return [profile for page in pages(client.ListProfiles, request) for profile in page.profiles]


def profiles_of_domain(
    client: service.ProfileServiceStub, domain: str, subdomains: bool, page_size: int = 1000
) -> list[Profile]:
    """The profiles of a domain, in the order of QueryProfilesByDomain."""
    request = pb.QueryProfilesByDomainRequest(
        domain=domain, include_subdomains=subdomains, page_size=page_size
    )
    return [profile for page in pages(client.QueryProfilesByDomain, request) for profile in page.profiles]


def all_domains(
    client: service.ProfileServiceStub, parent: str = "", page_size: int = 1000
) -> list[tuple[str, int]]:
    """The domains below `parent` with their counts, in the order of ListDomains."""
    request = pb.ListDomainsRequest(parent_domain=parent, page_size=page_size)
    return [
        (each.domain, each.profile_count)
        for page in pages(client.ListDomains, request)
        for each in page.domains
    ]


def count(client: service.ProfileServiceStub, domain: str = "", subdomains: bool = False) -> int:
    """What CountProfiles says."""
    request = pb.CountProfilesRequest(domain=domain, include_subdomains=subdomains)
    return client.CountProfiles(request, timeout=120.0).count


def picture(client: service.ProfileServiceStub) -> tuple[list[Profile], list[tuple[str, int]], int]:
    """Everything that callers can see, to compare before and after."""
    return all_profiles(client), all_domains(client), count(client)


def ancestors(domain: str) -> list[str]:
    """The domain itself and the domains above it, up to the top level."""
    labels = domain.split(".")
    return [".".join(labels[index:]) for index in range(len(labels))]


def index_order(domain: str) -> list[bytes]:
    """The published order of domains: labels from the last to the first, each compared bytewise."""
    return [label.encode() for label in reversed(domain.split("."))]
