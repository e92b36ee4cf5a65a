"""A disk that answers with errors, against the release build: EIO and ENOSPC, of syncs and of writes whole and torn.

While writers write, every sync or write of the commit log, or of sled's files, begins to fail. The store must take no more writes,
the process must end with 1 and a line that names the error, and answers must be OK or UNAVAILABLE. As long as the disk is broken it
must not open, with a line again. With the disk whole it opens, everything that was acknowledged is there, and each write that was in
flight is there wholly or not at all.

Usage: broken_disk_check.py [ROUNDS] [SEED]
"""

import errno
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from batch_oracle import BatchWriter
from checks import Checks, eventually
from kill_check import check_index
from kill_oracle import Writer
from paging import all_profiles
from preload import preloaded
from server import STOP_SECONDS, Server, ServerFailed, profiles
from whole_store import verify_by_call, verify_without_a_server

WRITERS = 6
LOAD_SECONDS = (0.05, 0.3)
# Of the files of which part of the data directory, which calls fail.
CASES = [
    ("/commit-log/", "sync"),
    ("/commit-log/", "write"),
    ("/commit-log/", "torn"),
    ("/sled/", "sync"),
    ("/sled/", "write"),
    ("/sled/", "torn"),
]
FAILED = "the store has failed; it takes no more writes and must be opened anew"


class Case:
    """One kind of error, and one server that meets it."""

    def __init__(self, checks: Checks, scratch: Path, about: str, calls: str, number: int, chance: random.Random) -> None:
        self._checks = checks
        self._chance = chance
        self._name = f"{errno.errorcode[number]} of a {calls} of {about}"
        self._said = os.strerror(number)
        self._switch = scratch / "broken"
        self._switch.unlink(missing_ok=True)
        settings = {"BROKEN_DISK": about, "BROKEN_DISK_CALLS": calls, "BROKEN_DISK_ERROR": str(number)}
        environment = preloaded(scratch, "broken_disk", BROKEN_DISK_SWITCH=str(self._switch), **settings)
        self._server = Server(environment=environment)
        seed = chance.randrange(2**32)
        self._writers = [Writer(number, seed) for number in range(WRITERS)]
        self._batches = BatchWriter(seed)
        self.in_flight: Counter[bool] = Counter()

    def run(self) -> int:
        """Load, errors, end, starts and check. Returns how many writes were acknowledged."""
        try:
            self._server.start()
            self._load_until_it_ends()
            self._start_on_the_broken_disk()
            self._switch.unlink()
            self._server.start()
            self._compare()
            self._checks.equal(self._server.stop(), 0, f"{self._name}: exit code after the restart")
            verify_without_a_server(self._checks, self._server.data_dir, self._name)
        except ServerFailed as failure:
            self._checks.that(False, f"{self._name}: {failure}")
        finally:
            self._server.__exit__(None, None, None)
        return sum(writer.acknowledged for writer in self._writers) + self._batches.acknowledged

    def _load_until_it_ends(self) -> None:
        stop = threading.Event()
        channels = [self._server.channel() for _ in range(2)]
        clients = [profiles(channel) for channel in channels]
        runs = [writer.run for writer in self._writers] + [self._batches.run]
        threads = [threading.Thread(target=run, args=(clients[place % 2], stop)) for place, run in enumerate(runs)]
        for thread in threads:
            thread.start()
        written = eventually(lambda: self._batches.acknowledged > 0 and any(each.acknowledged for each in self._writers))
        self._checks.that(written, f"{self._name}: nothing was written while the disk was whole")
        # The one thing to wait for here is time itself.
        time.sleep(self._chance.uniform(*LOAD_SECONDS))
        self._switch.touch()
        try:
            self._checks.equal(self._server.wait(STOP_SECONDS), 1, f"{self._name}: exit code")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            for channel in channels:
                channel.close()
        lines = [line for line in self._server.log().splitlines() if FAILED in line]
        self._checks.equal(len(lines), 1, f"{self._name}: lines that say that the store has failed")
        self._checks.that(all(self._said in line for line in lines), f"{self._name}: the line says why: {lines}")

    def _start_on_the_broken_disk(self) -> None:
        before = len(self._server.log())
        self._server.spawn()
        self._checks.equal(self._server.wait(STOP_SECONDS), 1, f"{self._name}: exit code of a start on the broken disk")
        said = self._server.log()[before:]
        self._checks.that(self._said in said, f"{self._name}: a start on the broken disk says why: {said[-600:]}")

    def _compare(self) -> None:
        with self._server.channel() as channel:
            client = profiles(channel)
            records = all_profiles(client, 1000)
            found = {record.id: record for record in records}
            self._batches.settle(found, self._checks, self._name)
            own = {key: value for key, value in found.items() if not self._batches.owns(key)}
            for writer in self._writers:
                made = writer.settle(own)
                self.in_flight[made is True] += made is not None
                self._checks.equal(writer.problems, [], f"{self._name}: problems of a writer")
            known = {profile_id for writer in self._writers for profile_id in writer.stored}
            self._checks.that(set(own) == known, f"{self._name}: no profile that nobody wrote")
            check_index(self._checks, client, records, 1000, self._name)
            verify_by_call(self._checks, channel, len(records), self._name)


def main() -> None:
    """Every case with every error, and the last line."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)
    checks = Checks("broken_disk_check")
    scratch = Path(tempfile.mkdtemp(prefix="profilestore-broken-"))
    acknowledged, ends, in_flight = 0, 0, Counter[bool]()
    try:
        for number in range(1, rounds + 1):
            for about, calls in CASES:
                for error in (errno.EIO, errno.ENOSPC):
                    case = Case(checks, scratch, about, calls, error, chance)
                    acknowledged += case.run()
                    in_flight += case.in_flight
                    ends += 1
            checks.section(f"{number} rounds, {checks.failed} failures")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(
        f"{ends} servers met an error of the disk; {acknowledged} acknowledged writes; "
        f"{in_flight[True]} unacknowledged ones made, {in_flight[False]} not"
    )
    checks.finish()


if __name__ == "__main__":
    main()
