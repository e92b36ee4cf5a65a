"""Overwrites, deletes and moved addresses for as long as is asked, on one server whose clock runs ahead so that its log is
trimmed: the disk and the memory must stay within bounds, and the store must hold what was acknowledged.

Prints figures every few seconds. sled's own files grow under such writes to many times the profiles and then stay (it
reclaims a segment only when every page in it was written anew); a run of at least two minutes asserts that they stay. A
repair behind a backup, which builds them anew, must bring them back to what is asserted of a new store.

Usage: soak.py [SECONDS] [--profiles N] [--seed SEED] [--sled-cache MIB]
"""

import argparse
import random
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import grpc

from checks import Checks
from paging import all_profiles, count
from preload import preloaded
from server import Server, clean_environment, profiles, release_binary
from stubs import Profile, admin_pb, admin_service, pb

MIB = 1024 * 1024
PRINT_SECONDS = 5.0
WRITERS = 2
BATCH = 100
DOMAINS = 200
FAST_CLOCK = "120"
# sled's files may take so much of what is stored: when they are new, and after any number of writes. The constant is for
# its segments of 2 MiB, some of which are always half full.
NEW_SLED_FACTOR = 3.0
SLED_FACTOR = 30.0
SLED_CONSTANT = 24 * MIB
# By how much they may grow in the last third of a long run.
LONG_SECONDS = 120.0
GROWTH = 1.15
# A snapshot comes when the log since the last one is longer than this and than the profiles; what is behind it goes
# in whole segments of a sixteenth.
SNAPSHOT_AFTER = 16 * MIB
KEEP_LOG = 16 * MIB
TRIMMED = "trimmed the commit log"
# How many times the seconds that were asked for it writes at most, until the log was trimmed.
MOST_TIMES = 6
# How long a snapshot takes at most, and what a write takes in the log.
SNAPSHOT_SECONDS = 10
LOGGED_BYTES = 256
# Beyond what sled's cache takes, which is several times what it counts, and the profiles in the hot cache.
MEMORY_FACTOR = 6
MEMORY_CONSTANT = 150 * MIB
HOT_CACHE = 16 * MIB


def settings(sled_cache: int) -> str:
    """A small store that makes many snapshots."""
    return f"""
[store]
sled_cache_bytes = {sled_cache}
snapshot_after_bytes = {SNAPSHOT_AFTER}
log_keep_bytes = {KEEP_LOG}
ballast_bytes = 0
[cache]
max_bytes = {HOT_CACHE}
"""


class Churner(threading.Thread):
    """Writes batches over ids of its own, and remembers what was acknowledged."""

    def __init__(self, server: Server, number: int, ids: int, seed: int) -> None:
        super().__init__()
        self._random = random.Random(f"{seed}-{number}")
        self._channel = server.channel()
        self._client = profiles(self._channel)
        self._ids = [f"soak-{number}-{index}" for index in range(ids)]
        # By id: the number of its last write.
        self.stored: dict[str, str] = {}
        self.made = {"puts": 0, "deletes": 0}
        self.failure = ""
        self._stopped = threading.Event()
        self._writes = 0

    def fill(self) -> None:
        """Writes every profile once."""
        for begin in range(0, len(self._ids), BATCH):
            self._write(self._ids[begin : begin + BATCH], deletes=0.0)

    def run(self) -> None:
        """Writes until it is told to stop."""
        while not self._stopped.is_set() and not self.failure:
            try:
                self._write(self._random.sample(self._ids, BATCH), deletes=0.1)
            except grpc.RpcError as error:
                self.failure = f"{error.code()}: {error.details()}"

    def stop(self) -> None:
        """Ends it."""
        self._stopped.set()
        self.join()
        self._channel.close()

    def _write(self, ids: list[str], deletes: float) -> None:
        writes, stored = [], {}
        for chosen in ids:
            self._writes += 1
            if chosen in self.stored and self._random.random() < deletes:
                writes.append(pb.ProfileWrite(delete=pb.DeleteProfileRequest(id=chosen)))
                continue
            stored[chosen] = str(self._writes)
            # Most writes move the address, so that index entries and counters move too; sizes differ.
            profile = Profile(
                id=chosen,
                email=f"{chosen}@d{self._random.randrange(DOMAINS)}.soak.example",
                display_name=stored[chosen],
                attributes={"filler": "x" * self._random.randrange(100, 700)},
            )
            writes.append(pb.ProfileWrite(update=pb.UpdateProfileRequest(profile=profile, allow_missing=True)))
        self._client.BatchWriteProfiles(pb.BatchWriteProfilesRequest(writes=writes), timeout=60.0)
        for chosen in ids:
            self.stored.pop(chosen, None)
        self.stored |= stored
        self.made["puts"] += len(stored)
        self.made["deletes"] += len(ids) - len(stored)


