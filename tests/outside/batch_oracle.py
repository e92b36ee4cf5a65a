"""What a writer of batches knows: batches are whole or absent, and an acknowledged one is there."""

import random
import threading

import grpc

from checks import Checks
from kill_oracle import NETWORK_CODES
from stubs import Profile, pb, service

PREFIX = "batch-"
SLOTS = 6


class BatchWriter:
    """Writes the same ids again and again, in batches of 1 to 100; each batch has a number of its own."""

    def __init__(self, seed: int) -> None:
        self.acknowledged = 0
        # By slot: the size of its batch, and the number of the last acknowledged one.
        self._sizes: list[int] = []
        self._numbers = [0] * SLOTS
        self._in_flight: tuple[int, int] | None = None
        self._random = random.Random(f"{seed}-batches")
        self._sizes = [1, 100] + [self._random.randrange(2, 100) for _ in range(SLOTS - 2)]

    def run(self, client: service.ProfileServiceStub, stop: threading.Event) -> None:
        """Writes until told to stop, or until the server is gone in the middle of a call."""
        number = 0
        while not stop.is_set():
            number += 1
            slot = self._random.randrange(SLOTS)
            writes = [
                pb.ProfileWrite(
                    update=pb.UpdateProfileRequest(profile=self._profile(slot, place, number), allow_missing=True)
                )
                for place in range(self._sizes[slot])
            ]
            self._in_flight = (slot, number)
            try:
                client.BatchWriteProfiles(pb.BatchWriteProfilesRequest(writes=writes), timeout=60.0)
            except grpc.RpcError as error:
                if error.code() in NETWORK_CODES:
                    return
                raise
            self._numbers[slot] = number
            self._in_flight = None
            self.acknowledged += 1

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
        """A copy of what is known now."""
        twin = BatchWriter(0)
        twin._sizes, twin._numbers, twin._in_flight = list(self._sizes), list(self._numbers), self._in_flight
        return twin

    def settle(self, found: dict[str, Profile], checks: Checks, when: str) -> None:
        """Each slot shows its last acknowledged batch or the one in flight, wholly."""
        for slot, size in enumerate(self._sizes):
            allowed = {self._numbers[slot]}
            if self._in_flight and self._in_flight[0] == slot:
                allowed.add(self._in_flight[1])
            seen = [found.get(f"{PREFIX}{slot}-{place}") for place in range(size)]
            numbers = {int(profile.display_name) if profile else 0 for profile in seen}
            checks.that(len(numbers) == 1, f"{when}: a batch is there in part")
            checks.that(numbers <= allowed, f"{when}: an acknowledged batch is gone")
