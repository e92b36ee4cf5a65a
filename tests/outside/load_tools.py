"""Runs h2load and nghttp, clients that are no gRPC clients, and reads what they print."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SECONDS = 180.0
HEADERS = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
# `requests: 100 total, 100 started, 100 done, 100 succeeded, 0 failed, 0 errored, 0 timeout`
_REQUESTS = re.compile(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded")
_STATUS = re.compile(r"status codes: (\d+) 2xx")
_DATA = re.compile(r"headers \(space savings [^)]*\), [^(]*\((\d+)\) data")


@dataclass
class Load:
    """What h2load counted."""

    total: int
    done: int
    succeeded: int
    good_status: int
    data_bytes: int


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise SystemExit(f"there is no {name}; install nghttp2-client")
    return found


@contextmanager
def _body(body: bytes) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(prefix="profilestore-body-") as file:
        file.write(body)
        file.flush()
        yield file.name


def h2load(url: str, body: bytes, requests: int, clients: int, streams: int, *options: str) -> Load:
    """Makes calls over several connections, so many at a time on each."""
    with _body(body) as path:
        command = [_program("h2load"), "-n", str(requests), "-c", str(clients), "-m", str(streams), *options]
        printed = _run([*command, *HEADERS, "-d", path, url]).decode()
    counted, good, data = _REQUESTS.search(printed), _STATUS.search(printed), _DATA.search(printed)
    assert counted and good and data, f"h2load printed something else:\n{printed}"
    return Load(*(int(number) for number in counted.groups()), int(good.group(1)), int(data.group(1)))


def nghttp(url: str, body: bytes, *options: str) -> bytes:
    """Makes one call and returns the answer's body as it came."""
    with _body(body) as path:
        return _run([_program("nghttp"), *options, *HEADERS, "-d", path, url])


def _run(command: list[str]) -> bytes:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS)
    if done.returncode != 0:
        raise AssertionError(f"{Path(command[0]).name} failed: {done.stderr.decode(errors='replace')}")
    return done.stdout