def bytes_below(folder: Path) -> int:
    """The bytes of all files, of which one may go meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            # Blocks and not lengths: a file with holes takes less than it says.
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


class Watch:
    """Figures and bounds."""

    def __init__(self, checks: Checks, server: Server, sled_cache: int) -> None:
        self._checks = checks
        self._server = server
        self._memory_bound = MEMORY_FACTOR * sled_cache + HOT_CACHE + MEMORY_CONSTANT
        self._admin = admin_service.AdminServiceStub(server.channel())
        self.largest_memory = 0
        self.largest_factor = 0.0
        self.sled = 0
        self.live = 0

    def look(self, seconds: float, written: int, assert_bounds: bool) -> None:
        """Prints a line, and checks it."""
        live = self._admin.GetStatus(admin_pb.GetStatusRequest(), timeout=30.0).live_bytes
        memory = self._server.resident_bytes()
        folder = self._server.data_dir
        sled, log, snapshots = (bytes_below(folder / name) for name in ("sled", "commit-log", "snapshots"))
        print(
            f"{seconds:6.0f} s  {written} writes; profiles {live / MIB:.1f} MiB; sled {sled / MIB:.1f} MiB "
            f"({sled / max(1, live):.2f} of them), log {log / MIB:.1f} MiB, snapshots {snapshots / MIB:.1f} MiB; "
            f"memory {memory / MIB:.0f} MiB",
            flush=True,
        )
        self.largest_memory = max(self.largest_memory, memory)
        self.sled, self.live = sled, live
        if not assert_bounds:
            return
        self.largest_factor = max(self.largest_factor, sled / max(1, live))
        bound = SLED_FACTOR * live + SLED_CONSTANT
        self._checks.that(sled <= bound, f"sled's files take {sled / MIB:.1f} MiB; the bound is {bound / MIB:.1f}")
        # What is kept, what no snapshot covers yet, and what is written while one is made; in whole segments.
        # The log goes on while a snapshot is made, which takes some seconds on purpose.
        meanwhile = SNAPSHOT_SECONDS * LOGGED_BYTES * written / max(1.0, seconds)
        bound = KEEP_LOG + 2 * max(SNAPSHOT_AFTER, live) + SNAPSHOT_AFTER + meanwhile
        self._checks.that(log <= bound, f"the log takes {log / MIB:.1f} MiB; the bound is {bound / MIB:.1f}")
        # Two while a new one is made; each has the changes that came during its scan beside the records.
        bound = 3 * live + SNAPSHOT_AFTER
        self._checks.that(snapshots <= bound, f"snapshots take {snapshots / MIB:.1f} MiB; the bound is {bound / MIB:.1f}")
        bound = self._memory_bound
        self._checks.that(memory <= bound, f"the server takes {memory / MIB:.0f} MiB; the bound is {bound / MIB:.0f}")


def check_contents(checks: Checks, server: Server, churners: list[Churner], when: str) -> None:
    """What was acknowledged last is there, and nothing else."""
    expected = {key: value for churner in churners for key, value in churner.stored.items()}
    with server.channel() as channel:
        found = {each.id: each.display_name for each in all_profiles(profiles(channel))}
        checks.equal(count(profiles(channel)), len(expected), f"{when}: the counter")
    checks.equal(len(found), len(expected), f"{when}: profiles")
    checks.that(found == expected, f"{when}: each as it was written last")


def program(server: Server, *arguments: str) -> None:
    """Runs a command of the program, which must succeed."""
    environment = clean_environment({"PROFILESTORE_ADDR": server.address})
    command = [str(release_binary()), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def soak(checks: Checks, server: Server, given: argparse.Namespace) -> None:
    """Fills, churns, looks."""
    churners = [Churner(server, number, given.profiles // WRITERS, given.seed) for number in range(WRITERS)]
    watch = Watch(checks, server, given.sled_cache * MIB)
    for churner in churners:
        churner.fill()
    watch.look(0.0, given.profiles, assert_bounds=False)
    started = time.monotonic()
    for churner in churners:
        churner.start()
    sled_before = 0
    trimmed = lambda: server.log().count(TRIMMED)  # noqa: E731
    while (seconds := time.monotonic() - started) < given.seconds or (
        # A slow disk needs longer until there is something to trim.
        seconds < MOST_TIMES * given.seconds and not trimmed()
    ):
        if seconds < given.seconds * 2 / 3:
            sled_before = watch.sled
        left = given.seconds - seconds
        time.sleep(min(PRINT_SECONDS, left) if left > 0 else PRINT_SECONDS)
        seconds = time.monotonic() - started
        written = sum(sum(churner.made.values()) for churner in churners)
        watch.look(seconds, written, assert_bounds=seconds >= given.seconds / 3)
    if given.seconds >= LONG_SECONDS:
        grown = watch.sled / sled_before
        checks.that(grown <= GROWTH, f"sled's files grew {grown:.2f} times in the last third")
    for churner in churners:
        churner.stop()
        checks.equal(churner.failure, "", "a refused write")
    check_contents(checks, server, churners, "at the end")
    made = {kind: sum(churner.made[kind] for churner in churners) for kind in churners[0].made}
    print(
        f"{made['puts']} puts and {made['deletes']} deletes over {given.profiles} ids; sled at most "
        f"{watch.largest_factor:.2f} times the profiles, memory at most {watch.largest_memory / MIB:.0f} MiB; "
        f"{server.log().count('made a snapshot')} snapshots, the log trimmed {trimmed()} times"
    )
    checks.that(trimmed() > 0, "the log was trimmed")
    server.restart_after_kill()
    check_contents(checks, server, churners, "after a kill")
    # A backup makes a snapshot, so that the repair has no churn to replay from the log.
    program(server, "backup", str(server.data_dir.parent / "soak.backup"))
    checks.equal(server.stop(), 0, "exit code after SIGTERM")
    program(server, "repair", "--data-dir", str(server.data_dir))
    sled = bytes_below(server.data_dir / "sled")
    print(f"after a repair: sled {sled / MIB:.1f} MiB ({sled / watch.live:.2f} of the profiles)")
    bound = NEW_SLED_FACTOR * watch.live + SLED_CONSTANT
    checks.that(sled <= bound, f"sled's new files take {sled / MIB:.1f} MiB; the bound is {bound / MIB:.1f}")
    server.start()
    check_contents(checks, server, churners, "after a repair")


def main() -> None:
    """One soak."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("seconds", type=float, nargs="?", default=20.0)
    arguments.add_argument("--profiles", type=int, default=20_000)
    arguments.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments.add_argument("--sled-cache", type=int, default=16, help="MiB")
    given = arguments.parse_args()
    print(f"seed {given.seed}", flush=True)
    checks = Checks("soak")
    scratch = Path(tempfile.mkdtemp(prefix="profilestore-soak-"))
    try:
        environment = preloaded(scratch, "fast_clock", FAST_CLOCK=FAST_CLOCK)
        with Server(config=settings(given.sled_cache * MIB), environment=environment) as server:
            soak(checks, server, given)
            checks.equal(server.stop(), 0, "exit code after SIGTERM")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    checks.finish()


if __name__ == "__main__":
    main()
