"""How large the commit groups in a log are: from the files, whose layout is in src/engine/commit_log/frame.rs."""

import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

HEADER_BYTES = 40
CHANGES_FIELD = 3
BUCKETS = ((1, 1), (2, 9), (10, 49), (50, 99), (100, 127), (128, 128))


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _changes(payload: memoryview) -> tuple[int, int]:
    """The first sequence number of a CommitGroup and how many changes it has."""
    at, first, changes = 0, 0, 0
    while at < len(payload):
        tag, at = _varint(payload, at)
        if tag & 7 == 0:
            value, at = _varint(payload, at)
            first = value if tag >> 3 == 1 else first
        else:
            length, at = _varint(payload, at)
            at += length
            changes += tag >> 3 == CHANGES_FIELD
    return first, changes


def group_sizes(commit_log: Path) -> dict[int, int]:
    """The number of changes of each whole group, by its first sequence number."""
    sizes = {}
    for path in sorted(commit_log.glob("*.log")):
        data = memoryview(path.read_bytes())
        at = HEADER_BYTES
        while at + 12 <= len(data) and bytes(data[at : at + 4]) == b"PSGF":
            length = struct.unpack("<I", data[at + 4 : at + 8])[0]
            if at + 12 + length > len(data):
                break
            first, changes = _changes(data[at + 12 : at + 12 + length])
            sizes[first] = changes
            at += 12 + length
    return sizes


def in_buckets(sizes: Iterable[int]) -> str:
    """How many groups there are of which size, for a figure's line."""
    counts: Counter[tuple[int, int]] = Counter()
    for size in sizes:
        counts[next((bucket for bucket in BUCKETS if bucket[0] <= size <= bucket[1]), (0, 0))] += 1
    names = ((f"{low}" if low == high else f"{low}-{high}", counts[low, high]) for low, high in BUCKETS)
    return ", ".join(f"{count} of {name}" for name, count in names)
