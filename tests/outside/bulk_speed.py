"""How fast the command line imports and exports, and in how much memory; and whether what comes out went in.

`bulk_speed.py COUNT` makes COUNT profiles of about 400 bytes, imports and exports them. Prints rates and the
largest resident sizes. With `--bars` it fails below the rates that a machine with two cores of its own
reaches.
"""

import argparse
import hashlib
import json
import random
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from checks import Checks
from server import Server, clean_environment, release_binary

SEED = 7
IMPORT_PER_SECOND = 20_000
EXPORT_PER_SECOND = 100_000
SERVER_MIB = 1024
CLIENT_MIB = 100
NAMES = ["Ada", "Chiara", "Dmitri", "Hana", "Müller", "Okafor", "Zoë", 'Q "Quote"']


def profile(number: int, domains: int) -> dict:
    """A profile of about 400 bytes; a few domains hold most of them."""
    domain = min(int(random.paretovariate(1.05)), domains)
    sub = "mail." if domain % 3 == 0 else ""
    return {
        "id": f"user-{number:08}",
        "email": f"u{number}@{sub}company-{domain}.example",
        "displayName": f"{random.choice(NAMES)} {random.choice(NAMES)}",
        "attributes": {
            "avatar": f"https://img.example/{random.getrandbits(128):032x}.png",
            "device": f"{random.getrandbits(128):032x}",
            "homepage": f"https://people.example/{random.getrandbits(96):024x}/{number}",
            "language": random.choice(["de", "en", "fr", "ja"]),
            "session": f"{random.getrandbits(256):064x}",
            "team": f"team-{random.randrange(500)}",
            "tier": random.choice(["free", "team", "enterprise"]),
        },
    }


def make_file(path: Path, count: int) -> None:
    """Writes the profiles as the export writes them, in the order of their ids."""
    random.seed(SEED)
    domains = max(20, count // 50)
    with path.open("w") as out:
        for number in range(count):
            text = json.dumps(profile(number, domains), ensure_ascii=False, separators=(",", ":"))
            out.write(text + "\n")


def run(server: Server, *arguments: str) -> tuple[int, float, float]:
    """Runs a command. Returns its exit code, its seconds, and its largest resident size in MiB."""
    environment = clean_environment({"PROFILESTORE_ADDR": server.address})
    started = time.monotonic()
    process = subprocess.Popen(
        [str(release_binary()), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    # What wait4 tells would count this process too, which the new one was forked from.
    peak_kib, status = 0, Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        peaks = re.findall(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        peak_kib = max([peak_kib, *map(int, peaks)])
        time.sleep(0.005)
    return process.returncode, time.monotonic() - started, peak_kib / 1024


def digest(path: Path) -> str:
    """What a file holds."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


class Trip:
    """Measures commands against one server."""

    def __init__(self, checks: Checks, count: int, bars: bool) -> None:
        self._checks = checks
        self._count = count
        self._bars = bars

    def run(self, server: Server, per_second: int, *arguments: str) -> None:
        """Runs one command over all profiles."""
        what = " ".join(Path(each).name if each.startswith("/") else each for each in arguments)
        code, seconds, client_mib = run(server, *arguments)
        rate, server_mib = self._count / seconds, server.peak_mib()
        memory = f"at most {client_mib:.0f} MiB, the server {server_mib:.0f} MiB"
        self._checks.section(f"{what}: {seconds:.1f} s, {rate:,.0f}/s; {memory}")
        self._checks.equal(code, 0, f"exit code of {what}")
        self._checks.that(client_mib < CLIENT_MIB, f"{what} below {CLIENT_MIB} MiB")
        if self._bars:
            self._checks.that(rate >= per_second, f"{what} at {per_second:,}/s")
            self._checks.that(server_mib < SERVER_MIB, f"the server below {SERVER_MIB} MiB after {what}")


def main() -> None:
    """JSON lines in, out, and out as CSV; the CSV in and out as JSON lines, which are the first ones."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("count", type=int)
    arguments.add_argument("--bars", action="store_true")
    asked = arguments.parse_args()
    checks = Checks("bulk_speed")
    trip = Trip(checks, asked.count, asked.bars)
    folder = Path(tempfile.mkdtemp(prefix="profilestore-bulk-"))
    try:
        given, exported, rows = (folder / name for name in ("given.jsonl", "exported.jsonl", "exported.csv"))
        make_file(given, asked.count)
        checks.section(f"{asked.count} profiles in {given.stat().st_size / 1024**2:.0f} MiB")
        for source in (given, rows):
            with Server() as server:
                trip.run(server, IMPORT_PER_SECOND, "import", str(source))
                trip.run(server, EXPORT_PER_SECOND, "export", "--output", str(exported))
                same = digest(given) == digest(exported)
                checks.that(same, f"what is exported after {source.name} is what was given, byte for byte")
                if source == given:
                    trip.run(server, EXPORT_PER_SECOND, "export", "--output", str(rows))
                checks.equal(server.stop(), 0, "exit code after SIGTERM")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    checks.finish()


if __name__ == "__main__":
    main()
