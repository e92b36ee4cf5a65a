"""What one writer knows: every acknowledged result, and the at most one write that is under way."""

import random
import threading
from collections import Counter
from dataclasses import dataclass

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from stubs import Profile, pb, service

# Nested, neighbouring and unrelated domains, so that moves change many counters and cross many keys.
DOMAINS = [
    "example.com",
    "mail.example.com",
    "a.mail.example.com",
    "badexample.com",
    "a.example",
    "a-b.example",
    "bücher.example",
    "localhost",
]
IDS_PER_WRITER = 40
NETWORK_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@dataclass
class InFlight:
    """A write that was sent: the profile before it, and after it if it is made; None is absent."""

    profile_id: str
    before: Profile | None
    after: Profile | None
    # Somebody has read the profile as it is after the write: then the write must survive a kill.
    seen_made: bool = False

    def is_made(self, now: Profile | None) -> bool:
        """Whether what is stored now is wholly the result of the write."""
        if self.after is None or now is None:
            return self.after is None and now is None
        rewritten = self.before is None or now.etag != self.before.etag
        return rewritten and content(now) == content(self.after)


def content(profile: Profile) -> tuple[str, str, str, dict[str, str]]:
    """What a caller decides."""
    return profile.id, profile.email, profile.display_name, dict(profile.attributes)


