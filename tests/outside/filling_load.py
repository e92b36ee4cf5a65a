"""Writers that fill a disk with the store itself, readers beside them, and what they know."""

import random
import threading
from collections import Counter

import grpc

from checks import Checks
from error_details import reason_of
from kill_oracle import NETWORK_CODES
from server import Server, profiles
from stubs import Profile, pb, service

WRITERS = 4
READERS = 2
# Of 12 KB each, so that a batch is near its bound of 1 MiB.
BATCH = 60
DISK_LOW = "DISK_LOW"
OVERWRITE = 0.2
PAGE = 0.02
# Who is refused asks again so often.
AGAIN_SECONDS = 0.05


class FillingWriter:
    """Writes batches of large profiles, new ones and sometimes old ones again."""

    def __init__(self, number: int, seed: int) -> None:
        # By batch: the last version that was acknowledged; and the last that was sent.
        self.acknowledged: list[int] = []
        self.sent: list[int] = []
        self.answers: Counter[str] = Counter()
        self._number = number
        self._random = random.Random(f"{seed}-filling-{number}")

    def run(self, client: service.ProfileServiceStub, stop: threading.Event) -> None:
        """Writes until told to stop, or until the server is gone. Goes on when it is refused for want of room."""
        while not stop.is_set():
            batch = self._choose()
            self.sent[batch] += 1
            version = self.sent[batch]
            updates = [
                pb.UpdateProfileRequest(profile=self._profile(batch, place, version), allow_missing=True)
                for place in range(BATCH)
            ]
            writes = [pb.ProfileWrite(update=update) for update in updates]
            try:
                client.BatchWriteProfiles(pb.BatchWriteProfilesRequest(writes=writes), timeout=300.0)
            except grpc.RpcError as error:
                reason = reason_of(error)[1] or error.code().name
                self.answers[reason] += 1
                if reason != DISK_LOW:
                    return
                # Refused is not made, now or later.
                self.sent[batch] = self.acknowledged[batch]
                stop.wait(AGAIN_SECONDS)
                continue
            self.acknowledged[batch] = version
            self.answers["OK"] += 1

    def _choose(self) -> int:
        if self.sent and self.sent[-1] == 0:
            # The newest once more: it was refused.
            return len(self.sent) - 1
        if self.sent and self._random.random() < OVERWRITE:
            return self._random.randrange(len(self.sent))
        self.acknowledged.append(0)
        self.sent.append(0)
        return len(self.sent) - 1

    def _profile(self, batch: int, place: int, version: int) -> Profile:
        email = f"u{place}@b{batch % 7}.w{self._number}.filling.example"
        text = f"{self._number:04d}{batch:04d}" * 1500
        return Profile(id=self._id(batch, place), email=email, display_name=str(version), attributes={"a": text})

    def _id(self, batch: int, place: int) -> str:
        return f"filling-{self._number}-{batch}-{place}"

    def pick(self, chance: random.Random) -> tuple[str, int, int] | None:
        """A profile of an acknowledged batch: its id, the batch, and the version that a read must show at the least."""
        if not self.acknowledged:
            return None
        batch = chance.randrange(len(self.acknowledged))
        version = self.acknowledged[batch]
        return (self._id(batch, chance.randrange(BATCH)), batch, version) if version else None

    def settle(self, found: dict[str, Profile], checks: Checks, when: str) -> int:
        """With nobody writing: each batch shows its last acknowledged version or the one that was in flight, wholly. Returns how
        many profiles there are."""
        there = 0
        for batch, acknowledged in enumerate(self.acknowledged):
            of_batch = [found.get(self._id(batch, place)) for place in range(BATCH)]
            versions = {int(profile.display_name) if profile else 0 for profile in of_batch}
            checks.equal(len(versions), 1, f"{when}: versions of one batch of writer {self._number}")
            in_order = acknowledged <= min(versions) <= max(versions) <= self.sent[batch]
            checks.that(in_order, f"{when}: writer {self._number} was told {acknowledged}, and found {sorted(versions)}")
            self.acknowledged[batch] = self.sent[batch] = max(versions)
            there += sum(profile is not None for profile in of_batch)
        return there


class FillingLoad:
    """Writers and readers on one server, while the block runs."""

    def __init__(self, server: Server, writers: list[FillingWriter], seed: int) -> None:
        self.reads = [0] * READERS
        self.problems: list[str] = []
        self._server = server
        self._writers = writers
        self._stop = threading.Event()
        # Set when the server is to go in the middle of it.
        self.may_go = False
        self._channels = [server.channel() for _ in range(2 + READERS)]
        clients = [profiles(channel) for channel in self._channels]
        self._threads = [
            threading.Thread(target=writer.run, args=(clients[place % 2], self._stop))
            for place, writer in enumerate(writers)
        ]
        for place in range(READERS):
            chance = random.Random(f"{seed}-reader-{place}")
            self._threads.append(threading.Thread(target=self._read, args=(clients[2 + place], place, chance)))

    def __enter__(self) -> "FillingLoad":
        for writer in self._writers:
            writer.answers.clear()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for channel in self._channels:
            channel.close()

    def answers(self, kind: str) -> list[int]:
        """How often each writer had this answer."""
        return [writer.answers[kind] for writer in self._writers]

    def others(self) -> dict[str, int]:
        """The answers that are neither OK nor for want of room."""
        counts: Counter[str] = sum((writer.answers for writer in self._writers), Counter())
        return {kind: count for kind, count in counts.items() if kind not in ("OK", DISK_LOW)}

    def _read(self, client: service.ProfileServiceStub, place: int, chance: random.Random) -> None:
        while not self._stop.is_set():
            writer = chance.choice(self._writers)
            picked = writer.pick(chance)
            if picked is None:
                continue
            profile_id, batch, version = picked
            try:
                if chance.random() < PAGE:
                    domain = profile_id.split("-")[1]
                    request = pb.QueryProfilesByDomainRequest(
                        domain=f"w{domain}.filling.example", include_subdomains=True, page_size=50
                    )
                    client.QueryProfilesByDomain(request, timeout=120.0)
                seen = int(client.GetProfile(pb.GetProfileRequest(id=profile_id), timeout=120.0).display_name)
            except grpc.RpcError as error:
                if not (self.may_go and error.code() in NETWORK_CODES):
                    self.problems.append(f"{error.code()}: {error.details()}")
                return
            # One more may be in flight.
            if not version <= seen <= writer.acknowledged[batch] + 1:
                self.problems.append(f"a read shows version {seen} of a batch whose last acknowledged one was {version}")
            self.reads[place] += 1
