"""What a writer of batches knows: batches are whole or absent, an acknowledged one is there, and a refused one is not."""

import random
import threading

import grpc

from checks import Checks
from kill_oracle import NETWORK_CODES
from stubs import Profile, pb, service

PREFIX = "batch-"
SLOTS = 6
LARGEST = 100
# How many batches of a hundred have a write that must be refused, and the whole batch with it.
REFUSED_PERCENT = 10


class BatchWriter:
    """Writes the same ids again and again, in batches of 1 to 100; each batch has a number of its own."""

    def __init__(self, seed: int) -> None:
        self.acknowledged = 0
        self.refused = 0
        self.problems: list[str] = []
        # By slot: the size of its batch, and the number of the last acknowledged one.
        self._sizes: list[int] = []
        self._numbers = [0] * SLOTS
        self._in_flight: tuple[int, int] | None = None
        self._number = 0
        self._random = random.Random(f"{seed}-batches")
        self._sizes = [1, LARGEST] + [self._random.randrange(2, LARGEST) for _ in range(SLOTS - 2)]

    def run(self, client: service.ProfileServiceStub, stop: threading.Event) -> None:
        """Writes until told to stop, or until the server is gone in the middle of a call."""
        while not stop.is_set():
            try:
                self._write_once(client)
            except grpc.RpcError as error:
                if error.code() not in NETWORK_CODES:
                    self.problems.append(f"a batch: {error.code()}: {error.details()}")
                return

    def _write_once(self, client: service.ProfileServiceStub) -> None:
        self._number += 1
        number, slot = self._number, self._random.randrange(SLOTS)
        writes = [
            pb.ProfileWrite(
                update=pb.UpdateProfileRequest(profile=self._profile(slot, place, number), allow_missing=True)
            )
            for place in range(self._sizes[slot])
        ]
        taken = (slot + 1) % SLOTS
        if self._random.randrange(100) < REFUSED_PERCENT and self._numbers[taken] and len(writes) < LARGEST:
            self._write_refused(client, writes, taken)
            return
        self._in_flight = (slot, number)
        client.BatchWriteProfiles(pb.BatchWriteProfilesRequest(writes=writes), timeout=300.0)
        self._numbers[slot] = number
        self._in_flight = None
        self.acknowledged += 1

    def _write_refused(
        self, client: service.ProfileServiceStub, writes: list[pb.ProfileWrite], taken: int
    ) -> None:
        """Nothing of it is ever in flight: whatever becomes of the server, it is not there."""
        existing = Profile(id=f"{PREFIX}{taken}-0")
        refused = pb.ProfileWrite(create=pb.CreateProfileRequest(profile=existing))
        try:
            client.BatchWriteProfiles(pb.BatchWriteProfilesRequest(writes=[*writes, refused]), timeout=300.0)
            self.problems.append("a batch that creates what is there is not refused")
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                raise
            self.refused += 1

    def _profile(self, slot: int, place: int, number: int) -> Profile:
        # The address moves with every batch, so that index entries and counters move too.
        email = f"{place}@slot-{slot}.n{number % 7}.batches.example"
        filler = "x" * self._random.randrange(400)
        return Profile(
            id=f"{PREFIX}{slot}-{place}", email=email, display_name=str(number), attributes={"filler": filler}
        )

    def owns(self, profile_id: str) -> bool:
        """Whether only this writer writes the id."""
        return profile_id.startswith(PREFIX)

    def twin(self) -> "BatchWriter":
        """A copy of what is known now; first what is in flight, since the last answer may come meanwhile."""
        twin = BatchWriter(0)
        twin._in_flight = self._in_flight
        twin._sizes, twin._numbers = list(self._sizes), list(self._numbers)
        twin.problems = self.problems
        return twin

    def settle(self, found: dict[str, Profile], checks: Checks, when: str) -> None:
        """Each slot shows its last acknowledged batch or the one in flight, wholly; what is found is what is known then."""
        checks.equal(self.problems, [], f"{when}: batches that were answered otherwise")
        self.problems = []
        for slot, size in enumerate(self._sizes):
            allowed = {self._numbers[slot]}
            if self._in_flight and self._in_flight[0] == slot:
                allowed.add(self._in_flight[1])
            seen = [found.get(f"{PREFIX}{slot}-{place}") for place in range(size)]
            numbers = {int(profile.display_name) if profile else 0 for profile in seen}
            checks.that(len(numbers) == 1, f"{when}: a batch is there in part")
            checks.that(numbers <= allowed, f"{when}: an acknowledged batch is gone, or a refused one is there")
            self._numbers[slot] = max(numbers)
        self._in_flight = None
