"""Calls grpcurl, a client that knows only what server reflection tells it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any


class GrpcurlFailed(Exception):
    """grpcurl ended with an error; the text is what it printed for its user."""


def _program() -> str:
    beside_python = Path(sys.executable).parent / "grpcurl"
    found = str(beside_python) if beside_python.exists() else shutil.which("grpcurl")
    if found is None:
        raise SystemExit("there is no grpcurl; install tests/outside/requirements.txt")
    return found


def run(address: str, *arguments: str, data: dict[str, Any] | None = None) -> str:
    """Runs grpcurl in plain text mode and returns what it printed."""
    command = [_program(), "-plaintext", "-max-time", "30"]
    if data is not None:
        command += ["-d", json.dumps(data)]
    done = subprocess.run(
        [*command, address, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    if done.returncode != 0:
        raise GrpcurlFailed(done.stdout + done.stderr)
    return done.stdout


def call(address: str, method: str, **fields: Any) -> dict[str, Any]:
    """Calls a method of ProfileService with JSON fields and returns the answer, named as in the proto."""
    printed = run(address, f"profilestore.v1.ProfileService/{method}", data=fields)
    return _named_as_in_the_proto(json.loads(printed or "{}"))


def _named_as_in_the_proto(value: Any) -> Any:
    """`nextPageToken` becomes `next_page_token`: which one is printed depends on the descriptors. The keys of
    attributes are data and stay as they are."""
    if isinstance(value, list):
        return [_named_as_in_the_proto(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", key): each
        if key == "attributes"
        else _named_as_in_the_proto(each)
        for key, each in value.items()
    }
