"""Cuts the power under load, again and again, with the oracle outside the server.

The data directory is on an ext4 image behind a loop device. For a cut the server is stopped where it is and the image
is copied: what the kernel had not been told to write is not in the copy. The copy is mounted, a second server opens
it, and everything that was acknowledged before the cut must be there.

Usage: power_check.py [CUTS] [SEED] [--control log|sled]

With --control the disk lies about the syncs of the commit log, or of sled's files, and the check succeeds only if that
loses data. Needs root and loop devices; says so and succeeds where they are missing.
"""

import argparse
import copy
import dataclasses
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from batch_oracle import BatchWriter
from checks import Checks
from kill_check import check_index
from kill_oracle import Writer, spy
from paging import all_profiles
from server import Server, ServerFailed, profiles
from stubs import Profile

WRITERS = 12
IMAGE_BYTES = 768 * 1024 * 1024
LOAD_SECONDS = (0.05, 0.5)
# A fresh image after so many cuts, so that copies stay small.
CUTS_PER_IMAGE = 60
QUIET_SECONDS = 0.05
LYING_DISK = Path(__file__).with_name("lying_disk.c")
LIES = {"log": "/commit-log/", "sled": "/sled/"}


def run(*command: str | Path) -> None:
    """Runs a command that must succeed."""
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


class Mount:
    """An ext4 image, mounted while the block runs."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._image = image
        self._folder = folder

    def __enter__(self) -> Path:
        self._folder.mkdir(exist_ok=True)
        run("mount", "-o", "loop", self._image, self._folder)
        return self._folder

    def __exit__(self, *_: object) -> None:
        run("umount", self._folder)


def mounts_work(scratch: Path) -> bool:
    """Whether this process may mount an image."""
    image = scratch / "probe.img"
    try:
        make_image(image, 16 * 1024 * 1024)
        with Mount(image, scratch / "probe"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def make_image(image: Path, size: int) -> None:
    """An empty filesystem in a sparse file."""
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(size)
    run("mkfs.ext4", "-q", image)


class Load:
    """Writers against a server, until they are ended."""

    def __init__(self, server: Server, seed: int) -> None:
        self.writers = [Writer(number, seed) for number in range(WRITERS)]
        self.batches = BatchWriter(seed)
        self._stop = threading.Event()
        self._channels = [server.channel() for _ in range(4)]
        clients = [profiles(channel) for channel in self._channels]
        runs = [(writer.run, (clients[index % 3], self._stop)) for index, writer in enumerate(self.writers)]
        runs.append((self.batches.run, (clients[3], self._stop)))
        runs.append((spy, (clients[3], self.writers, seed, self._stop)))
        self._threads = [threading.Thread(target=target, args=arguments) for target, arguments in runs]
        for thread in self._threads:
            thread.start()

    def acknowledged(self) -> int:
        """How many writes were acknowledged so far."""
        return sum(writer.acknowledged for writer in self.writers) + self.batches.acknowledged

    def known(self) -> tuple[list[Writer], BatchWriter]:
        """What is known when the server is paused: after every answer that it had sent has been read."""
        count = -1
        while count != (count := self.acknowledged()):
            # Nothing can be waited for here: that no more answers come is seen only by their not coming.
            time.sleep(QUIET_SECONDS)
        writers = []
        for writer in self.writers:
            twin = copy.copy(writer)
            twin.stored, twin.problems = dict(writer.stored), []
            in_flight = writer.in_flight
            twin.in_flight = dataclasses.replace(in_flight) if in_flight else None
            writers.append(twin)
        return writers, self.batches.twin()

    def end(self) -> None:
        """Ends the writers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for channel in self._channels:
            channel.close()


def check_copy(
    checks: Checks, folder: Path, known: tuple[list[Writer], BatchWriter], chance: random.Random, when: str
) -> int:
    """Opens what a cut left and compares it with what is known. Returns the number of profiles."""
    writers, batches = known
    with Server(data_dir=folder / "data") as server, server.channel() as channel:
        client = profiles(channel)
        records = all_profiles(client, 1000)
        found = {record.id: record for record in records}
        batches.settle(found, checks, when)
        own: dict[str, Profile] = {key: value for key, value in found.items() if not batches.owns(key)}
        for writer in writers:
            writer.settle(own)
            checks.that(not writer.problems, f"{when}: {'; '.join(writer.problems)}")
        known_ids = {profile_id for writer in writers for profile_id in writer.stored}
        checks.that(set(own) == known_ids, f"{when}: no profile that nobody wrote")
        check_index(checks, client, records, chance.choice([50, 1000]), when)
        channel.close()
        checks.equal(server.stop(), 0, f"{when}: exit code after SIGTERM")
    return len(records)


def cut_power(
    checks: Checks, cuts: int, chance: random.Random, scratch: Path, environment: dict[str, str]
) -> tuple[int, int]:
    """Cuts on one image. Returns the acknowledged writes and the profiles of the last copy."""
    image, twin = scratch / "disk.img", scratch / "copy.img"
    make_image(image, IMAGE_BYTES)
    stored = 0
    with Mount(image, scratch / "disk") as disk:
        with Server(data_dir=disk / "data", environment=environment) as server:
            load = Load(server, chance.randrange(2**32))
            try:
                for number in range(cuts):
                    # The one thing to wait for here is time itself.
                    time.sleep(chance.uniform(*LOAD_SECONDS))
                    server.pause()
                    known = load.known()
                    run("cp", "--sparse=always", image, twin)
                    server.resume()
                    with Mount(twin, scratch / "copy") as folder:
                        try:
                            stored = check_copy(checks, folder, known, chance, f"cut {number}")
                        except ServerFailed as failure:
                            checks.that(False, f"cut {number}: {failure}")
            finally:
                load.end()
            server.stop()
    return load.acknowledged(), stored


def lying_disk(scratch: Path, about: str) -> dict[str, str]:
    """The environment of a server whose disk lies about the syncs of some files."""
    library = scratch / "lying_disk.so"
    run("cc", "-shared", "-fPIC", "-O1", "-o", library, LYING_DISK, "-ldl")
    return {"LD_PRELOAD": str(library), "LYING_DISK": LIES[about]}


def main() -> None:
    """Cuts, and the last line."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("cuts", type=int, nargs="?", default=15)
    arguments.add_argument("seed", type=int, nargs="?", default=random.randrange(2**32))
    arguments.add_argument("--control", choices=LIES)
    given = arguments.parse_args()
    print(f"seed {given.seed}", flush=True)
    chance = random.Random(given.seed)
    checks = Checks("power_check" + (f" --control {given.control}" if given.control else ""))
    scratch = Path(tempfile.mkdtemp(prefix="profilestore-power-"))
    try:
        if os.geteuid() != 0 or not mounts_work(scratch):
            print("power_check: NOT RUN: it needs root and loop devices")
            return
        environment = lying_disk(scratch, given.control) if given.control else {}
        left, acknowledged, stored = given.cuts, 0, 0
        while left > 0:
            some = min(left, CUTS_PER_IMAGE)
            written, stored = cut_power(checks, some, chance, scratch, environment)
            acknowledged, left = acknowledged + written, left - some
            checks.section(f"{given.cuts - left} cuts, {acknowledged} acknowledged writes, {checks.failed} failures")
        print(f"{given.cuts} cuts of power; {acknowledged} acknowledged writes; {stored} profiles at the last")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if given.control:
        print(f"the control lost data in {checks.failed} checks" if checks.failed else "FAILED: the control lost nothing")
        sys.exit(0 if checks.failed else 1)
    checks.finish()


if __name__ == "__main__":
    main()
