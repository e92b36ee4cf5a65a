"""What a backup, or a restore to a point, may hold: of every writer all writes up to one of them, and of all writers up to one moment.

Each writer makes one call at a time. So whatever is a store as of one change holds a beginning of each writer's writes; and when it holds
a write that began after another had been answered, it holds that other too.
"""

import time
from dataclasses import dataclass
from math import inf
from typing import Any

from batch_oracle import PREFIX, BatchWriter
from checks import Checks
from kill_oracle import Writer, content
from stubs import Profile, service


@dataclass
class Entry:
    """A write that was made, or may have been."""

    began: float
    answered: float
    key: str
    value: Any
    # How many numbers of the log it took.
    changes: int = 1


@dataclass
class Part:
    """How much of a history is there: so many entries at the least and at the most. Some come to the same, such as a profile
    that was made and deleted."""

    history: "History"
    least: int
    most: int

    def changes(self, entries: int) -> int:
        """How many changes the first entries made."""
        return sum(entry.changes for entry in self.history.entries[:entries])


class History:
    """The writes of one writer since a time when what it had was known."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.base: dict[str, Any] = {}
        self.entries: list[Entry] = []

    def begin_anew(self, now: dict[str, Any]) -> None:
        """From what is there now."""
        self.base, self.entries = dict(now), []

    def parts(self, found: dict[str, Any], after: float, before: float) -> Part | None:
        """How much of it gives what was found, with all that had been answered after the one time and nothing that
        began behind the other."""
        now = dict(self.base)
        wrong = {key for key in now.keys() | found.keys() if now.get(key) != found.get(key)}
        fits = [0] if not wrong else []
        for number, entry in enumerate(self.entries, 1):
            now[entry.key] = entry.value
            if now.get(entry.key) == found.get(entry.key):
                wrong.discard(entry.key)
            else:
                wrong.add(entry.key)
            if not wrong:
                fits.append(number)
        least = sum(entry.answered < after for entry in self.entries)
        most = sum(entry.began < before for entry in self.entries)
        fits = [number for number in fits if least <= number <= most]
        return Part(self, fits[0], fits[-1]) if fits else None


class HistoryWriter(Writer):
    """A writer that keeps its history."""

    def __init__(self, number: int, seed: int) -> None:
        super().__init__(number, seed)
        self.history = History(f"writer {number}")
        self._began = 0.0
        self._last_id = ""
        self._last_after: Profile | None = None

    def owns(self, profile_id: str) -> bool:
        """Whether only this writer writes the id."""
        return profile_id in self._ids

    def _begin(self, profile_id: str, before: Profile | None, after: Profile | None) -> None:
        super()._begin(profile_id, before, after)
        self._last_id, self._last_after = profile_id, after
        self._began = time.time()

    def _write_once(self, client: service.ProfileServiceStub) -> None:
        super()._write_once(client)
        self._note(self._last_id, self._last_after, time.time())

    def _note(self, profile_id: str, after: Profile | None, answered: float) -> None:
        value = content(after) if after is not None else None
        self.history.entries.append(Entry(self._began, answered, profile_id, value))

    def settle(self, found: dict[str, Profile]) -> bool | None:
        """As ever; a write in flight that was made is a part of the history, answered never."""
        in_flight = self.in_flight
        made = super().settle(found)
        if made and in_flight is not None:
            self._note(in_flight.profile_id, in_flight.after, inf)
        return made

    @staticmethod
    def values(found: dict[str, Profile]) -> dict[str, Any]:
        """What a history is compared with. A restore gives new etags."""
        return {key: content(profile) for key, profile in found.items()}

    def begin_anew(self, found: dict[str, Profile]) -> None:
        """Takes what is there for what is known."""
        self.in_flight = None
        self.stored = {key: profile for key, profile in found.items() if self.owns(key)}
        self.history.begin_anew(self.values(self.stored))


class HistoryBatches(BatchWriter):
    """A writer of batches that keeps its history: by slot the number of the batch."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.history = History("the batches")
        self._began = 0.0

    def _write_once(self, client: service.ProfileServiceStub) -> None:
        before = self.acknowledged
        self._began = time.time()
        super()._write_once(client)
        if self.acknowledged > before:
            self._note(self._numbers.index(self._number), self._number, time.time())

    def _note(self, slot: int, number: int, answered: float) -> None:
        self.history.entries.append(Entry(self._began, answered, str(slot), number, self._sizes[slot]))

    def settle(self, found: dict[str, Profile], checks: Checks, when: str) -> None:
        """As ever; a batch in flight that was made is a part of the history, answered never."""
        in_flight = self._in_flight
        super().settle(found, checks, when)
        if in_flight and self._numbers[in_flight[0]] == in_flight[1]:
            self._note(*in_flight, inf)

    def values(self, found: dict[str, Profile], checks: Checks, when: str) -> dict[str, Any]:
        """The number of each slot's batch, which must be whole."""
        numbers = {}
        for slot, size in enumerate(self._sizes):
            of_slot = [found.get(f"{PREFIX}{slot}-{place}") for place in range(size)]
            seen = {int(profile.display_name) if profile else 0 for profile in of_slot}
            checks.equal(len(seen), 1, f"{when}: numbers of one batch")
            if max(seen):
                numbers[str(slot)] = max(seen)
        return numbers

    def begin_anew(self, found: dict[str, Profile], checks: Checks, when: str) -> None:
        """Takes what is there for what is known."""
        self._in_flight = None
        values = self.values(found, checks, when)
        self._numbers = [values.get(str(slot), 0) for slot in range(len(self._sizes))]
        self.history.begin_anew(values)


def check_moment(checks: Checks, parts: list[Part], when: str) -> None:
    """Whoever holds a write holds all that had been answered before it began."""
    latest = max((part.history.entries[part.least - 1].began for part in parts if part.least), default=0.0)
    for part in parts:
        answered = sum(entry.answered < latest for entry in part.history.entries)
        checks.that(part.most >= answered, f"{when}: {part.history.name} lacks a write that was answered before another began")