class Writer:
    """Writes profiles of its own range of ids, one call at a time, and checks each answer."""

    def __init__(self, number: int, seed: int) -> None:
        self.stored: dict[str, Profile] = {}
        self.in_flight: InFlight | None = None
        self.acknowledged = 0
        # How many of each kind were acknowledged.
        self.made: Counter[str] = Counter()
        self.problems: list[str] = []
        self._ids = [f"writer-{number}-profile-{index}" for index in range(IDS_PER_WRITER)]
        self._random = random.Random(f"{seed}-{number}")
        self._name = f"writer {number}"
        self._writes = 0

    def run(self, client: service.ProfileServiceStub, stop: threading.Event) -> None:
        """Writes until told to stop, or until the server is gone in the middle of a call."""
        while not stop.is_set():
            try:
                self._write_once(client)
                self._sometimes_read(client)
            except grpc.RpcError as error:
                if error.code() not in NETWORK_CODES:
                    self.problems.append(f"{self._name}: {error.code()}: {error.details()}")
                return

    def _write_once(self, client: service.ProfileServiceStub) -> None:
        profile_id = self._random.choice(self._ids)
        before = self.stored.get(profile_id)
        self._writes += 1
        if before is None:
            write = self._random.choice([self._create, self._upsert])
        else:
            write = self._random.choice([self._move, self._replace, self._set_attribute, self._delete])
        answer = write(client, profile_id, before)
        in_flight = self.in_flight
        assert in_flight is not None
        if not in_flight.is_made(answer):
            self.problems.append(f"{self._name}: the answer is not the write")
        if answer is None:
            del self.stored[profile_id]
        else:
            self.stored[profile_id] = answer
        self.in_flight = None
        self.acknowledged += 1
        self.made[write.__name__.strip("_")] += 1

    def _sometimes_read(self, client: service.ProfileServiceStub) -> None:
        """Nobody else writes these ids: a read shows exactly the last acknowledged write."""
        if self._random.random() > 0.1 or not self.stored:
            return
        profile_id = self._random.choice(list(self.stored))
        if client.GetProfile(pb.GetProfileRequest(id=profile_id), timeout=300.0) != self.stored[profile_id]:
            self.problems.append(f"{self._name}: a read does not show the acknowledged write")

    def _begin(self, profile_id: str, before: Profile | None, after: Profile | None) -> None:
        self.in_flight = InFlight(profile_id, before, after)

    def _new_content(self, profile_id: str) -> Profile:
        # No two writes have the same content, so every write changes something.
        domain = self._random.choice(DOMAINS)
        return Profile(
            id=profile_id,
            email=f"user-{self._writes}@{domain}" if self._random.random() < 0.9 else "",
            display_name=f"write {self._writes}",
            attributes={"filler": "x" * self._random.randrange(600)},
        )

    def _create(self, client: service.ProfileServiceStub, profile_id: str, before: Profile | None) -> Profile:
        given = self._new_content(profile_id)
        self._begin(profile_id, before, given)
        return client.CreateProfile(pb.CreateProfileRequest(profile=given), timeout=300.0)

    def _upsert(self, client: service.ProfileServiceStub, profile_id: str, before: Profile | None) -> Profile:
        given = self._new_content(profile_id)
        self._begin(profile_id, before, given)
        return client.UpdateProfile(pb.UpdateProfileRequest(profile=given, allow_missing=True), timeout=300.0)

    def _replace(self, client: service.ProfileServiceStub, profile_id: str, before: Profile) -> Profile:
        given = self._new_content(profile_id)
        given.etag = before.etag
        self._begin(profile_id, before, given)
        request = pb.UpdateProfileRequest(profile=given, update_mask=FieldMask(paths=["*"]))
        return client.UpdateProfile(request, timeout=300.0)

    def _move(self, client: service.ProfileServiceStub, profile_id: str, before: Profile) -> Profile:
        email = f"moved-{self._writes}@{self._random.choice(DOMAINS)}"
        after = _copy(before)
        after.email = email
        self._begin(profile_id, before, after)
        return client.UpdateProfile(
            pb.UpdateProfileRequest(
                profile=Profile(id=profile_id, email=email), update_mask=FieldMask(paths=["email"])
            ),
            timeout=300.0,
        )

    def _set_attribute(self, client: service.ProfileServiceStub, profile_id: str, before: Profile) -> Profile:
        given = Profile(id=profile_id, attributes={"counter": str(self._writes)})
        after = _copy(before)
        after.attributes["counter"] = str(self._writes)
        self._begin(profile_id, before, after)
        request = pb.UpdateProfileRequest(profile=given, update_mask=FieldMask(paths=["attributes.counter"]))
        return client.UpdateProfile(request, timeout=300.0)

    def _delete(self, client: service.ProfileServiceStub, profile_id: str, before: Profile) -> None:
        self._begin(profile_id, before, None)
        client.DeleteProfile(pb.DeleteProfileRequest(id=profile_id, etag=before.etag), timeout=300.0)

    def settle(self, found: dict[str, Profile]) -> bool | None:
        """After a restart, with all that the server has: checks this writer's range, and learns what became
        of the write in flight. Returns whether it was made; None when none was in flight."""
        in_flight, self.in_flight = self.in_flight, None
        made: bool | None = None
        if in_flight is not None:
            now = found.get(in_flight.profile_id)
            made = in_flight.is_made(now)
            if not made and now != in_flight.before:
                self.problems.append(f"{self._name}: the write in flight is neither wholly there nor absent")
            if not made and in_flight.seen_made:
                self.problems.append(f"{self._name}: a write that a read had shown is gone")
            self.stored.pop(in_flight.profile_id, None)
            if now is not None:
                self.stored[in_flight.profile_id] = now
        for profile_id in self._ids:
            if found.get(profile_id) != self.stored.get(profile_id):
                self.problems.append(f"{self._name}: an acknowledged write is not there as answered")
                self._accept(profile_id, found)
        return made

    def _accept(self, profile_id: str, found: dict[str, Profile]) -> None:
        # Reported once; the next rounds go on from what is there.
        self.stored.pop(profile_id, None)
        if profile_id in found:
            self.stored[profile_id] = found[profile_id]


def _copy(profile: Profile) -> Profile:
    copy = Profile()
    copy.CopyFrom(profile)
    return copy


def spy(client: service.ProfileServiceStub, writers: list[Writer], seed: int, stop: threading.Event) -> None:
    """Reads profiles while they are written: what a read has shown must not be lost by a kill."""
    choose = random.Random(seed)
    while not stop.is_set():
        in_flight = choose.choice(writers).in_flight
        if in_flight is None:
            continue
        try:
            now = client.GetProfile(pb.GetProfileRequest(id=in_flight.profile_id), timeout=300.0)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                return
            now = None
        if in_flight.is_made(now):
            in_flight.seen_made = True
