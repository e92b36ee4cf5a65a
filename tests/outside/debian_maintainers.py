"""Real input: Debian's maintainers as profiles, loaded through a kill -9 and compared with awk's counts.

Prints counts only: addresses and names are personal data.
"""

import tempfile
from pathlib import Path

import grpcurl
from checks import Checks
from debian_source import AwkCounts, Source, ascii_lower, count_with_awk, profile_id, read_dump, write_dump
from maintainer_load import Load
from paging import all_domains, all_profiles, count, index_order, profiles_of_domain
from server import Server, profiles
from stubs import Profile, pb, service

ASK = ["debian.org", "lists.debian.org", "lists.alioth.debian.org", "org"]
PAGE_SIZE = 7
GRPCURL_LOOKUPS = 5


class Agreement:
    """Compares what a server tells with what awk counted in the source."""

    def __init__(self, checks: Checks, server: Server, sent: dict[str, Profile], awk: AwkCounts) -> None:
        self._checks = checks
        self._server = server
        self._sent = sent
        self._awk = awk

    def check(self, when: str) -> None:
        """All comparisons, by Python and by grpcurl."""
        self._checks.section(f"compare with awk {when}: {self._awk.total} addresses")
        self._checks.that(self._awk.total > 0, f"awk counts something {when}")
        with self._server.channel() as channel:
            client = profiles(channel)
            self._check_counts(client, when)
            self._check_domains(client, when)
            self._check_profiles(client, when)
            self._check_order(client, when)
            self._check_lookups(client, when)
        self._check_by_grpcurl(when)

    def _check_counts(self, client: service.ProfileServiceStub, when: str) -> None:
        self._checks.equal(count(client), self._awk.total, f"count of all {when}")
        for domain in ASK:
            exact, subtree = count(client, domain), count(client, domain, subdomains=True)
            self._checks.equal(exact, self._awk.exact[domain], f"count of {domain} {when}")
            self._checks.equal(subtree, self._awk.subtree[domain], f"count of {domain} and below {when}")

    def _check_domains(self, client: service.ProfileServiceStub, when: str) -> None:
        listed = all_domains(client, page_size=PAGE_SIZE)
        expected = sorted(self._awk.domains.items(), key=lambda entry: index_order(entry[0]))
        self._checks.equal(len(listed), len(expected), f"number of domains {when}")
        self._checks.that(listed == expected, f"the domains and their counts, in index order, {when}")
        counted = {domain: count(client, domain) for domain in self._awk.domains}
        self._checks.that(counted == self._awk.domains, f"CountProfiles of each domain {when}")

    def _check_profiles(self, client: service.ProfileServiceStub, when: str) -> None:
        """Paging to the end with a small page: everything that was sent, once each, in the order of ids."""
        expected = [self._sent[profile_id(address)] for address in self._awk.packages]
        expected.sort(key=lambda profile: profile.id)
        listed = all_profiles(client, PAGE_SIZE)
        self._checks.equal(len(listed), len(expected), f"profiles paged {PAGE_SIZE} at a time {when}")
        self._checks.that(
            [without_output_fields(profile) for profile in listed] == expected,
            f"each profile is as it was sent {when}",
        )

    def _check_order(self, client: service.ProfileServiceStub, when: str) -> None:
        for domain in ASK:
            in_subtree = [
                address for address in self._awk.packages if address.endswith((f"@{domain}", f".{domain}"))
            ]
            in_subtree.sort(key=address_order)
            in_domain = [address for address in in_subtree if address.endswith(f"@{domain}")]
            for subdomains, expected in ((True, in_subtree), (False, in_domain)):
                found = profiles_of_domain(client, domain, subdomains, PAGE_SIZE)
                what = f"query of {domain}{' and below' if subdomains else ''} {when}"
                self._checks.equal(len(found), len(expected), f"profiles of the {what}")
                addresses = [ascii_lower(profile.email) for profile in found]
                self._checks.that(addresses == expected, f"the order of the {what}")

    def _check_lookups(self, client: service.ProfileServiceStub, when: str) -> None:
        """Every address, spelt in upper case: the store folds it."""
        wrong = 0
        for address, packages in self._awk.packages.items():
            found = client.LookupProfilesByEmail(
                pb.LookupProfilesByEmailRequest(email=address.upper()), timeout=120.0
            ).profiles
            right = len(found) == 1 and ascii_lower(found[0].email) == address
            wrong += not (right and found[0].attributes["package_count"] == str(packages))
        self._checks.equal(wrong, 0, f"wrong look-ups by e-mail {when}")

    def _check_by_grpcurl(self, when: str) -> None:
        address = self._server.address
        for domain in ["", *ASK]:
            for subdomains in (True, False):
                answer = grpcurl.call(address, "CountProfiles", domain=domain, include_subdomains=subdomains)
                table = self._awk.subtree if subdomains else self._awk.exact
                expected = table[domain] if domain else self._awk.total
                what = f"grpcurl: count of {domain or 'all'}, subdomains {subdomains}, {when}"
                self._checks.equal(int(answer.get("count", 0)), expected, what)
        listed = grpcurl_pages(address, "ListDomains", "domains", page_size=500)
        counts = {entry["domain"]: int(entry["profile_count"]) for entry in listed}
        self._checks.that(counts == self._awk.domains, f"grpcurl: all domains {when}")
        smallest = min(ASK, key=lambda domain: self._awk.exact[domain] or 1_000_000)
        found = grpcurl_pages(
            address, "QueryProfilesByDomain", "profiles", domain=smallest, page_size=PAGE_SIZE
        )
        self._checks.equal(
            len(found), self._awk.exact[smallest], f"grpcurl: {smallest} paged {PAGE_SIZE} at a time {when}"
        )
        addresses = sorted(self._awk.packages)
        for email in addresses[:: max(1, len(addresses) // GRPCURL_LOOKUPS)]:
            found = grpcurl.call(address, "LookupProfilesByEmail", email=email).get("profiles", [])
            same = len(found) == 1 and ascii_lower(found[0]["email"]) == email
            self._checks.that(same, f"grpcurl: a look-up by e-mail {when}")


def address_order(address: str) -> tuple[list[bytes], bytes]:
    """The published order of addresses in the index."""
    local_part, _, domain = address.rpartition("@")
    return index_order(domain), local_part.encode()


def without_output_fields(profile: Profile) -> Profile:
    """The fields that a caller decides."""
    return Profile(
        id=profile.id,
        email=profile.email,
        display_name=profile.display_name,
        attributes=profile.attributes,
    )


def grpcurl_pages(address: str, method: str, items: str, **fields: object) -> list[dict]:
    """All items of a paged method, read by grpcurl to the end."""
    found: list[dict] = []
    token = ""
    while True:
        answer = grpcurl.call(address, method, page_token=token, **fields)
        found += answer.get(items, [])
        token = answer.get("next_page_token", "")
        if not token:
            return found


def report_source(source: Source) -> None:
    """Says what the dump held."""
    print(
        f"{source.fields} Maintainer fields, {len(source.maintainers)} addresses, "
        f"{source.several} fields with several, {source.without_brackets} without brackets, "
        f"{source.not_ascii} addresses left out as not ASCII"
    )


def check_survivors(checks: Checks, server: Server, load: Load) -> None:
    """Right after the restart, while the load waits: every acknowledged profile is there as answered."""
    acknowledged = dict(load.acknowledged)
    ids = list(acknowledged)
    checks.section(f"killed and restarted after {len(ids)} acknowledged profiles of this load")
    with server.channel() as channel:
        client = profiles(channel)
        missing, different = 0, 0
        for start in range(0, len(ids), 1000):
            request = pb.BatchGetProfilesRequest(ids=ids[start : start + 1000])
            answer = client.BatchGetProfiles(request, timeout=120.0)
            missing += len(answer.missing_ids)
            different += sum(profile != acknowledged[profile.id] for profile in answer.profiles)
        checks.equal(missing, 0, "acknowledged profiles lost by the kill")
        checks.equal(different, 0, "acknowledged profiles changed by the kill")
        checks.equal(count(client), len(all_profiles(client)), "count of all right after the kill")


def check_load(checks: Checks, load: Load, wanted: int) -> None:
    """What became of each profile of a load."""
    checks.equal(len(load.acknowledged) + len(load.refused), wanted, "profiles acknowledged or refused")
    checks.equal(load.bad_refusals, [], "refusals other than INVALID_ARGUMENT naming profile.email")
    print(
        f"{len(load.acknowledged)} acknowledged, {len(load.refused)} refused for their address, "
        f"{load.lost_answers} answers lost, {load.found_already_made} of those writes had been made"
    )
    for reason in sorted(set(load.refused.values())):
        print(f"  refused because profile.email {reason}")


def main() -> None:
    """Loads a third, compares; loads the rest through a kill, compares; kills once more, compares."""
    checks = Checks("debian_maintainers")
    with tempfile.TemporaryDirectory(prefix="profilestore-debian-") as folder, Server() as server:
        dump = Path(folder) / "available.txt"
        write_dump(dump)
        source = read_dump(dump)
        report_source(source)
        addresses = list(source.maintainers)
        sent = {profile.id: profile for profile in (each.profile() for each in source.maintainers.values())}
        wanted = list(sent.values())
        third = len(wanted) // 3

        def agreement(left_out_ids: set[str]) -> Agreement:
            left_out = {address for address in addresses if profile_id(address) in left_out_ids}
            return Agreement(checks, server, sent, count_with_awk(dump, ASK, left_out))

        checks.section("load the first third")
        first = Load(server)
        first.run(wanted[:third])
        check_load(checks, first, third)
        agreement({profile.id for profile in wanted[third:]} | set(first.refused)).check("after a third")

        checks.section("load the rest, with a kill in the middle")
        rest = Load(server, kill_after=(len(wanted) - third) // 2)
        rest.run(wanted[third:], lambda load: check_survivors(checks, server, load))
        check_load(checks, rest, len(wanted) - third)
        whole = agreement(set(first.refused) | set(rest.refused))
        whole.check("after the kill in the load")

        server.restart_after_kill()
        whole.check("after another kill and restart")
        checks.equal(server.stop(), 0, "exit code after SIGTERM")
    checks.finish()


if __name__ == "__main__":
    main()
