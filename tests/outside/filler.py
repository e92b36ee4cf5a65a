"""Fills a store with large profiles and remembers what was acknowledged; takes a disk's room away."""

import os
from pathlib import Path

import grpc

from checks import Checks
from error_details import reason_of
from paging import all_profiles
from stubs import Profile, pb, service

MIB = 1024 * 1024
BATCH = 100
# More is not written, whatever the server says.
MOST_BYTES = 2560 * MIB


def fill(folder: Path, leave: int) -> Path:
    """Takes the disk's room but for so many bytes."""
    path = folder / "filler"
    room = os.statvfs(folder)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize - leave))
    return path


def batch(number: int) -> list[Profile]:
    """A hundred profiles of 12 KB."""
    text = f"{number:08d}" * 1500
    return [
        Profile(id=f"{number}-{index}", email=f"u{index}@d{number % 7}.example", attributes={"a": text})
        for index in range(BATCH)
    ]


class Filler:
    """Writes profiles and remembers the ids that were acknowledged."""

    def __init__(self, client: service.ProfileServiceStub) -> None:
        self.client = client
        self.acknowledged: set[str] = set()
        self._number = 0

    def write(self) -> str:
        """Writes one batch; returns the reason of a refusal, or nothing."""
        self._number += 1
        # A batch holds at most 1 MiB.
        for part in (batch(self._number)[:50], batch(self._number)[50:]):
            writes = [pb.ProfileWrite(create=pb.CreateProfileRequest(profile=profile)) for profile in part]
            try:
                self.client.BatchWriteProfiles(pb.BatchWriteProfilesRequest(writes=writes), timeout=30.0)
            except grpc.RpcError as error:
                return reason_of(error)[1] or str(error.code())
            self.acknowledged.update(profile.id for profile in part)
        return ""

    def write_until_refused(self) -> str:
        """Writes until a refusal; returns its reason."""
        for _ in range(MOST_BYTES // (BATCH * 12_000)):
            reason = self.write()
            if reason:
                return reason
        return "none"


def same_profiles(checks: Checks, client: service.ProfileServiceStub, filler: Filler, when: str) -> None:
    """What was acknowledged is there."""
    found = {profile.id for profile in all_profiles(client, 200)}
    checks.equal(len(filler.acknowledged - found), 0, f"{when}: acknowledged profiles that are missing")
